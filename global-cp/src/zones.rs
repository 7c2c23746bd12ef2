//! The zones that joined: who is here, how they are heard, and what was said to and by them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use api::shapes::ProxyCounts;
use control::again::Changed;
use control::presence::{self, Past};
use control::questions::SUMMARY;
use control::{Admission, Again, Clock, Enroller, Holds, Home, Reports};
use futures::future::join_all;
use identity::Peer;
use model::document::Unreadable;
use model::kinds::{MeshTrust, ResourceSpec, Zone};
use model::{Document, DocumentKey, Labels, Origin, Record, ZoneName};
use rustls::pki_types::CertificateDer;
use snapshot::handle::zone_tag;
use store::{Change, Draft, Expect, Filter, Store};
use sync::frame::Signal;
use sync::link::{self, Handle};
use sync::server::{Enrolment, Handler, Refusal};
use sync::session::AskError;
use sync::topic::Topic;
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::exports::{Effect, Exports};
use crate::metrics::Metrics;
use crate::session::{ZoneSession, lane};

/// How long a failed look at the store waits before the next.
const AGAIN: Duration = Duration::from_secs(1);

/// Clones share one state.
#[derive(Clone)]
pub(crate) struct Zones(Arc<Inner>);

struct Inner {
    home: Home,
    clock: Clock,
    reports: Arc<Reports>,
    enroller: Arc<Enroller>,
    metrics: Metrics,
    holds: Holds,
    sessions: AtomicU64,
    entries: Mutex<BTreeMap<ZoneName, Entry>>,
    /// Taken before `entries`, never after.
    exports: Mutex<Exports>,
    /// Changes when a zone comes or goes, falls silent or is heard again.
    comings: watch::Sender<u64>,
}

/// What is known of a zone beside its documents; gone with the process.
#[derive(Default)]
struct Entry {
    session: Option<Attached>,
    last_heard: Option<Past>,
    /// Its document is gone: what an ending session still says makes nobody wait for it.
    is_removed: bool,
    counts: ProxyCounts,
    line: Line,
    /// What is refused of what it originates.
    again: Arc<Again>,
}

/// Whether what the zone has of the global is of this history.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Line {
    /// It has not said in this session what it has.
    #[default]
    Unknown,
    Continues,
    /// It was told another one: by its numbers it says nothing about ours.
    Diverges,
}

struct Attached {
    id: u64,
    /// Nothing was heard in it for 5 s.
    silent: bool,
    handle: Handle,
}

/// How a zone is heard now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) has_session: bool,
    pub(crate) age: Option<Duration>,
    pub(crate) counts: ProxyCounts,
    pub(crate) line: Line,
}

impl Heard {
    /// How the API tells it.
    pub(crate) fn told(&self) -> api::shapes::Heard {
        presence::heard(self.age, self.has_session)
    }
}

impl Zones {
    pub(crate) fn new(home: Home, enroller: Arc<Enroller>, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            enroller,
            home,
            clock,
            reports: Arc::default(),
            metrics,
            holds: Holds::default(),
            sessions: AtomicU64::default(),
            entries: Mutex::default(),
            exports: Mutex::default(),
            comings: watch::Sender::default(),
        }))
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.0.home.store
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Zones whose history is not the one that is held of them.
    pub(crate) fn holds(&self) -> &Holds {
        &self.0.holds
    }

    /// Hears again what a zone originated, after its new history was accepted.
    pub(crate) fn hear_anew(&self, zone: &ZoneName) {
        if let Some(handle) = self.handle(zone) {
            handle.reopen(&Topic::ORIGINATED);
        }
    }

    /// When what is refused of a zone is judged again.
    pub(crate) fn again(&self, zone: &ZoneName) -> Arc<Again> {
        self.entries().entry(zone.clone()).or_default().again.clone()
    }

    /// Documents changed: what was refused because of them is judged again.
    fn review(&self, changes: &[Change]) {
        for key in changes.iter().map(Change::key) {
            for (zone, entry) in self.entries().iter() {
                match key.kind.as_str() {
                    kind if kind == Zone::KIND.name && key.name.as_str() == zone.as_str() => {
                        self.judge_again(zone, entry, Changed::Owner);
                    }
                    kind if kind == MeshTrust::KIND.name && key.origin.zone() != Some(zone) => {
                        self.judge_again(zone, entry, Changed::Bundle);
                    }
                    _ => {}
                }
            }
        }
    }

    fn judge_again(&self, zone: &ZoneName, entry: &Entry, because: Changed) {
        let is_outdated = entry.again.changed(because, &self.reports().of(&lane(zone)));
        if let Some(session) = entry.session.as_ref().filter(|_| is_outdated) {
            session.handle.reopen(&Topic::ORIGINATED);
        }
    }

    /// All zones that have a document, by name, also where it cannot be read: a zone is not gone by that.
    pub(crate) async fn documents(
        &self,
    ) -> Result<BTreeMap<ZoneName, Result<Zone, Unreadable>>, store::Error> {
        let filter = Filter::all().kinds([Zone::KIND.key_name()]).written_by(Origin::Global);
        let listing = self.store().list(filter).await?;
        let zone = |record: &Record| Some((record.key.name.as_str().parse().ok()?, read_zone(record)));
        Ok(listing.records.iter().filter_map(zone).collect())
    }

    pub(crate) async fn document(
        &self,
        zone: &ZoneName,
    ) -> Result<Option<Result<Zone, Unreadable>>, store::Error> {
        let record = self.store().get(&key(zone)).await?;
        Ok(record.as_ref().map(read_zone))
    }

    pub(crate) fn heard(&self, zone: &ZoneName) -> Heard {
        self.entries().get(zone).map(Entry::heard).unwrap_or_default()
    }

    /// How long ago each zone was heard of that was.
    pub(crate) fn ages(&self) -> Vec<(Origin, Duration)> {
        let entries = self.entries();
        let age = |(zone, entry): (&ZoneName, &Entry)| {
            Some((Origin::Zone(zone.clone()), entry.last_heard?.elapsed()))
        };
        entries.iter().filter_map(age).collect()
    }

    /// How each zone is heard that ever was.
    pub(crate) fn everyone(&self) -> Vec<(Origin, api::shapes::Heard)> {
        let entries = self.entries();
        let heard = entries.iter().map(|(zone, entry)| (Origin::Zone(zone.clone()), entry.heard()));
        heard.filter(|(_, heard)| heard.age.is_some()).map(|(zone, heard)| (zone, heard.told())).collect()
    }

    /// What the process before this one kept of it.
    pub(crate) async fn remember_ages(&self) -> Result<(), store::Error> {
        let kept = presence::last_heard(self.store(), self.now()).await?;
        let documents = self.documents().await?;
        for (origin, age) in kept {
            if let Origin::Zone(zone) = origin
                && documents.contains_key(&zone)
            {
                self.change(&zone, |entry| entry.last_heard = Some(Past::ago(age)));
            }
        }
        Ok(())
    }

    /// Changes whenever a zone comes or goes, falls silent or is heard again.
    pub(crate) fn comings(&self) -> watch::Receiver<u64> {
        self.0.comings.subscribe()
    }

    pub(crate) async fn ask(
        &self,
        zone: &ZoneName,
        kind: &'static str,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<bytes::Bytes, AskError> {
        let handle = self.handle(zone).ok_or(AskError::Disconnected)?;
        handle.ask(kind, body, timeout).await
    }

    /// The next certificate of a zone that is here.
    pub(crate) async fn renew(
        &self,
        admission: &Admission,
        csr_der: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, control::EnrolError> {
        self.0.enroller.renew(admission, csr_der, self.0.clock.now()).await
    }

    /// A session that is to be the only one of its zone: an earlier one is closed.
    fn attach(&self, zone: &ZoneName, handle: Handle) -> u64 {
        let id = self.0.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        handle.subscribe([SUMMARY]);
        let mut exports = self.exports();
        let mut entries = self.entries();
        let entry = entries.entry(zone.clone()).or_default();
        (entry.line, entry.is_removed) = (Line::Unknown, false);
        match entry.session.replace(Attached { id, silent: false, handle }) {
            Some(earlier) => earlier.handle.close("a newer session of this zone took over"),
            None => {
                self.0.metrics.zones_connected.inc();
            }
        }
        let effects = exports.joined(zone);
        carry_out(&entries, effects);
        id
    }

    pub(crate) fn detach(&self, zone: &ZoneName, id: u64) {
        if let Some(entry) = self.entries().get_mut(zone)
            && entry.session.take_if(|session| session.id == id).is_some()
        {
            self.0.metrics.zones_connected.dec();
        }
        self.0.comings.send_modify(|n| *n += 1);
    }

    /// The zone has introduced itself: it can be asked.
    pub(crate) fn came(&self, zone: &ZoneName) {
        self.hear(zone);
        info!(%zone, "zone connected");
        self.0.comings.send_modify(|n| *n += 1);
    }

    /// Nothing was heard in a zone's session for 5 s, or it is heard again.
    pub(crate) fn fell_silent(&self, zone: &ZoneName, id: u64, silent: bool) {
        self.change(zone, |entry| {
            if let Some(session) = entry.session.as_mut().filter(|session| session.id == id) {
                session.silent = silent;
            }
        });
        self.0.comings.send_modify(|n| *n += 1);
    }

    /// Waits until nothing is heard of a zone, though it has a session.
    pub(crate) async fn silence(&self, zone: &ZoneName) {
        let is_silent = |_: &u64| {
            let entries = self.entries();
            entries.get(zone).and_then(|entry| entry.session.as_ref()).is_some_and(|session| session.silent)
        };
        let _ = self.comings().wait_for(is_silent).await;
    }

    pub(crate) fn hear(&self, zone: &ZoneName) {
        self.change(zone, |entry| entry.last_heard = (!entry.is_removed).then(Past::now));
    }

    pub(crate) fn count(&self, zone: &ZoneName, counts: ProxyCounts) {
        self.change(zone, |entry| entry.counts = counts);
    }

    /// Whether that is news.
    pub(crate) fn mark(&self, zone: &ZoneName, line: Line) -> bool {
        let mut entries = self.entries();
        let entry = entries.entry(zone.clone()).or_default();
        std::mem::replace(&mut entry.line, line) != line
    }

    /// What was not taken, by whom.
    pub(crate) fn reports(&self) -> &Arc<Reports> {
        &self.0.reports
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.0.clock.now()
    }

    fn change(&self, zone: &ZoneName, change: impl FnOnce(&mut Entry)) {
        change(self.entries().entry(zone.clone()).or_default());
    }

    pub(crate) fn is_latest(&self, zone: &ZoneName, id: u64) -> bool {
        self.entries().get(zone).and_then(|entry| entry.session.as_ref()).is_some_and(|held| held.id == id)
    }

    /// A zone wants exports of others, or no longer.
    pub(crate) fn subscribed(&self, zone: &ZoneName, added: &[String], removed: &[String]) {
        let mut exports = self.exports();
        let entries = self.entries();
        let is_here = |zone: &ZoneName| entries.get(zone).is_some_and(|entry| entry.session.is_some());
        let effects = exports.subscribed(zone, added, removed, Instant::now(), is_here);
        carry_out(&entries, effects);
    }

    /// A zone says what it exports.
    pub(crate) fn exported(&self, zone: &ZoneName, name: &str, signal: Signal) {
        let mut exports = self.exports();
        match exports.heard(zone, name, signal, Instant::now()) {
            Ok(effects) => carry_out(&self.entries(), effects),
            Err(_) => {
                self.0.metrics.exports_ignored.inc();
                warn!(%zone, signal = name, "a zone spoke for what is not its own");
            }
        }
    }

    /// Waits until all other zones have put in force what they were told so far.
    pub(crate) async fn settled_but(&self, zone: &ZoneName) {
        let others: Vec<Handle> = {
            let entries = self.entries();
            let others = entries.iter().filter(|(other, _)| *other != zone);
            others.filter_map(|(_, entry)| Some(entry.session.as_ref()?.handle.clone())).collect()
        };
        join_all(others.iter().map(Handle::settled)).await;
    }

    /// Makes the zone's document if it has none: for who shows a token, and nobody else. One that was deleted
    /// would come back otherwise.
    async fn ensure(&self, zone: &ZoneName) -> Result<Result<Zone, Unreadable>, Refusal> {
        if let Some(document) = self.document(zone).await.map_err(not_now)? {
            return Ok(document);
        }
        let others = self.documents().await.map_err(not_now)?;
        if let Some(other) = same_tag(zone, others.keys()) {
            return Err(Refusal::Denied(format!(
                "zone '{zone}' cannot join: its tag is that of zone '{other}'; give it another name"
            )));
        }
        let made =
            Document::generate(None, zone.as_name().clone().into(), Labels::default(), Zone::default());
        match self.store().put(Draft::new(key(zone), made.canonical()), Expect::Absent).await {
            Ok(_) => {
                info!(%zone, "a new zone joined");
                Ok(Ok(Zone::default()))
            }
            Err(store::Error::Conflict { .. }) => {
                Ok(self.document(zone).await.map_err(not_now)?.unwrap_or_else(|| Ok(Zone::default())))
            }
            Err(error) => Err(not_now(error)),
        }
    }

    /// Whether a zone that has a certificate may connect.
    async fn check(&self, zone: &ZoneName) -> Result<(), Refusal> {
        let document = self.document(zone).await.map_err(not_now)?;
        match turned_away(zone, document.as_ref()) {
            Some(why) => Err(Refusal::Denied(why)),
            None => Ok(()),
        }
    }

    fn handle(&self, zone: &ZoneName) -> Option<Handle> {
        Some(self.entries().get(zone)?.session.as_ref()?.handle.clone())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<ZoneName, Entry>> {
        // Nothing can panic between two states that fit together.
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exports(&self) -> MutexGuard<'_, Exports> {
        self.0.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn heard(&self) -> Heard {
        Heard {
            has_session: self.session.is_some(),
            age: self.last_heard.map(|at| at.elapsed()),
            counts: self.counts,
            line: self.line,
        }
    }
}

impl Handler for Zones {
    type Host = ZoneSession;

    async fn enrol(&self, enrolment: Enrolment) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let Enrolment { token, csr_der, peer, address } = enrolment;
        let now = self.0.clock.now();
        let enrolled = self.0.enroller.enrol(&token, &csr_der, &peer, now).await.map_err(|error| {
            warn!(%address, peer = peer.escape_debug().to_string(), %error, "did not join");
            error
        })?;
        match &enrolled.peer {
            Peer::Zone(zone) => match turned_away(zone, Some(&self.ensure(zone).await?)) {
                Some(why) => Err(Refusal::Denied(why)),
                None => Ok(enrolled.chain),
            },
            _ => Err(Refusal::Denied("only zones join the global".to_owned())),
        }
    }

    async fn connected(&self, peer: link::Peer, handle: Handle) -> Result<Arc<ZoneSession>, Refusal> {
        let leaf = peer.certificates.first().map(|leaf| leaf.as_ref()).unwrap_or_default();
        let admission = self.0.enroller.admit(leaf, handle.clone())?;
        let Peer::Zone(zone) = &admission.peer else {
            return Err(Refusal::Denied(format!("{} is no zone", admission.peer)));
        };
        let zone = zone.clone();
        self.check(&zone).await?;
        let id = self.attach(&zone, handle);
        // Somebody may have disabled or deleted it meanwhile, before the session could be found and closed.
        if let Err(refusal) = self.check(&zone).await {
            self.detach(&zone, id);
            return Err(refusal);
        }
        Ok(Arc::new(ZoneSession::new(self.clone(), zone, admission, id)))
    }
}

/// Tells sessions what the store learned, and closes those of zones that may no longer connect.
pub(crate) async fn follow(zones: Zones, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let followed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            followed = follow_log(&zones) => followed,
        };
        if let Err(error) = followed {
            error!(%error, "cannot follow the store; trying again");
            let _ = time::timeout(AGAIN, stop.cancelled()).await;
        }
    }
}

async fn follow_log(zones: &Zones) -> Result<(), store::Error> {
    let mut watch = zones.store().watch(zones.store().head().await?.sequence);
    turn_away(zones).await?;
    if let Err(error) = zones.sweep().await {
        // Everybody else is told what there is all the same.
        warn!(%error, "what a removed zone left cannot be removed now; it is by the next start");
    }
    // Whatever changed while nobody looked.
    for (zone, entry) in zones.entries().iter() {
        zones.judge_again(zone, entry, Changed::Owner);
    }
    loop {
        for entry in zones.entries().values() {
            if let Some(session) = &entry.session {
                session.handle.changed(&Topic::POLICY);
            }
        }
        let commit = watch.next().await?;
        zones.review(&commit.changes);
        let of_zones = |change: &&Change| change.key().kind.as_str() == Zone::KIND.name;
        for change in commit.changes.iter().filter(of_zones) {
            if let (Change::Deleted { key, .. }, Ok(zone)) = (change, change.key().name.as_str().parse()) {
                info!(%zone, document = %key, "the zone was removed");
                zones.change(&zone, |entry| (entry.last_heard, entry.is_removed) = (None, true));
                zones.forget(&zone).await?;
            }
        }
        if commit.changes.iter().any(|change| of_zones(&change)) {
            turn_away(zones).await?;
        }
    }
}

/// Closes the sessions of zones that may not connect any more.
async fn turn_away(zones: &Zones) -> Result<(), store::Error> {
    let documents = zones.documents().await?;
    for (zone, entry) in zones.entries().iter() {
        if let (Some(session), Some(why)) = (&entry.session, turned_away(zone, documents.get(zone))) {
            session.handle.close(why);
        }
    }
    Ok(())
}

fn carry_out(entries: &BTreeMap<ZoneName, Entry>, effects: Vec<Effect>) {
    let handle = |zone: &ZoneName| Some(&entries.get(zone)?.session.as_ref()?.handle);
    for effect in effects {
        // Who is away is told when it comes: see `Exports::joined`.
        match effect {
            Effect::Subscribe { owner, signal } => {
                if let Some(handle) = handle(&owner) {
                    handle.subscribe([signal]);
                }
            }
            Effect::Unsubscribe { owner, signal } => {
                if let Some(handle) = handle(&owner) {
                    handle.unsubscribe([signal.as_str()]);
                }
            }
            Effect::Publish { zone, name, signal } => {
                if let Some(handle) = handle(&zone) {
                    handle.signal(name, signal);
                }
            }
            Effect::Retract { zone, signal } => {
                if let Some(handle) = handle(&zone) {
                    handle.retract(&signal);
                }
            }
        }
    }
}

/// The zone among `others` whose handles could not be told from this zone's.
pub(crate) fn same_tag<'a>(
    zone: &ZoneName,
    others: impl IntoIterator<Item = &'a ZoneName>,
) -> Option<&'a ZoneName> {
    let tag = zone_tag(zone);
    others.into_iter().find(|other| *other != zone && zone_tag(other) == tag)
}

fn key(zone: &ZoneName) -> DocumentKey {
    DocumentKey {
        kind: Zone::KIND.key_name(),
        mesh: None,
        origin: Origin::Global,
        namespace: None,
        name: zone.as_name().clone().into(),
    }
}

fn read_zone(record: &Record) -> Result<Zone, Unreadable> {
    let document = Document::from_record(record)?;
    let zone = document.spec_as::<Zone>().cloned();
    zone.ok_or_else(|| Unreadable::UnknownKind(record.key.kind.clone()))
}

/// Why a zone may not connect, by its document; none where it may.
fn turned_away(zone: &ZoneName, document: Option<&Result<Zone, Unreadable>>) -> Option<String> {
    match document {
        Some(Ok(document)) if document.enabled => None,
        // Whether it may is not known.
        Some(Err(error)) => Some(format!(
            "the document of zone '{zone}' cannot be read on the global, write it again: {error}"
        )),
        Some(Ok(_)) => Some(format!("zone '{zone}' is not enabled on the global")),
        None => Some(format!("zone '{zone}' was removed: enrol again with a new token")),
    }
}

fn not_now(error: store::Error) -> Refusal {
    error!(%error, "the store failed");
    Refusal::Unavailable("the global cannot use its store now".to_owned())
}
