//! Labels, in one spelling of their keys, and the selectors that choose by them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::text::checked_text;

pub const DISPLAY_NAME: &str = "tombolo.io/display-name";
pub const MESH: &str = "tombolo.io/mesh";
pub const ORIGIN: &str = "tombolo.io/origin";
pub const ZONE: &str = "tombolo.io/zone";
pub const ENV: &str = "tombolo.io/env";
pub const POLICY_ROLE: &str = "tombolo.io/policy-role";
pub const WORKLOAD: &str = "tombolo.io/workload";
pub const EFFECT: &str = "tombolo.io/effect";
pub const MANAGED_BY: &str = "tombolo.io/managed-by";
pub const NAMESPACE: &str = "k8s.tombolo.io/namespace";
pub const SERVICE_ACCOUNT: &str = "k8s.tombolo.io/service-account";

/// A label's key by Kubernetes' syntax, `[prefix/]name`. Kuma's prefixes are read as ours, so that the
/// same key is found by either: `kuma.io/zone` *is* `tombolo.io/zone` here. Documents keep what was written.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelKey(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "'{0}' is not a label key: use [prefix/]name, the name 1 to 63 of letters, digits, '-', '_' and '.', starting and \
     ending with a letter or digit, the prefix a DNS name"
)]
pub struct InvalidLabelKey(String);

checked_text!(LabelKey, InvalidLabelKey);

impl FromStr for LabelKey {
    type Err = InvalidLabelKey;

    fn from_str(text: &str) -> Result<Self, InvalidLabelKey> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        let prefix_is_valid = prefix.is_none_or(|prefix| prefix.parse::<crate::ResourceName>().is_ok());
        if !prefix_is_valid || name.is_empty() || !is_word(name) {
            return Err(InvalidLabelKey(text.into()));
        }
        Ok(Self(match prefix {
            Some("kuma.io") => format!("tombolo.io/{name}").into(),
            Some("k8s.kuma.io") => format!("k8s.tombolo.io/{name}").into(),
            _ => text.into(),
        }))
    }
}

/// A label's value by Kubernetes' syntax; may be empty.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelValue(Arc<str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "'{0}' is not a label value: use at most 63 of letters, digits, '-', '_' and '.', starting and ending with a \
     letter or digit"
)]
pub struct InvalidLabelValue(String);

checked_text!(LabelValue, InvalidLabelValue);

impl FromStr for LabelValue {
    type Err = InvalidLabelValue;

    fn from_str(text: &str) -> Result<Self, InvalidLabelValue> {
        if is_word(text) { Ok(Self(text.into())) } else { Err(InvalidLabelValue(text.into())) }
    }
}

fn is_word(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && edge(bytes.first())
        && edge(bytes.last())
}

/// The labels of a document or a proxy, or those that a selector asks for.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<LabelKey, LabelValue>);

impl Labels {
    /// By either spelling of the key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let key: LabelKey = key.parse().ok()?;
        self.0.get(&key).map(LabelValue::as_str)
    }

    pub fn insert(&mut self, key: LabelKey, value: LabelValue) -> Option<LabelValue> {
        self.0.insert(key, value)
    }

    /// Adds a label that we compute. `key` is one of this module's constants, `value` a name.
    pub fn set(&mut self, key: &'static str, value: &str) {
        let key = key.parse().expect("the constants are label keys");
        // A name longer than a label's value cannot be selected by it; it is never cut.
        if let Ok(value) = value.parse() {
            self.0.insert(key, value);
        }
    }

    /// Whether all of `wanted` are here, so whether a selector of those chooses the owner of these.
    /// Without any wanted, everything is chosen.
    pub fn cover(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&LabelKey, &LabelValue)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

impl FromIterator<(LabelKey, LabelValue)> for Labels {
    fn from_iter<I: IntoIterator<Item = (LabelKey, LabelValue)>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn both_spellings_of_a_key_are_one_label() {
        let found = labels(&[("kuma.io/zone", "east"), ("k8s.tombolo.io/namespace", "shop"), ("app", "web")]);
        assert_eq!(found.get("tombolo.io/zone"), Some("east"));
        assert_eq!(found.get("k8s.kuma.io/namespace"), Some("shop"));
        assert_eq!(found.get("x.kuma.io/zone"), None);
        assert!(found.cover(&labels(&[("tombolo.io/zone", "east"), ("app", "web")])));
        assert!(!found.cover(&labels(&[("app", "api")])));
        assert!(found.cover(&Labels::default()));
    }

    #[test]
    fn keys_and_values_follow_kubernetes() {
        let long = "a".repeat(63);
        for good in ["app", "a.b/c", "A_b.c-9", "x", long.as_str()] {
            assert!(good.parse::<LabelKey>().is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "/a", "a/", "a/b/c", "A.b/c", "-a", "a-", "a b", too_long.as_str()] {
            assert!(bad.parse::<LabelKey>().is_err(), "{bad}");
        }
        for good in ["", "a", "a_b.C-9", long.as_str()] {
            assert!(good.parse::<LabelValue>().is_ok(), "{good}");
        }
        for bad in [" ", "a b", "-a", "a.", "a/b", too_long.as_str()] {
            assert!(bad.parse::<LabelValue>().is_err(), "{bad}");
        }
    }
}
