//! Reads the first bytes of a connection, to learn where it wants to go, and keeps them to be passed on.

use std::io;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time;

/// A ClientHello that does not fit is not one of ours: those have at most 2 KiB, post-quantum keys included.
const LARGEST: usize = 16 * 1024;

/// How a TLS connection begins.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opening {
    /// The SNI.
    pub server_name: String,
    /// Everything that was read: the hello, and what came right behind it.
    pub bytes: Vec<u8>,
}

/// Why a connection has no opening that says where it wants to go.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    #[error("no whole ClientHello within {0:?}")]
    TooSlow(Duration),
    #[error("no whole ClientHello within {LARGEST} bytes")]
    TooLarge,
    #[error("this is not TLS")]
    NotTls(#[source] rustls::Error),
    #[error("the ClientHello names no server")]
    NoName,
    #[error("the connection ended before its ClientHello did")]
    Ended,
    #[error("the connection broke")]
    Broken(#[from] io::Error),
}

/// Reads until the ClientHello is whole.
pub async fn read_client_hello(
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
) -> Result<Opening, OpeningError> {
    time::timeout(limit, read(stream)).await.unwrap_or(Err(OpeningError::TooSlow(limit)))
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Opening, OpeningError> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::with_capacity(2048);
    loop {
        let seen = bytes.len();
        if (&mut *stream).take((LARGEST - seen) as u64).read_buf(&mut bytes).await? == 0 {
            return Err(if seen == LARGEST { OpeningError::TooLarge } else { OpeningError::Ended });
        }
        let mut new = &bytes[seen..];
        while !new.is_empty() {
            // It takes as much as its own buffer holds.
            acceptor.read_tls(&mut new)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let server_name = hello.server_name().ok_or(OpeningError::NoName)?.to_owned();
                    return Ok(Opening { server_name, bytes });
                }
                Err((error, _alert)) => return Err(OpeningError::NotTls(error)),
            }
        }
    }
}
