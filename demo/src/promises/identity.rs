//! A request from east to a service that lives only in west arrives, and the application sees who called.

use anyhow::{bail, ensure};
use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use crate::client::Outcome;
use crate::mesh::Mesh;

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    let start = Instant::now();
    let Outcome::Answered(answer) = call.once(Method::GET, "/who-calls", Bytes::new()).await? else {
        bail!("the request was denied");
    };
    let took = start.elapsed();
    ensure!((answer.service.as_str(), answer.zone.as_str()) == ("cart", "west"), "{answer:?} answered");
    let want = call.pair.client_id();
    ensure!(answer.client.as_ref() == Some(&want), "the application saw {:?}, not {want}", answer.client);
    Ok(format!("{took:.1?}, seen as {want}"))
}
