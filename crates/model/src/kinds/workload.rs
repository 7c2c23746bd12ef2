//! Workload: the proxies that share a `tombolo.io/workload`. Zones make it; what there is to say of it
//! is reported, not written.

use super::{Author, Generated, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::Fields;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Workload {}

impl ResourceSpec for Workload {
    const KIND: Kind = Kind {
        name: "Workload",
        plural: "workloads",
        short: "wl",
        scope: Scope::Mesh,
        author: Author::Generated,
        travels: Travels::UP,
        naming: Naming::Label,
        root: Root::Spec,
    };

    fn read(_: &mut Fields<'_>) -> Option<Self> {
        Some(Self {})
    }
}

impl Generated for Workload {
    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, wrong};

    #[test]
    fn a_workload_says_nothing_of_itself() {
        assert_generates(Workload {});
        assert_eq!(wrong::<Workload>("replicas: 1"), ["spec.replicas"]);
    }
}
