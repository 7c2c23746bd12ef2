use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use telemetry::{About, AccessLog, Flag, Labels, Settings, Telemetry, Unit, Who};
use tokio_util::sync::CancellationToken;

use crate::support::{scrape, value, web_calls_catalog};

fn to(path: &Path) -> Settings {
    Settings { access_log: AccessLog::File(path.into()), tracing: None }
}

#[tokio::test]
async fn each_request_is_one_line_of_json_and_the_last_is_written_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (telemetry, outlets) = Telemetry::new(&to(&path), "web").unwrap();
    let recorder = telemetry.worker();
    let series = recorder.series(web_calls_catalog(Unit::Request));
    for number in 0..3_000 {
        let mut record = recorder.begin(&series, || About {
            method: Some("GET".into()),
            path: Some(format!("/items/{number}\"\n")),
            authority: Some("catalog".into()),
            ..About::default()
        });
        record.reached(([192, 0, 2, 1], 10001).into());
        record.failed(Flag::UpstreamReset);
        record.answered(502);
    }
    let stop = CancellationToken::new();
    stop.cancel();
    outlets.run(stop).await.unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3_000);
    let last = &lines[2_999];
    for (field, want) in [
        ("event", "request".into()),
        ("direction", "outbound".into()),
        ("source", "spiffe://default.east.mesh.local/workload/web".into()),
        ("source_zone", "east".into()),
        ("destination", "ms_default_west__catalog_http".into()),
        ("destination_zone", "west".into()),
        ("method", "GET".into()),
        ("authority", "catalog".into()),
        ("path", "/items/2999\"\n".into()),
        ("status", Value::from(502)),
        ("result", "5xx".into()),
        ("flag", "upstream-reset".into()),
        ("endpoint", "192.0.2.1:10001".into()),
        ("trace", Value::Null),
    ] {
        assert_eq!(last[field], want, "{field}");
    }
    assert!(last["duration_ms"].is_number() && last["at"].is_string(), "{last}");
}

#[tokio::test]
async fn s14_absent_and_odd_names_are_still_one_line_of_json_each() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (telemetry, outlets) = Telemetry::new(&to(&path), "web").unwrap();
    let recorder = telemetry.worker();
    let nobody = Labels {
        protocol: None,
        source: Who::Unknown,
        source_zone: None,
        destination: Who::Unknown,
        destination_zone: None,
        ..web_calls_catalog(Unit::Request)
    };
    let series = recorder.series(nobody);
    let odd = ["", "\0", "%s%n{}", "a\r\nb", "\u{2028}\u{fffd}\u{1f980}", "\"}{\"", &"x".repeat(60_000)];
    for text in odd {
        let text = Some(text.to_owned());
        let (method, path, authority) = (text.clone(), text.clone(), text);
        recorder.begin(&series, || About { method, path, authority, ..About::default() }).ended();
    }
    recorder.begin(&series, About::default).ended();
    let stop = CancellationToken::new();
    stop.cancel();
    outlets.run(stop).await.unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), odd.len() + 1);
    for (line, text) in lines.iter().zip(odd) {
        assert_eq!(line["authority"], text);
        assert_eq!(line["source"], Value::Null);
    }
    assert_eq!(lines[odd.len()]["authority"], Value::Null);
}

#[tokio::test]
async fn a_log_that_is_not_written_costs_lines_that_are_counted_and_never_time() {
    let folder = tempfile::tempdir().unwrap();
    let (telemetry, outlets) = Telemetry::new(&to(&folder.path().join("access.log")), "web").unwrap();
    let recorder = telemetry.worker();
    let series = recorder.series(web_calls_catalog(Unit::Connection));
    let start = Instant::now();
    for _ in 0..20_000 {
        recorder.begin(&series, About::default).ended();
    }
    // Nobody writes: whoever waited for that would wait for ever.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(value(&scrape(&telemetry), "tombolo_access_log_dropped_total"), 20_000 - 16_384);
    drop(outlets);
}

#[test]
fn while_all_is_off_nobody_asks_what_a_request_was_about() {
    let recorder = Telemetry::default().worker();
    let series = recorder.series(web_calls_catalog(Unit::Request));
    let record = recorder.begin(&series, || panic!("asked"));
    assert!(record.context().is_none());
}
