//! What the global answers beside documents: how its zones are, and what a proxy runs, which it asks the
//! proxy's zone.

use std::time::Duration;

use api::Problem;
use api::routes;
use api::shapes::{Choice, Hold, InspectDataplane, ZoneOverview};
use control::questions::{INSPECT, InspectQuestion};
use futures::future::BoxFuture;
use model::{MeshName, Origin, ResourceName, ZoneName};
use sync::session::AskError;
use tracing::error;

use crate::presence;
use crate::zones::Zones;

/// How long a zone may take to show a proxy.
const INSPECT_LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Answers {
    zones: Zones,
}

impl Answers {
    pub(crate) fn new(zones: Zones) -> Self {
        Self { zones }
    }

    async fn zones(&self) -> Result<Vec<ZoneOverview>, Problem> {
        let documents = self.zones.documents().await.map_err(failed)?;
        let overview = |name: ZoneName| {
            let heard = self.zones.heard(&name);
            ZoneOverview {
                name,
                state: presence::connection(heard.age, heard.has_session),
                age_ms: heard.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                proxies: heard.counts,
            }
        };
        Ok(documents.into_keys().map(overview).collect())
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

    fn accept(&self, origin: &Origin, epoch: u64) -> Result<Hold, Problem> {
        let hold = self.zones.holds().accept(origin, epoch)?;
        if let Some(zone) = origin.zone() {
            self.zones.hear_anew(zone);
        }
        Ok(hold)
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
