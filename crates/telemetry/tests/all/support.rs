//! A web in the east that calls a catalog in the west.

use std::time::Duration;

use model::{Protocol, SpiffeId};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use telemetry::metrics::Called;
use telemetry::{Direction, Labels, Telemetry, Unit, Who};
use tokio::time;

pub(crate) fn web_calls_catalog(unit: Unit) -> Labels {
    Labels {
        unit,
        direction: Direction::Outbound,
        protocol: Some(if unit == Unit::Request { Protocol::Http } else { Protocol::Tcp }),
        source: Who::Known(workload("web")),
        source_zone: Some("east".parse().unwrap()),
        destination: Who::Known(Called::Service("ms_default_west__catalog_http".parse().unwrap())),
        destination_zone: Some("west".parse().unwrap()),
    }
}

pub(crate) fn workload(name: &str) -> SpiffeId {
    format!("spiffe://default.east.mesh.local/workload/{name}").parse().unwrap()
}

pub(crate) fn scrape(telemetry: &Telemetry) -> String {
    let mut registry = Registry::default();
    telemetry.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// The value of the only line that begins like this.
pub(crate) fn value(text: &str, begins: &str) -> u64 {
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(begins)).collect();
    let [line] = lines[..] else { panic!("{begins}: {lines:?} in {text}") };
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    let tried = async {
        while !holds() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(Duration::from_secs(20), tried).await.expect("it holds within the limit");
}
