//! The names of things. Parsing is the only way to get one, so holding one proves it was checked.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::checked_text;

/// An RFC 1035 label: 1 to 63 of `a-z`, `0-9` and `-`, starting with a letter, not ending with `-`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a name: use 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-'")]
pub struct InvalidName(String);

checked_text!(Name, InvalidName);

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidName(text.into())) }
    }
}

/// A mesh, the unit of isolation.
pub type MeshName = Name;

/// The proxies of one workload share this name, and their SPIFFE ids end in it.
pub type WorkloadName = Name;

/// A zone: a label that is not `global`, which names the global control plane wherever an origin stands.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneName(Name);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidZoneName {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("no zone can be called 'global': that names the global control plane")]
    Global,
}

checked_text!(ZoneName, InvalidZoneName);

impl ZoneName {
    pub fn as_name(&self) -> &Name {
        &self.0
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl std::ops::Deref for ZoneName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl FromStr for ZoneName {
    type Err = InvalidZoneName;

    fn from_str(text: &str) -> Result<Self, InvalidZoneName> {
        match text.parse::<Name>()? {
            name if name.as_str() == "global" => Err(InvalidZoneName::Global),
            name => Ok(Self(name)),
        }
    }
}

/// An RFC 1123 subdomain of at most 253 characters: labels of `a-z`, `0-9` and `-`, joined by dots.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "'{0}' is not a resource name: use at most 253 of a-z, 0-9, '-' and '.', each part starting and ending with \
     a letter or digit"
)]
pub struct InvalidResourceName(String);

checked_text!(ResourceName, InvalidResourceName);

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    fn from_str(text: &str) -> Result<Self, InvalidResourceName> {
        let label = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        let valid = text.len() <= 253 && text.split('.').all(label);
        if valid { Ok(Self(text.into())) } else { Err(InvalidResourceName(text.into())) }
    }
}

impl From<Name> for ResourceName {
    /// Every RFC 1035 label is an RFC 1123 subdomain.
    fn from(name: Name) -> Self {
        Self(name.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_rfc_1035_labels() {
        let long = "a".repeat(63);
        for good in ["a", "web", "web-1", long.as_str()] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in ["", "1web", "-web", "web-", "Web", "we_b", "we.b", "wéb", too_long.as_str()] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_zone_is_called_global() {
        assert_eq!("global".parse::<ZoneName>(), Err(InvalidZoneName::Global));
        assert_eq!("east".parse::<ZoneName>().unwrap().as_str(), "east");
    }

    #[test]
    fn resource_names_are_rfc_1123_subdomains() {
        for good in ["a", "1", "all-of.kuma-system", "a.b.c"] {
            assert!(good.parse::<ResourceName>().is_ok(), "{good}");
        }
        let long = format!("{}a", "a.".repeat(127));
        for bad in ["", ".", "a.", ".a", "a..b", "-a", "a-.b", "A", long.as_str()] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }
}
