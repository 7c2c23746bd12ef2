//! Documents that got into the global's store behind its API, while it was stopped: one that is no document, one of an
//! unknown kind, permissions that ask for what nobody knows. They delay no other, open nothing, and are told.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::Page;
use api::status::MeshStatus;
use bytes::Bytes;
use http::Method;
use model::{DocumentKey, Origin};
use serde_json::Value;
use store::{Draft, EmbeddedStore, Expect};
use tokio::time::Instant;

use super::{NOBODYS, NOBODYS_DOCUMENT, Terms, eventually, every_pair_answers};
use crate::api_client::ApiClient;
use crate::client::Outcome;
use crate::members::{ALLOW_SHOP, PERMISSION};
use crate::mesh::{LIMIT, Mesh, ZONES};
use crate::traffic::Pair;

/// From the answer of the API to the last proxy that enforces it, as without them.
const PROMISED: Duration = Duration::from_millis(500);

/// The permission under which the shop runs: what it last said stays in force.
const GARBLED: (&str, &str) = ("MeshTrafficPermission/default/global//shop", "{\"spec\": ");
const UNKNOWN: (&str, &str) =
    ("MeshFromTheFuture/default/global//x", r#"{"type": "MeshFromTheFuture", "warp": 9}"#);
/// Allows whoever it is, if something holds that nobody here can tell.
const OPENING: (&str, &str) = (
    "MeshTrafficPermission/default/global//opening",
    r#"{"type": "MeshTrafficPermission", "mesh": "default", "name": "opening",
        "spec": {"rules": [{"default": {"allow": [{"source": {}, "weather": "sunny"}]}}]}}"#,
);
/// Denies the cart to those of whom something holds that nobody here can tell: to everyone, then.
const CLOSING: (&str, &str) = (
    "MeshTrafficPermission/default/global//closing",
    r#"{"type": "MeshTrafficPermission", "mesh": "default", "name": "closing",
        "spec": {"targetRef": {"kind": "Dataplane", "labels": {"tombolo.io/workload": "cart"}},
                 "rules": [{"default": {"deny": [{"spiffeID": {"type": "Regex", "value": ".*"}}]}}]}}"#,
);
/// Nobody ever knew what it forbids: in its mesh nothing is proven, and in others everything is.
const NEVER: (&str, &str) = ("MeshTrafficPermission/bank/global//never", "{\"spec\": ");
const ALL: [(&str, &str); 5] = [GARBLED, UNKNOWN, OPENING, CLOSING, NEVER];
const PERMISSIONS: &str = "/meshes/default/meshtrafficpermissions";

pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    behind_its_back(mesh, &ALL.map(|(key, bytes)| (key, Some(bytes)))).await?;
    let kept = checked(mesh, terms).await;
    let api = mesh.api()?;
    api.put(PERMISSION, ALLOW_SHOP).await?;
    for name in ["opening", "closing"] {
        // Where something is broken it may not be there.
        let _ = api.delete(&format!("{PERMISSIONS}/{name}")).await;
    }
    // Nobody can ask the API for these.
    behind_its_back(mesh, &[(UNKNOWN.0, None), (NEVER.0, None)]).await?;
    let took = kept?;
    let api = mesh.api()?;
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await.context("when they are gone")?;
    eventually(LIMIT, || nothing_told(&api)).await.context("when they are gone")?;
    every_pair_answers(mesh, "/gone", |_| true).await.context("when they are gone")?;
    Ok(format!("the next change took {took:.0?}; all {} are told", ALL.len()))
}

/// Writes or deletes as no API would, while nobody else has the store.
async fn behind_its_back(mesh: &mut Mesh, documents: &[(&str, Option<&str>)]) -> anyhow::Result<()> {
    mesh.stop_global().await?;
    let store = EmbeddedStore::open(&mesh.global_dir(), Origin::Global)?;
    for (key, bytes) in documents {
        let key: DocumentKey = key.parse()?;
        match bytes {
            Some(bytes) => store.put(Draft::new(key, bytes.to_string()), Expect::Any).await?,
            None => store.delete(key, Expect::Any).await?,
        };
    }
    drop(store);
    mesh.resume_global().await
}

async fn checked(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<Duration> {
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    api.applied(&revision, LIMIT).await.context("the first document after them")?;
    eventually(LIMIT, || told(&api)).await?;
    closed_is(mesh, cart).await.context("beside them")?;

    let (limit, start) = (terms.limit(PROMISED), Instant::now());
    let revision = api.put(NOBODYS, &NOBODYS_DOCUMENT.replace("nobody", "no-one")).await?;
    api.applied(&revision, limit).await.context("the next document")?;
    let took = start.elapsed();

    for zone in ZONES {
        mesh.stop_zone(zone).await?;
        mesh.resume_zone(zone).await?;
    }
    api.applied(&revision, LIMIT).await.context("after the zones restarted")?;
    closed_is(mesh, cart).await.context("after the zones restarted")?;
    let revision = api.delete(PERMISSION).await?;
    api.applied(&revision, LIMIT).await.context("without the permission of the shop")?;
    closed_is(mesh, |_| true).await.context("without the permission of the shop")?;
    let revision = api.put(PERMISSION, ALLOW_SHOP).await?;
    api.applied(&revision, LIMIT).await.context("with it again")?;
    closed_is(mesh, cart).await.context("with the permission of the shop again")?;
    Ok(took)
}

fn cart(pair: &Pair) -> bool {
    pair.called == "cart"
}

/// Over new connections: whether those pairs are denied, and all others answered.
async fn closed_is(mesh: &Mesh, closed: fn(&Pair) -> bool) -> anyhow::Result<()> {
    for call in mesh.traffic().calls().iter().filter(|call| closed(&call.pair)) {
        match call.once(Method::GET, "/closed", Bytes::new()).await.with_context(|| call.pair.to_string())? {
            Outcome::Denied { .. } => {}
            answered => bail!("{} is not denied: {answered:?}", call.pair),
        }
    }
    every_pair_answers(mesh, "/open", |pair| !closed(pair)).await
}

async fn nothing_told(api: &ApiClient) -> anyhow::Result<()> {
    let MeshStatus { control_plane, zones } = api.get("/status").await?;
    let told: Vec<_> =
        control_plane.unread.into_iter().chain(zones.into_iter().flat_map(|zone| zone.refused)).collect();
    ensure!(told.is_empty(), "still told is {told:?}");
    Ok(())
}

/// Whether an author hears of each, who looks at the mesh, or at the documents.
async fn told(api: &ApiClient) -> anyhow::Result<()> {
    let status: MeshStatus = api.get("/status").await?;
    for (key, _) in ALL {
        let is_told = status.control_plane.unread.iter().any(|unread| unread.document == key);
        ensure!(is_told, "of {key} nothing is told: {:?}", status.control_plane.unread);
    }
    for zone in status.zones {
        let refused: Vec<&str> = zone.refused.iter().map(|refused| refused.document.as_str()).collect();
        ensure!(refused == [NEVER.0, GARBLED.0], "{} refuses {refused:?}", zone.overview.name);
    }
    let shown: Page<Value> = api.get(PERMISSIONS).await?;
    let with_problem = shown.items.iter().filter(|item| item["status"]["problem"].is_string()).count();
    ensure!(with_problem == 3, "{with_problem} of {:?} are shown with a problem", shown.items);
    Ok(())
}
