//! Whatever comes in that is wrong gets a clear answer or a closed connection, and disturbs nobody.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use api::shapes::{Problem, TokenKind, TokenRequest};
use identity::{Peer, Pin, PrivateKey, ServerRole, ca_of_token, client_config};
use reqwest::{Method, StatusCode};
use sync::client::{self, DialError, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

use super::{UpTo, every_pair_answers};
use crate::mesh::{LIMIT, Mesh, Port, Takes};

/// Five mistakes, each on a line of its own.
const FIVE_MISTAKES: &str = "\
type: MeshTrafficPermission
mesh: default
name: mistaken
labels: {tombolo.io/origin: zone}
spec:
  targetRef: {kind: Dataplanes}
  rulez: []
  rules:
  - default:
      allow:
      - spiffeID: {type: Exactly, value: web}
      - source: {workload: Not_A_Name}
";
const MISTAKEN: &str = "/meshes/default/meshtrafficpermissions/mistaken";
const LINES: [u32; 5] = [4, 6, 7, 11, 12];

pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let before = UpTo::now(mesh);
    five_mistakes(mesh).await.context("a document with five mistakes")?;
    wrong_tokens(mesh).await?;
    let ports = garbage(mesh).await?;
    for (name, address) in mesh.readiness() {
        for page in ["healthz", "readyz"] {
            let status = reqwest::get(format!("http://{address}/{page}")).await?.status();
            ensure!(status == StatusCode::OK, "after all that the {name} answers /{page} with {status}");
        }
    }
    every_pair_answers(mesh, "/undisturbed", |_| true).await.context("after all that")?;
    before.unfailed_since(mesh, |_| true).context("meanwhile")?;
    Ok(format!("five mistakes at lines {LINES:?}, four tokens, garbage on {ports} ports"))
}

async fn five_mistakes(mesh: &Mesh) -> anyhow::Result<()> {
    let response = mesh.api()?.request(Method::PUT, MISTAKEN).body(FIVE_MISTAKES).send().await?;
    ensure!(response.status() == StatusCode::BAD_REQUEST, "the answer is {}", response.status());
    let problem: Problem = response.json().await?;
    let lines: Vec<u32> = problem.invalid_parameters.iter().filter_map(|mistake| mistake.line).collect();
    ensure!(lines == LINES, "told were the lines {lines:?}: {:?}", problem.invalid_parameters);
    Ok(())
}

async fn wrong_tokens(mesh: &Mesh) -> anyhow::Result<()> {
    let api = mesh.api()?;
    let response = api.with_token("not-the-administrators").request(Method::GET, "/meshes").send().await?;
    ensure!(
        response.status() == StatusCode::UNAUTHORIZED,
        "the API answers a wrong token with {}",
        response.status()
    );

    let west = mesh.zone_api("west")?;
    let request = |valid_for: Option<&str>| -> anyhow::Result<TokenRequest> {
        Ok(TokenRequest {
            mesh: Some("default".parse()?),
            workload: Some("cart".parse()?),
            valid_for: valid_for.map(str::parse).transpose()?,
            ..TokenRequest::default()
        })
    };
    let good = west.token(TokenKind::Dataplane, &request(None)?).await?;
    let expired = west.token(TokenKind::Dataplane, &request(Some("1s"))?).await?;
    let pin = ca_of_token(&good)?;
    // A token's end is a whole second, rounded up.
    time::sleep(Duration::from_millis(2_050)).await;

    refused(mesh, &expired, pin, "an expired token", |error| matches!(error, DialError::Refused { .. }))
        .await?;
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    refused(mesh, &forged, pin, "a forged token", |error| matches!(error, DialError::Refused { .. })).await?;
    // A token that names another authority: the peer must not even show it.
    let other = Pin::of(b"the certificate of another authority");
    refused(mesh, &good, other, "a token for another authority", |error| {
        matches!(error, DialError::Tls { .. })
    })
    .await
}

async fn refused(
    mesh: &Mesh,
    token: &str,
    pin: Pin,
    what: &str,
    as_expected: impl Fn(&DialError) -> bool,
) -> anyhow::Result<()> {
    let server = ServerRole::Zone("west".parse()?);
    let target =
        Target { address: mesh.zone_addresses("west").sync.to_string(), server_name: server.tls_name() };
    let tls = client_config(pin, server, None)?;
    let peer = Peer::Proxy { mesh: "default".parse()?, name: "cart-2".parse()? };
    let request = PrivateKey::generate().request();
    match client::enrol(&target, tls, token, request.der(), &peer.to_string()).await {
        Ok(_) => bail!("{what} was taken"),
        Err(error) if as_expected(&error) => Ok(()),
        Err(error) => bail!("{what} was not refused as expected: {error}"),
    }
}

/// Every port gets a plain HTTP request and bytes that are nothing; what answers must say so or close. What an
/// application sends to its own sidecar as bytes is never garbage: it arrives.
async fn garbage(mesh: &Mesh) -> anyhow::Result<usize> {
    let ports = mesh.ports();
    let noise: [u8; 512] = rand::random();
    futures::future::try_join_all(ports.iter().map(|Port { name, address, takes }| async move {
        if *takes == Takes::Bytes {
            let echo = echo(*address, &noise).await.with_context(|| format!("{name} and any bytes"))?;
            ensure!(echo == noise, "{name} changes what passes");
            return Ok(());
        }
        let http = send(*address, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let answer = http.with_context(|| format!("{name} and a plain HTTP request"))?;
        let text = String::from_utf8_lossy(&answer);
        let is_good = text.starts_with("HTTP/1.1 2");
        ensure!(is_good == (*takes == Takes::Requests), "{name} answers a plain HTTP request with {text}");
        let answer = send(*address, &noise).await.with_context(|| format!("{name} and garbage"))?;
        let text = String::from_utf8_lossy(&answer);
        ensure!(!text.starts_with("HTTP/1.1 2"), "{name} answers garbage with {text}");
        Ok(())
    }))
    .await?;
    Ok(ports.len())
}

/// What comes back before the end, which must come.
async fn send(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // A peer that closes at once may do so before everything is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.context("stays open")?;
    Ok(answer)
}

async fn echo(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    let mut back = vec![0; bytes.len()];
    time::timeout(LIMIT, stream.read_exact(&mut back)).await.context("nothing comes back")??;
    Ok(back)
}
