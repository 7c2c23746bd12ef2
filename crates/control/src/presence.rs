//! Decides how well others are heard: by how long ago they last said anything.

use std::collections::BTreeMap;
use std::time::Duration;

use api::shapes::{Connection, Heard};
use model::Origin;
use tokio::time::Instant;

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

/// What a zone knows of how the global and the other zones are heard: by the heartbeats of the global, which
/// tell how long ago it heard of each.
#[derive(Clone, Debug, Default)]
pub struct Ages {
    last: Option<Instant>,
    told: BTreeMap<Origin, Duration>,
}

impl Ages {
    pub fn heartbeat(&mut self, ages: &[(Origin, Duration)], now: Instant) {
        self.last = Some(now);
        self.told = ages.iter().cloned().collect();
    }

    /// None of whom nothing was said. While nothing comes from the global, the ages of the others stand still:
    /// its silence says nothing of them.
    pub fn heard(&self, origin: &Origin, now: Instant) -> Option<Heard> {
        let silent = now.saturating_duration_since(self.last?);
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
        let mut ages = Ages::default();
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
}
