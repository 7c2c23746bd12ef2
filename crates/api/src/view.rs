//! How a document is shown: as its author wrote it, with what we know of it under `status`.

use std::sync::Arc;

use indexmap::IndexMap;
use model::document::{computed, problem};
use model::labels::{LabelKey, LabelValue, Labels};
use model::{DocumentKey, Name, Origin, Record, Version};
use serde::Serialize;
use serde_json::Value;

use crate::shapes::{Heard, Refusal};

/// The fields of a document in the order in which people write them, and `status` last.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    fields: IndexMap<String, Value>,
    status: Status,
}

/// What the server adds. It is ignored when it is sent back.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    pub revision: Version,
    /// Where it is written: `global` or a zone.
    pub origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The labels that are computed; those that were written stand where they were written.
    pub labels: Labels,
    /// What this program does not understand of a document of its own: it got here by another way than the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How its origin is heard, for a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Who does not take it, or an earlier revision of it, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// What others, and this control plane itself, said about documents.
pub trait Reports: Send + Sync + 'static {
    /// By reporter.
    fn refusals(&self, document: &DocumentKey) -> Vec<Refusal>;
}

/// Nobody said anything.
impl Reports for () {
    fn refusals(&self, _document: &DocumentKey) -> Vec<Refusal> {
        Vec::new()
    }
}

/// How other origins are heard now.
pub trait Ages: Send + Sync + 'static {
    /// None of whom nothing is known.
    fn heard(&self, origin: &Origin) -> Option<Heard>;
}

impl<F> Ages for F
where
    F: Fn(&Origin) -> Option<Heard> + Send + Sync + 'static,
{
    fn heard(&self, origin: &Origin) -> Option<Heard> {
        self(origin)
    }
}

/// Shows documents, with what is known of them here.
#[derive(Clone)]
pub(crate) struct Viewer {
    pub(crate) own: Origin,
    pub(crate) ages: Arc<dyn Ages>,
    pub(crate) reports: Arc<dyn Reports>,
}

const FIRST: [&str; 8] = ["apiVersion", "kind", "type", "mesh", "name", "metadata", "labels", "spec"];

impl Viewer {
    /// Of bytes that are no JSON object, what the key says.
    pub(crate) fn show(&self, record: &Record) -> Shown {
        let status = status(&record.key, record.version.clone());
        let is_own = record.key.origin == self.own;
        let written: Option<IndexMap<String, Value>> = serde_json::from_slice(&record.bytes).ok();
        // Copies were looked at when they came.
        let problem = (is_own || written.is_none()).then(|| problem(record)).flatten();
        let heard = if is_own { None } else { self.ages.heard(&record.key.origin) };
        let mut fields = written.unwrap_or_else(|| identity(&record.key));
        fields.sort_by_key(|field, _| FIRST.iter().position(|first| first == field).unwrap_or(FIRST.len()));
        let refusals = self.reports.refusals(&record.key);
        Shown { fields, status: Status { problem, heard, refusals, ..status } }
    }
}

/// What is left to say of a document that is gone: which one it was.
pub(crate) fn gone(key: &DocumentKey, version: Version) -> Shown {
    Shown { fields: identity(key), status: status(key, version) }
}

fn identity(key: &DocumentKey) -> IndexMap<String, Value> {
    let text = |text: &str| Value::from(text);
    let mut fields = IndexMap::from([("type".to_owned(), text(key.kind.as_str()))]);
    fields.extend(key.mesh.as_ref().map(|mesh| ("mesh".to_owned(), text(mesh.as_str()))));
    fields.insert("name".to_owned(), text(key.name.as_str()));
    fields
}

fn status(key: &DocumentKey, revision: Version) -> Status {
    Status {
        revision,
        origin: key.origin.clone(),
        namespace: key.namespace.clone(),
        labels: computed_labels(key),
        problem: None,
        heard: None,
        refusals: Vec::new(),
    }
}

fn computed_labels(key: &DocumentKey) -> Labels {
    let mut labels = Labels::default();
    for (label, value) in computed(key.mesh.as_ref(), &key.name, key.namespace.as_ref(), Some(&key.origin)) {
        labels.set(label, value);
    }
    labels
}

/// All labels of a document, written and computed, to choose by.
pub(crate) fn labels(record: &Record) -> Labels {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Written {
        labels: Value,
        metadata: Value,
    }
    let written: Written = serde_json::from_slice(&record.bytes).unwrap_or_default();
    let written = if written.labels.is_null() { &written.metadata["labels"] } else { &written.labels };
    let mut labels: Labels = written
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            Some((key.parse::<LabelKey>().ok()?, value.as_str()?.parse::<LabelValue>().ok()?))
        })
        .collect();
    for (key, value) in computed_labels(&record.key).iter() {
        labels.insert(key.clone(), value.clone());
    }
    labels
}
