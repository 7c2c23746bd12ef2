//! MeshTimeout: how long connections and requests may take, on the way to destinations (`to`) or into a
//! proxy's own inbounds (`rules`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::matching::{Match, read_match};
use super::target::ToKind;
use super::{Author, Kind, Naming, ResourceSpec, Role, Root, Scope, TargetRef, ToRef, Travels};
use crate::document::{self, Defaults, Document, Fields, Item, Tree};
use crate::duration::as_text;
use crate::labels::Labels;
use crate::name::{MeshName, Name};

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshTimeout {
    pub target: TargetRef,
    pub entries: Entries,
}

/// A policy has one of the two, with at least one member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entries {
    To(Vec<To>),
    Rules(Vec<Rule>),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct To {
    pub target: ToRef,
    pub default: Timeouts,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Whose traffic it is about: what any of them covers. Without any, everybody's.
    pub matches: Vec<Match>,
    pub default: Timeouts,
}

/// What is set; at least one. Zero disables, but a connection always has a time to be made in. Its JSON is
/// what an author would write.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub connection_timeout: Option<Duration>,
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    #[serde(skip_serializing_if = "HttpTimeouts::is_empty")]
    pub http: HttpTimeouts,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpTimeouts {
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Duration>,
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub stream_idle_timeout: Option<Duration>,
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub max_stream_duration: Option<Duration>,
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<Duration>,
    #[serde(with = "as_text", skip_serializing_if = "Option::is_none")]
    pub request_headers_timeout: Option<Duration>,
}

impl HttpTimeouts {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl MeshTimeout {
    /// Whose word it is, where its own namespace wrote it.
    pub fn role(&self, namespace: Option<&Name>) -> Role {
        match &self.entries {
            Entries::To(to) => Role::of(namespace, Some(to.iter().map(|entry| &entry.target))),
            Entries::Rules(_) => Role::of(namespace, None::<[&ToRef; 0]>),
        }
    }

    /// What a new mesh has for its inbounds.
    pub fn for_all(mesh: &MeshName) -> Document {
        let http = json!({ "streamIdleTimeout": "1h" });
        let default = json!({ "connectionTimeout": "10s", "idleTimeout": "2h", "http": http });
        initial(mesh, "mesh-timeout-all", json!({ "rules": [{ "default": default }] }))
    }

    /// What a new mesh has for its destinations.
    pub fn for_all_destinations(mesh: &MeshName) -> Document {
        let http = json!({ "requestTimeout": "15s", "streamIdleTimeout": "30m" });
        let default = json!({ "connectionTimeout": "5s", "idleTimeout": "1h", "http": http });
        let to = json!([{ "targetRef": { "kind": "Mesh" }, "default": default }]);
        initial(mesh, "mesh-timeout-to-all", json!({ "to": to }))
    }
}

fn initial(mesh: &MeshName, name: &str, spec: serde_json::Value) -> Document {
    let json = json!({ "type": "MeshTimeout", "mesh": mesh, "name": name, "spec": spec });
    document::read(&Tree::from(json), &Defaults::default()).expect("the documents above are valid")
}

impl ResourceSpec for MeshTimeout {
    const KIND: Kind = Kind {
        name: "MeshTimeout",
        plural: "meshtimeouts",
        short: "mto",
        scope: Scope::Mesh,
        author: Author::Both,
        travels: Travels::DOWN_AND_UP,
        naming: Naming::Subdomain,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let target = TargetRef::read(fields);
        let has = |name: &str| fields.has(name) && !fields.is_empty_list(name);
        let (has_to, has_rules) = (has("to"), has("rules"));
        if has_to == has_rules {
            fields.whole().refuse("must have either 'to' or 'rules', with at least one member");
        }
        let to = fields.list_of("to", |item| item.object(read_to));
        let rules = fields.list_of("rules", |item| item.object(read_rule));
        Some(Self { target: target?, entries: if has_to { Entries::To(to) } else { Entries::Rules(rules) } })
    }

    fn check_labels(&self, namespace: Option<&Name>, labels: &Labels, item: &Item<'_>) {
        self.role(namespace).check_stated(labels, item);
    }
}

fn read_to(fields: &mut Fields<'_>) -> Option<To> {
    let target = ToRef::read(fields, &ToKind::ALL);
    let of_route = matches!(target, Some(ToRef::Route { .. }));
    let default = read_default(fields, of_route.then_some("a route"));
    Some(To { target: target?, default: default? })
}

fn read_rule(fields: &mut Fields<'_>) -> Option<Rule> {
    let matches = fields.list_of("matches", |item| read_match(&item));
    let of_clients = matches.iter().any(|one| one.spiffe_id.is_some() || one.source.is_some());
    let default = read_default(fields, of_clients.then_some("some clients"));
    Some(Rule { matches, default: default? })
}

/// What is set only for `part_of_traffic` cannot be about connections, which others share.
fn read_default(fields: &mut Fields<'_>, part_of_traffic: Option<&str>) -> Option<Timeouts> {
    fields.required("default")?.object(|fields| {
        let connection_timeout = fields.optional("connectionTimeout");
        let idle_timeout = fields.optional("idleTimeout");
        for item in [&connection_timeout, &idle_timeout].into_iter().flatten() {
            refuse_for(item, part_of_traffic);
        }
        let http = fields.optional("http");
        if connection_timeout.is_none() && idle_timeout.is_none() && http.is_none() && !fields.has_unknown() {
            fields.whole().refuse("must have at least one of connectionTimeout, idleTimeout and http");
        }
        Some(Timeouts {
            connection_timeout: connection_timeout.and_then(|item| match item.duration()? {
                Duration::ZERO => item.fail("must be greater than zero"),
                timeout => Some(timeout),
            }),
            idle_timeout: idle_timeout.and_then(|item| item.duration()),
            http: http.and_then(|item| read_http(&item, part_of_traffic)).unwrap_or_default(),
        })
    })
}

fn read_http(item: &Item<'_>, part_of_traffic: Option<&str>) -> Option<HttpTimeouts> {
    item.object(|fields| {
        let mut any = false;
        let mut take = |name: &'static str, is_of_stream: bool| {
            let item = fields.optional(name)?;
            any = true;
            if !is_of_stream {
                refuse_for(&item, part_of_traffic);
            }
            item.duration()
        };
        let read = HttpTimeouts {
            request_timeout: take("requestTimeout", true),
            stream_idle_timeout: take("streamIdleTimeout", true),
            max_stream_duration: take("maxStreamDuration", false),
            max_connection_duration: take("maxConnectionDuration", false),
            request_headers_timeout: take("requestHeadersTimeout", false),
        };
        if !any && !fields.has_unknown() {
            fields.whole().refuse(
                "must have at least one of requestTimeout, streamIdleTimeout, maxStreamDuration, \
                 maxConnectionDuration and requestHeadersTimeout",
            );
        }
        Some(read)
    })
}

fn refuse_for(item: &Item<'_>, part_of_traffic: Option<&str>) {
    if let Some(part) = part_of_traffic {
        item.refuse(format!("cannot be set for {part} alone: only requestTimeout and streamIdleTimeout can"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::ServiceKind;
    use crate::kinds::testing::{right, wrong};

    #[test]
    fn an_entry_sets_some_timeouts_for_some_destinations() {
        let spec: MeshTimeout = right(
            "targetRef: {kind: Dataplane, labels: {app: web}}
to:
  - targetRef: {kind: Mesh}
    default: {connectionTimeout: 5s, idleTimeout: 0s, http: {requestTimeout: 0s, maxStreamDuration: 1m}}
  - targetRef: {kind: MeshService, labels: {kuma.io/display-name: cart}, sectionName: http}
    default: {http: {requestTimeout: 250ms}}
  - targetRef: {kind: MeshHTTPRoute, labels: {app: shop}}
    default: {http: {streamIdleTimeout: 1h}}",
        );
        let Entries::To(to) = &spec.entries else { panic!("{spec:?}") };
        assert_eq!(to[0].target, ToRef::Mesh);
        assert_eq!(to[0].default.idle_timeout, Some(Duration::ZERO));
        assert_eq!(to[0].default.http.max_stream_duration, Some(Duration::from_secs(60)));
        let ToRef::Service { kind, labels, section } = &to[1].target else { panic!("{spec:?}") };
        assert_eq!((*kind, labels.get("tombolo.io/display-name")), (ServiceKind::MeshService, Some("cart")));
        assert_eq!(section.as_ref().map(|section| section.as_str()), Some("http"));
        assert!(matches!(to[2].target, ToRef::Route { .. }));
    }

    #[test]
    fn its_json_is_what_an_author_would_write() {
        let spec: MeshTimeout =
            right("rules: [{default: {idleTimeout: 90s, http: {requestHeadersTimeout: 500ms}}}]");
        let Entries::Rules(rules) = spec.entries else { panic!() };
        let json = serde_json::to_value(rules[0].default).unwrap();
        assert_eq!(json, json!({ "idleTimeout": "1m30s", "http": { "requestHeadersTimeout": "500ms" } }));
        assert_eq!(serde_json::from_value::<Timeouts>(json).unwrap(), rules[0].default);
    }

    #[test]
    fn a_new_mesh_has_one_for_inbounds_and_one_for_destinations() {
        let mesh = "shop".parse().unwrap();
        for (document, name) in [
            (MeshTimeout::for_all(&mesh), "mesh-timeout-all"),
            (MeshTimeout::for_all_destinations(&mesh), "mesh-timeout-to-all"),
        ] {
            assert_eq!((document.mesh.as_deref(), document.name.as_str()), (Some("shop"), name));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let to = |to: &str, default: &str| format!("to: [{{targetRef: {{{to}}}, default: {{{default}}}}}]");
        let rule = |matches: &str, default: &str| {
            format!("rules: [{{matches: [{matches}], default: {{{default}}}}}]")
        };
        let service = "kind: MeshService, labels: {a: b}";
        let web = "spiffeID: {type: Exact, value: 'spiffe://td/web'}";
        let cases = [
            (String::new(), vec!["spec"]),
            ("to: []".into(), vec!["spec"]),
            (format!("{}\nrules: [{{default: {{idleTimeout: 1s}}}}]", to("kind: Mesh", "idleTimeout: 1s")), vec![
                "spec",
            ]),
            (to("kind: MeshSubset", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.kind"]),
            (to("kind: MeshGateway, tags: {a: b}", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.kind"]),
            (to("labels: {a: b}", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.kind"]),
            (to("kind: Mesh, labels: {a: b}", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.labels"]),
            (to("kind: MeshService", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.labels"]),
            (to("kind: MeshService, labels: {}", "idleTimeout: 1s"), vec!["spec.to[0].targetRef.labels"]),
            (to("kind: MeshExternalService, labels: {a: b}, sectionName: x", "idleTimeout: 1s"), vec![
                "spec.to[0].targetRef.sectionName",
            ]),
            (to(service, ""), vec!["spec.to[0].default"]),
            (to(service, "http: {}"), vec!["spec.to[0].default.http"]),
            (to(service, "connectionTimeout: 0s, idleTimeout: -1s, http: {requestTimeout: 5}"), vec![
                "spec.to[0].default.connectionTimeout",
                "spec.to[0].default.idleTimeout",
                "spec.to[0].default.http.requestTimeout",
            ]),
            (to("kind: MeshHTTPRoute, labels: {a: b}", "idleTimeout: 1s, http: {maxStreamDuration: 1s}"), vec![
                "spec.to[0].default.idleTimeout",
                "spec.to[0].default.http.maxStreamDuration",
            ]),
            (rule("{}", "idleTimeout: 1s"), vec!["spec.rules[0].matches[0]"]),
            (rule(&format!("{{{web}}}"), "connectionTimeout: 1s"), vec!["spec.rules[0].default.connectionTimeout"]),
            (rule("{source: {}}", "idleTimeout: 1s"), vec!["spec.rules[0].default.idleTimeout"]),
            (format!("targetRef: {{kind: Dataplane, sectionName: a}}\n{}", to(service, "idleTimeout: 1s")), vec![
                "spec.targetRef.sectionName",
            ]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshTimeout>(&spec), want, "{spec}");
        }
        for spec in [
            rule("{sni: {type: Exact, value: a.b}}", "connectionTimeout: 1s"),
            rule(&format!("{{{web}}}"), "http: {requestTimeout: 0s, streamIdleTimeout: 1s}"),
            format!("targetRef: {{kind: Dataplane, sectionName: a}}\n{}", rule("", "idleTimeout: 1s")),
        ] {
            assert_eq!(wrong::<MeshTimeout>(&spec), [""; 0], "{spec}");
        }
    }
}
