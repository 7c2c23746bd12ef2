//! A document as it rests in a store and travels between control planes.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::key::DocumentKey;
use crate::version::Version;

/// The author's canonical bytes (RFC 8785 JSON of what was written, unknown fields included) in an
/// envelope that can be read without understanding them. It is forwarded unchanged.
#[derive(Clone, Eq, PartialEq)]
pub struct Record {
    pub key: DocumentKey,
    /// Given by the origin when it was written, and never changed.
    pub version: Version,
    /// Sealed at rest, and never logged.
    pub secret: bool,
    /// Capabilities that a reader must have to act on this document.
    pub requires: Vec<String>,
    /// Only for trust bundles: an older number than the one held is refused.
    pub bundle: Option<BundleNumber>,
    pub bytes: Bytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ({} bytes)", self.key, self.version, self.bytes.len())
    }
}

/// Numbers the bundles of a trust domain: a zone that lost its store goes on with a higher incarnation.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct BundleNumber {
    pub incarnation: u64,
    pub n: u64,
}
