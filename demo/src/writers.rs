//! Who writes documents through an API all the time, and remembers what was said to each write: so that of each document
//! can be said what it may be by now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::{Page, Written};
use http::Method;
use model::Version;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::api_client::ApiClient;

/// How many documents a writer writes, one after the other and again.
const DOCUMENTS: u64 = 5;
/// One write of so many is a deletion; prime to [`DOCUMENTS`], so that each document has its turn.
const DELETION: u64 = 7;
/// A write that is not answered by then may have happened, or not.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// After a write that was not answered.
const PAUSE: Duration = Duration::from_millis(10);

const PERMISSIONS: &str = "/meshes/default/meshtrafficpermissions";

/// Writes permissions that concern nobody, until it is stopped or dropped.
pub struct Writer {
    acknowledged: watch::Receiver<u64>,
    stop: CancellationToken,
    writing: JoinHandle<anyhow::Result<History>>,
}

/// What one writer wrote, and up to where that was acknowledged.
#[derive(Default)]
pub struct History {
    /// Of each document by name what it may be now. The last that was acknowledged, and whatever was tried after.
    documents: BTreeMap<String, Vec<Option<u64>>>,
    /// Of the last write that was.
    pub last: Option<Version>,
    pub acknowledged: u64,
    pub unanswered: u64,
}

impl Writer {
    /// Names of different writers do not begin alike.
    pub fn start(name: &'static str, api: ApiClient) -> Self {
        let (told, acknowledged) = watch::channel(0);
        let stop = CancellationToken::new();
        let writing = tokio::spawn(write_on(name, api, told, stop.clone()));
        Self { acknowledged, stop, writing }
    }

    /// Waits until so many more writes were acknowledged.
    pub async fn acknowledged(&self, more: u64, limit: Duration) -> anyhow::Result<()> {
        let mut acknowledged = self.acknowledged.clone();
        let upto = *acknowledged.borrow() + more;
        let waited = time::timeout(limit, acknowledged.wait_for(|count| *count >= upto)).await;
        // Why a writer ended is told at its end.
        waited.with_context(|| format!("{more} writes are not acknowledged within {limit:?}"))??;
        Ok(())
    }

    pub async fn finish(mut self) -> anyhow::Result<History> {
        self.stop.cancel();
        (&mut self.writing).await?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl History {
    /// Whether a control plane has each document as it may be, wholly, and no other of this writer's.
    pub async fn stands(&self, name: &str, api: &ApiClient) -> anyhow::Result<BTreeMap<String, Value>> {
        let page: Page<Value> = api.get(&format!("{PERMISSIONS}?size=1000")).await?;
        let is_its = |document: &Value| document["name"].as_str().is_some_and(|text| text.starts_with(name));
        let mut found = BTreeMap::new();
        for mut document in page.items.into_iter().filter(is_its) {
            document.as_object_mut().and_then(|fields| fields.remove("status"));
            let key = document["name"].as_str().unwrap_or_default().to_owned();
            ensure!(found.insert(key.clone(), document).is_none(), "{key} is there twice");
        }
        let names: BTreeSet<&String> = found.keys().chain(self.documents.keys()).collect();
        for name in names {
            let is = found.get(name);
            let may_be = self.documents.get(name).map(Vec::as_slice).unwrap_or_default();
            let fits = may_be.iter().any(|number| number.map(|number| document(name, number)).as_ref() == is);
            ensure!(fits, "{name} is {is:?}, and may only be one of {may_be:?}");
        }
        Ok(found)
    }

    fn tried(&mut self, name: &str, number: Option<u64>) {
        self.documents.entry(name.to_owned()).or_insert_with(|| vec![None]).push(number);
        self.unanswered += 1;
    }

    fn written(&mut self, name: &str, number: Option<u64>, version: Version) -> anyhow::Result<()> {
        if let Some(last) = self.last.replace(version.clone()) {
            ensure!(last < version, "{version} was acknowledged after {last}");
        }
        self.documents.insert(name.to_owned(), vec![number]);
        self.acknowledged += 1;
        Ok(())
    }

    /// Whether it was acknowledged that a document is there, and nothing was tried since.
    fn is_there(&self, name: &str) -> bool {
        matches!(self.documents.get(name).map(Vec::as_slice), Some([Some(_)]))
    }
}

/// Its number stands in two places: half of one and half of another would be noticed.
fn document(name: &str, number: u64) -> Value {
    json!({
        "type": "MeshTrafficPermission", "mesh": "default", "name": name,
        "labels": {"number": number.to_string()},
        "spec": {"rules": [{"default": {"allow": [{"source": {"workload": format!("nobody-{number}")}}]}}]},
    })
}

async fn write_on(
    name: &'static str,
    api: ApiClient,
    told: watch::Sender<u64>,
    stop: CancellationToken,
) -> anyhow::Result<History> {
    let mut history = History::default();
    for number in 1_u64.. {
        if stop.is_cancelled() {
            break;
        }
        let name = format!("{name}-{}", number % DOCUMENTS);
        let path = format!("{PERMISSIONS}/{name}");
        let (wanted, request) = if number % DELETION == 0 {
            (None, api.request(Method::DELETE, &path))
        } else {
            (Some(number), api.request(Method::PUT, &path).json(&document(&name, number)))
        };
        let answered = async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        match time::timeout(ANSWER_LIMIT, answered).await {
            Ok(Ok((StatusCode::OK | StatusCode::CREATED, body))) => {
                let Written { revision, .. } = serde_json::from_slice(&body)?;
                let Some(version) = revision else { bail!("{path} was written without a revision") };
                history.written(&name, wanted, version)?;
                told.send_replace(history.acknowledged);
                continue;
            }
            Ok(Ok((StatusCode::NOT_FOUND, _))) if wanted.is_none() && !history.is_there(&name) => {}
            Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, _))) | Ok(Err(_)) | Err(_) => {}
            Ok(Ok((status, body))) => {
                bail!(
                    "{path}, which may be one of {:?}: {status} {}",
                    history.documents.get(&name),
                    text(&body)
                )
            }
        }
        history.tried(&name, wanted);
        let _ = time::timeout(PAUSE, stop.cancelled()).await;
    }
    Ok(history)
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}
