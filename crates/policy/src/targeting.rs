//! Decides which proxies, and which of their inbounds, a policy speaks of.
//!
//! A policy from a zone speaks of that zone's proxies alone, one from a namespace of that namespace's,
//! and its `targetRef` chooses among those. (Producer policies, which reach other zones, come with the
//! kinds that can be producers.)

use model::kinds::TargetRef;
use model::labels;
use model::{DocumentKey, Labels, MeshName, Name, SectionName, Version, ZoneName};

/// A proxy as policies see it.
#[derive(Clone, Debug)]
pub struct Proxy {
    pub mesh: MeshName,
    pub zone: ZoneName,
    pub namespace: Option<Name>,
    /// As written and as computed.
    pub labels: Labels,
}

/// A policy with what its envelope says.
#[derive(Debug)]
pub struct Policy<'a, S> {
    pub key: &'a DocumentKey,
    pub version: &'a Version,
    pub labels: &'a Labels,
    pub spec: &'a S,
}

// Not derived: a specification need not be copied for that.
impl<S> Clone for Policy<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Policy<'_, S> {}

impl<'a, S> Policy<'a, S> {
    pub fn scope(&self) -> Scope<'a> {
        Scope { key: self.key, labels: self.labels }
    }
}

/// A policy as targeting sees it: what is in its envelope and its labels.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub key: &'a DocumentKey,
    pub labels: &'a Labels,
}

impl Scope<'_> {
    /// Whether the policy is enforced at all: a shadow is evaluated only when somebody asks.
    pub fn is_enforced(&self) -> bool {
        self.labels.get(labels::EFFECT) != Some("shadow")
    }

    /// Whether a policy that is no producer speaks of this inbound or listener of the proxy.
    pub fn selects(&self, target: &TargetRef, proxy: &Proxy, section: &SectionName) -> bool {
        self.covers(proxy) && target_selects(target, proxy, section)
    }

    /// Whether a policy that is no producer speaks of what the proxy sends, whatever inbounds it has.
    pub fn selects_outbound(&self, target: &TargetRef, proxy: &Proxy) -> bool {
        let selected = match target {
            TargetRef::Mesh => true,
            TargetRef::Dataplane { labels, .. } => proxy.labels.cover(labels),
        };
        self.covers(proxy) && selected
    }

    fn covers(&self, proxy: &Proxy) -> bool {
        let in_mesh = self.key.mesh.as_ref() == Some(&proxy.mesh);
        let in_zone = self.key.origin.zone().is_none_or(|zone| *zone == proxy.zone);
        in_mesh && in_zone && self.is_in_namespace(proxy)
    }

    /// What is written on the global, or where there are no namespaces, is the system's and speaks of every
    /// namespace. A role that an author states is no proof: it never widens what a policy speaks of.
    fn is_in_namespace(&self, proxy: &Proxy) -> bool {
        match &self.key.namespace {
            None => true,
            Some(_) if self.key.origin.zone().is_none() => true,
            Some(namespace) => proxy.namespace.as_ref() == Some(namespace),
        }
    }
}

fn target_selects(target: &TargetRef, proxy: &Proxy, section: &SectionName) -> bool {
    match target {
        TargetRef::Mesh => true,
        TargetRef::Dataplane { labels, section: wanted } => {
            proxy.labels.cover(labels) && wanted.as_ref().is_none_or(|wanted| wanted == section)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn proxy() -> Proxy {
        Proxy {
            mesh: "default".parse().unwrap(),
            zone: "east".parse().unwrap(),
            namespace: Some("shop".parse().unwrap()),
            labels: labels(&[("app", "cart"), ("tombolo.io/zone", "east")]),
        }
    }

    fn dataplane(list: &[(&str, &str)], section: Option<&str>) -> TargetRef {
        TargetRef::Dataplane { labels: labels(list), section: section.map(|text| text.parse().unwrap()) }
    }

    #[test]
    fn a_policy_speaks_of_proxies_of_its_mesh_zone_and_namespace() {
        let cases = [
            ("MeshTrafficPermission/default/global//p", true),
            ("MeshTrafficPermission/other/global//p", false),
            ("MeshTrafficPermission/default/east//p", true),
            ("MeshTrafficPermission/default/west//p", false),
            ("MeshTrafficPermission/default/east/shop/p", true),
            ("MeshTrafficPermission/default/east/bank/p", false),
            ("MeshTrafficPermission/default/west/shop/p", false),
            ("MeshTrafficPermission/default/global/tombolo-system/p", true),
        ];
        for (key, want) in cases {
            let key = key.parse().unwrap();
            let scope = Scope { key: &key, labels: &Labels::default() };
            let selects = scope.selects(&TargetRef::Mesh, &proxy(), &8080.into());
            assert_eq!(selects, want, "{key}");
        }
    }

    #[test]
    fn a_target_needs_all_its_labels_and_its_section() {
        let cases = [
            (dataplane(&[], None), true),
            (dataplane(&[("app", "cart")], None), true),
            (dataplane(&[("app", "cart"), ("kuma.io/zone", "east")], None), true),
            (dataplane(&[("app", "cart"), ("version", "2")], None), false),
            (dataplane(&[("app", "web")], None), false),
            (dataplane(&[("app", "cart")], Some("http")), true),
            (dataplane(&[("app", "cart")], Some("8080")), false),
        ];
        for (target, want) in cases {
            assert_eq!(target_selects(&target, &proxy(), &"http".parse().unwrap()), want, "{target:?}");
        }
    }
}
