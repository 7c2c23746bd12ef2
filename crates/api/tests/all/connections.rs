//! Real connections: TLS, plain HTTP, garbage, many, slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{AdmitAll, Authority};
use axum::Router;
use axum::routing::get;
use model::Origin;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{TOKEN, config};

struct Server {
    address: SocketAddr,
    ca: CertificateDer<'static>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Server {
    async fn start(extra: Router) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let ca = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![ca.clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let config =
            config(store::MemoryStore::new(Origin::Global), Authority::Here, Arc::new(AdmitAll), extra);
        let served = tokio::spawn(api::serve(listener, Arc::new(tls), config, stop.clone()));
        Self { address, ca, stop, served }
    }

    fn client(&self, http1: bool) -> reqwest::Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = if http1 { vec![] } else { vec![b"h2".to_vec()] };
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
        if http1 { client.http1_only() } else { client }.build().unwrap()
    }

    async fn get(&self, client: &reqwest::Client, path: &str) -> (u16, reqwest::Version, String) {
        let request = client.get(format!("https://{}{path}", self.address)).bearer_auth(TOKEN);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.version(), response.text().await.unwrap())
    }

    async fn works(&self) {
        assert_eq!(self.get(&self.client(false), "/meshes").await.0, 200);
    }
}

async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // A reset is as good an end as any, for garbage.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn both_versions_of_http_are_served_over_tls() {
    let server = Server::start(Router::new()).await;
    for (http1, version) in [(false, reqwest::Version::HTTP_2), (true, reqwest::Version::HTTP_11)] {
        let (status, spoken, body) = server.get(&server.client(http1), "/meshes").await;
        assert_eq!((status, spoken, body.as_str()), (200, version, r#"{"items":[],"next":null}"#));
    }
}

#[tokio::test]
async fn plain_http_is_told_so_and_garbage_is_closed_and_the_rest_is_served() {
    let server = Server::start(Router::new()).await;
    let answer = raw(server.address, b"GET /meshes HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let problem: api::Problem = serde_json::from_str(body).unwrap();
    assert_eq!((problem.status, problem.detail.as_ref()), (400, "use https instead of http"));

    raw(server.address, &[0; 64]).await;
    raw(server.address, b"\x16\x03\x01\x40\x00garbage garbage garbage").await;
    raw(server.address, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00").await;
    drop(TcpStream::connect(server.address).await.unwrap());
    server.works().await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let server = Server::start(Router::new()).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    server.works().await;
}

#[tokio::test]
async fn a_watch_ends_with_the_server_and_keeps_it_from_nothing() {
    for http1 in [false, true] {
        let server = Server::start(Router::new()).await;
        let url = format!("https://{}/meshes?watch=true", server.address);
        let mut lines = server.client(http1).get(url).bearer_auth(TOKEN).send().await.unwrap();
        assert!(lines.chunk().await.unwrap().unwrap().starts_with(b"{\"event\":\"bookmark\""));
        let start = Instant::now();
        server.stop.cancel();
        server.served.await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "it was not waited for");
        // A whole answer, not one that was cut: that would be an error.
        while let Some(rest) = lines.chunk().await.unwrap() {
            assert!(rest.is_empty(), "{rest:?}");
        }
    }
}

#[tokio::test]
async fn a_request_that_runs_is_finished_when_the_server_stops() {
    let (began, beginning) = oneshot::channel::<()>();
    let (finish, finishing) = oneshot::channel::<()>();
    let once = Arc::new(std::sync::Mutex::new(Some((began, finishing))));
    let slow = get(move || async move {
        let (began, finishing) = once.lock().unwrap().take().unwrap();
        began.send(()).unwrap();
        finishing.await.unwrap();
        "finished"
    });
    let server = Server::start(Router::new().route("/slow", slow)).await;
    let client = server.client(true);
    let request = client.get(format!("https://{}/slow", server.address)).bearer_auth(TOKEN).send();
    let answer = tokio::spawn(async move { request.await.unwrap().text().await.unwrap() });
    beginning.await.unwrap();
    server.stop.cancel();
    finish.send(()).unwrap();
    assert_eq!(answer.await.unwrap(), "finished");
    tokio::time::timeout(Duration::from_secs(5), server.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is closed");
}
