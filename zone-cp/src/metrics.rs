//! What is counted.

use api::shapes::ProxyCounts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Where a proxy stands with the newest configuration: `current`, `late` or `unknown`.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Standing {
    standing: &'static str,
}

#[derive(Clone, Default)]
pub struct Metrics {
    proxies: Family<Standing, Gauge>,
    destinations_left_out: Gauge,
    pub registrations_refused: Counter,
    pub certificates_issued: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { proxies, destinations_left_out, registrations_refused, certificates_issued } =
            metrics.clone();
        let group = registry.sub_registry_with_prefix("tombolo_zone");
        group.register("proxies", "Proxies by where they stand with the newest configuration", proxies);
        group.register(
            "destinations_left_out",
            "Destinations of other zones that are used here and too many to ask the global for",
            destinations_left_out,
        );
        group.register(
            "registrations_refused",
            "Dataplanes and ingresses that said of themselves what they may not",
            registrations_refused,
        );
        group.register("certificates_issued", "Workload certificates", certificates_issued);
        metrics
    }

    /// Also how many destinations the zone does not ask for.
    pub fn count(&self, counts: ProxyCounts, left_out: usize) {
        self.destinations_left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
        let ProxyCounts { current, late, unknown } = counts;
        for (standing, count) in [("current", current), ("late", late), ("unknown", unknown)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.proxies.get_or_create(&Standing { standing }).set(count);
        }
    }
}
