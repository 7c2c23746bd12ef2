//! The times of certificates and tokens, and what is said where a clock does not agree with them.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::certificate::Validity;

/// What is shown does not count at the time that it is here. Who was given it just now has a clock that is wrong, or
/// the one who gave it has.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "it counts from {} to {}, and here it is {}: compare the clocks",
    utc(.validity.not_before), utc(.validity.not_after), utc(*.now)
)]
pub struct OutOfTime {
    pub validity: Validity,
    pub now: SystemTime,
}

/// A time of day for people, to the second and in UTC: `2026-11-21T15:49:47Z`.
pub fn utc(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    // Only a year beyond 9999 has no such text.
    time.truncate_to_second().format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn both_times_are_told_in_utc_to_the_second() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_millis(1_795_362_586_999 + 1000 * seconds);
        let validity = Validity { not_before: at(0), not_after: at(3600) };
        let told = OutOfTime { validity, now: at(4000) }.to_string();
        assert_eq!(
            told,
            "it counts from 2026-11-22T15:49:46Z to 2026-11-22T16:49:46Z, and here it is 2026-11-22T16:56:26Z: \
             compare the clocks"
        );
    }
}
