//! What the mesh promises, each with the check that proves it against a running mesh.
//!
//! A new promise is a file with its check and a line in [`ALL`].

mod access;
mod bad_input;
mod behind_the_api;
mod crashes;
mod drain;
mod forgery;
mod global_away;
mod identity;
mod killed;
mod liar;
mod missing;
mod put_back;
mod takeover;
mod wire;
mod zone_away;
mod zone_restart;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Method;
use tokio::time::{self, Instant};

use crate::client::Outcome;
use crate::load::{Callers, Exchange, Load};
use crate::members::Speaks;
use crate::mesh::{LIMIT, Mesh};
use crate::traffic::{Call, Pair};

pub struct Promise {
    pub number: u32,
    pub says: &'static str,
    /// Proves it, and says with which figure; or says what was broken. It leaves the mesh as it found it.
    pub keep: for<'a> fn(&'a mut Mesh, &'a Terms) -> BoxFuture<'a, anyhow::Result<String>>,
}

pub const ALL: &[Promise] = &[
    Promise {
        number: 1,
        says: "a request crosses zones, and the application sees who called",
        keep: |mesh, _| Box::pin(identity::keep(mesh)),
    },
    Promise {
        number: 2,
        says: "between zones there is TLS and nothing else, and a wrong identity is not spoken to",
        keep: |mesh, _| Box::pin(wire::keep(mesh)),
    },
    Promise {
        number: 3,
        says: "permissions decide within 500 ms, on open connections too, and `applied` is true",
        keep: |mesh, terms| Box::pin(access::keep(mesh, terms)),
    },
    Promise {
        number: 4,
        says: "one zone's authority cannot speak for another's services",
        keep: |mesh, _| Box::pin(forgery::keep(mesh)),
    },
    Promise {
        number: 5,
        says: "without the global no request fails and a sidecar restarts, and when it is back policy reaches everyone",
        keep: |mesh, _| Box::pin(global_away::keep(mesh)),
    },
    Promise {
        number: 6,
        says: "bad input gets a clear answer, and everything runs on",
        keep: |mesh, _| Box::pin(bad_input::keep(mesh)),
    },
    Promise {
        number: 7,
        says: "when the near application or its sidecar goes, the other zone takes over and gives back",
        keep: |mesh, terms| Box::pin(takeover::keep(mesh, terms)),
    },
    Promise {
        number: 8,
        says: "a proxy that is killed and restarted without its zone serves again within 1 s",
        keep: |mesh, terms| Box::pin(killed::keep(mesh, terms)),
    },
    Promise {
        number: 9,
        says: "a sidecar drains under load, of its own zone and of another, and not one exchange fails",
        keep: |mesh, terms| Box::pin(drain::keep(mesh, terms)),
    },
    Promise {
        number: 10,
        says: "a zone that restarts without the global goes on across zones, and loses no endpoint",
        keep: |mesh, _| Box::pin(zone_restart::keep(mesh)),
    },
    Promise {
        number: 11,
        says: "an older copy of the global's store, or an empty one, changes nothing before somebody accepts it",
        keep: |mesh, _| Box::pin(put_back::keep(mesh)),
    },
    Promise {
        number: 12,
        says: "without its zone's control plane every proxy goes on, and no request through one is lost",
        keep: |mesh, _| Box::pin(zone_away::keep(mesh)),
    },
    Promise {
        number: 13,
        says: "no acknowledged write is lost, whichever process is killed, and whenever",
        keep: |mesh, terms| Box::pin(crashes::keep(mesh, terms)),
    },
    Promise {
        number: 14,
        says: "a bad document in the store of the global delays nothing else, opens nothing, and is told",
        keep: |mesh, terms| Box::pin(behind_the_api::keep(mesh, terms)),
    },
    Promise {
        number: 15,
        says: "a zone that publishes what is not its own is refused and told, and what is its own flows",
        keep: |mesh, _| Box::pin(liar::keep(mesh)),
    },
    Promise {
        number: 16,
        says: "`wait` names a proxy that stands still, as late and then as unknown, until it goes on",
        keep: |mesh, terms| Box::pin(missing::keep(mesh, terms)),
    },
];

/// How promises are checked.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How many times slower than promised is still taken: tests run side by side, a check runs alone.
    pub patience: u32,
    /// A program that is each part of a mesh when it is called so: control planes, ingress, sidecar.
    pub program: PathBuf,
}

impl Terms {
    pub(crate) fn limit(&self, promised: Duration) -> Duration {
        promised * self.patience
    }
}

/// A permission that concerns nobody, for who wants something to travel.
const NOBODYS: &str = "/meshes/default/meshtrafficpermissions/later";
const NOBODYS_DOCUMENT: &str = "\
type: MeshTrafficPermission
mesh: default
name: later
spec:
  rules:
  - default:
      allow:
      - source: {workload: nobody}
";

/// Begins to ask in every way that a proxy carries: within a zone, across zones, and for a service of both zones.
fn of_every_way(mesh: &Mesh, name: &str) -> Load {
    let callers = Speaks::ALL.into_iter().flat_map(|speaks| {
        let replicas = mesh.callers_of_replicas(speaks).map(|(_, through)| through);
        let all = replicas.into_iter().chain([mesh.joined(speaks)]);
        all.map(move |through| Callers { speaks, through, count: 1 })
    });
    Load::start(name, callers)
}

/// Ends a load of which nothing may have failed, and counts its exchanges.
async fn all_answered(load: Load) -> anyhow::Result<usize> {
    let exchanges = load.finish().await;
    let (Some(first), Some(last)) = (exchanges.first(), exchanges.last()) else { bail!("nothing was asked") };
    for Exchange { name, begun, outcome, .. } in &exchanges {
        if let Err(why) = outcome {
            let (since, all) = (begun.saturating_duration_since(first.begun), last.ended - first.begun);
            bail!("{name}, begun {since:.1?} after the first of {all:.1?}, failed: {why}");
        }
    }
    Ok(exchanges.len())
}

/// Asks until the answer is as wanted; an error says what the last one was.
async fn eventually<F>(limit: Duration, mut ask: impl FnMut() -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            // What is awaited here is not told by any event that this side could wait for.
            Err(_) => time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One request of its own for every pair that fits, each over a new connection; all must be answered.
async fn every_pair_answers(mesh: &Mesh, path: &str, fits: impl Fn(&Pair) -> bool) -> anyhow::Result<()> {
    for call in mesh.traffic().calls().iter().filter(|call| fits(&call.pair)) {
        match call.once(Method::GET, path, Bytes::new()).await.with_context(|| call.pair.to_string())? {
            Outcome::Answered(_) => {}
            denied => bail!("{}: expected an answer, got {denied:?}", call.pair),
        }
    }
    Ok(())
}

/// How often each pair of the shop was answered and failed up to some moment.
struct UpTo(Vec<(u64, u64)>);

impl UpTo {
    fn now(mesh: &Mesh) -> Self {
        let tallies = mesh.traffic().calls().iter().map(|call| call.tally());
        Self(tallies.map(|tally| (tally.answered, tally.failed)).collect())
    }

    /// Fails if a pair that fits failed since, or was not answered once; counts the answers of all.
    fn unfailed_since(&self, mesh: &Mesh, fits: impl Fn(&Pair) -> bool) -> anyhow::Result<u64> {
        let mut all = 0;
        for (call, (answered, failed)) in mesh.traffic().calls().iter().zip(&self.0) {
            let (pair, tally) = (call.pair, call.tally());
            if fits(&pair) {
                let why = tally.last_failure.unwrap_or_default();
                ensure!(tally.failed == *failed, "{pair}: {} requests failed: {why}", tally.failed - failed);
                ensure!(tally.answered > *answered, "{pair}: nothing was asked meanwhile");
            }
            all += tally.answered - answered;
        }
        Ok(all)
    }
}

/// How often a request may meet a connection that is just being cut.
const CUT: usize = 10;

/// Asks while the way leads to somebody else: nobody must be spoken to. A request that was on a connection as it
/// was cut ends with 502, since the right application may have seen it, and says nothing yet.
async fn nobody_answers(call: &Call, path: &str) -> anyhow::Result<()> {
    for _ in 0..CUT {
        let asked = time::timeout(LIMIT, call.once(Method::GET, path, Bytes::new())).await;
        match asked.context("the request hung")? {
            Err(error) if error.to_string().starts_with("503") => return Ok(()),
            Err(error) if error.to_string().starts_with("502") => {}
            other => bail!("expected 503, got {other:?}"),
        }
    }
    bail!("after {CUT} requests there is still a connection to cut")
}
