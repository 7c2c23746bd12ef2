//! Spans of time as people write them: `250ms`, `5s`, `1m30s`, `24h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time in whole milliseconds, read from and shown as text.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a span of time: it looks like 250ms, 5s, 1m30s or 24h")]
pub struct InvalidSpan(String);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        let parse = || {
            let mut rest = text;
            let mut total: u64 = 0;
            let mut largest = u64::MAX;
            while !rest.is_empty() {
                let digits = rest.find(|c: char| !c.is_ascii_digit())?;
                let (number, after) = rest.split_at(digits);
                let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
                let (unit, after) = after.split_at(letters);
                let millis = UNITS.iter().find(|(name, _)| *name == unit)?.1;
                // From large to small, each once: anything else is likely a slip.
                if millis >= largest {
                    return None;
                }
                total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
                (largest, rest) = (millis, after);
            }
            (!text.is_empty()).then(|| Self(Duration::from_millis(total)))
        };
        parse().ok_or_else(|| InvalidSpan(text.into()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        // Days are read, but shown as hours: 24h is how people say it.
        for (unit, millis) in UNITS.into_iter().skip(1) {
            if left >= millis {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Span {
    type Error = InvalidSpan;

    fn try_from(text: String) -> Result<Self, InvalidSpan> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_shown() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
            ("2d12h", 216_000_000),
            ("1h500ms", 3_600_500),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string().parse(), Ok(span), "{text}");
        }
        for bad in ["", "5", "s", "-5s", "5 s", "5x", "1s1m", "1s1s", "1.5s", "99999999999999999999s", "９s"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
