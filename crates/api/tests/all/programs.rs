//! What stands before and beside the documents: callers, revisions, tokens, zones.

use std::sync::Arc;
use std::time::Duration;

use api::routes::{self, Inspector, Tokens, Zones};
use api::shapes::{
    Connection, InspectDataplane, InspectPart, ProxyCounts, ProxyState, RevokeAnswer, RevokeRequest,
    TokenAnswer, TokenKind, TokenRequest, ZoneOverview,
};
use api::{AdmitAll, Authority, Caller, Problem};
use axum::Router;
use axum::routing::get;
use futures::future::BoxFuture;
use http::Method;
use model::{MeshName, Origin, ResourceName, World, ZoneName};
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Api, TOKEN};

struct Program;

impl Zones for Program {
    fn overview(&self) -> BoxFuture<'_, Result<Vec<ZoneOverview>, Problem>> {
        Box::pin(async {
            Ok(vec![ZoneOverview {
                name: "east".parse().unwrap(),
                state: Connection::Stale,
                age_ms: Some(7_000),
                proxies: ProxyCounts { current: 2, late: 1, unknown: 0 },
            }])
        })
    }
}

impl Tokens for Program {
    fn kinds(&self) -> &[TokenKind] {
        &[TokenKind::Zone]
    }

    fn issue(
        &self,
        kind: TokenKind,
        request: TokenRequest,
        caller: Caller,
    ) -> BoxFuture<'_, Result<TokenAnswer, Problem>> {
        Box::pin(async move {
            let valid = request.valid_for.map(|span| span.to_string()).unwrap_or_default();
            let zone = request.zone.unwrap();
            Ok(TokenAnswer { token: format!("{} {zone} {valid} {}", kind.as_str(), caller.name) })
        })
    }

    fn revoke(
        &self,
        request: RevokeRequest,
        _caller: Caller,
    ) -> BoxFuture<'_, Result<RevokeAnswer, Problem>> {
        Box::pin(async move {
            let (RevokeRequest::Token(jti) | RevokeRequest::Jti(jti)) = request;
            Ok(RevokeAnswer { jti, disconnected: vec!["zone/east".into()], away: Vec::new() })
        })
    }
}

impl Inspector for Program {
    fn dataplane(
        &self,
        mesh: MeshName,
        name: ResourceName,
        zone: Option<ZoneName>,
    ) -> BoxFuture<'_, Result<InspectDataplane, Problem>> {
        Box::pin(async move {
            let zone = zone.ok_or_else(|| Problem::invalid_request("?zone", "must be given"))?;
            let part = InspectPart {
                name: "listeners".into(),
                part: json!({"outbound": []}),
                acknowledged: true,
                refused: None,
            };
            Ok(InspectDataplane {
                mesh,
                name,
                zone,
                state: ProxyState::Current,
                world: World::default(),
                acknowledged: None,
                parts: vec![part],
                signals: Vec::new(),
            })
        })
    }
}

fn program() -> Api {
    let program = Arc::new(Program);
    let extra = routes::zones(program.clone())
        .merge(routes::tokens(program.clone()))
        .merge(routes::inspect(program))
        .route("/broken", get(|| async { panic!("a bug with a secret") as &'static str }));
    Api::with(Origin::Global, Authority::Here, Arc::new(AdmitAll), extra)
}

#[tokio::test]
async fn nobody_is_let_in_without_the_right_token() {
    let api = program();
    for path in ["/meshes", "/zones/_overview", "/revisions/global-2-1", "/nothing", "/broken"] {
        for authorization in ["", "Bearer wrong", "Basic YTpi", "Bearer", &format!("Bearer {TOKEN}x")] {
            let answer = api.ask(Method::GET, path, &[("authorization", authorization)], "").await.is(401);
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"tombolo\"");
        }
    }
}

#[tokio::test]
async fn s49_a_page_of_another_site_is_refused() {
    let api = program();
    for headers in [
        &[("host", "127.0.0.1:5681"), ("origin", "https://evil.example")][..],
        &[("host", "evil.example"), ("origin", "https://evil.example")][..],
        &[("host", "127.0.0.1:5681"), ("sec-fetch-site", "cross-site")][..],
    ] {
        api.ask(Method::GET, "/meshes", headers, "").await.is(403);
    }
    let own = [("host", "cp.example.org"), ("origin", "https://cp.example.org")];
    let answer = api.ask(Method::GET, "/meshes", &own, "").await.ok();
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let api = program();
    api.get("/nothing").await.is(404);
    api.get("/a/b/c/d/e").await.is(404);
    api.get("/meshes/%ff").await.is(404);
    let answer = api.ask(Method::POST, "/meshes/default", &[], "{}").await.is(405);
    assert_eq!(answer.headers["allow"], "GET, PUT, DELETE");
    api.put("/meshes", "{}").await.is(405);
    api.delete("/zones/_overview").await.is(405);
    api.get("/tokens/zone").await.is(405);
}

#[tokio::test]
async fn s54_a_route_that_panics_costs_its_own_request_alone() {
    let api = program();
    let broken = api.get("/broken").await.is(500);
    assert!(!broken.body.to_string().contains("secret"), "{}", broken.body);
    api.get("/meshes").await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_ended() {
    let forever = get(std::future::pending::<&'static str>);
    let extra = Router::new().route("/forever", forever);
    let api = Api::with(Origin::Global, Authority::Here, Arc::new(AdmitAll), extra);
    let start = Instant::now();
    api.get("/forever").await.is(503);
    assert_eq!(start.elapsed(), Duration::from_secs(90));
}

#[tokio::test]
async fn a_body_of_any_route_is_bounded() {
    let api = program();
    let body = format!("{{\"zone\": \"{}\"}}", "x".repeat(api::gate::MOST_BODY));
    api.ask(Method::POST, "/tokens/zone", &[], &body).await.is(413);
}

#[tokio::test]
async fn a_revision_is_asked_for_and_waited_for() {
    let api = program();
    let pending = api.get("/revisions/global-2-7").await.ok();
    assert_eq!(
        pending.body,
        json!({
            "revision": "global-2-7",
            "state": "pending",
            "zones": [{"name": "east", "state": "pending", "current": 3, "late": 1, "unknown": 0}],
            "late": []
        })
    );
    assert_eq!(api.get("/revisions/global-2-7?wait=5s").await.ok().body["state"], "applied");
    api.get("/revisions/global-2-101").await.is(404);
    api.get("/revisions/east-2-1").await.is(404);
    api.get("/revisions/global-1-7").await.is(410);
    for bad in ["/revisions/7", "/revisions/global-2-7?wait=61s", "/revisions/global-2-7?wait=5"] {
        api.get(bad).await.is(400);
    }
}

#[tokio::test]
async fn tokens_are_issued_for_what_is_issued_here() {
    let api = program();
    let post = |path: &'static str, body: &'static str| api.ask(Method::POST, path, &[], body);
    let answer = post("/tokens/zone", r#"{"zone": "east", "valid_for": "24h"}"#).await.ok();
    assert_eq!(answer.body["token"], "zone east 24h admin");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert!(
        post("/tokens/dataplane", r#"{"workload": "web"}"#).await.is(403).detail().contains("the zone's")
    );
    post("/tokens/root", "{}").await.is(404);
    let mistakes = post("/tokens/zone", r#"{"mesh": "default", "uses": 0}"#).await.is(400);
    assert_eq!(mistakes.body["invalid_parameters"].as_array().unwrap().len(), 3, "{}", mistakes.body);
    let unknown = post("/tokens/zone", "{\"zone\": \"east\",\n \"use\": 1}").await.is(400);
    assert_eq!(unknown.body["invalid_parameters"][0]["line"], 2);
    post("/tokens/zone", "zone").await.is(400);
    let zero = post("/tokens/zone?x=1", r#"{"zone": "east"}"#).await.is(400);
    assert!(zero.detail().contains("no parameters"), "{}", zero.detail());
}

#[tokio::test]
async fn a_token_is_revoked_by_itself_or_by_its_name() {
    let api = program();
    let post = |body: &'static str| api.ask(Method::POST, "/tokens/revoke", &[], body);
    for body in [r#"{"jti": "t1"}"#, r#"{"token": "t1"}"#] {
        let answer = post(body).await.ok().body;
        assert_eq!(answer, json!({"jti": "t1", "disconnected": ["zone/east"], "away": []}), "{body}");
    }
    for body in ["", "{}", r#"{"zone": "east"}"#, r#"{"jti": "t1", "token": "t1"}"#] {
        post(body).await.is(400);
    }
    api.ask(Method::POST, "/tokens/revoke", &[("authorization", "")], "{}").await.is(401);
}

#[tokio::test]
async fn zones_and_proxies_are_looked_at() {
    let api = program();
    let zones = api.get("/zones/_overview").await.ok().body;
    assert_eq!(
        zones,
        json!({
            "items": [{
                "name": "east", "state": "stale", "age_ms": 7000,
                "proxies": {"current": 2, "late": 1, "unknown": 0}
            }],
            "next": null
        })
    );
    let proxy = api.get("/meshes/default/dataplanes/web-1/_config?zone=east").await.ok().body;
    assert_eq!((&proxy["zone"], &proxy["parts"][0]["name"]), (&json!("east"), &json!("listeners")));
    api.get("/meshes/default/dataplanes/web-1/_config").await.is(400);
    api.get("/meshes/default/dataplanes/W/_config?zone=east").await.is(400);
}

#[test]
fn a_token_shows_nowhere_by_accident() {
    assert_eq!(format!("{:?}", TokenAnswer { token: "secret".into() }), "a token");
}
