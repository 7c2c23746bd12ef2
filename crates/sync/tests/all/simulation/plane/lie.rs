//! A peer that says what is not its own to say, among what is.

use model::{DocumentKey, Origin, Point, Version, World};
use sync::{Batch, Entry};

use super::super::fault::Fault;
use super::super::random::Random;
use super::super::site::Party;
use super::Plane;

impl Plane {
    pub(super) fn lie(&self, to: Party, have: &World, batch: &mut Batch, random: &mut Random) {
        let far =
            |origin: &Origin| Version { origin: origin.clone(), point: Point { epoch: 9, revision: 900 } };
        let (own, others) = (&self.origin, self.parties_beside(to));
        let victim = &others[random.below(others.len() as u64) as usize];
        let pair = random.below(6);
        let theirs: DocumentKey = format!("MeshService/default/{victim}//pair-{pair}-a").parse().unwrap();
        let ours: DocumentKey = format!("MeshService/default/{own}//lie-{pair}-a").parse().unwrap();
        let entry = |key: &DocumentKey, version: Version| Entry {
            version: Some(version),
            ..Entry::part(key, format!("good 0 {own} made this up"))
        };
        let told = have.point(own).unwrap_or_default();
        let upto = batch.world.point(own).unwrap_or_default();
        match random.below(if self.is_relay() { 2 } else { 6 }) {
            0 => batch.entries.push(entry(&theirs, far(victim))),
            1 => batch.entries.push(entry(&ours, far(victim))),
            2 => batch.removed.push(theirs.to_string()),
            3 => batch.world.advance(victim.clone(), far(victim).point),
            4 if !batch.whole && told.revision > 0 && told.epoch == upto.epoch => {
                batch.entries.push(entry(&ours, Version { origin: own.clone(), point: told }));
            }
            4 => return,
            _ => {
                let point = Point { revision: upto.revision + 1, ..upto };
                batch.entries.push(entry(&ours, Version { origin: own.clone(), point }));
            }
        }
        random.count(Fault::Lie);
    }

    /// Whose documents this side has no say in. To a zone the relay speaks for everybody but the zone.
    fn parties_beside(&self, to: Party) -> Vec<Origin> {
        match self.is_relay() {
            true => vec![self.origins[to].clone()],
            false => self.origins.iter().filter(|origin| **origin != self.origin).cloned().collect(),
        }
    }
}

/// Whether an honest owner may send this key to `receiver`.
pub(super) fn is_honest(key: &str, owner: &Origin, receiver: &Origin) -> bool {
    let origin = key.split('/').nth(2).unwrap_or_default();
    let speaks_for = match owner {
        Origin::Global => origin != receiver.as_str(),
        zone => origin == zone.as_str(),
    };
    speaks_for && !key.contains("//lie-")
}
