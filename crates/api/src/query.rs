//! Query parameters, as strict as documents: what is not known, or stands twice, is a mistake.

use std::fmt::Display;
use std::str::FromStr;

use http::Uri;

use crate::shapes::Problem;

/// The parameters of one request, in order.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// `known` are the parameters of the route; one that ends in `[` stands for all that begin so.
    pub(crate) fn of(uri: &Uri, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name, true), decode(value, true)) else {
                return Err(Problem::invalid_request("?", format!("'{pair}' is not percent-encoded text")));
            };
            let is_known = known
                .iter()
                .any(|known| if known.ends_with('[') { name.starts_with(known) } else { name == *known });
            if !is_known {
                let reason = match known {
                    [] => "no parameters are known here".to_owned(),
                    known => format!("is not known here; known are {}", known.join(", ")),
                };
                return Err(Problem::invalid_request(&format!("?{name}"), reason));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Whether a parameter stands there, before it is known which others may.
    pub(crate) fn has(uri: &Uri, name: &str) -> bool {
        let pairs = uri.query().unwrap_or_default().split('&');
        pairs.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name)).any(|found| found == name)
    }

    /// A parameter that stands once or not at all.
    pub(crate) fn one<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: FromStr<Err: Display>,
    {
        let mut values = self.all(name);
        let value = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid_request(&format!("?{name}"), "stands more than once"));
        }
        let parse = |value: &str| {
            value.parse().map_err(|error| Problem::invalid_request(&format!("?{name}"), format!("{error}")))
        };
        value.map(parse).transpose()
    }

    /// Whether a switch is on: `?dryRun`, `?dryRun=true`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.one::<String>(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(Problem::invalid_request(&format!("?{name}"), "must be true or false")),
        }
    }

    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Undoes percent-encoding; nothing if it is not that, or not UTF-8. In queries `+` is a space.
pub(crate) fn decode(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let (high, low) = (rest.next()?, rest.next()?);
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
            }
            b'+' if plus => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_known_and_stand_once() {
        let known = ["size", "filter["];
        let query = |text: &str| Query::of(&format!("/x?{text}").parse().unwrap(), &known);
        assert_eq!(query("size=5").unwrap().one::<u16>("size").unwrap(), Some(5));
        assert_eq!(query("").unwrap().one::<u16>("size").unwrap(), None);
        let filter = query("filter%5Blabels.a%2Fb%5D=c+d").unwrap();
        assert_eq!(filter.iter().collect::<Vec<_>>(), [("filter[labels.a/b]", "c d")]);
        for bad in ["seize=5", "size%ZZ=5", "filter=1", "size=%ff"] {
            assert!(query(bad).is_err(), "{bad}");
        }
        for bad in ["size=5&size=6", "size=-1", "size=x", "size=", "size=70000"] {
            assert!(query(bad).unwrap().one::<u16>("size").is_err(), "{bad}");
        }
    }
}
