//! What a zone writes by itself: the services of its workloads, the addresses of its ingresses, the
//! bundles of its authorities. Pure: from the documents and what the zone knows besides to documents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use model::document::Document;
use model::kinds::mesh_identity::Provider;
use model::kinds::mesh_service::{Port, Selector};
use model::kinds::{Host, Mesh, MeshIdentity, MeshService, MeshTrust, MeshZoneAddress, Workload};
use model::labels::{self, Labels};
use model::{BundleNumber, MeshName, ResourceName, SectionName, TrustDomain, WorkloadName, ZoneName};
use snapshot::{Proxy, View, is_for};

/// The value of `tombolo.io/managed-by` on what is made here: only that is ever changed here again.
pub const GENERATOR: &str = "zone";

/// A document that the zone is to hold, with the number of its bundle if it is one.
#[derive(Clone, Debug)]
pub struct Generated {
    pub document: Document,
    pub bundle: Option<BundleNumber>,
}

/// An authority of this zone, as others see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicAuthority {
    /// Each with its certificates, in PEM; that of the authority that issues now first.
    pub bundles: Vec<String>,
    pub number: BundleNumber,
}

/// The trust domains for which this zone needs an authority, for each mesh, with the identity that
/// asks for it first by name.
pub fn trust_domains(view: &View, zone: &ZoneName) -> BTreeMap<(MeshName, TrustDomain), ResourceName> {
    let mut domains = BTreeMap::new();
    for (held, identity) in view.all::<MeshIdentity>() {
        let Some(mesh) = &held.key.mesh else { continue };
        let Provider::Bundled(bundled) = &identity.provider else { continue };
        let is_for_us = is_for(view, held, identity, mesh, zone);
        if let (true, true, Ok(domain)) = (is_for_us, bundled.autogenerate, identity.trust_domain(mesh, zone))
        {
            domains.entry((mesh.clone(), domain)).or_insert_with(|| held.key.name.clone());
        }
    }
    domains
}

/// Everything that the zone writes by itself, in the order of the keys.
pub fn documents(
    view: &View,
    zone: &ZoneName,
    ingresses: &BTreeMap<ResourceName, SocketAddr>,
    authorities: &BTreeMap<(MeshName, TrustDomain), PublicAuthority>,
) -> Vec<Generated> {
    let mut all = Vec::new();
    for ((mesh, domain), name) in trust_domains(view, zone) {
        if let Some(authority) = authorities.get(&(mesh.clone(), domain.clone())) {
            let trust = MeshTrust { trust_domain: domain, ca_bundles: authority.bundles.clone() };
            let document = Document::generate(Some(mesh), name, managed(), trust);
            all.push(Generated { document, bundle: Some(authority.number) });
        }
    }
    for (held, _) in view.all::<Mesh>() {
        let Ok(mesh) = held.key.name.as_str().parse::<MeshName>() else { continue };
        for (name, address) in ingresses {
            let spec = MeshZoneAddress { address: Host::Ip(address.ip()), port: address.port() };
            all.push(plain(Document::generate(Some(mesh.clone()), name.clone(), managed(), spec)));
        }
        for (workload, members) in workloads(view, &mesh, zone) {
            all.push(plain(service(view, &mesh, &workload, &members)));
            let document = Document::generate(Some(mesh.clone()), workload.into(), managed(), Workload {});
            all.push(plain(document));
        }
    }
    all
}

fn plain(document: Document) -> Generated {
    Generated { document, bundle: None }
}

fn managed() -> Labels {
    let mut labels = Labels::default();
    labels.set(labels::MANAGED_BY, GENERATOR);
    labels
}

/// The proxies of each workload, the oldest first.
fn workloads<'a>(
    view: &'a View,
    mesh: &'a MeshName,
    zone: &'a ZoneName,
) -> BTreeMap<WorkloadName, Vec<Proxy<'a>>> {
    let mut workloads: BTreeMap<WorkloadName, Vec<Proxy<'_>>> = BTreeMap::new();
    let mut proxies: Vec<Proxy<'_>> = Proxy::all(view, mesh, zone).collect();
    proxies.sort_by_key(|proxy| (proxy.since, proxy.name));
    for proxy in proxies {
        // A workload is an RFC 1035 label; the token and the Dataplane were refused otherwise.
        if let Some(workload) = proxy.labels.get(labels::WORKLOAD).and_then(|text| text.parse().ok()) {
            workloads.entry(workload).or_default().push(proxy);
        }
    }
    workloads
}

/// The union of the members' inbounds by section name; where members disagree the oldest wins.
fn service(view: &View, mesh: &MeshName, workload: &WorkloadName, members: &[Proxy<'_>]) -> Document {
    let mut ports: Vec<Port> = Vec::new();
    let mut sections: BTreeSet<SectionName> = BTreeSet::new();
    let mut numbers: BTreeSet<u16> = BTreeSet::new();
    for inbound in members.iter().flat_map(Proxy::inbounds) {
        let section = inbound.section();
        if !sections.insert(section.clone()) || !numbers.insert(inbound.port) {
            continue;
        }
        let port = Port {
            name: inbound.name.clone(),
            port: inbound.port,
            target: section,
            protocol: inbound.protocol,
        };
        ports.push(port);
    }
    let identities: BTreeSet<_> = members.iter().filter_map(|proxy| proxy.spiffe_id(view)).collect();
    let mut selector = Labels::default();
    selector.set(labels::WORKLOAD, workload);
    let spec = MeshService {
        selector: Some(Selector::Labels(selector)),
        ports,
        identities: identities.into_iter().collect(),
        ..MeshService::default()
    };
    Document::generate(Some(mesh.clone()), workload.clone().into(), managed(), spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::planner::tests::record;

    #[test]
    fn only_the_owner_of_a_trust_domain_makes_an_authority_for_it_and_gives_identities_in_it() {
        let mut view = View::default();
        let put = |view: &mut View, origin: &str, kind: &str, name: &str, spec| {
            view.put(&record(origin, 1, kind, name, spec)).unwrap();
        };
        let identity = |domain: Option<&str>, workload: Option<&str>| {
            let labels = workload.map_or(json!({}), |name| json!({"tombolo.io/workload": name}));
            let mut spec = json!({
                "selector": {"dataplane": {"matchLabels": labels}},
                "provider": {"type": "Bundled", "bundled": {"autogenerate": {"enabled": true}}},
            });
            if let Some(domain) = domain {
                spec["spiffeID"] = json!({"trustDomain": domain});
            }
            json!({"spec": spec})
        };
        put(&mut view, "global", "MeshIdentity", "all", identity(None, None));
        put(&mut view, "global", "MeshIdentity", "bank", identity(Some("bank.example"), Some("vault")));
        let proxy = json!({
            "labels": {"tombolo.io/workload": "vault"},
            "networking": {"address": "10.0.0.1", "inbound": [{"port": 80}]},
        });
        for zone in ["east", "west"] {
            put(&mut view, zone, "Dataplane", "vault", proxy.clone());
        }
        let of = |view: &View, zone: &str| {
            let (mesh, zone): (MeshName, ZoneName) = ("default".parse().unwrap(), zone.parse().unwrap());
            let domains: Vec<String> =
                trust_domains(view, &zone).into_keys().map(|(_, domain)| domain.to_string()).collect();
            let id = Proxy::all(view, &mesh, &zone).next().unwrap().spiffe_id(view).unwrap();
            (domains, id.trust_domain().to_string())
        };
        let [east, west, bank] = ["default.east.mesh.local", "default.west.mesh.local", "bank.example"];
        let both = (vec![bank.to_owned(), east.to_owned()], bank.to_owned());
        assert_eq!(of(&view, "east"), both, "a zone that stands alone owns what it asks for");
        put(&mut view, "global", "Zone", "west", json!({"trustDomains": [bank]}));
        assert_eq!(of(&view, "east"), (vec![east.to_owned()], east.to_owned()));
        assert_eq!(of(&view, "west"), (vec![bank.to_owned(), west.to_owned()], bank.to_owned()));
    }
}
