//! What identifies a document: kind, mesh, origin, namespace and name, never joined ambiguously.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{MeshName, Name, ResourceName};
use crate::text::checked_text;
use crate::version::Origin;

/// The name of a kind, known to us or not: unknown kinds are carried unchanged.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct KindName(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a kind: kinds are words such as Mesh or MeshTrafficPermission")]
pub struct InvalidKindName(String);

checked_text!(KindName, InvalidKindName);

impl FromStr for KindName {
    type Err = InvalidKindName;

    fn from_str(text: &str) -> Result<Self, InvalidKindName> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric())
            && text.starts_with(|c: char| c.is_ascii_uppercase());
        if valid { Ok(Self(text.into())) } else { Err(InvalidKindName(text.into())) }
    }
}

/// The identity of a document, the same in every store that holds a copy.
///
/// Text form: `MeshService/default/east//catalog`, that is kind, mesh (empty for kinds outside a mesh),
/// origin, namespace (empty where there are none), name. None of the parts can contain a slash.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct DocumentKey {
    pub kind: KindName,
    pub mesh: Option<MeshName>,
    pub origin: Origin,
    pub namespace: Option<Name>,
    pub name: ResourceName,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a document key: it looks like MeshService/default/east//catalog")]
pub struct InvalidDocumentKey(String);

impl fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mesh = self.mesh.as_deref().unwrap_or_default();
        let namespace = self.namespace.as_deref().unwrap_or_default();
        write!(f, "{}/{mesh}/{}/{namespace}/{}", self.kind, self.origin, self.name)
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DocumentKey {
    type Err = InvalidDocumentKey;

    fn from_str(text: &str) -> Result<Self, InvalidDocumentKey> {
        let parse = || {
            let mut parts = text.split('/');
            let mut next = || parts.next();
            let (kind, mesh, origin, namespace, name) = (next()?, next()?, next()?, next()?, next()?);
            let key = Self {
                kind: kind.parse().ok()?,
                mesh: optional(mesh)?,
                origin: origin.parse().ok()?,
                namespace: optional(namespace)?,
                name: name.parse().ok()?,
            };
            parts.next().is_none().then_some(key)
        };
        parse().ok_or_else(|| InvalidDocumentKey(text.into()))
    }
}

/// Empty is absent; anything else must parse.
fn optional(text: &str) -> Option<Option<Name>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

impl TryFrom<String> for DocumentKey {
    type Error = InvalidDocumentKey;

    fn try_from(text: String) -> Result<Self, InvalidDocumentKey> {
        text.parse()
    }
}

impl From<DocumentKey> for String {
    fn from(key: DocumentKey) -> String {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_round_trip_as_text(
            kind in "[A-Z][A-Za-z]{0,20}",
            mesh in proptest::option::of("[a-z][a-z0-9]{0,8}"),
            zone in proptest::option::of("z[a-z0-9]{0,8}"),
            namespace in proptest::option::of("[a-z][a-z0-9]{0,8}"),
            name in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8})?",
        ) {
            let key = DocumentKey {
                kind: kind.parse().unwrap(),
                mesh: mesh.map(|mesh| mesh.parse().unwrap()),
                origin: zone.map_or(Origin::Global, |zone| Origin::Zone(zone.parse().unwrap())),
                namespace: namespace.map(|namespace| namespace.parse().unwrap()),
                name: name.parse().unwrap(),
            };
            prop_assert_eq!(key.to_string().parse::<DocumentKey>(), Ok(key));
        }
    }
}
