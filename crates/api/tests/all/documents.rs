//! Documents: written, read, refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::{Admission, Authority, Change, Problem};
use axum::Router;
use axum::body::Body;
use futures::future::BoxFuture;
use http::Method;
use model::Origin;
use serde_json::{Value, json};
use store::{Draft, Expect, Store};
use tokio::time::Instant;

use crate::support::Api;

const PERMISSION: &str = "/meshes/default/meshtrafficpermissions/web";

const ALLOW: &str = "
type: MeshTrafficPermission
mesh: default
name: web
labels: {team: shop}
spec:
  rules:
  - default:
      allow:
      - spiffeID: {type: Prefix, value: 'spiffe://default.east.mesh.local/workload/web'}
";

fn dataplane(name: &str) -> String {
    format!(
        "{{type: Dataplane, mesh: default, name: {name}, networking: {{address: 10.0.0.1, \
         inbound: [{{port: 8080}}]}}}}"
    )
}

#[tokio::test]
async fn what_is_written_is_read_back_and_gone_when_deleted() {
    let api = Api::global().await;
    let made = api.put(PERMISSION, ALLOW).await.created();
    assert_eq!(made.body["warnings"], json!([]));
    assert_eq!(made.headers["etag"], format!("\"{}\"", made.revision()));

    let read = api.get(PERMISSION).await.ok();
    assert_eq!(read.headers["etag"], made.headers["etag"]);
    let fields: Vec<_> = read.body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["labels", "mesh", "name", "spec", "status", "type"]);
    assert_eq!(
        read.body["status"],
        json!({
            "revision": made.revision(),
            "origin": "global",
            "labels": {
                "tombolo.io/display-name": "web", "tombolo.io/mesh": "default", "tombolo.io/origin": "global"
            }
        })
    );
    assert_eq!(read.body["labels"], json!({"team": "shop"}), "labels are as written");

    let changed = api.put(PERMISSION, &ALLOW.replace("allow:", "deny:")).await.ok();
    assert_ne!(changed.revision(), made.revision());
    let deleted = api.delete(PERMISSION).await.ok();
    assert_ne!(deleted.revision(), changed.revision());
    api.get(PERMISSION).await.is(404);
    api.delete(PERMISSION).await.is(404);
}

#[tokio::test]
async fn what_was_read_can_be_sent_back_and_changes_nothing() {
    let api = Api::global().await;
    let made = api.put(PERMISSION, ALLOW).await.created();
    let read = api.get(PERMISSION).await.ok();
    let again = api.put(PERMISSION, &read.body.to_string()).await.ok();
    assert_eq!(again.revision(), made.revision());
    assert_eq!(api.put(PERMISSION, ALLOW).await.ok().revision(), made.revision());
}

#[tokio::test]
async fn five_mistakes_are_told_at_once_each_with_its_line() {
    let api = Api::global().await;
    let body = "\
type: MeshTrafficPermission
mesh: default
name: wrong
labels: {'bad key!': x}
spec:
  targetRef: {kind: Everything}
  rules:
  - default:
      allow:
      - spiffeID: {type: Almost, value: 'spiffe://x/y'}
      permit: []
";
    let answer = api.put(PERMISSION, body).await.is(400);
    let golden = include_str!("five_mistakes.json");
    assert_eq!(serde_json::to_string_pretty(&answer.body).unwrap() + "\n", golden);
}

#[tokio::test]
async fn s12_what_is_no_document_is_refused_with_its_place() {
    let api = Api::global().await;
    for (body, line) in [("a: [1, 2", 1), ("type: Mesh\n  name: x", 2), ("", 1), ("a: 1\n---\nb: 2", 3)] {
        let answer = api.put(PERMISSION, body).await.is(400);
        assert_eq!(answer.body["invalid_parameters"][0]["line"], line, "{body:?}: {}", answer.body);
    }
    api.put(PERMISSION, "just text").await.is(400);
    let deep = "[".repeat(100_000);
    api.put(PERMISSION, &deep).await.is(400);
    let large = format!("{{type: Mesh, name: web, labels: {{a: {}}}}}", "x".repeat(api::gate::MOST_BODY));
    api.put(PERMISSION, &large).await.is(413);
    let announced = [("content-length", "2000000")];
    api.ask(Method::PUT, PERMISSION, &announced, "").await.is(413);
}

#[tokio::test]
async fn a_name_that_a_kind_cannot_have_is_a_mistake_like_any_other() {
    let api = Api::global().await;
    let body = "{type: MeshService, mesh: default, name: No.Label, spec: {surprise: 1}}";
    let answer = api.put("/meshes/default/meshservices/No.Label?dryRun=true", body).await.is(400);
    let fields: Vec<_> = answer.body["invalid_parameters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["field"].clone())
        .collect();
    assert!(fields.contains(&json!("name")) && fields.len() > 1, "{}", answer.body);
    api.get("/meshes/default/meshservices/No.Label").await.is(400);
    api.delete("/meshes/default/meshservices/No.Label").await.is(400);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_on() {
    let api = Api::global().await;
    let start = Instant::now();
    let never = Body::from_stream(futures::stream::pending::<Result<&'static str, std::io::Error>>());
    api.send(Method::PUT, PERMISSION, &[], never).await.is(408);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[tokio::test]
async fn a_dry_run_validates_and_asks_no_owner() {
    let api = Api::global().await;
    let path = "/meshes/default/dataplanes/web-1?dryRun=true";
    let answer = api.put(path, &dataplane("web-1")).await.created();
    assert_eq!(answer.body, json!({"warnings": []}));
    api.put(path, "{type: Dataplane, mesh: default, name: web-1}").await.is(400);
    api.get("/meshes/default/dataplanes/web-1").await.is(404);

    let nowhere = ALLOW.replace("default\n", "nowhere\n");
    let absent = api.put("/meshes/nowhere/meshtrafficpermissions/web?dryRun", &nowhere).await.created();
    assert!(absent.body["warnings"][0].as_str().unwrap().contains("'nowhere' does not exist"));

    let made = api.put(PERMISSION, ALLOW).await.created();
    let same = api.put(&format!("{PERMISSION}?dryRun=true"), ALLOW).await.ok();
    assert_eq!(same.headers["etag"], made.headers["etag"], "the tag of what stands");
    api.delete(&format!("{PERMISSION}?dryRun=true")).await.ok();
    api.get(PERMISSION).await.ok();
}

#[tokio::test]
async fn preconditions_are_kept() {
    let api = Api::global().await;
    let none = [("if-none-match", "*")];
    let made = api.ask(Method::PUT, PERMISSION, &none, ALLOW).await.created();
    api.ask(Method::PUT, PERMISSION, &none, ALLOW).await.is(412);
    let tag = made.headers["etag"].to_str().unwrap().to_owned();
    let changed =
        api.ask(Method::PUT, PERMISSION, &[("if-match", &tag)], &ALLOW.replace("shop", "web")).await.ok();
    let refused = api.ask(Method::PUT, PERMISSION, &[("if-match", &tag)], ALLOW).await.is(412);
    assert!(refused.detail().contains(changed.revision()), "{}", refused.detail());
    api.ask(Method::DELETE, PERMISSION, &[("if-match", &tag)], "").await.is(412);
    let tag = changed.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(api.ask(Method::GET, PERMISSION, &[("if-none-match", &tag)], "").await.status, 304);
    api.ask(Method::GET, PERMISSION, &[("if-match", "\"global-1-999\"")], "").await.is(412);
    api.ask(Method::DELETE, PERMISSION, &[("if-match", &tag)], "").await.ok();
}

/// Lets somebody else write first: once, or every time.
struct Intruder {
    store: std::sync::OnceLock<Arc<dyn Store>>,
    tireless: bool,
    done: AtomicBool,
}

impl Admission for Intruder {
    fn admit<'a>(&'a self, change: Change<'a>) -> BoxFuture<'a, Result<Vec<String>, Problem>> {
        Box::pin(async move {
            let Change::Put { draft, held, .. } = change else { return Ok(Vec::new()) };
            if draft.key.kind.as_str() != "Mesh" && (self.tireless || !self.done.swap(true, Ordering::SeqCst))
            {
                let store = self.store.get().unwrap();
                let bytes = format!(r#"{{"n":"{}"}}"#, held.map_or(0, |held| held.version.point.revision));
                store.put(Draft::new(draft.key.clone(), bytes), Expect::Any).await.unwrap();
            }
            Ok(vec!["admitted".into()])
        })
    }
}

#[tokio::test]
async fn a_write_in_between_is_seen_and_the_change_decided_anew() {
    for (tireless, headers, status) in
        [(false, &[][..], 200), (true, &[][..], 409), (false, &[("if-none-match", "*")][..], 412)]
    {
        let intruder =
            Arc::new(Intruder { store: Default::default(), tireless, done: AtomicBool::new(false) });
        let api = Api::with(Origin::Global, Authority::Here, intruder.clone(), Router::new());
        assert!(intruder.store.set(api.store.clone()).is_ok());
        api.put("/meshes/default", "{type: Mesh, name: default}").await.created();
        let answer = api.ask(Method::PUT, PERMISSION, headers, ALLOW).await.is(status);
        if status == 200 {
            assert_eq!(answer.body["warnings"], json!(["admitted"]));
        }
    }
}

#[tokio::test]
async fn kinds_are_refused_where_they_are_not_written_and_told_where() {
    let global = Api::global().await;
    let refused = global.put("/meshes/default/dataplanes/web-1", &dataplane("web-1")).await.is(403);
    assert!(refused.detail().contains("control plane of their zone"), "{}", refused.detail());

    let zone = Api::zone("east").await;
    zone.put("/meshes/default/dataplanes/web-1", &dataplane("web-1")).await.created();
    let refused = zone.put("/meshes/other", "{type: Mesh, name: other}").await.is(403);
    assert!(refused.detail().contains("https://global.example:5681"), "{}", refused.detail());
    let alone = Api::new(Origin::Zone("east".parse().unwrap()), Authority::Here);
    alone.put("/meshes/other", "{type: Mesh, name: other}").await.created();
}

#[tokio::test]
async fn a_copy_is_not_written_and_its_owner_is_named() {
    let bytes = r#"{"mesh":"default","name":"web","spec":{},"type":"MeshTrafficPermission"}"#;
    let zone = Api::zone("east").await;
    zone.copy("MeshTrafficPermission/default/global//web", bytes).await;
    for refused in [zone.put(PERMISSION, ALLOW).await, zone.delete(PERMISSION).await] {
        let refused = refused.is(403);
        assert_eq!(refused.body["owner"], "global");
        assert!(refused.detail().contains("https://global.example:5681"), "{}", refused.detail());
    }

    let global = Api::global().await;
    global.copy("MeshTrafficPermission/default/east//web", bytes).await;
    let read = global.get(PERMISSION).await.ok();
    assert_eq!(read.body["status"]["origin"], "east");
    assert_eq!(
        global.put(PERMISSION, &read.body.to_string().replace(r#""spec":{}"#, &rules())).await.is(403).body["owner"],
        "east"
    );
    assert_eq!(global.delete(PERMISSION).await.is(403).body["owner"], "east");
    assert_eq!(global.put(&format!("{PERMISSION}?zone=east"), ALLOW).await.is(403).body["owner"], "east");
    // A document of its own is another document, and comes first from now on.
    global.put(PERMISSION, ALLOW).await.created();
    assert_eq!(global.get(PERMISSION).await.ok().body["status"]["origin"], "global");
    assert_eq!(global.get(&format!("{PERMISSION}?zone=east")).await.ok().body["status"]["origin"], "east");
}

fn rules() -> String {
    r#""spec":{"rules":[{"default":{"allow":[{"spiffeID":{"type":"Exact","value":"spiffe://a/b"}}]}}]}"#
        .into()
}

#[tokio::test]
async fn a_name_of_several_zones_is_ambiguous_and_chosen_by_zone() {
    let api = Api::global().await;
    for zone in ["east", "west"] {
        let bytes =
            format!(r#"{{"mesh":"default","name":"web","spec":{{"n":"{zone}"}},"type":"MeshService"}}"#);
        api.copy(&format!("MeshService/default/{zone}//web"), &bytes).await;
    }
    let path = "/meshes/default/meshservices/web";
    let ambiguous = api.get(path).await.is(409);
    assert_eq!(ambiguous.body["choices"], json!([{"zone": "east"}, {"zone": "west"}]));
    let west = api.get(&format!("{path}?zone=west")).await.ok();
    assert_eq!(west.body["spec"]["n"], "west", "unknown fields are shown as they came");
    api.get(&format!("{path}?zone=north")).await.is(404);
    api.get(&format!("{path}?zone=North")).await.is(400);
}

#[tokio::test]
async fn a_document_needs_its_mesh_and_a_mesh_with_proxies_stays() {
    let api = Api::global().await;
    let path = "/meshes/nowhere/meshtrafficpermissions/web";
    let refused = api.put(path, &ALLOW.replace("default\n", "nowhere\n")).await.is(400);
    assert_eq!(refused.body["invalid_parameters"][0]["field"], "mesh");
    assert!(refused.detail().contains("'nowhere' does not exist"), "{}", refused.detail());

    api.copy("Dataplane/default/east//web-1", "{}").await;
    assert!(api.delete("/meshes/default").await.is(409).detail().contains("has 1 proxies"));
    api.put("/meshes/empty", "{type: Mesh, name: empty}").await.created();
    api.delete("/meshes/empty").await.ok();
}

#[tokio::test]
async fn s57_lists_come_in_pages_and_are_chosen_by_labels() {
    let api = Api::global().await;
    for n in 0..5 {
        let team = if n % 2 == 0 { "even" } else { "odd" };
        let body = ALLOW
            .replace("name: web", &format!("name: p{n}"))
            .replace("team: shop", &format!("kuma.io/team: {team}"));
        api.put(&format!("/meshes/default/meshtrafficpermissions/p{n}"), &body).await.created();
    }
    let names = |body: &Value| -> Vec<String> {
        body["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().into()).collect()
    };
    let mut path = "/meshes/default/meshtrafficpermissions?size=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = api.get(&path).await.ok().body;
        pages.push(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/meshes/default/meshtrafficpermissions?size=2&after={next}");
    }
    assert_eq!(pages, [vec!["p0", "p1"], vec!["p2", "p3"], vec!["p4"]]);

    for (query, want) in [
        ("label=tombolo.io/team=even", vec!["p0", "p2", "p4"]),
        ("label=kuma.io/team=odd&label=tombolo.io/display-name=p3", vec!["p3"]),
        ("filter[labels.tombolo.io/team]=odd", vec!["p1", "p3"]),
        ("filter%5Blabels.kuma.io%2Forigin%5D=global&size=1", vec!["p0"]),
        ("zone=east", vec![]),
    ] {
        let page = api.get(&format!("/meshtrafficpermissions?{query}")).await.ok().body;
        assert_eq!(names(&page), want, "{query}");
    }
    assert_eq!(
        api.get("/meshes/other/meshtrafficpermissions").await.ok().body,
        json!({"items": [], "next": null})
    );
    let too_long = format!("after=MeshTrafficPermission/default/global//{}", "x".repeat(10_000));
    for bad in [
        "size=0",
        "size=1001",
        "size=-1",
        "size=99999999999999999999999",
        "size=2&size=3",
        "after=x",
        "after=MeshTrafficPermission/default/global//../p0",
        &too_long,
        "label=x",
        "filter[name]=x",
        "page=2",
        "label=!=x",
    ] {
        api.get(&format!("/meshtrafficpermissions?{bad}")).await.is(400);
    }
}

#[tokio::test]
async fn s57_a_name_that_leads_elsewhere_names_nothing_and_is_never_written() {
    let api = Api::global().await;
    let before = api.store.head().await.unwrap();
    let too_long = "x".repeat(254);
    for name in [
        "..%2fzones",
        "%2e%2e",
        "a%2fb",
        "a%00b",
        "a%0d%0ab",
        "A",
        "%C3%A4",
        "%E2%80%AE",
        " ",
        "%20",
        &too_long,
    ] {
        let path = format!("/meshes/default/meshtrafficpermissions/{}", name.replace(' ', "+"));
        api.put(&path, ALLOW).await.is(400);
        api.get(&path).await.is(400);
        api.delete(&path).await.is(400);
    }
    for path in ["/meshes/default/../meshtrafficpermissions/web", "/meshes/%2e%2e/meshtrafficpermissions/web"]
    {
        let status = api.put(path, ALLOW).await.status.as_u16();
        assert!(matches!(status, 400 | 404), "{path}: {status}");
    }
    assert_eq!(api.store.head().await.unwrap(), before);
}
