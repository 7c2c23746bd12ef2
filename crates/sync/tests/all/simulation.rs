//! Peers, bad links between them, and everything that must hold whatever happens: each seed is another course of
//! events. A failure names its seed, and the same seed fails again in the same way:
//! `SIMULATION_SEED=17 cargo test -p sync simulation` replays one, `SIMULATION_SEEDS=5000` tries more than usual.
//!
//! Control planes are three: a global, and two zones that know each other through it alone. They have real stores, and
//! decide with [`sync::line`] what to make of each other's histories; what else the programs decide is written down
//! again in [`plane`]. A zone and one of its proxies are two.
//!
//! Sessions know no time of day: generations of sessions are numbered by it, and compared by nobody. Stores and reports
//! of refusals do, so that is what goes back here; the clock of a session never does.

mod bug;
mod chronicle;
mod end;
mod fault;
mod link;
mod parts;
mod peer;
mod plane;
mod random;
mod site;

use std::any::Any;
use std::collections::BTreeMap;
use std::env;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bug::Bug;
use fault::Fault;
use link::{LOWER, Link, UPPER};
use model::Origin;
use parts::{Parts, Pasts};
use peer::{Peer, Shape};
use plane::Plane;
use random::Random;
use site::{Party, Site};

/// Of each shape.
const SEEDS: u64 = 200;

#[test]
fn copies_between_control_planes_are_right_at_every_moment_and_converge() {
    try_all(Shape::ControlPlanes);
}

#[test]
fn a_proxys_parts_are_right_at_every_moment_and_converge() {
    try_all(Shape::Proxy);
}

#[test]
fn the_seeds_find_planted_bugs() {
    let mut wrong = Vec::new();
    for (bug, shape, symptoms) in Bug::PLANTED {
        let found = (0..SEEDS)
            .find_map(|seed| Some((seed, panic::catch_unwind(|| simulate(seed, shape, bug)).err()?)));
        match found.map(|(seed, found)| (seed, words(&*found))) {
            Some((_, found)) if symptoms.iter().any(|symptom| found.contains(symptom)) => {}
            Some((seed, found)) => wrong.push(format!("{bug:?} was found by seed {seed} as: {found}")),
            None => wrong.push(format!("{bug:?} was not found")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

fn simulate(seed: u64, shape: Shape, bug: Bug) -> BTreeMap<Fault, u64> {
    let random = Random::new(seed);
    match shape {
        Shape::ControlPlanes => {
            let origins: Rc<[Origin]> =
                ["east", "global", "west"].map(|origin| origin.parse().unwrap()).into();
            let chronicle = Rc::default();
            let plane = |party| {
                let clock = Arc::new(AtomicU64::new(1_800_000_000));
                Plane::new(party, origins.clone(), clock, Rc::clone(&chronicle), bug)
            };
            Simulation::new(random, shape, (0..3).map(plane), bug).run()
        }
        Shape::Proxy => {
            let pasts = Pasts::default();
            let parts = |party| Parts::new(party, pasts.clone(), bug);
            Simulation::new(random, shape, (0..2).map(parts), bug).run()
        }
    }
}

struct Simulation<S> {
    random: Random,
    shape: Shape,
    now: Duration,
    /// All dial the one at [`UPPER`].
    peers: Vec<Peer<S>>,
    links: BTreeMap<u64, Dialled>,
    /// The number of the last connection.
    dialled: u64,
    dial_at: BTreeMap<Party, Duration>,
}

struct Dialled {
    by: Party,
    link: Link,
}

impl Dialled {
    fn party(&self, side: usize) -> Party {
        if side == LOWER { self.by } else { UPPER }
    }
}

impl<S: Site> Simulation<S> {
    fn new(random: Random, shape: Shape, sites: impl Iterator<Item = S>, bug: Bug) -> Self {
        let peers: Vec<_> =
            sites.enumerate().map(|(party, site)| Peer::new(party, shape, site, bug)).collect();
        let lower = (0..peers.len()).filter(|party| *party != UPPER);
        let dial_at = lower.map(|party| (party, Duration::ZERO)).collect();
        let (links, now) = (BTreeMap::new(), Duration::ZERO);
        Self { random, shape, now, peers, links, dialled: 0, dial_at }
    }

    /// A time of mischief, then a time of peace in which everything has to come right. Answers how often what went
    /// wrong.
    fn run(mut self) -> BTreeMap<Fault, u64> {
        for _ in 0..600 {
            self.step(true);
        }
        self.trouble_once_more();
        for _ in 0..3000 {
            self.step(false);
            if self.has_converged() {
                return self.random.faults();
            }
        }
        panic!("the copy did not converge: {}", self.difference());
    }

    fn step(&mut self, mischief: bool) {
        self.now += Duration::from_millis(self.random.below(60));
        self.dial();
        if mischief {
            self.cause_mischief();
        }
        for peer in &mut self.peers {
            let lies = mischief && self.random.one_in(6);
            peer.site.lies(lies);
            if !mischief {
                peer.accept(self.now, &mut self.random);
            }
            peer.pass_time(self.now, &mut self.random);
        }
        self.carry(mischief);
        self.end_sessions();
        for party in 0..self.peers.len() {
            self.peers[party].site.check(&mut self.random);
        }
        if let [lower, upper] = &mut self.peers[..] {
            lower.check_settled(upper);
            upper.check_settled(lower);
        }
    }

    /// A lower side has one session at a time, as far as it knows.
    fn dial(&mut self) {
        for (party, dial_at) in &self.dial_at {
            if self.now >= *dial_at && self.peers[*party].is_idle() {
                self.dialled += 1;
                self.links.insert(self.dialled, Dialled { by: *party, link: Link::default() });
                self.peers[*party].begin(self.dialled, UPPER, self.now, &mut self.random);
                self.peers[UPPER].begin(self.dialled, *party, self.now, &mut self.random);
            }
        }
    }

    fn cause_mischief(&mut self) {
        for party in 0..self.peers.len() {
            self.peers[party].live(self.now, &mut self.random);
            self.decide_about_holds(party);
        }
        if self.random.one_in(60) {
            self.peers.iter_mut().for_each(|peer| peer.site.back_up());
        }
        self.trouble_links();
        let party = self.random.below(self.peers.len() as u64) as Party;
        let (peer, random) = (&mut self.peers[party], &mut self.random);
        if random.brings(Fault::SlowWriter, 200) {
            let until = self.now + Duration::from_millis(random.below(3000));
            peer.fall_silent(until);
        }
        if random.brings(Fault::ClockJump, 300) {
            let by = Duration::from_millis(random.below(8000));
            peer.jump(by);
        }
        if self.shape == Shape::ControlPlanes && random.one_in(100) {
            let by = random.below(200_000) as i64 - 100_000;
            random.count(if by < 0 { Fault::WallClockBack } else { Fault::WallClockAhead });
            peer.site.jump_wall_clock(by);
        }
        if random.brings(Fault::Kill, 250) {
            peer.kill(self.now, random);
        }
        if random.brings(Fault::PowerCut, 250) {
            peer.lose_power();
            for dialled in self.links.values_mut() {
                for side in [LOWER, UPPER] {
                    if dialled.party(side) == party {
                        dialled.link.die(side);
                    }
                }
            }
        }
        if random.one_in(200) {
            self.put_back(party);
            let other = self.random.below(self.peers.len() as u64) as Party;
            if self.random.one_in(3) && other != party {
                self.put_back(other);
            }
        }
        if self.random.one_in(600) && self.may_go_back(party) {
            self.random.count(Fault::LostStore);
            self.peers[party].lose_store();
        }
    }

    /// Somebody accepts what a side holds back, or that side goes back to where both still agreed.
    fn decide_about_holds(&mut self, party: Party) {
        if !self.peers[party].site.holds_back() || !self.random.one_in(40) {
            return;
        }
        if self.random.one_in(3) {
            self.put_back(party);
        } else {
            self.peers[party].accept(self.now, &mut self.random);
        }
    }

    fn put_back(&mut self, party: Party) {
        if self.may_go_back(party) {
            self.random.count(Fault::PutBackStore);
            self.peers[party].put_back(&mut self.random);
        }
    }

    fn may_go_back(&self, party: Party) -> bool {
        let sites: Vec<&S> = self.peers.iter().map(|peer| &peer.site).collect();
        S::may_go_back(&sites, party)
    }

    /// What nothing later covers up: a part is dropped while the next batch is being made.
    fn trouble_once_more(&mut self) {
        self.peers[UPPER].write_documents(self.now, &mut self.random);
        self.peers[LOWER].forget_a_part(self.now, &mut self.random);
    }

    fn trouble_links(&mut self) {
        let (now, random) = (self.now, &mut self.random);
        if self.links.is_empty() {
            return;
        }
        let side = random.below(2) as usize;
        let at = random.below(self.links.len() as u64) as usize;
        let Some((number, dialled)) = self.links.iter_mut().nth(at) else { return };
        if random.brings(Fault::SlowReader, 80) {
            dialled.link.pause(side, now + Duration::from_millis(random.below(3000)));
        }
        if random.brings(Fault::HalfDeadLink, 200) {
            dialled.link.die(side);
        }
        if self.shape == Shape::ControlPlanes && random.one_in(30) {
            dialled.link.inject(side, peer::unasked(), random);
        }
        if random.brings(Fault::BrokenLink, 120) {
            for party in [dialled.by, UPPER] {
                self.peers[party].lose(*number, now, random);
            }
        }
    }

    fn carry(&mut self, mischief: bool) {
        for (number, dialled) in &mut self.links {
            for (from, to) in [(LOWER, UPPER), (UPPER, LOWER)] {
                let (writer, reader) = (dialled.party(from), dialled.party(to));
                while dialled.link.has_room(from)
                    && let Some(frame) = self.peers[writer].write(*number, self.now)
                {
                    dialled.link.send(from, frame, self.now, &mut self.random, mischief);
                }
                while let Some(frame) = dialled.link.deliver(to, self.now) {
                    self.peers[reader].read(*number, frame, self.now, &mut self.random);
                }
            }
        }
    }

    /// Whose session is over hangs up, and the other side reads the end of the stream, unless that way is dead.
    fn end_sessions(&mut self) {
        for (number, dialled) in &mut self.links {
            for side in [LOWER, UPPER] {
                let peer = &mut self.peers[dialled.party(side)];
                if peer.is_over(*number) || dialled.link.has_ended_for(side) {
                    peer.lose(*number, self.now, &mut self.random);
                }
                if !peer.has(*number) && dialled.link.hang_up(side) && side == LOWER {
                    let again = self.now + Duration::from_millis(self.random.below(1000));
                    self.dial_at.insert(dialled.by, again);
                }
            }
        }
        self.links.retain(|_, dialled| !dialled.link.is_over());
    }

    fn has_converged(&self) -> bool {
        let upper = &self.peers[UPPER];
        let mut lower = self.dial_at.keys().map(|party| &self.peers[*party]);
        lower.all(|lower| lower.equals(upper) && upper.equals(lower))
            && !self.peers.iter().any(Peer::has_questions)
    }

    fn difference(&self) -> String {
        let states: Vec<_> = self.peers.iter().map(Peer::state).collect();
        format!("{states:?} links {}", self.links.len())
    }
}
