//! The names of topics.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A view that one side of a session owns and the other keeps a copy of.
///
/// 1 to 64 of `a-z`, `0-9`, `-` and `/`. Which side owns it follows from who opens it, so both sides may
/// own a topic of the same name.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Topic(Cow<'static, str>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' is not a topic")]
pub struct InvalidTopic(String);

impl Topic {
    /// Global to zone: the policy and the exports that the zone needs.
    pub const POLICY: Self = Self(Cow::Borrowed("policy"));
    /// Zone to global: what the zone originated.
    pub const ORIGINATED: Self = Self(Cow::Borrowed("originated"));
    /// Zone to proxy: the parts of its configuration.
    pub const PARTS: Self = Self(Cow::Borrowed("parts"));
    /// Proxy to zone: its own document and its state.
    pub const PROXY: Self = Self(Cow::Borrowed("proxy"));

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = InvalidTopic;

    fn from_str(text: &str) -> Result<Self, InvalidTopic> {
        let valid = (1..=64).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'/'));
        if valid { Ok(Self(Cow::Owned(text.to_owned()))) } else { Err(InvalidTopic(text.to_owned())) }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
