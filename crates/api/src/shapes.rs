//! The JSON that clients read and write, as types that server and command line share.
//!
//! Documents themselves are not here: they go in and out as their authors wrote them, with a `status`
//! beside.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use model::{InvalidVersion, MeshName, Origin, ResourceName, Version, WorkloadName, World, ZoneName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duration::Span;

/// Every error: `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Problem {
    /// What programs compare: `/problems/invalid-document`, ...
    #[serde(rename = "type")]
    pub sort: Box<str>,
    pub title: Box<str>,
    pub status: u16,
    pub detail: Box<str>,
    /// All that is wrong, in document order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_parameters: Vec<InvalidParameter>,
    /// Where a name stands for several documents: what to ask for instead.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub choices: Box<[Choice]>,
    /// Who owns the document: `global` or a zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Origin>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct InvalidParameter {
    /// `spec.from[0].default`, `name`, `labels["x"]`; for a query parameter `?size`.
    pub field: String,
    pub reason: String,
    /// In the text that was sent, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What would be right, where it is one of a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// One of several documents of a name: the values of `?zone=` (`global` for the global's own) and
/// `?namespace=`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Choice {
    pub zone: Origin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The answer to PUT and DELETE.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Written {
    /// What `wait` takes; absent for a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Version>,
    pub warnings: Vec<String>,
}

/// A page of a list; items are documents with a `status`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The value of `?after=` for the next page; null at the end.
    pub next: Option<String>,
}

/// A line of an answer to `?watch=true`. `D` is a document with a `status`; of one that is gone only what
/// names it.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum WatchEvent<D> {
    /// It is there, new or changed.
    Put {
        document: D,
        /// On the last event of a transaction.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Resume>,
    },
    /// It was deleted, or is none of those that were asked for any more; perhaps it never was.
    Gone {
        document: D,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Resume>,
    },
    /// Everything up to here was told. Comes after what stood at the beginning, and every ten seconds.
    Bookmark { resume: Resume },
    /// Some changes are no longer known. All that stands follows, up to the next bookmark; whatever else the
    /// reader holds is gone.
    Compacted,
}

/// Where a watch may be taken up again: the value of `?from=`. Its text form is revisions, at most one of each
/// origin: `global-1-812,east-1-97`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resume(pub World);

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (origin, point)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "," } else { "" };
            write!(f, "{separator}{}", Version { origin: origin.clone(), point })?;
        }
        Ok(())
    }
}

impl FromStr for Resume {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let mut world = World::default();
        for text in text.split(',').filter(|text| !text.is_empty()) {
            let version: Version = text.parse()?;
            world.advance(version.origin, version.point);
        }
        Ok(Self(world))
    }
}

impl TryFrom<String> for Resume {
    type Error = InvalidVersion;

    fn try_from(text: String) -> Result<Self, InvalidVersion> {
        text.parse()
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> String {
        resume.to_string()
    }
}

/// `GET /revisions/{r}?wait=5s`: who runs a revision.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct RevisionState {
    pub revision: Version,
    pub state: Progress,
    pub zones: Vec<ZoneProgress>,
    /// At most [`MOST_LATE`]; the counts of the zones are complete.
    pub late: Vec<LateProxy>,
    /// Why it is refused, where documents were: this revision, or one without which nobody enforces what was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusedDocument>,
}

impl RevisionState {
    /// Where the store cannot say: there is no word for this, and nobody is told that something is applied.
    pub fn not_known(revision: Version) -> Self {
        let (zones, late, refusals) = (Vec::new(), Vec::new(), Vec::new());
        Self { revision, state: Progress::Pending, zones, late, refusals }
    }

    /// Whether everybody who is heard of enforces it: who is not may run anything. Not where nobody can say.
    pub fn is_applied_but_for_unknown(&self) -> bool {
        let is_applied = |zone: &ZoneProgress| match zone.state {
            ZoneState::Applied | ZoneState::Offline => zone.proxies.late == 0,
            // Pending only because of the proxies that nobody hears of.
            ZoneState::Pending => zone.proxies.late == 0 && zone.proxies.unknown > 0,
            ZoneState::Refused | ZoneState::Diverged => false,
        };
        match self.state {
            Progress::Applied => true,
            Progress::Pending => !self.zones.is_empty() && self.zones.iter().all(is_applied),
            Progress::Refused => false,
        }
    }
}

/// A report on a document, kept by who made it: what it does not take, and why. Stands under `status.refusals` of the
/// document. A report changes neither revision nor ETag, and is gone when a later revision is taken.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Refusal {
    /// Who refuses: `global` or a zone.
    pub reporter: Origin,
    /// What it refuses, as far as it came with a revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Version>,
    pub reason: String,
    /// In seconds since 1970, by the reporter's clock; 0 where it is not known.
    pub since: u64,
    /// What stays in force there; absent where no revision was ever taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<Version>,
}

/// A [`Refusal`] with the document that it is about.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct RefusedDocument {
    /// `<kind>/<mesh>/<zone>/<namespace>/<name>`, as it came.
    pub document: String,
    #[serde(flatten)]
    pub refusal: Refusal,
}

pub const MOST_LATE: usize = 100;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    Applied,
    Pending,
    Refused,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ZoneProgress {
    pub name: ZoneName,
    pub state: ZoneState,
    #[serde(flatten)]
    pub proxies: ProxyCounts,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneState {
    Applied,
    Pending,
    Refused,
    /// It holds another history of the same origin, and waits for someone to decide.
    Diverged,
    Offline,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct ProxyCounts {
    pub current: u64,
    pub late: u64,
    pub unknown: u64,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct LateProxy {
    pub zone: ZoneName,
    /// `<mesh>/<name>`
    pub proxy: String,
    pub state: LateState,
    pub reason: LateReason,
    /// For people; may be empty.
    #[serde(default)]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LateState {
    Late,
    Unknown,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LateReason {
    Slow,
    Refused,
    Disconnected,
    Joining,
    /// The token by which it joined was revoked: it has no session, and its certificate counts until it ends.
    Revoked,
}

/// An item of `GET /zones/_overview`.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ZoneOverview {
    pub name: ZoneName,
    pub state: Connection,
    /// Since the zone was last heard of; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    pub proxies: ProxyCounts,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    Connected,
    /// Silent for more than 5 s.
    Stale,
    /// Silent for more than 30 s, or never heard of.
    Offline,
}

/// How the origin of a copy is heard: under `status` of a document of another control plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Heard {
    pub state: Connection,
    /// Since it was last heard of; absent if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// Whoever tells us is not heard itself, so that this is as it was then.
    #[serde(rename = "frozen", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_frozen: bool,
}

/// `GET /meshes/{mesh}/dataplanes/{name}/_config?zone=`: what the zone compiled for a proxy, and what the
/// proxy says that it runs.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct InspectDataplane {
    pub mesh: MeshName,
    pub name: ResourceName,
    pub zone: ZoneName,
    pub state: ProxyState,
    /// What the zone compiled the parts of.
    pub world: World,
    /// What the proxy last acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<World>,
    pub parts: Vec<InspectPart>,
    /// Signals, latest values: `endpoints/<id>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<InspectSignal>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyState {
    Current,
    Late,
    /// It has no session.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct InspectPart {
    /// `listeners`, `inbound/8080`, ...
    pub name: String,
    pub part: Value,
    /// Whether the proxy said that it runs exactly this.
    pub acknowledged: bool,
    /// Why the proxy refused it; the part before stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct InspectSignal {
    pub name: String,
    pub value: Value,
}

/// `GET /holds`, an item: an origin whose history is not the one that is held of it. What is held stays until
/// somebody accepts, by `POST /holds/{origin}` with an [`AcceptRequest`].
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Hold {
    pub origin: Origin,
    pub reason: String,
    /// Up to where the origin was heard, and still counts.
    pub have: Version,
    /// Up to where its new history goes.
    pub offered: Version,
    /// What accepting would do to its documents, or to the parts of a zone's own proxies: how many come, change and go.
    pub added: u64,
    pub changed: u64,
    pub lost: u64,
    /// The keys of those that would change or go, at most 100.
    pub keys: Vec<String>,
}

/// The body of `POST /holds/{origin}`: the epoch that was looked at, so that no other is accepted by it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptRequest {
    pub epoch: u64,
}

/// What a token is for: the last part of `POST /tokens/{kind}`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// A zone joins the global; asked of the global.
    Zone,
    /// A sidecar joins its zone; asked of the zone.
    Dataplane,
    /// A zone ingress joins its zone; asked of the zone.
    Ingress,
}

impl TokenKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Dataplane => "dataplane",
            Self::Ingress => "ingress",
        }
    }
}

/// The body of `POST /tokens/{kind}`. A zone's token needs `zone`, a sidecar's `workload`; an ingress has
/// neither mesh nor workload.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// Who may use it; empty: whoever holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ResourceName>,
    /// Where a proxy may be reached beside the address that its session comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// How often it can be exchanged; absent: as often as wanted until its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// `24h`, `30m`; absent: the issuer's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_for: Option<Span>,
}

/// Which token is to count no more: itself, or its name (`jti`). In no `Debug`, as a token is a secret until
/// it is revoked.
#[derive(Clone, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RevokeRequest {
    Token(String),
    Jti(String),
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct RevokeAnswer {
    pub jti: String,
    /// Who was connected by it, such as `zone/east`.
    pub disconnected: Vec<String>,
    /// Who joined by it and is away: turned away when it comes, and until then it goes by what it was told.
    #[serde(default)]
    pub away: Vec<String>,
}

/// The token itself stands in no `Debug`, so in no log.
#[derive(Clone, Eq, PartialEq, Deserialize, Serialize)]
pub struct TokenAnswer {
    pub token: String,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
}
