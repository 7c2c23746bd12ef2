//! What a side does by itself, whatever the link does: it writes, asks, wishes and publishes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::Origin;
use sync::Topic;
use sync::frame::{Frame, Signal};
use sync::session::Event;

use super::super::fault::Fault;
use super::super::link::UPPER;
use super::super::parts;
use super::super::random::Random;
use super::super::site::{Shown, Site};
use super::{Peer, Shape};

const SIGNALS: u64 = 5;

/// A signal that nobody ever wishes for.
const UNASKED: &str = "endpoints/unasked";

impl<S: Site> Peer<S> {
    pub(in super::super) fn live(&mut self, now: Duration, random: &mut Random) {
        if random.one_in(self.writes_once_in()) {
            self.write_documents(now, random);
        }
        if random.one_in(100) {
            self.forget_a_part(now, random);
        }
        if random.brings(Fault::ReopenedTopic, 40) {
            self.tell_all(|peer| Event::Reopen(peer.copies()), now, random);
        }
        if random.one_in(8)
            && let Some(number) = self.numbers().last()
        {
            self.ask(number, now, random);
        }
        if self.shape == Shape::Proxy && self.party != UPPER && random.one_in(6) {
            let names: Vec<_> = parts::keys().chain((0..SIGNALS).map(signal_name)).collect();
            let name = names[random.below(names.len() as u64) as usize].clone();
            if self.wanted.remove(&name) {
                self.heard.remove(&name);
                self.tell_all(|_| Event::Unsubscribe(vec![name.clone()]), now, random);
            } else {
                self.wanted.insert(name.clone());
                self.tell_all(|_| Event::Subscribe(vec![name.clone()]), now, random);
            }
        }
        if self.shape == Shape::Proxy && self.party == UPPER && random.one_in(3) {
            let name = signal_name(random.below(SIGNALS));
            *self.published.entry(name.clone()).or_default() += 1;
            for number in self.numbers() {
                self.publish_to(number, &name, now, random);
            }
        }
    }

    /// What the other side wants by now.
    pub(super) fn subscribed(
        &mut self,
        number: u64,
        added: Vec<String>,
        removed: &[String],
        now: Duration,
        random: &mut Random,
    ) {
        let end = self.ends.get_mut(&number).expect("it was just told something");
        end.subscribed.retain(|name| !removed.contains(name));
        // Nothing is promised of what was withdrawn, until it is settled anew.
        end.unsettled.retain(|(_, name, _)| !removed.contains(name));
        end.subscribed.extend(added.iter().cloned());
        for name in added.into_iter().filter(|name| name.starts_with("endpoints")) {
            self.published.entry(name.clone()).or_default();
            self.publish_to(number, &name, now, random);
        }
        self.tell(number, Event::Changed(self.serves()), now, random);
    }

    pub(super) fn publish_to(&mut self, number: u64, name: &str, now: Duration, random: &mut Random) {
        let value = self.published.get(name).copied().unwrap_or_default();
        let signal =
            Signal { origin: Origin::Global, age: Duration::ZERO, value: Bytes::from(value.to_string()) };
        let (shared, signal, ago) = (name.into(), Arc::new(signal), Duration::ZERO);
        self.tell(number, Event::Publish { name: shared, signal, ago }, now, random);
        if let Some(end) = self.ends.get_mut(&number).filter(|end| end.subscribed.contains(name)) {
            end.unsettled.push((end.session.mark(), name.to_owned(), value));
        }
    }

    pub(super) fn hear(&mut self, signals: BTreeMap<String, Signal>) {
        for (name, signal) in signals {
            assert_ne!(name, UNASKED, "a signal came that nobody wished for");
            let value = String::from_utf8(signal.value.to_vec()).unwrap().parse().unwrap();
            if !self.wanted.contains(&name) {
                continue;
            }
            let before = self.heard.insert(name, value).unwrap_or_default();
            assert!(before <= value, "a signal went back from {before} to {value}");
        }
    }

    /// Nothing is settled that is not in force at `other`.
    pub(in super::super) fn check_settled(&mut self, other: &Self) {
        for end in self.ends.values_mut() {
            let session = &end.session;
            for (_, name, value) in end.unsettled.extract_if(.., |(mark, ..)| session.has_settled(*mark)) {
                // Nobody knows it of a peer that is not heard, or that wants it anew.
                if let Some(heard) = other.heard.get(&name).filter(|_| !end.stale) {
                    assert!(*heard >= value, "settled ahead: {name} is {heard}, not {value}");
                }
            }
        }
    }

    /// Whether everything of `other` is here that should be, and nothing else.
    pub(in super::super) fn equals(&self, other: &Self) -> bool {
        let Shown { world, mut bodies, refused } = other.site.shows(self.party);
        bodies.retain(|key, _| self.copies() != Topic::PARTS || self.wanted.contains(key));
        let mut signals = self.wanted.iter().filter(|name| name.starts_with("endpoints"));
        self.site.has_of(other.party) == Shown { world, bodies, refused }
            && signals.all(|name| self.heard.get(name) == Some(other.published.get(name).unwrap_or(&0)))
    }

    fn writes_once_in(&self) -> u64 {
        if self.shape == Shape::Proxy { 4 } else { 8 }
    }

    fn ask(&mut self, number: u64, now: Duration, random: &mut Random) {
        self.tickets += 1;
        let (ticket, body) = (self.tickets, Bytes::from(self.tickets.to_string()));
        let end = self.ends.get_mut(&number).expect("it is one of ours");
        end.asked.insert(ticket, body.clone());
        let ask = Event::Ask { ticket, kind: "echo".into(), body, timeout: Duration::from_secs(5) };
        self.tell(number, ask, now, random);
    }
}

pub(in super::super) fn unasked() -> Frame {
    let signal = Signal { origin: Origin::Global, age: Duration::ZERO, value: "1".into() };
    Frame::Signal { name: UNASKED.to_owned(), sequence: 1, signal }
}

fn signal_name(n: u64) -> String {
    format!("endpoints/{n}")
}
