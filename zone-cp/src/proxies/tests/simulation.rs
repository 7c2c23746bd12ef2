//! A zone and one of its proxies, and everything that goes wrong between them: each seed is another course of events.
//! Whatever happens, the zone never says of a version that the proxy enforces it while the proxy does not.
//!
//! The zone's planner, its host of the session and both ends of that are the program's own; the proxy is a folder, what
//! it has swapped in, and the delays between. `SIMULATION_SEED=17 cargo test -p zone-cp simulation` replays a seed,
//! `SIMULATION_SEEDS=5000` tries more than usual.

mod proxy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::env;
use std::panic;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use store::{Draft, Write};
use sync::frame::{Frame, Hello};
use sync::session::{Action, Config, Event, Limits, Session as Machine, Timing};

use super::*;
use crate::planner::Output;
use crate::planner::tests::{dataplane, permission, service};
use proxy::{Held, Proxy};

const SEEDS: u64 = 200;
const NAMES: [&str; 5] =
    ["identity", "trust", "listeners", "inbound/8080", "destination/ms_default_east__cart_http"];
/// As in the programs, but shorter, so that more sessions fit into a run.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(300),
    stale: Duration::from_millis(1500),
    offline: Duration::from_secs(6),
};

/// What goes wrong, and what comes of it: each has to happen within the seeds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Fault {
    BrokenLink,
    /// One direction carries nothing for a while.
    SilentLink,
    /// The proxy crashed; its zone hears of it later.
    Crash,
    ZoneRestart,
    SlowSwap,
    /// A part is refused, so that the one before stays in force.
    RefusedPart,
    Unsubscribed,
    /// Not a fault: the newest version was said to be enforced, and then it was not any more.
    SaidApplied,
    SaidLate,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::BrokenLink,
        Self::SilentLink,
        Self::Crash,
        Self::ZoneRestart,
        Self::SlowSwap,
        Self::RefusedPart,
        Self::Unsubscribed,
        Self::SaidApplied,
        Self::SaidLate,
    ];
}

/// Mistakes that the simulation must find.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bug {
    None,
    /// The zone takes for enforced what is on its way.
    BelievesWhatItSent,
    /// The proxy says that it enforces what it has only stored.
    SaysSoBeforeSwapping,
    /// The proxy says so before its folder has it, and comes back without it.
    SaysSoBeforeStoring,
    /// The proxy keeps a part that it could not read, and does not say so.
    HidesRefusals,
}

#[test]
fn applied_is_never_said_of_a_proxy_that_does_not_enforce() {
    let number = |variable| env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    let replayed = number("SIMULATION_SEED");
    let seeds = replayed.map_or(0..number("SIMULATION_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let mut happened = BTreeMap::new();
    for seed in seeds {
        for (fault, times) in run(seed, Bug::None).unwrap_or_else(|found| panic!("seed {seed}: {found}")) {
            *happened.entry(fault).or_insert(0) += times;
        }
    }
    #[allow(clippy::print_stdout, reason = "how often what happened is for whoever runs the seeds")]
    {
        println!("{happened:?}");
    }
    for fault in Fault::ALL.into_iter().filter(|_| replayed.is_none()) {
        assert!(happened.contains_key(&fault), "{fault:?} never happened");
    }
}

#[test]
fn the_seeds_find_planted_bugs() {
    let bugs =
        [Bug::BelievesWhatItSent, Bug::SaysSoBeforeSwapping, Bug::SaysSoBeforeStoring, Bug::HidesRefusals];
    for bug in bugs {
        let found = (0..SEEDS).find_map(|seed| run(seed, bug).err());
        let found = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        assert!(found.contains("does not enforce"), "{bug:?} was found as: {found}");
    }
}

/// How often what happened, or what was wrong.
fn run(seed: u64, bug: Bug) -> Result<BTreeMap<Fault, u64>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut simulation = Simulation::new(seed, bug).await;
        for _ in 0..300 {
            simulation.step(true).await?;
        }
        simulation.read_no_more(None);
        for _ in 0..2000 {
            simulation.step(false).await?;
            if simulation.is_applied().await {
                return Ok(simulation.faults);
            }
        }
        Err(format!("it never enforces what is written: {:?}", simulation.proxy))
    })
}

struct Simulation {
    random: StdRng,
    bug: Bug,
    faults: BTreeMap<Fault, u64>,
    now: Duration,
    rig: Rig,
    watch: store::Watch,
    /// The last revision of the global.
    global: u64,
    /// What each world makes of all parts, in their order.
    past: Vec<(World, BTreeMap<String, Bytes>)>,
    proxy: Proxy,
    /// The zone's end, and what it read that the proxy wants.
    upper: Option<Machine>,
    read: BTreeSet<String>,
    lower: Option<Machine>,
    dial_at: Duration,
    up: Way,
    down: Way,
    /// Of the session with this number.
    jobs: Vec<(Duration, u64, Job)>,
    session: u64,
    was_applied: bool,
}

#[derive(Default)]
struct Way {
    frames: VecDeque<(Duration, Frame)>,
    /// Nothing arrives before.
    silent_until: Duration,
}

#[derive(Debug)]
enum Job {
    Collect(Base),
    /// The zone hears that the connection is gone.
    HearLoss,
    Locate,
    Store(Batch),
    Swap {
        held: Held,
        says_so: bool,
    },
    /// What was said before.
    StoreLate(Held),
}

impl Job {
    fn is_of_zone(&self) -> bool {
        matches!(self, Self::Collect(_) | Self::HearLoss)
    }
}

impl Simulation {
    async fn new(seed: u64, bug: Bug) -> Self {
        let rig = Rig::start().await;
        let web = dataplane(1, "web");
        rig.zone.store.put(Draft::new(web.key, web.bytes), Expect::Any).await.unwrap();
        let watch = rig.zone.store.watch(rig.zone.store.head().await.unwrap().sequence);
        let mut simulation = Self {
            random: StdRng::seed_from_u64(seed),
            bug,
            faults: BTreeMap::new(),
            now: Duration::ZERO,
            rig,
            watch,
            global: 10,
            past: Vec::new(),
            proxy: Proxy::new(),
            upper: None,
            read: BTreeSet::new(),
            lower: None,
            dial_at: Duration::ZERO,
            up: Way::default(),
            down: Way::default(),
            jobs: Vec::new(),
            session: 0,
            was_applied: false,
        };
        simulation.start_zone().await;
        simulation.note().await;
        simulation
    }

    /// The zone's program begins with what its store has.
    async fn start_zone(&mut self) {
        self.rig.follow().await;
        let head = self.rig.zone.store.head().await.unwrap();
        self.watch = self.rig.zone.store.watch(head.sequence);
        let proxy = ProxyId { mesh: "default".parse().unwrap(), name: "web".parse().unwrap() };
        let day = Duration::from_secs(24 * 60 * 60);
        let life = Life::until(self.rig.zone.clock.now() + day);
        self.rig.zone.hub.input(Input::Life { proxy, life });
    }

    async fn step(&mut self, mischief: bool) -> Result<(), String> {
        let pause = Duration::from_millis(self.random.random_range(0..60));
        self.now += pause;
        tokio::time::advance(pause).await;
        if mischief {
            self.cause_mischief().await;
        }
        self.dial();
        for (_, session, job) in self.jobs.extract_if(.., |(due, ..)| *due <= self.now).collect::<Vec<_>>() {
            self.finish(session, job).await;
        }
        let due =
            |machine: &Option<Machine>| machine.as_ref().is_some_and(|one| one.next_wakeup() <= self.now);
        let (upper, lower) = (due(&self.upper), due(&self.lower));
        if upper {
            self.tell_upper(Event::Tick);
        }
        if lower {
            self.tell_lower(Event::Tick);
        }
        self.carry();
        self.follow().await;
        tokio::task::yield_now().await;
        self.check().await
    }

    async fn cause_mischief(&mut self) {
        if self.one_in(12) {
            self.write().await;
        }
        if self.one_in(40) {
            let name = NAMES[self.random.random_range(1..NAMES.len())].to_owned();
            if self.proxy.wanted.remove(&name) {
                self.count(Fault::Unsubscribed);
                if self.proxy.latest.refused.remove(&name) {
                    self.tell_lower(Event::Reopen(Topic::PARTS));
                }
                self.tell_lower(Event::Unsubscribe(vec![name]));
            } else {
                self.proxy.wanted.insert(name.clone());
                self.tell_lower(Event::Subscribe(vec![name]));
            }
        }
        if self.one_in(30) {
            let name = NAMES[self.random.random_range(1..NAMES.len())].to_owned();
            let unreadable = self.one_in(2).then_some(name);
            self.read_no_more(unreadable);
        }
        if self.brings(Fault::SilentLink, 60) {
            let until = self.now + Duration::from_millis(self.random.random_range(0..4000));
            let way = if self.one_in(2) { &mut self.up } else { &mut self.down };
            way.silent_until = until;
        }
        if self.lower.is_some() && self.brings(Fault::BrokenLink, 60) {
            self.tell_lower(Event::Lost("the link broke".into()));
        }
        if self.proxy.in_force.is_some() && self.brings(Fault::Crash, 60) {
            self.crash();
        }
        if self.brings(Fault::ZoneRestart, 120) {
            self.restart_zone().await;
        }
    }

    /// The proxy cannot read this part from now on, and every other one; it asks again for those that it could not.
    fn read_no_more(&mut self, name: Option<String>) {
        self.proxy.unreadable = name;
        if !self.proxy.latest.refused.is_empty() {
            self.tell_lower(Event::Reopen(Topic::PARTS));
        }
    }

    /// Something that changes a part, or none.
    async fn write(&mut self) {
        let store = self.rig.zone.store.clone();
        let cart = service(1, ["cart", "other"][self.random.random_range(0..2)]);
        let written = match self.random.random_range(0..5) {
            0 => store.put(Draft::new(cart.key, cart.bytes), Expect::Any).await.map(drop),
            1 => store.delete(cart.key, Expect::Any).await.map(drop),
            way => {
                self.global += 1;
                let open = permission(self.global);
                let upto = [(Origin::Global, at(1, self.global))].into_iter().collect();
                let change = match way {
                    2 => Some(Write::Copy(open)),
                    3 => Some(Write::Forget { key: open.key, version: open.version }),
                    _ => None,
                };
                store.apply(change.into_iter().chain([Write::Advance(upto)]).collect()).await.map(drop)
            }
        };
        // What is not there is not deleted.
        if written.is_ok() {
            self.note().await;
        }
    }

    /// What follows from what is written, as a planner finds it that has just begun.
    async fn note(&mut self) {
        let listing = self.rig.zone.store.list(Filter::all()).await.unwrap();
        let (world, client) = (listing.world.clone(), proxy("web"));
        let mut planner = Planner::new(self.rig.zone.name.clone(), Salt::new(&[7; 32]));
        planner.on_input(Input::Listed(listing));
        planner.on_input(Input::Connected { client: client.clone(), session: 1 });
        let out = planner.on_input(subscribe(&client, 1, &NAMES));
        let plan = out.into_iter().find_map(|output| match output {
            Output::Plan { plan, .. } => Some(plan),
            _ => None,
        });
        let parts = plan.expect("it has a Dataplane").parts;
        let parts = parts.iter().map(|(name, body)| (name.to_string(), body.bytes.clone())).collect();
        self.past.push((world, parts));
    }

    /// The planner hears what was written.
    async fn follow(&mut self) {
        use futures::FutureExt;
        while let Some(commit) = self.watch.next().now_or_never() {
            self.rig.zone.hub.input(Input::Committed(commit.unwrap()));
            self.tell_upper(Event::Changed(Topic::PARTS));
        }
        // So does a session whose subscription changed its plan.
        if self.one_in(4) {
            self.tell_upper(Event::Changed(Topic::PARTS));
        }
    }

    fn dial(&mut self) {
        if self.lower.is_some() || self.proxy.in_force.is_none() || self.now < self.dial_at {
            return;
        }
        self.rig.reopen();
        self.read = BTreeSet::from(["identity".to_owned()]);
        (self.up, self.down) = (Way::default(), Way::default());
        // What is swapped in already is, whoever hears of it.
        self.jobs.retain(|(.., job)| matches!(job, Job::Swap { .. } | Job::StoreLate(_)));
        self.session += 1;
        let config = |serves: Vec<Topic>, copies: Vec<Topic>| Config {
            hello: Hello::default(),
            serves,
            copies,
            limits: Limits::PROXY,
            timing: TIMING,
        };
        self.upper = Some(Machine::new(config(vec![Topic::PARTS], vec![]), self.now));
        self.lower = Some(Machine::new(config(vec![], vec![Topic::PARTS]), self.now));
        self.tell_upper(Event::Started);
        self.tell_lower(Event::Started);
        self.tell_lower(Event::Subscribe(self.proxy.wanted.iter().cloned().collect()));
    }

    /// The proxy is gone with what it was doing, and comes back with its folder after a while.
    fn crash(&mut self) {
        self.proxy.in_force = None;
        self.tell_lower(Event::Lost("it crashed".into()));
        self.jobs.retain(|(.., job)| job.is_of_zone());
        self.dial_at = self.now + Duration::from_millis(self.random.random_range(0..1500));
    }

    async fn restart_zone(&mut self) {
        self.tell_lower(Event::Lost("the zone is gone".into()));
        self.jobs.retain(|(.., job)| !job.is_of_zone());
        self.upper = None;
        self.rig = self.rig.restarted().await;
        self.start_zone().await;
    }

    fn carry(&mut self) {
        let now = self.now;
        for (machine, way) in [(&mut self.lower, &mut self.up), (&mut self.upper, &mut self.down)] {
            while way.frames.len() < 8
                && let Some(frame) = machine.as_mut().and_then(|machine| machine.next_frame(now))
            {
                let delay = Duration::from_millis(self.random.random_range(0..100));
                way.frames.push_back((now + delay, frame));
            }
        }
        while let Some(frame) = self.up.deliver(now) {
            self.tell_upper(Event::Received(frame));
        }
        while let Some(frame) = self.down.deliver(now) {
            self.tell_lower(Event::Received(frame));
        }
    }

    fn tell_upper(&mut self, event: Event) {
        let actions = self.upper.as_mut().map(|machine| machine.on_event(event, self.now));
        for action in actions.into_iter().flatten() {
            let session = &self.rig.session;
            match action {
                Action::Collect { base, .. } => self.later(Job::Collect(base), 100),
                Action::Acknowledged { topic, world, refused } => {
                    session.acknowledged(&topic, &world, &refused)
                }
                Action::Subscribed { added, removed } => {
                    session.subscribed(&added, &removed);
                    self.read.retain(|name| !removed.contains(name));
                    self.read.extend(added);
                }
                Action::Stale => session.stale(true),
                Action::Fresh => session.stale(false),
                Action::Ended(ended) => {
                    session.closed(&ended);
                    self.upper = None;
                    return;
                }
                _ => {}
            }
        }
    }

    fn tell_lower(&mut self, event: Event) {
        let actions = self.lower.as_mut().map(|machine| machine.on_event(event, self.now));
        for action in actions.into_iter().flatten() {
            match action {
                Action::Locate { .. } => self.later(Job::Locate, 100),
                Action::Apply { batch, .. } => self.later(Job::Store(batch), 200),
                Action::Ended(_) => {
                    self.lower = None;
                    self.dial_at = self.dial_at.max(self.now + Duration::from_millis(200));
                    self.later(Job::HearLoss, 3000);
                    return;
                }
                _ => {}
            }
        }
    }

    fn later(&mut self, job: Job, most: u64) {
        let due = self.now + Duration::from_millis(self.random.random_range(0..most));
        self.jobs.push((due, self.session, job));
    }

    async fn finish(&mut self, session: u64, job: Job) {
        match job {
            Job::Collect(base) => {
                let batch = self.rig.collect(base).await;
                if let Some(batch) = batch.as_ref().filter(|_| self.bug == Bug::BelievesWhatItSent) {
                    self.rig.session.acknowledged(&Topic::PARTS, &batch.world, &[]);
                }
                self.tell_upper(Event::Collected { topic: Topic::PARTS, batch });
            }
            Job::HearLoss => self.tell_upper(Event::Lost("the link broke".into())),
            Job::Locate => {
                // What is still refused comes again.
                self.proxy.latest.refused.clear();
                let place = self.proxy.latest.place();
                self.tell_lower(Event::Located { topic: Topic::PARTS, place });
            }
            Job::Store(batch) => {
                // What is still to be swapped in is part of this.
                self.jobs.retain(|(.., job)| !matches!(job, Job::Swap { .. }));
                let held = self.proxy.take(batch);
                if !held.refused.is_empty() {
                    self.count(Fault::RefusedPart);
                }
                let says_so = !matches!(self.bug, Bug::SaysSoBeforeSwapping | Bug::SaysSoBeforeStoring);
                if self.bug == Bug::SaysSoBeforeStoring {
                    self.proxy.in_force = Some(held.clone());
                    self.later(Job::StoreLate(held.clone()), 3000);
                } else {
                    self.proxy.folder = held.clone();
                }
                if !says_so {
                    self.say_so(&held);
                }
                let slow = self.brings(Fault::SlowSwap, 10);
                self.later(Job::Swap { held, says_so }, if slow { 3000 } else { 60 });
            }
            Job::Swap { held, says_so } => {
                if says_so && session == self.session {
                    self.say_so(&held);
                }
                self.proxy.in_force = Some(held);
            }
            Job::StoreLate(held) => self.proxy.folder = held,
        }
    }

    fn say_so(&mut self, held: &Held) {
        let refused = if self.bug == Bug::HidesRefusals { Vec::new() } else { held.refusals() };
        let applied = Applied::Stored { world: held.world.clone(), refused };
        self.tell_lower(Event::Applied { topic: Topic::PARTS, applied });
    }

    /// Of the last versions of both origins: what the zone says of the proxy is so.
    async fn check(&mut self) -> Result<(), String> {
        if self.proxy.in_force.is_none() && self.now >= self.dial_at {
            self.proxy.restart();
        }
        let recent: Vec<World> = self.past.iter().rev().take(5).map(|(world, _)| world.clone()).collect();
        for (origin, point) in recent.iter().flat_map(World::iter) {
            let version = Version { origin: origin.clone(), point };
            let says_so = self.is_said(&version).await;
            // Who is down enforces nothing, and nobody has noticed yet.
            let Some(in_force) = self.proxy.in_force.as_ref().filter(|_| says_so) else { continue };
            let names: BTreeSet<&String> = self.read.intersection(&self.proxy.wanted).collect();
            let is_from =
                |parts: &BTreeMap<String, Bytes>, name: &String| parts.get(name) == in_force.parts.get(name);
            let mut worlds =
                self.past.iter().filter(|(world, _)| world.covers(&version)).map(|(_, parts)| parts);
            let enforces = match in_force.refused.is_empty() {
                true => worlds.any(|parts| names.iter().all(|name| is_from(parts, name))),
                // What it kept, it kept from such a world as well.
                false => names.iter().all(|name| worlds.clone().any(|parts| is_from(parts, name))),
            };
            if !enforces {
                return Err(format!(
                    "the proxy does not enforce {version}, as it is said to: {:?}",
                    self.proxy
                ));
            }
        }
        let is_applied = self.is_applied().await;
        if self.was_applied != is_applied {
            self.count(if is_applied { Fault::SaidApplied } else { Fault::SaidLate });
        }
        self.was_applied = is_applied;
        Ok(())
    }

    async fn is_said(&self, version: &Version) -> bool {
        let proof = self.rig.zone.hub.prove(version, Duration::ZERO).await;
        proof.known && proof.current == 1 && proof.late.is_empty()
    }

    /// Whether the zone says that everything is in force.
    async fn is_applied(&self) -> bool {
        let (world, _) = self.past.last().expect("it has begun");
        for (origin, point) in world.iter() {
            if !self.is_said(&Version { origin: origin.clone(), point }).await {
                return false;
            }
        }
        true
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn brings(&mut self, fault: Fault, n: u32) -> bool {
        let happens = self.one_in(n);
        if happens {
            self.count(fault);
        }
        happens
    }

    fn count(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

impl Way {
    fn deliver(&mut self, now: Duration) -> Option<Frame> {
        let is_silent = now < self.silent_until;
        self.frames.pop_front_if(|(at, _)| *at <= now && !is_silent).map(|(_, frame)| frame)
    }
}
