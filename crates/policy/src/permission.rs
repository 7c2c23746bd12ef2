//! Decides which access rules of the MeshTrafficPermissions an inbound has.
//!
//! No policy is stronger than another here: any denial wins, whatever policy it stands in, so there is
//! no order and no merging. What cannot be evaluated never opens anything:
//!
//! - A match with a condition that this program does not know forbids by the conditions that it does
//!   know, and allows nothing.
//! - An inbound is reached by its endpoint's handle, never by a name of a destination, so a match that
//!   asks for an `sni` is not about its traffic: it neither allows nor forbids anything there. It is
//!   for the listeners of zone proxies.
//! - A policy of which nobody here ever read a version may forbid anything to anyone, so it forbids everything.

use model::kinds::MeshTrafficPermission;
use model::kinds::matching::Match;
use model::{DocumentKey, SectionName, Version};

use crate::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
use crate::matching;
use crate::targeting::{Policy, Proxy};

/// A MeshTrafficPermission with what its envelope says.
pub type Permission<'a> = Policy<'a, MeshTrafficPermission>;

/// The rules for one inbound of a proxy, ordered by policy and place, whatever the order of the policies.
/// Without any rule everything is denied.
pub fn rules_for<'a>(
    permissions: impl IntoIterator<Item = Permission<'a>>,
    proxy: &Proxy,
    inbound: &SectionName,
) -> Vec<AccessRule> {
    let mut selected: Vec<Permission<'a>> = permissions
        .into_iter()
        .filter(|permission| {
            let scope = permission.scope();
            scope.is_enforced() && scope.selects(&permission.spec.target, proxy, inbound)
        })
        .collect();
    selected.sort_by_key(|permission| (permission.key, permission.version));
    selected.into_iter().flat_map(rules_of).collect()
}

/// What stands for a permission that cannot be read, where no earlier version of it is in force.
pub fn unread(key: &DocumentKey, version: &Version) -> AccessRule {
    let origin = RuleOrigin { policy: key.clone(), version: version.clone(), path: "spec".to_owned() };
    AccessRule { effect: Effect::Deny, clients: ClientMatch::Anyone, origin }
}

fn rules_of(permission: Permission<'_>) -> impl Iterator<Item = AccessRule> {
    permission.spec.rules.iter().enumerate().flat_map(move |(index, rule)| {
        let lists = [
            (Effect::Deny, "deny", &rule.deny),
            (Effect::Allow, "allow", &rule.allow),
            (Effect::AllowWithShadowDeny, "allowWithShadowDeny", &rule.allow_with_shadow_deny),
        ];
        lists.into_iter().flat_map(move |(effect, list, matches)| {
            matches.iter().enumerate().filter_map(move |(place, one)| {
                let origin = RuleOrigin {
                    policy: permission.key.clone(),
                    version: permission.version.clone(),
                    path: format!("spec.rules[{index}].default.{list}[{place}]"),
                };
                clients(one, effect).map(|clients| AccessRule { effect, clients, origin })
            })
        })
    })
}

/// Whom a match means on an inbound; none if it is not about inbounds, or may not count here.
fn clients(one: &Match, effect: Effect) -> Option<ClientMatch> {
    if one.sni.is_some() || (one.partial && effect != Effect::Deny) {
        return None;
    }
    // All its conditions are unknown: then it forbids everyone.
    Some(matching::clients(one).unwrap_or(ClientMatch::Anyone))
}

#[cfg(test)]
mod tests {
    use model::document::{Document, Mode, parse_one};
    use model::{MeshName, Origin, Record};
    use proptest::prelude::*;

    use super::*;
    use crate::access::{Client, SourceMatch, deciding};

    /// A policy as it comes out of a store.
    struct Stored {
        key: DocumentKey,
        version: Version,
        document: Document,
    }

    impl Stored {
        fn permission(&self) -> Permission<'_> {
            Permission {
                key: &self.key,
                version: &self.version,
                labels: &self.document.labels,
                spec: self.document.spec_as().unwrap(),
            }
        }
    }

    fn stored(origin: &str, name: &str, spec: &str, mode: Mode) -> Stored {
        let yaml = format!("type: MeshTrafficPermission\nname: {name}\nmesh: default\n{spec}");
        let tree = parse_one(&yaml).unwrap();
        let origin: Origin = origin.parse().unwrap();
        let key: DocumentKey = format!("MeshTrafficPermission/default/{origin}//{name}").parse().unwrap();
        let version = Version::new(origin, 1, 7);
        let document = match mode {
            Mode::Strict => model::document::read(&tree, &Default::default()).unwrap(),
            Mode::Tolerant => Document::from_record(&Record {
                key: key.clone(),
                version: version.clone(),
                secret: false,
                requires: vec![],
                bundle: None,
                bytes: model::document::canonical(&tree).into(),
            })
            .unwrap(),
        };
        Stored { key, version, document }
    }

    fn proxy() -> Proxy {
        let mesh: MeshName = "default".parse().unwrap();
        let labels = [("app", "cart")].map(|(key, value)| (key.parse().unwrap(), value.parse().unwrap()));
        Proxy { mesh, zone: "east".parse().unwrap(), namespace: None, labels: labels.into_iter().collect() }
    }

    fn client(id: &str, zone: &str) -> Client {
        Client { id: id.parse().unwrap(), zone: zone.parse().unwrap() }
    }

    const WEB: &str = "spiffe://default.east.mesh.local/workload/web";

    /// The path of the rule that decides about WEB at the inbound `http` of a proxy `app: cart` in east.
    fn decided(policies: &[Stored]) -> Option<(Effect, String)> {
        let rules = rules_for(policies.iter().map(Stored::permission), &proxy(), &"http".parse().unwrap());
        deciding(&rules, Some(&client(WEB, "east"))).map(|rule| (rule.effect, rule.origin.path.clone()))
    }

    #[test]
    fn a_permission_speaks_where_it_targets() {
        let allow = "rules: [{default: {allow: [{source: {workload: web}}]}}]";
        let cases = [
            ("global", "", true),
            ("east", "", true),
            ("west", "", false),
            ("global", "targetRef: {kind: Mesh}\n", true),
            ("global", "targetRef: {kind: Dataplane, labels: {app: cart}}\n", true),
            ("global", "targetRef: {kind: Dataplane, labels: {app: web}}\n", false),
            ("global", "targetRef: {kind: Dataplane, labels: {app: cart}, sectionName: http}\n", true),
            ("global", "targetRef: {kind: Dataplane, labels: {app: cart}, sectionName: admin}\n", false),
            ("global", "labels: {kuma.io/effect: shadow}\n", false),
        ];
        for (origin, head, want) in cases {
            let policy = stored(origin, "p", &format!("{head}{allow}"), Mode::Strict);
            let want = want.then(|| (Effect::Allow, "spec.rules[0].default.allow[0]".to_owned()));
            assert_eq!(decided(&[policy]), want, "{origin} {head}");
        }
    }

    #[test]
    fn every_list_and_match_becomes_a_rule_that_says_where_it_stands() {
        let spec = "
rules:
  - default:
      deny: [{spiffeID: {type: Exact, value: spiffe://td/workload/evil}}]
      allow:
        - spiffeID: {type: Prefix, value: spiffe://td/ns/shop/}
        - {spiffeID: {type: Prefix, value: 'spiffe://td'}, source: {zones: [west]}}
  - default:
      allowWithShadowDeny: [{source: {}}]
";
        let policy = stored("global", "p", spec, Mode::Strict);
        let rules = rules_for([policy.permission()], &proxy(), &8080.into());
        let found: Vec<(&str, &ClientMatch)> =
            rules.iter().map(|rule| (rule.origin.path.as_str(), &rule.clients)).collect();
        let west = SourceMatch { zones: Some(["west".parse().unwrap()].into()), ..SourceMatch::default() };
        let both = vec![ClientMatch::Below("spiffe://td".into()), ClientMatch::Source(west)];
        let want = [
            (
                "spec.rules[0].default.deny[0]",
                ClientMatch::Exactly("spiffe://td/workload/evil".parse().unwrap()),
            ),
            ("spec.rules[0].default.allow[0]", ClientMatch::Below("spiffe://td/ns/shop/".into())),
            ("spec.rules[0].default.allow[1]", ClientMatch::All(both)),
            ("spec.rules[1].default.allowWithShadowDeny[0]", ClientMatch::Source(SourceMatch::default())),
        ];
        assert_eq!(found, want.iter().map(|(path, clients)| (*path, clients)).collect::<Vec<_>>());
        assert_eq!(rules[0].origin.version.to_string(), "global-1-7");
    }

    #[test]
    fn what_cannot_be_evaluated_never_opens_anything() {
        let cases = [
            ("an sni is not about inbounds", "allow: [{sni: {type: Exact, value: a.b}}]", None),
            (
                "nor is its denial",
                "deny: [{sni: {type: Exact, value: a.b}}], allow: [{source: {}}]",
                Some(Effect::Allow),
            ),
            ("an unknown condition allows nothing", "allow: [{source: {}, weather: sunny}]", None),
            ("nor inside a known one", "allow: [{source: {workload: web, weather: sunny}}]", None),
            ("nor alone", "allow: [{http: {methods: [GET]}}]", None),
            ("nor around the match", "allow: [{source: {}}], unless: sunny", None),
            ("nor by a newer type", "allow: [{spiffeID: {type: Regex, value: '.*'}}]", None),
            (
                "but it forbids",
                "deny: [{source: {}, weather: sunny}], allow: [{source: {}}]",
                Some(Effect::Deny),
            ),
            ("also alone", "deny: [{http: {methods: [GET]}}], allow: [{source: {}}]", Some(Effect::Deny)),
            (
                "and by a newer type",
                "deny: [{spiffeID: {type: Glob, pattern: x}}], allow: [{source: {}}]",
                Some(Effect::Deny),
            ),
            (
                "whom it is known to mean",
                "deny: [{source: {workload: api}, http: {}}], allow: [{source: {}}]",
                Some(Effect::Allow),
            ),
        ];
        for (why, lists, want) in cases {
            let policy = stored("global", "p", &format!("rules: [{{default: {{{lists}}}}}]"), Mode::Tolerant);
            assert_eq!(decided(&[policy]).map(|(effect, _)| effect), want, "{why}");
        }
        let narrowed = "
targetRef: {kind: Dataplane, labels: {app: cart}, unless: sunny}
rules: [{default: {allow: [{source: {}}]}}]";
        assert_eq!(decided(&[stored("global", "p", narrowed, Mode::Tolerant)]), None);
    }

    fn policies() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
        let lists = proptest::collection::vec(0..8_u8, 1..4);
        proptest::collection::vec((0..3_u8, lists), 0..6)
    }

    fn policy(index: usize, origin: u8, entries: &[u8]) -> Stored {
        let matches = [
            "{source: {}}",
            "{source: {workload: web}}",
            "{spiffeID: {type: Prefix, value: spiffe://default.east.mesh.local}}",
            "{source: {workload: api}}",
        ];
        let rules: Vec<String> = entries
            .iter()
            .map(|entry| {
                let list = if entry % 2 == 0 { "allow" } else { "deny" };
                format!("{{default: {{{list}: [{}]}}}}", matches[usize::from(entry / 2)])
            })
            .collect();
        let origin = ["global", "east", "west"][usize::from(origin)];
        stored(origin, &format!("p{index}"), &format!("rules: [{}]", rules.join(", ")), Mode::Strict)
    }

    proptest! {
        #[test]
        fn s25_the_order_of_policies_never_flips_a_denial(
            (given, shuffled) in policies().prop_flat_map(|given| {
                let indexed: Vec<(usize, (u8, Vec<u8>))> = given.into_iter().enumerate().collect();
                (Just(indexed.clone()), Just(indexed).prop_shuffle())
            })
        ) {
            let make = |list: &[(usize, (u8, Vec<u8>))]| -> Vec<Stored> {
                list.iter().map(|(index, (origin, entries))| policy(*index, *origin, entries)).collect()
            };
            let denied = given.iter().any(|(_, (origin, entries))| {
                // West's policies are not for east's proxies; entry 7 denies another workload.
                *origin != 2 && entries.iter().any(|entry| entry % 2 == 1 && *entry != 7)
            });
            let first = decided(&make(&given));
            prop_assert_eq!(first.as_ref().is_some_and(|(effect, _)| *effect == Effect::Deny), denied);
            prop_assert_eq!(decided(&make(&shuffled)), first);
        }
    }
}
