//! Stores to test, and short ways to say documents.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use model::{DocumentKey, Origin, Point, Record, Version, World};
use store::{Draft, EmbeddedStore, MemoryStore, Retention, Store, StoreClock, Write};
use tempfile::TempDir;

/// Makes stores of one backend. The folders live as long as the kit.
pub(crate) struct Kit {
    embedded: bool,
    folders: Mutex<Vec<TempDir>>,
}

impl Kit {
    pub(crate) fn memory() -> Self {
        Self { embedded: false, folders: Mutex::default() }
    }

    pub(crate) fn embedded() -> Self {
        Self { embedded: true, folders: Mutex::default() }
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
    }

    pub(crate) fn store(&self, owner: &str) -> Arc<dyn Store> {
        self.store_with(owner, Retention::default())
    }

    pub(crate) fn store_with(&self, owner: &str, retention: Retention) -> Arc<dyn Store> {
        self.store_at(owner, retention, Arc::new(|| UNIX_EPOCH))
    }

    pub(crate) fn store_at(&self, owner: &str, retention: Retention, clock: StoreClock) -> Arc<dyn Store> {
        if self.embedded {
            EmbeddedStore::open_with(&self.folder(), origin(owner), retention, clock).unwrap()
        } else {
            MemoryStore::with_retention(origin(owner), retention, clock)
        }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        self.folders.lock().unwrap().push(folder);
        path
    }

    /// A copy of a store's folder, as a backup would make it while nobody writes.
    pub(crate) fn copy_of(&self, folder: &Path) -> PathBuf {
        let copy = self.folder();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        copy
    }
}

/// A change that never comes is a failure, not a test that never ends.
pub(crate) async fn in_time(test: impl Future<Output = ()>) {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, test).await.expect("nothing here takes a minute");
}

pub(crate) fn origin(text: &str) -> Origin {
    text.parse().unwrap()
}

pub(crate) fn version(text: &str) -> Version {
    text.parse().unwrap()
}

/// In the first epoch.
pub(crate) fn at(revision: u64) -> Point {
    Point { epoch: 1, revision }
}

pub(crate) fn world(versions: &[&str]) -> World {
    versions.iter().map(|text| version(text)).map(|version| (version.origin, version.point)).collect()
}

/// `global/web` is a service called web of the global's.
pub(crate) fn key(text: &str) -> DocumentKey {
    let (owner, name) = text.split_once('/').unwrap();
    format!("MeshService/default/{owner}//{name}").parse().unwrap()
}

pub(crate) fn draft(text: &str, bytes: &str) -> Draft {
    Draft::new(key(text), Bytes::from(bytes.to_owned()))
}

pub(crate) fn put(text: &str, bytes: &str) -> Write {
    Write::Put { draft: draft(text, bytes), expect: store::Expect::Any }
}

pub(crate) fn delete(text: &str) -> Write {
    Write::Delete { key: key(text), expect: store::Expect::Any }
}

pub(crate) fn record(text: &str, at: &str, bytes: &str) -> Record {
    Record {
        key: key(text),
        version: version(at),
        secret: false,
        requires: Vec::new(),
        bundle: None,
        bytes: Bytes::from(bytes.to_owned()),
    }
}

pub(crate) fn copy(text: &str, at: &str, bytes: &str) -> Write {
    Write::Copy(record(text, at, bytes))
}

pub(crate) fn forget(text: &str, at: &str) -> Write {
    Write::Forget { key: key(text), version: version(at) }
}
