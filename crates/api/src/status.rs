//! `GET /status`: what a control plane knows of how the mesh is. Facts alone: what of it is a fault is for
//! whoever reads it to say.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use futures::future::BoxFuture;
use http::Uri;
use model::Origin;
use serde::{Deserialize, Serialize};

use crate::query::Query;
use crate::routes::respond;
use crate::shapes::{LateProxy, Problem, RefusedDocument, ZoneOverview};

/// At most so many of each list; the counts beside them are complete.
pub const MOST_NAMED: usize = 100;

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct MeshStatus {
    pub control_plane: ControlPlane,
    /// On the global all zones, by name; on a zone that one alone.
    pub zones: Vec<ZoneStatus>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ControlPlane {
    /// `global`, or a zone.
    pub name: Origin,
    pub version: String,
    pub uptime_ms: u64,
    /// What it signed itself that ends soon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<EndingCertificate>,
    /// Documents of its own that it does not understand, or not wholly: no API wrote them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<RefusedDocument>,
    /// Why its store takes no writes now; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritable: Option<String>,
    /// Why a zone has no session with its global now; absent where it has one, or needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off: Option<CutOff>,
}

/// Why a zone has no session with its global, and what helps.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct CutOff {
    pub reason: String,
    pub remedy: Remedy,
}

/// What lets a zone back to its global.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// Nobody of ours answers: the address that the zone was told, what lies in between, or a global that does not run.
    Address,
    /// The global answers, and has a reason of its own.
    Global,
    /// The global turns the zone away: its Zone is disabled or deleted there, or its token revoked.
    Standing,
    /// The zone has no token with which it could join; or who answers is not the authority that it joined, and it
    /// believes another only by a new token.
    Token,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct ZoneStatus {
    #[serde(flatten)]
    pub overview: ZoneOverview,
    /// It holds another history than this control plane has, and takes nothing from it.
    pub diverged: bool,
    /// Documents that this control plane or the zone did not take from the other, in their newest version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedDocument>,
    /// What the zone says itself; absent where it cannot be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ZoneReport>,
}

/// What a zone knows of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct ZoneReport {
    pub version: String,
    pub uptime_ms: u64,
    /// Proxies that do not run the newest, or of which nobody knows.
    pub late: Vec<LateProxy>,
    /// Services of the zone that have ports.
    pub services: u64,
    /// Those of them at which nobody would answer now: `<mesh>/<name>`.
    pub services_without_endpoints: Vec<String>,
    /// Proxies that no MeshIdentity gives an identity: `<mesh>/<name>`. Nobody believes them anything.
    pub proxies_without_identity: Vec<String>,
    /// Ingresses that registered here.
    pub ingresses: Vec<IngressStatus>,
    pub certificates: Vec<EndingCertificate>,
    /// Why its store takes no writes now; absent while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwritable: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct IngressStatus {
    pub name: String,
    /// Where other zones dial it.
    pub address: String,
    pub connected: bool,
}

/// A certificate that should have been renewed by now.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct EndingCertificate {
    /// For people: `proxy default/web-1`, `zone east at the global`, `authority of default.east.mesh.local`.
    pub of: String,
    /// Seconds since 1970.
    pub ends: u64,
}

/// Of an authority's certificate, by when people should have begun to think of the next.
const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

impl EndingCertificate {
    /// None while the end of an authority is far away.
    pub fn of_authority(of: impl Into<String>, ends: SystemTime, now: SystemTime) -> Option<Self> {
        let seconds = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (ends < now + AUTHORITY_ENDS_SOON).then(|| Self { of: of.into(), ends: seconds })
    }
}

/// Knows how the mesh is.
pub trait Status: Send + Sync + 'static {
    fn status(&self) -> BoxFuture<'_, Result<MeshStatus, Problem>>;
}

/// `GET /status`
pub fn route(status: Arc<dyn Status>) -> Router {
    Router::new().route("/status", get(answer)).with_state(status)
}

async fn answer(State(status): State<Arc<dyn Status>>, uri: Uri) -> Response {
    let answer = async {
        Query::of(&uri, &[])?;
        status.status().await
    };
    respond(answer.await)
}
