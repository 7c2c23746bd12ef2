//! Decides when to ask for what was due while there was nobody to ask.

use std::time::Duration;

/// Over how long those spread who waited for the same control plane.
const LONGEST: Duration = Duration::from_secs(60);

/// How long to wait after the control plane is back, so that not all who waited for it ask together. `left` is what is
/// left of the life of what is held, of which a tenth may be lost; `dice` in `0.0..1.0` is each one's own.
pub fn spread(left: Duration, dice: f64) -> Duration {
    (left / 10).min(LONGEST).mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_time_waits_for_a_minute_at_most_and_whoever_has_none_asks_at_once() {
        let hour = Duration::from_secs(3600);
        for (left, dice, want) in
            [(hour, 1.0, 60), (hour, 0.5, 30), (hour, 0.0, 0), (hour / 60, 1.0, 6), (Duration::ZERO, 1.0, 0)]
        {
            assert_eq!(spread(left, dice), Duration::from_secs(want), "{left:?} {dice}");
        }
    }
}
