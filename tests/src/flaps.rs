//! No endpoint flaps while a control plane restarts: every word that proxies and ingresses of both zones are told
//! meanwhile is watched. An instance that really goes meanwhile is known to be gone in time, and no other with it.

mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use api::shapes::InspectDataplane;
use demo::Mesh;
use demo::mesh::{LIMIT, Stopped, ZONES};
use demo::process::Process;
use model::ServiceKind;
use snapshot::parts::SignalName;
use tokio::time::{self, Instant};

use crate::processes;
use watcher::{Heard, Watcher, Word};

/// Those who call others, one in each zone.
const CALLERS: [&str; 2] = ["frontend-1", "cart-1"];
/// What the replica that goes is one of, in the zone that restarts.
const SERVICE: &str = "catalog";
const ZONE: &str = "west";
const REPLICA: u8 = 2;

/// Until what went while its control plane was away is known to be gone: a control plane that starts misses nobody for 10 s,
/// and for a minute at the most.
const GOES: Duration = Duration::from_secs(75);
/// Long enough for a session that was lost to count, and for everyone to have come back.
const AFTER: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_flaps_when_the_global_restarts() {
    let mut scene = Scene::start().await;
    let program = program().await;

    scene.mesh.stop_global().await.unwrap();
    let stopped = scene.replica_goes().await;
    let log = scene.mesh.dir().join("global.log");
    let mut global = Process::start(&program, &scene.mesh.global_options(), log).unwrap();
    scene.replica_is_gone(&ZONES).await;
    scene.replica_comes_back(stopped).await;

    global.kill().await.unwrap();
    let stopped = scene.replica_goes().await;
    scene.mesh.resume_global().await.unwrap();
    scene.replica_is_gone(&ZONES).await;
    scene.replica_comes_back(stopped).await;
    scene.end(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_flaps_when_a_zone_restarts_also_without_the_global() {
    let mut scene = Scene::start().await;
    let program = program().await;

    scene.mesh.stop_zone(ZONE).await.unwrap();
    let stopped = scene.replica_goes().await;
    let log = scene.mesh.dir().join("zone.log");
    let mut zone = Process::start(&program, &scene.mesh.zone_options(ZONE).unwrap(), log).unwrap();
    scene.replica_is_gone(&ZONES).await;
    scene.replica_comes_back(stopped).await;

    scene.mesh.stop_global().await.unwrap();
    zone.kill().await.unwrap();
    let stopped = scene.replica_goes().await;
    scene.mesh.resume_zone(ZONE).await.unwrap();
    scene.replica_is_gone(&[ZONE]).await;
    scene.mesh.resume_global().await.unwrap();
    scene.replica_is_gone(&ZONES).await;
    scene.replica_comes_back(stopped).await;
    scene.end(3).await;
}

async fn program() -> PathBuf {
    processes::build().await.join("tombolo")
}

struct Scene {
    mesh: Mesh,
    watchers: Vec<Watcher>,
    /// The handles of the replica that goes.
    replica: BTreeSet<String>,
    /// From when to when it may be missing; until further notice, if there is no end yet.
    away: Vec<(Instant, Option<Instant>)>,
}

impl Scene {
    async fn start() -> Self {
        let mesh = Mesh::start(&mut |_| {}).await.unwrap();
        let mut signals = BTreeSet::new();
        for (zone, caller) in ZONES.iter().zip(CALLERS) {
            let path = format!("/meshes/default/dataplanes/{caller}/_config");
            let told: InspectDataplane = mesh.zone_api(zone).unwrap().get(&path).await.unwrap();
            signals.extend(told.signals.into_iter().map(|signal| signal.name));
        }
        let mut watchers = Vec::new();
        for zone in ZONES {
            watchers.push(Watcher::proxy(&mesh, zone, &signals).await);
            watchers.push(Watcher::ingress(&mesh, zone).await);
        }
        let mut scene = Self { mesh, watchers, replica: BTreeSet::new(), away: Vec::new() };
        scene.until_known(&ZONES, 1, LIMIT).await;
        let known = scene.handles();
        scene.mesh.add_replica().await.unwrap();
        scene.until_known(&ZONES, 2, LIMIT).await;
        scene.replica = scene.handles().difference(&known).cloned().collect();
        scene
    }

    async fn replica_goes(&mut self) -> Stopped {
        self.away.push((Instant::now(), None));
        self.mesh.stop_replica(REPLICA).await.unwrap()
    }

    /// In time, and no other: everybody in these zones heard it.
    async fn replica_is_gone(&self, zones: &[&str]) {
        self.until_known(zones, 1, GOES).await;
    }

    async fn replica_comes_back(&mut self, stopped: Stopped) {
        self.mesh.resume_sidecar(stopped).await.unwrap();
        self.until_known(&ZONES, 2, LIMIT).await;
        self.away.last_mut().unwrap().1 = Some(Instant::now());
        time::sleep(AFTER).await;
    }

    /// Until all watchers of these zones heard of so many replicas, and of all else.
    async fn until_known(&self, zones: &[&str], replicas: usize, limit: Duration) {
        for watcher in self.watchers.iter().filter(|watcher| zones.contains(&watcher.zone)) {
            let mut heard = watcher.heard.clone();
            let knows =
                |heard: &Heard| heard.last().len() == watcher.signals && has_endpoints(heard, replicas);
            let is_in_time = time::timeout(limit, heard.wait_for(knows)).await.is_ok();
            if !is_in_time {
                self.judge();
                let heard = watcher.heard.borrow();
                let last = heard.last().into_iter().map(|(signal, word)| (signal, &word.endpoints));
                let last: BTreeMap<_, _> = last.collect();
                panic!("for {replicas} replicas, {} knows {last:#?}", watcher.name);
            }
        }
    }

    /// Of all endpoints that anybody was told of last.
    fn handles(&self) -> BTreeSet<String> {
        let mut handles = BTreeSet::new();
        for watcher in &self.watchers {
            let heard = watcher.heard.borrow();
            handles.extend(heard.last().values().flat_map(|word| word.endpoints.keys().cloned()));
        }
        handles
    }

    /// Nobody was told that an endpoint is missing that was there before, but for the replica.
    fn judge(&self) {
        for watcher in &self.watchers {
            let flaps = flaps(&watcher.heard.borrow().words, |word, handle| {
                let may_go = word.signal != SignalName::Handles.to_string() && self.replica.contains(handle);
                let is_away = |(from, to): &(Instant, Option<Instant>)| {
                    *from <= word.at && to.is_none_or(|to| word.at <= to)
                };
                may_go && self.away.iter().any(is_away)
            });
            assert!(flaps.is_empty(), "{} was told that {flaps:#?}", watcher.name);
        }
    }

    /// In the zone all was told in so many sessions, if not more.
    async fn end(self, sessions: usize) {
        self.judge();
        for watcher in self.watchers {
            let had = watcher.heard.borrow().sessions;
            assert!(watcher.zone != ZONE || had >= sessions, "{} had {had} sessions", watcher.name);
            watcher.end().await;
        }
        self.mesh.shutdown().await.unwrap();
    }
}

/// Whether every service has an endpoint that is ready, and no more of them, but for the one that has so many replicas in a
/// zone; joined with those of the other zone it has one more.
fn has_endpoints(heard: &Heard, replicas: usize) -> bool {
    let last = heard.last();
    let is_right = |word: &&Word| {
        let SignalName::Endpoints(destination) = word.signal.parse().unwrap() else { return true };
        let is_replicated = destination.service.as_str() == SERVICE;
        let wanted = match (destination.kind, destination.zone) {
            (ServiceKind::MeshMultiZoneService, _) => replicas + 1,
            (_, Some(zone)) if is_replicated && zone.as_str() == ZONE => replicas,
            _ => 1,
        };
        word.ready().len() == wanted
    };
    last.values().all(is_right)
}

/// What was ready in an earlier word and is not in a later one, unless that is as it should be.
fn flaps(words: &[Word], is_right: impl Fn(&Word, &str) -> bool) -> Vec<String> {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut flaps = Vec::new();
    for word in words {
        let (ready, known) = (word.ready(), known.entry(&word.signal).or_default());
        let missing = known.difference(&ready).filter(|handle| !is_right(word, handle));
        flaps.extend(missing.map(|handle| {
            let how = if word.endpoints.contains_key(*handle) { "not ready" } else { "gone" };
            format!("{handle} of {} is {how}", word.signal)
        }));
        known.extend(ready);
    }
    flaps
}
