//! Between the zones nothing is seen but TLS records, and an endpoint that shows another identity is not
//! spoken to.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Method;

use super::{eventually, nobody_answers};
use crate::client::Outcome;
use crate::mesh::{LIMIT, Mesh};

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let seen = nothing_but_tls(mesh).await?;
    let path = "/for-the-cart-alone";
    another_identity_is_not_spoken_to(mesh, path).await?;
    Ok(seen)
}

async fn nothing_but_tls(mesh: &Mesh) -> anyhow::Result<String> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    let marker: [u8; 32] = rand::random();
    let before = mesh.relay("west").bytes();
    let Outcome::Answered(answer) =
        call.once(Method::POST, "/marked", Bytes::copy_from_slice(&marker)).await?
    else {
        bail!("the request was denied");
    };
    ensure!(answer.received == marker.len(), "the application got {} bytes of the marker", answer.received);
    let relay = mesh.relay("west");
    ensure!(relay.bytes() > before, "the request did not pass the relay");
    ensure!(!relay.saw(&marker), "the marker passed in the clear");
    let records = relay.tls_records().context("between the zones")?;
    Ok(format!("{records} TLS records and nothing else in {} KiB", relay.bytes() >> 10))
}

/// The relay leads to the catalog instead: a true member of the mesh, but not the one that was asked for.
async fn another_identity_is_not_spoken_to(mesh: &Mesh, path: &str) -> anyhow::Result<()> {
    let catalog = mesh.inbound("catalog", "west").context("no catalog in west")?;
    let relay = mesh.relay("west");
    relay.lead_to(catalog);
    let refused = refused(mesh, path).await;
    relay.lead_to(mesh.ingress("west"));
    refused?;
    for app in ["catalog", "cart"] {
        let saw = mesh.app(app, "west").is_some_and(|app| app.saw(path));
        ensure!(!saw, "{app} was spoken to in place of the cart");
    }
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    eventually(LIMIT, || async {
        call.once(Method::GET, "/back", Bytes::new()).await.map(|_| ()).context("after the right one is back")
    })
    .await
}

/// A few requests, so that pooled connections are gone for certain.
async fn refused(mesh: &Mesh, path: &str) -> anyhow::Result<()> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    for _ in 0..3 {
        nobody_answers(call, path).await?;
    }
    Ok(())
}
