//! Everything that control planes ever wrote and held, which nobody in the simulation sees but its checks.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::{Origin, Point, Record, Version, World};

/// Documents by key, each by the number that it was written with, which no other writing had.
pub(super) type Set = BTreeMap<String, u64>;

#[derive(Default)]
pub(super) struct Chronicle {
    numbers: u64,
    documents: BTreeMap<(String, u64), (Version, Bytes)>,
    lines: BTreeMap<Origin, Past>,
    /// What the relay had for each zone, by the world that it was.
    relayed: BTreeMap<(Origin, String), BTreeSet<Set>>,
    /// What the relay had of each zone, by where that zone was.
    of_zones: BTreeMap<(Origin, Point), BTreeSet<Set>>,
    /// By which hash the relay knew where a zone was.
    heard: BTreeMap<(Origin, Point), BTreeSet<Bytes>>,
    /// Worlds of zones that were told more of another zone than the relay knew when it told them the rest, since its
    /// store was put back. They are not led back, so what they have together no relay had.
    ahead: BTreeSet<(Origin, String)>,
    /// What the relay refuses now, and what it ever did. Of that, a zone that is ahead may have a version that the relay
    /// took before its store was put back, and has not now.
    refused_by_relay: BTreeSet<String>,
    ever_refused: BTreeSet<String>,
}

/// All states that an origin's documents ever had, by the rolling hash.
#[derive(Default)]
struct Past {
    moments: BTreeMap<Bytes, Moment>,
    by_point: BTreeMap<Point, BTreeSet<Bytes>>,
}

struct Moment {
    parent: Option<Bytes>,
    set: Set,
}

impl Chronicle {
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn wrote(&mut self, record: &Record) {
        let known = (record.version.clone(), record.bytes.clone());
        self.documents.insert((record.key.to_string(), number(&record.bytes)), known);
    }

    /// An origin's line is here now, and all of its documents that concern others are these.
    pub(super) fn passes(
        &mut self,
        origin: &Origin,
        point: Point,
        hash: Bytes,
        before: Option<Bytes>,
        set: Set,
    ) {
        let past = self.lines.entry(origin.clone()).or_default();
        past.by_point.entry(point).or_default().insert(hash.clone());
        past.moments.entry(hash).or_insert(Moment { parent: before, set });
    }

    /// Whether `later` is `earlier`, or went on from it.
    pub(super) fn goes_on(&self, origin: &Origin, earlier: &Bytes, later: &Bytes) -> bool {
        let mut at = Some(later);
        while let Some(hash) = at.filter(|hash| *hash != earlier) {
            at = self.lines[origin].moments.get(hash).and_then(|moment| moment.parent.as_ref());
        }
        at == Some(earlier)
    }

    /// What the relay has for a zone now.
    pub(super) fn relays(&mut self, to: &Origin, world: &World, documents: &Set) {
        self.relayed.entry((to.clone(), format!("{world:?}"))).or_default().insert(documents.clone());
        for (origin, point) in world.iter() {
            let of_it = part(documents, origin);
            self.of_zones.entry((origin.clone(), point)).or_default().insert(of_it);
        }
    }

    /// Everything was written by its owner, as it is.
    pub(super) fn check_genuine(&self, record: &Record) {
        let written = self.documents.get(&(record.key.to_string(), number(&record.bytes)));
        let is_genuine =
            written.is_some_and(|(version, body)| *version == record.version && *body == record.bytes);
        assert!(is_genuine, "{} at {} is invented", record.key, record.version);
    }

    /// The documents of an origin are those of one moment of it, but for what was refused.
    pub(super) fn check_owned(
        &self,
        origin: &Origin,
        at: (Point, &Bytes),
        documents: &Set,
        refused: &BTreeSet<String>,
    ) {
        let past = &self.lines[origin];
        let passed = past.by_point.get(&at.0).is_some_and(|hashes| hashes.contains(at.1));
        assert!(passed, "a world that never was: {origin} at {at:?}");
        let difference = differs(documents, &past.moments[at.1].set, refused);
        assert_eq!(difference, None, "not what {origin} had at {:?}", at.0);
    }

    pub(super) fn relay_heard(&mut self, zone: &Origin, point: Point, hash: Bytes) {
        self.heard.entry((zone.clone(), point)).or_default().insert(hash);
    }

    /// Whether everything that the relay ever knew of a zone, and may have told others, leads to here.
    pub(super) fn leads_to(&self, zone: &Origin, reached: Point, hash: &Bytes) -> bool {
        let heard =
            self.heard.range((zone.clone(), Point::default())..).take_while(|((of, _), _)| of == zone);
        let Some(((_, latest), hashes)) = heard.last() else { return true };
        *latest <= reached && hashes.iter().all(|told| self.goes_on(zone, told, hash))
    }

    pub(super) fn relay_refuses(&mut self, refused: BTreeSet<String>) {
        self.ever_refused.extend(refused.iter().cloned());
        self.refused_by_relay = refused;
    }

    /// A zone is told what leads to `told`, and has more already.
    pub(super) fn is_ahead(&mut self, zone: &Origin, have: &World, told: &World) {
        let mut world = have.clone();
        world.merge(told);
        self.ahead.insert((zone.clone(), format!("{world:?}")));
    }

    /// What is not the same on both sides for a while, and nobody's fault.
    pub(super) fn excuses(&self, zone: &Origin, key: &String) -> bool {
        self.was_ahead(zone) && self.refused_by_relay.contains(key)
    }

    /// What a zone has of all others is what the relay had of them at one moment, but for what the zone refused.
    pub(super) fn check_relayed(
        &self,
        to: &Origin,
        world: &World,
        documents: &Set,
        refused: &BTreeSet<String>,
    ) {
        let excused: BTreeSet<String> =
            self.ever_refused.iter().filter(|_| self.was_ahead(to)).chain(refused).cloned().collect();
        let differences = |held: Option<&BTreeSet<Set>>, documents: &Set| -> Vec<Option<String>> {
            held.into_iter().flatten().map(|held| differs(documents, held, &excused)).collect()
        };
        let at = (to.clone(), format!("{world:?}"));
        let together = differences(self.relayed.get(&at), documents);
        if together.contains(&None) {
            return;
        }
        assert!(self.ahead.contains(&at), "the relay never had what {to} has at {world:?}: {together:?}");
        for (origin, point) in world.iter() {
            let held = self.of_zones.get(&(origin.clone(), point));
            let apart = differences(held, &part(documents, origin));
            assert!(apart.contains(&None), "the relay never had that of {origin} at {point:?}: {apart:?}");
        }
    }

    fn was_ahead(&self, zone: &Origin) -> bool {
        self.ahead.iter().any(|(ahead, _)| ahead == zone)
    }
}

/// The number that a document was written with.
pub(super) fn number(body: &[u8]) -> u64 {
    let text = body.split(|byte| *byte == b' ').nth(1).and_then(|number| std::str::from_utf8(number).ok());
    text.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Both halves of a pair are always written together.
pub(super) fn check_pairs(documents: &Set) {
    for (key, number) in documents {
        let other = if key.ends_with("-a") { key.replace("-a", "-b") } else { key.replace("-b", "-a") };
        assert_eq!(documents.get(&other), Some(number), "half a batch is visible: {key}");
    }
}

fn part(documents: &Set, origin: &Origin) -> Set {
    let of_it = |key: &&String| key.split('/').nth(2) == Some(origin.as_str());
    documents.iter().filter(|(key, _)| of_it(key)).map(|(key, number)| (key.clone(), *number)).collect()
}

fn differs(held: &Set, then: &Set, refused: &BTreeSet<String>) -> Option<String> {
    let counts = |(key, _): &(&String, &u64)| !refused.contains(*key);
    for (key, number) in held.iter().filter(counts) {
        match then.get(key) {
            None => return Some(format!("{key} is resurrected")),
            Some(then) if then != number => return Some(format!("{key} is another")),
            Some(_) => {}
        }
    }
    let lost = then.iter().filter(counts).find(|(key, _)| !held.contains_key(*key));
    lost.map(|(key, _)| format!("{key}: documents are lost"))
}
