//! `trust`: the anchors of every trust domain of the mesh.

use std::collections::BTreeMap;

use model::kinds::MeshTrust;
use model::{MeshName, TrustDomain};

use crate::parts::{Trust, TrustBundle};
use crate::view::View;

/// A trust domain that belongs to a zone has that zone's bundle, or one that was written on the global, and no
/// other's. Of one that nobody gave away counts what the first zone by name published; what was written on the global
/// counts for nobody then, since nobody could tell whose it is.
pub(super) fn trust(view: &View, mesh: &MeshName) -> Trust {
    let mut domains: BTreeMap<TrustDomain, TrustBundle> = BTreeMap::new();
    for (held, trust) in view.of_mesh::<MeshTrust>(mesh) {
        let owner = view.owner(mesh, &trust.trust_domain);
        let publisher = held.key.origin.zone();
        if publisher.is_some() && owner.as_ref().is_some_and(|owner| Some(owner) != publisher) {
            continue;
        }
        let Some(zone) = owner.or_else(|| publisher.cloned()) else { continue };
        let bundle = domains
            .entry(trust.trust_domain.clone())
            .or_insert_with(|| TrustBundle { zone: zone.clone(), bundle: String::new() });
        // The global refuses a second before it comes here.
        if bundle.zone != zone {
            continue;
        }
        for pem in &trust.ca_bundles {
            bundle.bundle.push_str(pem.trim_end());
            bundle.bundle.push('\n');
        }
    }
    Trust { domains }
}

#[cfg(test)]
mod tests {
    use model::{DocumentKey, Record, Version};
    use serde_json::{Value, json};

    use super::*;

    fn put(view: &mut View, key: &str, mut body: Value) {
        let key: DocumentKey = key.parse().unwrap();
        body["type"] = json!(key.kind);
        body["name"] = json!(key.name);
        if let Some(mesh) = &key.mesh {
            body["mesh"] = json!(mesh);
        }
        let version = Version::new(key.origin.clone(), 1, 1);
        let bytes = serde_json::to_vec(&body).unwrap().into();
        view.put(&Record { key, version, secret: false, requires: vec![], bundle: None, bytes }).unwrap();
    }

    #[test]
    fn a_trust_domain_has_the_bundle_of_its_owner_and_no_others() {
        let mut view = View::default();
        let bundle = |domain: &str, of: &str| {
            let pem = format!("-----BEGIN CERTIFICATE-----\n{of}\n-----END CERTIFICATE-----\n");
            json!({"spec": {"trustDomain": domain, "caBundles": [{"type": "Pem", "pem": {"value": pem}}]}})
        };
        for zone in ["east", "west"] {
            for (name, domain) in
                [("given", "bank.example"), ("named", "default.west.mesh.local"), ("nobodys", "free.example")]
            {
                put(&mut view, &format!("MeshTrust/default/{zone}//{name}"), bundle(domain, zone));
            }
        }
        let owner = |view: &View, domain: &str| {
            let domains = trust(view, &"default".parse().unwrap()).domains;
            let bundle = &domains[&domain.parse().unwrap()];
            let other = if bundle.zone.as_str() == "east" { "west" } else { "east" };
            assert!(bundle.bundle.contains(bundle.zone.as_str()) && !bundle.bundle.contains(other));
            bundle.zone.to_string()
        };
        assert_eq!(owner(&view, "bank.example"), "east", "the first, while nobody says whose it is");
        put(&mut view, "Zone//global//west", json!({"trustDomains": ["bank.example"]}));
        // What a zone says of itself gives it nothing.
        put(&mut view, "Zone//east//east", json!({"trustDomains": ["bank.example"]}));
        assert_eq!(owner(&view, "bank.example"), "west");
        assert_eq!(owner(&view, "default.west.mesh.local"), "west");
        assert_eq!(owner(&view, "free.example"), "east");
    }
}
