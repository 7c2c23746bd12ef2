//! Documents: what people and zones declare.
//!
//! A text becomes trees ([`parse_many`]), a tree becomes a [`Document`] or the list of all its
//! mistakes ([`read`], [`read_at`]). At rest and in transit a document is its [`Record`], whose bytes
//! are the author's, in canonical form; [`Document::from_record`] reads them again, passing over
//! fields that it does not know.

mod canonical;
mod fields;
mod parse;
mod read;
mod tree;

use bytes::Bytes;

pub use canonical::canonical;
pub use fields::{Fields, Item, Mode, Report, Violation};
pub use parse::{Located, MAX_BYTES, SyntaxError, parse_many, parse_one};
pub use read::{Address, Defaults, read, read_at};
pub use tree::{Key, Location, MAX_DEPTH, Tree, Value};

use crate::key::{DocumentKey, KindName};
use crate::kinds::{self, Generated, Kind, Spec};
use crate::labels::{self, Labels};
use crate::name::{MeshName, Name, ResourceName};
use crate::record::Record;
use crate::version::{Origin, Version};

/// A valid document. Its content is typed; its author's own words are kept beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub kind: &'static Kind,
    /// Given exactly for kinds that stand in a mesh.
    pub mesh: Option<MeshName>,
    pub namespace: Option<Name>,
    pub name: ResourceName,
    /// As written; see [`Document::labels_at`] for those that others select by.
    pub labels: Labels,
    pub spec: Spec,
    canonical: Bytes,
}

impl Document {
    /// A document that a program makes. `mesh` is given exactly for kinds that stand in a mesh.
    pub fn generate<S: Generated + Into<Spec>>(
        mesh: Option<MeshName>,
        name: ResourceName,
        labels: Labels,
        spec: S,
    ) -> Self {
        let mut json = serde_json::json!({ "type": S::KIND.name, "name": name, "spec": spec.to_json() });
        if let Some(mesh) = &mesh {
            json["mesh"] = serde_json::json!(mesh);
        }
        if !labels.is_empty() {
            json["labels"] = serde_json::json!(labels);
        }
        let spec = spec.into();
        let canonical = canonical(&Tree::from(json)).into();
        Self { kind: spec.kind(), mesh, namespace: None, name, labels, spec, canonical }
    }

    /// Reads a document as it rests in a store or came over a link.
    pub fn from_record(record: &Record) -> Result<Self, Unreadable> {
        Self::look_at(record).map(|(document, _)| document)
    }

    /// With the paths of the first few fields that this program does not know.
    fn look_at(record: &Record) -> Result<(Self, Vec<String>), Unreadable> {
        let key = &record.key;
        let kind =
            kinds::by_name(key.kind.as_str()).ok_or_else(|| Unreadable::UnknownKind(key.kind.clone()))?;
        let json: serde_json::Value = serde_json::from_slice(&record.bytes)?;
        read::read_record(&Tree::from(json), kind, record).map_err(Unreadable::Invalid)
    }

    /// What a store keeps of it.
    pub fn to_record(&self, version: Version) -> Record {
        Record {
            key: self.key(&version.origin),
            version,
            secret: false,
            requires: Vec::new(),
            bundle: None,
            bytes: self.canonical(),
        }
    }

    pub fn key(&self, origin: &Origin) -> DocumentKey {
        DocumentKey {
            kind: self.kind.key_name(),
            mesh: self.mesh.clone(),
            origin: origin.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// JSON by RFC 8785 of what the author wrote, without what a server once added to it.
    pub fn canonical(&self) -> Bytes {
        self.canonical.clone()
    }

    /// The labels that selectors see: those written and those computed. A document from a zone carries
    /// the zone's name.
    pub fn labels_at(&self, origin: &Origin) -> Labels {
        let mut all = self.labels.clone();
        for (key, value) in computed(self.mesh.as_ref(), &self.name, self.namespace.as_ref(), Some(origin)) {
            all.set(key, value);
        }
        all
    }

    /// The typed spec, if this is a document of that kind: `document.spec_as::<MeshService>()`.
    pub fn spec_as<'a, S>(&'a self) -> Option<&'a S>
    where
        &'a S: TryFrom<&'a Spec>,
    {
        (&self.spec).try_into().ok()
    }
}

/// Why the bytes of a record are no document to this program. They are kept and forwarded all the same.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("this version does not know the kind {0}")]
    UnknownKind(KindName),
    #[error("the bytes are not JSON")]
    NotJson(#[from] serde_json::Error),
    #[error("the document is not valid: {}", summary(.0))]
    Invalid(Vec<Violation>),
}

fn summary(violations: &[Violation]) -> String {
    let lines: Vec<String> =
        violations.iter().map(|violation| format!("{} {}", violation.field, violation.reason)).collect();
    lines.join("; ")
}

/// What of a document this program does not understand; none where it understands everything. An author who writes
/// by the API hears that at once.
pub fn problem(record: &Record) -> Option<String> {
    match Document::look_at(record) {
        Ok((_, passed_over)) if passed_over.is_empty() => None,
        Ok((_, passed_over)) => Some(format!("this version does not know {}", passed_over.join(", "))),
        Err(unreadable) => Some(unreadable.to_string()),
    }
}

/// A document as the API answers it: what its author wrote, and under `status` what we know of it.
pub fn answer(record: &Record, status: serde_json::Value) -> Result<serde_json::Value, serde_json::Error> {
    let mut json: serde_json::Value = serde_json::from_slice(&record.bytes)?;
    if let Some(fields) = json.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
    Ok(json)
}

/// The labels whose value follows from what a document is and where it was written, for who lists
/// records without reading them; [`Document::labels_at`] has them beside those that were written.
pub fn computed<'a>(
    mesh: Option<&'a MeshName>,
    name: &'a ResourceName,
    namespace: Option<&'a Name>,
    origin: Option<&'a Origin>,
) -> Vec<(&'static str, &'a str)> {
    computed_so_far(mesh, Some(name.as_str()), namespace, origin)
}

/// Of a document that may have mistakes.
fn computed_so_far<'a>(
    mesh: Option<&'a MeshName>,
    name: Option<&'a str>,
    namespace: Option<&'a Name>,
    origin: Option<&'a Origin>,
) -> Vec<(&'static str, &'a str)> {
    let mut all: Vec<(&'static str, &'a str)> = Vec::new();
    all.extend(name.map(|name| (labels::DISPLAY_NAME, name)));
    all.extend(mesh.map(|mesh| (labels::MESH, mesh.as_str())));
    all.extend(namespace.map(|namespace| (labels::NAMESPACE, namespace.as_str())));
    match origin {
        None => {}
        Some(Origin::Global) => all.push((labels::ORIGIN, "global")),
        Some(Origin::Zone(zone)) => {
            all.push((labels::ORIGIN, "zone"));
            all.push((labels::ZONE, zone.as_str()));
        }
    }
    all
}
