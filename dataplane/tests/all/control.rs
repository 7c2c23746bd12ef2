//! A sidecar and its zone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, SystemTime};

use dataplane::{ControlOptions, Purpose, Running};
use identity::Audience;
use sync::session::Ended;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time;

use crate::zone::{Line, PATIENCE, Serving, Zone};

const WEB: &str = "proxy/default/web-1";
const CART: &str = "proxy/default/cart-1";
const WEB_ID: &str = "spiffe://default.east.mesh.local/workload/web";
const CART_ID: &str = "spiffe://default.east.mesh.local/workload/cart";
const CART_HTTP: &str = "ms_default_east__cart_http";
const NEXT_HTTP: &str = "ms_default_east__next_http";
const CART_TCP: &str = "ms_default_east__cart_tcp";
const SNI: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbb.tombolo.internal";

/// A folder with what one sidecar needs.
struct Folder {
    dir: TempDir,
    zone_cp: String,
}

impl Folder {
    fn new(zone: &Zone, serving: &Serving, name: &str, inbounds: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Self { dir, zone_cp: serving.address.to_string() };
        zone.write_token(Audience::Dataplane, &folder.path("token"));
        let document = format!(
            "type: Dataplane\nname: {name}\nnetworking: {{address: 127.0.0.1, inbound: [{inbounds}]}}\n"
        );
        std::fs::write(folder.path("dataplane.yaml"), document).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self) -> ControlOptions {
        let options = ControlOptions::new(
            self.zone_cp.clone(),
            self.path("token"),
            self.path("dataplane.yaml"),
            self.path("state"),
        );
        ControlOptions { drain_time: Duration::from_secs(10), ..options }
    }

    async fn start(&self) -> Running {
        dataplane::start(self.options()).await.unwrap()
    }
}

async fn ready(running: &Running) {
    if time::timeout(PATIENCE, running.ready()).await.is_err() {
        panic!("not ready in time: waits for {:?}", running.pending());
    }
}

async fn bound(running: &Running, purpose: Purpose) -> SocketAddr {
    let bound = running.bound().await;
    bound.iter().find(|bound| bound.purpose == purpose).unwrap_or_else(|| panic!("{bound:?}")).address
}

async fn outbound(running: &Running, destination: &str) -> SocketAddr {
    bound(running, Purpose::Outbound(destination.parse().unwrap())).await
}

fn trust(zone: &Zone) -> String {
    serde_json::json!({ "default.east.mesh.local": { "zone": "east", "bundle": zone.ca.bundle_pem() } })
        .to_string()
}

fn inbound(protocol: &str, listen: SocketAddr, application: SocketAddr, effect: &str) -> String {
    serde_json::json!({
        "listen": listen,
        "application": application,
        "protocol": protocol,
        "access": { "rules": [{
            "effect": effect,
            "clients": "anyone",
            "origin": {
                "policy": "MeshTrafficPermission/default/east//all",
                "version": "east-1-1",
                "path": "spec.rules[0]",
            },
        }]},
    })
    .to_string()
}

fn destination(protocol: &str) -> String {
    serde_json::json!({ "protocol": protocol, "identities": [CART_ID], "connectionTimeout": 5000 })
        .to_string()
}

fn endpoint(address: SocketAddr) -> String {
    serde_json::json!([{ "address": address, "sni": SNI, "identity": CART_ID, "zone": "east" }]).to_string()
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Answers every request with the identity of the client.
async fn http_application() -> SocketAddr {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&request).into_owned();
                        let id = text.lines().find_map(|line| line.strip_prefix("tombolo-client-id: "));
                        let body = id.unwrap_or("nobody");
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                        request.clear();
                    }
                }
            });
        }
    });
    address
}

/// Sends all that it reads back, and tells the test.
async fn echo_application() -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let _ = heard.send(buffer[..read].to_vec());
                    let _ = stream.write_all(&buffer[..read]).await;
                }
                let _ = heard.send(Vec::new());
            });
        }
    });
    (address, hears)
}

/// The first line and the body.
async fn get(address: SocketAddr) -> (String, String) {
    get_page(address, "/").await
}

async fn get_page(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// Asks until the answer is the wanted one: endpoints are signals, which nobody acknowledges.
async fn get_until(address: SocketAddr, status: &str) -> String {
    let asking = async {
        loop {
            let (line, body) = get(address).await;
            if line.contains(status) {
                return body;
            }
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, asking).await.expect("the wanted answer in time")
}

/// Two sidecars in one zone: web uses cart, by HTTP and by TCP.
struct Mesh {
    zone: Arc<Zone>,
    serving: Option<Serving>,
    web_folder: Folder,
    web: Option<Running>,
    cart: Running,
    cart_folder: Folder,
    http: SocketAddr,
    tcp: SocketAddr,
    heard: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Mesh {
    async fn start() -> Self {
        Self::start_in(Zone::new()).await
    }

    async fn start_in(zone: Arc<Zone>) -> Self {
        let serving = zone.serve().await;
        let http = http_application().await;
        let (tcp, heard) = echo_application().await;
        let cart_folder = Folder::new(
            &zone,
            &serving,
            "cart-1",
            "{port: 8080, servicePort: 80}, {port: 8081, servicePort: 81}",
        );
        let web_folder = Folder::new(&zone, &serving, "web-1", "");

        zone.identify(CART, CART_ID);
        zone.set(
            CART,
            &[
                ("trust", Some(trust(&zone))),
                ("listeners", Some(r#"{"outbound":[]}"#.into())),
                ("inbound/8080", Some(inbound("http", anywhere(), http, "allow"))),
                ("inbound/8081", Some(inbound("tcp", anywhere(), tcp, "allow"))),
            ],
        );
        zone.identify(WEB, WEB_ID);
        let listeners = serde_json::json!({ "outbound": [
            { "address": anywhere(), "destination": CART_HTTP },
            { "address": anywhere(), "destination": CART_TCP },
        ]});
        zone.set(
            WEB,
            &[
                ("trust", Some(trust(&zone))),
                ("listeners", Some(listeners.to_string())),
                (&format!("destination/{CART_HTTP}"), Some(destination("http"))),
                (&format!("destination/{CART_TCP}"), Some(destination("tcp"))),
            ],
        );
        let cart = cart_folder.start().await;
        ready(&cart).await;
        for (id, port) in [(CART_HTTP, 8080), (CART_TCP, 8081)] {
            let address = bound(&cart, Purpose::Inbound(port)).await;
            zone.signal(WEB, &format!("endpoints/{id}"), endpoint(address));
        }
        let web = web_folder.start().await;
        ready(&web).await;
        Self { zone, serving: Some(serving), web_folder, web: Some(web), cart, cart_folder, http, tcp, heard }
    }

    fn web(&self) -> &Running {
        self.web.as_ref().unwrap()
    }

    async fn stop_zone(&mut self) -> SocketAddr {
        self.serving.take().unwrap().stop().await
    }

    async fn get_status(&self, status: &str) -> String {
        get_until(outbound(self.web(), CART_HTTP).await, status).await
    }

    async fn hear(&mut self) -> Vec<u8> {
        time::timeout(PATIENCE, self.heard.recv()).await.expect("heard in time").unwrap()
    }
}

#[tokio::test]
async fn a_sidecar_joins_and_carries_requests_as_who_its_zone_says_it_is() {
    let mesh = Mesh::start().await;
    assert_eq!(mesh.get_status(" 200 ").await, WEB_ID);
    let state = mesh.zone.state(CART);
    let (key, body) = state.registered.iter().next().unwrap();
    assert_eq!(key, "Dataplane/default/east//cart-1");
    let document: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(document["networking"]["inbound"][1]["port"], 8081);
    assert_eq!(state.certificates, 1);
}

#[tokio::test]
async fn the_metrics_page_tells_who_called_whom_and_no_handle() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    for (running, direction) in [(mesh.web(), "outbound"), (&mesh.cart, "inbound")] {
        let told = async {
            loop {
                let (line, page) = get_page(running.metrics_address, "/metrics").await;
                assert!(line.contains(" 200 "), "{line}");
                let mut lines = page.lines().filter(|line| line.starts_with("tombolo_requests_total{"));
                let wanted = |line: &str| line.contains(direction) && line.contains("result=\"2xx\"");
                if lines.any(|line| wanted(line) && line.contains(WEB_ID)) {
                    return page;
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        let page = time::timeout(PATIENCE, told).await.expect("told in time");
        assert!(page.contains("\ntombolo_proxy_denials_total 0\n"), "{page}");
        assert!(page.ends_with("# EOF\n") && !page.contains(SNI), "{page}");
    }
}

#[tokio::test]
async fn an_acknowledged_denial_is_in_force_on_open_connections_too() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let mut stream = TcpStream::connect(outbound(mesh.web(), CART_TCP).await).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    assert_eq!(mesh.hear().await, b"before");

    let changed = mesh.zone.set(
        CART,
        &[
            ("inbound/8080", Some(inbound("http", anywhere(), mesh.http, "deny"))),
            ("inbound/8081", Some(inbound("tcp", anywhere(), mesh.tcp, "deny"))),
        ],
    );
    mesh.zone.acknowledged(CART, changed).await;
    // The first request after it, and the first byte.
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 403 "), "{line}");
    let _ = stream.write_all(b"after").await;
    assert_eq!(mesh.hear().await, b"", "the end, and nothing before it");

    let changed =
        mesh.zone.set(CART, &[("inbound/8080", Some(inbound("http", anywhere(), mesh.http, "allow")))]);
    mesh.zone.acknowledged(CART, changed).await;
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 200 "), "{line}");
}

#[tokio::test]
async fn what_routes_name_is_asked_for_used_and_left_again() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let cart = bound(&mesh.cart, Purpose::Inbound(8080)).await;
    let (front, back) = (format!("destination/{CART_HTTP}"), format!("destination/{NEXT_HTTP}"));
    let signal = format!("endpoints/{NEXT_HTTP}");
    mesh.zone.signal(WEB, &signal, endpoint(cart));

    // Nobody is the front any more: what is answered comes through the back.
    let routed = serde_json::json!({
        "protocol": "http", "identities": [], "connectionTimeout": 5000,
        "routes": [{ "matches": [{ "path": { "prefix": "/" } }], "backends": [{ "destination": NEXT_HTTP }] }],
    });
    mesh.zone.set(WEB, &[(&front, Some(routed.to_string()))]);
    mesh.zone
        .until(WEB, "the back is asked for", |state| {
            [&back, &signal].iter().all(|name| state.is_subscribed(name))
        })
        .await;
    mesh.zone.set(WEB, &[(&back, Some(destination("http")))]);
    assert_eq!(mesh.get_status(" 200 ").await, WEB_ID);

    mesh.zone.set(WEB, &[(&front, Some(destination("http")))]);
    mesh.zone
        .until(WEB, "the back is left", |state| {
            ![&back, &signal].iter().any(|name| state.is_subscribed(name))
        })
        .await;
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 200 "), "{line}");
}

#[tokio::test]
async fn routes_wait_as_long_whatever_else_was_waited_for_before() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let cart = bound(&mesh.cart, Purpose::Inbound(8080)).await;
    let fronts = [NEXT_HTTP, CART_HTTP];
    let listeners = fronts.map(|id| serde_json::json!({ "address": anywhere(), "destination": id }));
    let listeners = serde_json::json!({ "outbound": listeners }).to_string();
    let next = format!("destination/{NEXT_HTTP}");
    mesh.zone.set(WEB, &[("listeners", Some(listeners)), (&next, Some(destination("http")))]);
    mesh.zone
        .until(WEB, "the next is asked for", |state| state.is_subscribed(&format!("endpoints/{NEXT_HTTP}")))
        .await;
    mesh.zone.signal(WEB, &format!("endpoints/{NEXT_HTTP}"), endpoint(cart));
    let opened = async {
        while mesh.web().bound().await.len() != 2 {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, opened).await.expect("both ports");
    let mut addresses = Vec::new();
    for id in fronts {
        addresses.push(outbound(mesh.web(), id).await);
        get_until(addresses[addresses.len() - 1], " 200 ").await;
    }

    for (id, to) in [(NEXT_HTTP, "one"), (CART_HTTP, "two")] {
        let routed = serde_json::json!({
            "protocol": "http", "identities": [CART_ID], "connectionTimeout": 5000,
            "routes": [{ "backends": [{ "destination": format!("ms_default_east__{to}_http") }] }],
        });
        let changed = mesh.zone.set(WEB, &[(&format!("destination/{id}"), Some(routed.to_string()))]);
        mesh.zone.acknowledged(WEB, changed).await;
        if id == NEXT_HTTP {
            time::sleep(Duration::from_secs(3)).await;
        }
    }
    // What never comes is waited for no longer than that.
    get_until(addresses[0], " 500 ").await;
    let (line, _) = get(addresses[1]).await;
    assert!(line.contains(" 200 "), "it began to wait three seconds later: {line}");
    get_until(addresses[1], " 500 ").await;
}

#[tokio::test]
async fn sidecars_serve_without_their_zone_and_hear_it_when_it_is_back() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let address = mesh.stop_zone().await;
    assert_eq!(mesh.get_status(" 200 ").await, WEB_ID);

    let changed =
        mesh.zone.set(CART, &[("inbound/8080", Some(inbound("http", anywhere(), mesh.http, "deny")))]);
    let _serving = mesh.zone.serve_at(address).await;
    mesh.zone.acknowledged(CART, changed).await;
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 403 "), "{line}");
}

#[tokio::test]
async fn a_sidecar_keeps_what_it_has_against_another_history_of_its_zone_until_that_is_accepted() {
    let mut mesh = Mesh::start().await;
    let inbound = |effect| [("inbound/8080", Some(inbound("http", anywhere(), mesh.http, effect)))];
    let denied = mesh.zone.set(CART, &inbound("deny"));
    mesh.zone.acknowledged(CART, denied).await;

    // From before the denial.
    let put_back = Line { epoch: 2, hash: b"second", continues: b"" };
    mesh.zone.goes_on(put_back);
    let allowed = mesh.zone.set(CART, &inbound("allow"));
    let address = mesh.stop_zone().await;
    let serving = mesh.zone.serve_at(address).await;
    for peer in [CART, WEB] {
        let held = mesh.zone.until(peer, "a hold", |state| state.held.is_some()).await.held.unwrap();
        assert!(held.contains("epoch 2"), "{peer}: {held}");
    }
    mesh.get_status(" 403 ").await;
    assert_eq!(mesh.zone.state(CART).acknowledged, denied);
    // It does not forget that by starting anew.
    mesh.cart.shutdown().await.unwrap();
    mesh.zone.set(CART, &[]);
    mesh.cart = mesh.cart_folder.start().await;
    ready(&mesh.cart).await;
    let address = bound(&mesh.cart, Purpose::Inbound(8080)).await;
    mesh.zone.signal(WEB, &format!("endpoints/{CART_HTTP}"), endpoint(address));
    mesh.get_status(" 403 ").await;

    mesh.zone.goes_on(Line { continues: b"first", ..put_back });
    let address = serving.stop().await;
    let _serving = mesh.zone.serve_at(address).await;
    mesh.zone.acknowledged(CART, allowed).await;
    mesh.get_status(" 200 ").await;
}

#[tokio::test]
async fn a_sidecar_starts_from_its_folder_while_its_zone_is_away() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    // Endpoints reach the folder once a second, and the last ones as it stops.
    let kept = mesh.web_folder.path("state").join("endpoints.json");
    let [first, last] = ["127.0.0.1:1", "127.0.0.1:2"];
    let say = |address: &str| {
        mesh.zone.signal(WEB, &format!("endpoints/{CART_TCP}"), endpoint(address.parse().unwrap()));
    };
    say(first);
    let written = async {
        while !std::fs::read_to_string(&kept)
            .is_ok_and(|text| text.contains(CART_HTTP) && text.contains(first))
        {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(PATIENCE, written).await.expect("endpoints are kept");
    say(last);
    mesh.zone.settled(WEB).await;
    mesh.web.take().unwrap().shutdown().await.unwrap();
    assert!(std::fs::read_to_string(&kept).unwrap().contains(last));
    mesh.stop_zone().await;

    std::fs::remove_file(mesh.web_folder.path("token")).unwrap();
    let web = mesh.web_folder.start().await;
    ready(&web).await;
    let (line, body) = get(outbound(&web, CART_HTTP).await).await;
    assert!(line.contains(" 200 "), "{line}");
    assert_eq!(body, WEB_ID);
    mesh.web = Some(web);
}

#[tokio::test]
async fn a_silent_zone_does_not_hold_up_a_sidecar_that_has_a_folder() {
    let mut mesh = Mesh::start().await;
    mesh.web.take().unwrap().shutdown().await.unwrap();
    let address = mesh.stop_zone().await;
    // It accepts, and says nothing.
    let _mute = TcpListener::bind(address).await.unwrap();
    let web = mesh.web_folder.start().await;
    ready(&web).await;
}

#[tokio::test]
async fn an_ended_certificate_is_never_shown() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    mesh.web.take().unwrap().shutdown().await.unwrap();
    let address = mesh.stop_zone().await;

    let later = joining::Clock::new(|| SystemTime::now() + Duration::from_secs(25 * 60 * 60));
    let options = ControlOptions { clock: later, ..mesh.web_folder.options() };
    let web = dataplane::start(options).await.unwrap();
    let put_in_force = async {
        while web.pending() != ["certificate"] {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, put_in_force).await.expect("only the certificate is missing");
    assert!(web.bound().await.is_empty());
    web.shutdown().await.unwrap();

    // By the right time it is as good as ever; without the zone, too.
    let web = mesh.web_folder.start().await;
    ready(&web).await;
    let _serving = mesh.zone.serve_at(address).await;
}

const MINUTE: i64 = 60;

#[tokio::test]
async fn s41_sidecars_serve_whose_zone_has_a_clock_that_is_five_minutes_off() {
    for minutes in [-5, 5] {
        let mesh = Mesh::start_in(Zone::ahead(minutes * MINUTE)).await;
        assert_eq!(mesh.get_status(" 200 ").await, WEB_ID, "{minutes} minutes");
    }
}

#[tokio::test]
async fn s41_a_certificate_that_does_not_count_yet_is_not_taken_until_the_clocks_agree() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let folder = Folder::new(&zone, &serving, "web-1", "");
    let web = folder.start().await;
    zone.until(WEB, "its wishes", |state| state.is_subscribed("trust")).await;
    zone.ahead.store(11 * MINUTE, SeqCst);
    zone.identify(WEB, WEB_ID);
    zone.set(WEB, &[("trust", Some(trust(&zone))), ("listeners", Some(r#"{"outbound":[]}"#.into()))]);
    zone.until(WEB, "a second question", |state| state.certificates >= 2).await;
    assert!(web.pending().contains(&"certificate"), "{:?}", web.pending());
    zone.ahead.store(0, SeqCst);
    ready(&web).await;
}

#[tokio::test]
async fn a_part_that_cannot_be_read_is_refused_and_the_rest_goes_in() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let changed = mesh.zone.set(
        CART,
        &[
            ("inbound/8081", Some("{}".into())),
            ("inbound/8080", Some(inbound("http", anywhere(), mesh.http, "deny"))),
        ],
    );
    let state = mesh.zone.acknowledged(CART, changed).await;
    let [refused] = &state.refused[..] else { panic!("{:?}", state.refused) };
    assert_eq!(refused.key, "inbound/8081");
    assert!(refused.reason.contains("missing field"), "{}", refused.reason);
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 403 "), "{line}");
    bound(&mesh.cart, Purpose::Inbound(8081)).await;
}

#[tokio::test]
async fn a_listener_that_cannot_be_opened_is_refused_and_opened_when_it_can_be() {
    let mesh = Mesh::start().await;
    let taken = TcpListener::bind(anywhere()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let changed =
        mesh.zone.set(CART, &[("inbound/8080", Some(inbound("http", address, mesh.http, "allow")))]);
    let state = mesh.zone.acknowledged(CART, changed).await;
    let [refused] = &state.refused[..] else { panic!("{:?}", state.refused) };
    assert_eq!(refused.key, "inbound/8080");
    assert_eq!(mesh.cart.pending(), ["listeners"]);

    drop(taken);
    ready(&mesh.cart).await;
    assert_eq!(bound(&mesh.cart, Purpose::Inbound(8080)).await, address);
    mesh.zone.until(CART, "nothing is refused any more", |state| state.refused.is_empty()).await;
}

#[tokio::test]
async fn what_could_not_be_stored_is_not_acknowledged_and_gives_way_to_what_can_be() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let file = mesh.cart_folder.path("state").join("state.json");
    let kept = std::fs::read(&file).unwrap();
    // Nothing can be put in its place.
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("in the way")).unwrap();

    let rules = |effect| [("inbound/8080", Some(inbound("http", anywhere(), mesh.http, effect)))];
    let denied = mesh.zone.set(CART, &rules("deny"));
    let state = mesh.zone.until(CART, "a session that ends", |state| !state.ended.is_empty()).await;
    assert!(state.acknowledged < denied);
    mesh.get_status(" 403 ").await;

    // What is stored is what the zone wants by now, but it is not what is in force.
    let allowed = mesh.zone.set(CART, &rules("allow"));
    std::fs::remove_dir_all(&file).unwrap();
    std::fs::write(&file, kept).unwrap();
    mesh.zone.acknowledged(CART, allowed).await;
    let (line, _) = get(outbound(mesh.web(), CART_HTTP).await).await;
    assert!(line.contains(" 200 "), "{line}");
}

#[tokio::test]
async fn another_identity_is_certified_at_once_and_none_ends_all_service() {
    let mesh = Mesh::start().await;
    assert_eq!(mesh.get_status(" 200 ").await, WEB_ID);
    let other = "spiffe://default.east.mesh.local/workload/frontend";
    mesh.zone.identify(WEB, other);
    mesh.zone.until(WEB, "another certificate", |state| state.certificates == 2).await;
    let changed = async {
        while get_until(outbound(mesh.web(), CART_HTTP).await, " 200 ").await != other {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, changed).await.expect("the new identity in time");

    let changed = mesh.zone.set(WEB, &[("identity", None)]);
    mesh.zone.acknowledged(WEB, changed).await;
    assert_eq!(mesh.web().pending(), ["identity"]);
    assert!(mesh.web().bound().await.is_empty());
}

#[tokio::test]
async fn a_destination_that_is_gone_is_not_asked_for_any_more() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let listeners =
        serde_json::json!({ "outbound": [{ "address": anywhere(), "destination": CART_TCP }] }).to_string();
    mesh.zone.set(WEB, &[("listeners", Some(listeners))]);
    let wanted = format!("destination/{CART_HTTP}");
    let unwanted = mesh.zone.until(WEB, "an end of interest", |state| !state.is_subscribed(&wanted)).await;
    assert!(!unwanted.is_subscribed(&format!("endpoints/{CART_HTTP}")));
    assert!(unwanted.is_subscribed(&format!("endpoints/{CART_TCP}")));
    assert_eq!(mesh.web().bound().await.len(), 1);
}

#[tokio::test]
async fn who_shuts_down_says_drained_when_nothing_is_carried_any_more() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let mut stream = TcpStream::connect(outbound(mesh.web(), CART_TCP).await).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    assert_eq!(mesh.hear().await, b"before");

    let Mesh { zone, cart, mut heard, web, serving: _serving, tcp, .. } = mesh;
    let listens = bound(&cart, Purpose::Inbound(8081)).await;
    let ending = tokio::spawn(cart.shutdown());
    let closed = async { while TcpStream::connect(listens).await.is_ok() {} };
    time::timeout(PATIENCE, closed).await.expect("no more are accepted");
    stream.write_all(b"after").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"after", "what is open goes on");
    assert!(zone.state(CART).ended.is_empty(), "and the zone is not told that it does not");

    zone.set(CART, &[("inbound/8081", Some(inbound("tcp", anywhere(), tcp, "deny")))]);
    assert_eq!(heard.recv().await.unwrap(), b"", "a denial ends it");
    drop(web);
    let state = zone.until(CART, "the end", |state| !state.ended.is_empty()).await;
    assert_eq!(state.ended, [Ended::ByPeer("drained".into())]);
    ending.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sidecar_serves_on_until_its_zone_lets_it_go_and_its_application_until_others_are_served() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let mut stream = TcpStream::connect(outbound(mesh.web(), CART_TCP).await).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    assert_eq!(mesh.hear().await, b"before");
    let listeners = serde_json::json!({ "outbound": [{ "address": anywhere(), "destination": CART_HTTP }] });
    let wanted = format!("destination/{CART_HTTP}");
    mesh.zone.set(CART, &[("listeners", Some(listeners.to_string())), (&wanted, Some(destination("http")))]);
    let listens = async {
        while !mesh.cart.bound().await.iter().any(|bound| matches!(bound.purpose, Purpose::Outbound(_))) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, listens).await.expect("a port for its own application");

    let Mesh { zone, cart, web, serving: _serving, .. } = mesh;
    let (inbound, own) = (bound(&cart, Purpose::Inbound(8081)).await, outbound(&cart, CART_HTTP).await);
    let http = outbound(web.as_ref().unwrap(), CART_HTTP).await;
    zone.let_go(false);
    let ending = tokio::spawn(cart.shutdown());
    zone.until(CART, "the word", |state| state.is_draining).await;
    let (line, _) = get(http).await;
    assert!(line.contains(" 200 "), "{line}");
    TcpStream::connect(inbound).await.expect("who has not heard of it is served");

    zone.let_go(true);
    let closed = |address| async move { while TcpStream::connect(address).await.is_ok() {} };
    time::timeout(PATIENCE, closed(inbound)).await.expect("no more are accepted");
    TcpStream::connect(own).await.expect("answering others may take calls of the application");
    drop(stream);
    time::timeout(PATIENCE, closed(own)).await.expect("nobody is served any more");
    ending.await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_stays_to_the_end_of_the_grace_leaves_the_own_application_a_part_of_it() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let mut stays = TcpStream::connect(outbound(mesh.web(), CART_TCP).await).await.unwrap();
    stays.write_all(b"before").await.unwrap();
    assert_eq!(mesh.hear().await, b"before");
    // A request of the cart's own application is on its way for as long as this endpoint says nothing.
    let silent = TcpListener::bind(anywhere()).await.unwrap();
    mesh.zone.signal(CART, &format!("endpoints/{CART_HTTP}"), endpoint(silent.local_addr().unwrap()));
    let listeners = serde_json::json!({ "outbound": [{ "address": anywhere(), "destination": CART_HTTP }] });
    let patient = destination("http").replace("5000", "60000");
    let wanted = format!("destination/{CART_HTTP}");
    mesh.zone.set(CART, &[("listeners", Some(listeners.to_string())), (&wanted, Some(patient))]);
    let listens = async {
        while !mesh.cart.bound().await.iter().any(|bound| matches!(bound.purpose, Purpose::Outbound(_))) {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(PATIENCE, listens).await.expect("a port for its own application");
    let own = outbound(&mesh.cart, CART_HTTP).await;
    let on_its_way = async {
        loop {
            let asking = tokio::spawn(get(own));
            // Endpoints are signals: before they come the answer does.
            if let Ok(held) = time::timeout(Duration::from_secs(1), silent.accept()).await {
                return (asking, held.unwrap().0);
            }
        }
    };
    let (asking, held) = time::timeout(PATIENCE, on_its_way).await.expect("a request on its way");

    let ending = tokio::spawn(mesh.cart.shutdown());
    let closed = async {
        while TcpStream::connect(own).await.is_ok() {
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(PATIENCE, closed).await.expect("the goodbye to the own application");
    drop((held, silent));
    let (line, _) = time::timeout(PATIENCE, asking).await.unwrap().expect("an answer after the goodbye");
    assert!(line.contains(" 503 "), "{line}");
    ending.await.unwrap().unwrap();
    drop(stays);
}

#[tokio::test]
async fn endpoints_outlive_an_identity_that_goes_and_comes_back() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let gone = mesh.zone.set(WEB, &[("identity", None)]);
    mesh.zone.acknowledged(WEB, gone).await;
    let back = mesh.zone.identify(WEB, WEB_ID);
    mesh.zone.acknowledged(WEB, back).await;
    ready(mesh.web()).await;
    assert_eq!(mesh.get_status(" 200 ").await, WEB_ID);
}

#[tokio::test]
async fn nobody_carries_no_connection_that_it_opened_as_someone() {
    let mut mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let mut stream = TcpStream::connect(outbound(mesh.web(), CART_TCP).await).await.unwrap();
    stream.write_all(b"before").await.unwrap();
    assert_eq!(mesh.hear().await, b"before");
    let gone = mesh.zone.set(WEB, &[("identity", None)]);
    mesh.zone.acknowledged(WEB, gone).await;
    let _ = stream.write_all(b"after").await;
    assert_eq!(mesh.hear().await, b"", "the end, and nothing before it");
}

#[tokio::test]
async fn a_first_set_is_acknowledged_once_its_certificate_is_there() {
    let mesh = Mesh::start().await;
    let Mesh { zone, serving, .. } = &mesh;
    let folder = Folder::new(zone, serving.as_ref().unwrap(), "late-1", "{port: 8080, servicePort: 80}");
    let peer = "proxy/default/late-1";
    let set = zone.set(
        peer,
        &[
            ("identity", Some(format!(r#"{{"id":"{CART_ID}"}}"#))),
            ("trust", Some(trust(zone))),
            ("listeners", Some(r#"{"outbound":[]}"#.into())),
            ("inbound/8080", Some(inbound("http", anywhere(), mesh.http, "allow"))),
        ],
    );
    // The zone does not say yet who it is when it asks.
    let late = folder.start().await;
    let state = zone.acknowledged(peer, set).await;
    let waiting: Vec<_> = state.refused.iter().map(|refused| refused.key.as_str()).collect();
    assert_eq!(waiting, ["identity", "trust", "listeners", "inbound/8080"]);
    assert!(
        state.refused.iter().all(|refused| refused.reason.contains("certificate")),
        "{:?}",
        state.refused
    );
    assert!(late.bound().await.is_empty());

    // From now on it is certified, and every part is in force without a change.
    let changed = zone.certify(peer, CART_ID);
    assert_eq!(changed, set);
    zone.until(peer, "nothing is refused", |state| state.refused.is_empty()).await;
    assert_eq!(late.bound().await.len(), 1);
}

#[tokio::test]
async fn the_program_says_when_it_is_ready_and_drains_when_it_is_asked_to_stop() {
    let mesh = Mesh::start().await;
    mesh.get_status(" 200 ").await;
    let folder = Folder::new(&mesh.zone, mesh.serving.as_ref().unwrap(), "web-2", "");
    let web_2 = "proxy/default/web-2";
    mesh.zone.identify(web_2, WEB_ID);
    let listeners =
        serde_json::json!({ "outbound": [{ "address": anywhere(), "destination": CART_HTTP }] }).to_string();
    mesh.zone.set(
        web_2,
        &[
            ("trust", Some(trust(&mesh.zone))),
            ("listeners", Some(listeners)),
            (&format!("destination/{CART_HTTP}"), Some(destination("http"))),
        ],
    );
    let cart = bound(&mesh.cart, Purpose::Inbound(8080)).await;
    mesh.zone.signal(web_2, &format!("endpoints/{CART_HTTP}"), endpoint(cart));

    let options = folder.options();
    let mut program = Command::new(env!("CARGO_BIN_EXE_tombolo-dataplane"))
        .args(["--zone-cp", &options.zone_cp, "--ready-address", "127.0.0.1:0"])
        .args(["--metrics-address", "127.0.0.1:0", "--drain-time", "1"])
        .arg("--token-file")
        .arg(options.token_file)
        .arg("--dataplane")
        .arg(options.dataplane)
        .arg("--state-dir")
        .arg(options.state_dir)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines();
    let line = time::timeout(PATIENCE, lines.next_line()).await.expect("ready in time").unwrap().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["ready"], "tombolo-dataplane");
    let listen = line["listen"][0].as_str().unwrap().parse().unwrap();
    assert_eq!(get_until(listen, " 200 ").await, WEB_ID);

    let id = program.id().unwrap().to_string();
    Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
    let ended = time::timeout(PATIENCE, program.wait()).await.expect("an end in time").unwrap();
    assert!(ended.success());
    let state = mesh.zone.until(web_2, "the end", |state| !state.ended.is_empty()).await;
    assert_eq!(state.ended, [Ended::ByPeer("drained".into())]);
}

#[tokio::test]
async fn a_document_with_mistakes_is_an_error_with_their_places() {
    let zone = Zone::new();
    let serving = zone.serve().await;
    let folder = Folder::new(&zone, &serving, "web-1", "{port: 0}, {prot: 1}");
    let error = dataplane::start(folder.options()).await.err().unwrap().to_string();
    assert_eq!(error.lines().count(), 3, "{error}");
    assert!(error.contains("dataplane.yaml:3:"), "{error}");
}
