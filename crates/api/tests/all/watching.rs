//! Watching documents: what stands, what changes, where one takes it up again, and when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use api::watch::{KEEP_ALIVE, MOST_WATCHES, STALLED};
use api::{AdmitAll, Authority, Caller};
use axum::Router;
use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use http::Request;
use model::Origin;
use serde_json::{Value, json};
use store::{MemoryStore, Retention};
use tokio::time::{self, Instant};
use tower::ServiceExt;

use crate::support::{Api, TOKEN, config};

const MESHES: &str = "/meshes?watch=true";

/// The lines of one watch.
struct Lines {
    body: BodyDataStream,
    read: Vec<u8>,
}

impl Lines {
    async fn open(router: &Router, path: &str) -> Self {
        let request = Request::get(path).header("authorization", format!("Bearer {TOKEN}"));
        let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
        Self { body: answer.into_body().into_data_stream(), read: Vec::new() }
    }

    /// None at the end. Waits a minute at most.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = time::timeout(Duration::from_secs(60), self.body.next()).await.expect("a line");
            self.read.extend(piece?.unwrap());
        }
    }

    /// `put a`, `gone b`, `bookmark`: an event in a few words.
    async fn told(&mut self) -> String {
        let event = self.next().await.unwrap();
        let word = event["event"].as_str().unwrap();
        match event["document"]["name"].as_str() {
            Some(name) => format!("{word} {name}"),
            None => word.to_owned(),
        }
    }

    async fn resume(&mut self) -> String {
        self.next().await.unwrap()["resume"].as_str().unwrap().to_owned()
    }
}

fn mesh(name: &str) -> (String, String) {
    (format!("/meshes/{name}"), format!("{{type: Mesh, name: {name}}}"))
}

async fn make(api: &Api, name: &str) -> String {
    let (path, body) = mesh(name);
    api.put(&path, &body).await.created().revision().to_owned()
}

fn permission(team: &str) -> String {
    let rule = "{default: {allow: [{spiffeID: {type: Exact, value: 'spiffe://a/b'}}]}}";
    format!(
        "{{type: MeshTrafficPermission, mesh: default, name: web, labels: {{team: {team}}}, spec: {{rules: [{rule}]}}}}"
    )
}

#[tokio::test(start_paused = true)]
async fn what_stands_is_told_and_then_every_change_once() {
    let api = Api::global().await;
    let mut all = Lines::open(&api.router, MESHES).await;
    let mut one = Lines::open(&api.router, "/meshes/b?watch").await;
    assert_eq!([all.told().await, all.told().await], ["put default", "bookmark"]);
    assert_eq!(one.told().await, "bookmark");

    let made = make(&api, "b").await;
    api.put("/meshes/default/meshtrafficpermissions/web", &permission("shop")).await.created();
    make(&api, "c").await;
    let (path, _) = mesh("b");
    let deleted = api.delete(&path).await.ok();
    assert_eq!([all.told().await, all.told().await, all.told().await], ["put b", "put c", "gone b"]);

    let put = one.next().await.unwrap();
    assert_eq!(put["document"]["status"]["revision"], *made);
    assert_eq!(put["resume"], *made, "a transaction ends where one may begin again");
    let gone = one.next().await.unwrap();
    assert_eq!(
        gone["document"],
        json!({"type": "Mesh", "name": "b", "status": {
            "revision": deleted.revision(), "origin": "global",
            "labels": {"tombolo.io/display-name": "b", "tombolo.io/origin": "global"}}})
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_taken_up_where_it_ended_and_after_any_write() {
    let api = Api::global().await;
    let mut first = Lines::open(&api.router, MESHES).await;
    first.told().await;
    let resume = first.resume().await;
    drop(first);
    let b = make(&api, "b").await;
    let (path, _) = mesh("b");
    api.delete(&path).await.ok();
    let c = make(&api, "c").await;

    for (from, want) in [
        (&resume, &["gone b", "put c", "bookmark"][..]),
        (&b, &["gone b", "put c", "bookmark"]),
        (&c, &["bookmark"]),
    ] {
        let mut again = Lines::open(&api.router, &format!("{MESHES}&from={from}")).await;
        for want in want {
            assert_eq!(again.told().await, *want, "from {from}");
        }
    }
    // Nobody can have heard of what was never written: the store was put back, or it is another one.
    let mut ahead = Lines::open(&api.router, &format!("{MESHES}&from=global-1-1000")).await;
    let told = [ahead.told().await, ahead.told().await, ahead.told().await, ahead.told().await];
    assert_eq!(told, ["compacted", "put c", "put default", "bookmark"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_too_far_behind_is_told_so_and_then_everything() {
    let retention = Retention { commits: 4, tombstones: 1, ..Retention::default() };
    let store = MemoryStore::with_retention(Origin::Global, retention, Arc::new(SystemTime::now));
    let router = api::router(config(store.clone(), Authority::Here, Arc::new(AdmitAll), Router::new()));
    let api = Api { store, router };
    make(&api, "a").await;
    let mut slow = Lines::open(&api.router, MESHES).await;
    assert_eq!(slow.told().await, "put a");
    let resume = slow.resume().await;
    // More than the log keeps, and more than a watch holds by itself.
    for round in 0..100 {
        make(&api, &format!("m{round}")).await;
        api.delete(&mesh(&format!("m{round}")).0).await.ok();
    }
    make(&api, "z").await;
    for mut lines in [slow, Lines::open(&api.router, &format!("{MESHES}&from={resume}")).await] {
        let told = [lines.told().await, lines.told().await, lines.told().await, lines.told().await];
        assert_eq!(told, ["compacted", "put a", "put z", "bookmark"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_loses_the_label_is_gone() {
    let api = Api::global().await;
    let path = "/meshes/default/meshtrafficpermissions/web";
    let watched = "/meshtrafficpermissions?watch=true&label=team=shop";
    let mut lines = Lines::open(&api.router, watched).await;
    assert_eq!(lines.told().await, "bookmark");
    api.put(path, &permission("shop")).await.created();
    assert_eq!(lines.told().await, "put web");
    api.put(path, &permission("pay")).await.ok();
    assert_eq!(lines.told().await, "gone web");
}

#[tokio::test(start_paused = true)]
async fn s39_silence_is_broken_by_bookmarks_and_a_token_that_counts_no_more_ends_it_within_five_seconds() {
    let store = MemoryStore::new(Origin::Global);
    let known = Arc::new(AtomicBool::new(true));
    let asked = known.clone();
    let auth = move |_: &str| asked.load(Ordering::Relaxed).then(|| Caller { name: "admin".into() });
    let config = config(store.clone(), Authority::Here, Arc::new(AdmitAll), Router::new());
    let router = api::router(api::ApiConfig { auth: Arc::new(auth), ..config });
    let api = Api { store, router };
    let [mut quiet, mut busy] =
        [Lines::open(&api.router, MESHES).await, Lines::open(&api.router, MESHES).await];
    assert_eq!([quiet.told().await, busy.told().await], ["bookmark", "bookmark"]);

    let start = Instant::now();
    assert_eq!(quiet.told().await, "bookmark");
    assert!(start.elapsed() <= KEEP_ALIVE, "{:?}", start.elapsed());
    assert_eq!(busy.told().await, "bookmark");
    make(&api, "a").await;
    known.store(false, Ordering::Relaxed);
    let ended = Instant::now();
    assert_eq!(busy.next().await, None, "nothing is told to a token that does not count");
    assert_eq!(quiet.next().await, None);
    assert!(ended.elapsed() <= Duration::from_secs(5), "{:?}", ended.elapsed());
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_and_one_that_ends_makes_room() {
    let api = Api::global().await;
    let mut open = Vec::new();
    for _ in 0..MOST_WATCHES {
        open.push(Lines::open(&api.router, MESHES).await);
    }
    let refused = api.get(MESHES).await.is(429);
    assert!(refused.detail().contains("end one"), "{}", refused.detail());
    api.get("/meshes").await.ok();
    open.pop();
    Lines::open(&api.router, MESHES).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_half_a_minute_makes_room_and_who_reads_does_not() {
    let api = Api::global().await;
    let mut reader = Lines::open(&api.router, MESHES).await;
    reader.next().await;
    let mut stalled = Vec::new();
    for _ in 1..MOST_WATCHES {
        stalled.push(Lines::open(&api.router, MESHES).await);
    }
    let reading = tokio::spawn(async move {
        loop {
            reader.next().await;
        }
    });
    time::sleep(STALLED / 2).await;
    api.get(MESHES).await.is(429);
    time::sleep(STALLED / 2).await;
    for _ in 1..MOST_WATCHES {
        stalled.push(Lines::open(&api.router, MESHES).await);
    }
    api.get(MESHES).await.is(429);
    assert!(stalled[0].body.next().await.is_none(), "it is over, and may come back");
    assert!(!reading.is_finished());
    reading.abort();
}

#[tokio::test]
async fn what_means_nothing_to_a_watch_is_refused() {
    let api = Api::global().await;
    for path in [
        "/meshes?watch=maybe",
        "/meshes?watch=false",
        "/meshes?watch=true&size=5",
        "/meshes?watch=true&from=yesterday",
        "/meshes?from=global-1-1",
        "/meshes/default?watch=true&label=a=b",
        "/meshes/No?watch=true",
    ] {
        api.get(path).await.is(400);
    }
}
