//! What the zone's API answers beside documents, and what it lets happen to them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use api::routes::{self, Inspector};
use api::shapes::{
    Connection, Hold, InspectDataplane, MOST_LATE, Problem, Progress, RevisionState, ZoneOverview, ZoneState,
};
use api::status::{ControlPlane, MOST_NAMED, MeshStatus, Status, ZoneStatus};
use api::{Admission, Change, NoSuchRevision, Proof};
use control::{Enroller, Holds, Reports, Unread, revisions};
use futures::future::BoxFuture;
use identity::Peer;
use model::{MeshName, Origin, ResourceName, Version, ZoneName};
use store::Store;
use sync::Topic;
use sync::link::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::history::History;
use crate::hub::Hub;
use crate::lives;
use crate::planner::{Client, ProxyId};
use crate::proof;
use crate::reporter::Reporter;
use crate::upstream::CutOff;
use crate::upstream::{LANE, REFUSED_ABOVE};

pub struct Answers {
    pub zone: ZoneName,
    pub hub: Arc<Hub>,
    pub reporter: Arc<Reporter>,
    pub unread: Unread,
    pub cut_off: Arc<CutOff>,
    pub history: Arc<History>,
    pub reports: Arc<Reports>,
    pub store: Arc<dyn Store>,
    /// Open waits end with the process.
    pub stopping: CancellationToken,
}

impl Proof for Answers {
    /// Of this zone alone: who asks the global hears of all.
    fn revision(
        &self,
        version: Version,
        wait: Duration,
    ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
        Box::pin(async move {
            // Of others there may be news to come.
            let asked = revisions::sought(&*self.store, &version, |origin| *origin == Origin::Global).await;
            let asked = match asked {
                Ok(asked) => asked?,
                Err(error) => {
                    error!(%error, "the store failed");
                    return Ok(RevisionState::not_known(version));
                }
            };
            let proof = tokio::select! {
                proof = self.hub.prove(&asked, wait) => proof,
                () = self.stopping.cancelled() => self.hub.prove(&asked, Duration::ZERO).await,
            };
            let mut refusals = proof::refusals(&self.reports, &version, &*self.store).await;
            let zone = proof::progress(&self.zone, &proof, &refusals);
            refusals.truncate(MOST_NAMED);
            let state = match zone.state {
                ZoneState::Applied => Progress::Applied,
                ZoneState::Refused => Progress::Refused,
                _ => Progress::Pending,
            };
            let late = proof::late(&self.zone, &proof).take(MOST_LATE).collect();
            Ok(RevisionState { revision: version, state, zones: vec![zone], late, refusals })
        })
    }
}

impl Inspector for Answers {
    fn dataplane(
        &self,
        mesh: MeshName,
        name: ResourceName,
        zone: Option<ZoneName>,
    ) -> BoxFuture<'_, Result<InspectDataplane, Problem>> {
        Box::pin(async move {
            if let Some(other) = zone.filter(|zone| *zone != self.zone) {
                let text = format!("this is zone {}: ask the global, or zone {other} itself", self.zone);
                return Err(Problem::not_found(text));
            }
            let proxy = ProxyId { mesh, name };
            let inspected = self.hub.inspect(&proxy);
            inspected.ok_or_else(|| Problem::not_found(format!("zone {} has no proxy {proxy}", self.zone)))
        })
    }
}

impl routes::Zones for Answers {
    /// How the proxies of other zones are nobody tells a zone.
    fn overview(&self) -> BoxFuture<'_, Result<Vec<ZoneOverview>, Problem>> {
        Box::pin(async {
            Err(Problem::not_answered_here(format!(
                "this is zone {}, and how the zones are only the global knows: ask it, such as by --context",
                self.zone
            )))
        })
    }
}

/// Histories that are held back here: the global's by this zone, this zone's own and others' by its proxies.
pub struct Holding {
    pub hub: Arc<Hub>,
    pub history: Arc<History>,
    pub holds: Arc<Holds>,
    /// Where the zone joins a global.
    pub upstream: Option<Handle>,
}

impl routes::Holds for Holding {
    /// What the zone itself holds comes first: what its proxies hold of the same origin is to be looked at after that.
    fn holds(&self) -> Vec<Hold> {
        let mut holds = self.holds.list();
        let of_proxies = self.history.holds(&self.hub.world());
        let is_new = |hold: &Hold| holds.iter().all(|held| held.origin != hold.origin);
        let of_proxies: Vec<Hold> = of_proxies.into_iter().filter(is_new).collect();
        holds.extend(of_proxies);
        holds
    }

    fn accept(&self, origin: Origin, epoch: u64) -> BoxFuture<'_, Result<Hold, Problem>> {
        Box::pin(async move {
            if self.holds.list().iter().any(|hold| hold.origin == origin) {
                let hold = self.holds.accept(&origin, epoch)?;
                if let Some(upstream) = &self.upstream {
                    upstream.reopen(&Topic::POLICY);
                }
                return Ok(hold);
            }
            let (hold, clients) = self.history.accept(&origin, epoch, &self.hub.world()).await?;
            for client in clients {
                self.hub.close(&client, "what the zone knows was accepted for it: come back for that");
            }
            Ok(hold)
        })
    }
}

impl Status for Answers {
    /// Of this zone alone: who asks the global hears of all.
    fn status(&self) -> BoxFuture<'_, Result<MeshStatus, Problem>> {
        Box::pin(async {
            let unread = self.unread.left().await;
            let unread = unread.map_err(|error| Problem::unavailable(error.to_string()))?;
            let (proxies, mut report) = self.reporter.report();
            let control_plane = ControlPlane {
                name: Origin::Zone(self.zone.clone()),
                version: report.version.clone(),
                uptime_ms: report.uptime_ms,
                certificates: std::mem::take(&mut report.certificates),
                unread,
                unwritable: report.unwritable.take(),
                cut_off: self.cut_off.why(),
            };
            let overview = ZoneOverview {
                name: self.zone.clone(),
                state: Connection::Connected,
                age_ms: Some(0),
                proxies,
            };
            let mut refused = self.reports.list(&[LANE, REFUSED_ABOVE]);
            refused.truncate(MOST_NAMED);
            let diverged = self.history.is_diverged();
            let zone = ZoneStatus { overview, diverged, refused, report: Some(report) };
            Ok(MeshStatus { control_plane, zones: vec![zone] })
        })
    }
}

/// What the zone has to say about a change of its own documents.
pub struct Gatekeeper {
    pub hub: Arc<Hub>,
    pub enroller: Arc<Enroller>,
    pub store: Arc<dyn Store>,
}

impl Admission for Gatekeeper {
    /// Who deletes a Dataplane takes away its proxy's right to come back: it has to enrol again. What was kept
    /// of the proxy's life is forgotten with it.
    fn admit<'a>(&'a self, change: Change<'a>) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let Change::Delete { held, .. } = change else { return Ok(Vec::new()) };
            if let Some(proxy) = ProxyId::of(&held.key) {
                let peer = Peer::Proxy { mesh: proxy.mesh.clone(), name: proxy.name.clone() };
                let failed = |error: &dyn Display| {
                    warn!(document = %held.key, %error, "its grant could not be taken away");
                    Problem::unavailable("the zone cannot write its store now: try again")
                };
                self.enroller.forget(&peer).await.map_err(|error| failed(&error))?;
                lives::forget(&*self.store, &proxy).await.map_err(|error| failed(&error))?;
                self.hub.close(&Client::Proxy(proxy), "its Dataplane was deleted");
            }
            Ok(Vec::new())
        })
    }
}
