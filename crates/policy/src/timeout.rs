//! Decides which timeouts a destination and an inbound of a proxy have, by the MeshTimeouts.
//!
//! What no policy sets is not given here; what is then, is for the reader to say. An entry that is about
//! routes is about no destination as such.

use model::kinds::mesh_timeout::{Entries, HttpTimeouts, MeshTimeout, Timeouts};
use model::kinds::{TargetRef, ToRef};
use model::{DocumentKey, Labels, SectionName, ServiceKind, labels};

use crate::access::{ClientMatch, RuleOrigin};
use crate::matching::{self, Narrowness};
use crate::merge::{self, Merged};
use crate::order::Rank;
use crate::targeting::{Policy, Proxy};

/// A MeshTimeout with what its envelope says.
pub type TimeoutPolicy<'a> = Policy<'a, MeshTimeout>;

/// One port of a service as `to` sees it.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a> {
    pub kind: ServiceKind,
    pub key: &'a DocumentKey,
    /// As written and as computed.
    pub labels: &'a Labels,
    pub section: &'a SectionName,
}

/// The timeouts of one inbound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InboundTimeouts {
    /// For every client.
    pub common: Merged<Timeouts>,
    /// For some, broad before narrow, and of equally narrow ones the stronger last: all that cover a client
    /// apply, and of two that set the same the later counts.
    pub by_client: Vec<ClientTimeouts>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ClientTimeouts {
    pub clients: ClientMatch,
    pub timeouts: HttpTimeouts,
    pub origin: RuleOrigin,
}

/// What the policies say of a proxy's way to a destination.
pub fn outbound<'a>(
    policies: impl IntoIterator<Item = TimeoutPolicy<'a>>,
    proxy: &Proxy,
    service: Service<'_>,
) -> Merged<Timeouts> {
    let mut entries = Vec::new();
    for policy in policies {
        let Entries::To(to) = &policy.spec.entries else { continue };
        if !policy.scope().is_enforced() || !policy.scope().selects_outbound(&policy.spec.target, proxy) {
            continue;
        }
        for (position, entry) in to.iter().enumerate() {
            if means(&entry.target, policy.key, service) {
                let rank = rank(policy, &policy.spec.target, Some(&entry.target), position);
                entries.push((rank, origin(policy, format!("spec.to[{position}].default")), &entry.default));
            }
        }
    }
    folded(entries)
}

/// What the policies say of what comes into one inbound of a proxy.
pub fn inbound<'a>(
    policies: impl IntoIterator<Item = TimeoutPolicy<'a>>,
    proxy: &Proxy,
    section: &SectionName,
) -> InboundTimeouts {
    let mut common = Vec::new();
    let mut by_client = Vec::new();
    for policy in policies {
        let Entries::Rules(rules) = &policy.spec.entries else { continue };
        if !policy.scope().is_enforced() || !policy.scope().selects(&policy.spec.target, proxy, section) {
            continue;
        }
        for (position, rule) in rules.iter().enumerate() {
            let rank = rank(policy, &policy.spec.target, None, position);
            let origin = origin(policy, format!("spec.rules[{position}].default"));
            if rule.matches.is_empty() {
                common.push((rank, origin, &rule.default));
                continue;
            }
            for one in &rule.matches {
                // An inbound is reached by a handle, never by a name of a destination; and what cannot be
                // evaluated changes nothing.
                if let (None, false, Some(clients)) = (&one.sni, one.partial, matching::clients(one)) {
                    let timeouts =
                        ClientTimeouts { clients, timeouts: rule.default.http, origin: origin.clone() };
                    by_client.push((Narrowness::of(one), rank.clone(), timeouts));
                }
            }
        }
    }
    by_client.sort_by(|(a, a_rank, _), (b, b_rank, _)| (a, a_rank).cmp(&(b, b_rank)));
    let by_client = by_client.into_iter().map(|(_, _, timeouts)| timeouts).collect();
    InboundTimeouts { common: folded(common), by_client }
}

fn folded(mut entries: Vec<(Rank<'_>, RuleOrigin, &Timeouts)>) -> Merged<Timeouts> {
    entries.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let entries = entries.into_iter().map(|(_, origin, timeouts)| (origin, timeouts));
    merge::fold(entries).expect("each field is a text of its own, in whichever policy it stands")
}

/// Whether an entry is about this port of this service. In a namespace labels mean the namespace's own
/// services, unless they name another.
fn means(target: &ToRef, policy: &DocumentKey, service: Service<'_>) -> bool {
    match target {
        ToRef::Mesh => true,
        ToRef::Service { kind, labels: wanted, section } => {
            let in_namespace = match &policy.namespace {
                Some(namespace) if wanted.get(labels::NAMESPACE).is_none() => {
                    service.key.namespace.as_ref() == Some(namespace)
                }
                _ => true,
            };
            *kind == service.kind
                && in_namespace
                && service.labels.cover(wanted)
                && section.as_ref().is_none_or(|section| section == service.section)
        }
        ToRef::Route { .. } => false,
    }
}

fn rank<'a>(policy: TimeoutPolicy<'a>, target: &TargetRef, to: Option<&ToRef>, position: usize) -> Rank<'a> {
    Rank::new(policy.key, target, policy.spec.role(policy.key.namespace.as_ref()), to, position)
}

fn origin(policy: TimeoutPolicy<'_>, path: String) -> RuleOrigin {
    RuleOrigin { policy: policy.key.clone(), version: policy.version.clone(), path }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use model::document::{Defaults, Document, parse_one, read};
    use model::{Origin, Version};
    use proptest::prelude::*;

    use super::*;

    struct Stored {
        key: DocumentKey,
        version: Version,
        document: Document,
    }

    /// `key` is origin/namespace/name.
    fn stored(key: &str, spec: &str) -> Stored {
        let [origin, namespace, name] = key.split('/').collect::<Vec<_>>()[..] else { panic!("{key}") };
        let tree = parse_one(&format!("type: MeshTimeout\nname: {name}\nmesh: default\n{spec}")).unwrap();
        let document = read(&tree, &Defaults::default()).unwrap();
        let origin: Origin = origin.parse().unwrap();
        let key = format!("MeshTimeout/default/{origin}/{namespace}/{name}").parse().unwrap();
        Stored { key, version: Version::new(origin, 1, 7), document }
    }

    impl Stored {
        fn policy(&self) -> TimeoutPolicy<'_> {
            let Self { key, version, document } = self;
            Policy { key, version, labels: &document.labels, spec: document.spec_as().unwrap() }
        }
    }

    fn labels(list: &[(&str, &str)]) -> Labels {
        list.iter().map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn proxy() -> Proxy {
        Proxy {
            mesh: "default".parse().unwrap(),
            zone: "east".parse().unwrap(),
            namespace: Some("shop".parse().unwrap()),
            labels: labels(&[("app", "web")]),
        }
    }

    /// The request timeout in seconds to the port `http` of the service `cart` of west, and who set it.
    fn request_to_cart(policies: &[Stored]) -> Option<(u64, String)> {
        let key = "MeshService/default/west//cart".parse().unwrap();
        let labels = labels(&[("tombolo.io/display-name", "cart"), ("tombolo.io/zone", "west")]);
        let section = "http".parse().unwrap();
        let service =
            Service { kind: ServiceKind::MeshService, key: &key, labels: &labels, section: &section };
        let merged = outbound(policies.iter().map(Stored::policy), &proxy(), service);
        let seconds = merged.value.http.request_timeout?.as_secs();
        Some((seconds, merged.set_by["http.requestTimeout"].policy.name.to_string()))
    }

    fn to(target: &str, seconds: u64) -> String {
        format!("to: [{{targetRef: {{{target}}}, default: {{http: {{requestTimeout: {seconds}s}}}}}}]")
    }

    const CART: &str = "kind: MeshService, labels: {kuma.io/display-name: cart}";

    #[test]
    fn an_entry_speaks_of_the_destinations_that_it_names() {
        let cases = [
            ("global//p", to("kind: Mesh", 1), true),
            ("global//p", to(CART, 1), true),
            (
                "global//p",
                to("kind: MeshService, labels: {kuma.io/display-name: cart, kuma.io/zone: west}", 1),
                true,
            ),
            (
                "global//p",
                to("kind: MeshService, labels: {kuma.io/display-name: cart, kuma.io/zone: east}", 1),
                false,
            ),
            ("global//p", to(&format!("{CART}, sectionName: http"), 1), true),
            ("global//p", to(&format!("{CART}, sectionName: admin"), 1), false),
            ("global//p", to("kind: MeshMultiZoneService, labels: {kuma.io/display-name: cart}", 1), false),
            ("global//p", to("kind: MeshHTTPRoute, labels: {kuma.io/display-name: cart}", 1), false),
            ("east//p", to(CART, 1), true),
            ("west//p", to(CART, 1), false),
            ("east/shop/p", to("kind: Mesh", 1), true),
            ("east/bank/p", to("kind: Mesh", 1), false),
            // The service is in no namespace, and the policy means its own.
            ("east/shop/p", to(CART, 1), false),
            ("global//p", format!("labels: {{kuma.io/effect: shadow}}\n{}", to(CART, 1)), false),
            (
                "global//p",
                format!("targetRef: {{kind: Dataplane, labels: {{app: web}}}}\n{}", to(CART, 1)),
                true,
            ),
            (
                "global//p",
                format!("targetRef: {{kind: Dataplane, labels: {{app: api}}}}\n{}", to(CART, 1)),
                false,
            ),
            ("global//p", "rules: [{default: {http: {requestTimeout: 1s}}}]".into(), false),
        ];
        for (key, spec, want) in cases {
            let want = want.then(|| (1, "p".to_owned()));
            assert_eq!(request_to_cart(&[stored(key, &spec)]), want, "{key} {spec}");
        }
    }

    #[test]
    fn the_stronger_policy_sets_what_both_set() {
        let port = format!("{CART}, sectionName: http");
        let weak = stored("global//weak", &to("kind: Mesh", 1));
        let dataplane =
            format!("targetRef: {{kind: Dataplane, labels: {{app: web}}}}\n{}", to("kind: Mesh", 2));
        let cases = [
            ("global//strong", to(CART, 2)),
            ("global//a", to("kind: Mesh", 2)),
            ("east//z", to("kind: Mesh", 2)),
            ("global//z", dataplane),
        ];
        for (key, spec) in cases {
            let strong = stored(key, &spec);
            let name = strong.key.name.to_string();
            assert_eq!(
                request_to_cart(&[strong, stored("global//weak", &to("kind: Mesh", 1))]),
                Some((2, name))
            );
        }
        let both = [stored("global//a", &to(CART, 3)), stored("global//z", &to(&port, 2)), weak];
        assert_eq!(request_to_cart(&both), Some((2, "z".into())), "a port before its service");
        let twice = "to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 1s}}}, \
                     {targetRef: {kind: Mesh}, default: {http: {requestTimeout: 2s}}}]";
        assert_eq!(request_to_cart(&[stored("global//p", twice)]), Some((2, "p".into())), "the later entry");
    }

    fn set_by(merged: &Merged<Timeouts>) -> BTreeMap<&str, String> {
        let name = |origin: &RuleOrigin| format!("{} {}", origin.policy, origin.path);
        merged.set_by.iter().map(|(field, origin)| (field.as_str(), name(origin))).collect()
    }

    #[test]
    fn fields_merge_one_by_one_and_each_tells_who_set_it() {
        let mesh = "default".parse().unwrap();
        let initial = MeshTimeout::for_all_destinations(&mesh);
        let version: Version = "global-1-3".parse().unwrap();
        let key = initial.key(&Origin::Global);
        let initial = Stored { key, version, document: initial };
        let mine = stored("global//idle", "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 0s}}]");
        let key = "MeshService/default/west//cart".parse().unwrap();
        let (none, section) = (Labels::default(), 80.into());
        let service = Service { kind: ServiceKind::MeshService, key: &key, labels: &none, section: &section };
        let merged = outbound([mine.policy(), initial.policy()], &proxy(), service);
        assert_eq!(merged.value.idle_timeout, Some(Duration::ZERO));
        assert_eq!(merged.value.connection_timeout, Some(Duration::from_secs(5)));
        assert_eq!(merged.value.http.request_timeout, Some(Duration::from_secs(15)));
        let default = "MeshTimeout/default/global//mesh-timeout-to-all spec.to[0].default".to_owned();
        let want = [
            ("connectionTimeout", default.clone()),
            ("http.requestTimeout", default.clone()),
            ("http.streamIdleTimeout", default),
            ("idleTimeout", "MeshTimeout/default/global//idle spec.to[0].default".to_owned()),
        ];
        assert_eq!(set_by(&merged), want.into());
    }

    #[test]
    fn rules_are_for_everybody_or_for_some_from_broad_to_narrow() {
        let rule = |matches: &str, seconds: u64| {
            format!("{{matches: [{matches}], default: {{http: {{requestTimeout: {seconds}s}}}}}}")
        };
        let prefix = |text: &str| format!("{{spiffeID: {{type: Prefix, value: '{text}'}}}}");
        let rules = [
            rule("{spiffeID: {type: Exact, value: 'spiffe://td/ns/a'}}", 6),
            rule(&prefix("spiffe://td/ns"), 5),
            rule(&prefix("spiffe://td"), 4),
            rule("{source: {workload: web}}", 3),
            rule("{source: {}}", 2),
            rule("{sni: {type: Exact, value: a.b}}", 99),
            rule("", 1),
        ];
        let spec = format!("rules: [{}]", rules.join(", "));
        let policy = stored("global//p", &spec);
        let got = inbound([policy.policy()], &proxy(), &8080.into());
        assert_eq!(got.common.value.http.request_timeout, Some(Duration::from_secs(1)));
        let order: Vec<u64> =
            got.by_client.iter().map(|one| one.timeouts.request_timeout.unwrap().as_secs()).collect();
        assert_eq!(order, [2, 3, 4, 5, 6]);
        assert_eq!(got.by_client[4].clients, ClientMatch::Exactly("spiffe://td/ns/a".parse().unwrap()));
        assert_eq!(got.by_client[4].origin.path, "spec.rules[0].default");

        let section = format!("targetRef: {{kind: Dataplane, labels: {{}}, sectionName: http}}\n{spec}");
        let policy = stored("global//p", &section);
        assert_eq!(inbound([policy.policy()], &proxy(), &8080.into()), InboundTimeouts::default());
        assert_eq!(inbound([policy.policy()], &proxy(), &"http".parse().unwrap()).by_client.len(), 5);
    }

    proptest! {
        #[test]
        fn the_order_in_which_policies_come_is_of_no_matter(order in Just((0..5_usize).collect::<Vec<_>>()).prop_shuffle()) {
            let specs = [
                ("global//a", to("kind: Mesh", 1)),
                ("global//b", to(CART, 2)),
                ("east//a", to("kind: Mesh", 3)),
                ("east//c", to(CART, 4)),
                ("east//b", to(CART, 5)),
            ];
            let shuffled: Vec<Stored> = order.iter().map(|&index| stored(specs[index].0, &specs[index].1)).collect();
            prop_assert_eq!(request_to_cart(&shuffled), Some((5, "b".to_owned())));
        }
    }
}
