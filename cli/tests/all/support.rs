//! A control plane's API with a memory store, and a way to run command lines against it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use api::routes::{self, Holds, Inspector, Tokens, Zones};
use api::shapes::*;
use api::status::{MeshStatus, Status, ZoneReport, ZoneStatus};
use api::{AdminToken, AdmitAll, ApiConfig, Authority, Caller, NoSuchRevision, Problem, Proof};
use cli::Environment;
use futures::future::BoxFuture;
use model::{MeshName, Origin, ResourceName, Version, World, ZoneName};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use store::{MemoryStore, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) dir: TempDir,
    tls: Arc<rustls::ServerConfig>,
    store: Arc<dyn Store>,
    served: JoinHandle<()>,
    stop: DropGuard,
}

/// What a command line did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        Self::named(&["127.0.0.1"]).await
    }

    /// One whose certificate carries these names.
    pub(crate) async fn named(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("admin.token"), "an-administrator\n").unwrap();
        let tls = Arc::new(tls(names, &dir.path().join("ca.crt")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = MemoryStore::new(Origin::Global);
        let (served, stop) = serve(listener, tls.clone(), store.clone());
        Self { address, dir, tls, store, served, stop }
    }

    /// Stops, and serves the same store at the same address.
    pub(crate) async fn restart(&mut self) {
        // Dropping the guard stops the server that runs.
        self.stop = CancellationToken::new().drop_guard();
        (&mut self.served).await.unwrap();
        let listener = TcpListener::bind(self.address).await.unwrap();
        (self.served, self.stop) = serve(listener, self.tls.clone(), self.store.clone());
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) async fn run(&self, line: &[&str]) -> Ran {
        let (address, folder) = (format!("https://{}", self.address), self.dir.path());
        run_with(&address, &folder.join("admin.token"), &folder.join("ca.crt"), line).await
    }
}

pub(crate) async fn run_with(address: &str, token: &Path, ca: &Path, line: &[&str]) -> Ran {
    let (token, ca) = (token.to_str().unwrap(), ca.to_str().unwrap());
    let mut words = vec!["tombolo"];
    words.extend(line);
    words.extend(["--address", address, "--token-file", token, "--ca", ca]);
    run(&words).await
}

pub(crate) async fn run(words: &[&str]) -> Ran {
    run_in(&Environment::default(), words).await
}

pub(crate) async fn run_in(environment: &Environment, words: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = cli::run(words, environment, &mut out, &mut err).await;
    let code = (0..=2).find(|known| ExitCode::from(*known) == code).unwrap();
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// Failed with this code; says what happened and what to do.
    #[track_caller]
    pub(crate) fn failed(self, code: u8) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for debug in ["Error {", "Some(", "Os {", "reqwest::"] {
            assert!(!self.err.contains(debug), "not for people: {}", self.err);
        }
        self.err
    }
}

fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    store: Arc<dyn Store>,
) -> (JoinHandle<()>, DropGuard) {
    let program = Arc::new(Program);
    let config = ApiConfig {
        store,
        authority: Authority::Here,
        proof: program.clone(),
        auth: Arc::new(AdminToken::new("an-administrator")),
        admission: Arc::new(AdmitAll),
        ages: Arc::new(|_: &Origin| None),
        reports: Arc::new(()),
        hosts: Default::default(),
        extra: routes::zones(program.clone())
            .merge(routes::tokens(program.clone()))
            .merge(api::status::route(program.clone()))
            .merge(routes::holds(program.clone()))
            .merge(routes::inspect(program)),
    };
    let stop = CancellationToken::new();
    (tokio::spawn(api::serve(listener, tls, config, stop.clone())), stop.drop_guard())
}

/// A server of these names, signed by an authority whose certificate is written to a file.
fn tls(names: &[&str], ca_file: &Path) -> rustls::ServerConfig {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    fs::write(ca_file, ca_certificate.pem()).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tls
}

/// Knows the zone `east` with two proxies. Of the revisions of the global, those above 1000 stay late.
struct Program;

impl Proof for Program {
    fn revision(
        &self,
        version: Version,
        wait: Duration,
    ) -> BoxFuture<'_, Result<RevisionState, NoSuchRevision>> {
        Box::pin(async move {
            let late = version.point.revision > 1000;
            if version.point.revision > 2000 {
                return Err(NoSuchRevision::NotHere);
            }
            if late {
                tokio::time::sleep(wait).await;
            }
            let east: ZoneName = "east".parse().unwrap();
            let proxies = ProxyCounts { current: 2 - u64::from(late), late: u64::from(late), unknown: 0 };
            let (state, zone) = match late {
                true => (Progress::Pending, ZoneState::Pending),
                false => (Progress::Applied, ZoneState::Applied),
            };
            let who = late.then(|| LateProxy {
                zone: east.clone(),
                proxy: "default/web-2".into(),
                state: LateState::Late,
                reason: LateReason::Slow,
                detail: "sent 2 s ago".into(),
            });
            Ok(RevisionState {
                revision: version,
                state,
                zones: vec![ZoneProgress { name: east, state: zone, proxies }],
                late: who.into_iter().collect(),
                refusals: Vec::new(),
            })
        })
    }
}

impl Zones for Program {
    fn overview(&self) -> BoxFuture<'_, Result<Vec<ZoneOverview>, Problem>> {
        let zone = |name: &str, state, age_ms, current| ZoneOverview {
            name: name.parse().unwrap(),
            state,
            age_ms,
            proxies: ProxyCounts { current, late: 0, unknown: 0 },
        };
        let zones = vec![
            zone("east", Connection::Connected, Some(400), 2),
            zone("far-west", Connection::Offline, Some(200_000), 0),
            zone("north", Connection::Offline, None, 0),
        ];
        Box::pin(async { Ok(zones) })
    }
}

/// Of the global it holds what epoch 2 would take away.
impl Holds for Program {
    fn holds(&self) -> Vec<Hold> {
        vec![Hold {
            origin: Origin::Global,
            reason: "it tells another history up to revision 77 of epoch 1".into(),
            have: "global-1-77".parse().unwrap(),
            offered: "global-2-77".parse().unwrap(),
            added: 3,
            changed: 0,
            lost: 101,
            keys: (0..100).map(|n| format!("Mesh//global//{n:03}")).collect(),
        }]
    }

    fn accept(&self, origin: Origin, epoch: u64) -> BoxFuture<'_, Result<Hold, Problem>> {
        let hold = self.holds().remove(0);
        let is_this = (&origin, epoch) == (&hold.origin, hold.offered.point.epoch);
        Box::pin(async move { if is_this { Ok(hold) } else { Err(Problem::conflict("look again")) } })
    }
}

impl Status for Program {
    fn status(&self) -> BoxFuture<'_, Result<MeshStatus, Problem>> {
        Box::pin(async {
            let overview = Zones::overview(self).await?;
            let zones = overview.into_iter().map(|overview| {
                let report = ZoneReport {
                    services: 2,
                    services_without_endpoints: vec!["default/cart".into()],
                    ..ZoneReport::default()
                };
                let report = (overview.state == Connection::Connected).then_some(report);
                ZoneStatus { overview, diverged: false, refused: Vec::new(), report }
            });
            let control_plane = api::status::ControlPlane {
                name: Origin::Global,
                version: "1.2.3".into(),
                uptime_ms: 90_000,
                certificates: Vec::new(),
                unread: Vec::new(),
                unwritable: None,
                cut_off: None,
            };
            Ok(MeshStatus { control_plane, zones: zones.collect() })
        })
    }
}

impl Tokens for Program {
    fn kinds(&self) -> &[TokenKind] {
        &[TokenKind::Zone]
    }

    fn issue(
        &self,
        _kind: TokenKind,
        request: TokenRequest,
        _caller: Caller,
    ) -> BoxFuture<'_, Result<TokenAnswer, Problem>> {
        Box::pin(async move { Ok(TokenAnswer { token: serde_json::to_string(&request).unwrap() }) })
    }

    fn revoke(
        &self,
        request: RevokeRequest,
        _caller: Caller,
    ) -> BoxFuture<'_, Result<RevokeAnswer, Problem>> {
        Box::pin(async move {
            let (RevokeRequest::Token(jti) | RevokeRequest::Jti(jti)) = request;
            Ok(RevokeAnswer { jti, disconnected: vec!["zone/east".into()], away: vec!["zone/west".into()] })
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
            let part = |name: &str, refused: Option<&str>| InspectPart {
                name: name.into(),
                part: json!({"listen": "10.0.0.1:80"}),
                acknowledged: refused.is_none(),
                refused: refused.map(str::to_owned),
            };
            let world: World =
                [(Origin::Global, model::Point { epoch: 1, revision: 9 })].into_iter().collect();
            Ok(InspectDataplane {
                mesh,
                name,
                zone,
                state: ProxyState::Late,
                world,
                acknowledged: None,
                parts: vec![part("inbound/80", None), part("listeners", Some("port 80 is in use"))],
                signals: Vec::new(),
            })
        })
    }
}
