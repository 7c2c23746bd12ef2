//! `trust`: the anchors of every trust domain of the mesh.

use std::collections::BTreeMap;

use model::kinds::MeshTrust;
use model::{MeshName, TrustDomain};

use crate::parts::{Trust, TrustBundle};
use crate::view::View;

/// A zone's bundle counts for what that zone published. One that was written on the global counts for the
/// zone whose default trust domain it names; for another domain nobody could tell whose it is.
pub(super) fn trust(view: &View, mesh: &MeshName) -> Trust {
    let mut domains: BTreeMap<TrustDomain, TrustBundle> = BTreeMap::new();
    for (held, trust) in view.of_mesh::<MeshTrust>(mesh) {
        let by_name =
            || trust.trust_domain.default_owner().filter(|(named, _)| named == mesh).map(|(_, zone)| zone);
        let zone = held.key.origin.zone().cloned().or_else(by_name);
        let Some(zone) = zone else { continue };
        let bundle = domains
            .entry(trust.trust_domain.clone())
            .or_insert_with(|| TrustBundle { zone: zone.clone(), bundle: String::new() });
        // The first to publish a domain owns it; the global refuses a second before it comes here.
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
