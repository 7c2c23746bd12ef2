//! A zone is ready from when it has policy to tell, and then for good.

use std::net::SocketAddr;

use api::shapes::{TokenKind, TokenRequest};
use demo::api_client::ApiClient;
use demo::mesh::LIMIT;
use global_cp::GlobalCp;
use identity::ServerRole;
use model::ZoneName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;
use zone_cp::ZoneCp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_is_ready_with_its_first_policy_and_again_at_once_without_its_global() {
    let dir = tempfile::tempdir().unwrap();
    let (global_dir, token_file) = (dir.path().join("global"), dir.path().join("east.token"));
    let global = GlobalCp::start(global_cp::Options::local(&global_dir)).await.unwrap();
    let api = ApiClient::new(global.addresses.api, &global_dir, ServerRole::Global).unwrap();
    let east: ZoneName = "east".parse().unwrap();
    let request = TokenRequest { zone: Some(east.clone()), ..TokenRequest::default() };
    std::fs::write(&token_file, api.token(TokenKind::Zone, &request).await.unwrap()).unwrap();
    let addresses = global.addresses;
    global.shutdown().await.unwrap();

    let options = zone_cp::Options {
        global: Some(addresses.sync.to_string()),
        token_file: Some(token_file),
        ..zone_cp::Options::local(east, dir.path().join("east"))
    };
    let zone = ZoneCp::start(options.clone()).await.unwrap();
    let said = readiness(zone.addresses.health).await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("the first policy of the global"), "{said}");

    let back = global_cp::Options {
        api_address: addresses.api,
        sync_address: addresses.sync,
        ..global_cp::Options::local(&global_dir)
    };
    let global = GlobalCp::start(back).await.unwrap();
    until_ready(zone.addresses.health).await;
    zone.shutdown().await.unwrap();
    global.shutdown().await.unwrap();

    let zone = ZoneCp::start(options).await.unwrap();
    until_ready(zone.addresses.health).await;
    zone.shutdown().await.unwrap();
}

async fn until_ready(health: SocketAddr) {
    let ready = async {
        while !readiness(health).await.starts_with("HTTP/1.1 200") {
            time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    time::timeout(LIMIT, ready).await.expect("it never gets ready");
}

async fn readiness(health: SocketAddr) -> String {
    let mut stream = TcpStream::connect(health).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
