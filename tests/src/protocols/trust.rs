//! What a peer's word is worth: who calls and what is reached is never its to say.

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper::body::Incoming;
use identity::Alpn;
use model::Protocol;
use tokio::net::TcpStream;

use super::apps::{App, Speaks, full};
use super::mesh::{Mesh, WEB};
use super::raw::Raw;

/// An application that notes who asked it for which host, and says our words back.
async fn application() -> (App, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let log = seen.clone();
    let app = App::start(Speaks::Http1, move |request: Request<Incoming>| {
        let all = |name: &str| {
            let values = request.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(" and ")
        };
        let ours =
            [all("host"), all("tombolo-client-id"), all("tombolo-decision-id"), all("tombolo-unreached")];
        log.lock().unwrap().push(ours.join("|"));
        async {
            let answer =
                Response::builder().header("tombolo-decision-id", "1").header("tombolo-unreached", "1");
            answer.body(full("")).unwrap()
        }
    });
    (app.await, seen)
}

#[tokio::test]
async fn s17_only_proxies_say_what_begins_with_tombolo() {
    let (app, seen) = application().await;
    let mesh = Mesh::start(Protocol::Http, &[("west", app.address)]).await;
    let forged = "GET / HTTP/1.1\r\nHost: catalog\r\nTombolo-Client-Id: spiffe://a/b\r\ntombolo-client-id: spiffe://a/c\r\n\
                  Tombolo-Decision-Id: 1\r\nTombolo-Unreached: 1\r\nConnection: tombolo-client-id, host\r\n\r\n";
    let mut client = Raw::over(TcpStream::connect(mesh.outbound).await.unwrap());
    let mut peer = Raw::over(mesh.peer(Alpn::Http1).await);
    client.say(forged).await;
    peer.say(forged).await;
    for answer in [client.head().await, peer.head().await] {
        assert!(answer.starts_with("http/1.1 200 ") && !answer.contains("tombolo-"), "{answer}");
    }
    assert_eq!(*seen.lock().unwrap(), [format!("catalog|{WEB}||"), format!("catalog|{WEB}||")]);
    mesh.stop().await;
}

/// A service is reached under many names (addresses, host names of the mesh, names of several zones), and which
/// they are is known where a client resolves them, not at the inbound. So there the name is the application's to
/// judge: what is authorised is the inbound, whatever the name, and what is reached is its application alone.
#[tokio::test]
async fn s45_the_name_that_a_peer_asks_for_opens_no_other_application() {
    let (catalog, asked_of_catalog) = application().await;
    let (cart, asked_of_cart) = application().await;
    let mesh = Mesh::start(Protocol::Http, &[("west", catalog.address), ("west", cart.address)]).await;
    let names = ["catalog", "cart", &cart.address.to_string(), "CATALOG.:8080", "127.0.0.1", "[::1]:80"];
    for name in names {
        for target in ["/".to_owned(), format!("http://{name}/")] {
            let mut peer = Raw::over(mesh.peer(Alpn::Http1).await);
            peer.say(format!("GET {target} HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
            assert!(peer.head().await.starts_with("http/1.1 200 "), "{name}");
        }
    }
    let asked: Vec<String> =
        names.iter().flat_map(|name| [name; 2]).map(|name| format!("{name}|{WEB}||")).collect();
    assert_eq!(*asked_of_catalog.lock().unwrap(), asked);
    assert!(asked_of_cart.lock().unwrap().is_empty());
    mesh.stop().await;
}
