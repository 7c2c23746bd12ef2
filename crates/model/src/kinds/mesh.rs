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
        short: "m",
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, right, wrong};

    #[test]
    fn a_mesh_enforces_unless_it_observes() {
        assert_eq!(right::<Mesh>(""), Mesh::default());
        assert_eq!(right::<Mesh>("enforcement: Observe").enforcement, Enforcement::Observe);
        assert_eq!(wrong::<Mesh>("enforcement: observe\nmtls: {}"), ["enforcement", "mtls"]);
    }

    #[test]
    fn initial_policies_are_made_unless_skipped() {
        let some = right::<Mesh>("skipCreatingInitialPolicies: [MeshRetry]");
        assert!(some.creates_initial("MeshIdentity") && !some.creates_initial("MeshRetry"));
        assert!(!right::<Mesh>("skipCreatingInitialPolicies: ['*']").creates_initial("MeshIdentity"));
        assert_eq!(wrong::<Mesh>("skipCreatingInitialPolicies: [1, '']").len(), 2);
    }

    #[test]
    fn meshes_are_made_by_programs() {
        assert_generates(Mesh::default());
        let skip_creating_initial_policies = vec!["*".into()];
        assert_generates(Mesh { skip_creating_initial_policies, enforcement: Enforcement::Observe });
    }
}
