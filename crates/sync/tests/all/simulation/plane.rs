//! What a control plane has at rest, which is a real store, and how it decides as the programs do: what it tells whom is
//! in [`owner`], what it takes of others in [`copy`].

mod copy;
mod lie;
mod owner;
mod refusals;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt;
use model::{Origin, Point, Record, World};
use store::{Answer, CopyableStore, Fence, Filter, MemoryStore, Retention};
use sync::session::Applied;
use sync::{Base, Batch, Place, Refused, Topic};

use super::bug::Bug;
use super::chronicle::{Chronicle, Set, check_pairs, number};
use super::end::End;
use super::random::Random;
use super::site::{Party, Shown, Site};
use copy::{Hold, Move};

/// So little that a deletion is often no longer known when somebody should be told of it.
const RETENTION: Retention =
    Retention { commits: 12, age: Duration::from_secs(3600), commit_bytes: 1 << 20, tombstones: 16 };

/// The time of day at one control plane, in seconds since 1970. It goes back as well.
pub(super) type WallClock = Arc<AtomicU64>;

pub(super) struct Plane {
    origin: Origin,
    /// Everybody's, by their place.
    origins: Rc<[Origin]>,
    bug: Bug,
    clock: WallClock,
    chronicle: Rc<RefCell<Chronicle>>,
    written: CopyableStore,
    durable: CopyableStore,
    backups: Vec<CopyableStore>,
    /// Up to where readers' view was noted, and checked.
    noted: Option<u64>,
    checked: Option<u64>,
    holds: BTreeMap<Origin, Hold>,
    /// How copies moved from state to state, and what they were not taken to, since the last check.
    moves: Vec<Move>,
    /// Whom this side may have told more than it knows, since its store was put back or lost.
    forgot: BTreeSet<Party>,
    /// By whose word an epoch began since the program did.
    begun: BTreeSet<Party>,
    /// Who was asked for everything since the program began.
    asked: BTreeSet<Party>,
    /// What others said last that they refuse of what they were told.
    told: BTreeMap<Party, Vec<Refused>>,
    lies: bool,
    /// What left, and when: the mistake of taking that for a deletion.
    buried: BTreeMap<String, Point>,
}

impl Plane {
    pub(super) fn new(
        party: Party,
        origins: Rc<[Origin]>,
        clock: WallClock,
        chronicle: Rc<RefCell<Chronicle>>,
        bug: Bug,
    ) -> Self {
        let origin = origins[party].clone();
        let written = empty(&origin, &clock);
        let mut plane = Self {
            durable: written.copy(),
            backups: vec![written.copy()],
            written,
            origin,
            origins,
            bug,
            clock,
            chronicle,
            noted: None,
            checked: None,
            holds: BTreeMap::new(),
            moves: Vec::new(),
            forgot: BTreeSet::new(),
            begun: BTreeSet::new(),
            asked: BTreeSet::new(),
            told: BTreeMap::new(),
            lies: false,
            buried: BTreeMap::new(),
        };
        plane.note_line(None);
        plane.sync();
        plane
    }

    fn is_relay(&self) -> bool {
        self.origin == Origin::Global
    }

    fn seconds(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Documents of others as a party speaks for them: a zone for its own, the relay for all but ours.
    fn spoken_for(&self, by: Party) -> Filter {
        match &self.origins[by] {
            Origin::Global => Filter::all().not_written_by(self.origin.clone()),
            zone => Filter::all().written_by(zone.clone()),
        }
    }

    /// Of a world, what a party speaks for.
    fn world_of(&self, by: Party, world: &World) -> World {
        let speaks_for = |origin: &Origin| match &self.origins[by] {
            Origin::Global => *origin != self.origin,
            zone => origin == zone,
        };
        let points = world.iter().filter(|(origin, _)| speaks_for(origin));
        points.map(|(origin, point)| (origin.clone(), point)).collect()
    }

    /// All parties that this one has sessions with.
    fn parties(&self) -> impl Iterator<Item = Party> + use<> {
        let (own, origins) = (self.origin.clone(), self.origins.clone());
        (0..origins.len()).filter(move |other| (own == Origin::Global) != (origins[*other] == Origin::Global))
    }

    /// What the relay has for each zone is what zones may have.
    fn note_relayed(&mut self) {
        let head = now(self.durable.head());
        if !self.is_relay() || self.noted.replace(head.sequence) == Some(head.sequence) {
            return;
        }
        let refused = self.parties().flat_map(|zone| refusals::keys(&self.durable, &self.origins[zone]));
        self.chronicle.borrow_mut().relay_refuses(refused.collect());
        for zone in self.parties() {
            if let Some((point, hash)) = copy::heard(&self.durable, &self.origins[zone]) {
                self.chronicle.borrow_mut().relay_heard(&self.origins[zone], point, hash);
            }
            let shows = self.shared_with(&self.durable, zone);
            let world = without(&head.world, &self.origins[zone]);
            self.chronicle.borrow_mut().relays(&self.origins[zone], &world, &set_of(&shows));
        }
    }

    fn check_copy(&self, of: Party) {
        let head = now(self.durable.head());
        let world = self.world_of(of, &head.world);
        let records = now(self.durable.list(self.spoken_for(of))).records;
        let chronicle = self.chronicle.borrow();
        records.iter().for_each(|record| chronicle.check_genuine(record));
        let documents = set_of(&records);
        check_pairs(&documents);
        let origin = &self.origins[of];
        let Some(point) = world.point(origin) else {
            assert!(documents.is_empty(), "something is visible before the first world");
            return;
        };
        let heard = copy::heard(&self.durable, origin).expect("it was heard of");
        let refused = refusals::keys(&self.durable, &self.origins[of]);
        let is_its = |key: &String| key.split('/').nth(2) == Some(origin.as_str());
        let own = documents.iter().filter(|(key, _)| is_its(key));
        let own: Set = own.map(|(key, number)| (key.clone(), *number)).collect();
        chronicle.check_owned(origin, (point, &heard.1), &own, &refused);
        if *origin == Origin::Global {
            chronicle.check_relayed(&self.origin, &world, &documents, &refused);
        }
    }
}

impl Site for Plane {
    fn write(&mut self, random: &mut Random) {
        self.write_documents(random);
    }

    fn sync(&mut self) {
        self.durable = self.written.copy();
        self.note_relayed();
    }

    fn back_up(&mut self) {
        self.backups.push(self.durable.copy());
    }

    fn lose_power(&mut self) {
        self.written = self.durable.copy();
    }

    fn put_back(&mut self, random: &mut Random) {
        let backup = random.below(self.backups.len() as u64) as usize;
        // Copies of what is undone by that do not come back: what they know nobody asked the others about.
        self.backups.truncate(backup + 1);
        self.written = self.backups[backup].copy();
        self.forgot.extend(self.parties());
        (self.noted, self.checked) = (None, None);
        self.sync();
    }

    fn lose(&mut self) {
        self.written = empty(&self.origin, &self.clock);
        self.backups = vec![self.written.copy()];
        self.note_line(None);
        self.forgot.extend(self.parties());
        (self.noted, self.checked) = (None, None);
        self.sync();
    }

    fn restart(&mut self) {
        self.holds.clear();
        self.begun.clear();
        self.asked.clear();
        self.told.clear();
    }

    fn collect(
        &mut self,
        to: Party,
        _: &Topic,
        base: Base,
        _: &mut End,
        random: &mut Random,
    ) -> Option<Batch> {
        let mut batch = self.batch_for(to, &base, random);
        if let Some(batch) = batch.as_mut().filter(|_| self.lies) {
            self.lie(to, base.world(), batch, random);
        }
        batch
    }

    fn locate(&mut self, of: Party) -> (Fence, Place) {
        let fence = now(self.written.fence(self.origins[of].as_str()));
        self.sync();
        let have = self.world_of(of, &now(self.durable.head()).world);
        let hash = copy::heard(&self.durable, &self.origins[of]).map(|(_, hash)| hash).unwrap_or_default();
        // What was refused is judged again, once since the program began.
        let refuses = !refusals::keys(&self.durable, &self.origins[of]).is_empty();
        let anew = refuses && self.asked.insert(of);
        (fence, Place { have, hash, anew, ..Place::default() })
    }

    fn apply(
        &mut self,
        of: Party,
        batch: Batch,
        fence: Option<Fence>,
        random: &mut Random,
    ) -> Option<Applied> {
        self.take_over(of, batch, fence, random)
    }

    fn leak_half(&mut self, of: Party, batch: &Batch) {
        self.take_half(of, batch);
        self.sync();
    }

    fn acknowledged(&mut self, by: Party, world: &World, refused: Vec<Refused>) {
        let (told, written) = (world.point(&self.origin), now(self.written.head()).point);
        assert!(told.is_none_or(|told| told <= written), "acknowledged ahead of the owner: {told:?}");
        self.told.insert(by, refused);
    }

    fn accept(&mut self) -> Vec<Party> {
        let waiting = self.holds.iter_mut().filter(|(_, hold)| !hold.is_accepted);
        let accepted = waiting.map(|(origin, hold)| {
            hold.is_accepted = true;
            self.origins.iter().position(|other| other == origin).expect("one of us")
        });
        accepted.collect()
    }

    fn holds_back(&self) -> bool {
        !self.holds.is_empty()
    }

    fn has_stored(&self, world: &World) -> bool {
        now(self.durable.head()).world.covers_all(world)
    }

    fn check(&mut self, random: &mut Random) {
        let sequence = now(self.durable.head()).sequence;
        if self.checked.replace(sequence) != Some(sequence) {
            self.parties().for_each(|of| self.check_copy(of));
        }
        self.check_moves(random);
    }

    fn shows(&self, to: Party) -> Shown {
        let records = self.shared_with(&self.durable, to);
        let (bad, good): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| refusals::cannot_take(&self.origins[to], &record.bytes));
        let head = now(self.durable.head());
        let world = match self.is_relay() {
            true => without(&head.world, &self.origins[to]),
            false => [(self.origin.clone(), head.point)].into_iter().collect(),
        };
        let refused: Vec<_> = bad.into_iter().map(|record| record.key.to_string()).collect();
        let mut bodies: BTreeMap<_, _> =
            good.into_iter().map(|record| (record.key.to_string(), record.bytes)).collect();
        bodies.retain(|key, _| !self.chronicle.borrow().excuses(&self.origins[to], key));
        // Its owner was told.
        let told = self.told.get(&to).into_iter().flatten().map(|refused| refused.key.clone());
        let told =
            told.filter(|key| lie::is_honest(key, &self.origin, &self.origins[to])).collect::<BTreeSet<_>>();
        let is_told = told.iter().eq(&refused);
        let refused = if is_told { refused } else { told.into_iter().chain(refused).collect() };
        Shown { world, bodies, refused }
    }

    fn has_of(&self, of: Party) -> Shown {
        let refused = refusals::keys(&self.durable, &self.origins[of]);
        let records = now(self.durable.list(self.spoken_for(of))).records.into_iter();
        let bodies = records.map(|record| (record.key.to_string(), record.bytes));
        let is_excused = |key: &String| self.chronicle.borrow().excuses(&self.origin, key);
        let bodies = bodies.filter(|(key, _)| !refused.contains(key) && !is_excused(key)).collect();
        let refused =
            refused.into_iter().filter(|key| lie::is_honest(key, &self.origins[of], &self.origin)).collect();
        Shown { world: self.world_of(of, &now(self.durable.head()).world), bodies, refused }
    }

    fn state(&self) -> String {
        let head = now(self.durable.head());
        let holds: Vec<_> = self.holds.keys().collect();
        format!("{} at {:?}, holds {holds:?}, told {:?}", self.origin, head.world, self.told)
    }

    /// What a zone wrote is known to other zones through the relay alone, which shows it to who wrote it. Where both of
    /// them have lost it nobody notices: so not both go back before what was lost is settled.
    fn may_go_back(planes: &[&Self], party: Party) -> bool {
        let relay = planes.iter().find(|plane| plane.is_relay()).expect("there is one");
        let zones = || planes.iter().filter(|plane| !plane.is_relay());
        let concerns = |zone: &&&Self| planes[party].is_relay() || zone.origin == planes[party].origin;
        zones().filter(concerns).all(|zone| {
            // Who can show the other what that has forgotten.
            let (reached, hash) = if planes[party].is_relay() {
                let head = now(zone.durable.head());
                (head.point, hash_bytes(head.hash))
            } else {
                copy::heard(&relay.durable, &zone.origin).unwrap_or_default()
            };
            relay.chronicle.borrow().leads_to(&zone.origin, reached, &hash)
        })
    }

    fn lies(&mut self, lies: bool) {
        self.lies = lies;
    }

    fn jump_wall_clock(&mut self, seconds: i64) {
        let jump = |now: u64| Some(now.saturating_add_signed(seconds));
        let _ = self.clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, jump);
    }
}

fn empty(origin: &Origin, clock: &WallClock) -> CopyableStore {
    let clock = clock.clone();
    let seconds = move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed));
    MemoryStore::copyable(origin.clone(), RETENTION, Arc::new(seconds))
}

/// Memory makes nobody wait.
fn now<T>(answer: Answer<'_, T>) -> T {
    answer.now_or_never().expect("it is there at once").expect("memory does not fail")
}

fn set_of(records: &[Record]) -> Set {
    records.iter().map(|record| (record.key.to_string(), number(&record.bytes))).collect()
}

fn without(world: &World, whose: &Origin) -> World {
    let others = world.iter().filter(|(origin, _)| *origin != whose);
    others.map(|(origin, point)| (origin.clone(), point)).collect()
}

fn private(store: &CopyableStore, name: &str) -> Option<String> {
    let kept = now(store.secret_get(name))?;
    Some(String::from_utf8(kept.expose().to_vec()).expect("it was text"))
}

fn hash_bytes(hash: store::RollingHash) -> Bytes {
    Bytes::copy_from_slice(&hash.0)
}
