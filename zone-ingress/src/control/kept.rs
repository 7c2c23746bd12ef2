//! The last table, kept for a restart without the zone. It may be lost without harm.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use identity::Peer;
use runtime::files;
use serde::{Deserialize, Serialize};
use snapshot::parts::Handles;
use tracing::warn;

/// The file of one ingress.
#[derive(Clone, Debug)]
pub struct KeptTable {
    path: PathBuf,
    peer: String,
}

#[derive(Deserialize, Serialize)]
struct Content {
    /// Whose table it is.
    peer: String,
    handles: Handles,
}

impl KeptTable {
    /// What cannot be understood, or is another ingress's, counts as not there.
    pub fn open(path: PathBuf, peer: &Peer) -> anyhow::Result<(Self, Option<Handles>)> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let peer = peer.to_string();
        let found = bytes.and_then(|bytes| match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) if content.peer == peer => Some(content.handles),
            Ok(content) => {
                warn!(path = %path.display(), peer = content.peer, "the table is another ingress's and not used");
                None
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "it cannot be understood and is not used");
                None
            }
        });
        Ok((Self { path, peer }, found))
    }

    /// Does not wait for the disk.
    pub async fn save(&self, handles: Handles) -> io::Result<()> {
        let (path, content) = (self.path.clone(), Content { peer: self.peer.clone(), handles });
        let writing = move || files::write_private_unsynced(&path, &serde_json::to_vec(&content)?);
        tokio::task::spawn_blocking(writing).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_table_is_found_again_by_its_ingress_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = || dir.path().join("handles.json");
        let (east, other): (Peer, Peer) =
            ("ingress/east-1".parse().unwrap(), "ingress/east-2".parse().unwrap());
        let (kept, found) = KeptTable::open(path(), &east).unwrap();
        assert_eq!(found, None);
        let handles = Handles([("a.test".to_owned(), "127.0.0.1:80".parse().unwrap())].into());
        kept.save(handles.clone()).await.unwrap();
        assert_eq!(KeptTable::open(path(), &east).unwrap().1, Some(handles));
        assert_eq!(KeptTable::open(path(), &other).unwrap().1, None);
        std::fs::write(path(), "{").unwrap();
        assert_eq!(KeptTable::open(path(), &east).unwrap().1, None);
    }
}
