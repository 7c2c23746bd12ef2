//! A certificate for east's service that west's authority signed is refused, by servers and by clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use identity::{Alpn, Svid, TrustStore, workload_client, workload_server};
use model::Origin;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::pki_types::ServerName;
use store::EmbeddedStore;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::{eventually, nobody_answers};
use crate::mesh::{LIMIT, Mesh};

/// Long enough for an answer that must not come.
const SILENCE: Duration = Duration::from_secs(5);
const PATH: &str = "/for-the-true-catalog";

/// With the key of west's authority, as if someone had broken into west: it must open nothing in east.
pub(super) async fn keep(mesh: &mut Mesh) -> anyhow::Result<String> {
    let stolen = west_authority(mesh).await.context("reading west's authority from a copy of its store")?;
    servers_refuse(mesh, &stolen).await.context("a forged client")?;
    let handshakes = clients_refuse(mesh, &stolen).await.context("a forged server")?;
    Ok(format!("refused by servers, and by clients in {handshakes} handshakes"))
}

/// Key and certificate of the authority that signs west's workloads.
struct Stolen {
    pem: String,
    bundle: String,
}

async fn west_authority(mesh: &Mesh) -> anyhow::Result<Stolen> {
    let copy = tempfile::tempdir()?;
    for file in std::fs::read_dir(mesh.zone_dir("west"))? {
        let file = file?;
        std::fs::copy(file.path(), copy.path().join(file.file_name()))?;
    }
    let store = EmbeddedStore::open(copy.path(), Origin::Zone("west".parse()?))?;
    let sealed = store.secret_get("workload-authority/default/default.west.mesh.local").await?;
    let sealed = sealed.context("west has no authority")?;
    let text = std::str::from_utf8(sealed.expose())?;
    let (_, pem) = text.split_once('\n').context("not a number and an authority")?;
    let bundle = identity::ZoneCa::from_pem(pem)?.bundle_pem();
    Ok(Stolen { pem: pem.to_owned(), bundle })
}

impl Stolen {
    /// A certificate of anyone, signed by west.
    fn forge(&self, id: &str) -> anyhow::Result<Svid> {
        let authority = Issuer::from_ca_cert_pem(&self.bundle, KeyPair::from_pem(&self.pem)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &authority)?;
        Ok(Svid::from_pem(&leaf.pem(), &key.serialize_pem())?)
    }

    /// Believes whatever west's authority signed, for whatever domain it stands in.
    fn trust(&self) -> anyhow::Result<Arc<TrustStore>> {
        let own = ("default.west.mesh.local".parse()?, "west".parse()?, self.bundle.clone());
        Ok(Arc::new(TrustStore::from_bundles([own]).0))
    }
}

/// As a client: west's cart is called in the name of east's frontend.
async fn servers_refuse(mesh: &Mesh, stolen: &Stolen) -> anyhow::Result<()> {
    let inbound = mesh.inbound("cart", "west").context("no cart in west")?;
    let honest = stolen.forge("spiffe://default.west.mesh.local/workload/cart")?;
    ensure!(
        greeted(inbound, &honest, stolen).await?,
        "even west's own certificate is refused: nothing is proven"
    );
    let forged = stolen.forge("spiffe://default.east.mesh.local/workload/frontend")?;
    ensure!(!greeted(inbound, &forged, stolen).await?, "a certificate of east that west signed was taken");
    Ok(())
}

/// Whether an inbound speaks to who shows this certificate. In TLS 1.3 a client hears only afterwards that it
/// was refused, so what counts is the first byte of HTTP/2.
async fn greeted(inbound: SocketAddr, svid: &Svid, stolen: &Stolen) -> anyhow::Result<bool> {
    let config = workload_client(svid, stolen.trust()?, Alpn::H2)?;
    let tcp = TcpStream::connect(inbound).await?;
    let name = ServerName::try_from("cart.tombolo.internal")?;
    let Ok(mut tls) = TlsConnector::from(config).connect(name, tcp).await else { return Ok(false) };
    let mut first = [0];
    let read = time::timeout(SILENCE, tls.read(&mut first)).await.context("neither a byte nor an end")?;
    Ok(matches!(read, Ok(1)))
}

/// As a server: who calls east's catalog from west is led to one that west signed.
async fn clients_refuse(mesh: &Mesh, stolen: &Stolen) -> anyhow::Result<usize> {
    let forged = stolen.forge("spiffe://default.east.mesh.local/workload/catalog")?;
    let listener = TcpListener::bind((mesh.relay("east").address.ip(), 0)).await?;
    let address = listener.local_addr()?;
    let config = workload_server(&forged, stolen.trust()?, &[Alpn::H2])?;
    let over = CancellationToken::new();
    let stop = over.clone();
    let impostor = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        let (mut handshakes, mut spoken_to) = (0, false);
        while let Some(Ok((tcp, _))) = stop.run_until_cancelled(listener.accept()).await {
            handshakes += 1;
            let spoken = async {
                let mut tls = acceptor.accept(tcp).await?;
                tls.read(&mut [0]).await
            };
            spoken_to |= matches!(time::timeout(SILENCE, spoken).await, Ok(Ok(1)));
        }
        (handshakes, spoken_to)
    });
    let relay = mesh.relay("east");
    relay.lead_to(address);
    let call = mesh.traffic().call("cart", "catalog", "east")?;
    let asked = nobody_answers(call, PATH).await;
    relay.lead_to(mesh.ingress("east"));
    over.cancel();
    asked?;
    let (handshakes, spoken_to) = impostor.await?;
    ensure!(handshakes > 0, "the impostor was not even dialled: nothing is proven");
    ensure!(!spoken_to, "the impostor was spoken to");
    eventually(LIMIT, || async { call.once(Method::GET, "/back", Bytes::new()).await.map(|_| ()) })
        .await
        .context("after the true catalog is back")?;
    Ok(handshakes)
}
