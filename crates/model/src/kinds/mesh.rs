//! Mesh: the unit of isolation.

use serde_json::json;

use super::{Author, Generated, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::Fields;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mesh {
    /// Names of kinds that are not to be made with the mesh; `*` stands for all.
    pub skip_creating_initial_policies: Vec<String>,
    pub enforcement: Enforcement,
}

/// What happens to a request that no permission lets through.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Enforcement {
    #[default]
    Enforce,
    /// It is let through, counted and logged.
    Observe,
}

impl Mesh {
    /// Whether the default policy of a kind is to be made with this mesh.
    pub fn creates_initial(&self, kind: &str) -> bool {
        !self.skip_creating_initial_policies.iter().any(|skipped| skipped == "*" || skipped == kind)
    }
}

impl ResourceSpec for Mesh {
    const KIND: Kind = Kind {
        name: "Mesh",
        plural: "meshes",
        scope: Scope::Global,
        author: Author::Global,
        travels: Travels::DOWN,
        naming: Naming::Label,
        root: Root::Top,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let skip_creating_initial_policies =
            fields.list_of("skipCreatingInitialPolicies", |item| item.non_empty_text().map(str::to_owned));
        let enforcement = fields.optional("enforcement").and_then(|item| {
            item.one_of(&[("Enforce", Enforcement::Enforce), ("Observe", Enforcement::Observe)])
        });
        Some(Self { skip_creating_initial_policies, enforcement: enforcement.unwrap_or_default() })
    }
}

impl Generated for Mesh {
    fn to_json(&self) -> serde_json::Value {
        let mut spec = json!({});
        if !self.skip_creating_initial_policies.is_empty() {
            spec["skipCreatingInitialPolicies"] = json!(self.skip_creating_initial_policies);
        }
        if self.enforcement == Enforcement::Observe {
            spec["enforcement"] = json!("Observe");
        }
        spec
    }
}
