//! Durations as people write them: `10s`, `1m30s`, `250ms`, `0s`.

use std::time::Duration;

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a duration: write it as 10s, 1m30s, 250ms or 24h")]
pub struct InvalidDuration(String);

/// Whole numbers, each with its unit, of `h`, `m`, `s` and `ms`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let parse = || {
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, after) = after.split_at(letters);
            let millis = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return None,
            };
            let number: u64 = number.parse().ok()?;
            total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
            rest = after;
        }
        (!text.is_empty()).then_some(total)
    };
    parse().ok_or_else(|| InvalidDuration(text.into()))
}

/// The reverse of [`parse_duration`], in whole milliseconds: `1m30s`.
pub fn format_duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= millis {
            text += &format!("{}{unit}", left / millis);
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For fields of serde: an optional duration as people write it.
pub(crate) mod as_text {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => to.serialize_str(&format_duration(*duration)),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| parse_duration(&text)).transpose().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        let cases = [("10s", 10_000), ("1m30s", 90_000), ("250ms", 250), ("0s", 0), ("24h", 86_400_000)];
        for (text, millis) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        for bad in
            ["", "10", "s", "-1s", "1 s", "1.5s", "1d", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
