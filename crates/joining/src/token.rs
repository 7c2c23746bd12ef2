//! The token in the file, as far as its bearer can judge it.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use identity::{Audience, Issuer, Peer, Pin, ServerRole, TokenError, expected_of_token};
use runtime::files::{self, TokenFileError};
use zeroize::Zeroizing;

/// A token for a peer like us.
pub struct Token {
    text: Zeroizing<String>,
    /// Who issued it.
    pub server: ServerRole,
    /// Which authority to expect there.
    pub pin: Pin,
    /// Tells one token from another, and nothing else.
    pub digest: String,
}

/// Why there is no token to join with.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    #[error(transparent)]
    File(#[from] TokenFileError),
    #[error(transparent)]
    Unreadable(#[from] TokenError),
    #[error("the token is for '{found}', and {peer} needs one for '{wanted}'")]
    Audience { found: Audience, wanted: Audience, peer: Peer },
    #[error("the token was issued by {found}, where {peer} cannot join")]
    Issuer { found: Issuer, peer: Peer },
}

impl Token {
    pub fn read(file: &Path, peer: &Peer) -> Result<Self, NoToken> {
        Self::parse(&files::read_token(file)?, peer)
    }

    pub fn parse(text: &str, peer: &Peer) -> Result<Self, NoToken> {
        let expected = expected_of_token(text)?;
        let wanted = match peer {
            Peer::Zone(_) => Audience::Zone,
            Peer::Proxy { .. } => Audience::Dataplane,
            Peer::Ingress(_) => Audience::Ingress,
        };
        if expected.aud != wanted {
            return Err(NoToken::Audience { found: expected.aud, wanted, peer: peer.clone() });
        }
        let server = match (peer, expected.iss) {
            (Peer::Zone(_), Issuer::Global) => ServerRole::Global,
            (Peer::Proxy { .. } | Peer::Ingress(_), Issuer::Zone(zone)) => ServerRole::Zone(zone),
            (_, found) => return Err(NoToken::Issuer { found, peer: peer.clone() }),
        };
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            server,
            pin: expected.ca,
            digest: HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()),
        })
    }

    /// For the enrolment and for nothing else.
    pub fn expose(&self) -> &str {
        &self.text
    }
}
