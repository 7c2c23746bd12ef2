//! The copy's side of one topic: stages chunks, gives them to the host when they are whole, and
//! acknowledges what the host has stored.
//!
//! Each batch begins with the credit of a window, which small ones never use up; half a window before it is, the
//! owner gets more. One that sends more than that breaks the protocol.

use std::mem;

use super::{Action, Applied, MAX_OPENINGS, Violation};
use crate::batch::{Batch, Place, Refused};
use crate::frame::{Chunk, Frame, Last};
use crate::topic::Topic;

/// The most bytes of refusals in one acknowledgement; those beyond it are not told.
const MAX_REFUSALS: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Incoming {
    topic: Topic,
    /// How much of a batch may be on its way, in bytes.
    window: u64,
    /// Our openings of this topic in this session; 0 before the first.
    opening: u64,
    /// Openings in a row of which no batch was applied.
    fruitless: u32,
    /// The host wants the topic opened anew as soon as nothing is being applied.
    reopen: bool,
    state: State,
    /// The one word that waits for the writer: an opening, an acknowledgement or a hold.
    word: Option<Frame>,
}

#[derive(Debug)]
enum State {
    /// The host is looking up what it has.
    Locating,
    /// All batches before this one are applied.
    Expecting {
        batch: u64,
    },
    Staging {
        batch: u64,
        next: u32,
        staged: Batch,
        bytes: usize,
        /// A chunk may begin while less came.
        credit: u64,
    },
    Applying {
        batch: u64,
    },
    Held,
}

impl Incoming {
    pub(super) fn new(topic: Topic, window: u64) -> Self {
        Self { topic, window, opening: 0, fruitless: 0, reopen: false, state: State::Locating, word: None }
    }

    pub(super) fn topic(&self) -> &Topic {
        &self.topic
    }

    pub(super) fn locate(&self) -> Action {
        Action::Locate { topic: self.topic.clone() }
    }

    pub(super) fn located(&mut self, place: Place) {
        if matches!(self.state, State::Locating) {
            self.opening += 1;
            let (topic, opening, window) = (self.topic.clone(), self.opening, self.window);
            self.word = Some(Frame::Open { topic, opening, place, window });
            self.state = State::Expecting { batch: 1 };
        }
    }

    /// Starts anew from what the host has.
    pub(super) fn reopen(&mut self) -> Option<Action> {
        match self.state {
            State::Locating => None,
            State::Applying { .. } => {
                self.reopen = true;
                None
            }
            _ => Some(self.restart()),
        }
    }

    /// Takes a chunk. `room` is how many bytes may still be staged.
    pub(super) fn chunk(&mut self, chunk: Chunk, room: usize) -> Result<Option<Action>, Violation> {
        if chunk.opening != self.opening || matches!(self.state, State::Locating | State::Held) {
            return Ok(None);
        }
        match &mut self.state {
            State::Expecting { batch } => {
                let batch = *batch;
                if chunk.batch < batch {
                    return Ok(None);
                }
                if chunk.batch == batch && self.word.is_some() {
                    return Err(Violation::Unbidden(self.topic.clone()));
                }
                if (chunk.batch, chunk.index) != (batch, 0) {
                    return self.gap();
                }
                let (staged, credit) = (Batch::default(), self.window);
                self.state = State::Staging { batch, next: 0, staged, bytes: 0, credit };
            }
            State::Staging { batch, next, .. } => {
                if (chunk.batch, chunk.index) < (*batch, *next) {
                    return Ok(None);
                }
                if (chunk.batch, chunk.index) != (*batch, *next) {
                    return self.gap();
                }
            }
            State::Applying { batch } => {
                return if chunk.batch <= *batch {
                    Ok(None)
                } else {
                    Err(Violation::Unbidden(self.topic.clone()))
                };
            }
            State::Locating | State::Held => return Ok(None),
        }
        self.stage(chunk, room)
    }

    pub(super) fn applied(&mut self, applied: Applied) -> Option<Action> {
        let State::Applying { batch } = self.state else {
            debug_assert!(false, "{} was not being applied", self.topic);
            return None;
        };
        match applied {
            Applied::Stored { world, refused } => {
                self.fruitless = 0;
                self.state = State::Expecting { batch: batch + 1 };
                let refused = tellable(refused);
                self.word = Some(Frame::Ack {
                    topic: self.topic.clone(),
                    opening: self.opening,
                    batch,
                    world,
                    refused,
                });
            }
            Applied::Held { reason } => {
                self.state = State::Held;
                self.word = Some(Frame::Hold { topic: self.topic.clone(), opening: self.opening, reason });
            }
        }
        mem::take(&mut self.reopen).then(|| self.restart())
    }

    pub(super) fn next_word(&mut self) -> Option<Frame> {
        self.word.take().or_else(|| self.next_credit())
    }

    pub(super) fn has_word(&self) -> bool {
        self.word.is_some() || self.due_credit().is_some()
    }

    pub(super) fn staged_bytes(&self) -> usize {
        if let State::Staging { bytes, .. } = self.state { bytes } else { 0 }
    }

    /// Given from when it is written: an owner that does not wait for the word has none.
    fn next_credit(&mut self) -> Option<Frame> {
        let bytes = self.due_credit()?;
        let State::Staging { batch, credit, .. } = &mut self.state else { return None };
        *credit = bytes;
        Some(Frame::Credit { topic: self.topic.clone(), opening: self.opening, batch: *batch, bytes })
    }

    fn due_credit(&self) -> Option<u64> {
        let State::Staging { bytes, credit, .. } = self.state else { return None };
        let left = credit.saturating_sub(bytes as u64);
        (left < self.window.div_ceil(2)).then_some(bytes as u64 + self.window)
    }

    fn stage(&mut self, chunk: Chunk, room: usize) -> Result<Option<Action>, Violation> {
        let State::Staging { batch, next, staged, bytes, credit } = &mut self.state else {
            unreachable!("the caller began to stage");
        };
        if *bytes as u64 >= *credit {
            return Err(Violation::Credit(self.topic.clone()));
        }
        let size = chunk.cost();
        if size > room {
            return Err(Violation::Staged(self.topic.clone()));
        }
        *bytes += size;
        *next += 1;
        staged.entries.extend(chunk.entries);
        staged.removed.extend(chunk.removed);
        let Some(last) = chunk.last else { return Ok(None) };
        let batch = *batch;
        let Last { whole, world, hash, continues } = last;
        let complete = Batch { whole, world, hash, continues, ..mem::take(staged) };
        self.state = State::Applying { batch };
        Ok(Some(Action::Apply { topic: self.topic.clone(), batch: complete }))
    }

    fn gap(&mut self) -> Result<Option<Action>, Violation> {
        self.fruitless += 1;
        if self.fruitless > MAX_OPENINGS {
            return Err(Violation::Gaps(self.topic.clone()));
        }
        Ok(Some(self.restart()))
    }

    fn restart(&mut self) -> Action {
        self.state = State::Locating;
        self.locate()
    }
}

fn tellable(mut refused: Vec<Refused>) -> Vec<Refused> {
    let mut bytes = 0;
    let fits = refused.iter().take_while(|refused| {
        bytes += refused.key.len() + refused.reason.len().min(crate::frame::MAX_REASON) + 64;
        bytes <= MAX_REFUSALS
    });
    let fits = fits.count();
    refused.truncate(fits);
    refused
}
