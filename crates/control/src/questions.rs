//! What a global and its zones ask each other, and the signals between them: names and shapes.

use api::shapes::{LateProxy, ZoneProgress};
use model::{BundleNumber, DestinationId, DocumentKey, MeshName, ResourceName, Version};
use serde::{Deserialize, Serialize};

// What every lower peer says to whoever it joined.
pub use joining::{CERTIFICATE, CLIENT_CERTIFICATE, DRAINED, DRAINING};

/// The global asks a zone who runs a revision: [`RevisionQuestion`], answered by [`RevisionAnswer`].
pub const REVISION: &str = "revision";

/// The global asks a zone about a proxy: [`InspectQuestion`], answered by `api::shapes::InspectDataplane`.
pub const INSPECT: &str = "inspect";

/// The global asks a zone how it is: no body, answered by `api::status::ZoneReport`.
pub const STATUS: &str = "status";

/// A zone that lost its store asks the global what it last originated: [`HeldQuestion`], answered by [`HeldAnswer`].
pub const HELD: &str = "held";

/// A zone tells the global how its proxies are: `api::shapes::ProxyCounts`.
pub const SUMMARY: &str = "summary";

/// What a zone tells others of a destination of its own: `snapshot::endpoints::Exports`. No bytes: no word
/// yet, which takes nothing away.
const EXPORTS: &str = "exports/";

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct RevisionQuestion {
    pub revision: Version,
    /// How long to wait for it to be applied or refused.
    pub wait_ms: u64,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct RevisionAnswer {
    pub zone: ZoneProgress,
    pub late: Vec<LateProxy>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct InspectQuestion {
    pub mesh: MeshName,
    pub name: ResourceName,
}

/// In pages, in the order of the keys' text.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct HeldQuestion {
    /// The last key of the page before.
    pub after: Option<DocumentKey>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct HeldAnswer {
    pub items: Vec<HeldDocument>,
    /// Where the next page begins; none on the last.
    pub next: Option<DocumentKey>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct HeldDocument {
    pub key: DocumentKey,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleNumber>,
    /// Its canonical text.
    pub document: String,
}

/// The name of the signal that carries a destination's exports.
pub fn exports_signal(destination: &DestinationId) -> String {
    format!("{EXPORTS}{destination}")
}

/// The reverse of [`exports_signal`]; none for other signals.
pub fn exported(signal: &str) -> Option<DestinationId> {
    signal.strip_prefix(EXPORTS)?.parse().ok()
}
