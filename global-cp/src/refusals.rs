//! What the global and a zone refuse of each other's documents: the reports that still count, and whose proof they spoil.

use std::collections::BTreeMap;

use api::shapes::RefusedDocument;
use control::reports::AND_MORE;
use control::{Refusals, degraded};
use model::{DocumentKey, Origin, Version, ZoneName};
use sync::{Refused, Topic};
use tracing::info;

use crate::bundles;
use crate::session::lane;
use crate::zones::Zones;

/// The lane of what a zone says that it refuses.
fn refused_by(zone: &ZoneName) -> String {
    format!("{}/{zone}", Topic::POLICY)
}

impl Zones {
    /// Reads again what this global refused before it was stopped. What zones refuse they say themselves.
    pub(crate) async fn recall(&self) -> Result<(), store::Error> {
        for zone in self.documents().await?.into_keys() {
            let lane = lane(&zone);
            let refusals = Refusals::load(self.store(), &lane).await?;
            self.reports().put(lane, refusals);
        }
        Ok(())
    }

    /// A zone was removed: one that comes under its name begins anew.
    pub(crate) async fn forget(&self, zone: &ZoneName) -> Result<(), store::Error> {
        let lane = lane(zone);
        self.reports().put(lane.clone(), Refusals::default());
        self.reports().put(refused_by(zone), Refusals::default());
        self.store().unfence(&lane).await?;
        Refusals::forget(self.store(), &lane).await?;
        bundles::forget_numbers(self.store(), zone).await
    }

    /// Forgets those whose removal was not finished, by a disk that failed or a process that ended.
    pub(crate) async fn sweep(&self) -> Result<(), store::Error> {
        // Before it is looked who is there: whoever joins meanwhile has a document before anything is kept of it.
        let lanes = Refusals::lanes(self.store(), Topic::ORIGINATED.as_str()).await?;
        let mut kept = bundles::numbered(self.store()).await?;
        kept.extend(lanes.iter().filter_map(|lane| lane.split_once('/')?.1.parse().ok()));
        let there = self.documents().await?;
        for zone in kept.iter().filter(|zone| !there.contains_key(*zone)) {
            info!(%zone, "the zone was removed before");
            self.forget(zone).await?;
        }
        Ok(())
    }

    /// What a zone refuses of what it was told, all of it; returned is what is new.
    pub(crate) fn told(&self, zone: &ZoneName, refused: &[Refused]) -> Vec<Refused> {
        let lane = refused_by(zone);
        let known = self.reports().list(&[&lane]);
        let known: BTreeMap<_, _> =
            known.iter().map(|known| (&known.document, &known.refusal.revision)).collect();
        let is_known = |refused: &&Refused| known.get(&refused.key) == Some(&&refused.version);
        let news = refused.iter().filter(|refused| !is_known(refused)).cloned().collect();
        self.reports().put(lane, Refusals::heard(&Origin::Zone(zone.clone()), refused));
        news
    }

    /// The refusals between us and a zone that still count: of our own documents those of which no newer version is
    /// there.
    pub(crate) async fn refused(&self, zone: &ZoneName) -> Result<Vec<RefusedDocument>, store::Error> {
        let mut refused = self.reports().list(&[&lane(zone)]);
        for one in self.reports().list(&[&refused_by(zone)]) {
            let held = match one.document.parse::<DocumentKey>() {
                Ok(key) => self.store().get(&key).await?,
                Err(_) => None,
            };
            let still = held.is_some_and(|held| Some(held.version) == one.refusal.revision);
            if still || one.document == AND_MORE {
                refused.push(one);
            }
        }
        Ok(refused)
    }

    /// Why a version is not enforced in a zone, or everywhere but in the zone that wrote it, as far as documents were
    /// refused.
    pub(crate) async fn refusals(
        &self,
        zone: &ZoneName,
        version: &Version,
    ) -> Result<Vec<RefusedDocument>, store::Error> {
        let refused = self.refused(zone).await?;
        let (mut ours, theirs): (Vec<_>, Vec<_>) =
            refused.into_iter().partition(|one| one.refusal.reporter == Origin::Global);
        // What a zone enforces of its own it has; it does not travel on.
        let is_of_zone = version.origin.zone() == Some(zone);
        ours.retain(|one| {
            one.refusal.revision.as_ref() == Some(version) || (is_of_zone && one.document == AND_MORE)
        });
        ours.extend(degraded::concerning(theirs, version, self.store()).await?);
        Ok(ours)
    }
}
