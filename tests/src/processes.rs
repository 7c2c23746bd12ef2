//! The mesh as people run it: seven processes of their own, joined by nothing but sockets and tokens.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use demo::api_client::ApiClient;
use demo::client::Outcome;
use demo::members::{ALLOW_SHOP, PERMISSION};
use demo::process::Process;
use demo::shop::App;
use demo::traffic::{Pair, Traffic};
use http::Method;
use identity::ServerRole;
use serde_json::Value;
use tokio::process::Command;
use tokio::time;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Where cargo puts the programs.
pub(crate) fn folder() -> PathBuf {
    // target/<profile>/deps/mesh-<hash>
    let file = std::env::current_exe().expect("this test is a file");
    file.ancestors().nth(2).expect("in a folder of cargo's").to_owned()
}

/// The programs, built here, so that no test runs old ones.
pub(crate) async fn build() -> PathBuf {
    let folder = folder();
    let profile = folder.file_name().and_then(|name| name.to_str()).expect("named after the profile");
    let profile = if profile == "debug" { "dev" } else { profile };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--workspace", "--bins", "--profile", profile])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()
        .await
        .expect("cargo runs");
    assert!(built.success(), "the programs do not build");
    folder
}

/// One running program; killed by its id when dropped.
struct Program {
    name: String,
    process: Process,
    ready: Value,
}

impl Program {
    async fn start(programs: &Path, program: &str, name: &str, dir: &Path, flags: &[&str]) -> Self {
        let log = dir.join(format!("{name}.log"));
        let mut command = Command::new(programs.join(program));
        let mut process = Process::spawn(command.args(flags).current_dir(dir), log).expect("it starts");
        let ready: Value =
            process.line(LIMIT).await.unwrap_or_else(|error| panic!("{name} is not ready: {error:#}"));
        assert_eq!(ready["ready"], program, "{ready}");
        Self { name: name.into(), process, ready }
    }

    fn address(&self, what: &str) -> SocketAddr {
        let text = self.ready[what].as_str().expect("an address");
        text.trim_start_matches("https://").parse().expect("an address")
    }

    /// It must say that all is well.
    async fn terminate(mut self) {
        let ended = self.process.end(LIMIT).await.expect("it ends in time");
        assert!(ended.success(), "{} ended with {ended}", self.name);
    }
}

struct ZoneProcesses {
    zone_cp: Program,
    ingress: Program,
    api: ApiClient,
}

const ANY: &str = "127.0.0.1:0";

async fn zone(programs: &Path, dir: &Path, zone: &str, global: &Program, api: &ApiClient) -> ZoneProcesses {
    let request = serde_json::from_value(serde_json::json!({ "zone": zone })).unwrap();
    let token = api.token(::api::shapes::TokenKind::Zone, &request).await.unwrap();
    std::fs::write(dir.join(format!("{zone}.token")), token).unwrap();
    let (sync, token) = (global.address("sync").to_string(), format!("{zone}.token"));
    let flags = [
        "--zone",
        zone,
        "--data-dir",
        zone,
        "--global",
        &sync,
        "--token-file",
        &token,
        "--api-address",
        ANY,
        "--sync-address",
        ANY,
        "--health-address",
        ANY,
    ];
    let zone_cp = Program::start(programs, "tombolo-zone-cp", zone, dir, &flags).await;
    let role = ServerRole::Zone(zone.parse().unwrap());
    let api = ApiClient::new(zone_cp.address("api"), &dir.join(zone), role).unwrap();

    let token = api.token(::api::shapes::TokenKind::Ingress, &Default::default()).await.unwrap();
    let name = format!("{zone}-ingress");
    std::fs::write(dir.join(format!("{name}.token")), token).unwrap();
    let (sync, token) = (zone_cp.address("sync").to_string(), format!("{name}.token"));
    let flags = [
        "--name",
        &name,
        "--zone-cp",
        &sync,
        "--token-file",
        &token,
        "--state-dir",
        &name,
        "--listen",
        ANY,
        "--ready-address",
        ANY,
        "--metrics-address",
        ANY,
    ];
    let ingress = Program::start(programs, "tombolo-zone-ingress", &name, dir, &flags).await;
    ZoneProcesses { zone_cp, ingress, api }
}

async fn sidecar(
    programs: &Path,
    dir: &Path,
    workload: &str,
    ip: IpAddr,
    zone: &ZoneProcesses,
    yaml: &str,
) -> Program {
    let request = serde_json::json!({ "mesh": "default", "workload": workload, "addresses": [ip] });
    let request = serde_json::from_value(request).unwrap();
    let token = zone.api.token(::api::shapes::TokenKind::Dataplane, &request).await.unwrap();
    std::fs::write(dir.join(format!("{workload}.token")), token).unwrap();
    std::fs::write(dir.join(format!("{workload}.yaml")), yaml).unwrap();
    let (sync, token) = (zone.zone_cp.address("sync").to_string(), format!("{workload}.token"));
    let document = format!("{workload}.yaml");
    let flags = [
        "--zone-cp",
        &sync,
        "--token-file",
        &token,
        "--dataplane",
        &document,
        "--state-dir",
        workload,
        "--ready-address",
        ANY,
        "--metrics-address",
        ANY,
        "--drain-time",
        "5",
    ];
    Program::start(programs, "tombolo-dataplane", workload, dir, &flags).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_processes_carry_a_request_across_zones_and_end_when_they_are_told_to() {
    let programs = build().await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Its own piece of loopback, so that ports can stand in documents before anyone listens on them.
    let ip = |host| IpAddr::from([127, rand::random_range(1..=254), rand::random(), host]);
    let (client, cart) = (ip(1), ip(2));

    let flags =
        ["--data-dir", "global", "--api-address", ANY, "--sync-address", ANY, "--health-address", ANY];
    let global = Program::start(&programs, "tombolo-global-cp", "global", dir, &flags).await;
    let api = ApiClient::new(global.address("api"), &dir.join("global"), ServerRole::Global).unwrap();
    let east = zone(&programs, dir, "east", &global, &api).await;
    let west = zone(&programs, dir, "west", &global, &api).await;
    let app =
        App::start("cart", "west", SocketAddr::new(cart, 3000), SocketAddr::new(cart, 3001)).await.unwrap();
    let yaml = format!(
        "type: Dataplane\nmesh: default\nname: cart-1\nnetworking:\n  address: {cart}\n  inbound:\n  \
         - {{name: http, port: 8080, servicePort: 3000, serviceAddress: {cart}, protocol: http}}\n"
    );
    let cart = sidecar(&programs, dir, "cart", cart, &west, &yaml).await;
    let yaml = format!(
        "type: Dataplane\nmesh: default\nname: frontend-1\nnetworking:\n  address: {client}\n  outbound:\n  \
         - address: {client}\n    port: 10001\n    backendRef:\n      kind: MeshService\n      port: 8080\n      \
         labels: {{tombolo.io/display-name: cart, tombolo.io/zone: west}}\n"
    );
    let frontend = sidecar(&programs, dir, "frontend", client, &east, &yaml).await;

    let revision = api.put(PERMISSION, ALLOW_SHOP).await.unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    let mut traffic = Traffic::default();
    let pair = Pair { caller: "frontend", from: "east", called: "cart", to: "west" };
    traffic.add(pair, SocketAddr::new(client, 10001));
    time::timeout(LIMIT, traffic.all_answered())
        .await
        .unwrap_or_else(|_| panic!("no answer: {:?}", traffic.silent()))
        .unwrap();
    let call = traffic.call("frontend", "cart", "west").unwrap();
    let Outcome::Answered(answer) = call.once(Method::GET, "/crossed", Bytes::new()).await.unwrap() else {
        panic!("the request was denied");
    };
    assert_eq!(answer.client, Some(pair.client_id()));
    traffic.shutdown().await;

    for process in [frontend, cart, east.ingress, west.ingress, east.zone_cp, west.zone_cp, global] {
        process.terminate().await;
    }
    app.shutdown().await;
}
