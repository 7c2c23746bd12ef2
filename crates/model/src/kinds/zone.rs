//! Zone: what the global knows of one of its islands. Every zone is told, since only the owner of a trust domain
//! makes certificates in it, and only its bundle counts.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Author, Generated, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::Fields;
use crate::spiffe::TrustDomain;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Zone {
    /// A zone that is not enabled may not connect.
    pub enabled: bool,
    /// Trust domains that this zone owns, beside `<mesh>.<zone>.mesh.local`, which are always its own.
    pub trust_domains: Vec<TrustDomain>,
}

impl Default for Zone {
    fn default() -> Self {
        Self { enabled: true, trust_domains: Vec::new() }
    }
}

impl ResourceSpec for Zone {
    const KIND: Kind = Kind {
        name: "Zone",
        plural: "zones",
        short: "z",
        scope: Scope::Global,
        author: Author::Both,
        travels: Travels::DOWN,
        naming: Naming::Zone,
        root: Root::Top,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let enabled = fields.optional("enabled").and_then(|item| item.bool());
        let mut seen = BTreeSet::new();
        let trust_domains = fields.list_of("trustDomains", |item| {
            let domain: TrustDomain = item.parse()?;
            if !seen.insert(domain.clone()) {
                item.refuse("stands here a second time");
            }
            Some(domain)
        });
        Some(Self { enabled: enabled.unwrap_or(true), trust_domains })
    }
}

impl Generated for Zone {
    fn to_json(&self) -> serde_json::Value {
        let mut spec = json!({});
        if !self.enabled {
            spec["enabled"] = json!(false);
        }
        if !self.trust_domains.is_empty() {
            spec["trustDomains"] = json!(self.trust_domains);
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, right, wrong};

    #[test]
    fn a_zone_is_enabled_and_owns_its_trust_domains() {
        assert_eq!(right::<Zone>(""), Zone::default());
        assert!(!right::<Zone>("enabled: false").enabled);
        let found = wrong::<Zone>("enabled: 1\ntrustDomains: [a.b, A, a.b]");
        assert_eq!(found, ["enabled", "trustDomains[1]", "trustDomains[2]"]);
    }

    #[test]
    fn zones_are_made_by_programs() {
        assert_generates(Zone::default());
        assert_generates(Zone { enabled: false, trust_domains: vec!["shop.example".parse().unwrap()] });
    }
}
