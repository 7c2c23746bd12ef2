//! What a control plane takes of what it is told: as `control/line`, `global-cp/originated` and `zone-cp/replica` do.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::FutureExt;
use model::{DocumentKey, Origin, Point, Record, Version, World};
use store::{CopyableStore, Error, Fence, RollingHash, Write};
use sync::line::{self, Judged};
use sync::session::Applied;
use sync::{Batch, Entry, Refused};

use super::super::bug::Bug;
use super::super::fault::Fault;
use super::super::random::Random;
use super::super::site::Party;
use super::{Plane, hash_bytes, now, private, refusals};

/// Another history waits for somebody to accept it.
pub(super) struct Hold {
    epoch: u64,
    pub(super) is_accepted: bool,
}

pub(super) struct Move {
    origin: Origin,
    from: Bytes,
    to: Bytes,
    verdict: Verdict,
    begins_epoch: bool,
}

impl Move {
    /// None from where nothing was.
    fn new(heard: Option<(Point, Bytes)>, origin: &Origin, batch: &Batch, verdict: Verdict) -> Option<Self> {
        let (held, from) = heard.filter(|(held, _)| held.revision > 0)?;
        let begins_epoch = batch.world.point(origin).is_some_and(|offered| held.epoch < offered.epoch);
        Some(Self { origin: origin.clone(), from, to: batch.hash.clone(), verdict, begins_epoch })
    }
}

/// What to make of a batch.
enum Verdict {
    Follows,
    Accepted,
    Held(String),
}

impl Plane {
    /// None where a newer session stores.
    pub(super) fn take_over(
        &mut self,
        of: Party,
        batch: Batch,
        fence: Option<Fence>,
        random: &mut Random,
    ) -> Option<Applied> {
        let origin = self.origins[of].clone();
        let fence = fence.expect("it looked at what is there first");
        let fence: Vec<_> =
            (self.bug != Bug::ChecksNoGeneration).then_some(Write::Fence(fence)).into_iter().collect();
        if self.is_fenced(fence.clone()) {
            random.count(Fault::Fenced);
            return None;
        }
        let verdict = self.judge(&origin, &batch);
        if let Verdict::Held(reason) = &verdict {
            let reason = reason.clone();
            let epoch = batch.world.point(&origin).unwrap_or_default().epoch;
            self.holds.insert(origin.clone(), Hold { epoch, is_accepted: false });
            self.moves.extend(Move::new(heard(&self.written, &origin), &origin, &batch, verdict));
            return Some(Applied::Held { reason });
        }
        let batch = if self.is_relay() || self.bug == Bug::IsLedBack { batch } else { self.speaking(batch) };
        let (mut writes, refused) = self.writes(of, &batch);
        let before = refusals::load(&self.written, &origin);
        let after = refusals::after(before.clone(), &batch, &refused, self.seconds());
        if self.bug != Bug::ForgetsRefusals {
            writes.push(refusals::write(&after, &origin));
        }
        let point = batch.world.point(&origin).unwrap_or_default();
        writes.push(Write::Private { name: line_name(&origin), value: line_text(point, &batch.hash).into() });
        writes.extend(fence);
        let (own, accepted) = (hash_bytes(now(self.written.head()).hash), self.in_force(&refused));
        let moved = Move::new(heard(&self.written, &origin), &origin, &batch, verdict);
        assert!(!self.is_fenced(writes), "it was looked at");
        if self.is_relay() {
            // To pass something on takes a revision where numbers of versions do not tell it.
            self.note_line(Some(own));
        }
        self.moves.extend(moved);
        assert_eq!(accepted, self.in_force(&refused), "what was accepted last is not in force: {refused:?}");
        refused.iter().for_each(|_| random.count(Fault::RefusedDocument));
        before.keys().filter(|key| !after.contains_key(*key)).for_each(|_| random.count(Fault::RefusalGone));
        self.holds.remove(&origin);
        let world = self.world_of(of, &now(self.written.head()).world);
        let told = if self.bug == Bug::KeepsRefusalsToItself { before } else { after };
        Some(Applied::Stored { world, refused: refusals::told(told) })
    }

    /// Writes, unless a newer session does.
    fn is_fenced(&self, writes: Vec<Write>) -> bool {
        match self.written.apply(writes).now_or_never().expect("it is there at once") {
            Err(Error::Fenced { .. }) => true,
            written => written.map(|_| false).expect("memory does not fail"),
        }
    }

    /// Which versions of these stand.
    fn in_force(&self, refused: &[Refused]) -> Vec<Option<Version>> {
        let held = |refused: &Refused| now(self.written.get(&refused.key.parse().ok()?));
        refused.iter().map(|refused| Some(held(refused)?.version)).collect()
    }

    /// The mistake of storing one half before the other.
    pub(super) fn take_half(&mut self, of: Party, batch: &Batch) {
        // Always between the halves of a pair.
        let half = batch.entries.len().min((batch.entries.len() / 2) | 1);
        let half =
            Batch { entries: batch.entries[..half].to_vec(), world: batch.world.clone(), ..Batch::default() };
        let (mut writes, _) = self.writes(of, &half);
        writes.retain(|write| matches!(write, Write::Copy(_)));
        now(self.written.apply(writes));
    }

    pub(super) fn check_moves(&mut self, random: &mut Random) {
        let chronicle = self.chronicle.borrow();
        for Move { origin, from, to, verdict, begins_epoch } in self.moves.drain(..) {
            let follows = chronicle.goes_on(&origin, &from, &to);
            match verdict {
                Verdict::Follows => {
                    assert!(follows, "accepted by itself: {to:?} does not go on from {from:?}");
                    if begins_epoch {
                        random.count(Fault::FollowedEpoch);
                    }
                }
                Verdict::Accepted => random.count(Fault::Accepted),
                Verdict::Held(reason) => {
                    // A store that was lost begins from nothing, which every line once was.
                    let was_behind = !begins_epoch && chronicle.goes_on(&origin, &to, &from);
                    let is_one_line = from != RollingHash::START.0[..] && (follows || was_behind);
                    assert!(
                        !is_one_line,
                        "held without a reason: {origin} at {to:?} from {from:?}: {reason}"
                    );
                    random.count(Fault::Held);
                }
            }
        }
    }

    fn judge(&self, origin: &Origin, batch: &Batch) -> Verdict {
        let offered = batch.world.point(origin).unwrap_or_default();
        let heard = heard(&self.written, origin);
        let accepted = self.holds.get(origin).filter(|hold| hold.is_accepted).map(|hold| hold.epoch);
        let held = heard.as_ref().map(|(held, hash)| (*held, &hash[..]));
        let is_later = held.is_some_and(|(held, _)| held.epoch < offered.epoch);
        match line::judge(held, offered, &batch.continues) {
            Judged::Follows => Verdict::Follows,
            Judged::Unproven => panic!("a hash is missing of {origin} from {held:?} to {offered:?}"),
            Judged::Absurd(reason) => panic!("{reason}"),
            Judged::Diverges(_) if accepted == Some(offered.epoch) => Verdict::Accepted,
            Judged::Diverges(_) if self.bug == Bug::AcceptsEveryEpoch => Verdict::Follows,
            Judged::Diverges(_) if self.bug == Bug::AcceptsLaterEpochs && is_later => Verdict::Follows,
            Judged::Diverges(reason) => Verdict::Held(reason),
        }
    }

    /// Of a zone that is known better here than at the relay, whose store was put back, a batch does not speak: nobody
    /// is led back by who only passes something on.
    fn speaking(&self, mut batch: Batch) -> Batch {
        let known = now(self.written.head()).world;
        let is_behind =
            |origin: &Origin, point: Point| known.point(origin).is_some_and(|known| point < known);
        let behind: BTreeSet<Origin> = batch
            .world
            .iter()
            .filter(|(origin, point)| **origin != Origin::Global && is_behind(origin, *point))
            .map(|(origin, _)| origin.clone())
            .collect();
        let speaks = |key: &str| key.parse::<DocumentKey>().is_ok_and(|key| !behind.contains(&key.origin));
        batch.entries.retain(|entry| speaks(&entry.key));
        batch.removed.retain(|key| speaks(key));
        let world = batch.world.iter().filter(|(origin, _)| !behind.contains(*origin));
        batch.world = world.map(|(origin, point)| (origin.clone(), point)).collect();
        batch
    }

    /// What a batch does here, with what is refused of it.
    fn writes(&mut self, of: Party, batch: &Batch) -> (Vec<Write>, Vec<Refused>) {
        let spoken_for = self.spoken_for(of);
        let known = now(self.written.head()).world;
        let world = match self.bug {
            Bug::LetsOthersMoveWorlds => batch.world.clone(),
            _ => self.world_of(of, &batch.world),
        };
        let (mut writes, mut refused, mut stay) = (Vec::new(), Vec::new(), BTreeSet::new());
        let began =
            |origin: &Origin, point: Point| known.point(origin).is_some_and(|at| at.epoch < point.epoch);
        let began = world.iter().filter(|(origin, point)| began(origin, *point));
        // What a zone has in its new epoch the relay tells all of.
        let began = began.filter(|(origin, _)| batch.whole || (**origin != self.origins[of]));
        writes.extend(began.map(|(origin, _)| Write::Reset(origin.clone())));
        for entry in &batch.entries {
            let key: DocumentKey = entry.key.parse().expect("a key");
            // What is refused is still there: its last good version stays in force.
            if self.bug != Bug::TakesRefusedOutOfForce {
                stay.insert(key.clone());
            }
            match self.take(of, entry, batch.whole, &world, &known) {
                Ok(record) => {
                    stay.insert(key);
                    writes.push(Write::Copy(record));
                }
                Err(reason) => refused.push(entry.refused(reason)),
            }
        }
        let mut gone: Vec<DocumentKey> =
            batch.removed.iter().map(|key| key.parse().expect("a key")).collect();
        gone.retain(|_| self.bug != Bug::ForgetsTombstones);
        if batch.whole && self.bug != Bug::KeepsWhatAWholeSetLacks {
            let held = now(self.written.list(spoken_for.clone())).records;
            gone.extend(held.into_iter().map(|record| record.key).filter(|key| !stay.contains(key)));
        }
        for key in gone {
            if !spoken_for.covers(&key) && self.bug != Bug::TakesWhatIsAnothers {
                refused.push(Refused::new(key.to_string(), None, "it is another's"));
            } else if let Some(point) = world.point(&key.origin) {
                if self.bug == Bug::TakesLeavingForDeletion {
                    self.buried.insert(key.to_string(), point);
                }
                let version = Version { origin: key.origin.clone(), point };
                writes.push(Write::Forget { key, version });
            }
        }
        if self.bug == Bug::TakesRefusedOutOfForce {
            let refused = refused.iter().filter_map(|refused| refused.key.parse::<DocumentKey>().ok());
            let refused = refused.filter(|key| spoken_for.covers(key));
            let forget = |key: DocumentKey| {
                let version = Version { origin: key.origin.clone(), point: world.point(&key.origin)? };
                Some(Write::Forget { key, version })
            };
            writes.extend(refused.filter_map(forget));
        }
        if self.is_relay() {
            writes.push(Write::Retell(self.origins[of].clone()));
            writes.extend(
                (batch.whole && self.bug != Bug::KnowsNoGaps).then(|| Write::Whole(self.origins[of].clone())),
            );
        }
        writes.push(Write::Advance(world));
        (writes, refused)
    }

    /// Whether a document may be taken, and can.
    fn take(
        &self,
        of: Party,
        entry: &Entry,
        whole: bool,
        world: &World,
        known: &World,
    ) -> Result<Record, String> {
        let record = Record::try_from(entry.clone()).expect("an entry between control planes is a record");
        let Record { key, version, bytes, .. } = &record;
        let is_theirs = self.spoken_for(of).covers(key) && version.origin == key.origin;
        if !is_theirs && self.bug != Bug::TakesWhatIsAnothers {
            return Err("it is another's".to_owned());
        }
        let from_zone = self.origins[of] != Origin::Global;
        if from_zone && world.point(&version.origin).is_none_or(|upto| version.point > upto) {
            return Err("it is later than its batch".to_owned());
        }
        let held = now(self.written.get(key)).map(|held| held.version);
        let is_late = known.point(&key.origin).is_some_and(|heard| version.point <= heard)
            && held.is_none_or(|held| held.point < version.point);
        if from_zone && is_late && !whole && self.bug != Bug::TakesWhatComesLate {
            return Err("it was written before what was heard of its zone already".to_owned());
        }
        if self.buried.get(&entry.key).is_some_and(|buried| version.point <= *buried) {
            return Err("it was deleted".to_owned());
        }
        if refusals::cannot_take(&self.origin, bytes) {
            Err("it cannot be taken".to_owned())
        } else {
            Ok(record)
        }
    }
}

/// Up to where an origin was heard, and the hash that came with that.
pub(super) fn heard(store: &CopyableStore, origin: &Origin) -> Option<(Point, Bytes)> {
    let point = now(store.head()).world.point(origin)?;
    let kept = private(store, &line_name(origin)).unwrap_or_default();
    let (at, hash) = kept.split_once(' ').unwrap_or_default();
    let hash = if at == point_text(point) { hash } else { "" };
    let byte = |at: usize| u8::from_str_radix(&hash[at..at + 2], 16).expect("it was written here");
    Some((point, (0..hash.len()).step_by(2).map(byte).collect::<Vec<_>>().into()))
}

fn line_text(point: Point, hash: &Bytes) -> Vec<u8> {
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hash}", point_text(point)).into_bytes()
}

fn point_text(point: Point) -> String {
    format!("{}-{}", point.epoch, point.revision)
}

fn line_name(origin: &Origin) -> String {
    format!("line/{origin}")
}
