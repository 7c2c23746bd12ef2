//! Without a permission nothing passes; with one it does; taking it away stops what is open too. The API says
//! `applied` when the last proxy enforces it, and not before.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{self, Instant};

use super::{Patience, eventually};
use crate::mesh::{ALLOW_SHOP, LIMIT, Mesh, PERMISSION};
use crate::traffic::Outcome;

/// From the answer of the API to the last proxy that enforces it.
const PROMISED: Duration = Duration::from_millis(500);
const ROUNDS: usize = 3;

pub(super) async fn keep(mesh: &mut Mesh, patience: Patience) -> anyhow::Result<String> {
    let limit = patience.limit(PROMISED);
    let api = mesh.api()?;
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let mut open = echo(mesh).await.context("before anything changes")?;

        let revision = api.delete(PERMISSION).await?;
        let start = Instant::now();
        api.applied(&revision, limit).await.context("taking the permission away")?;
        slowest = slowest.max(start.elapsed());
        denied(mesh).await.context("after the permission was taken away")?;
        closed(&mut open).await.context("the open connection")?;
        let new = echo(mesh).await;
        ensure!(new.is_err(), "a new TCP connection was let through without a permission");

        let revision = api.put(PERMISSION, ALLOW_SHOP).await?;
        let start = Instant::now();
        api.applied(&revision, limit).await.context("giving the permission back")?;
        slowest = slowest.max(start.elapsed());
        allowed(mesh).await.context("after the permission was given back")?;
        eventually(LIMIT, || async { echo(mesh).await.map(|_| ()) })
            .await
            .context("TCP with the permission")?;
    }
    ensure!(slowest <= limit, "the slowest of {} changes took {slowest:.0?}", 2 * ROUNDS);
    Ok(format!("the slowest of {} changes took {slowest:.0?}", 2 * ROUNDS))
}

/// The first request, and no other, decides.
async fn denied(mesh: &Mesh) -> anyhow::Result<()> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    match call.once(Method::GET, "/denied", Bytes::new()).await? {
        Outcome::Denied { decision: Some(_) } => {}
        other => bail!("expected a denial with a decision id, got {other:?}"),
    }
    let saw = mesh.app("cart", "west").is_some_and(|app| app.saw("/denied"));
    ensure!(!saw, "the application saw a request that was denied");
    Ok(())
}

async fn allowed(mesh: &Mesh) -> anyhow::Result<()> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    match call.once(Method::GET, "/allowed", Bytes::new()).await? {
        Outcome::Answered(_) => Ok(()),
        denied => bail!("expected an answer, got {denied:?}"),
    }
}

/// An opaque connection across the zones that has carried bytes both ways.
async fn echo(mesh: &Mesh) -> anyhow::Result<TcpStream> {
    let exchange = async {
        let mut stream = TcpStream::connect(mesh.cart_events()).await?;
        stream.write_all(b"hello").await?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await?;
        ensure!(&back == b"hello", "{back:?} came back");
        Ok(stream)
    };
    time::timeout(LIMIT, exchange).await.context("no echo")?
}

async fn closed(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut byte = [0];
    let read =
        time::timeout(LIMIT, stream.read(&mut byte)).await.context("stays open without a permission")?;
    match read {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => bail!("still carries bytes"),
    }
}
