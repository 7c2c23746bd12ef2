//! What the global answers beside documents: how its zones are, and what a proxy runs, which it asks the
//! proxy's zone.

use std::time::{Duration, SystemTime};

use api::Problem;
use api::routes;
use api::shapes::{Choice, Heard, Hold, InspectDataplane, ZoneOverview};
use api::status::{ControlPlane, EndingCertificate, MOST_NAMED, MeshStatus, Status, ZoneStatus};
use control::questions::{INSPECT, InspectQuestion, STATUS};
use control::{Clock, Unread, serve};
use futures::future::{BoxFuture, join_all};
use model::{MeshName, Origin, ResourceName, ZoneName};
use sync::session::AskError;
use tokio::time::Instant;
use tracing::{debug, error};

use crate::zones::{Line, Zones};

/// How long a zone may take to show a proxy.
const INSPECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a zone may take to say how it is.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

pub(crate) struct Answers {
    zones: Zones,
    clock: Clock,
    started: Instant,
    authority_ends: SystemTime,
    unread: Unread,
}

impl Answers {
    pub(crate) fn new(zones: Zones, clock: Clock, authority_ends: SystemTime, unread: Unread) -> Self {
        Self { zones, clock, started: Instant::now(), authority_ends, unread }
    }

    async fn zones(&self) -> Result<Vec<ZoneOverview>, Problem> {
        let documents = self.zones.documents().await.map_err(failed)?;
        Ok(documents.into_keys().map(|name| self.overview(name)).collect())
    }

    fn overview(&self, name: ZoneName) -> ZoneOverview {
        let heard = self.zones.heard(&name);
        let Heard { state, age_ms, .. } = heard.told();
        ZoneOverview { name, state, age_ms, proxies: heard.counts }
    }

    async fn mesh(&self) -> Result<MeshStatus, Problem> {
        let documents = self.zones.documents().await.map_err(failed)?;
        let zones = join_all(documents.into_keys().map(|name| self.zone(name))).await;
        let (of, now) = ("control plane of the global", self.clock.now());
        let certificates = EndingCertificate::of_authority(of, self.authority_ends, now);
        let control_plane = ControlPlane {
            name: Origin::Global,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            certificates: certificates.into_iter().collect(),
            unread: self.unread.left().await.map_err(failed)?,
            unwritable: serve::unwritable(self.zones.store()),
            cut_off: None,
        };
        Ok(MeshStatus { control_plane, zones: zones.into_iter().collect::<Result<_, _>>()? })
    }

    async fn zone(&self, name: ZoneName) -> Result<ZoneStatus, Problem> {
        let answer = self.zones.ask(&name, STATUS, Vec::new(), STATUS_LIMIT).await;
        let report = answer.map_err(|error| error.to_string()).and_then(|answer| {
            serde_json::from_slice(&answer).map_err(|error| format!("its answer cannot be read: {error}"))
        });
        if let Err(error) = &report {
            debug!(zone = %name, error, "the zone does not say how it is");
        }
        let mut refused = self.zones.refused(&name).await.map_err(failed)?;
        refused.truncate(MOST_NAMED);
        let diverged = self.zones.heard(&name).line == Line::Diverges;
        Ok(ZoneStatus { overview: self.overview(name), diverged, refused, report: report.ok() })
    }

    async fn inspect(
        &self,
        mesh: MeshName,
        name: ResourceName,
        zone: Option<ZoneName>,
    ) -> Result<InspectDataplane, Problem> {
        let mut known: Vec<ZoneName> = self.zones.documents().await.map_err(failed)?.into_keys().collect();
        let zone = match zone {
            Some(zone) if known.contains(&zone) => zone,
            Some(zone) => return Err(Problem::not_found(format!("there is no zone '{zone}'"))),
            None if known.len() == 1 => known.remove(0),
            None => {
                let choice = |zone| Choice { zone: Origin::Zone(zone), namespace: None };
                let detail = "proxies live in zones: choose one with ?zone=";
                return Err(Problem::ambiguous(detail, known.into_iter().map(choice).collect()));
            }
        };
        let question = InspectQuestion { mesh, name };
        let body = serde_json::to_vec(&question).expect("two names are JSON");
        let answer = self.zones.ask(&zone, INSPECT, body, INSPECT_LIMIT).await;
        let answer = answer.map_err(|error| match error {
            AskError::Refused(reason) => Problem::not_found(format!("zone '{zone}' says: {reason}")),
            error => Problem::unavailable(format!("zone '{zone}' cannot be asked: {error}")),
        })?;
        let mut inspected: InspectDataplane = serde_json::from_slice(&answer).map_err(|error| {
            error!(%zone, %error, "the zone's answer cannot be read");
            Problem::unavailable(format!("zone '{zone}' gave an answer that cannot be read here"))
        })?;
        inspected.zone = zone;
        Ok(inspected)
    }
}

impl routes::Zones for Answers {
    fn overview(&self) -> BoxFuture<'_, Result<Vec<ZoneOverview>, Problem>> {
        Box::pin(self.zones())
    }
}

impl routes::Holds for Answers {
    fn holds(&self) -> Vec<Hold> {
        self.zones.holds().list()
    }

    fn accept(&self, origin: Origin, epoch: u64) -> BoxFuture<'_, Result<Hold, Problem>> {
        Box::pin(async move {
            let hold = self.zones.holds().accept(&origin, epoch)?;
            if let Some(zone) = origin.zone() {
                self.zones.hear_anew(zone);
            }
            Ok(hold)
        })
    }
}

impl Status for Answers {
    fn status(&self) -> BoxFuture<'_, Result<MeshStatus, Problem>> {
        Box::pin(self.mesh())
    }
}

impl routes::Inspector for Answers {
    fn dataplane(
        &self,
        mesh: MeshName,
        name: ResourceName,
        zone: Option<ZoneName>,
    ) -> BoxFuture<'_, Result<InspectDataplane, Problem>> {
        Box::pin(self.inspect(mesh, name, zone))
    }
}

pub(crate) fn failed(error: store::Error) -> Problem {
    error!(%error, "the store failed");
    Problem::unavailable("the store cannot be used now")
}
