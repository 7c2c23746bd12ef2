//! `targetRef` at the top of a policy, which proxies it is about, and in each entry of its `to`, which
//! destinations.

use crate::destination::{SectionName, ServiceKind};
use crate::document::{Fields, Item};
use crate::labels::Labels;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum TargetRef {
    /// Every proxy of the mesh.
    #[default]
    Mesh,
    /// The proxies that carry all these labels, and of those one inbound or listener if it is named.
    Dataplane { labels: Labels, section: Option<SectionName> },
}

#[derive(Clone, Copy)]
enum Word {
    Mesh,
    Dataplane,
}

impl TargetRef {
    /// Takes `targetRef` of a policy; left out it means the mesh. Only where the policy has `rules` may it
    /// name an inbound.
    pub(crate) fn read(policy: &mut Fields<'_>) -> Option<Self> {
        let Some(item) = policy.filled("targetRef") else { return Some(Self::Mesh) };
        let target = Self::read_item(&item);
        if !policy.has("rules") && matches!(target, Some(Self::Dataplane { section: Some(_), .. })) {
            let section = item.tree().get("sectionName").unwrap_or(item.tree());
            let path = format!("{}.sectionName", item.path());
            Item::new(section, path, item.report())
                .refuse("names an inbound, and is for policies with 'rules'");
        }
        target
    }

    fn read_item(item: &Item<'_>) -> Option<Self> {
        item.object(|fields| {
            let kind = fields
                .required("kind")
                .and_then(|item| item.one_of(&[("Mesh", Word::Mesh), ("Dataplane", Word::Dataplane)]));
            let labels = fields.optional("labels");
            let section = fields.optional("sectionName");
            match kind? {
                Word::Mesh => {
                    for given in [labels, section].into_iter().flatten() {
                        given.refuse("needs kind Dataplane");
                    }
                    Some(Self::Mesh)
                }
                Word::Dataplane => Some(Self::Dataplane {
                    labels: labels.and_then(|item| item.labels()).unwrap_or_default(),
                    section: section.and_then(|item| item.parse()),
                }),
            }
        })
    }
}

/// What an entry of `to` is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ToRef {
    /// Every destination.
    Mesh,
    /// The services that carry all these labels, and of those one port if it is named. An external service
    /// has no ports to name.
    Service { kind: ServiceKind, labels: Labels, section: Option<SectionName> },
    /// The routes that carry all these labels.
    Route { labels: Labels },
}

/// What kind an entry of `to` may name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ToKind {
    Mesh,
    Service(ServiceKind),
    Route,
}

impl ToKind {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("Mesh", Self::Mesh),
        ("MeshService", Self::Service(ServiceKind::MeshService)),
        ("MeshExternalService", Self::Service(ServiceKind::MeshExternalService)),
        ("MeshMultiZoneService", Self::Service(ServiceKind::MeshMultiZoneService)),
        ("MeshHTTPRoute", Self::Route),
    ];
}

impl ToRef {
    /// Takes `targetRef` of an entry, of one of some kinds. A reference of another kind is one mistake, and is
    /// not looked into further.
    pub(crate) fn read(entry: &mut Fields<'_>, kinds: &[(&'static str, ToKind)]) -> Option<Self> {
        let item = entry.required("targetRef")?;
        let path = format!("{}.kind", item.path());
        let kind = match item.tree().get("kind") {
            Some(kind) if !kind.is_null() => Item::new(kind, path, item.report()).one_of(kinds)?,
            _ => return item.at_path(&path).fail("is missing"),
        };
        item.object(|fields| {
            fields.ignore("kind");
            let labels = fields.filled("labels");
            let section = fields.optional("sectionName");
            if let (ToKind::Mesh, Some(labels)) = (kind, &labels) {
                labels.refuse("choose services or routes, and the kind is Mesh");
            }
            if let (ToKind::Service(_) | ToKind::Route, None) = (kind, &labels) {
                fields.refuse("labels", "must choose by at least one label");
            }
            let has_ports =
                matches!(kind, ToKind::Service(ServiceKind::MeshService | ServiceKind::MeshMultiZoneService));
            if let (false, Some(section)) = (has_ports, &section) {
                section.refuse("needs kind MeshService or MeshMultiZoneService");
            }
            let section = section.filter(|_| has_ports).and_then(|item| item.parse());
            Some(match kind {
                ToKind::Mesh => Self::Mesh,
                ToKind::Service(kind) => Self::Service { kind, labels: labels?.labels()?, section },
                ToKind::Route => Self::Route { labels: labels?.labels()? },
            })
        })
    }
}
