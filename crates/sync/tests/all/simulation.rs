//! Two peers, a bad link between them, and everything that must hold whatever happens: each seed is another
//! course of events. A failure names its seed, and the same seed fails again in the same way:
//! `SIMULATION_SEED=17 cargo test -p sync simulation` replays one, `SIMULATION_SEEDS=5000` tries more than usual.

mod bug;
mod end;
mod fault;
mod line;
mod link;
mod peer;
mod random;
mod store;

use std::any::Any;
use std::collections::BTreeMap;
use std::env;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use bug::Bug;
use fault::Fault;
use link::{LOWER, Link, UPPER};
use peer::{Peer, Shape};
use random::Random;

/// Of each shape.
const SEEDS: u64 = 200;

#[test]
fn a_copy_between_control_planes_is_right_at_every_moment_and_converges() {
    try_all(Shape::ControlPlanes);
}

#[test]
fn a_proxys_parts_are_right_at_every_moment_and_converge() {
    try_all(Shape::Proxy);
}

#[test]
fn the_seeds_find_planted_bugs() {
    for (bug, shape, symptoms) in Bug::PLANTED {
        let (seed, found) = (0..SEEDS)
            .find_map(|seed| Some((seed, panic::catch_unwind(|| simulate(seed, shape, bug)).err()?)))
            .unwrap_or_else(|| panic!("{bug:?} was not found"));
        let found = words(&*found);
        let is_known = symptoms.iter().any(|symptom| found.contains(symptom));
        assert!(is_known, "{bug:?} was found by seed {seed} as: {found}");
    }
}

/// Runs the seeds, says how often what happened, and has everything happen at least once.
fn try_all(shape: Shape) {
    let (seeds, is_replay) = match number("SIMULATION_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("SIMULATION_SEEDS").unwrap_or(SEEDS), false),
    };
    let happened = reproducibly(seeds, shape);
    #[allow(clippy::print_stdout, reason = "how often what happened is for whoever runs the seeds")]
    {
        println!("{shape:?}: {happened:?}");
    }
    for fault in Fault::of(shape).filter(|_| !is_replay) {
        assert!(happened.contains_key(&fault), "{fault:?} never happened to {shape:?}");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: '{text}'")))
}

fn reproducibly(seeds: Range<u64>, shape: Shape) -> BTreeMap<Fault, u64> {
    let mut happened = BTreeMap::new();
    for seed in seeds {
        match panic::catch_unwind(AssertUnwindSafe(|| simulate(seed, shape, Bug::None))) {
            Ok(faults) => {
                for (fault, times) in faults {
                    *happened.entry(fault).or_default() += times;
                }
            }
            Err(cause) => panic!("seed {seed} of {shape:?}: {}", words(&*cause)),
        }
    }
    happened
}

fn words(cause: &(dyn Any + Send)) -> String {
    let text = cause.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// A time of mischief, then a time of peace in which everything has to come right. Answers how often what went wrong.
fn simulate(seed: u64, shape: Shape, bug: Bug) -> BTreeMap<Fault, u64> {
    let mut sim = Simulation::new(seed, shape, bug);
    for _ in 0..600 {
        sim.step(true);
    }
    sim.trouble_once_more();
    for _ in 0..3000 {
        sim.step(false);
        if sim.has_converged() {
            return sim.random.faults();
        }
    }
    panic!("the copy did not converge: {}", sim.difference());
}

struct Simulation {
    random: Random,
    now: Duration,
    peers: [Peer; 2],
    links: BTreeMap<u64, Link>,
    /// The number of the last connection.
    dialled: u64,
    dial_at: Duration,
}

impl Simulation {
    fn new(seed: u64, shape: Shape, bug: Bug) -> Self {
        Self {
            random: Random::new(seed),
            now: Duration::ZERO,
            peers: [Peer::new(LOWER, shape, bug), Peer::new(UPPER, shape, bug)],
            links: BTreeMap::new(),
            dialled: 0,
            dial_at: Duration::ZERO,
        }
    }

    fn step(&mut self, mischief: bool) {
        self.now += Duration::from_millis(self.random.below(60));
        self.dial();
        if mischief {
            self.cause_mischief();
        } else {
            self.peers.iter_mut().for_each(|peer| peer.accept(self.now, &mut self.random));
        }
        for side in [LOWER, UPPER] {
            self.peers[side].pass_time(self.now, &mut self.random);
        }
        self.carry(mischief);
        self.end_sessions();
        let [lower, upper] = &mut self.peers;
        lower.check(upper, &mut self.random);
        upper.check(lower, &mut self.random);
    }

    /// The lower side has one session at a time, as far as it knows.
    fn dial(&mut self) {
        if self.now >= self.dial_at && self.peers[LOWER].is_idle() {
            self.dialled += 1;
            self.links.insert(self.dialled, Link::default());
            for peer in &mut self.peers {
                peer.begin(self.dialled, self.now, &mut self.random);
            }
        }
    }

    fn cause_mischief(&mut self) {
        for side in [LOWER, UPPER] {
            self.peers[side].live(self.now, &mut self.random);
        }
        if self.random.one_in(60) {
            self.peers.iter_mut().for_each(Peer::back_up);
        }
        let side = self.random.below(2) as usize;
        self.trouble_links(side);
        if self.random.brings(Fault::SlowWriter, 200) {
            let until = self.now + Duration::from_millis(self.random.below(3000));
            self.peers[side].fall_silent(until);
        }
        if self.random.brings(Fault::ClockJump, 300) {
            let by = Duration::from_millis(self.random.below(8000));
            self.peers[side].jump(by);
        }
        if self.random.brings(Fault::Kill, 250) {
            self.peers[side].kill(self.now, &mut self.random);
        }
        if self.random.brings(Fault::PowerCut, 250) {
            self.peers[side].lose_power();
            self.links.values_mut().for_each(|link| link.die(side));
        }
        if self.random.brings(Fault::PutBackStore, 200) {
            self.peers[side].put_back(&mut self.random);
            if self.random.one_in(3) {
                self.peers[1 - side].put_back(&mut self.random);
            }
        }
        if self.random.brings(Fault::LostStore, 600) {
            self.peers[side].lose_store();
        }
    }

    /// What nothing later covers up: a part is dropped while the next batch is being made.
    fn trouble_once_more(&mut self) {
        let [lower, upper] = &mut self.peers;
        upper.write_documents(self.now, &mut self.random);
        lower.forget_a_part(self.now, &mut self.random);
    }

    fn trouble_links(&mut self, side: usize) {
        let (now, random) = (self.now, &mut self.random);
        let Some(mut newest) = self.links.last_entry() else { return };
        let link = newest.get_mut();
        if random.brings(Fault::SlowReader, 80) {
            link.pause(side, now + Duration::from_millis(random.below(3000)));
        }
        if random.brings(Fault::HalfDeadLink, 200) {
            link.die(side);
        }
        if random.brings(Fault::BrokenLink, 120) {
            let number = *newest.key();
            self.peers.iter_mut().for_each(|peer| peer.lose(number, now, random));
        }
    }

    fn carry(&mut self, mischief: bool) {
        for (number, link) in &mut self.links {
            for (from, to) in [(LOWER, UPPER), (UPPER, LOWER)] {
                while link.has_room(from)
                    && let Some(frame) = self.peers[from].write(*number, self.now)
                {
                    link.send(from, frame, self.now, &mut self.random, mischief);
                }
                while let Some(frame) = link.deliver(to, self.now) {
                    self.peers[to].read(*number, frame, self.now, &mut self.random);
                }
            }
        }
    }

    /// Whose session is over hangs up, and the other side reads the end of the stream, unless that way is dead.
    fn end_sessions(&mut self) {
        for (number, link) in &mut self.links {
            for side in [LOWER, UPPER] {
                let peer = &mut self.peers[side];
                if peer.is_over(*number) || link.has_ended_for(side) {
                    peer.lose(*number, self.now, &mut self.random);
                }
                if !peer.has(*number) && link.hang_up(side) && side == LOWER {
                    self.dial_at = self.now + Duration::from_millis(self.random.below(1000));
                }
            }
        }
        self.links.retain(|_, link| !link.is_over());
    }

    fn has_converged(&self) -> bool {
        let [lower, upper] = &self.peers;
        lower.equals(upper) && upper.equals(lower) && !self.peers.iter().any(Peer::has_questions)
    }

    fn difference(&self) -> String {
        let [lower, upper] = &self.peers;
        format!("lower {} upper {} links {}", lower.state(), upper.state(), self.links.len())
    }
}
