//! `wait` says who is missing and why: a proxy that stands still is late, and when nobody hears of it any more it is
//! unknown; when it goes on it is missed no longer, and runs what was written meanwhile.

use std::time::Duration;

use anyhow::{Context, ensure};
use api::shapes::{LateProxy, LateReason, LateState, Progress};
use model::Version;
use tokio::time::Instant;

use super::{NOBODYS, NOBODYS_DOCUMENT, Terms, eventually, every_pair_answers};
use crate::api_client::ApiClient;
use crate::mesh::{LIMIT, Mesh, Stopped};
use crate::process::Process;

/// Whose sidecar stands still.
const SERVICE: &str = "cart";
const ZONE: &str = "west";
const PROXY: &str = "default/cart-1";

/// Until it is unknown: it is heard every second, and counts as it did for 5 s without a word.
const SILENCE: Duration = Duration::from_secs(8);

/// How long an answer may wait for the last of them.
const WAIT: Duration = Duration::from_millis(500);

/// The sidecar of the mesh gives way to a process meanwhile.
pub(super) async fn keep(mesh: &mut Mesh, terms: &Terms) -> anyhow::Result<String> {
    let stopped = mesh.stop_sidecar(SERVICE, ZONE).await?;
    let outcome = in_a_process(mesh, &stopped, terms).await;
    mesh.resume_sidecar(stopped).await?;
    let outcome = outcome?;
    eventually(LIMIT, || every_pair_answers(mesh, "/after", |_| true)).await.context("afterwards")?;
    Ok(outcome)
}

async fn in_a_process(mesh: &Mesh, stopped: &Stopped, terms: &Terms) -> anyhow::Result<String> {
    let log = mesh.dir().join("sidecar.log");
    let mut process = Process::start(&terms.program, &mesh.sidecar_options(stopped), log)?;
    eventually(LIMIT, || every_pair_answers(mesh, "/by-a-process", |pair| pair.concerns(SERVICE, ZONE)))
        .await
        .with_context(|| format!("in a process, which says: {}", process.last_words()))?;

    process.stand_still()?;
    let start = Instant::now();
    let api = mesh.api()?;
    let revision = api.put(NOBODYS, NOBODYS_DOCUMENT).await?;
    let is = |state, reason| {
        let (api, revision) = (&api, &revision);
        eventually(LIMIT, move || alone_is(api, revision, state, reason))
    };
    is(LateState::Late, LateReason::Slow).await.context("while it stands still")?;
    is(LateState::Unknown, LateReason::Disconnected).await.context("when nobody hears of it")?;
    let unknown = start.elapsed();
    let limit = terms.limit(SILENCE);
    ensure!(unknown <= limit, "it was unknown only after {unknown:.1?}, more than {limit:?}");

    process.go_on()?;
    let start = Instant::now();
    api.applied(&revision, LIMIT).await.context("as it goes on")?;
    let applied = start.elapsed();
    let revision = api.delete(NOBODYS).await?;
    api.applied(&revision, LIMIT).await?;
    process.kill().await?;
    Ok(format!("{PROXY} was late, unknown after {unknown:.1?}, and current {applied:.1?} after it went on"))
}

/// Whether it is the only proxy that is missing, and so.
async fn alone_is(
    api: &ApiClient,
    revision: &Version,
    state: LateState,
    reason: LateReason,
) -> anyhow::Result<()> {
    let told = api.revision(revision, WAIT).await?;
    ensure!(told.state == Progress::Pending, "{revision} is {:?}: {:?}", told.state, told.zones);
    let is_it = |late: &LateProxy| {
        let who = (late.zone.as_str(), late.proxy.as_str());
        who == (ZONE, PROXY) && (late.state, late.reason) == (state, reason)
    };
    ensure!(matches!(&told.late[..], [one] if is_it(one)), "missing are {:?}", told.late);
    Ok(())
}
