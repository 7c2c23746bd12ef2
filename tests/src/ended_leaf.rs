//! A proxy whose certificate ends while nobody renews it says so, carries nothing any more, and does not begin again
//! from its folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dataplane::Running;
use demo::Mesh;
use demo::mesh::LIMIT;
use demo::traffic::Call;
use http::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

const BRIEF: &str = "/meshes/default/meshidentities/brief";
/// Long enough for a renewal on a busy machine, and not for a test to be slow.
const LIFE_OF_A_LEAF: &str = "\
type: MeshIdentity
mesh: default
name: brief
spec:
  selector: {dataplane: {matchLabels: {tombolo.io/workload: cart}}}
  provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, certificateParameters: {expiry: 9s}}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_leaf_ended_unrenewed_is_not_ready_and_closes_what_is_open() {
    let mut mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let revision = mesh.api().unwrap().put(BRIEF, LIFE_OF_A_LEAF).await.unwrap();
    mesh.api().unwrap().applied(&revision, LIMIT).await.unwrap();
    // It begins with a new leaf, which has a short life.
    let stopped = mesh.stop_sidecar("cart", "west").await.unwrap();
    let state = mesh.sidecar_options(&stopped).state_dir;
    forget_leaf(&state.join("state.json"));
    let cart = dataplane::start(mesh.sidecar_options(&stopped)).await.unwrap();
    time::timeout(LIMIT, cart.ready()).await.expect("ready in time");
    let (out, into) = {
        let call = |caller, called, zone| mesh.traffic().call(caller, called, zone).unwrap().clone();
        (call("cart", "catalog", "east"), call("frontend", "cart", "west"))
    };
    until_answered(&out).await;
    until_answered(&into).await;

    let mut open = Vec::new();
    for (pair, address) in mesh.streams().into_iter().filter(|(pair, _)| pair.concerns("cart", "west")) {
        open.push((pair, exchange(address).await));
    }
    assert_eq!(open.len(), 2, "one that it opened, and one that it let in");
    mesh.stop_zone("west").await.unwrap();
    for (pair, stream) in &mut open {
        let read = time::timeout(LIMIT, stream.read(&mut [0])).await;
        assert!(matches!(read.expect("it is closed"), Ok(0) | Err(_)), "{pair}");
    }
    serves_nothing(&cart, &out, &into).await;
    assert_private(&state);

    cart.shutdown().await.unwrap();
    let cart = dataplane::start(mesh.sidecar_options(&stopped)).await.unwrap();
    serves_nothing(&cart, &out, &into).await;
    assert_private(&state);

    mesh.resume_zone("west").await.unwrap();
    time::timeout(LIMIT, cart.ready()).await.expect("renewed, and ready");
    until_answered(&out).await;
    until_answered(&into).await;
    cart.shutdown().await.unwrap();
    mesh.shutdown().await.unwrap();
}

fn forget_leaf(state: &Path) {
    let mut kept: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    assert!(!kept["leaf"].take().is_null(), "a leaf is kept there");
    fs::write(state, kept.to_string()).unwrap();
}

async fn until_answered(call: &Call) {
    let answered = async {
        while let Err(_not_yet) = call.once(Method::GET, "/", Bytes::new()).await {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(LIMIT, answered).await.unwrap_or_else(|_| panic!("{}: no answer", call.pair));
}

async fn exchange(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    stream
}

/// All that it has is in force, but for the certificate, and so nothing is.
async fn serves_nothing(cart: &Running, out: &Call, into: &Call) {
    let only_the_certificate = async {
        while cart.pending() != ["certificate"] {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = time::timeout(LIMIT, only_the_certificate).await;
    waited.unwrap_or_else(|_| panic!("it waits for {:?}", cart.pending()));
    let page = ready_page(cart.ready_address).await;
    assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("certificate"), "{page}");
    assert!(cart.bound().await.is_empty());
    let refused = TcpStream::connect(out.through).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let failed = into.once(Method::GET, "/", Bytes::new()).await.unwrap_err();
    assert!(failed.to_string().starts_with("503"), "{failed:#}");
}

async fn ready_page(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

fn assert_private(state: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state), 0o700);
    let files: Vec<_> = fs::read_dir(state).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}
