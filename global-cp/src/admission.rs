//! What only the global can say about a change: who owns which trust domain, and which zones are here.

use std::collections::BTreeMap;

use api::shapes::{InvalidParameter, Problem};
use api::{Admission, Change};
use futures::future::BoxFuture;
use model::kinds::{MeshIdentity, MeshTrust, Zone};
use model::{Document, MeshName, Origin, Record, TrustDomain, Version, ZoneName};
use store::Draft;

use crate::answers::failed;
use crate::zones::{Zones, same_tag};

pub(crate) struct GlobalAdmission {
    zones: Zones,
}

impl GlobalAdmission {
    pub(crate) fn new(zones: Zones) -> Self {
        Self { zones }
    }

    async fn check(&self, change: Change<'_>) -> Result<Vec<String>, Problem> {
        match change {
            Change::Put { draft, .. } => self.check_put(draft).await,
            Change::Delete { held, .. } => self.check_delete(held),
        }
    }

    async fn check_put(&self, draft: &Draft) -> Result<Vec<String>, Problem> {
        let Some(document) = read(draft) else { return Ok(Vec::new()) };
        let mut warnings = Vec::new();
        let mistakes = if let Some(zone) = document.spec_as::<Zone>() {
            let Ok(name) = document.name.as_str().parse::<ZoneName>() else { return Ok(warnings) };
            if !zone.enabled && self.zones.heard(&name).has_session {
                warnings.push(format!("zone '{name}' is connected; its session ends now"));
            }
            check_zone(&name, zone, &self.others().await?)
        } else if let Some(trust) = document.spec_as::<MeshTrust>() {
            check_trust(&trust.trust_domain, &self.others().await?)
        } else if let (Some(identity), Some(mesh)) = (document.spec_as::<MeshIdentity>(), &document.mesh) {
            check_identity(mesh, identity, &self.others().await?)
        } else {
            Vec::new()
        };
        if mistakes.is_empty() { Ok(warnings) } else { Err(Problem::invalid_document(mistakes)) }
    }

    /// Of a zone whose document cannot be read is known that it is there.
    async fn others(&self) -> Result<BTreeMap<ZoneName, Zone>, Problem> {
        let documents = self.zones.documents().await.map_err(failed)?;
        Ok(documents.into_iter().map(|(name, zone)| (name, zone.unwrap_or_default())).collect())
    }

    fn check_delete(&self, held: &Record) -> Result<Vec<String>, Problem> {
        let zone = Document::from_record(held).ok().filter(|document| document.spec_as::<Zone>().is_some());
        let Some(zone) = zone.and_then(|document| document.name.as_str().parse::<ZoneName>().ok()) else {
            return Ok(Vec::new());
        };
        if self.zones.heard(&zone).has_session {
            let detail = format!("zone '{zone}' is connected: set enabled to false first");
            return Err(Problem::conflict(detail));
        }
        Ok(Vec::new())
    }
}

impl Admission for GlobalAdmission {
    fn admit<'a>(&'a self, change: Change<'a>) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        Box::pin(self.check(change))
    }
}

fn read(draft: &Draft) -> Option<Document> {
    let record = Record {
        key: draft.key.clone(),
        version: Version::new(Origin::Global, 0, 0),
        secret: draft.secret,
        requires: draft.requires.clone(),
        bundle: draft.bundle,
        bytes: draft.bytes.clone(),
    };
    Document::from_record(&record).ok()
}

/// A trust domain belongs to one zone, and the handles of two zones can be told apart.
fn check_zone(name: &ZoneName, zone: &Zone, others: &BTreeMap<ZoneName, Zone>) -> Vec<InvalidParameter> {
    let mut mistakes = Vec::new();
    if let Some(other) = same_tag(name, others.keys()) {
        let reason = format!("has the same tag as zone '{other}': choose another name");
        mistakes.push(InvalidParameter::new("name", reason));
    }
    for (index, domain) in zone.trust_domains.iter().enumerate() {
        let by_name = domain.default_owner().map(|(_, zone)| zone).filter(|owner| owner != name);
        let given = others.iter().find(|(other, zone)| *other != name && zone.trust_domains.contains(domain));
        if let Some(owner) = by_name.or(given.map(|(other, _)| other.clone())) {
            let reason = format!("belongs to zone '{owner}': a trust domain has one owner");
            mistakes.push(InvalidParameter::new(format!("trustDomains[{index}]"), reason));
        }
    }
    mistakes
}

/// The bundles of zones' own trust domains are the zones' to publish.
fn check_trust(domain: &TrustDomain, zones: &BTreeMap<ZoneName, Zone>) -> Vec<InvalidParameter> {
    let given = zones.iter().find(|(_, zone)| zone.trust_domains.contains(domain));
    let owner = domain.default_owner().map(|(_, zone)| zone).or(given.map(|(zone, _)| zone.clone()));
    let mistake = |owner: ZoneName| {
        let reason = format!("belongs to zone '{owner}', which publishes its bundle itself");
        InvalidParameter::new("spec.trustDomain", reason)
    };
    owner.map(mistake).into_iter().collect()
}

/// A trust domain that is the same in every zone would be every zone's: it must be given to one.
fn check_identity(
    mesh: &MeshName,
    identity: &MeshIdentity,
    zones: &BTreeMap<ZoneName, Zone>,
) -> Vec<InvalidParameter> {
    let in_zone = |zone: &str| {
        let zone = zone.parse().expect("the name of a zone");
        identity.trust_domain(mesh, &zone).ok()
    };
    let Some(domain) = in_zone("a").filter(|domain| in_zone("b").as_ref() == Some(domain)) else {
        return Vec::new();
    };
    let is_given = zones.values().any(|zone| zone.trust_domains.contains(&domain));
    if is_given || domain.default_owner().is_some() {
        return Vec::new();
    }
    let reason = format!(
        "makes '{domain}' in every zone: use {{{{ .Zone }}}}, or give it to one zone in trustDomains of its Zone"
    );
    vec![InvalidParameter::new("spec.spiffeID.trustDomain", reason)]
}

#[cfg(test)]
mod tests {
    use model::document;

    use super::*;

    fn zones(zones: &[(&str, &[&str])]) -> BTreeMap<ZoneName, Zone> {
        let zone = |domains: &[&str]| Zone {
            enabled: true,
            trust_domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
        };
        zones.iter().map(|(name, domains)| (name.parse().unwrap(), zone(domains))).collect()
    }

    fn fields(mistakes: Vec<InvalidParameter>) -> Vec<String> {
        mistakes.into_iter().map(|mistake| mistake.field).collect()
    }

    #[test]
    fn a_trust_domain_has_one_owner() {
        let held = zones(&[("west", &["bank.example"]), ("east", &["old.example"])]);
        let cases: [(&str, &[&str], &[&str]); 5] = [
            ("a new one", &["new.example"], &[]),
            ("its own by name", &["default.east.mesh.local"], &[]),
            ("one that it has", &["old.example"], &[]),
            ("another's", &["new.example", "bank.example"], &["trustDomains[1]"]),
            ("another's by name", &["default.west.mesh.local"], &["trustDomains[0]"]),
        ];
        for (why, domains, want) in cases {
            let wanted = zones(&[("east", domains)]);
            let (name, zone) = wanted.first_key_value().unwrap();
            assert_eq!(fields(check_zone(name, zone, &held)), want, "{why}");
        }
    }

    #[test]
    fn bundles_of_zones_are_theirs_to_publish() {
        let held = zones(&[("west", &["bank.example"])]);
        for (domain, want) in
            [("partner.example", 0), ("bank.example", 1), ("default.west.mesh.local", 1), ("mesh.local", 0)]
        {
            assert_eq!(check_trust(&domain.parse().unwrap(), &held).len(), want, "{domain}");
        }
    }

    #[test]
    fn an_identity_whose_trust_domain_is_the_same_everywhere_must_be_one_zones() {
        let held = zones(&[("west", &["bank.example"])]);
        for (domain, want) in
            [("{{ .Mesh }}.{{ .Zone }}.mesh.local", 0), ("bank.example", 0), ("shared.example", 1)]
        {
            let text = format!(
                "type: MeshIdentity\nname: x\nmesh: default\nspec:\n  selector: {{dataplane: {{matchLabels: {{}}}}}}\n  \
                 spiffeID: {{trustDomain: '{domain}'}}\n  provider: {{type: Bundled, bundled: {{autogenerate: {{enabled: true}}}}}}"
            );
            let read = document::read(&document::parse_one(&text).unwrap(), &document::Defaults::default());
            let read = read.unwrap();
            let mesh = "default".parse().unwrap();
            let found = check_identity(&mesh, read.spec_as().unwrap(), &held);
            assert_eq!(found.len(), want, "{domain}: {found:?}");
        }
    }
}
