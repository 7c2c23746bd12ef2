//! A tree becomes a document: its form, its identity, its labels, then its spec.
//!
//! Two forms are read, ours (`type`, `mesh`, `name`, `labels`, `spec`) and that of Kubernetes
//! (`apiVersion`, `kind`, `metadata`, `spec`). In ours the fields of the spec may stand at the top.

use std::fmt::Display;
use std::str::FromStr;

use super::canonical::canonical;
use super::fields::{Fields, Item, Mode, Report, Violation};
use super::parse::MAX_BYTES;
use super::tree::{Key, Location, Tree, Value};
use super::{Document, computed_so_far};
use crate::kinds::{self, Kind, Root, Spec};
use crate::labels::{self, Labels};
use crate::name::{MeshName, Name, ResourceName};
use crate::record::Record;
use crate::version::Origin;

/// What holds for a document that does not say it itself.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub mesh: MeshName,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { mesh: "default".parse().expect("'default' is a name") }
    }
}

/// Where a document is to be put, from the path of a request. What the document says of itself must agree.
#[derive(Clone, Debug)]
pub struct Address {
    pub kind: &'static Kind,
    /// Given exactly for kinds that stand in a mesh.
    pub mesh: Option<MeshName>,
    /// Not yet checked: a bad name is a violation like any other.
    pub name: String,
    /// Who writes it, if that is known: decides which computed labels are right.
    pub origin: Option<Origin>,
}

/// Reads a document that says itself what it is. Every mistake is reported, in the order of the text.
pub fn read(tree: &Tree, defaults: &Defaults) -> Result<Document, Vec<Violation>> {
    let known = Known { default_mesh: Some(&defaults.mesh), ..Known::default() };
    read_known(tree, &known, Mode::Strict).map(|(document, _)| document)
}

/// Reads a document that is to be put at an address; kind, mesh and name may be left out of it.
pub fn read_at(tree: &Tree, address: &Address) -> Result<Document, Vec<Violation>> {
    let known = Known {
        kind: Some(address.kind),
        mesh: address.mesh.as_ref(),
        name: Some(&address.name),
        origin: address.origin.as_ref(),
        ..Known::default()
    };
    read_known(tree, &known, Mode::Strict).map(|(document, _)| document)
}

/// Reads what a store holds. The envelope says what it is, and its bytes stay as they are.
pub(super) fn read_record(
    tree: &Tree,
    kind: &'static Kind,
    record: &Record,
) -> Result<(Document, Vec<String>), Vec<Violation>> {
    let known = Known {
        kind: Some(kind),
        mesh: record.key.mesh.as_ref(),
        name: Some(record.key.name.as_str()),
        ..Known::default()
    };
    let (document, passed_over) = read_known(tree, &known, Mode::Tolerant)?;
    let document =
        Document { namespace: record.key.namespace.clone(), canonical: record.bytes.clone(), ..document };
    Ok((document, passed_over))
}

/// What is known of a document before it is read.
#[derive(Clone, Copy, Default)]
struct Known<'a> {
    kind: Option<&'static Kind>,
    mesh: Option<&'a MeshName>,
    default_mesh: Option<&'a MeshName>,
    name: Option<&'a str>,
    origin: Option<&'a Origin>,
}

/// With what was passed over.
fn read_known(tree: &Tree, known: &Known<'_>, mode: Mode) -> Result<(Document, Vec<String>), Vec<Violation>> {
    let report = Report::new(mode);
    let document = read_document(tree, known, &report);
    match document {
        Some(document) if report.is_empty() => Ok((document, report.passed_over())),
        _ => Err(report.into_violations()),
    }
}

fn read_document(tree: &Tree, known: &Known<'_>, report: &Report) -> Option<Document> {
    if !matches!(tree.value, Value::Object(_)) {
        return Item::new(tree, "", report)
            .fail(format!("a document is an object, not {}", tree.value.sort()));
    }
    let mut top = Fields::new(tree, "", report);
    for added_by_servers in ["status", "creationTime", "modificationTime", "kri"] {
        top.ignore(added_by_servers);
    }
    let is_kubernetes = top.has("apiVersion") || (top.has("kind") && !top.has("type"));
    let header = if is_kubernetes { kubernetes_header(&mut top) } else { plain_header(&mut top) };
    let kind = read_kind(&top, is_kubernetes, &header, known);
    let Some(kind) = kind else {
        // Of an unknown kind nothing else can be judged.
        return None;
    };

    let mesh = read_mesh(&mut top, kind, &header, known);
    let namespace = header.namespace.as_ref().and_then(|item| item.parse::<Name>());
    let name = read_name(&top, kind, &header, known);
    let labels = header.labels.as_ref().map_or_else(|| Some(Labels::default()), |item| item.labels());

    let empty = Tree { value: Value::Object(Vec::new()), at: tree.at };
    let spec = read_spec(top, is_kubernetes, kind, &empty);

    if let (Some(labels), Some(item)) = (&labels, &header.labels) {
        check_workload(labels, item);
        // As written, right or wrong: a name that is refused must not hide a label that is.
        let written_name = known.name.or_else(|| header.name.as_ref().and_then(Item::as_text));
        let right = computed_so_far(mesh.as_ref(), written_name, namespace.as_ref(), known.origin);
        check_computed(labels, item, &right);
        if let Some(spec) = &spec {
            spec.check_labels(namespace.as_ref(), labels, item);
        }
    }

    let (name, labels, spec) = (name?, labels?, spec?);
    let canonical = canonical(&written(tree, is_kubernetes, kind, mesh.as_ref(), &name));
    if canonical.len() > MAX_BYTES {
        let limit = MAX_BYTES / 1024;
        return Item::new(tree, "", report).fail(format!("the document is larger than {limit} KiB"));
    }
    Some(Document { kind, mesh, namespace, name, labels, spec, canonical: canonical.into() })
}

/// Where a document says what it is.
struct Header<'a> {
    kind: Option<Item<'a>>,
    name: Option<Item<'a>>,
    mesh: Option<Item<'a>>,
    namespace: Option<Item<'a>>,
    labels: Option<Item<'a>>,
}

fn plain_header<'a>(top: &mut Fields<'a>) -> Header<'a> {
    Header {
        kind: top.optional("type"),
        name: top.optional("name"),
        mesh: None,
        namespace: None,
        labels: top.optional("labels"),
    }
}

fn kubernetes_header<'a>(top: &mut Fields<'a>) -> Header<'a> {
    let versions = [("tombolo.io/v1alpha1", ()), ("kuma.io/v1alpha1", ())];
    top.required("apiVersion").and_then(|item| item.one_of(&versions));
    let kind = top.optional("kind");
    let mut header = Header { kind, name: None, mesh: None, namespace: None, labels: None };
    if let Some(metadata) = top.required("metadata") {
        metadata.object(|fields| {
            for ignored in METADATA_OF_SERVERS.into_iter().chain(["annotations"]) {
                fields.ignore(ignored);
            }
            header.name = fields.optional("name").map(|item| item.at_path("name"));
            header.namespace = fields.optional("namespace");
            header.labels = fields.optional("labels").map(|item| item.at_path("labels"));
            header.mesh = header.labels.as_ref().and_then(|labels| labels.entry(labels::MESH));
            Some(())
        });
    }
    header
}

const METADATA_OF_SERVERS: [&str; 6] =
    ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"];

fn read_kind(
    top: &Fields<'_>,
    is_kubernetes: bool,
    header: &Header<'_>,
    known: &Known<'_>,
) -> Option<&'static Kind> {
    let Some(item) = &header.kind else {
        if known.kind.is_none() {
            top.refuse(if is_kubernetes { "kind" } else { "type" }, "is missing");
        }
        return known.kind;
    };
    let text = item.text()?;
    match (kinds::by_name(text), known.kind) {
        (Some(found), None) => Some(found),
        (Some(found), Some(known)) if found == known => Some(found),
        (_, Some(known)) => {
            disagree(item, text, known);
            Some(known)
        }
        (None, None) => item.fail(format!("'{text}' is not a kind that this version knows")),
    }
}

fn read_mesh(top: &mut Fields<'_>, kind: &Kind, header: &Header<'_>, known: &Known<'_>) -> Option<MeshName> {
    if !kind.is_mesh_scoped() {
        return None;
    }
    let said = top.optional("mesh").or(header.mesh.clone());
    agreeing(said.as_ref(), known.mesh).or_else(|| known.mesh.or(known.default_mesh).cloned())
}

fn read_name(top: &Fields<'_>, kind: &Kind, header: &Header<'_>, known: &Known<'_>) -> Option<ResourceName> {
    let parse = |text: &str, refuse: &dyn Fn(&dyn Display)| {
        kind.parse_name(text).map_err(|error| refuse(&error)).ok()
    };
    match (&header.name, known.name) {
        (Some(item), None) => parse(item.text()?, &|error| item.refuse(error)),
        (Some(item), Some(known)) => {
            let text = item.text()?;
            if text != known {
                disagree(item, text, known);
                return None;
            }
            parse(text, &|error| item.refuse(error))
        }
        (None, Some(known)) => parse(known, &|error| top.refuse("name", error)),
        (None, None) => {
            top.refuse("name", "is missing");
            None
        }
    }
}

/// A part of the identity that the document may say, and then as it is known.
fn agreeing<T>(said: Option<&Item<'_>>, known: Option<&T>) -> Option<T>
where
    T: FromStr<Err: Display> + PartialEq + Display,
{
    let item = said?;
    let value = item.parse::<T>()?;
    if let Some(known) = known
        && value != *known
    {
        disagree(item, &value, known);
    }
    Some(value)
}

fn disagree(item: &Item<'_>, said: impl Display, known: impl Display) {
    item.refuse(format!("says '{said}', but the document is addressed as '{known}'"));
}

fn read_spec(mut top: Fields<'_>, is_kubernetes: bool, kind: &Kind, empty: &Tree) -> Option<Spec> {
    let root = match kind.root {
        Root::Top => "",
        Root::Spec => "spec",
    };
    if is_kubernetes || top.contains("spec") {
        let spec = top.optional("spec");
        let report = top.report();
        top.finish();
        let read = |fields: &mut Fields<'_>| Spec::read(kind, fields);
        match spec {
            Some(item) => item.at_path(root).object(read),
            None => Item::new(empty, root, report).object(read),
        }
    } else {
        top.go_on_as(root);
        let spec = Spec::read(kind, &mut top);
        top.finish();
        spec
    }
}

fn check_workload(labels: &Labels, item: &Item<'_>) {
    if let Some(workload) = labels.get(labels::WORKLOAD)
        && let Err(error) = workload.parse::<Name>()
    {
        item.refuse_entry(labels::WORKLOAD, error);
    }
    if labels.get(labels::EFFECT).is_some_and(|effect| effect != "shadow") {
        item.refuse_entry(labels::EFFECT, "must be shadow, or be left out");
    }
}

/// Labels that we compute may be written only as we would write them.
fn check_computed(labels: &Labels, item: &Item<'_>, right: &[(&'static str, &str)]) {
    for (key, right) in right {
        if labels.get(key).is_some_and(|written| written != *right) {
            item.refuse_entry(key, format!("is computed and must be '{right}', or be left out"));
        }
    }
    let words: [(&str, &[&str]); 2] =
        [(labels::ORIGIN, &["global", "zone"]), (labels::ENV, &["kubernetes", "universal"])];
    for (key, words) in words {
        let is_computed = right.iter().any(|(computed, _)| *computed == key);
        if !is_computed && labels.get(key).is_some_and(|written| !words.contains(&written)) {
            item.refuse_entry(key, format!("must be one of {}, or be left out", words.join(", ")));
        }
    }
}

/// What the author wrote: without what servers add, and in our own form with the identity that the
/// address said for it, so that the bytes can be put back where they came from.
fn written(
    tree: &Tree,
    is_kubernetes: bool,
    kind: &Kind,
    mesh: Option<&MeshName>,
    name: &ResourceName,
) -> Tree {
    let Value::Object(entries) = &tree.value else { return tree.clone() };
    let drop_keys: &[&str] = &["status", "creationTime", "modificationTime", "kri"];
    let mut kept: Vec<(Key, Tree)> =
        entries.iter().filter(|(key, _)| !drop_keys.contains(&key.text.as_str())).cloned().collect();
    if is_kubernetes {
        for (_, metadata) in kept.iter_mut().filter(|(key, _)| key.text == "metadata") {
            if let Value::Object(entries) = &mut metadata.value {
                entries.retain(|(key, _)| !METADATA_OF_SERVERS.contains(&key.text.as_str()));
            }
        }
    } else {
        let identity =
            [("type", Some(kind.name)), ("mesh", mesh.map(Name::as_str)), ("name", Some(name.as_str()))];
        for (key, value) in identity {
            kept.retain(|(found, tree)| found.text != key || !tree.is_null());
            if let Some(value) = value
                && !kept.iter().any(|(found, _)| found.text == key)
            {
                let tree = Tree { value: Value::Text(value.to_owned()), at: Location::default() };
                kept.push((Key { text: key.to_owned(), at: Location::default() }, tree));
            }
        }
    }
    Tree { value: Value::Object(kept), at: tree.at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{MAX_DEPTH, Unreadable, parse_many, parse_one};
    use crate::kinds::{MeshService, MeshZoneAddress};
    use crate::version::Version;

    fn read_text(text: &str) -> Result<Document, Vec<String>> {
        said(read(&parse_one(text).unwrap(), &Defaults::default()))
    }

    fn said(read: Result<Document, Vec<Violation>>) -> Result<Document, Vec<String>> {
        let line = |one: &Violation| format!("{} {}: {}", one.line, one.field, one.reason);
        read.map_err(|violations| violations.iter().map(line).collect())
    }

    fn address(kind: &str, name: &str, origin: Option<&str>) -> Address {
        let kind = kinds::by_name(kind).unwrap();
        let mesh = kind.is_mesh_scoped().then(|| "default".parse().unwrap());
        Address { kind, mesh, name: name.to_owned(), origin: origin.map(|origin| origin.parse().unwrap()) }
    }

    const MANY_MISTAKES: &str = "
type: MeshTrafficPermission
name: Shop
mesh: default
labels:
  kuma.io/display-name: other
  tombolo.io/mesh: shop
spec:
  targetRef: {kind: Mesh, sectionName: http}
  rules:
    - default:
        allow:
          - spiffeID: {type: Exact, value: web}
        denny: []
    - {}
";

    #[test]
    fn every_mistake_of_a_document_is_reported_with_its_line() {
        let found = read_text(MANY_MISTAKES).unwrap_err();
        let places: Vec<&str> = found.iter().map(|one| one.split_once(": ").unwrap().0).collect();
        let want = [
            "3 name",
            "6 labels[\"kuma.io/display-name\"]",
            "7 labels[\"tombolo.io/mesh\"]",
            "9 spec.targetRef.sectionName",
            "13 spec.rules[0].default.allow[0].spiffeID.value",
            "14 spec.rules[0].default.denny",
            "15 spec.rules[1].default",
        ];
        assert_eq!(places, want, "{found:#?}");
    }

    #[test]
    fn json_is_read_as_yaml_is() {
        let violations = read(
            &parse_one("{\"type\": \"Zone\",\n \"name\": \"global\",\n \"enabled\": \"yes\"}").unwrap(),
            &Defaults::default(),
        )
        .unwrap_err();
        let places: Vec<(u32, u32, &str)> =
            violations.iter().map(|one| (one.line, one.column, one.field.as_str())).collect();
        assert_eq!(places, [(2, 10, "name"), (3, 13, "enabled")]);
    }

    #[test]
    fn the_fields_of_the_spec_may_stand_at_the_top() {
        let nested =
            read_text("type: MeshZoneAddress\nname: a\nspec: {address: 10.0.0.1, port: 10001}").unwrap();
        let flat = read_text("type: MeshZoneAddress\nname: a\naddress: 10.0.0.1\nport: 10001").unwrap();
        assert_eq!(nested.spec, flat.spec);
        assert_ne!(nested.canonical(), flat.canonical());
        let found = read_text("type: MeshZoneAddress\nname: a\nport: 0\nprot: 1").unwrap_err();
        assert_eq!(found[0], "1 spec.address: is missing");
        assert!(found[1].starts_with("3 spec.port: "), "{found:?}");
        assert_eq!(found[2], "4 spec.prot: is not a known field; did you mean 'port'?");
        let found = read_text("type: MeshZoneAddress\nname: a\nspec:\nport: 1").unwrap_err();
        assert_eq!(found[..2], ["1 spec.address: is missing", "1 spec.port: is missing"]);
        assert!(found[2].starts_with("4 port: is not a known field"), "{found:?}");
    }

    #[test]
    fn violations_of_mesh_zone_and_dataplane_are_rooted_at_the_top() {
        let found = read_text("type: Mesh\nname: a\nspec: {enforcement: Maybe}").unwrap_err();
        assert!(found[0].starts_with("3 enforcement: must be one of Enforce, Observe"), "{found:?}");
    }

    #[test]
    fn the_form_of_kubernetes_is_read_as_well() {
        let text = "
apiVersion: tombolo.io/v1alpha1
kind: MeshZoneAddress
metadata:
  name: east-1
  namespace: shop
  uid: 1234
  resourceVersion: '7'
  labels: {kuma.io/mesh: web, app: x}
spec: {address: 10.0.0.1, port: 10001}
status: {}
";
        let document = read_text(text).unwrap();
        assert_eq!(document.mesh.as_deref(), Some("web"));
        assert_eq!(document.namespace.as_deref(), Some("shop"));
        assert_eq!(document.key(&Origin::Global).to_string(), "MeshZoneAddress/web/global/shop/east-1");
        let want = concat!(
            r#"{"apiVersion":"tombolo.io/v1alpha1","kind":"MeshZoneAddress","metadata":{"labels":{"app":"x","#,
            r#""kuma.io/mesh":"web"},"name":"east-1","namespace":"shop"},"spec":{"address":"10.0.0.1","port":10001}}"#
        );
        assert_eq!(document.canonical(), want);
        let record = document.to_record("east-1-3".parse().unwrap());
        assert_eq!(Document::from_record(&record).unwrap(), document);

        let found = read_text("apiVersion: v1\nkind: MeshZoneAddress\nmetadata: {nmae: x}").unwrap_err();
        assert_eq!(found.len(), 5, "{found:#?}");
    }

    #[test]
    fn names_follow_their_kind() {
        let long = format!("{}.{}", "a".repeat(60), "b".repeat(60));
        let cases = [
            ("Mesh", "web-1", true),
            ("Mesh", "web.1", false),
            ("Mesh", "1web", false),
            ("Zone", "east", true),
            ("Zone", "global", false),
            ("MeshService", "web.shop", false),
            ("MeshTrust", long.as_str(), true),
            ("MeshTrust", "Web", false),
        ];
        for (kind, name, want) in cases {
            let tree = Tree::from(serde_json::json!({ "spec": null }));
            let found = read_at(&tree, &address(kind, name, None)).err().unwrap_or_default();
            assert_eq!(!found.iter().any(|one| one.field == "name"), want, "{kind} {name}");
        }
    }

    #[test]
    fn a_document_agrees_with_its_address_or_leaves_it_out() {
        let put =
            |text: &str| said(read_at(&parse_one(text).unwrap(), &address("MeshZoneAddress", "a", None)));
        let document = put("address: 10.0.0.1\nport: 1").unwrap();
        let want = r#"{"address":"10.0.0.1","mesh":"default","name":"a","port":1,"type":"MeshZoneAddress"}"#;
        assert_eq!(document.canonical(), want);
        assert_eq!(put(want).unwrap(), document);
        let found =
            put("type: MeshTrust\nmesh: other\nname: b\nspec: {address: 10.0.0.1, port: 1}").unwrap_err();
        let want = [
            "1 type: says 'MeshTrust', but the document is addressed as 'MeshZoneAddress'",
            "2 mesh: says 'other', but the document is addressed as 'default'",
            "3 name: says 'b', but the document is addressed as 'a'",
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn a_document_must_say_what_it_is() {
        assert_eq!(read_text("mesh: default").unwrap_err(), ["1 type: is missing"]);
        assert_eq!(read_text("type: Mesh").unwrap_err(), ["1 name: is missing"]);
        let unknown = read_text("type: MeshProxyPatch\nname: a").unwrap_err();
        assert_eq!(unknown, ["1 type: 'MeshProxyPatch' is not a kind that this version knows"]);
        assert_eq!(read_text("[1]").unwrap_err(), ["1 : a document is an object, not a list"]);
        assert!(
            read_text("type: Zone\nname: a\nmesh: default").unwrap_err()[0]
                .starts_with("3 mesh: is not a known")
        );
    }

    #[test]
    fn computed_labels_may_be_written_only_as_they_are() {
        let cases = [
            ("tombolo.io/display-name: a", None),
            ("kuma.io/display-name: b", Some("kuma.io/display-name")),
            ("tombolo.io/mesh: default", None),
            ("tombolo.io/mesh: other", Some("tombolo.io/mesh")),
            ("kuma.io/origin: zone", None),
            ("kuma.io/origin: global", Some("kuma.io/origin")),
            ("tombolo.io/zone: east", None),
            ("tombolo.io/zone: west", Some("tombolo.io/zone")),
            ("tombolo.io/env: universal", None),
            ("tombolo.io/env: metal", Some("tombolo.io/env")),
            ("tombolo.io/workload: web", None),
            ("tombolo.io/workload: web.1", Some("tombolo.io/workload")),
            ("tombolo.io/effect: shadow", None),
            ("tombolo.io/effect: light", Some("tombolo.io/effect")),
            ("tombolo.io/zone: east\nkuma.io/zone: east", Some("kuma.io/zone")),
            ("app: 1", Some("app")),
            ("a b: c", Some("a b")),
        ];
        for (label, refused) in cases {
            let labels = label.replace('\n', "\n  ");
            let text = format!("labels:\n  {labels}\naddress: 10.0.0.1\nport: 1");
            let read = read_at(&parse_one(&text).unwrap(), &address("MeshZoneAddress", "a", Some("east")));
            let found: Vec<String> =
                read.err().unwrap_or_default().into_iter().map(|violation| violation.field).collect();
            let want: Vec<String> = refused.map(|key| format!("labels[\"{key}\"]")).into_iter().collect();
            assert_eq!(found, want, "{label}");
        }
    }

    #[test]
    fn what_a_server_added_is_dropped_and_what_the_author_wrote_is_kept() {
        let text = "type: Zone\nname: east\ncreationTime: x\nkri: y\nstatus: {connected: true}\nlabels: {kuma.io/x: y}\nenabled: true";
        let document = read_text(text).unwrap();
        let want = r#"{"enabled":true,"labels":{"kuma.io/x":"y"},"name":"east","type":"Zone"}"#;
        assert_eq!(document.canonical(), want);
        assert_eq!(document.labels.get("tombolo.io/x"), Some("y"));
        assert_eq!(document.labels.get("tombolo.io/display-name"), None);
        let seen = document.labels_at(&"east".parse().unwrap());
        assert_eq!(seen.get("kuma.io/display-name"), Some("east"));
        assert_eq!(seen.get("tombolo.io/zone"), Some("east"));
    }

    #[test]
    fn a_newer_document_is_read_in_transit_and_its_bytes_stay() {
        let bytes = r#"{"mesh":"default","name":"a","new":1,"spec":{"address":"10.0.0.1","newer":[2],"port":1},"type":"MeshZoneAddress"}"#;
        assert_eq!(read_text(bytes).unwrap_err().len(), 2);
        let mut record = Record {
            key: "MeshZoneAddress/default/east//a".parse().unwrap(),
            version: Version::new("east".parse().unwrap(), 1, 2),
            secret: false,
            requires: vec![],
            bundle: None,
            bytes: bytes.into(),
        };
        let document = Document::from_record(&record).unwrap();
        assert_eq!(document.spec_as::<MeshZoneAddress>().map(|spec| spec.port), Some(1));
        assert!(document.spec_as::<MeshService>().is_none());
        assert_eq!(document.to_record(record.version.clone()), record);

        record.key = "MeshZoneAddress/default/east//b".parse().unwrap();
        assert!(matches!(Document::from_record(&record), Err(Unreadable::Invalid(_))));
        record.key = "MeshWonder/default/east//a".parse().unwrap();
        assert!(matches!(Document::from_record(&record), Err(Unreadable::UnknownKind(_))));
        record.key = "MeshZoneAddress/default/east//a".parse().unwrap();
        record.bytes = "nonsense".into();
        assert!(matches!(Document::from_record(&record), Err(Unreadable::NotJson(_))));
    }

    #[test]
    fn s12_deep_records_are_refused_and_not_walked() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        for depth in [MAX_DEPTH * 10, 1_000_000] {
            let record = Record {
                key: "Mesh//global//a".parse().unwrap(),
                version: Version::new(Origin::Global, 1, 1),
                secret: false,
                requires: vec![],
                bundle: None,
                bytes: deep(depth).into(),
            };
            assert!(Document::from_record(&record).is_err());
        }
    }

    #[test]
    fn a_file_of_documents_is_read_one_by_one() {
        let text = "type: Zone\nname: a\n---\ntype: Zone\nname: B\n---\ntype: Zone\nname: c\n";
        let results: Vec<bool> = parse_many(text)
            .unwrap()
            .iter()
            .map(|document| read(&document.tree, &Defaults::default()).is_ok())
            .collect();
        assert_eq!(results, [true, false, true]);
    }
}
