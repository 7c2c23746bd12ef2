//! Decides how long a control plane that started says nothing about proxies that are not back.
//!
//! Until then its planner, other zones and their ingresses keep what they had, though for the proof such a proxy is
//! unknown. It is over when nobody came back for a while, and at the latest when nobody can be on the way any more.

use std::time::Duration;

use tokio::time::Instant;

/// From when the listener accepts: for so long at least.
pub const SHORTEST: Duration = Duration::from_secs(10);
/// And for so long at most, whoever still comes.
pub const LONGEST: Duration = Duration::from_secs(60);
/// After so long without anybody who came back, nobody more is on the way: a peer dials again after 3 s at most.
pub const PAUSE: Duration = Duration::from_secs(5);

/// When it is over, as far as it is known; `last` is when somebody came back last.
pub fn ends(start: Instant, last: Option<Instant>) -> Instant {
    let nobody_more = last.map_or(start, |last| last + PAUSE);
    nobody_more.clamp(start + SHORTEST, start + LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_ten_seconds_or_until_nobody_came_for_five_and_no_longer_than_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (last, want) in [
            (None, 10),
            (Some(0), 10),
            (Some(5), 10),
            (Some(6), 11),
            (Some(30), 35),
            (Some(55), 60),
            (Some(59), 60),
        ] {
            assert_eq!(ends(start, last.map(at)), at(want), "{last:?}");
        }
    }
}
