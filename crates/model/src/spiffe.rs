//! SPIFFE ids and trust domains (SPIFFE-ID specification, sections 2.1 to 2.4).

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{MeshName, ZoneName};
use crate::text::checked_text;

/// A trust domain: 1 to 255 of `a-z`, `0-9`, `.`, `-` and `_`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a trust domain: use 1 to 255 of a-z, 0-9, '.', '-' and '_'")]
pub struct InvalidTrustDomain(String);

checked_text!(TrustDomain, InvalidTrustDomain);

impl TrustDomain {
    /// The mesh and the zone whose domain this is by its name alone, `<mesh>.<zone>.mesh.local`.
    pub fn default_owner(&self) -> Option<(MeshName, ZoneName)> {
        let (mesh, zone) = self.0.strip_suffix(".mesh.local")?.split_once('.')?;
        Some((mesh.parse().ok()?, zone.parse().ok()?))
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidTrustDomain;

    fn from_str(text: &str) -> Result<Self, InvalidTrustDomain> {
        let valid = (1..=255).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if valid { Ok(Self(text.into())) } else { Err(InvalidTrustDomain(text.into())) }
    }
}

/// `spiffe://<trust domain>/<path>`, at most 2048 bytes. There is one spelling for each id: no empty,
/// `.` or `..` segments, no trailing slash, no escapes. The path is not empty.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a SPIFFE id: it looks like spiffe://default.east.mesh.local/workload/web")]
pub struct InvalidSpiffeId(String);

checked_text!(SpiffeId, InvalidSpiffeId);

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// `path` begins with a slash: without one its first segment would become part of the domain.
    pub fn new(domain: &TrustDomain, path: &str) -> Result<Self, InvalidSpiffeId> {
        let text = format!("{SCHEME}{domain}{path}");
        if path.starts_with('/') { text.parse() } else { Err(InvalidSpiffeId(text)) }
    }

    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.split().0.into())
    }

    /// The path with its leading slash.
    pub fn path(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        let rest = &self.0[SCHEME.len()..];
        rest.split_at(rest.find('/').unwrap_or(rest.len()))
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, InvalidSpiffeId> {
        let segment = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
        };
        let valid = || {
            let rest = text.strip_prefix(SCHEME)?;
            let (domain, path) = rest.split_once('/')?;
            let valid =
                text.len() <= 2048 && domain.parse::<TrustDomain>().is_ok() && path.split('/').all(segment);
            valid.then(|| Self(text.into()))
        };
        valid().ok_or_else(|| InvalidSpiffeId(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_domain_and_a_path() {
        let id: SpiffeId = "spiffe://default.east.mesh.local/ns/shop/sa/web".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "default.east.mesh.local");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        assert_eq!(SpiffeId::new(&id.trust_domain(), id.path()).as_ref(), Ok(&id));
        assert!(SpiffeId::new(&id.trust_domain(), "x.evil/ns/shop").is_err());
        assert!(SpiffeId::new(&id.trust_domain(), "").is_err());
    }

    #[test]
    fn there_is_one_spelling_for_each_id() {
        let bad = [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/./a",
            "spiffe://td/a/..",
            "SPIFFE://td/a",
            "spiffe://TD/a",
            "spiffe://td/a%2fb",
            "spiffe://td/a?b",
            "spiffe://td:80/a",
            "spiffe://u@td/a",
            "https://td/a",
            "spiffe://td/a#b",
            "spiffe://td/a\0b",
        ];
        for text in bad {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
