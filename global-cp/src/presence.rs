//! Decides how well a zone is heard.

use std::time::Duration;

use api::shapes::Connection;

/// Silent for this long: stale.
pub const STALE: Duration = Duration::from_secs(5);
/// Silent for this long: offline.
pub const OFFLINE: Duration = Duration::from_secs(30);

/// `age` is the time since the zone was last heard of, in this session or one before.
pub fn connection(age: Option<Duration>, has_session: bool) -> Connection {
    match age {
        Some(age) if age < STALE && has_session => Connection::Connected,
        Some(age) if age < OFFLINE => Connection::Stale,
        _ => Connection::Offline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_makes_a_zone_stale_and_then_offline() {
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
}
