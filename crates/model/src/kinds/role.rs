//! Roles of policies: whose word a policy is, told from where it was written and what it is about.

use super::ToRef;
use crate::document::Item;
use crate::labels::{self, Labels};
use crate::name::Name;

/// Ordered as policies are: the later is the stronger.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    System,
    /// Speaks of the services of its own namespace, to all who call them.
    Producer,
    /// Speaks to the proxies of its own namespace, of what they call.
    Consumer,
    /// Speaks to the proxies of its own namespace, of themselves.
    WorkloadOwner,
}

impl Role {
    /// Of a policy that its own namespace wrote, or that stands outside namespaces. `to` is what its entries
    /// are about, none for a policy without. One that mixes what producers and consumers say is no more than a
    /// consumer, so that it never reaches further than one of them.
    pub fn of<'a>(namespace: Option<&Name>, to: Option<impl IntoIterator<Item = &'a ToRef>>) -> Self {
        let Some(namespace) = namespace else { return Self::System };
        let Some(to) = to else { return Self::WorkloadOwner };
        if to.into_iter().all(|target| is_own(target, namespace)) { Self::Producer } else { Self::Consumer }
    }

    fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::WorkloadOwner => "workload-owner",
        }
    }

    /// Reports a role that the author states and that it does not have. Which namespace is the system's, only
    /// its zone knows: there any policy is the system's.
    pub(crate) fn check_stated(self, labels: &Labels, item: &Item<'_>) {
        if let Some(stated) = labels.get(labels::POLICY_ROLE)
            && stated != self.word()
            && stated != Self::System.word()
        {
            let mut right = vec![self.word(), Self::System.word()];
            right.dedup();
            let reason = format!("must be {}, not '{stated}'", right.join(" or "));
            item.refuse_entry(labels::POLICY_ROLE, reason);
        }
    }
}

/// Chosen by its display name alone, or with the policy's own namespace.
fn is_own(target: &ToRef, namespace: &Name) -> bool {
    let labels = match target {
        ToRef::Service { kind: crate::ServiceKind::MeshService, labels, .. } | ToRef::Route { labels } => {
            labels
        }
        ToRef::Mesh | ToRef::Service { .. } => return false,
    };
    let known = labels.iter().all(|(key, value)| match key.as_str() {
        labels::DISPLAY_NAME => true,
        labels::NAMESPACE => value.as_str() == namespace.as_str(),
        _ => false,
    });
    known && labels.get(labels::DISPLAY_NAME).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::ServiceKind;

    #[test]
    fn a_role_follows_from_the_namespace_and_what_a_policy_is_about() {
        let service = |kind, list: &[(&str, &str)]| ToRef::Service {
            kind,
            labels: list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect(),
            section: None,
        };
        let name = ("kuma.io/display-name", "web");
        let own = service(ServiceKind::MeshService, &[name]);
        let own_too = service(ServiceKind::MeshService, &[name, ("k8s.kuma.io/namespace", "shop")]);
        let other = service(ServiceKind::MeshService, &[name, ("k8s.kuma.io/namespace", "bank")]);
        let labelled = service(ServiceKind::MeshService, &[name, ("app", "web")]);
        let joined = service(ServiceKind::MeshMultiZoneService, &[name]);
        let shop: Name = "shop".parse().unwrap();
        let cases = [
            (None, Some(vec![&own]), Role::System),
            (Some(&shop), None, Role::WorkloadOwner),
            (Some(&shop), Some(vec![&own, &own_too]), Role::Producer),
            (Some(&shop), Some(vec![&other]), Role::Consumer),
            (Some(&shop), Some(vec![&labelled]), Role::Consumer),
            (Some(&shop), Some(vec![&joined]), Role::Consumer),
            (Some(&shop), Some(vec![&ToRef::Mesh]), Role::Consumer),
            (Some(&shop), Some(vec![&own, &ToRef::Mesh]), Role::Consumer),
        ];
        for (namespace, to, want) in cases {
            assert_eq!(Role::of(namespace, to.clone()), want, "{namespace:?} {to:?}");
        }
    }
}
