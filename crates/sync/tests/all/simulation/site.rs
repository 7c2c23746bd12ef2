//! What a side has at rest, and what it decides: the part of a program that is not the same for control planes and for
//! proxies.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::World;
use store::Fence;
use sync::session::Applied;
use sync::{Base, Batch, Place, Refused, Topic};

use super::end::End;
use super::random::Random;

/// Who takes part, by its place among the peers: the lower ones around the one that all of them dial.
pub(super) type Party = usize;

/// Written in two steps: what is only written is seen by nobody, and lost in a power cut; what is durable stays until
/// the store is lost or put back.
pub(super) trait Site {
    /// Some documents of its own change, or whom they concern.
    fn write(&mut self, random: &mut Random);

    /// Something of the copy cannot be read any more; false where there is nothing.
    fn forget_a_part(&mut self, _: &mut Random) -> bool {
        false
    }

    /// What is written becomes durable.
    fn sync(&mut self);

    fn back_up(&mut self);

    fn lose_power(&mut self);

    fn put_back(&mut self, random: &mut Random);

    fn lose(&mut self);

    /// The program began anew: what it had in memory alone is gone.
    fn restart(&mut self) {}

    /// The next batch for a party; what is known of it as long as the session lasts is in `end`.
    fn collect(
        &mut self,
        to: Party,
        topic: &Topic,
        base: Base,
        end: &mut End,
        random: &mut Random,
    ) -> Option<Batch>;

    /// Takes the right to store from every earlier session.
    fn locate(&mut self, of: Party) -> (Fence, Place);

    /// None where a newer session stores.
    fn apply(
        &mut self,
        of: Party,
        batch: Batch,
        fence: Option<Fence>,
        random: &mut Random,
    ) -> Option<Applied>;

    /// The mistake of letting readers see half of what is being written.
    fn leak_half(&mut self, of: Party, batch: &Batch);

    fn acknowledged(&mut self, by: Party, world: &World, refused: Vec<Refused>);

    /// Somebody looked at what is held back, and accepts it: whose topics are to be opened anew.
    fn accept(&mut self) -> Vec<Party> {
        Vec::new()
    }

    fn holds_back(&self) -> bool {
        false
    }

    /// Whether all of this is durable here.
    fn has_stored(&self, world: &World) -> bool;

    /// The copies are right as they are now, and came to be so in the right way.
    fn check(&mut self, random: &mut Random);

    /// What a party is to have of what is here: all of it, or those parts.
    fn shows(&self, to: Party) -> Shown;

    /// What is here of what a party has.
    fn has_of(&self, of: Party) -> Shown;

    fn state(&self) -> String;

    /// Whether a store may be put back or lost now: what is not noticed by anybody is nobody's to mend.
    fn may_go_back(_: &[&Self], _: Party) -> bool
    where
        Self: Sized,
    {
        true
    }

    /// Whether what it tells next is also what is not its own to tell.
    fn lies(&mut self, _: bool) {}

    /// The time of day is another one.
    fn jump_wall_clock(&mut self, _: i64) {}
}

/// Documents or parts by name, as of a world.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Shown {
    pub(super) world: World,
    pub(super) bodies: BTreeMap<String, Bytes>,
    /// What the one who has the copy cannot take, and the other one knows of it.
    pub(super) refused: Vec<String>,
}
