//! Questions both ways: `Query` and `Reply`, a bounded number at a time, each with an end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{Action, AskError, MAX_QUESTIONS, Violation};
use crate::frame::{Frame, MAX_BODY, MAX_NAME};

#[derive(Debug, Default)]
pub(super) struct Questions {
    /// Ours that have no answer yet, by id.
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    /// The peer's that we have not answered yet.
    answering: BTreeSet<u64>,
    /// Both kinds, for the writer; never more than the two maps hold.
    words: VecDeque<Frame>,
}

#[derive(Debug)]
struct Asked {
    ticket: u64,
    /// None once the asker was told that time is over; the peer still works on it.
    until: Option<Duration>,
}

impl Questions {
    pub(super) fn ask(&mut self, ticket: u64, kind: String, body: Bytes, until: Duration) -> Option<Action> {
        let refusal = if kind.len() > MAX_NAME || body.len() > MAX_BODY {
            Some(AskError::TooLarge)
        } else if self.asked.len() >= MAX_QUESTIONS {
            Some(AskError::Busy)
        } else {
            None
        };
        if let Some(error) = refusal {
            return Some(Action::Answered { ticket, result: Err(error) });
        }
        self.next_id += 1;
        self.asked.insert(self.next_id, Asked { ticket, until: Some(until) });
        self.words.push_back(Frame::Query { id: self.next_id, kind, body });
        None
    }

    pub(super) fn replied(&mut self, id: u64, result: Result<Bytes, String>) -> Option<Action> {
        let asked = self.asked.remove(&id)?;
        asked
            .until
            .map(|_| Action::Answered { ticket: asked.ticket, result: result.map_err(AskError::Refused) })
    }

    pub(super) fn expire(&mut self, now: Duration) -> Vec<Action> {
        let mut over = Vec::new();
        for asked in self.asked.values_mut() {
            if asked.until.take_if(|until| *until <= now).is_some() {
                over.push(Action::Answered { ticket: asked.ticket, result: Err(AskError::TimedOut) });
            }
        }
        over
    }

    pub(super) fn next_expiry(&self) -> Option<Duration> {
        self.asked.values().filter_map(|asked| asked.until).min()
    }

    pub(super) fn asked_by_peer(
        &mut self,
        id: u64,
        kind: String,
        body: Bytes,
    ) -> Result<Option<Action>, Violation> {
        if !self.answering.insert(id) {
            return Ok(None);
        }
        if self.answering.len() > MAX_QUESTIONS {
            return Err(Violation::Questions);
        }
        Ok(Some(Action::Question { id, kind, body }))
    }

    pub(super) fn answer(&mut self, id: u64, result: Result<Bytes, String>) {
        let result = match result {
            Ok(body) if body.len() > MAX_BODY => Err("the answer is too large".to_owned()),
            result => result,
        };
        if self.answering.contains(&id) {
            self.words.push_back(Frame::Reply { id, result });
        }
    }

    pub(super) fn next_word(&mut self) -> Option<Frame> {
        let word = self.words.pop_front()?;
        if let Frame::Reply { id, .. } = &word {
            self.answering.remove(id);
        }
        Some(word)
    }

    pub(super) fn has_word(&self) -> bool {
        !self.words.is_empty()
    }
}
