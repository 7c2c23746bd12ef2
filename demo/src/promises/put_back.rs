//! The global's store is put back to an older copy, and then it is gone altogether: the zones hold what they have and say
//! so, and go on, until somebody who saw what would be lost accepts the new history.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::{AcceptRequest, Hold, Page, RevisionState, ZoneOverview, ZoneState};
use api::status::{CutOff, MeshStatus, Remedy};
use bytes::Bytes;
use http::Method;
use model::{Origin, Version};
use tokio::time;

use super::{NOBODYS, NOBODYS_DOCUMENT, UpTo, eventually, every_pair_answers};
use crate::api_client::ApiClient;
use crate::client::Outcome;
use crate::members::{ALLOW_SHOP, DENIAL, DENIAL_DOCUMENT, JOIN_CATALOG, JOINED_CATALOG, PERMISSION};
use crate::mesh::{LIMIT, Mesh, ZONES};
use crate::traffic::{Pair, Tally};

/// Long enough for what is held to get through all the same, and for a zone to dial several times.
const UNCHANGED: Duration = Duration::from_secs(2);

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let before = UpTo::now(mesh);
    let (lost, closed) = older_copy(mesh).await.context("with an older copy of its store")?;
    let closed = nothing_left(mesh, closed).await.context("with its data folder gone")?;
    let answered = before.unfailed_since(mesh, |pair| !is_closed(pair))?;
    closed.unfailed_since(mesh, is_closed)?;
    Ok(format!("{lost} documents were held until somebody accepted; {answered} requests went on"))
}

/// How many documents the copy did not have, and how often everybody had failed when the denial was in force: what it
/// closes, it closes also as it is being answered.
async fn older_copy(mesh: &mut Mesh) -> anyhow::Result<(u64, UpTo)> {
    let (data, copy) = (mesh.global_dir(), mesh.dir().join("global-copy"));
    mesh.stop_global().await?;
    copy_files(&data, &copy)?;
    mesh.resume_global().await?;
    let revision = mesh.api()?.put(DENIAL, DENIAL_DOCUMENT).await?;
    mesh.api()?.applied(&revision, LIMIT).await?;
    is_denied(mesh).await.context("before")?;
    next_is_denied(mesh).await?;
    let closed = UpTo::now(mesh);

    mesh.stop_global().await?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&copy, &data)?;
    mesh.resume_global().await?;
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    eventually(LIMIT, || all_diverged(&api, &revision)).await?;
    let mut lost = 0;
    for wait in [Duration::ZERO, UNCHANGED] {
        time::sleep(wait).await;
        for zone in ZONES {
            let api = mesh.zone_api(zone)?;
            let hold = hold(&api).await?;
            ensure!(hold.keys.iter().any(|key| key.ends_with("no-frontend")), "{zone} holds {hold:?}");
            ensure!(is_there(&api, DENIAL).await? && !is_there(&api, NOBODYS).await?, "{zone} changed");
            lost = hold.lost;
        }
        is_denied(mesh).await.context("before it is accepted")?;
    }

    for zone in ZONES {
        let api = mesh.zone_api(zone)?;
        accept(&api, &hold(&api).await?).await?;
    }
    api.applied(&revision, LIMIT).await.context("after it was accepted")?;
    every_pair_answers(mesh, "/accepted", |_| true).await.context("after it was accepted")?;
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await?;
    Ok((lost, closed))
}

/// A new authority over an empty store: nobody believes it anything, before it gave a new token, and then nothing of
/// what it has before that is accepted. `closed` says how often who is to be closed had failed, and so does the answer,
/// from when it is closed again.
async fn nothing_left(mesh: &mut Mesh, closed: UpTo) -> anyhow::Result<UpTo> {
    let mut stood = Vec::new();
    for zone in ZONES {
        stood.push(revision_of(&mesh.zone_api(zone)?, PERMISSION).await?);
    }
    mesh.stop_global().await?;
    std::fs::remove_dir_all(mesh.global_dir())?;
    mesh.resume_global().await?;
    let api = mesh.api()?;
    // What people have of their own, and something that nobody was told before.
    api.put(JOINED_CATALOG, JOIN_CATALOG).await?;
    api.put(PERMISSION, ALLOW_SHOP).await?;
    let revision = api.put(DENIAL, DENIAL_DOCUMENT).await?;
    time::sleep(UNCHANGED).await;
    let joined: Page<ZoneOverview> = api.get("/zones/_overview").await?;
    ensure!(joined.items.is_empty(), "without a new token there are {:?}", joined.items);
    let mesh = &*mesh;
    eventually(LIMIT, || all_refuse(mesh)).await?;
    every_pair_answers(mesh, "/refused", |_| true)
        .await
        .context("over new connections, before it is known")?;

    for zone in ZONES {
        mesh.write_zone_token(zone).await?;
    }
    eventually(LIMIT, || all_diverged(&api, &revision)).await.context("with a new token")?;
    time::sleep(UNCHANGED).await;
    every_pair_answers(mesh, "/held", |_| true).await.context("before it is accepted")?;
    for (zone, stood) in ZONES.iter().zip(&stood) {
        let api = mesh.zone_api(zone)?;
        let stands = revision_of(&api, PERMISSION).await?;
        ensure!(stands == *stood && !is_there(&api, DENIAL).await?, "{zone} changed: {stands} was {stood}");
    }
    closed.unfailed_since(mesh, is_closed)?;
    for zone in ZONES {
        let api = mesh.zone_api(zone)?;
        accept(&api, &hold(&api).await?).await?;
    }
    api.applied(&revision, LIMIT).await.context("after it was accepted")?;
    is_denied(mesh).await.context("after it was accepted")?;
    next_is_denied(mesh).await?;
    let closed = UpTo::now(mesh);
    let revision = api.delete(DENIAL).await?;
    api.applied(&revision, LIMIT).await?;
    every_pair_answers(mesh, "/known", |_| true).await.context("after it was accepted")?;
    next_is(mesh, |tally| tally.answered).await?;
    Ok(closed)
}

/// Whether the zones say that they are alone because they do not believe the new authority.
async fn all_refuse(mesh: &Mesh) -> anyhow::Result<()> {
    for zone in ZONES {
        let status: MeshStatus = mesh.zone_api(zone)?.get("/status").await?;
        let CutOff { reason, remedy } =
            status.control_plane.cut_off.with_context(|| format!("{zone} does not say that it is alone"))?;
        ensure!(reason.contains("its CA changed"), "{zone} is alone, since {reason}");
        ensure!(remedy == Remedy::Token, "{zone} does not say that it needs a token");
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// Nobody but the frontend, at nobody but the cart.
async fn is_denied(mesh: &Mesh) -> anyhow::Result<()> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    match call.once(Method::GET, "/closed", Bytes::new()).await? {
        Outcome::Denied { .. } => {}
        answered => bail!("what was denied is answered: {answered:?}"),
    }
    every_pair_answers(mesh, "/open", |pair| !is_closed(pair)).await
}

/// When it has been told, what was asked before it has ended as well.
async fn next_is_denied(mesh: &Mesh) -> anyhow::Result<()> {
    next_is(mesh, |tally| tally.denied).await
}

/// Waits until what is to be closed has been told so, or answered, once more.
async fn next_is(mesh: &Mesh, told: impl Fn(&Tally) -> u64) -> anyhow::Result<()> {
    let call = mesh.traffic().call("frontend", "cart", "west")?;
    let before = told(&call.tally());
    let again = || async {
        ensure!(told(&call.tally()) > before, "{} is not asked any more", call.pair);
        Ok(())
    };
    eventually(LIMIT, again).await
}

/// Whether the denial is of it.
fn is_closed(pair: &Pair) -> bool {
    (pair.caller, pair.called) == ("frontend", "cart")
}

/// Whether both zones say of a revision that they follow another history, and the mesh says so.
async fn all_diverged(api: &ApiClient, revision: &Version) -> anyhow::Result<()> {
    let told: RevisionState = api.revision(revision, Duration::ZERO).await?;
    let diverged = told.zones.iter().filter(|zone| zone.state == ZoneState::Diverged).count();
    ensure!(diverged == ZONES.len(), "the zones are {:?}", told.zones);
    let status: MeshStatus = api.get("/status").await?;
    ensure!(status.zones.iter().all(|zone| zone.diverged), "the mesh is {:?}", status.zones);
    Ok(())
}

/// What a zone would lose of the global.
async fn hold(api: &ApiClient) -> anyhow::Result<Hold> {
    let holds: Page<Hold> = api.get("/holds").await?;
    let of_global = holds.items.into_iter().find(|hold| hold.origin == Origin::Global);
    of_global.context("it holds nothing of the global")
}

async fn accept(api: &ApiClient, hold: &Hold) -> anyhow::Result<()> {
    let body = AcceptRequest { epoch: hold.offered.point.epoch };
    let response = api.request(Method::POST, "/holds/global").json(&body).send().await?;
    response.error_for_status()?;
    Ok(())
}

/// In which version a zone has a document.
async fn revision_of(api: &ApiClient, path: &str) -> anyhow::Result<String> {
    let document: serde_json::Value = api.get(path).await?;
    Ok(document["status"]["revision"].as_str().context("it has no revision")?.to_owned())
}

async fn is_there(api: &ApiClient, path: &str) -> anyhow::Result<bool> {
    Ok(api.request(Method::GET, path).send().await?.status().is_success())
}
