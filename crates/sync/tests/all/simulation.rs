//! Two peers, a bad link between them, and everything that must hold whatever happens: each seed is another
//! course of events. A failure names its seed, and the same seed fails again in the same way.

mod link;
mod peer;
mod random;
mod store;

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use link::{LOWER, Link, UPPER};
use peer::{Peer, Shape};
use random::Random;

const SEEDS: u64 = 50;

/// Mistakes of a host that the simulation must find.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bug {
    None,
    /// Puts the first half of a batch into force before the rest.
    AppliesHalfABatch,
    /// Says that a batch is stored before it is.
    AcknowledgesBeforeStoring,
    /// Does not take out what left the topic.
    KeepsWhatWasRemoved,
    /// Takes an authority that came back empty at its word.
    NeverHolds,
    /// Says that signals are in force before they are.
    EchoesBeforeApplying,
}

#[test]
fn a_copy_between_control_planes_is_right_at_every_moment_and_converges() {
    for seed in 0..SEEDS {
        reproducibly(seed, Shape::ControlPlanes, Bug::None);
    }
}

#[test]
fn a_proxys_parts_are_right_at_every_moment_and_converge() {
    for seed in 0..SEEDS {
        reproducibly(seed, Shape::Proxy, Bug::None);
    }
}

#[test]
fn the_seeds_find_planted_bugs() {
    let cases = [
        (Bug::AppliesHalfABatch, Shape::ControlPlanes, "half a batch"),
        (Bug::AcknowledgesBeforeStoring, Shape::ControlPlanes, "acknowledged ahead"),
        (Bug::KeepsWhatWasRemoved, Shape::ControlPlanes, "resurrected"),
        (Bug::NeverHolds, Shape::ControlPlanes, "emptied"),
        (Bug::EchoesBeforeApplying, Shape::Proxy, "settled ahead"),
    ];
    for (bug, shape, symptom) in cases {
        let found = (0..SEEDS)
            .find_map(|seed| panic::catch_unwind(|| simulate(seed, shape, bug)).err())
            .map(|cause| words(&*cause))
            .unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(found.contains(symptom), "{bug:?} was found as: {found}");
    }
}

fn words(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn reproducibly(seed: u64, shape: Shape, bug: Bug) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| simulate(seed, shape, bug)));
    if let Err(cause) = outcome {
        panic!("seed {seed} of {shape:?}: {}", words(&*cause));
    }
}

/// A time of mischief, then a time of peace in which everything has to come right.
fn simulate(seed: u64, shape: Shape, bug: Bug) {
    let mut sim = Simulation::new(seed, shape, bug);
    for _ in 0..400 {
        sim.step(true);
    }
    sim.make_peace();
    for _ in 0..3000 {
        sim.step(false);
        if sim.has_converged() {
            return;
        }
    }
    panic!("the copy did not converge: {}", sim.difference());
}

struct Simulation {
    random: Random,
    now: Duration,
    peers: [Peer; 2],
    link: Option<Link>,
    dial_at: Duration,
}

impl Simulation {
    fn new(seed: u64, shape: Shape, bug: Bug) -> Self {
        Self {
            random: Random::new(seed),
            now: Duration::ZERO,
            peers: [Peer::new(LOWER, shape, bug), Peer::new(UPPER, shape, bug)],
            link: None,
            dial_at: Duration::ZERO,
        }
    }

    fn step(&mut self, mischief: bool) {
        self.now += Duration::from_millis(self.random.below(60));
        if self.link.is_none() {
            self.dial();
        }
        if mischief {
            self.cause_mischief();
        }
        for side in [LOWER, UPPER] {
            self.peers[side].pass_time(self.now, &mut self.random);
        }
        self.carry(mischief);
        if self.peers.iter().any(|peer| peer.session_is_over()) {
            self.break_link();
        }
        let [lower, upper] = &mut self.peers;
        lower.check(upper);
        upper.check(lower);
    }

    fn dial(&mut self) {
        if self.now >= self.dial_at && self.peers.iter().all(Peer::is_idle) {
            self.link = Some(Link::default());
            for peer in &mut self.peers {
                peer.begin(self.now, &mut self.random);
            }
        }
    }

    fn cause_mischief(&mut self) {
        for side in [LOWER, UPPER] {
            self.peers[side].live(self.now, &mut self.random);
        }
        if self.random.one_in(60) {
            self.break_link();
        }
        if self.random.one_in(120) {
            let side = self.random.below(2) as usize;
            let loses_state = self.random.one_in(3);
            self.peers[side].crash(loses_state, &mut self.random);
            self.break_link();
        }
    }

    fn carry(&mut self, mischief: bool) {
        let Some(link) = &mut self.link else { return };
        for (from, to) in [(LOWER, UPPER), (UPPER, LOWER)] {
            while link.has_room(from)
                && let Some(frame) = self.peers[from].write(self.now)
            {
                link.send(from, frame, self.now, &mut self.random, mischief);
            }
            while let Some(frame) = link.deliver(to, self.now) {
                self.peers[to].read(frame, self.now, &mut self.random);
            }
        }
    }

    fn break_link(&mut self) {
        self.link = None;
        self.dial_at = self.now + Duration::from_millis(self.random.below(2000));
        for peer in &mut self.peers {
            peer.lose_session(self.now);
        }
    }

    fn make_peace(&mut self) {
        for peer in &mut self.peers {
            peer.accept_whatever_comes(self.now, &mut self.random);
        }
    }

    fn has_converged(&self) -> bool {
        let [lower, upper] = &self.peers;
        lower.equals(upper) && upper.equals(lower) && !self.peers.iter().any(Peer::has_questions)
    }

    fn difference(&self) -> String {
        let [lower, upper] = &self.peers;
        format!("lower {} upper {} link {}", lower.state(), upper.state(), self.link.is_some())
    }
}
