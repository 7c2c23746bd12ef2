//! Which columns a table of documents has: the same few for all kinds, and in a wide table what matters
//! most of a kind.

use model::kinds::Kind;
use serde_json::Value;

use crate::output::Cell;

pub(crate) fn header(kind: &Kind, wide: bool) -> Vec<&'static str> {
    let mut header = vec!["NAME", "OWNER", "REVISION"];
    if kind.is_mesh_scoped() {
        header.insert(0, "MESH");
    }
    if wide {
        header.push("NAMESPACE");
        header.extend(details(kind).iter().map(|(name, _)| *name));
        header.push("LABELS");
    }
    header
}

pub(crate) fn row(kind: &Kind, document: &Value, wide: bool) -> Vec<Cell> {
    let mut row = named(kind, document);
    if wide {
        row.push(text(&document["status"]["namespace"]).into());
        row.extend(details(kind).iter().map(|(_, show)| Cell::from(show(spec(document)))));
        row.push(labels(document).into());
    }
    row
}

/// Of one that is gone nobody says any more what it said.
pub(crate) fn gone_row(kind: &Kind, document: &Value, wide: bool) -> Vec<Cell> {
    let mut row = named(kind, document);
    if wide {
        row.push(text(&document["status"]["namespace"]).into());
    }
    row.resize(header(kind, wide).len(), Cell::default());
    row
}

fn named(kind: &Kind, document: &Value) -> Vec<Cell> {
    let status = &document["status"];
    let mut row: Vec<Cell> =
        vec![name(document).into(), text(&status["origin"]).into(), text(&status["revision"]).into()];
    if kind.is_mesh_scoped() {
        row.insert(0, text(&status["labels"]["tombolo.io/mesh"]).into());
    }
    row
}

/// The name that its author gave it.
pub(crate) fn name(document: &Value) -> String {
    let shown = &document["status"]["labels"]["tombolo.io/display-name"];
    // A name too long for a label stands in the document alone.
    let named = [shown, &document["name"], &document["metadata"]["name"]].into_iter().find_map(Value::as_str);
    named.unwrap_or_default().to_owned()
}

/// The labels that its author gave it: `a=b,c=d`.
pub(crate) fn labels(document: &Value) -> String {
    let written =
        [&document["labels"], &document["metadata"]["labels"]].into_iter().find_map(Value::as_object);
    let pairs = written.into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Some kinds may have their spec at the top.
pub(crate) fn spec(document: &Value) -> &Value {
    match &document["spec"] {
        Value::Null => document,
        spec => spec,
    }
}

/// What a kind shows of its spec.
type Detail = (&'static str, fn(&Value) -> String);

fn details(kind: &Kind) -> &'static [Detail] {
    match kind.name {
        "Zone" => &[("ENABLED", |spec| if spec["enabled"] == false { "no".into() } else { "yes".into() })],
        "Dataplane" => &[
            ("ADDRESS", |spec| text(&spec["networking"]["address"])),
            ("INBOUND", |spec| each(&spec["networking"]["inbound"], |inbound| text(&inbound["port"]))),
        ],
        "MeshService" => &[("PORTS", ports), ("STATE", |spec| text(&spec["state"]))],
        "MeshMultiZoneService" => &[("PORTS", ports)],
        "MeshZoneAddress" => {
            &[("ADDRESS", |spec| format!("{}:{}", text(&spec["address"]), text(&spec["port"])))]
        }
        "MeshTrust" => &[("TRUST DOMAIN", |spec| text(&spec["trustDomain"]))],
        "MeshIdentity" => &[("PROVIDER", |spec| text(&spec["provider"]["type"]))],
        policy if policy.starts_with("Mesh") && policy != "Mesh" => &[("TARGET", target)],
        _ => &[],
    }
}

fn ports(spec: &Value) -> String {
    each(&spec["ports"], |port| {
        let protocol = port["appProtocol"].as_str().unwrap_or("tcp");
        format!("{}/{protocol}", text(&port["port"]))
    })
}

fn target(spec: &Value) -> String {
    let target = &spec["targetRef"];
    let kind = target["kind"].as_str().unwrap_or("Mesh");
    let labels = target["labels"].as_object().into_iter().flatten();
    let labels = labels.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",");
    match (target["name"].as_str(), labels.is_empty()) {
        (Some(name), _) => format!("{kind} {name}"),
        (None, false) => format!("{kind} {labels}"),
        (None, true) => kind.to_owned(),
    }
}

fn each(list: &Value, show: impl Fn(&Value) -> String) -> String {
    list.as_array().into_iter().flatten().map(show).collect::<Vec<_>>().join(",")
}

/// A text as it is, anything else as JSON; nothing for what is not there.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
