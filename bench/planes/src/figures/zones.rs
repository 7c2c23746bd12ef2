//! A policy is written on the global, and told by each of thirty zones to who watches its API.

use std::time::Duration;

use anyhow::{Context, bail};
use demo::api_client::ApiClient;
use futures::future::try_join_all;
use http::Method;
use model::Version;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};

use super::{Terms, half_and_most, tell_times};
use crate::mesh::{LIMIT, Mesh};
use crate::parties;
use crate::report::Row;
use crate::usage;

const TIMES: usize = 20;
const ZONES: usize = 30;
/// In seconds: half of the times, and all of them.
const MUST: [f64; 2] = [0.1, 0.3];
/// Between the one and the next.
const REST: Duration = Duration::from_millis(300);

const POLICY: &str = "/meshes/default/meshtrafficpermissions/travelling";

pub(super) async fn measure(terms: &Terms) -> anyhow::Result<Vec<Row>> {
    let mut mesh = Mesh::start(&terms.programs).await?;
    let count = terms.times(ZONES);
    mesh.add_zones((0..count).map(|number| format!("zone-{number}"))).await?;
    let (heard, mut hearing) = mpsc::channel(1024);
    let watching = mesh.zones.values().map(|zone| watch(zone.api.clone(), heard.clone()));
    let watching = try_join_all(watching);
    let measuring = async {
        // So that every watch has begun, and every zone has joined.
        let mut times = Vec::new();
        for time in 0..=terms.times(TIMES) {
            time::sleep(REST).await;
            let begun = Instant::now();
            let revision = mesh
                .api
                .put(POLICY, &parties::permission("travelling", &[&format!("nobody-{time}")]))
                .await?;
            let all = everyone(&mut hearing, &revision, count);
            let last = time::timeout(LIMIT, all)
                .await
                .with_context(|| format!("{revision} is not everywhere"))??;
            // The first one waits for watches to begin.
            if time > 0 {
                times.push(last - begun);
            }
        }
        anyhow::Ok(times)
    };
    let times = tokio::select! {
        times = measuring => times?,
        ended = watching => bail!("a watch ended: {:?}", ended.err()),
    };
    tell_times("a policy", &times);
    let what = format!("policy on the global -> stored in all of {count} zones");
    let mut rows = half_and_most(&what, &times, MUST)?.to_vec();
    let memory = |what: &str, pid| anyhow::Ok(Row::new(what, usage::pss(pid)? as f64 / 1e6, "MB"));
    rows.push(memory("the global with all of these: memory (PSS)", mesh.global.pid())?);
    let zone = mesh.zones.values().next().context("there are zones")?;
    rows.push(memory("one of these: memory (PSS)", zone.control_plane.pid())?);
    Ok(rows)
}

/// When the last of so many zones had told it.
async fn everyone(
    hearing: &mut mpsc::Receiver<(Version, Instant)>,
    revision: &Version,
    count: usize,
) -> anyhow::Result<Instant> {
    let mut left = count;
    loop {
        let (version, at) = hearing.recv().await.context("nobody watches")?;
        left -= usize::from(version == *revision);
        if left == 0 {
            return Ok(at);
        }
    }
}

/// Tells of every version of the policy that a zone tells of.
async fn watch(zone: ApiClient, heard: mpsc::Sender<(Version, Instant)>) -> anyhow::Result<()> {
    let request = zone.request(Method::GET, &format!("{POLICY}?watch=true"));
    let mut response = request.timeout(Duration::from_secs(3600)).send().await?.error_for_status()?;
    let mut text = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let at = Instant::now();
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let event: serde_json::Value = serde_json::from_slice(&line)?;
            if let Some(revision) = event["document"]["status"]["revision"].as_str() {
                heard.send((revision.parse()?, at)).await?;
            }
        }
    }
    bail!("it ended")
}
