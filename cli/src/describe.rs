//! `tombolo describe`: all that is known of one document: what it says, whose it is, and who runs it.

use std::process::ExitCode;
use std::time::Duration;

use api::shapes::{
    Connection, InspectDataplane, LateState, Page, ProxyCounts, Refusal, RevisionState, ZoneOverview,
    ZoneProgress, ZoneState,
};
use api::status::MeshStatus;
use model::kinds::Kind;
use model::labels::LabelKey;
use serde::Serialize;
use serde_json::Value;

use crate::client::Client;
use crate::columns::{self, text};
use crate::failure::Failure;
use crate::inspect;
use crate::kind::{self, DocumentArgs};
use crate::output::{Ordered, Out, Tone, ago, yaml};
use crate::status;
use crate::wait;

pub(crate) async fn run(args: DocumentArgs, client: Client, out: &mut Out<'_>) -> Result<ExitCode, Failure> {
    let (kind, path) = args.find()?;
    let document: Value = client.get(&path).await?;
    let known = Known::gather(kind, &document, &client).await?;
    let described = Described { document: Ordered(&document), known: &known };
    out.show_named(&[kind::reference(kind.name, &args.name)], &described, || {
        explain(kind, &document, &known)
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Described<'a> {
    document: Ordered<'a>,
    #[serde(flatten)]
    known: &'a Known,
}

/// What is known beside the document.
#[derive(Default, Serialize)]
struct Known {
    /// Who runs its revision; absent where that is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<RevisionState>,
    /// Of a Dataplane.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<InspectDataplane>,
    /// Of a Zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<ZoneOverview>,
    /// Of a MeshService: whether somebody would answer now.
    #[serde(rename = "answers", skip_serializing_if = "Option::is_none")]
    is_answered: Option<bool>,
}

impl Known {
    async fn gather(kind: &Kind, document: &Value, client: &Client) -> Result<Self, Failure> {
        let (status, name) = (&document["status"], columns::name(document));
        let (mesh, owner) = (text(&status["labels"]["tombolo.io/mesh"]), text(&status["origin"]));
        let revision = format!("/revisions/{}?wait=0s", text(&status["revision"]));
        let mut known = Self { revision: unless_absent(client.get(&revision).await)?, ..Self::default() };
        match kind.name {
            "Dataplane" => {
                let path = format!("/meshes/{mesh}/dataplanes/{name}/_config?zone={owner}");
                known.proxy = unless_absent(client.get(&path).await)?;
            }
            "Zone" => {
                let zones: Option<Page<ZoneOverview>> = unless_absent(client.get("/zones/_overview").await)?;
                let mut zones = zones.into_iter().flat_map(|zones| zones.items);
                known.zone = zones.find(|zone| zone.name.as_str() == name);
            }
            "MeshService" => {
                let status: Option<MeshStatus> = unless_absent(client.get("/status").await)?;
                let mut zones = status.into_iter().flat_map(|status| status.zones);
                let zone = zones.find(|zone| zone.overview.name.as_str() == owner);
                known.is_answered = zone.and_then(|zone| {
                    let service = format!("{mesh}/{name}");
                    Some(!zone.report?.services_without_endpoints.contains(&service))
                });
            }
            _ => {}
        }
        Ok(known)
    }
}

/// What one control plane knows another may not: that is no reason to show nothing.
fn unless_absent<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Failure::Refused(problem)) if problem.status < 500 && problem.status != 401 => Ok(None),
        Err(Failure::Refused(problem)) if problem.status == 503 => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn explain(kind: &Kind, document: &Value, known: &Known) -> String {
    let status = &document["status"];
    let mut lines = vec![("Kind", kind.name.to_owned())];
    if kind.is_mesh_scoped() {
        lines.push(("Mesh", text(&status["labels"]["tombolo.io/mesh"])));
    }
    lines.push(("Name", columns::name(document)));
    lines.push(("Owner", owner(status)));
    if let Some(namespace) = status["namespace"].as_str() {
        lines.push(("Namespace", namespace.to_owned()));
    }
    lines.push(("Revision", text(&status["revision"])));
    if let Some(problem) = status["problem"].as_str() {
        lines.push(("Problem", problem.to_owned()));
    }
    lines.extend(several("Labels", &columns::labels(document)));
    lines.extend(several("Computed", &computed(status)));
    for (index, refusal) in refusals(document).iter().enumerate() {
        let revision = refusal.revision.as_ref().map(|revision| format!("{revision} ")).unwrap_or_default();
        let line = format!("{revision}by {}", status::refused_by(refusal));
        lines.push((if index == 0 { "Refused" } else { "" }, Tone::Bad.paint(&line)));
    }
    if let Some(zone) = &known.zone {
        let proxies = zone.proxies;
        let counts =
            format!("{} current, {} late, {} unknown", proxies.current, proxies.late, proxies.unknown);
        lines.push(("State", format!("{}, heard {}", connection(zone.state), age(zone.age_ms))));
        lines.push(("Proxies", counts));
    }
    if let Some(is_answered) = known.is_answered {
        let words =
            if is_answered { "somebody would answer" } else { &Tone::Bad.paint("nobody would answer") };
        lines.push(("Endpoints", words.to_owned()));
    }
    if let Some(revision) = &known.revision {
        lines.extend(runs(revision));
    }
    let mut page: String = lines.iter().map(|(what, value)| format!("{what:<10} {value}\n")).collect();
    page.push_str(&spec(document));
    if let Some(proxy) = &known.proxy {
        page.push('\n');
        page.push_str(&inspect::explain(proxy));
    }
    page
}

/// What is said of the document, by those who do not take it.
fn refusals(document: &Value) -> Vec<Refusal> {
    serde_json::from_value(document["status"]["refusals"].clone()).unwrap_or_default()
}

fn owner(status: &Value) -> String {
    let owner = match status["origin"].as_str() {
        Some("global") => "global".to_owned(),
        Some(zone) => format!("zone {zone}"),
        None => String::new(),
    };
    let heard = &status["heard"];
    match heard["state"].as_str() {
        Some(state) => {
            let frozen = if heard["frozen"] == true { ", as far as the global could say" } else { "" };
            format!("{owner} ({state}, heard {}{frozen})", age(heard["age_ms"].as_u64()))
        }
        None => owner,
    }
}

fn connection(state: Connection) -> String {
    match state {
        Connection::Connected => Tone::Good.paint("connected"),
        Connection::Stale => Tone::Doubtful.paint("stale"),
        Connection::Offline => Tone::Bad.paint("offline"),
    }
}

fn age(millis: Option<u64>) -> String {
    millis.map_or_else(|| "never".into(), |age| ago(Duration::from_millis(age)))
}

/// What follows from where the document stands, but for what is shown already.
fn computed(status: &Value) -> String {
    let shown = ["tombolo.io/display-name", "tombolo.io/mesh", "tombolo.io/origin"];
    let labels = status["labels"].as_object().into_iter().flatten();
    let labels = labels.filter(|(key, _)| !shown.contains(&key.as_str()) && key.parse::<LabelKey>().is_ok());
    labels.map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(",")
}

/// One line for each of a list with commas.
fn several(what: &'static str, list: &str) -> Vec<(&'static str, String)> {
    let items = list.split(',').filter(|item| !item.is_empty());
    items.enumerate().map(|(index, item)| (if index == 0 { what } else { "" }, item.to_owned())).collect()
}

/// Who runs it, and by name who does not.
fn runs(state: &RevisionState) -> Vec<(&'static str, String)> {
    // What a zone said before it fell silent says nothing of now.
    let (away, here): (Vec<&ZoneProgress>, Vec<&ZoneProgress>) =
        state.zones.iter().partition(|zone| matches!(zone.state, ZoneState::Offline | ZoneState::Diverged));
    let sum = |count: fn(&ProxyCounts) -> u64| -> u64 { here.iter().map(|zone| count(&zone.proxies)).sum() };
    let counts =
        [sum(|proxies| proxies.current), sum(|proxies| proxies.late), sum(|proxies| proxies.unknown)];
    let [current, late, unknown] = counts;
    let mut lines = vec![("Runs", format!("{current} current, {late} late, {unknown} unknown"))];
    for zone in away {
        let line = format!("nobody knows what the proxies of zone {} run", zone.name);
        lines.push(("", Tone::Bad.paint(&line)));
    }
    for late in &state.late {
        let tone = if late.state == LateState::Late { Tone::Doubtful } else { Tone::Bad };
        let (state, reason) = (wait::late_state(late.state), wait::late_reason(late.reason));
        let detail = if late.detail.is_empty() { String::new() } else { format!(": {}", late.detail) };
        let line = format!("{} of zone {}: {state} ({reason}{detail})", late.proxy, late.zone);
        lines.push(("", tone.paint(&line.replace(char::is_control, "\u{fffd}"))));
    }
    lines
}

/// What the document says, without what was told above.
fn spec(document: &Value) -> String {
    const HEAD: [&str; 8] = ["type", "apiVersion", "kind", "mesh", "name", "metadata", "labels", "status"];
    let Value::Object(fields) = document else { return String::new() };
    let rest: serde_json::Map<String, Value> = fields
        .iter()
        .filter(|(key, _)| !HEAD.contains(&key.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let (title, content) = match rest.get("spec") {
        Some(spec) if rest.len() == 1 => ("Spec", spec.clone()),
        _ => ("Spec", Value::Object(rest)),
    };
    match yaml(&content) {
        _ if content.as_object().is_some_and(serde_json::Map::is_empty) => String::new(),
        Ok(text) => {
            let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
            format!("{title}\n{lines}")
        }
        Err(_) => String::new(),
    }
}
