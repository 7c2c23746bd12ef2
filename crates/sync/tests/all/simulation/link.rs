//! A link that delays, repeats and reorders. It loses frames only with the whole connection, as a stream does.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message;
use proto::sync::v1;
use sync::frame::Frame;

use super::random::Random;

pub(super) const LOWER: usize = 0;
pub(super) const UPPER: usize = 1;
const ROOM: usize = 6;

/// Frames on their way, by the side that wrote them.
#[derive(Default)]
pub(super) struct Link {
    frames: [VecDeque<(Duration, Vec<u8>, bool)>; 2],
}

impl Link {
    pub(super) fn has_room(&self, from: usize) -> bool {
        self.frames[from].len() < ROOM
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
        let queue = &mut self.frames[from];
        let repeats = if mischief && random.one_in(20) { 2 } else { 1 };
        for _ in 0..repeats {
            queue.push_back((at, bytes.clone(), tolerant));
        }
        let last = queue.len() - 1;
        if mischief && random.one_in(25) && last > 0 && queue[last].2 && queue[last - 1].2 {
            queue.swap(last, last - 1);
        }
    }

    pub(super) fn deliver(&mut self, to: usize, now: Duration) -> Option<Frame> {
        let (_, bytes, _) = self.frames[1 - to].pop_front_if(|(at, ..)| *at <= now)?;
        let frame = v1::Frame::decode(bytes.as_slice()).expect("it was just encoded");
        Frame::from_wire(frame).expect("it was well formed")
    }
}

/// What opens or subscribes must stay in place: the rest is put right by openings, numbers and ids.
fn may_be_reordered(frame: &Frame) -> bool {
    !matches!(frame, Frame::Hello(_) | Frame::Open { .. } | Frame::Subscribe { .. } | Frame::Close { .. })
}
