//! What the proxies tell of requests and connections: metrics, access logs, and the trace that runs through.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::Value;
use telemetry::{AccessLog, Outlets, Settings, Telemetry, TraceContext, Tracing};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::apps::{open, read_to_end, send};
use super::host;
use super::zones::{CATALOG, Setup, WEB, Zones};

/// The telemetry of the three proxies.
pub(super) struct Told {
    pub(super) east: Telemetry,
    pub(super) ingress: Telemetry,
    pub(super) west: Telemetry,
    folder: PathBuf,
    outlets: Vec<Outlets>,
}

impl Told {
    pub(super) fn start(folder: &Path, told: bool) -> Self {
        let mut outlets = Vec::new();
        let mut telemetry = |name: &str| {
            // Nobody collects; the trace runs through all the same.
            let tracing = Tracing { endpoint: "http://127.0.0.1:9".into(), sampling: 1.0 };
            let log = AccessLog::File(folder.join(name));
            let settings = Settings { access_log: log, tracing: Some(tracing).filter(|_| name != "ingress") };
            let settings = if told { settings } else { Settings::default() };
            let (telemetry, outlet) = Telemetry::new(&settings, name).unwrap();
            outlets.push(outlet);
            telemetry
        };
        let [east, ingress, west] = ["east", "ingress", "west"].map(&mut telemetry);
        Self { east, ingress, west, folder: folder.into(), outlets }
    }

    /// The lines of all three.
    async fn lines(&mut self) -> [Vec<Value>; 3] {
        let stop = CancellationToken::new();
        stop.cancel();
        for outlet in self.outlets.drain(..) {
            outlet.run(stop.clone()).await.unwrap();
        }
        ["east", "ingress", "west"].map(|name| {
            let text = std::fs::read_to_string(self.folder.join(name)).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        })
    }
}

/// Waits until a scrape has a line with all of these, and returns its value.
async fn counted(telemetry: &Telemetry, metric: &str, labels: &[&str]) -> f64 {
    let mut text = String::new();
    let found = async {
        loop {
            let mut registry = Registry::default();
            telemetry.register(&mut registry);
            text.clear();
            encode(&mut text, &registry).unwrap();
            let mut lines = text.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
            if let Some(line) = lines.find(|line| labels.iter().all(|label| line.contains(label))) {
                return line.rsplit(' ').next().unwrap().parse().unwrap();
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(Duration::from_secs(10), found).await.unwrap_or_else(|_| panic!("{metric} {labels:?}"))
}

const TO_CATALOG: [&str; 5] = [
    "direction=\"outbound\"",
    "source=\"spiffe://default.east.mesh.local/workload/web\"",
    "source_zone=\"east\"",
    "destination_zone=\"west\"",
    "protocol=\"http\"",
];
const FROM_WEB: [&str; 6] = [
    "direction=\"inbound\"",
    "source=\"spiffe://default.east.mesh.local/workload/web\"",
    "source_zone=\"east\"",
    "destination=\"spiffe://default.west.mesh.local/workload/catalog\"",
    "inbound=\"8080\"",
    "destination_zone=\"west\"",
];

#[tokio::test]
async fn each_side_counts_who_called_whom_and_how_it_ended() {
    let zones = Zones::start(Setup { workers: 2, ..Setup::default() }).await;
    for _ in 0..3 {
        assert_eq!(zones.get("/").await.status, StatusCode::OK);
    }
    zones.allow(&[]).await;
    assert_eq!(zones.get("/").await.status, StatusCode::FORBIDDEN);

    let Zones { telemetry, .. } = &zones;
    let requests = "tombolo_requests_total";
    let ok = |who: &[&'static str]| [who, &["result=\"2xx\""]].concat();
    assert_eq!(counted(&telemetry.east, requests, &ok(&TO_CATALOG)).await, 3.0);
    assert_eq!(counted(&telemetry.west, requests, &ok(&FROM_WEB)).await, 3.0);
    let denied = [&FROM_WEB[..], &["result=\"4xx\",flag=\"denied\""]].concat();
    assert_eq!(counted(&telemetry.west, requests, &denied).await, 1.0);
    // The caller's proxy only knows that it was answered.
    let answered = [&TO_CATALOG[..], &["result=\"4xx\"}"]].concat();
    assert_eq!(counted(&telemetry.east, requests, &answered).await, 1.0);
    let seconds = "tombolo_request_duration_seconds_count";
    assert_eq!(counted(&telemetry.east, seconds, &TO_CATALOG).await, 4.0);
    zones.stop().await;
}

#[tokio::test]
async fn opaque_connections_are_counted_with_their_bytes_on_all_three_proxies() {
    let zones = Zones::start(Setup::default()).await;
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_to_end(&mut stream).await.unwrap().starts_with(b"hello"));

    let Zones { telemetry, .. } = &zones;
    let ended =
        ["protocol=\"tcp\"", "source=\"spiffe://default.east.mesh.local/workload/web\"", "result=\"ended\""];
    for side in [&telemetry.east, &telemetry.west] {
        assert_eq!(counted(side, "tombolo_connections_total", &ended).await, 1.0);
        assert_eq!(counted(side, "tombolo_sent_bytes_total", &ended[..2]).await, 5.0);
    }
    let relayed = ["direction=\"relay\"", "result=\"ended\""];
    assert_eq!(counted(&telemetry.ingress, "tombolo_connections_total", &relayed).await, 1.0);
    assert!(counted(&telemetry.ingress, "tombolo_sent_bytes_total", &relayed[..1]).await > 5.0);

    let mut unknown = TcpStream::connect(zones.ingress.bound()).await.unwrap();
    unknown.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(read_to_end(&mut unknown).await.is_err());
    let refused = ["direction=\"relay\"", "result=\"broken\",flag=\"bad-opening\""];
    assert_eq!(counted(&telemetry.ingress, "tombolo_connections_total", &refused).await, 1.0);
    zones.stop().await;
}

#[tokio::test]
async fn what_fails_says_why_on_each_side() {
    let refused = Setup { application: false, ..Setup::default() };
    let wrong = Setup { expected: "spiffe://default.west.mesh.local/workload/cart", ..Setup::default() };
    let cases = [(refused, "refused", Some("application-unreachable")), (wrong, "wrong-identity", None)];
    for (setup, east, west) in cases {
        let zones = Zones::start(setup).await;
        assert_eq!(zones.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
        let requests = "tombolo_requests_total";
        let flag = format!("result=\"5xx\",flag=\"{east}\"");
        counted(&zones.telemetry.east, requests, &["direction=\"outbound\"", &flag]).await;
        if let Some(west) = west {
            let flag = format!("result=\"broken\",flag=\"{west}\"");
            counted(&zones.telemetry.west, requests, &[&FROM_WEB[..], &[&flag]].concat()).await;
        }
        zones.stop().await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_is_told_from_a_request_that_ended() {
    let zones = Zones::start(Setup::default()).await;
    let body = open(zones.http, "/events").await;
    drop(body);
    let left = [&TO_CATALOG[..], &["result=\"2xx\",flag=\"downstream-gone\""]].concat();
    assert_eq!(counted(&zones.telemetry.east, "tombolo_requests_total", &left).await, 1.0);
    zones.stop().await;
}

#[tokio::test]
async fn a_trace_runs_from_the_caller_through_both_sidecars_to_the_application() {
    let mut zones = Zones::start(Setup { told: true, ..Setup::default() }).await;
    let caller = TraceContext { trace: 0xabc, span: 0xdef, sampled: true };
    let mut headers: HeaderMap = host();
    headers.insert("traceparent", caller.to_string().parse().unwrap());
    headers.insert("tracestate", "vendor=1".parse().unwrap());
    let answer = send(zones.http, "GET", "/items?secret=1", headers, Vec::new()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = zones.app.requests()[0].headers.clone();
    let at_application = TraceContext::parse(seen["traceparent"].as_bytes()).unwrap();
    assert_eq!((at_application.trace, at_application.sampled), (0xabc, true));
    assert_eq!(seen["tracestate"], "vendor=1");

    // A caller that speaks of no trace, or of none that can be, begins one.
    let mut headers: HeaderMap = host();
    headers.insert("traceparent", "00-what".parse().unwrap());
    headers.insert("tracestate", "vendor=1".parse().unwrap());
    send(zones.http, "GET", "/", headers, Vec::new()).await;
    let seen = zones.app.requests()[1].headers.clone();
    assert!(TraceContext::parse(seen["traceparent"].as_bytes()).unwrap().trace != 0xabc);
    assert!(!seen.contains_key("tracestate"));

    for side in [&zones.telemetry.east, &zones.telemetry.west] {
        while counted(side, "tombolo_requests_total", &["result=\"2xx\""]).await < 2.0 {
            time::sleep(Duration::from_millis(10)).await;
        }
    }
    let [east, ingress, west] = zones.telemetry.lines().await;
    assert_eq!((east.len(), west.len()), (2, 2));
    let hex = |id: u64| format!("{id:016x}");
    for (line, direction) in [(&east[0], "outbound"), (&west[0], "inbound")] {
        assert_eq!(line["trace"], format!("{:032x}", 0xabc), "{line}");
        assert_eq!((&line["direction"], &line["source"]), (&direction.into(), &WEB.into()), "{line}");
        assert_eq!((&line["path"], &line["status"]), (&"/items".into(), &200.into()), "{line}");
    }
    assert_eq!(west[0]["destination"], CATALOG);
    assert_eq!(west[0]["span"], hex(at_application.span));
    assert_ne!(east[0]["span"], west[0]["span"]);
    assert_eq!(east[0]["authority"], west[0]["authority"]);
    assert!(ingress.iter().all(|line| line["direction"] == "relay"), "{ingress:?}");
    zones.stop().await;
}
