//! `targetRef` at the top of a policy: which proxies it is about.

use crate::destination::SectionName;
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
    /// Takes `targetRef` of a policy with `rules`; left out it means the mesh.
    pub(crate) fn read(policy: &mut Fields<'_>) -> Option<Self> {
        match policy.filled("targetRef") {
            None => Some(Self::Mesh),
            Some(item) => Self::read_item(&item),
        }
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
