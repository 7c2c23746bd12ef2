//! Decides which service gets a request that was sent to another.
//!
//! Rules stand in the order in which they were merged: the first with a match decides. The outbound asks once
//! for each request.

use std::collections::BTreeMap;

use model::DestinationId;
use serde::{Deserialize, Serialize};

use crate::path;

/// What becomes of the requests that one of the matches covers.
///
/// A reader refuses fields that it does not know, here and below: a match with a condition less covers what it
/// should not.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRule {
    /// Without any, every request is covered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RouteMatch>,
    /// One of them gets the request. Without any that has weight, it is answered with 500.
    pub backends: Vec<Backend>,
}

/// Covers the requests for which everything that is given holds.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// As it is sent: `GET`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The whole value of each of these headers. One that came several times is one, joined by `, `
    /// (RFC 9110 section 5.3).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Exact(PlainPath),
    /// Whole segments: `/pay` covers `/pay`, `/pay/` and `/pay/in`, and not `/payments`. `/` covers every path.
    Prefix(PlainPath),
}

/// A path in the form in which paths are compared.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct PlainPath(String);

/// A destination, and how often it is chosen in comparison with the others.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    pub destination: DestinationId,
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// What is looked at of a request.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a, H> {
    /// In the form in which paths are compared ([`path::plain`]).
    pub path: &'a str,
    pub method: &'a str,
    /// All values of a header, in order.
    pub header: H,
}

/// The first rule that covers a request.
pub fn deciding<'a, 'v, H, V>(rules: &'a [RouteRule], asked: &Asked<'_, H>) -> Option<&'a RouteRule>
where
    H: Fn(&str) -> V,
    V: Iterator<Item = &'v [u8]>,
{
    rules.iter().find(|rule| rule.matches.is_empty() || rule.matches.iter().any(|one| one.covers(asked)))
}

/// One of the backends by their weight; `roll` gives a number below the one that it is given. None where none
/// has weight.
pub fn pick(backends: &[Backend], roll: impl FnOnce(u64) -> u64) -> Option<&Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = roll(total);
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let is_it = left < weight;
        left = left.saturating_sub(weight);
        is_it
    })
}

impl RouteMatch {
    fn covers<'v, H, V>(&self, asked: &Asked<'_, H>) -> bool
    where
        H: Fn(&str) -> V,
        V: Iterator<Item = &'v [u8]>,
    {
        let Self { path, method, headers } = self;
        path.as_ref().is_none_or(|path| path.covers(asked.path))
            && method.as_ref().is_none_or(|method| method == asked.method)
            && headers.iter().all(|(name, want)| is(want.as_bytes(), (asked.header)(name)))
    }
}

impl PathMatch {
    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Exact(PlainPath(want)) => path == want,
            Self::Prefix(PlainPath(want)) => path
                .strip_prefix(want.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// Whether a header has this value. One that did not come has none, not even an empty one.
fn is<'v>(want: &[u8], mut values: impl Iterator<Item = &'v [u8]>) -> bool {
    let Some(first) = values.next() else { return false };
    let rest = want.strip_prefix(first);
    values.try_fold(rest, |rest, value| Some(rest?.strip_prefix(b", ")?.strip_prefix(value))).flatten()
        == Some(&[][..])
}

impl TryFrom<String> for PlainPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match path::plain(&text) {
            Ok(plain) if plain == text => Ok(Self(text)),
            Ok(plain) => Err(format!("'{text}' never comes in this form: write '{plain}'")),
            Err(_) => Err(format!("'{text}' is no path, or one that is read in several ways")),
        }
    }
}

impl From<PlainPath> for String {
    fn from(PlainPath(text): PlainPath) -> String {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    /// The position of the rule that decides.
    fn decided(rules: &Value, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<usize> {
        let rules: Vec<RouteRule> = from_value(rules.clone()).unwrap();
        let header = |name: &str| {
            let values: Vec<&[u8]> =
                headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| value.as_bytes()).collect();
            values.into_iter()
        };
        let deciding = deciding(&rules, &Asked { path, method, header })?;
        rules.iter().position(|rule| std::ptr::eq(rule, deciding))
    }

    #[test]
    fn the_first_rule_with_a_match_decides() {
        let rules = json!([
            {"matches": [{"path": {"exact": "/a"}}, {"path": {"prefix": "/b"}}], "backends": []},
            {"matches": [{"path": {"prefix": "/a"}, "method": "POST"}], "backends": []},
            {"matches": [{"headers": {"x-beta": "yes", "x-team": "a, b"}}], "backends": []},
            {"matches": [{"path": {"prefix": "/a/b"}}], "backends": []},
        ]);
        let beta = [("x-beta", "yes"), ("x-team", "a"), ("x-team", "b")];
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Option<usize>);
        let cases: &[Case<'_>] = &[
            ("GET", "/a", &[], Some(0)),
            ("GET", "/a/", &[], None),
            ("GET", "/b", &[], Some(0)),
            ("GET", "/b/", &[], Some(0)),
            ("GET", "/b/c", &[], Some(0)),
            ("GET", "/bc", &[], None),
            ("POST", "/a", &[], Some(0)),
            ("POST", "/a/c", &[], Some(1)),
            ("post", "/a/c", &[], None),
            ("GET", "/a/b", &beta, Some(2)),
            ("GET", "/a/b", &beta[..2], Some(3)),
            ("GET", "/", &[("x-beta", "yes"), ("x-team", "a, b")], Some(2)),
            ("GET", "/", &[("x-beta", "Yes"), ("x-team", "a, b")], None),
            ("GET", "/", &[("x-beta", "yes"), ("x-team", "a, b, c")], None),
            ("GET", "/", &[], None),
        ];
        for (method, path, headers, want) in cases {
            assert_eq!(decided(&rules, method, path, headers), *want, "{method} {path} {headers:?}");
        }
        let everything = json!([{"matches": [{"path": {"prefix": "/"}}], "backends": []}]);
        for path in ["/", "/a", "/a/b/"] {
            assert_eq!(decided(&everything, "GET", path, &[]), Some(0), "{path}");
        }
        assert_eq!(decided(&json!([{"backends": []}]), "OPTIONS", "/", &[]), Some(0));
        assert_eq!(
            decided(&json!([{"matches": [{"headers": {"x": ""}}], "backends": []}]), "GET", "/", &[]),
            None
        );
    }

    #[test]
    fn backends_get_their_share() {
        let backend = |name: &str, weight: u32| json!({"destination": format!("ms_default_west__{name}_80"), "weight": weight});
        let backends: Vec<Backend> =
            from_value(json!([backend("a", 2), backend("none", 0), backend("b", 1)])).unwrap();
        let picked = |number| {
            pick(&backends, |total| {
                assert_eq!(total, 3);
                number
            })
        };
        let names: Vec<String> =
            (0..3).map(|number| picked(number).unwrap().destination.service.to_string()).collect();
        assert_eq!(names, ["a", "a", "b"]);
        assert_eq!(pick(&backends[1..2], |_| 0), None);
        assert_eq!(pick(&[], |_| 0), None);
    }

    #[test]
    fn a_rule_that_cannot_be_understood_in_full_is_refused() {
        let rule = |one: Value| from_value::<RouteRule>(json!({"matches": [one], "backends": []}));
        assert!(rule(json!({"path": {"prefix": "/a"}})).is_ok());
        for bad in [
            json!({"path": {"prefix": "a"}}),
            json!({"path": {"prefix": "/a/../b"}}),
            json!({"path": {"exact": "/%61"}}),
            json!({"path": {"regularExpression": "/.*"}}),
            json!({"queryParams": []}),
        ] {
            assert!(rule(bad.clone()).is_err(), "{bad}");
        }
        assert!(from_value::<RouteRule>(json!({"backends": [], "filters": []})).is_err());
    }
}
