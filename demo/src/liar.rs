//! A zone that says whatever it is told to say, over the real protocol and with a certificate of its own: to see who
//! believes it. It has no proxies, and takes whatever the global sends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use api::shapes::{ProxyCounts, ZoneProgress, ZoneState};
use bytes::Bytes;
use control::questions::{REVISION, RevisionAnswer};
use identity::Peer;
use joining::{Joining, KeepFile, Membership};
use model::{BundleNumber, Origin, Point, World, ZoneName};
use serde_json::{Value, json};
use sync::link::{self, Handle, Host, HostError, Topics};
use sync::session::{Applied, Limits};
use sync::{Base, Batch, Entry, Refused, Topic};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::mesh::{LIMIT, Mesh};

/// Its session ends when it is dropped; [`Liar::leave`] waits for that.
pub struct Liar {
    voice: Arc<Voice>,
    handle: Handle,
    stop: CancellationToken,
    session: JoinHandle<()>,
}

struct Voice {
    zone: ZoneName,
    /// What is said last, and whether it was sent.
    saying: Mutex<(Batch, bool)>,
    /// Up to where the global heard it, and what it did not take.
    heard: watch::Sender<(Point, Vec<Refused>)>,
}

/// So that it goes on from where it was; what it is does not matter.
const HASH: &[u8] = b"a line without history";

impl Liar {
    /// With a token, as every zone.
    pub async fn join(mesh: &Mesh, name: &str) -> anyhow::Result<Self> {
        let zone: ZoneName = name.parse()?;
        let token = mesh.write_zone_token(name).await?;
        let joining = Joining::new(Peer::Zone(zone.clone()), mesh.global_addresses().sync.to_string(), token);
        let kept = KeepFile::new(mesh.dir().join(format!("{name}.kept")));
        let membership = Membership::open(joining, kept).await?;

        let voice = Voice { zone, saying: Mutex::default(), heard: watch::Sender::default() };
        let (voice, handle, stop) = (Arc::new(voice), Handle::new(), CancellationToken::new());
        let (host, of, until) = (voice.clone(), handle.clone(), stop.clone());
        let session = tokio::spawn(async move {
            let options = link::Options::new(env!("CARGO_PKG_VERSION"), Limits::CONTROL_PLANE);
            membership.run(host, &of, &options, &until).await;
        });
        time::timeout(LIMIT, handle.connected()).await.context("it gets no session")?;
        Ok(Self { voice, handle, stop, session })
    }

    /// Says that these documents are there and those are not, and hears what of it was not taken.
    pub async fn say(&self, entries: Vec<Entry>, removed: &[&str]) -> anyhow::Result<Vec<Refused>> {
        let upto = self.voice.say(entries, removed);
        self.handle.changed(&Topic::ORIGINATED);
        let mut heard = self.voice.heard.subscribe();
        let heard = time::timeout(LIMIT, heard.wait_for(|(point, _)| *point >= upto)).await;
        Ok(heard.context("nobody hears it")??.1.clone())
    }

    pub async fn leave(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.session).await.context("its session ended badly")
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A document as somebody with a version of `version` would send it.
pub fn document(key: &str, version: &str, spec: &Value) -> anyhow::Result<Entry> {
    let parts: Vec<&str> = key.split('/').collect();
    ensure!(parts.len() == 5, "{key} has {} parts", parts.len());
    let body = json!({"type": parts[0], "mesh": parts[1], "name": parts[4], "spec": spec});
    Ok(Entry {
        key: key.to_owned(),
        version: Some(version.parse()?),
        secret: false,
        requires: Vec::new(),
        bundle: None,
        body: serde_json::to_vec(&body)?.into(),
    })
}

/// A trust bundle, numbered.
pub fn bundle(entry: Entry, n: u64) -> Entry {
    Entry { bundle: Some(BundleNumber { incarnation: 1, n }), ..entry }
}

impl Voice {
    fn say(&self, entries: Vec<Entry>, removed: &[&str]) -> Point {
        let mut saying = self.saying();
        let origin = Origin::Zone(self.zone.clone());
        let last = saying.0.world.point(&origin).map_or(0, |point| point.revision);
        // Its documents have versions between those of two batches.
        let upto = Point { epoch: 1, revision: last + 1_000 };
        let batch = Batch {
            entries,
            removed: removed.iter().map(|key| (*key).to_owned()).collect(),
            world: [(origin, upto)].into_iter().collect(),
            hash: HASH.into(),
            continues: HASH.into(),
            ..Batch::default()
        };
        *saying = (batch, false);
        upto
    }

    fn saying(&self) -> MutexGuard<'_, (Batch, bool)> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Voice {
    fn topics(&self) -> Topics {
        Topics { serves: vec![Topic::ORIGINATED], copies: vec![Topic::POLICY] }
    }

    async fn collect(&self, _: Topic, _: Base) -> Result<Option<Batch>, HostError> {
        let mut saying = self.saying();
        let is_sent = std::mem::replace(&mut saying.1, true);
        Ok((!is_sent && saying.0.world.iter().next().is_some()).then(|| saying.0.clone()))
    }

    async fn apply(&self, _: Topic, batch: Batch) -> Result<Applied, HostError> {
        Ok(Applied::Stored { world: batch.world, refused: Vec::new() })
    }

    fn acknowledged(&self, _: &Topic, world: &World, refused: &[Refused]) {
        let point = world.point(&Origin::Zone(self.zone.clone())).unwrap_or_default();
        self.heard.send_replace((point, refused.to_vec()));
    }

    async fn question(&self, kind: String, _: Bytes) -> Result<Bytes, String> {
        if kind != REVISION {
            return Err(format!("'{kind}' is nothing that it talks about"));
        }
        let (name, state) = (self.zone.clone(), ZoneState::Applied);
        let zone = ZoneProgress { name, state, proxies: ProxyCounts::default() };
        let answer = serde_json::to_vec(&RevisionAnswer { zone, late: Vec::new() });
        answer.map(Bytes::from).map_err(|error| error.to_string())
    }
}
