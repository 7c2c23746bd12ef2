use std::sync::Arc;
use std::thread;

use model::Protocol;
use telemetry::metrics::Called;
use telemetry::{About, Direction, Flag, Labels, Record, Telemetry, Unit, Who};

use crate::support::{scrape, value, web_calls_catalog, workload};

#[test]
fn a_scrape_sums_the_workers_and_tells_who_called_whom_and_how_it_ended() {
    let telemetry = Telemetry::default();
    let workers = [1, 2].map(|number| {
        let recorder = telemetry.worker();
        thread::spawn(move || {
            let series = recorder.series(web_calls_catalog(Unit::Request));
            for _ in 0..10 * number {
                let mut record = recorder.begin(&series, About::default);
                record.answered(204);
                record.ended();
            }
            let mut record = recorder.begin(&series, About::default);
            record.failed(Flag::ConnectTimeout);
            record.failed(Flag::NoEndpoint);
            record.answered(503);
            let tcp = recorder.series(web_calls_catalog(Unit::Connection));
            let mut record = recorder.begin(&tcp, About::default);
            record.moved(10, 1000);
            record.ended();
        })
    });
    workers.into_iter().for_each(|worker| worker.join().unwrap());

    let text = scrape(&telemetry);
    let who = "direction=\"outbound\",protocol=\"http\",\
               source=\"spiffe://default.east.mesh.local/workload/web\",source_zone=\"east\",\
               destination=\"ms_default_west__catalog_http\",destination_zone=\"west\"";
    let tcp = who.replace("\"http\"", "\"tcp\"");
    for (begins, want) in [
        (format!("tombolo_requests_total{{{who},result=\"2xx\"}}"), 30),
        (format!("tombolo_requests_total{{{who},result=\"5xx\",flag=\"connect-timeout\"}}"), 2),
        (format!("tombolo_request_duration_seconds_count{{{who}}}"), 32),
        (format!("tombolo_request_duration_seconds_bucket{{le=\"+Inf\",{who}}}"), 32),
        (format!("tombolo_connections_total{{{tcp},result=\"ended\"}}"), 2),
        (format!("tombolo_connection_duration_seconds_count{{{tcp}}}"), 2),
        (format!("tombolo_sent_bytes_total{{{tcp}}}"), 20),
        (format!("tombolo_received_bytes_total{{{tcp}}}"), 2000),
    ] {
        assert_eq!(value(&text, &begins), want, "{begins} in {text}");
    }
}

#[test]
fn what_ends_without_a_word_was_left_by_its_caller() {
    type Happens = fn(&mut Record);
    let cases: [(&str, Happens, &str); 6] = [
        ("orderly", |record| record.ended(), "result=\"ended\"}"),
        ("left", |_| {}, "result=\"broken\",flag=\"downstream-gone\"}"),
        (
            "left after the answer's head",
            |record| record.answered(200),
            "result=\"2xx\",flag=\"downstream-gone\"}",
        ),
        ("failed", |record| record.failed(Flag::Denied), "result=\"broken\",flag=\"denied\"}"),
        (
            "failed and told so",
            |record| {
                record.failed(Flag::Denied);
                record.answered(403);
                record.ended();
            },
            "result=\"4xx\",flag=\"denied\"}",
        ),
        (
            "a status that is none",
            |record| {
                record.answered(999);
                record.ended();
            },
            "result=\"5xx\"}",
        ),
    ];
    for (why, happens, want) in cases {
        let telemetry = Telemetry::default();
        let recorder = telemetry.worker();
        let series = recorder.series(web_calls_catalog(Unit::Request));
        happens(&mut recorder.begin(&series, About::default));
        let text = scrape(&telemetry);
        let ends: Vec<&str> =
            text.lines().filter(|line| line.starts_with("tombolo_requests_total")).collect();
        assert_eq!(ends.len(), 1, "{why}: {text}");
        assert!(ends[0].contains(want), "{why}: {text}");
    }
}

#[test]
fn callers_without_number_cost_a_bounded_number_of_series_and_sums_never_fall() {
    let telemetry = Telemetry::default();
    let recorder = telemetry.worker();
    let called_by = |number: usize| Labels {
        unit: Unit::Request,
        direction: Direction::Inbound,
        protocol: Some(Protocol::Http),
        source: Who::Known(workload(&format!("w{number}"))),
        source_zone: None,
        destination: Who::Known(Called::Inbound { workload: workload("catalog"), inbound: 8080 }),
        destination_zone: None,
    };
    let mut held = Vec::new();
    for number in 0..5_000 {
        let series = recorder.series(called_by(number));
        let mut record = recorder.begin(&series, About::default);
        record.answered(200);
        record.ended();
        drop(record);
        if number < 100 {
            held.push(series);
        }
    }
    let text = scrape(&telemetry);
    let counts = text.lines().filter(|line| line.starts_with("tombolo_requests_total"));
    let counts: Vec<u64> = counts.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(counts.len() <= 1_001, "{} series", counts.len());
    assert_eq!(counts.iter().sum::<u64>(), 5_000);
    assert!(text.contains("source=\"other\",destination=\"other\""));
    // Who is connected keeps its own.
    assert!(Arc::ptr_eq(&held[7], &recorder.series(called_by(7))));
    assert!(value(&text, "tombolo_series_forgotten_total") > 3_000);
}

#[test]
fn where_all_are_held_the_rest_shares_one_series() {
    let recorder = Telemetry::default().worker();
    let called_by = |number: usize| Labels {
        source: Who::Known(workload(&format!("w{number}"))),
        ..web_calls_catalog(Unit::Request)
    };
    let held: Vec<_> = (0..2_000).map(|number| recorder.series(called_by(number))).collect();
    assert!(Arc::ptr_eq(&held[1_998], &held[1_999]));
    assert!(!Arc::ptr_eq(&held[0], &held[1]));
}
