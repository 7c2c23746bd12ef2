//! MeshTrust: the certificates that anchor a trust domain.

use serde_json::json;

use super::{Author, Generated, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::{Fields, Item};
use crate::spiffe::TrustDomain;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshTrust {
    pub trust_domain: TrustDomain,
    /// PEM texts, each of one or more certificates; at least one. What is in them is for the reader of
    /// certificates to judge: one that is out of time is dropped, its bundle is not refused.
    pub ca_bundles: Vec<String>,
}

impl ResourceSpec for MeshTrust {
    const KIND: Kind = Kind {
        name: "MeshTrust",
        plural: "meshtrusts",
        short: "mtrust",
        scope: Scope::Mesh,
        author: Author::Both,
        travels: Travels::EVERYWHERE,
        naming: Naming::Subdomain,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let trust_domain = fields.required("trustDomain").and_then(|item| item.parse());
        let ca_bundles = fields.required("caBundles").and_then(|item| {
            let bundles = item.list_of(|item| read_bundle(&item))?;
            if bundles.is_empty() { item.fail("must have at least one bundle") } else { Some(bundles) }
        });
        Some(Self { trust_domain: trust_domain?, ca_bundles: ca_bundles? })
    }
}

fn read_bundle(item: &Item<'_>) -> Option<String> {
    item.object(|fields| {
        fields.required("type").and_then(|item| item.one_of(&[("Pem", ())]));
        fields.required("pem")?.object(|fields| {
            let item = fields.required("value")?;
            let pem = item.text()?;
            if pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----") {
                Some(pem.to_owned())
            } else {
                item.fail("must be certificates in PEM form, beginning with -----BEGIN CERTIFICATE-----")
            }
        })
    })
}

impl Generated for MeshTrust {
    fn to_json(&self) -> serde_json::Value {
        let bundles: Vec<_> =
            self.ca_bundles.iter().map(|pem| json!({ "type": "Pem", "pem": { "value": pem } })).collect();
        json!({ "trustDomain": self.trust_domain, "caBundles": bundles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, wrong};

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_trust_domain_has_at_least_one_bundle() {
        assert_generates(MeshTrust {
            trust_domain: "default.east.mesh.local".parse().unwrap(),
            ca_bundles: vec![PEM.into(), PEM.repeat(2)],
        });
        let cases = [
            ("", vec!["spec.trustDomain", "spec.caBundles"]),
            ("trustDomain: A\ncaBundles: []", vec!["spec.trustDomain", "spec.caBundles"]),
            ("trustDomain: a\ncaBundles: [{}]", vec!["spec.caBundles[0].type", "spec.caBundles[0].pem"]),
            ("trustDomain: a\ncaBundles: [{type: Pem}]", vec!["spec.caBundles[0].pem"]),
            (
                "trustDomain: a\ncaBundles: [{type: Der, pem: {value: x}}]",
                vec!["spec.caBundles[0].type", "spec.caBundles[0].pem.value"],
            ),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshTrust>(spec), want, "{spec}");
        }
    }
}
