//! A link that delays, repeats and reorders. It loses frames only with the whole connection, as a stream does, or
//! with a direction that has died unnoticed.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use prost::Message;
use proto::sync::v1;
use sync::frame::Frame;

use super::fault::Fault;
use super::random::Random;

pub(super) const LOWER: usize = 0;
pub(super) const UPPER: usize = 1;
const ROOM: usize = 6;

/// What is on its way, by the side that wrote it.
#[derive(Default)]
pub(super) struct Link {
    directions: [Direction; 2],
}

#[derive(Default)]
struct Direction {
    frames: VecDeque<(Duration, Vec<u8>, bool)>,
    /// Nothing written arrives any more, the end neither.
    is_dead: bool,
    /// The writer is gone.
    has_ended: bool,
    /// The reader does not read before.
    read_again: Duration,
}

impl Link {
    pub(super) fn has_room(&self, from: usize) -> bool {
        self.directions[from].frames.len() < ROOM
    }

    pub(super) fn send(
        &mut self,
        from: usize,
        frame: Frame,
        now: Duration,
        random: &mut Random,
        mischief: bool,
    ) {
        let tolerant = may_be_reordered(&frame);
        let bytes = v1::Frame::from(frame).encode_to_vec();
        let at = now + Duration::from_millis(random.below(150));
        let queue = &mut self.directions[from].frames;
        let repeats = if mischief && random.brings(Fault::RepeatedFrame, 20) { 2 } else { 1 };
        for _ in 0..repeats {
            queue.push_back((at, bytes.clone(), tolerant));
        }
        let last = queue.len() - 1;
        let can_swap = last > 0 && queue[last].2 && queue[last - 1].2;
        if mischief && can_swap && random.brings(Fault::ReorderedFrames, 20) {
            queue.swap(last, last - 1);
        }
    }

    /// What the side's program never wrote, after something that it did.
    pub(super) fn inject(&mut self, from: usize, frame: Frame, random: &mut Random) {
        let queue = &mut self.directions[from].frames;
        if let Some((at, ..)) = queue.back() {
            let bytes = v1::Frame::from(frame).encode_to_vec();
            queue.push_back((*at, bytes, false));
            random.count(Fault::UnaskedSignal);
        }
    }

    pub(super) fn deliver(&mut self, to: usize, now: Duration) -> Option<Frame> {
        let direction = &mut self.directions[1 - to];
        if direction.is_dead || now < direction.read_again {
            return None;
        }
        let (_, bytes, _) = direction.frames.pop_front_if(|(at, ..)| *at <= now)?;
        let frame = v1::Frame::decode(bytes.as_slice()).expect("it was just encoded");
        Frame::from_wire(frame).expect("it was well formed")
    }

    pub(super) fn die(&mut self, from: usize) {
        self.directions[from].is_dead = true;
    }

    pub(super) fn pause(&mut self, reader: usize, until: Duration) {
        self.directions[1 - reader].read_again = until;
    }

    /// `side` writes and reads nothing more. False if that was so already.
    pub(super) fn hang_up(&mut self, side: usize) -> bool {
        self.directions[1 - side].is_dead = true;
        !mem::replace(&mut self.directions[side].has_ended, true)
    }

    /// Whether `side` reads the end of the stream.
    pub(super) fn has_ended_for(&self, side: usize) -> bool {
        let direction = &self.directions[1 - side];
        direction.has_ended && !direction.is_dead && direction.frames.is_empty()
    }

    pub(super) fn is_over(&self) -> bool {
        self.directions.iter().all(|direction| direction.has_ended)
    }
}

/// What opens or subscribes must stay in place, and so must signals, whose echo speaks of all before: the rest is put
/// right by openings, numbers and ids.
fn may_be_reordered(frame: &Frame) -> bool {
    !matches!(
        frame,
        Frame::Hello(_)
            | Frame::Open { .. }
            | Frame::Subscribe { .. }
            | Frame::Signal { .. }
            | Frame::Close { .. }
    )
}
