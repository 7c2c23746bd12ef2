//! MeshTrafficPermission: who may call whom.

use super::matching::read_match;
use super::{Author, Kind, Naming, ResourceSpec, Role, Root, Scope, TargetRef, ToRef, Travels};
use crate::document::{Fields, Item};
use crate::labels::Labels;
use crate::name::Name;

pub use super::matching::{Match, Source, SpiffeIdMatch};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshTrafficPermission {
    pub target: TargetRef,
    /// At least one.
    pub rules: Vec<Rule>,
}

/// At least one of the lists has a match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    pub deny: Vec<Match>,
    pub allow: Vec<Match>,
    pub allow_with_shadow_deny: Vec<Match>,
}

impl Rule {
    fn matches(&self) -> impl Iterator<Item = &Match> {
        [&self.deny, &self.allow, &self.allow_with_shadow_deny].into_iter().flatten()
    }

    fn matches_mut(&mut self) -> impl Iterator<Item = &mut Match> {
        [&mut self.deny, &mut self.allow, &mut self.allow_with_shadow_deny].into_iter().flatten()
    }
}

impl ResourceSpec for MeshTrafficPermission {
    const KIND: Kind = Kind {
        name: "MeshTrafficPermission",
        plural: "meshtrafficpermissions",
        short: "mtp",
        scope: Scope::Mesh,
        author: Author::Both,
        travels: Travels::DOWN_AND_UP,
        naming: Naming::Subdomain,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let ignored = fields.report().ignored();
        let target = TargetRef::read(fields);
        let mut rules: Vec<Rule> = fields.list_of("rules", |item| {
            item.object(|fields| fields.required("default").and_then(|item| read_rule(&item)))
        });
        let ignored_in_matches = rules.iter().flat_map(Rule::matches).filter(|one| one.partial).count();
        if fields.report().ignored() > ignored + ignored_in_matches || fields.has_unknown() {
            rules.iter_mut().flat_map(Rule::matches_mut).for_each(|one| one.partial = true);
        }
        let has_rules = fields.has("rules") && !fields.is_empty_list("rules");
        if !has_rules {
            fields.whole().refuse("must have at least one rule in 'rules'");
        }
        Some(Self { target: target?, rules })
    }

    fn check_labels(&self, namespace: Option<&Name>, labels: &Labels, item: &Item<'_>) {
        Role::of(namespace, None::<[&ToRef; 0]>).check_stated(labels, item);
    }
}

fn read_rule(item: &Item<'_>) -> Option<Rule> {
    item.object(|fields| {
        let rule = Rule {
            deny: fields.list_of("deny", |item| read_match(&item)),
            allow: fields.list_of("allow", |item| read_match(&item)),
            allow_with_shadow_deny: fields.list_of("allowWithShadowDeny", |item| read_match(&item)),
        };
        let lists = ["deny", "allow", "allowWithShadowDeny"];
        if lists.iter().all(|list| !fields.has(list) || fields.is_empty_list(list)) {
            fields.whole().refuse("must have a match in at least one of deny, allow and allowWithShadowDeny");
        }
        Some(rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{right, wrong};

    #[test]
    fn a_rule_lists_whom_it_denies_and_allows() {
        let spec: MeshTrafficPermission = right(
            "targetRef: {kind: Dataplane, labels: {app: cart}, sectionName: http}
rules:
  - default:
      deny: [{spiffeID: {type: Prefix, value: 'spiffe://td/ns/evil'}}]
      allow: [{source: {}}, {source: {zones: [east], workload: web}}, {sni: {type: Exact, value: a.b}}]
      allowWithShadowDeny: []",
        );
        let TargetRef::Dataplane { labels, section } = &spec.target else { panic!("{spec:?}") };
        assert_eq!((labels.get("app"), section.as_ref().map(|section| section.as_str())), (Some("cart"), Some("http")));
        let [rule] = &spec.rules[..] else { panic!("{spec:?}") };
        assert_eq!(rule.deny[0].spiffe_id, Some(SpiffeIdMatch::Prefix("spiffe://td/ns/evil".into())));
        assert_eq!(rule.allow[0].source, Some(Source::default()));
        let source = rule.allow[1].source.clone().unwrap();
        assert_eq!(source.zones, Some(vec!["east".parse().unwrap()]));
        assert_eq!(source.workload, Some("web".parse().unwrap()));
        assert!(spec.rules.iter().flat_map(Rule::matches).all(|one| !one.partial));
    }

    #[test]
    fn a_stated_role_is_the_one_that_it_has() {
        let read = |metadata: &str, role: &str| {
            let text = format!(
                "apiVersion: tombolo.io/v1alpha1
kind: MeshTrafficPermission
metadata: {{name: a, {metadata} labels: {{kuma.io/policy-role: {role}}}}}
spec: {{rules: [{{default: {{deny: [{{source: {{}}}}]}}}}]}}"
            );
            let tree = crate::document::parse_one(&text).unwrap();
            let violations = crate::document::read(&tree, &Default::default()).err().unwrap_or_default();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        let refused = ["labels[\"kuma.io/policy-role\"]"];
        assert_eq!(read("", "system"), [""; 0]);
        assert_eq!(read("", "workload-owner"), refused);
        assert_eq!(read("namespace: shop,", "workload-owner"), [""; 0]);
        assert_eq!(read("namespace: shop,", "producer"), refused);
    }

    #[test]
    fn mistakes_are_named() {
        let in_allow = |one: &str| format!("rules: [{{default: {{allow: [{one}]}}}}]");
        let allow = |rest: &str| format!("spec.rules[0].default.allow[0]{rest}");
        let cases = [
            (String::new(), vec!["spec".to_owned()]),
            ("rules: []".into(), vec!["spec".into()]),
            ("rules: [{}]".into(), vec!["spec.rules[0].default".into()]),
            ("rules: [{default: {}}]".into(), vec!["spec.rules[0].default".into()]),
            ("rules: [{default: {deny: []}}]".into(), vec!["spec.rules[0].default".into()]),
            ("from: []\nrules: [{default: {deny: [{source: {}}]}}]".into(), vec!["spec.from".into()]),
            ("targetRef: {kind: MeshService, labels: {a: b}}\nrules: [{default: {deny: [{source: {}}]}}]".into(), vec![
                "spec.targetRef.kind".into(),
            ]),
            ("targetRef: {kind: Mesh, labels: {a: b}}\nrules: [{default: {deny: [{source: {}}]}}]".into(), vec![
                "spec.targetRef.labels".into(),
            ]),
            (in_allow("{}"), vec![allow("")]),
            (in_allow("{spiffeID: {}}"), vec![allow("")]),
            (in_allow("{spiffeID: {type: Regex, value: x}}"), vec![allow(".spiffeID.type")]),
            (in_allow("{spiffeID: {type: Exact, value: 'spiffe://td'}}"), vec![allow(".spiffeID.value")]),
            (in_allow("{spiffeID: {type: Prefix, value: x}}"), vec![allow(".spiffeID.value")]),
            (in_allow("{sni: {type: Exact, value: ''}}"), vec![allow(".sni.value")]),
            (in_allow("{source: {zones: []}}"), vec![allow(".source.zones")]),
            (in_allow("{source: {zones: [global], workload: A}}"), vec![
                allow(".source.zones[0]"),
                allow(".source.workload"),
            ]),
            (in_allow("{source: {}, http: {}}"), vec![allow(".http")]),
            (in_allow("{http: {methods: [GET]}}"), vec![allow(".http")]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshTrafficPermission>(&spec), want, "{spec}");
        }
    }
}
