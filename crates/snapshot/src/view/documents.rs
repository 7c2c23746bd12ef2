//! Documents that several views have, read once and held once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest::SHA256;
use model::document::{Document, Unreadable};
use model::kinds::{Dataplane, ResourceSpec};
use model::labels;
use model::{DocumentKey, Record};

use super::Held;

/// Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    held: HashMap<DocumentKey, Weak<Held>>,
    /// With so many it is looked for those that nobody has any more.
    review_at: usize,
}

const FEW: usize = 1024;

impl Documents {
    /// A document of a known kind as a record has it.
    pub(super) fn get(&self, record: &Record) -> Result<Arc<Held>, Unreadable> {
        // What is known is right after each step.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = known.held.get(&record.key).and_then(Weak::upgrade);
        if let Some(held) = held.filter(|held| is_of(held, record)) {
            return Ok(held);
        }
        let held = Arc::new(read(record)?);
        if known.held.len() >= known.review_at.max(FEW) {
            known.held.retain(|_, held| held.strong_count() > 0);
            known.review_at = 2 * known.held.len();
        }
        known.held.insert(record.key.clone(), Arc::downgrade(&held));
        Ok(held)
    }
}

fn is_of(held: &Held, record: &Record) -> bool {
    held.version == record.version && held.digest == digest(&record.bytes)
}

fn read(record: &Record) -> Result<Held, Unreadable> {
    let document = Document::from_record(record)?;
    let mut labels = document.labels_at(&record.key.origin);
    if record.key.kind.as_str() == Dataplane::KIND.name {
        labels.set(labels::ENV, "universal");
    }
    Ok(Held {
        key: record.key.clone(),
        version: record.version.clone(),
        spec: document.spec,
        written: document.labels,
        labels,
        digest: digest(&record.bytes),
    })
}

/// Of canonical bytes.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use model::document::{Defaults, parse_one, read as read_document};
    use model::{Origin, Point, Version};

    use super::super::View;
    use super::*;

    fn record(spec: &str, revision: u64) -> Record {
        let document = read_document(&parse_one(spec).unwrap(), &Defaults::default()).unwrap();
        document.to_record(Version { origin: Origin::Global, point: Point { epoch: 1, revision } })
    }

    #[test]
    fn what_two_views_are_given_is_held_once_and_each_has_its_own_version() {
        let (first, second) = (record("type: Mesh\nname: a", 1), record("type: Mesh\nname: a", 2));
        let mut one = View::default();
        let mut other = one.beside();
        one.put(&first).unwrap();
        other.put(&first).unwrap();
        assert!(std::ptr::eq(one.any(&first.key).unwrap(), other.any(&first.key).unwrap()));

        other.put(&second).unwrap();
        assert_eq!(one.any(&first.key).unwrap().version, first.version);
        assert_eq!(other.any(&first.key).unwrap().version, second.version);

        // Somebody who lies about a version is read as what it says.
        let lie = record("type: Mesh\nname: a\nlabels: {a: b}", 2);
        one.put(&lie).unwrap();
        assert_eq!(one.any(&first.key).unwrap().written.get("a"), Some("b"));
    }
}
