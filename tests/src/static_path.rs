//! Proxies that are told everything by files: a request and an opaque connection cross from zone to zone, and
//! nobody gets in who may not.

mod apps;
mod pki;
mod recorder;
mod told;
mod zones;

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

use self::apps::{read_to_end, send};
use self::zones::{CATALOG, Setup, WEB, Zones};

#[tokio::test]
async fn a_request_crosses_and_the_application_sees_who_sent_it() {
    let zones = Zones::start(Setup::default()).await;
    let mut headers = HeaderMap::new();
    headers.insert("host", "catalog.shop:8080".parse().unwrap());
    headers.insert("tombolo-client-id", "spiffe://default.west.mesh.local/workload/forged".parse().unwrap());
    headers.insert("connection", "x-mine".parse().unwrap());
    headers.insert("x-mine", "1".parse().unwrap());

    let answer = send(zones.http, "POST", "/items?page=2", headers, b"body".to_vec()).await;
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, &b"POST /items?page=2"[..]));

    let seen = zones.app.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].body, b"body");
    let header = |name: &str| seen[0].headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(header("tombolo-client-id"), [WEB]);
    assert_eq!(header("host"), ["catalog.shop:8080"]);
    assert_eq!(header("x-mine"), Vec::<&str>::new());
    zones.stop().await;
}

#[tokio::test]
async fn many_requests_share_one_connection_between_the_zones() {
    let zones = Zones::start(Setup::default()).await;
    for _ in 0..20 {
        let answer = zones.get("/").await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(zones.recorder.connections(), 1);
    assert_eq!(zones.east.counters().await.unwrap().connects, 1);
    zones.stop().await;
}

#[tokio::test]
async fn an_opaque_connection_crosses_and_its_halves_end_on_their_own() {
    let zones = Zones::start(Setup::default()).await;
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await.unwrap(), b"after 5 bytes");
    zones.stop().await;
}

#[tokio::test]
async fn large_bodies_cross_unchanged_both_ways() {
    let zones = Zones::start(Setup::default()).await;
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = send(zones.http, "POST", "/echo", host(), body.clone()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == body);

    let (mut read, mut write) = TcpStream::connect(zones.tcp).await.unwrap().into_split();
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    read.read_to_end(&mut received).await.unwrap();
    sending.await.unwrap();
    assert!(received.strip_suffix(b"after 5000000 bytes") == Some(body.as_slice()));
    zones.stop().await;
}

#[tokio::test]
async fn between_the_zones_nothing_can_be_read() {
    let zones = Zones::start(Setup::default()).await;
    let marker: [u8; 32] = rand::random();
    let answer = send(zones.http, "POST", "/echo", host(), marker.to_vec()).await;
    assert_eq!(answer.body, marker);
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(&marker).await.unwrap();
    let mut echo = [0; 32];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(echo, marker);
    drop(stream);

    let recorded = zones.recorder.recorded();
    assert!(recorded.len() > 2000, "the relay saw both connections");
    assert!(!recorded.windows(32).any(|window| window == marker));
    let handle = zones::HTTP_HANDLE.as_bytes();
    assert!(recorded.windows(handle.len()).any(|window| window == handle), "but it sees the handle");
    zones.stop().await;
}

#[tokio::test]
async fn s35_a_server_with_a_certificate_of_another_zones_authority_is_refused() {
    let zones = Zones::start(Setup { forged_server: true, ..Setup::default() }).await;
    refused(zones, &["handshake-failed"]).await;
}

#[tokio::test]
async fn s35_a_client_with_a_certificate_of_another_zones_authority_is_refused() {
    let zones = Zones::start(Setup { forged_client: true, ..Setup::default() }).await;
    // TLS 1.3: the client's handshake succeeds, the server's refusal comes after it.
    refused(zones, &["not-established"]).await;
}

#[tokio::test]
async fn a_server_that_is_not_the_expected_one_is_not_spoken_to() {
    let expected = "spiffe://default.west.mesh.local/workload/cart";
    let zones = Zones::start(Setup { expected, ..Setup::default() }).await;
    let east = zones.east.counters().await.unwrap();
    assert_eq!(east.wrong_identities, 0);
    let answer = zones.get("/").await;
    assert_eq!(
        (answer.status, answer.reason().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "wrong-identity")
    );
    let east = zones.east.counters().await.unwrap();
    assert_eq!(east.wrong_identities, 1);
    // For as long as it is ejected it is not even asked again.
    refused(zones, &["no-endpoint", "wrong-identity"]).await;
}

#[tokio::test]
async fn an_identity_that_only_a_signal_names_is_not_spoken_to() {
    let zones = Zones::start(Setup { identities: &[WEB], ..Setup::default() }).await;
    let answer = zones.get("/").await;
    assert_eq!(answer.reason(), "no-endpoint");
    assert_eq!(zones.recorder.connections(), 0);
    zones.stop().await;
}

#[tokio::test]
async fn without_a_permission_a_request_is_denied_and_a_connection_closed() {
    let zones = Zones::start(Setup { allowed: &[CATALOG], ..Setup::default() }).await;
    let answer = zones.get("/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "denied"));
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let decision = answer.headers["tombolo-decision-id"].to_str().unwrap();
    let denial = zones.west.denial(decision).await.unwrap().expect("the proxy remembers it");
    assert_eq!((denial.client.as_str(), denial.rule), (WEB, None));

    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    assert!(read_to_end(&mut stream).await.is_err(), "a reset, not an orderly end");
    assert_eq!((zones.app.requests().len(), zones.app.connections()), (0, 0));
    assert_eq!(zones.west.counters().await.unwrap().denials, 2);
    zones.stop().await;
}

#[tokio::test]
async fn what_is_open_ends_when_its_permission_does() {
    let zones = Zones::start(Setup::default()).await;
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let mut stream_of_events = apps::open(zones.http, "/events").await;
    assert!(stream_of_events.frame().await.unwrap().is_ok());

    // Another rule, by which it is still allowed, disturbs nothing.
    zones.allow(&[WEB, CATALOG]).await;
    stream.write_all(b"again").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    assert!(stream_of_events.frame().await.unwrap().is_ok());
    assert_eq!(zones.west.counters().await.unwrap().revocations, 0);

    zones.allow(&[]).await;
    // What is acknowledged has happened: the application has lost both already.
    zones.app.all_ended().await;
    assert!(read_to_end(&mut stream).await.is_err(), "a reset, not an orderly end");
    let last = loop {
        match stream_of_events.frame().await {
            Some(Ok(_)) => {}
            last => break last,
        }
    };
    assert!(matches!(last, Some(Err(_))), "not an orderly end");
    let answer = zones.get("/").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);

    zones.allow(&[WEB]).await;
    assert_eq!(zones.get("/").await.status, StatusCode::OK);
    assert_eq!(zones.recorder.connections(), 2, "requests go on over the connection that they had");
    zones.stop().await;
}

#[tokio::test]
async fn a_flow_through_the_ingress_ends_with_its_handle() {
    let zones = Zones::start(Setup::default()).await;
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    let mut handles = zones.handles.clone();
    handles.0.remove(zones::TCP_HANDLE);
    zones.ingress.handles(handles).await.unwrap();
    assert!(read_to_end(&mut stream).await.is_err());
    assert_eq!(zones.get("/").await.status, StatusCode::OK);
    zones.stop().await;
}

#[tokio::test]
async fn an_application_that_is_gone_is_told_from_one_that_denies() {
    let zones = Zones::start(Setup { application: false, ..Setup::default() }).await;
    let answer = zones.get("/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "refused"));
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    assert!(read_to_end(&mut stream).await.is_err());
    assert_eq!(zones.west.counters().await.unwrap().application_failures, 2);
    zones.stop().await;
}

#[tokio::test]
async fn a_proxy_that_stops_lets_open_requests_finish() {
    let zones = Zones::start(Setup::default()).await;
    let (http, tcp) = (zones.http, zones.tcp);
    let slow = tokio::spawn(send(http, "GET", "/slow", host(), Vec::new()));
    zones.app.asked_for("/slow").await;
    let grace = Duration::from_secs(10);
    let stopping = tokio::spawn(async move {
        // The last in the way first.
        zones.west.shutdown(grace).await;
        zones.ingress.shutdown(grace).await;
        zones.east.shutdown(grace).await;
        zones.app
    });
    let answer = time::timeout(grace, slow).await.expect("it hangs").unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, &b"slow"[..]));
    let app = time::timeout(grace, stopping).await.expect("it does not stop").unwrap();
    assert!(TcpStream::connect(http).await.is_err());
    assert!(TcpStream::connect(tcp).await.is_err());
    app.all_ended().await;
}

#[tokio::test]
async fn several_workers_share_the_connections() {
    let zones = Zones::start(Setup { workers: 3, ..Setup::default() }).await;
    let mut open = Vec::new();
    for _ in 0..6 {
        let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        open.push(stream);
    }
    for _ in 0..6 {
        assert_eq!(zones.get("/").await.status, StatusCode::OK);
    }
    let counters = zones.east.counters().await.unwrap();
    assert_eq!((counters.outbound_connections, counters.outbound_requests), (12, 6));

    zones.allow(&[]).await;
    for mut stream in open {
        assert!(read_to_end(&mut stream).await.is_err(), "each worker judges what it carries");
    }
    assert_eq!(zones.get("/").await.status, StatusCode::FORBIDDEN);
    zones.stop().await;
}

/// Neither requests nor opaque connections arrive.
async fn refused(zones: Zones, reasons: &[&str]) {
    let answer = zones.get("/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reasons.contains(&answer.reason().as_str()), "{}", answer.reason());
    let mut stream = TcpStream::connect(zones.tcp).await.unwrap();
    // The reset may come before the bytes are taken, and is told once.
    let written = stream.write_all(b"hello").await;
    assert!(written.is_err() || read_to_end(&mut stream).await.is_err(), "a reset, not an orderly end");
    assert_eq!(
        (zones.app.requests().len(), zones.app.connections()),
        (0, 0),
        "the application saw something"
    );
    zones.stop().await;
}

fn host() -> HeaderMap {
    HeaderMap::from_iter([(http::header::HOST, "catalog".parse().unwrap())])
}
