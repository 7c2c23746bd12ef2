//! What is counted.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

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
