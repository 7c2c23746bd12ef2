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
use super::{Document, computed};
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
    read_known(tree, &Known { default_mesh: Some(&defaults.mesh), ..Known::default() }, Mode::Strict)
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
    read_known(tree, &known, Mode::Strict)
}

/// Reads what a store holds. The envelope says what it is, and its bytes stay as they are.
pub(super) fn read_record(
    tree: &Tree,
    kind: &'static Kind,
    record: &Record,
) -> Result<Document, Vec<Violation>> {
    let known = Known {
        kind: Some(kind),
        mesh: record.key.mesh.as_ref(),
        name: Some(record.key.name.as_str()),
        ..Known::default()
    };
    let document = read_known(tree, &known, Mode::Tolerant)?;
    Ok(Document { namespace: record.key.namespace.clone(), canonical: record.bytes.clone(), ..document })
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

fn read_known(tree: &Tree, known: &Known<'_>, mode: Mode) -> Result<Document, Vec<Violation>> {
    let report = Report::new(mode);
    let document = read_document(tree, known, &report);
    match document {
        Some(document) if report.is_empty() => Ok(document),
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
        if let Some(name) = &name {
            let right = computed(mesh.as_ref(), name, namespace.as_ref(), known.origin);
            check_computed(labels, item, &right);
        }
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
