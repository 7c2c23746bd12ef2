//! An ingress and its zone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::{Alpn, Audience, PrivateKey, SVID_LIFETIME, Svid, TrustStore, sni, workload_client};
use sync::session::Ended;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tokio_rustls::TlsConnector;
use zone_ingress::{ControlOptions, Running};

use crate::zone::{PATIENCE, Serving, Zone};

const EAST_1: &str = "ingress/east-1";
const FIRST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbb.tombolo.internal";
const SECOND: &str = "cccccccccccccccccccccccccc.bbbbbbbb.tombolo.internal";

struct Folder {
    dir: TempDir,
    zone_cp: String,
}

impl Folder {
    fn new(zone: &Zone, serving: &Serving) -> Self {
        let folder = Self { dir: tempfile::tempdir().unwrap(), zone_cp: serving.address.to_string() };
        zone.write_token(Audience::Ingress, &folder.path("token"));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn start(&self) -> Running {
        let name = "east-1".parse().unwrap();
        let options = ControlOptions::new(name, self.zone_cp.clone(), self.path("token"), self.path("state"));
        let running = zone_ingress::start(ControlOptions { drain_time: Duration::from_secs(10), ..options });
        let running = running.await.unwrap();
        if time::timeout(PATIENCE, running.ready()).await.is_err() {
            panic!("not ready in time: waits for {:?}", running.pending());
        }
        running
    }
}

/// Takes a connection, and answers its first byte, whatever it is, with one of its own.
async fn endpoint(answer: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    let _ = stream.write_all(&[answer]).await;
                    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                }
            });
        }
    });
    address
}

fn table(entries: &[(&str, SocketAddr)]) -> String {
    serde_json::json!(entries.iter().copied().collect::<std::collections::BTreeMap<_, _>>()).to_string()
}

/// The ClientHello of a proxy that knows a handle.
async fn hello(zone: &Zone, name: &str) -> Vec<u8> {
    let now = std::time::SystemTime::now();
    let key = PrivateKey::generate();
    let id = "spiffe://default.east.mesh.local/workload/web".parse().unwrap();
    let svid = Svid::new(zone.ca.issue(key.request().der(), &id, SVID_LIFETIME, now).unwrap(), &key).unwrap();
    let (trust, _) = TrustStore::from_bundles([]);
    let config = workload_client(&svid, Arc::new(trust), Alpn::Tcp).unwrap();
    let (ours, mut theirs) = tokio::io::duplex(16 << 10);
    let name = sni(name).unwrap();
    let connecting = tokio::spawn(async move { TlsConnector::from(config).connect(name, ours).await });
    let mut hello = vec![0; 16 << 10];
    let read = theirs.read(&mut hello).await.unwrap();
    hello.truncate(read);
    connecting.abort();
    hello
}

/// Opens a flow; the byte that its endpoint answers, or none where the ingress ended it.
async fn open(zone: &Zone, ingress: SocketAddr, name: &str) -> (TcpStream, Option<u8>) {
    let hello = hello(zone, name).await;
    let mut stream = TcpStream::connect(ingress).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut byte = [0];
    let read = time::timeout(PATIENCE, stream.read(&mut byte)).await.expect("an answer or an end in time");
    let answer = matches!(read, Ok(1)).then_some(byte[0]);
    (stream, answer)
}

async fn open_until(zone: &Zone, ingress: SocketAddr, name: &str, want: Option<u8>) -> TcpStream {
    let opening = async {
        loop {
            let (stream, answer) = open(zone, ingress, name).await;
            if answer == want {
                return stream;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, opening).await.expect("the wanted answer in time")
}

async fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ingress\r\n\r\n").await.unwrap();
    let mut page = String::new();
    time::timeout(PATIENCE, stream.read_to_string(&mut page)).await.expect("told in time").unwrap();
    page
}

#[tokio::test]
async fn an_ingress_joins_says_where_it_is_and_relays_by_the_table_of_its_zone() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let (first, second) = (endpoint(1).await, endpoint(2).await);
    zone.signal(EAST_1, "handles", table(&[(FIRST, first)]));
    let folder = Folder::new(&zone, &serving);
    let running = folder.start().await;
    let state = zone.until(EAST_1, "a registration", |state| !state.registered.is_empty()).await;
    let advertised = serde_json::json!({ "advertise": running.listen }).to_string();
    assert_eq!(state.registered["ingress"], advertised);

    let (mut flow, answer) = open(&zone, running.listen, FIRST).await;
    assert_eq!(answer, Some(1));
    assert_eq!(open(&zone, running.listen, SECOND).await.1, None);

    zone.signal(EAST_1, "handles", table(&[(SECOND, second)]));
    open_until(&zone, running.listen, SECOND, Some(2)).await;
    let mut byte = [0];
    let ended = time::timeout(PATIENCE, flow.read(&mut byte)).await.expect("ended in time");
    assert!(!matches!(ended, Ok(1)), "the flow of a handle that is gone is cut");

    // No word is not "gone".
    zone.signal(EAST_1, "handles", String::new());
    zone.signal(EAST_1, "handles", "[".into());
    zone.signal(EAST_1, "handles", table(&[(SECOND, second), (FIRST, first)]));
    open_until(&zone, running.listen, FIRST, Some(1)).await;

    let page = metrics(running.metrics_address).await;
    let unknown = "\ntombolo_connections_total{direction=\"relay\",result=\"broken\",flag=\"unknown-name\"} ";
    assert!(page.contains(unknown), "{page}");
    assert!(page.contains("\ntombolo_proxy_relayed_total ") && !page.contains(FIRST), "{page}");

    running.shutdown().await.unwrap();
    let state = zone.until(EAST_1, "the end", |state| !state.ended.is_empty()).await;
    assert_eq!(state.ended, [Ended::ByPeer("drained".into())]);
}

#[tokio::test]
async fn an_ingress_relays_new_flows_until_its_zone_lets_it_go_and_hears_of_handles_until_the_last_ended() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let first = endpoint(1).await;
    zone.signal(EAST_1, "handles", table(&[(FIRST, first)]));
    let running = Folder::new(&zone, &serving).start().await;
    let listen = running.listen;
    zone.let_go(false);
    let ending = tokio::spawn(running.shutdown());
    zone.until(EAST_1, "the word", |state| state.is_draining).await;
    let (mut flow, answer) = open(&zone, listen, FIRST).await;
    assert_eq!(answer, Some(1));
    zone.let_go(true);
    let closed = async { while TcpStream::connect(listen).await.is_ok() {} };
    time::timeout(PATIENCE, closed).await.expect("no more are accepted");
    assert!(zone.state(EAST_1).ended.is_empty(), "it is not gone while a flow is open");
    zone.signal(EAST_1, "handles", table(&[]));
    let cut = time::timeout(PATIENCE, flow.read(&mut [0])).await.expect("ended in time");
    assert!(!matches!(cut, Ok(1)));
    ending.await.unwrap().unwrap();
    let state = zone.until(EAST_1, "the end", |state| !state.ended.is_empty()).await;
    assert_eq!(state.ended, [Ended::ByPeer("drained".into())]);
}

#[tokio::test]
async fn an_ingress_relays_without_its_zone_also_after_a_restart() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let (first, second) = (endpoint(1).await, endpoint(2).await);
    zone.signal(EAST_1, "handles", table(&[(FIRST, first)]));
    let folder = Folder::new(&zone, &serving);
    let running = folder.start().await;
    open_until(&zone, running.listen, FIRST, Some(1)).await;
    let kept = folder.path("state").join("handles.json");
    let written = async {
        while !std::fs::read_to_string(&kept).is_ok_and(|text| text.contains(FIRST)) {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, written).await.expect("the table is kept");

    let address = serving.stop().await;
    assert_eq!(open(&zone, running.listen, FIRST).await.1, Some(1));
    running.shutdown().await.unwrap();
    let running = folder.start().await;
    assert_eq!(open(&zone, running.listen, FIRST).await.1, Some(1));

    // The zone is back and knows nothing yet; then it does.
    zone.signal(EAST_1, "handles", String::new());
    let _serving = zone.serve_at(address).await;
    zone.until(EAST_1, "a subscription", |state| state.is_subscribed("handles")).await;
    assert_eq!(open(&zone, running.listen, FIRST).await.1, Some(1));
    zone.signal(EAST_1, "handles", table(&[(SECOND, second)]));
    open_until(&zone, running.listen, SECOND, Some(2)).await;
    assert_eq!(open(&zone, running.listen, FIRST).await.1, None);
}

#[tokio::test]
async fn a_new_ingress_of_a_zone_that_knows_nothing_yet_is_ready_and_relays_nothing() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let running = Folder::new(&zone, &serving).start().await;
    assert_eq!(open(&zone, running.listen, FIRST).await.1, None);
}
