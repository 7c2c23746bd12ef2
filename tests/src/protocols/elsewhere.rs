//! What never reached an application goes to another endpoint.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

use super::apps::{App, Client, Speaks, channel, collect, full, nobody};
use super::mesh::Mesh;

async fn echo(speaks: Speaks) -> (App, Arc<AtomicUsize>) {
    echo_at("127.0.0.1:0".parse().unwrap(), speaks).await
}

async fn echo_at(address: SocketAddr, speaks: Speaks) -> (App, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let app = App::start_at(address, speaks, move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Response::new(full(collect(request.into_body()).await.0)) }
    });
    (app.await, served)
}

#[tokio::test]
async fn a_request_that_one_application_does_not_take_goes_to_another_whole() {
    for (protocol, speaks) in [(Protocol::Http, Speaks::Http1), (Protocol::Http2, Speaks::Http2)] {
        let (app, served) = echo(speaks).await;
        let gone = nobody().await;
        // Those of the own zone come first, and they are all gone.
        let catalogs = [("east", gone), ("east", gone), ("west", app.address)];
        let mesh = Mesh::start(protocol, &catalogs).await;
        let mut client = Client::connect(speaks, mesh.outbound).await;
        for number in 0..20 {
            let body = vec![number; 60 * 1024];
            let response = client.send(Request::post("/").body(full(body.clone())).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{speaks:?} {number}");
            assert!(collect(response.into_body()).await.0 == body, "{speaks:?} {number}");
        }
        assert_eq!(served.load(Ordering::Relaxed), 20);
        let counters = mesh.counters().await;
        assert_eq!((counters.outbound_requests, counters.outbound_failures), (20, 0));
        // Once they have refused, they are left alone for a while.
        let asked: u64 = {
            let mut asked = 0;
            for sidecar in &mesh.west {
                asked += sidecar.counters().await.unwrap().application_failures;
            }
            asked
        };
        assert!((2..20).contains(&asked), "{speaks:?}: {asked}");
        mesh.stop().await;
    }
}

#[tokio::test]
async fn a_body_that_outgrew_what_is_kept_is_not_sent_again() {
    let (app, served) = echo(Speaks::Http1).await;
    let mesh = Mesh::start(Protocol::Http, &[("east", nobody().await), ("west", app.address)]).await;
    let mut client = Client::connect(Speaks::Http1, mesh.outbound).await;
    // It is sent at once, before the refusal can come: no endpoint is known to refuse yet.
    let body = vec![7; 1024 * 1024];
    let response = client.send(Request::post("/").body(full(body.clone())).unwrap()).await;
    if let Ok(response) = response {
        let status = response.status();
        let (answer, _) = collect(response.into_body()).await;
        match status {
            // The refusal was faster.
            StatusCode::OK => assert!(answer == body),
            status => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(served.load(Ordering::Relaxed), 0);
            }
        }
    }
    // The next finds the other at once.
    let mut client = Client::connect(Speaks::Http1, mesh.outbound).await;
    let response = client.send(Request::post("/").body(full("small")).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    mesh.stop().await;
}

#[tokio::test]
async fn a_body_that_comes_slowly_follows_to_the_other_endpoint() {
    let (app, _) = echo(Speaks::Http1).await;
    let mesh = Mesh::start(Protocol::Http, &[("east", nobody().await), ("west", app.address)]).await;
    let mut client = Client::connect(Speaks::Http1, mesh.outbound).await;
    let (mut sender, body) = channel();
    let writing = tokio::spawn(async move {
        for number in 0..100_u8 {
            sender.send_data(Bytes::from(vec![number; 500])).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let response = client.send(Request::post("/").body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let want: Vec<u8> = (0..100_u8).flat_map(|number| vec![number; 500]).collect();
    assert!(collect(response.into_body()).await.0 == want);
    writing.await.unwrap();
    mesh.stop().await;
}

#[tokio::test]
async fn an_opaque_connection_goes_to_another_endpoint_as_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gone = nobody().await;
    let mesh = Mesh::start(Protocol::Tcp, &[("east", gone), ("east", gone), ("west", address)]).await;
    for _ in 0..5 {
        let mut client = TcpStream::connect(mesh.outbound).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let (mut served, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 5];
        served.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
    }
    assert_eq!(mesh.counters().await.outbound_failures, 0);
    mesh.stop().await;
}

#[tokio::test]
async fn another_zone_takes_over_and_gives_back() {
    // An address that nobody else takes while the application is gone.
    let own = SocketAddr::from(([127, rand::random_range(1..=254), rand::random(), 1], 0));
    let (near, near_served) = echo_at(own, Speaks::Http1).await;
    let (far, far_served) = echo(Speaks::Http1).await;
    let near_address = near.address;
    let mesh = Mesh::start(Protocol::Http, &[("east", near_address), ("west", far.address)]).await;
    let mut client = Client::connect(Speaks::Http1, mesh.outbound).await;
    let mut get = async || {
        let response = client.send(Request::get("/").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        collect(response.into_body()).await;
    };
    for _ in 0..10 {
        get().await;
    }
    let count = |served: &AtomicUsize| served.load(Ordering::Relaxed);
    assert_eq!((count(&near_served), count(&far_served)), (10, 0), "the own zone has one, and it is well");

    drop(near);
    // What it was asked while it went may have reached it: only requests after that count.
    while TcpStream::connect(near_address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let response = client_after(&mesh).await;
    assert!(response.is_success() || response == StatusCode::BAD_GATEWAY, "{response}");
    for _ in 0..10 {
        assert_eq!(client_after(&mesh).await, StatusCode::OK);
    }
    assert!(count(&far_served) >= 10);

    let (_near, near_served) = echo_at(near_address, Speaks::Http1).await;
    // It is left alone for a while, but not for long.
    let back = async {
        while count(&near_served) == 0 {
            assert_eq!(client_after(&mesh).await, StatusCode::OK);
        }
    };
    time::timeout(Duration::from_secs(30), back).await.expect("the own zone's is asked again");
    let far_before = count(&far_served);
    for _ in 0..10 {
        assert_eq!(client_after(&mesh).await, StatusCode::OK);
    }
    assert_eq!((count(&near_served), count(&far_served)), (11, far_before), "and no other from then on");
    mesh.stop().await;
}

async fn client_after(mesh: &Mesh) -> StatusCode {
    let mut client = Client::connect(Speaks::Http1, mesh.outbound).await;
    client.send(Request::get("/").body(full("")).unwrap()).await.unwrap().status()
}
