//! What a peer keeps of its membership, and where.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use identity::peer::{InvalidPeer, InvalidServerRole};
use identity::pin::InvalidPin;
use identity::{Credential, Peer, Pin, ServerRole, SvidError, TlsError, control_tls};
use runtime::files;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// How a peer gets back in: whom it expects, and the certificate by which it is known there.
///
/// Written only where its owner alone can read it: it holds a private key.
#[derive(Deserialize)]
#[serde(try_from = "Text")]
pub struct Kept {
    pub peer: Peer,
    pub server: ServerRole,
    pub pin: Pin,
    /// Of the token that it was got for; see [`crate::token::Token::digest`].
    pub token: String,
    credential: Credential,
    config: Arc<ClientConfig>,
}

/// Where a peer keeps its membership. A sidecar has its state file, a zone the sealed part of its store.
pub trait Keep: Send + Sync + 'static {
    /// What was saved last; none before that.
    fn load(&self) -> impl Future<Output = anyhow::Result<Option<Kept>>> + Send;

    /// Done when it is durable.
    fn save(&self, kept: &Arc<Kept>) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Why what was kept is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("it is not JSON, or misses something")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Peer(#[from] InvalidPeer),
    #[error(transparent)]
    Server(#[from] InvalidServerRole),
    #[error(transparent)]
    Pin(#[from] InvalidPin),
    #[error(transparent)]
    Credential(#[from] SvidError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Kept {
    pub(crate) fn new(
        peer: Peer,
        server: ServerRole,
        pin: Pin,
        token: String,
        credential: Credential,
    ) -> Result<Self, TlsError> {
        let config = control_tls::client_config(pin, server.clone(), Some(&credential))?;
        Ok(Self { peer, server, pin, token, credential, config })
    }

    /// Reverses [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeptError> {
        // Not by way of Kept's own Deserialize, which could only give the reason as text.
        serde_json::from_slice::<Text>(bytes)?.try_into()
    }

    /// JSON, for a file that only its owner can read, and for a sealed store.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(&Text::from(self)).expect("texts can be written as JSON"))
    }

    /// The client certificate.
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// For sessions with the control plane.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

/// Membership as it is written.
#[derive(Deserialize, Serialize)]
struct Text {
    peer: String,
    server: String,
    pin: String,
    token: String,
    certificate: String,
    key: String,
}

impl Drop for Text {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text::from(self).serialize(serializer)
    }
}

impl From<&Kept> for Text {
    fn from(kept: &Kept) -> Self {
        Self {
            peer: kept.peer.to_string(),
            server: kept.server.to_string(),
            pin: kept.pin.to_string(),
            token: kept.token.clone(),
            certificate: kept.credential.chain_pem(),
            key: kept.credential.key_pem().to_string(),
        }
    }
}

impl TryFrom<Text> for Kept {
    type Error = KeptError;

    fn try_from(text: Text) -> Result<Self, KeptError> {
        let credential = Credential::from_pem(&text.certificate, &text.key)?;
        let (peer, server, pin) = (text.peer.parse()?, text.server.parse()?, text.pin.parse()?);
        Ok(Self::new(peer, server, pin, text.token.clone(), credential)?)
    }
}

/// Keeps a membership in a file of its own (0600).
#[derive(Clone, Debug)]
pub struct KeepFile {
    path: PathBuf,
}

impl KeepFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Keep for KeepFile {
    async fn load(&self) -> anyhow::Result<Option<Kept>> {
        match tokio::fs::read(&self.path).await.map(Zeroizing::new) {
            Ok(bytes) => match Kept::from_bytes(&bytes) {
                Ok(kept) => Ok(Some(kept)),
                // A new exchange of the token mends it.
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "what was kept cannot be used");
                    Ok(None)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(anyhow::Error::new(error).context(format!("cannot read {}", self.path.display())))
            }
        }
    }

    async fn save(&self, kept: &Arc<Kept>) -> anyhow::Result<()> {
        files::save_private(self.path.clone(), kept.to_bytes().to_vec()).await?;
        Ok(())
    }
}
