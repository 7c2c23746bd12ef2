//! What is counted.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::zones::Zones;

#[derive(Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) zones_connected: Gauge,
    pub(crate) documents_refused: Counter,
    pub(crate) documents_refused_by_zones: Counter,
    pub(crate) exports_ignored: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { zones_connected, documents_refused, documents_refused_by_zones, exports_ignored } =
            metrics.clone();
        let group = registry.sub_registry_with_prefix("tombolo_global");
        group.register("zones_connected", "Zones with a session", zones_connected);
        group.register("documents_refused", "Documents of zones that were refused", documents_refused);
        group.register(
            "documents_refused_by_zones",
            "Documents that zones refused",
            documents_refused_by_zones,
        );
        group.register(
            "exports_ignored",
            "Signals of zones that spoke for others, or of nothing that is known",
            exports_ignored,
        );
        metrics
    }
}

/// How long ago each zone was heard of: read at each scrape, since it changes by itself.
pub(crate) struct ZoneAges(pub(crate) Zones);

impl Collector for ZoneAges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("tombolo_global_zone_age_seconds", "Since a zone was last heard of");
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (zone, age) in self.0.ages() {
            ages.encode_family(&[("zone", zone.as_str())])?.encode_gauge(&age.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Debug for ZoneAges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ages of zones")
    }
}
