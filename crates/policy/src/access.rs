//! Decides who may call whom.
//!
//! Of the rules that match a client any denial decides; then any permission; where none speaks, the
//! answer is no. The inbound listener asks once per connection or request, and again for each open
//! one whenever the policies change.

use std::collections::BTreeSet;

use model::{DocumentKey, Name, SpiffeId, Version, WorkloadName, ZoneName};
use serde::{Deserialize, Serialize};

/// One `allow` or `deny` entry of a policy, with where it stands, so that a decision can name it.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct AccessRule {
    pub effect: Effect,
    pub clients: ClientMatch,
    pub origin: RuleOrigin,
}

/// Ordered so that a denial outranks a permission.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Let through, counted and logged as one that is about to be denied.
    AllowWithShadowDeny,
    Allow,
    Deny,
}

/// The entry of a policy that made a rule.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
pub struct RuleOrigin {
    pub policy: DocumentKey,
    pub version: Version,
    /// Where in the policy, such as `spec.rules[0].default.allow[2]`.
    pub path: String,
}

/// Which clients a rule speaks of.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientMatch {
    /// Every client, also one without an identity.
    Anyone,
    Exactly(SpiffeId),
    /// Whole path segments: `/ns/pay` does not cover `/ns/payments`. The text is an id or a trust
    /// domain (`spiffe://td`), with or without a slash at its end.
    Below(String),
    Source(SourceMatch),
    /// Those whom each of these covers.
    All(Vec<ClientMatch>),
}

/// A workload wherever it runs: any trust domain that belongs to a zone of this mesh.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceMatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<BTreeSet<ZoneName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
}

/// Who calls, as its certificate proved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    pub id: SpiffeId,
    /// The zone that owns the id's trust domain.
    pub zone: ZoneName,
}

/// The deciding rule, or none where no rule speaks and the call is refused.
pub fn deciding<'a>(rules: &'a [AccessRule], client: Option<&Client>) -> Option<&'a AccessRule> {
    rules
        .iter()
        .filter(|rule| rule.clients.covers(client))
        // The origin comes last so that every proxy names the same rule.
        .max_by_key(|rule| (rule.effect, &rule.origin))
}

impl ClientMatch {
    pub fn covers(&self, client: Option<&Client>) -> bool {
        match (self, client) {
            (Self::Anyone, _) => true,
            (Self::All(all), _) => all.iter().all(|one| one.covers(client)),
            (_, None) => false,
            (Self::Exactly(id), Some(client)) => client.id == *id,
            (Self::Below(prefix), Some(client)) => {
                let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
                let rest = client.id.as_str().strip_prefix(prefix);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            (Self::Source(source), Some(client)) => source.covers(client),
        }
    }
}

impl SourceMatch {
    /// Read off the two default shapes of paths; an identity of another shape never matches a
    /// workload, namespace or service account.
    fn covers(&self, client: &Client) -> bool {
        let segments: Vec<&str> = client.id.path().split('/').skip(1).collect();
        let (namespace, service_account, workload) = match segments[..] {
            ["ns", namespace, "sa", account] => (Some(namespace), Some(account), None),
            ["workload", workload] => (None, None, Some(workload)),
            _ => (None, None, None),
        };
        let same = |wanted: &Option<Name>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted.as_str()))
        };
        self.zones.as_ref().is_none_or(|zones| zones.contains(&client.zone))
            && same(&self.namespace, namespace)
            && same(&self.service_account, service_account)
            && same(&self.workload, workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str) -> Client {
        Client { id: id.parse().unwrap(), zone: "east".parse().unwrap() }
    }

    fn rule(effect: Effect, clients: ClientMatch, policy: &str) -> AccessRule {
        let policy = format!("MeshTrafficPermission/default/global//{policy}").parse().unwrap();
        let origin = RuleOrigin { policy, version: "global-1-1".parse().unwrap(), path: "spec".into() };
        AccessRule { effect, clients, origin }
    }

    const WEB: &str = "spiffe://default.east.mesh.local/workload/web";

    #[test]
    fn any_denial_decides_and_silence_refuses() {
        let allow = rule(Effect::Allow, ClientMatch::Anyone, "open");
        let shadow = rule(Effect::AllowWithShadowDeny, ClientMatch::Anyone, "soon");
        let deny = rule(Effect::Deny, ClientMatch::Exactly(WEB.parse().unwrap()), "no-web");
        let cases = [
            ("silence refuses", vec![], None),
            ("a permission lets through", vec![allow.clone()], Some("open")),
            ("a shadow denial lets through", vec![shadow.clone()], Some("soon")),
            ("a plain permission outranks it", vec![allow.clone(), shadow], Some("open")),
            ("a denial wins, first", vec![deny.clone(), allow.clone()], Some("no-web")),
            ("a denial wins, last", vec![allow, deny], Some("no-web")),
        ];
        for (why, rules, want) in cases {
            let got = deciding(&rules, Some(&client(WEB))).map(|rule| rule.origin.policy.name.as_str());
            assert_eq!(got, want, "{why}");
        }
    }

    #[test]
    fn s24_a_prefix_covers_whole_segments() {
        let cases = [
            ("spiffe://td/ns/pay", "spiffe://td/ns/pay", true),
            ("spiffe://td/ns/pay", "spiffe://td/ns/pay/sa/web", true),
            ("spiffe://td/ns/pay/", "spiffe://td/ns/pay/sa/web", true),
            ("spiffe://td/ns/pay", "spiffe://td/ns/payments/sa/web", false),
            ("spiffe://td", "spiffe://td/ns/pay", true),
            ("spiffe://td/", "spiffe://td/ns/pay", true),
            ("spiffe://td", "spiffe://tdx/ns/pay", false),
        ];
        for (prefix, id, want) in cases {
            let rules = [rule(Effect::Allow, ClientMatch::Below(prefix.into()), "p")];
            assert_eq!(deciding(&rules, Some(&client(id))).is_some(), want, "{prefix} {id}");
        }
    }

    #[test]
    fn a_source_is_a_workload_in_every_zone_or_in_some() {
        let workload = SourceMatch { workload: Some("web".parse().unwrap()), ..SourceMatch::default() };
        let account = SourceMatch {
            namespace: Some("shop".parse().unwrap()),
            service_account: Some("web".parse().unwrap()),
            ..SourceMatch::default()
        };
        let west = SourceMatch { zones: Some(["west".parse().unwrap()].into()), ..SourceMatch::default() };
        let cases = [
            (&SourceMatch::default(), WEB, true),
            (&workload, WEB, true),
            (&workload, "spiffe://other.west.mesh.local/workload/web", true),
            (&workload, "spiffe://td/workload/web/x", false),
            (&workload, "spiffe://td/ns/shop/sa/web", false),
            (&workload, "spiffe://td/x/workload/web", false),
            (&account, "spiffe://td/ns/shop/sa/web", true),
            (&account, "spiffe://td/ns/other/sa/web", false),
            (&account, WEB, false),
            (&west, WEB, false),
        ];
        for (source, id, want) in cases {
            assert_eq!(source.covers(&client(id)), want, "{source:?} {id}");
        }
    }

    #[test]
    fn rules_keep_their_shape_on_the_wire() {
        let source = SourceMatch { workload: Some("web".parse().unwrap()), ..SourceMatch::default() };
        let cases = [
            (ClientMatch::Anyone, r#""anyone""#),
            (
                ClientMatch::Exactly(WEB.parse().unwrap()),
                r#"{"exactly":"spiffe://default.east.mesh.local/workload/web"}"#,
            ),
            (ClientMatch::Below("spiffe://td".into()), r#"{"below":"spiffe://td"}"#),
            (ClientMatch::Source(source), r#"{"source":{"workload":"web"}}"#),
            (ClientMatch::All(vec![ClientMatch::Anyone]), r#"{"all":["anyone"]}"#),
        ];
        for (clients, want) in cases {
            assert_eq!(serde_json::to_string(&clients).unwrap(), want);
            assert_eq!(serde_json::from_str::<ClientMatch>(want).unwrap(), clients);
        }
        let rule =
            serde_json::to_string(&rule(Effect::AllowWithShadowDeny, ClientMatch::Anyone, "p")).unwrap();
        let want = concat!(
            r#"{"effect":"allowWithShadowDeny","clients":"anyone","#,
            r#""origin":{"policy":"MeshTrafficPermission/default/global//p","version":"global-1-1","path":"spec"}}"#
        );
        assert_eq!(rule, want);
    }

    #[test]
    fn conditions_together_must_all_hold() {
        let both = |workload: &str| {
            let source = SourceMatch { workload: Some(workload.parse().unwrap()), ..SourceMatch::default() };
            ClientMatch::All(vec![
                ClientMatch::Below("spiffe://default.east.mesh.local".into()),
                ClientMatch::Source(source),
            ])
        };
        assert!(both("web").covers(Some(&client(WEB))));
        assert!(!both("api").covers(Some(&client(WEB))));
        assert!(!both("web").covers(Some(&client("spiffe://default.west.mesh.local/workload/web"))));
        assert!(!both("web").covers(None));
    }

    #[test]
    fn without_an_identity_only_a_rule_for_anyone_speaks() {
        let named = rule(Effect::Allow, ClientMatch::Source(SourceMatch::default()), "mesh");
        let anyone = rule(Effect::Allow, ClientMatch::Anyone, "open");
        assert!(deciding(std::slice::from_ref(&named), None).is_none());
        assert_eq!(deciding(&[named, anyone.clone()], None), Some(&anyone));
    }
}
