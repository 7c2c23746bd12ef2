//! What both control planes count, under the same names.
//!
//! | metric | |
//! |---|---|
//! | `tombolo_store_operation_seconds{operation}` | how long callers of the store waited: `read`, or `write` until it is durable |
//! | `tombolo_propagation_seconds` | from the commit of a document here until every proxy that is heard of, of every zone that this control plane answers for, said that it enforces it; sampled: one document at a time is followed |
//! | `tombolo_propagations_with_unknown_total` | those of them at whose end somebody was not heard of, who may run anything; they are timed to a quarter |
//! | `tombolo_propagations_overdue_total` | documents that were followed, and late somewhere for a minute, or refused |
//! | `tombolo_sync_sessions{peers}` | open now, with `zones`, `proxies` (and ingresses) or the `global` |
//! | `tombolo_sync_batches_total{peers,direction}` | `sent` and acknowledged, or `received` and in force |
//! | `tombolo_sync_refused_total{peers,direction}` | documents and parts that a peer did not take, or that were not taken from it |
//! | `tombolo_origin_age_seconds{origin}` | since another control plane was last heard of, as its documents say it |
//! | `tombolo_origin_frozen{origin}` | 1 while that age stands still, since whoever tells it is not heard itself; else 0 |
//! | `tombolo_certificate_end_timestamp_seconds{of}` | when what this control plane serves or signs with ends, and `membership`: a zone's certificate at its global; in seconds since 1970 |

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::Proof;
use api::revisions::LONGEST_WAIT;
use api::shapes::{Heard, Progress};
use model::{Origin, Version};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use store::{Error, Operation, Store};
use sync::Counters;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// What is counted of the store and of what is written into it.
#[derive(Clone)]
pub struct Metrics {
    operations: Family<StoreOperation, Histogram, fn() -> Histogram>,
    propagation: Histogram,
    with_unknown: Counter,
    overdue: Counter,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StoreOperation {
    operation: &'static str,
}

/// Seconds, around what a disk takes.
const OPERATION_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Seconds, around what is promised.
const PROPAGATION_BUCKETS: [f64; 14] =
    [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// After so long it is looked for the first time whether anybody is late who is heard of.
const FIRST_LOOK: Duration = Duration::from_millis(20);

/// Between two revisions that are followed: what is written all the time need not be proven all the time.
const PAUSE: Duration = Duration::from_secs(1);

impl Metrics {
    pub fn register(registry: &mut Registry, store: &dyn Store) -> Self {
        let metrics = Self {
            operations: Family::new_with_constructor(|| Histogram::new(OPERATION_BUCKETS)),
            propagation: Histogram::new(PROPAGATION_BUCKETS),
            with_unknown: Counter::default(),
            overdue: Counter::default(),
        };
        let Self { operations, propagation, with_unknown, overdue } = metrics.clone();
        let observed = operations.clone();
        store.observe(Arc::new(move |operation, took| {
            let operation = match operation {
                Operation::Read => "read",
                Operation::Write => "write",
            };
            observed.get_or_create(&StoreOperation { operation }).observe(took.as_secs_f64());
        }));
        let group = registry.sub_registry_with_prefix("tombolo");
        group.register_with_unit(
            "store_operation",
            "How long callers of the store waited",
            Unit::Seconds,
            operations,
        );
        group.register_with_unit(
            "propagation",
            "From the commit of a document until every proxy that is heard of enforces it; sampled, one at a time",
            Unit::Seconds,
            propagation,
        );
        group.register(
            "propagations_with_unknown",
            "Those of the propagations at whose end somebody was not heard of, who may run anything",
            with_unknown,
        );
        group.register(
            "propagations_overdue",
            "Documents that were followed, and refused or late somewhere for a minute",
            overdue,
        );
        metrics
    }

    /// Follows the newest own revision, one at a time, from its commit until it is enforced everywhere.
    pub async fn follow(
        self,
        store: Arc<dyn Store>,
        proof: Arc<dyn Proof>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let following = async {
            loop {
                match next_revision(&*store).await {
                    Ok((version, committed)) => self.time(&*proof, version, committed).await,
                    Err(Error::Closed) => return,
                    Err(error) => debug!(%error, "a revision was missed"),
                }
                time::sleep(PAUSE).await;
            }
        };
        let _ = stop.run_until_cancelled(following).await;
        stop.cancelled().await;
        Ok(())
    }

    async fn time(&self, proof: &dyn Proof, version: Version, committed: Instant) {
        loop {
            // Whoever waits for everybody is told at once; while somebody is not heard of it is looked from time to time.
            let (passed, start) = (committed.elapsed(), Instant::now());
            let wait = (passed / 4).max(FIRST_LOOK).min(LONGEST_WAIT.saturating_sub(passed));
            // Its epoch is over.
            let Ok(state) = proof.revision(version.clone(), wait).await else { return };
            let is_applied = state.state == Progress::Applied;
            if is_applied || state.is_applied_but_for_unknown() {
                self.propagation.observe(committed.elapsed().as_secs_f64());
                self.with_unknown.inc_by(u64::from(!is_applied));
                return;
            }
            if state.state == Progress::Refused || committed.elapsed() >= LONGEST_WAIT {
                self.overdue.inc();
                return;
            }
            // Who would say the same for ever says so at once.
            time::sleep_until(start + wait).await;
        }
    }
}

/// The next document that is written here, and when that was committed.
async fn next_revision(store: &dyn Store) -> Result<(Version, Instant), Error> {
    let head = store.head().await?;
    let mut watch = store.watch(head.sequence);
    let mut point = head.point;
    loop {
        let commit = watch.next().await?;
        let committed = Instant::now();
        let own = commit.world.point(&head.origin).unwrap_or(point);
        if own.revision != point.revision {
            return Ok((Version { origin: head.origin, point: own }, committed));
        }
        point = own;
    }
}

/// Shows how the sessions with some sort of peers are.
pub fn show_sessions(
    registry: &mut Registry,
    sessions: impl IntoIterator<Item = (&'static str, Arc<Counters>)>,
) {
    registry.register_collector(Box::new(Sessions(sessions.into_iter().collect())));
}

struct Sessions(Vec<(&'static str, Arc<Counters>)>);

impl Collector for Sessions {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("tombolo_sync_sessions", "Sessions that are open");
        let mut sessions = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (peers, counters) in &self.0 {
            let open = i64::try_from(counters.sessions()).unwrap_or(i64::MAX);
            sessions.encode_family(&[("peers", *peers)])?.encode_gauge(&open)?;
        }
        let (name, help) = ("tombolo_sync_batches", "Batches that were acknowledged");
        self.both(&mut encoder, name, help, Counters::batches_sent, Counters::batches_received)?;
        let (name, help) = ("tombolo_sync_refused", "Documents and parts that were not taken");
        self.both(&mut encoder, name, help, Counters::refused_by_peers, Counters::refused)
    }
}

impl Sessions {
    fn both(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        sent: fn(&Counters) -> u64,
        received: fn(&Counters) -> u64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (peers, counters) in &self.0 {
            for (direction, count) in [("sent", sent(counters)), ("received", received(counters))] {
                let labels = [("peers", *peers), ("direction", direction)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sessions")
    }
}

/// Shows how others are heard; `everyone` is asked at each scrape, since ages change by themselves.
pub fn show_ages(
    registry: &mut Registry,
    everyone: impl Fn() -> Vec<(Origin, Heard)> + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Ages(everyone)));
}

struct Ages<F>(F);

impl<F: Fn() -> Vec<(Origin, Heard)> + Send + Sync + 'static> Collector for Ages<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let everyone: Vec<(String, Heard)> =
            (self.0)().into_iter().map(|(origin, heard)| (origin.to_string(), heard)).collect();
        let (name, help) = ("tombolo_origin_age_seconds", "Since another control plane was last heard of");
        let mut ages = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (origin, heard) in &everyone {
            let Some(age) = heard.age_ms else { continue };
            let age = Duration::from_millis(age).as_secs_f64();
            ages.encode_family(&[("origin", origin.as_str())])?.encode_gauge(&age)?;
        }
        let (name, help) =
            ("tombolo_origin_frozen", "Whether that age stands still, since whoever tells it is not heard");
        let mut frozen = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (origin, heard) in &everyone {
            let is_frozen = i64::from(heard.is_frozen);
            frozen.encode_family(&[("origin", origin.as_str())])?.encode_gauge(&is_frozen)?;
        }
        Ok(())
    }
}

impl<F> fmt::Debug for Ages<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ages of others")
    }
}

/// What ends when, by what it is: `server certificate`, `authority of default.east.mesh.local`.
pub type Ends = Vec<(String, SystemTime)>;

/// Shows when certificates end; `ends` is asked at each scrape.
pub fn show_ends(registry: &mut Registry, ends: impl Fn() -> Ends + Send + Sync + 'static) {
    registry.register_collector(Box::new(Certificates(ends)));
}

struct Certificates<F>(F);

impl<F: Fn() -> Ends + Send + Sync + 'static> Collector for Certificates<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) =
            ("tombolo_certificate_end_timestamp_seconds", "When it ends, in seconds since 1970");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, end) in (self.0)() {
            let end = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            family.encode_family(&[("of", of.as_str())])?.encode_gauge(&end)?;
        }
        Ok(())
    }
}

impl<F> fmt::Debug for Certificates<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ends of certificates")
    }
}

#[cfg(test)]
mod tests {
    use api::NoSuchRevision;
    use api::shapes::{ProxyCounts, RevisionState, ZoneProgress, ZoneState};
    use futures::future::BoxFuture;

    use super::*;
    use crate::presence;

    /// A zone with one proxy that is late for a while, and one that is never heard of.
    struct Zone {
        /// Until when one is late.
        late: Instant,
        unknown: u64,
        is_refused: bool,
    }

    impl Proof for Zone {
        fn revision(
            &self,
            revision: Version,
            wait: Duration,
        ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
            Box::pin(async move {
                let end = Instant::now() + wait;
                time::sleep_until(if self.unknown > 0 { end } else { end.min(self.late) }).await;
                let late = u64::from(Instant::now() < self.late);
                let (state, progress) = match () {
                    () if self.is_refused => (ZoneState::Refused, Progress::Refused),
                    () if late + self.unknown == 0 => (ZoneState::Applied, Progress::Applied),
                    () => (ZoneState::Pending, Progress::Pending),
                };
                let proxies = ProxyCounts { current: 1 - late, late, unknown: self.unknown };
                let zones = vec![ZoneProgress { name: "east".parse().unwrap(), state, proxies }];
                let (late, refusals) = (Vec::new(), Vec::new());
                Ok(RevisionState { revision, state: progress, zones, late, refusals })
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_is_not_heard_of_keeps_no_propagation_from_being_timed() {
        for (why, late, unknown, is_refused, want) in [
            ("all are heard of", 100, 0, false, (1, 0, 0, 0.1..0.1001)),
            ("one is not", 100, 1, false, (1, 1, 0, 0.1..0.126)),
            ("nor later", 8_000, 1, false, (1, 1, 0, 8.0..10.01)),
            ("one is late for a minute", 70_000, 0, false, (0, 0, 1, 0.0..0.001)),
            (
                "one is late for a minute, and another is not heard of",
                70_000,
                1,
                false,
                (0, 0, 1, 0.0..0.001),
            ),
            ("it is refused", 0, 0, true, (0, 0, 1, 0.0..0.001)),
        ] {
            let mut registry = Registry::default();
            let store = store::MemoryStore::new(Origin::Global);
            let metrics = Metrics::register(&mut registry, &*store);
            let late = Instant::now() + Duration::from_millis(late);
            let zone = Zone { late, unknown, is_refused };
            metrics.time(&zone, "global-1-1".parse().unwrap(), Instant::now()).await;
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let of = |name: &str| -> f64 {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
            };
            let (timed, with_unknown, overdue, took) = want;
            let found = [
                "propagation_seconds_count",
                "propagations_with_unknown_total",
                "propagations_overdue_total",
            ]
            .map(|name| of(&format!("tombolo_{name}")) as u64);
            assert_eq!(found, [timed, with_unknown, overdue], "{why}");
            let sum = of("tombolo_propagation_seconds_sum");
            assert!(took.contains(&sum), "{why}: {sum}");
        }
    }

    #[test]
    fn an_age_that_stands_still_is_shown_so_and_does_not_grow() {
        let (start, west) = (Instant::now(), Origin::Zone("west".parse().unwrap()));
        let mut ages = presence::Ages::new(Vec::new(), start);
        ages.heartbeat(&[(west, Duration::from_secs(3))], start);
        let page = |seconds| {
            let (ages, mut registry) = (ages.clone(), Registry::default());
            show_ages(&mut registry, move || ages.everyone(start + Duration::from_secs(seconds)));
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let of = |name: &str, origin: &str| {
                let series = format!("{name}{{origin=\"{origin}\"}} ");
                text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok())
            };
            let shown =
                |origin| of("tombolo_origin_age_seconds", origin).zip(of("tombolo_origin_frozen", origin));
            (shown("global"), shown("west"))
        };
        assert_eq!(page(1), (Some((1.0, 0.0)), Some((4.0, 0.0))));
        assert_eq!(page(60), (Some((60.0, 0.0)), Some((4.0, 1.0))));
    }
}
