//! The state folder: what lets a proxy serve again while its zone is away.
//!
//! `state.json` holds who this proxy is and the parts it acknowledged; it is on the disk before they are
//! acknowledged. `endpoints.json` holds the last word about each destination; it may be lost without harm.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use identity::{Peer, Svid};
use joining::{Keep, Kept};
use model::{DestinationId, Origin, World};
use runtime::files;
use serde::{Deserialize, Serialize, Serializer};
use sync::Batch;
use sync::line::{self, Judged};
use tracing::warn;
use zeroize::{Zeroize, Zeroizing};

const STATE: &str = "state.json";
const ENDPOINTS: &str = "endpoints.json";

/// The folder of one proxy. Clones share it.
#[derive(Clone)]
pub struct StateFolder {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    /// Locked for as long as it is written, so that writes keep their order.
    state: Mutex<State>,
}

/// What `state.json` says.
#[derive(Clone, Deserialize, Serialize)]
struct State {
    /// Whose folder it is.
    peer: String,
    #[serde(default)]
    membership: Option<Arc<Kept>>,
    #[serde(default)]
    leaf: Option<Leaf>,
    #[serde(default)]
    set: Set,
}

/// The parts that were put in force, as they came.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Set {
    #[serde(flatten)]
    pub reached: Reached,
    pub parts: BTreeMap<String, String>,
}

/// Up to where this proxy was told.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Reached {
    pub world: World,
    /// The zone that told it, and its rolling hash there.
    #[serde(default)]
    line: Option<(Origin, Bytes)>,
}

impl Reached {
    pub fn by(batch: &Batch, zone: &Origin) -> Self {
        Self { world: batch.world.clone(), line: Some((zone.clone(), batch.hash.clone())) }
    }

    /// The hash that came with the world; empty where another zone told it.
    pub fn hash(&self, zone: &Origin) -> Bytes {
        let line = self.line.as_ref().filter(|(of, _)| of == zone);
        line.map(|(_, hash)| hash.clone()).unwrap_or_default()
    }

    /// Whether what a zone sends goes on from here.
    pub fn judge(&self, zone: &Origin, batch: &Batch) -> Judged {
        let hash = self.hash(zone);
        let held = self.world.point(zone).map(|point| (point, &*hash));
        line::judge(held, batch.world.point(zone).unwrap_or_default(), &batch.continues)
    }
}

/// The workload's certificate with its key.
#[derive(Clone, Deserialize)]
#[serde(try_from = "LeafText")]
struct Leaf(Arc<Svid>);

#[derive(Deserialize, Serialize)]
struct LeafText {
    certificate: String,
    key: String,
}

/// What a proxy finds when it starts.
#[derive(Default)]
pub struct Found {
    pub svid: Option<Arc<Svid>>,
    pub set: Set,
    pub endpoints: BTreeMap<DestinationId, String>,
}

impl StateFolder {
    /// Opens the folder, or makes it. What cannot be read, or is another proxy's, counts as not there: it can
    /// all be had again from the zone.
    pub fn open(folder: &Path, peer: &Peer) -> anyhow::Result<(Self, Found)> {
        files::create_private_dir(folder)
            .with_context(|| format!("cannot make the state folder {}", folder.display()))?;
        let empty = || State { peer: peer.to_string(), membership: None, leaf: None, set: Set::default() };
        let state = match read::<State>(&folder.join(STATE))? {
            Some(state) if state.peer == peer.to_string() => Some(state),
            Some(state) => {
                warn!(folder = %folder.display(), peer = state.peer, "the state is another proxy's and not used");
                None
            }
            None => None,
        };
        let endpoints = match &state {
            Some(_) => read(&folder.join(ENDPOINTS))?.unwrap_or_default(),
            None => BTreeMap::new(),
        };
        let state = state.unwrap_or_else(empty);
        let found =
            Found { svid: state.leaf.as_ref().map(|leaf| leaf.0.clone()), set: state.set.clone(), endpoints };
        let inner = Inner { folder: folder.to_owned(), state: Mutex::new(state) };
        let folder = Self { inner: Arc::new(inner) };
        // Better known now than when the first set is to be acknowledged.
        folder.write(|_| {}).with_context(|| format!("cannot write to {}", folder.inner.folder.display()))?;
        Ok((folder, found))
    }

    /// Done when it is on the disk.
    pub async fn save_set(&self, set: Set) -> io::Result<()> {
        self.save(|state| state.set = set).await
    }

    /// Done when it is on the disk.
    pub async fn save_leaf(&self, svid: Arc<Svid>) -> io::Result<()> {
        self.save(|state| state.leaf = Some(Leaf(svid))).await
    }

    /// Does not wait for the disk.
    pub async fn save_endpoints(&self, endpoints: BTreeMap<DestinationId, String>) -> io::Result<()> {
        let path = self.inner.folder.join(ENDPOINTS);
        blocking(move || files::write_private_unsynced(&path, &serde_json::to_vec(&endpoints)?)).await
    }

    async fn save(&self, change: impl FnOnce(&mut State) + Send + 'static) -> io::Result<()> {
        let folder = self.clone();
        blocking(move || folder.write(change)).await
    }

    /// What could not be written goes with the next write.
    fn write(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state();
        change(&mut state);
        let bytes = Zeroizing::new(serde_json::to_vec(&*state)?);
        files::write_private(&self.inner.folder.join(STATE), &bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a plain assignment.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keep for StateFolder {
    async fn load(&self) -> anyhow::Result<Option<Kept>> {
        // One owner at a time: the membership takes it, and gives back what comes next.
        let kept = self.state().membership.clone();
        kept.map(|kept| Kept::from_bytes(&kept.to_bytes())).transpose().context("reading the membership")
    }

    async fn save(&self, kept: &Arc<Kept>) -> anyhow::Result<()> {
        let kept = kept.clone();
        Ok(StateFolder::save(self, move |state| state.membership = Some(kept)).await?)
    }
}

/// None where there is no such file, or where it cannot be understood.
fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            warn!(path = %path.display(), %error, "it cannot be understood and is not used");
            Ok(None)
        }
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

impl Drop for LeafText {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Serialize for Leaf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let credential = self.0.credential();
        let key = credential.key_pem().to_string();
        LeafText { certificate: credential.chain_pem(), key }.serialize(serializer)
    }
}

impl TryFrom<LeafText> for Leaf {
    type Error = identity::SvidError;

    fn try_from(text: LeafText) -> Result<Self, identity::SvidError> {
        Ok(Self(Arc::new(Svid::from_pem(&text.certificate, &text.key)?)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;

    use identity::{PrivateKey, SVID_LIFETIME, ZoneCa};
    use model::Point;

    use super::*;

    fn peer(text: &str) -> Peer {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn what_was_saved_is_found_again_by_the_same_proxy_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let (state, found) = StateFolder::open(&folder, &peer("proxy/default/web-1")).unwrap();
        assert!(found.svid.is_none() && found.set.parts.is_empty() && found.endpoints.is_empty());

        let now = SystemTime::now();
        let ca = ZoneCa::create("default.east.mesh.local".parse().unwrap(), SVID_LIFETIME, now).unwrap();
        let id = "spiffe://default.east.mesh.local/workload/web".parse().unwrap();
        let key = PrivateKey::generate();
        let chain = ca.issue(key.request().der(), &id, SVID_LIFETIME, now).unwrap();
        let svid = Arc::new(Svid::new(chain, &key).unwrap());
        let east: Origin = "east".parse().unwrap();
        let batch = Batch { hash: "hash".into(), ..Batch::default() };
        let parts = BTreeMap::from([("trust".to_owned(), "{}".to_owned())]);
        let set = Set { reached: Reached::by(&batch, &east), parts };
        let destination: DestinationId = "ms_default_east__catalog_80".parse().unwrap();
        state.save_leaf(svid).await.unwrap();
        state.save_set(set.clone()).await.unwrap();
        state.save_endpoints(BTreeMap::from([(destination.clone(), "[]".to_owned())])).await.unwrap();

        for name in [STATE, ENDPOINTS] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let (_, found) = StateFolder::open(&folder, &peer("proxy/default/web-1")).unwrap();
        assert_eq!(found.svid.unwrap().id(), &id);
        assert_eq!(found.set.parts, set.parts);
        assert_eq!(found.set.reached.hash(&east), batch.hash);
        assert!(found.set.reached.hash(&"west".parse().unwrap()).is_empty(), "its line is another one");
        assert_eq!(found.endpoints[&destination], "[]");

        let (_, found) = StateFolder::open(&folder, &peer("proxy/default/web-2")).unwrap();
        assert!(found.svid.is_none() && found.set.parts.is_empty() && found.endpoints.is_empty());
    }

    #[test]
    fn only_the_zone_whose_line_it_is_says_how_far_others_were_heard() {
        let east: Origin = "east".parse().unwrap();
        let at = |revision| Point { epoch: 1, revision };
        let world = [(east.clone(), at(3)), ("west".parse().unwrap(), at(50))].into_iter().collect();
        let told = Batch { world, hash: "at three".into(), ..Batch::default() };
        let reached = Reached::by(&told, &east);
        // Somebody accepted at the zone that it will never hear of west again.
        let world = [(east.clone(), at(4))].into_iter().collect();
        let next = Batch { world, continues: told.hash, ..Batch::default() };
        assert_eq!(reached.judge(&east, &next), Judged::Follows);
        assert_eq!(Reached::by(&next, &east).world, next.world);
    }

    #[test]
    fn what_cannot_be_understood_counts_as_not_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(STATE), "{\"peer\":").unwrap();
        let (_, found) = StateFolder::open(dir.path(), &peer("proxy/default/web-1")).unwrap();
        assert!(found.set.parts.is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("taken");
        fs::write(&taken, "").unwrap();
        assert!(StateFolder::open(&taken, &peer("proxy/default/web-1")).is_err());
    }
}
