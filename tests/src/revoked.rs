//! A sidecar that was stolen: its token is revoked, and nobody is led to it any more.

use std::net::SocketAddr;
use std::time::Duration;

use api::shapes::{LateReason, RevokeRequest, TokenKind, TokenRequest};
use demo::Mesh;
use demo::mesh::LIMIT;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

const SERVICE: &str = "cart";
const ZONE: &str = "west";
const PROXY: &str = "default/cart-1";
/// What it joins with, in the folder of the mesh.
const TOKEN: &str = "west-cart-1.token";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s39_flows_through_the_ingress_end_when_the_token_of_a_sidecar_is_revoked() {
    let mesh = Mesh::start(&mut |_| {}).await.unwrap();
    let is_led_there = |pair: &demo::traffic::Pair| pair.crosses_zones() && pair.called == SERVICE;
    let (_, address) = mesh.streams().into_iter().find(|(pair, _)| is_led_there(pair)).unwrap();
    let mut flow = exchange(address).await.unwrap();

    let api = mesh.zone_api(ZONE).unwrap();
    let token = std::fs::read_to_string(mesh.dir().join(TOKEN)).unwrap();
    let revoke = api.request(Method::POST, "/tokens/revoke").json(&RevokeRequest::Token(token));
    assert_eq!(revoke.send().await.unwrap().status(), 200);
    let ended = time::timeout(LIMIT, flow.read(&mut [0])).await.expect("the flow stays open");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(exchange(address).await.is_err(), "nor does a new one get there");

    // What it runs counts as long as others believe its certificate, and whoever asks is told why nobody knows.
    let text = "type: MeshTrafficPermission\nmesh: default\nname: nobodys\nspec:\n  rules:\n  - default:\n      \
                allow:\n      - source: {workload: nobody}\n";
    let revision = api.put("/meshes/default/meshtrafficpermissions/nobodys", text).await.unwrap();
    until("it is missed as revoked", async || {
        let told = api.revision(&revision, Duration::ZERO).await.unwrap();
        matches!(&told.late[..], [one] if one.proxy == PROXY && one.reason == LateReason::Revoked)
    })
    .await;

    let request = TokenRequest {
        mesh: Some("default".parse().unwrap()),
        workload: Some(SERVICE.parse().unwrap()),
        addresses: vec![mesh.inbound(SERVICE, ZONE).unwrap().ip()],
        ..TokenRequest::default()
    };
    mesh.write(TOKEN, &api.token(TokenKind::Dataplane, &request).await.unwrap()).unwrap();
    until("it is back by another token", async || exchange(address).await.is_ok()).await;
    api.applied(&revision, LIMIT).await.unwrap();
    mesh.shutdown().await.unwrap();
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(2 * LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn exchange(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"hello").await?;
    let mut back = [0; 5];
    stream.read_exact(&mut back).await?;
    Ok(stream)
}
