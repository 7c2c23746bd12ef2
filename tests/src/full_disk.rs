//! A zone whose disk is full: it refuses what is to be stored, and says so; everything else goes on, and it recovers by
//! itself.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use api::shapes::ZoneState;
use demo::Mesh;
use demo::mesh::LIMIT;
use demo::process::Process;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

use crate::{processes, status};

const ZONE: &str = "west";
/// How much more a file may take, in bytes.
const ROOM: u64 = 1_000_000;

/// The limit of a file's size stands for a disk that is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_whose_disk_is_full_serves_on_says_so_and_recovers_by_itself() {
    let mut mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let program = program(&mesh).await;
    mesh.stop_zone(ZONE).await.unwrap();
    let log = mesh.dir().join("zone.log");
    let zone = Process::start(&program, &mesh.zone_options(ZONE).unwrap(), log).unwrap();
    status::until(&mesh, ExitCode::SUCCESS, "all is well").await;

    let store = mesh.zone_options(ZONE).unwrap().data_dir.join("store.redb");
    let length = std::fs::metadata(store).unwrap().len();
    zone.limit_files(Some(length + ROOM)).unwrap();
    let mut n = 0;
    let (code, problem) = loop {
        match write(&mesh, n).await {
            (201, _) => n += 1,
            refused => break refused,
        }
    };
    assert!(n > 0, "some are acknowledged before it is full");
    assert_eq!((code, problem["type"].as_str()), (507, Some("/problems/storage-full")), "{problem}");
    assert_eq!(readiness(&mesh).await, "503 waiting for the disk of the store");
    let page = status::until(&mesh, ExitCode::FAILURE, "the store of zone west takes no writes").await;
    assert!(page.contains("free some space"), "{page}");

    // Policy of the global waits, and waits for this zone alone.
    let api = mesh.api().unwrap();
    let path = "/meshes/default/meshtrafficpermissions/waits";
    let revision = api.put(path, &large("waits").to_string()).await.unwrap();
    for (number, name) in (0..n).map(|n| (n, format!("p{n}"))) {
        let path = format!("/meshes/default/meshtrafficpermissions/{name}?zone={ZONE}");
        let read = mesh.zone_api(ZONE).unwrap().request(Method::GET, &path).send().await.unwrap();
        assert_eq!(read.status(), 200, "{number} was acknowledged");
    }
    let answered = |mesh: &Mesh| mesh.traffic().calls().iter().map(|call| call.tally().answered).sum::<u64>();
    let failed = |mesh: &Mesh| mesh.traffic().calls().iter().map(|call| call.tally().failed).sum::<u64>();
    let before = (answered(&mesh), failed(&mesh));
    time::sleep(Duration::from_secs(2)).await;
    assert!(answered(&mesh) > before.0, "requests go on");
    assert_eq!(failed(&mesh), before.1, "and none fails");
    let told = api.revision(&revision, Duration::ZERO).await.unwrap();
    let states: Vec<_> = told.zones.iter().map(|zone| (zone.name.as_str(), zone.state)).collect();
    assert_eq!(
        states,
        [("east", ZoneState::Applied), (ZONE, ZoneState::Pending)],
        "it cannot be stored there"
    );

    zone.limit_files(None).unwrap();
    api.applied(&revision, LIMIT).await.unwrap();
    status::until(&mesh, ExitCode::SUCCESS, "all is well").await;
    assert!(readiness(&mesh).await.starts_with("200"));
    assert_eq!(write(&mesh, n).await.0, 201);
    mesh.shutdown().await.unwrap();
}

/// The zone control plane as a program. The signal that comes with the limit would end it; an ignored one stays so over
/// exec.
async fn program(mesh: &Mesh) -> PathBuf {
    let built = processes::build().await.join("tombolo-zone-cp");
    let script = format!("#!/bin/sh\ntrap '' XFSZ\nexec '{}' \"$@\"\n", built.display());
    let path = mesh.write("zone-cp.sh", &script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Large, so that the file is full soon.
fn large(name: &str) -> Value {
    let rule = json!({"default": {"allow": [{"source": {"workload": "nobody"}}]}});
    json!({"type": "MeshTrafficPermission", "mesh": "default", "name": name, "spec": {"rules": vec![rule; 500]}})
}

async fn write(mesh: &Mesh, n: u32) -> (u16, Value) {
    let path = format!("/meshes/default/meshtrafficpermissions/p{n}");
    let request = mesh.zone_api(ZONE).unwrap().request(Method::PUT, &path).json(&large(&format!("p{n}")));
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

/// The code, and what it says.
async fn readiness(mesh: &Mesh) -> String {
    let mut stream = TcpStream::connect(mesh.zone_addresses(ZONE).health).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap();
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    format!("{code} {}", text.trim())
}
