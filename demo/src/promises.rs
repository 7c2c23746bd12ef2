//! What the mesh promises, each with the check that proves it against a running mesh.
//!
//! A new promise is a file with its check and a line in [`ALL`].

mod access;
mod bad_input;
mod forgery;
mod global_away;
mod identity;
mod wire;

use std::time::Duration;

use anyhow::ensure;
use futures::future::BoxFuture;
use tokio::time::{self, Instant};

use crate::mesh::Mesh;

pub struct Promise {
    pub number: u32,
    pub says: &'static str,
    /// Proves it, and says with which figure; or says what was broken. It leaves the mesh as it found it.
    pub keep: for<'a> fn(&'a mut Mesh, Patience) -> BoxFuture<'a, anyhow::Result<String>>,
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
        keep: |mesh, patience| Box::pin(access::keep(mesh, patience)),
    },
    Promise {
        number: 4,
        says: "one zone's authority cannot speak for another's services",
        keep: |mesh, _| Box::pin(forgery::keep(mesh)),
    },
    Promise {
        number: 5,
        says: "without the global no request fails, and when it is back policy reaches everyone",
        keep: |mesh, _| Box::pin(global_away::keep(mesh)),
    },
    Promise {
        number: 6,
        says: "bad input gets a clear answer, and everything runs on",
        keep: |mesh, _| Box::pin(bad_input::keep(mesh)),
    },
];

/// How much slower than promised is still taken: tests run side by side, a check runs alone.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub u32);

impl Patience {
    fn limit(self, promised: Duration) -> Duration {
        promised * self.0
    }
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

/// Runs `watched` while every pair of the shop goes on asking, and fails if one of them failed.
async fn without_a_failure<T>(
    mesh: &mut Mesh,
    watched: impl AsyncFnOnce(&mut Mesh) -> anyhow::Result<T>,
) -> anyhow::Result<(T, u64)> {
    let (answered_before, failed_before) = mesh.traffic().totals();
    let done = watched(mesh).await?;
    let (answered, failed) = mesh.traffic().totals();
    ensure!(
        failed == failed_before,
        "{} requests failed, such as {}",
        failed - failed_before,
        mesh.traffic().last_failure().unwrap_or_default()
    );
    Ok((done, answered - answered_before))
}
