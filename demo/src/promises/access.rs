//! Without a permission nothing passes; with one it does; taking it away stops what is open too. The API says
//! `applied` when the last proxy enforces it, and not before: what comes right after that is decided by it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::{Terms, every_pair_answers};
use crate::client::Outcome;
use crate::members::{ALLOW_SHOP, PERMISSION};
use crate::mesh::{Mesh, ZONES};

/// From the answer of the API to the last proxy that enforces it.
const PROMISED: Duration = Duration::from_millis(500);
/// What is open is closed before `applied` is said; this is for the news of it to get here.
const CLOSING: Duration = Duration::from_millis(100);
/// For a few bytes to go and come back, or to be turned away.
const EXCHANGE: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    let limit = terms.limit(PROMISED);
    let api = mesh.api()?;
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let mut open = exchanged(mesh, terms).await.context("before anything changes")?;

        let revision = api.delete(PERMISSION).await?;
        let start = Instant::now();
        api.applied(&revision, limit).await.context("taking the permission away")?;
        slowest = slowest.max(start.elapsed());
        closed(&mut open, terms.limit(CLOSING)).await.context("an open connection")?;
        denied(mesh).await.context("after the permission was taken away")?;
        turned_away(mesh, terms).await.context("after the permission was taken away")?;

        let revision = api.put(PERMISSION, ALLOW_SHOP).await?;
        let start = Instant::now();
        api.applied(&revision, limit).await.context("giving the permission back")?;
        slowest = slowest.max(start.elapsed());
        exchanged(mesh, terms).await.context("after the permission was given back")?;
        every_pair_answers(mesh, "/allowed", |_| true)
            .await
            .context("after the permission was given back")?;
    }
    ensure!(slowest <= limit, "the slowest of {} changes took {slowest:.0?}", 2 * ROUNDS);
    Ok(format!("the slowest of {} changes took {slowest:.0?}", 2 * ROUNDS))
}

/// The first request of each pair, and no other, decides.
async fn denied(mesh: &Mesh) -> anyhow::Result<()> {
    for call in mesh.traffic().calls() {
        let pair = call.pair;
        match call.once(Method::GET, "/denied", Bytes::new()).await.with_context(|| pair.to_string())? {
            Outcome::Denied { decision: Some(_) } => {}
            other => bail!("{pair}: expected a denial with a decision id, got {other:?}"),
        }
        let saw = ZONES.iter().any(|zone| mesh.app(pair.called, zone).is_some_and(|app| app.saw("/denied")));
        ensure!(!saw, "{pair}: the application saw a request that was denied");
    }
    Ok(())
}

/// An opaque connection of each pair that has carried bytes both ways, each at the first try.
async fn exchanged(mesh: &Mesh, terms: &Terms) -> anyhow::Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for (pair, address) in mesh.streams() {
        let exchange = time::timeout(terms.limit(EXCHANGE), exchange(address)).await;
        open.push(exchange.context("no echo")?.with_context(|| format!("TCP from {pair}"))?);
    }
    Ok(open)
}

async fn turned_away(mesh: &Mesh, terms: &Terms) -> anyhow::Result<()> {
    for (pair, address) in mesh.streams() {
        let exchange = time::timeout(terms.limit(EXCHANGE), exchange(address)).await;
        let exchange = exchange.with_context(|| format!("a new TCP connection from {pair} stays open"))?;
        ensure!(exchange.is_err(), "a new TCP connection from {pair} was let through");
    }
    Ok(())
}

async fn exchange(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"hello").await?;
    let mut back = [0; 5];
    stream.read_exact(&mut back).await?;
    ensure!(&back == b"hello", "{back:?} came back");
    Ok(stream)
}

async fn closed(open: &mut [TcpStream], limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    for stream in open {
        let read = time::timeout_at(deadline, stream.read(&mut [0])).await;
        match read.with_context(|| format!("stays open for {limit:?} without a permission"))? {
            Ok(0) | Err(_) => {}
            Ok(_) => bail!("still carries bytes"),
        }
    }
    Ok(())
}
