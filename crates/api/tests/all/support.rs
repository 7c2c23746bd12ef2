//! An API over a memory store, and a way to ask it.

use std::sync::Arc;
use std::time::Duration;

use api::shapes::{Progress, ProxyCounts, RevisionState, ZoneProgress, ZoneState};
use api::{AdminToken, Admission, AdmitAll, ApiConfig, Authority, NoSuchRevision, Proof};
use axum::Router;
use axum::body::{Body, to_bytes};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, StatusCode};
use model::{Origin, Record, Version};
use serde_json::Value;
use store::{MemoryStore, Store, Write};
use tower::ServiceExt;

pub(crate) const TOKEN: &str = "an-administrator";

pub(crate) struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) router: Router,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Api {
    /// The global, with a mesh `default`.
    pub(crate) async fn global() -> Self {
        let api = Self::new(Origin::Global, Authority::Here);
        api.put("/meshes/default", "{type: Mesh, name: default}").await.created();
        api
    }

    /// A zone that follows a global, from which it has the mesh `default`.
    pub(crate) async fn zone(name: &str) -> Self {
        let authority = Authority::Global { address: Some("https://global.example:5681".into()) };
        let api = Self::new(Origin::Zone(name.parse().unwrap()), authority);
        api.copy("Mesh//global//default", r#"{"name":"default","type":"Mesh"}"#).await;
        api
    }

    pub(crate) fn new(origin: Origin, authority: Authority) -> Self {
        Self::with(origin, authority, Arc::new(AdmitAll), Router::new())
    }

    pub(crate) fn with(
        origin: Origin,
        authority: Authority,
        admission: Arc<dyn Admission>,
        extra: Router,
    ) -> Self {
        let store = MemoryStore::new(origin);
        let config = config(store.clone(), authority, admission, extra);
        Self { store, router: api::router(config) }
    }

    /// Holds a document of another origin, as sync brings it.
    pub(crate) async fn copy(&self, key: &str, json: &str) {
        let key: model::DocumentKey = key.parse().unwrap();
        // Each copy of an origin is later than the one before.
        let revision = self.store.head().await.unwrap().sequence + 1;
        let record = Record {
            version: Version::new(key.origin.clone(), 1, revision),
            key,
            secret: false,
            requires: Vec::new(),
            bundle: None,
            bytes: json.to_owned().into(),
        };
        self.store.apply(vec![Write::Copy(record)]).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Answer {
        self.ask(Method::PUT, path, &[], body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path, &[], "").await
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.send(method, path, headers, Body::from(body.to_owned())).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            request = request.header("authorization", format!("Bearer {TOKEN}"));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        if status >= 400 {
            assert_eq!(self.headers["content-type"], "application/problem+json");
            assert_eq!(self.body["status"], status, "{}", self.body);
        }
        self
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.is(200)
    }

    #[track_caller]
    pub(crate) fn created(self) -> Self {
        self.is(201)
    }

    pub(crate) fn revision(&self) -> &str {
        self.body["revision"].as_str().unwrap()
    }

    pub(crate) fn detail(&self) -> &str {
        self.body["detail"].as_str().unwrap()
    }
}

pub(crate) fn config(
    store: Arc<dyn Store>,
    authority: Authority,
    admission: Arc<dyn Admission>,
    extra: Router,
) -> ApiConfig {
    ApiConfig {
        store,
        authority,
        proof: Arc::new(FarProof),
        auth: Arc::new(AdminToken::new(TOKEN)),
        admission,
        ages: Arc::new(|_: &Origin| None),
        reports: Arc::new(()),
        hosts: ["cp.example.org".to_owned()].into(),
        extra,
    }
}

/// Knows revisions up to 100 of epoch 2 of the global, which are applied when one waits for them.
pub(crate) struct FarProof;

impl Proof for FarProof {
    fn revision(
        &self,
        version: Version,
        wait: Duration,
    ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
        Box::pin(async move {
            if version.origin != Origin::Global || version.point.revision > 100 {
                return Err(NoSuchRevision::NotHere);
            }
            if version.point.epoch != 2 {
                return Err(NoSuchRevision::Gone);
            }
            let (state, zone) = match wait.is_zero() {
                true => (Progress::Pending, ZoneState::Pending),
                false => (Progress::Applied, ZoneState::Applied),
            };
            let proxies = ProxyCounts { current: 3, late: u64::from(wait.is_zero()), unknown: 0 };
            let zones = vec![ZoneProgress { name: "east".parse().unwrap(), state: zone, proxies }];
            Ok(RevisionState { revision: version, state, zones, late: Vec::new(), refusals: Vec::new() })
        })
    }
}
