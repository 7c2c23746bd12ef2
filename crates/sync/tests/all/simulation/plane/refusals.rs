//! Documents that a receiver cannot take, and what it says of them, kept beside its documents: as `control::Refusals`.

use std::collections::{BTreeMap, BTreeSet};

use model::{DocumentKey, Origin, Version};
use store::{CopyableStore, Write};
use sync::{Batch, Refused};

use super::super::random::Random;
use super::private;

/// By key: which version, and since when.
pub(super) type Refusals = BTreeMap<String, (Option<Version>, u64)>;

/// What a new document says of who can take it.
pub(super) fn say(random: &mut Random) -> &'static str {
    ["good", "good", "good", "good", "good", "good", "not-for-global", "not-for-zones"]
        [random.below(8) as usize]
}

pub(super) fn cannot_take(receiver: &Origin, body: &[u8]) -> bool {
    let says = match receiver {
        Origin::Global => "not-for-global ",
        Origin::Zone(_) => "not-for-zones ",
    };
    body.starts_with(says.as_bytes())
}

/// What is refused in a lane.
pub(super) fn load(store: &CopyableStore, of: &Origin) -> Refusals {
    let text = private(store, &name(of)).unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        (words[0].to_owned(), (words[1].parse().ok(), words[2].parse().unwrap()))
    };
    text.lines().map(line).collect()
}

/// What is refused once a batch is taken over but for `refused`.
pub(super) fn after(mut before: Refusals, batch: &Batch, refused: &[Refused], seconds: u64) -> Refusals {
    let mut after = before.clone();
    if batch.whole {
        // What it does not speak of stays as it was.
        let speaks_of = |key: &String| {
            key.parse::<DocumentKey>().is_ok_and(|key| batch.world.point(&key.origin).is_some())
        };
        after.retain(|key, _| !speaks_of(key));
    }
    let named = batch.entries.iter().map(|entry| &entry.key).chain(&batch.removed);
    named.for_each(|key| drop(after.remove(key)));
    for Refused { key, version, .. } in refused {
        let since =
            before.remove(key).filter(|(known, _)| known == version).map_or(seconds, |(_, since)| since);
        after.insert(key.clone(), (version.clone(), since));
    }
    after
}

pub(super) fn write(refusals: &Refusals, of: &Origin) -> Write {
    let line = |(key, (version, since)): (&String, &(Option<Version>, u64))| {
        let version = version.as_ref().map_or("-".to_owned(), Version::to_string);
        format!("{key} {version} {since}\n")
    };
    let text: String = refusals.iter().map(line).collect();
    Write::Private { name: name(of), value: text.into_bytes().into() }
}

pub(super) fn told(refusals: Refusals) -> Vec<Refused> {
    let refused =
        |(key, (version, since))| Refused { since, ..Refused::new(key, version, "it cannot be taken") };
    refusals.into_iter().map(refused).collect()
}

fn name(of: &Origin) -> String {
    format!("refused/{of}")
}

pub(super) fn keys(store: &CopyableStore, of: &Origin) -> BTreeSet<String> {
    load(store, of).into_keys().collect()
}
