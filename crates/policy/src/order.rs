//! Decides which of two policies is the stronger.
//!
//! The order is that of [`Rank`]: policies are folded from the least to the greatest, so what the greatest
//! sets stands. It depends on nothing but the documents, so every proxy and every replica has the same.

use std::cmp::Reverse;

use model::kinds::{Role, TargetRef, ToRef};
use model::{DocumentKey, ServiceKind};

/// Where one entry of a policy stands among all that speak of the same. What comes first in here counts most.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank<'a> {
    target: TargetRank,
    origin: OriginRank,
    role: Role,
    /// None for an entry of `rules`.
    to: Option<ToRank>,
    /// `a` wins over `b`.
    name: Reverse<&'a str>,
    /// Only names of several namespaces or zones get as far as this.
    key: Reverse<&'a DocumentKey>,
    position: usize,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum TargetRank {
    Mesh,
    Dataplane { labels: usize, section: bool },
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum OriginRank {
    Global,
    Zone,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct ToRank {
    kind: ToKindRank,
    section: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum ToKindRank {
    Mesh,
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
    MeshHttpRoute,
}

impl<'a> Rank<'a> {
    /// `role` is that which the policy has where its own namespace wrote it; `position` is that of the entry in
    /// its list.
    pub fn new(
        key: &'a DocumentKey,
        target: &TargetRef,
        role: Role,
        to: Option<&ToRef>,
        position: usize,
    ) -> Self {
        let from_global = key.origin.zone().is_none();
        Self {
            target: match target {
                TargetRef::Mesh => TargetRank::Mesh,
                TargetRef::Dataplane { labels, section } => {
                    TargetRank::Dataplane { labels: labels.len(), section: section.is_some() }
                }
            },
            origin: if from_global { OriginRank::Global } else { OriginRank::Zone },
            role: if from_global { Role::System } else { role },
            to: to.map(ToRank::of),
            name: Reverse(key.name.as_str()),
            key: Reverse(key),
            position,
        }
    }
}

impl ToRank {
    fn of(to: &ToRef) -> Self {
        let (kind, section) = match to {
            ToRef::Mesh => (ToKindRank::Mesh, false),
            ToRef::Service { kind, section, .. } => (ToKindRank::of(*kind), section.is_some()),
            ToRef::Route { .. } => (ToKindRank::MeshHttpRoute, false),
        };
        Self { kind, section }
    }
}

impl ToKindRank {
    fn of(kind: ServiceKind) -> Self {
        match kind {
            ServiceKind::MeshService => Self::MeshService,
            ServiceKind::MeshExternalService => Self::MeshExternalService,
            ServiceKind::MeshMultiZoneService => Self::MeshMultiZoneService,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Labels;

    use super::*;

    fn labels(count: usize) -> Labels {
        (0..count).map(|index| (format!("l{index}").parse().unwrap(), "x".parse().unwrap())).collect()
    }

    fn dataplane(count: usize, section: Option<&str>) -> TargetRef {
        TargetRef::Dataplane { labels: labels(count), section: section.map(|text| text.parse().unwrap()) }
    }

    fn service(kind: ServiceKind, section: Option<&str>) -> ToRef {
        ToRef::Service { kind, labels: labels(1), section: section.map(|text| text.parse().unwrap()) }
    }

    /// Each is weaker than the next by one thing alone, and stronger by all that counts less.
    #[test]
    fn each_thing_counts_more_than_all_that_come_after_it() {
        let (mesh, in_shop) = (TargetRef::Mesh, "east/shop/a");
        let route = ToRef::Route { labels: labels(1) };
        let ms = service(ServiceKind::MeshService, None);
        let cases: Vec<(&str, &TargetRef, Role, Option<&ToRef>, usize)> = vec![
            ("global//b", &mesh, Role::System, Some(&ToRef::Mesh), 0),
            ("global//b", &mesh, Role::System, Some(&ToRef::Mesh), 1),
            ("global//a", &mesh, Role::System, Some(&ToRef::Mesh), 0),
            ("global//b", &mesh, Role::System, Some(&ms), 0),
            ("global//a", &mesh, Role::System, Some(&route), 9),
            ("east//b", &mesh, Role::System, Some(&ToRef::Mesh), 0),
            (in_shop, &mesh, Role::Producer, Some(&ms), 0),
            (in_shop, &mesh, Role::Consumer, Some(&ToRef::Mesh), 0),
            (in_shop, &mesh, Role::WorkloadOwner, None, 0),
        ];
        let targets =
            [dataplane(0, None), dataplane(0, Some("http")), dataplane(1, None), dataplane(2, None)];
        let stronger: Vec<_> =
            targets.iter().map(|target| ("global//b", target, Role::System, None, 0)).collect();
        let all: Vec<_> = cases.into_iter().chain(stronger).collect();
        let keys: Vec<DocumentKey> = all
            .iter()
            .map(|(key, ..)| {
                let key = key.split('/').collect::<Vec<_>>();
                format!("MeshTimeout/default/{}/{}/{}", key[0], key[1], key[2]).parse().unwrap()
            })
            .collect();
        let ranks: Vec<Rank<'_>> = all
            .iter()
            .zip(&keys)
            .map(|((_, target, role, to, position), key)| Rank::new(key, target, *role, *to, *position))
            .collect();
        for pair in ranks.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
    }

    #[test]
    fn of_destinations_the_narrower_is_the_stronger() {
        let key = "MeshTimeout/default/global//a".parse().unwrap();
        let rank = |to: &ToRef| Rank::new(&key, &TargetRef::Mesh, Role::System, Some(to), 0);
        let order = [
            ToRef::Mesh,
            service(ServiceKind::MeshService, None),
            service(ServiceKind::MeshService, Some("http")),
            service(ServiceKind::MeshExternalService, None),
            service(ServiceKind::MeshMultiZoneService, None),
            service(ServiceKind::MeshMultiZoneService, Some("http")),
            ToRef::Route { labels: labels(1) },
        ];
        for pair in order.windows(2) {
            assert!(rank(&pair[0]) < rank(&pair[1]), "{pair:?}");
        }
    }

    #[test]
    fn what_the_global_wrote_is_the_systems_whatever_its_namespace() {
        let key: DocumentKey = "MeshTimeout/default/global/shop/a".parse().unwrap();
        let system: DocumentKey = "MeshTimeout/default/global//b".parse().unwrap();
        let rank = |key| Rank::new(key, &TargetRef::Mesh, Role::WorkloadOwner, None, 0);
        assert_eq!(rank(&key).role, Role::System);
        assert!(rank(&system) < rank(&key), "only the name decides");
    }
}
