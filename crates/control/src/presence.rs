//! Decides how well others are heard: by how long ago they last said anything, to this process or the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::shapes::{Connection, Heard};
use model::Origin;
use runtime::Clock;
use store::{SecretBytes, Store};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Silent for this long: stale.
pub const STALE: Duration = Duration::from_secs(5);
/// Silent for this long: offline.
pub const OFFLINE: Duration = Duration::from_secs(30);
/// A peer says something at least this often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// `age` is the time since a peer was last heard of, in this session or one before.
pub fn connection(age: Option<Duration>, has_session: bool) -> Connection {
    match age {
        Some(age) if age < STALE && has_session => Connection::Connected,
        Some(age) if age < OFFLINE => Connection::Stale,
        _ => Connection::Offline,
    }
}

/// How the API tells it.
pub fn heard(age: Option<Duration>, has_session: bool) -> Heard {
    let age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    Heard { state: connection(age, has_session), age_ms, is_frozen: false }
}

/// A moment that is over, also one from before this process began.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    at: Instant,
    before: Duration,
}

impl Past {
    pub fn now() -> Self {
        Self::ago(Duration::ZERO)
    }

    pub fn ago(age: Duration) -> Self {
        Self { at: Instant::now(), before: age }
    }

    pub fn elapsed(&self) -> Duration {
        self.at.elapsed() + self.before
    }
}

/// Where it is kept when others were last heard of, in seconds since 1970.
const LAST_HEARD: &str = "last-heard";
/// How often. What a crash takes makes an age by so much longer.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// How long ago others were heard of, as the process before this one kept it. What cannot be read is as if they never
/// were.
pub async fn last_heard(store: &dyn Store, now: SystemTime) -> Result<Vec<(Origin, Duration)>, store::Error> {
    let Some(kept) = store.secret_get(LAST_HEARD).await? else { return Ok(Vec::new()) };
    let kept: BTreeMap<Origin, u64> = serde_json::from_slice(kept.expose()).unwrap_or_else(|error| {
        warn!(%error, "when others were last heard of cannot be read");
        BTreeMap::new()
    });
    // Whoever was heard of in the future was heard of by another clock.
    let age = |at| now.duration_since(UNIX_EPOCH + Duration::from_secs(at)).unwrap_or_default();
    Ok(kept.into_iter().map(|(origin, at)| (origin, age(at))).collect())
}

/// Keeps for the next start what `ages` says, from time to time and at the end.
pub async fn keep(
    store: Arc<dyn Store>,
    clock: Clock,
    ages: impl Fn() -> Vec<(Origin, Duration)>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut kept = BTreeMap::new();
    loop {
        let _ = time::timeout(KEPT_EVERY, stop.cancelled()).await;
        let now = clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = |(origin, age)| (origin, now.saturating_sub(age).as_secs());
        let heard: BTreeMap<Origin, u64> = ages().into_iter().map(at).collect();
        if heard != kept {
            let bytes = serde_json::to_vec(&heard).expect("its keys are text");
            match store.secret_put(LAST_HEARD, SecretBytes::from(bytes)).await {
                Ok(()) => kept = heard,
                Err(error) => warn!(%error, "when others were last heard of cannot be kept; trying again"),
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// What a zone knows of how the global and the other zones are heard: by the heartbeats of the global, which
/// tell how long ago it heard of each.
#[derive(Clone, Debug)]
pub struct Ages {
    /// Since when nothing came from the global, and whether that was in this process.
    last: Instant,
    is_heard: bool,
    told: BTreeMap<Origin, Duration>,
}

impl Ages {
    /// With what the process before this one kept.
    pub fn new(kept: Vec<(Origin, Duration)>, now: Instant) -> Self {
        Self { last: now, is_heard: false, told: kept.into_iter().collect() }
    }

    /// How long ago everyone was last heard of that was, to be kept: also what [`Self::heard`] says is frozen grows here,
    /// so that the moment stays the same.
    pub fn all(&self, now: Instant) -> Vec<(Origin, Duration)> {
        let silent = now.saturating_duration_since(self.last);
        let others = self.told.iter().map(|(origin, age)| (origin.clone(), *age + silent));
        others.chain(self.is_heard.then_some((Origin::Global, silent))).collect()
    }

    /// As [`Self::heard`] says it, of everyone of whom anything is known.
    pub fn everyone(&self, now: Instant) -> Vec<(Origin, Heard)> {
        let origins = self.told.keys().cloned().chain([Origin::Global]).collect::<BTreeSet<_>>();
        origins.into_iter().filter_map(|origin| Some((origin.clone(), self.heard(&origin, now)?))).collect()
    }

    pub fn heartbeat(&mut self, ages: &[(Origin, Duration)], now: Instant) {
        (self.last, self.is_heard) = (now, true);
        self.told = ages.iter().cloned().collect();
    }

    /// None of whom nothing was said. While nothing comes from the global, the ages of the others stand still:
    /// its silence says nothing of them.
    pub fn heard(&self, origin: &Origin, now: Instant) -> Option<Heard> {
        let silent = now.saturating_duration_since(self.last);
        if !self.is_heard {
            // The time in which this process was not there counts as well.
            let is_frozen = *origin != Origin::Global;
            let age = *self.told.get(origin)? + if is_frozen { Duration::ZERO } else { silent };
            return Some(Heard { is_frozen, ..heard(Some(age), false) });
        }
        if *origin == Origin::Global {
            return Some(heard(Some(silent), true));
        }
        let age = *self.told.get(origin)? + silent.min(HEARTBEAT);
        Some(Heard { is_frozen: silent >= STALE, ..heard(Some(age), true) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_a_peer_stale_and_then_offline() {
        let cases = [
            (None, true, Connection::Offline),
            (None, false, Connection::Offline),
            (Some(0), true, Connection::Connected),
            (Some(4), true, Connection::Connected),
            (Some(5), true, Connection::Stale),
            (Some(29), true, Connection::Stale),
            (Some(30), true, Connection::Offline),
            (Some(0), false, Connection::Stale),
            (Some(30), false, Connection::Offline),
        ];
        for (age, has_session, want) in cases {
            let found = connection(age.map(Duration::from_secs), has_session);
            assert_eq!(found, want, "{age:?} {has_session}");
        }
    }

    #[test]
    fn the_ages_of_others_stand_still_while_the_global_is_silent() {
        use Connection::{Connected, Offline, Stale};
        let (start, west) = (Instant::now(), Origin::Zone("west".parse().unwrap()));
        let mut ages = Ages::new(Vec::new(), start);
        assert_eq!(ages.heard(&Origin::Global, start), None);
        ages.heartbeat(&[(west.clone(), Duration::from_secs(3))], start);
        for (seconds, origin, want) in [
            (0, &west, (Connected, Some(3_000), false)),
            (1, &west, (Connected, Some(4_000), false)),
            (4, &west, (Connected, Some(4_000), false)),
            (60, &west, (Connected, Some(4_000), true)),
            (4, &Origin::Global, (Connected, Some(4_000), false)),
            (5, &Origin::Global, (Stale, Some(5_000), false)),
            (60, &Origin::Global, (Offline, Some(60_000), false)),
        ] {
            let found = ages.heard(origin, start + Duration::from_secs(seconds)).unwrap();
            assert_eq!((found.state, found.age_ms, found.is_frozen), want, "{origin} after {seconds} s");
        }
        assert_eq!(ages.heard(&Origin::Zone("north".parse().unwrap()), start), None);
        ages.heartbeat(&[(west.clone(), Duration::from_secs(40))], start + Duration::from_secs(61));
        let found = ages.heard(&west, start + Duration::from_secs(61)).unwrap();
        assert_eq!((found.state, found.is_frozen), (Offline, false));
    }

    #[tokio::test(start_paused = true)]
    async fn ages_go_on_over_a_restart_and_are_frozen_until_the_global_is_heard() {
        let (global, west) = (Origin::Global, Origin::Zone("west".parse().unwrap()));
        let store = store::MemoryStore::new("east".parse().unwrap());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert_eq!(last_heard(&*store, now).await.unwrap(), []);
        let stop = CancellationToken::new();
        stop.cancel();
        let ages = vec![(global.clone(), Duration::from_secs(2)), (west.clone(), Duration::from_secs(40))];
        keep(store.clone(), Clock::new(move || now), || ages.clone(), stop).await.unwrap();

        let kept = last_heard(&*store, now + Duration::from_secs(100)).await.unwrap();
        let start = Instant::now();
        let mut ages = Ages::new(kept, start);
        let after = |ages: &Ages, origin: &Origin, seconds| {
            let found = ages.heard(origin, start + Duration::from_secs(seconds)).unwrap();
            (found.age_ms.unwrap() / 1_000, found.is_frozen, found.state)
        };
        assert_eq!(after(&ages, &global, 5), (107, false, Connection::Offline));
        for seconds in [0, 5] {
            assert_eq!(after(&ages, &west, seconds), (140, true, Connection::Offline), "it stands still");
        }
        let kept = ages.all(start + Duration::from_secs(5));
        assert_eq!(
            kept[1],
            (west.clone(), Duration::from_secs(145)),
            "for the next start it is as old as it is"
        );
        ages.heartbeat(&[(west.clone(), Duration::from_secs(1))], start);
        assert_eq!(after(&ages, &west, 0), (1, false, Connection::Connected));

        store.secret_put(LAST_HEARD, SecretBytes::from(b"{".to_vec())).await.unwrap();
        assert_eq!(last_heard(&*store, now).await.unwrap(), []);
    }
}
