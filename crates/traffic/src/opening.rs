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
    /// The SNI, in lower case.
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
    #[error("this is no TLS, or none that makes sense")]
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::sync::{Arc, LazyLock};
    use std::task::{Context, Poll};

    use futures::FutureExt;
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection};
    use tokio::io::{AsyncWriteExt, ReadBuf};
    use tokio::time::Instant;

    use super::*;
    use crate::fixture::{HANDLE, WEB, World};

    const LIMIT: Duration = Duration::from_secs(5);

    fn hello(name: ServerName<'static>) -> Vec<u8> {
        let world = World::new();
        let config: Arc<ClientConfig> = world.credentials(&world.east, WEB).client_http.clone();
        let mut bytes = Vec::new();
        ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn opened_by(bytes: &[u8]) -> Result<Opening, OpeningError> {
        let (mut client, mut server) = tokio::io::duplex(64 * 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        read_client_hello(&mut server, LIMIT).await
    }

    #[tokio::test]
    async fn a_hello_is_read_whole_and_kept_however_it_comes() {
        let mut bytes = hello(HANDLE.try_into().unwrap());
        let whole = opened_by(&bytes).await.unwrap();
        assert_eq!(whole, Opening { server_name: HANDLE.into(), bytes: bytes.clone() });

        bytes.extend_from_slice(b"what came right behind it");
        assert_eq!(opened_by(&bytes).await.unwrap().bytes, bytes);

        let (mut client, mut server) = tokio::io::duplex(1);
        let trickle = bytes.clone();
        let sending = tokio::spawn(async move {
            // Nobody takes what comes behind.
            let _ = client.write_all(&trickle).await;
        });
        let opening = read_client_hello(&mut server, LIMIT).await.unwrap();
        assert_eq!(opening.server_name, HANDLE);
        assert!(bytes.starts_with(&opening.bytes));
        drop(server);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn whoever_names_nobody_or_speaks_no_tls_is_told_apart() {
        let by_address = hello(ServerName::IpAddress("127.0.0.1".try_into().unwrap()));
        assert!(matches!(opened_by(&by_address).await, Err(OpeningError::NoName)));
        assert!(matches!(opened_by(b"GET / HTTP/1.1\r\n\r\n").await, Err(OpeningError::NotTls(_))));
        assert!(matches!(opened_by(b"").await, Err(OpeningError::Ended)));
        let bytes = hello(HANDLE.try_into().unwrap());
        assert!(matches!(opened_by(&bytes[..bytes.len() - 1]).await, Err(OpeningError::Ended)));
    }

    #[tokio::test]
    async fn a_hello_without_an_end_is_given_up_on() {
        // Records of a handshake message that says it has 60000 bytes.
        let mut endless = vec![22, 3, 1, 0x10, 0, 1, 0, 0xea, 0x60];
        endless.resize(5 + 0x1000, 0);
        let mut record = vec![22, 3, 1, 0x10, 0];
        record.resize(5 + 0x1000, 0);
        for _ in 0..8 {
            endless.extend_from_slice(&record);
        }
        let error = opened_by(&endless).await.unwrap_err();
        assert!(matches!(error, OpeningError::TooLarge), "{error:?}");
    }

    /// The same handshake message in TLS records of other sizes.
    fn in_records(hello: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut message = &hello[5..];
        let mut records = Vec::new();
        let mut sizes = sizes.iter().copied().cycle();
        while !message.is_empty() {
            let (now, later) = message.split_at(sizes.next().unwrap_or(1).clamp(1, message.len()));
            records.extend_from_slice(&hello[..3]);
            records.extend_from_slice(&(now.len() as u16).to_be_bytes());
            records.extend_from_slice(now);
            message = later;
        }
        records
    }

    /// What is read when the bytes come in pieces of these sizes, and then no more.
    fn opened_in_pieces(bytes: &[u8], sizes: &[usize]) -> Result<Opening, OpeningError> {
        let mut reads = pieces_of(bytes, sizes);
        read(&mut reads).now_or_never().expect("everything is there")
    }

    /// Gives one piece per read.
    struct Pieces(VecDeque<Vec<u8>>);

    fn pieces_of(bytes: &[u8], sizes: &[usize]) -> Pieces {
        let mut rest = bytes;
        let mut pieces = VecDeque::new();
        let mut sizes = sizes.iter().copied().cycle();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
            pieces.push_back(now.to_vec());
            rest = later;
        }
        Pieces(pieces)
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let taken = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece[..taken]);
                piece.drain(..taken);
                if !piece.is_empty() {
                    self.0.push_front(piece);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    fn sizes(most: usize) -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1..most, 1..8)
    }

    static HELLO: LazyLock<Vec<u8>> = LazyLock::new(|| hello(HANDLE.try_into().unwrap()));

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_hello_is_the_same_in_whatever_records_and_pieces(
            records in sizes(600),
            pieces in sizes(900),
            behind in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let whole = in_records(&HELLO, &records);
            let opening = opened_in_pieces(&[&whole[..], &behind].concat(), &pieces).unwrap();
            prop_assert_eq!(opening.server_name, HANDLE);
            prop_assert!(opening.bytes.starts_with(&whole));
        }

        #[test]
        fn whatever_comes_there_is_an_answer_and_never_another_name(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            end in any::<prop::sample::Index>(),
            pieces in sizes(900),
        ) {
            let mut bytes = HELLO.clone();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(end.index(2 * bytes.len()));
            match opened_in_pieces(&bytes, &pieces) {
                Ok(opening) => {
                    let name = opening.server_name.as_bytes();
                    prop_assert!(bytes.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name)));
                    prop_assert!(bytes.starts_with(&opening.bytes));
                }
                Err(OpeningError::NotTls(_) | OpeningError::NoName | OpeningError::Ended) => {}
                Err(error) => prop_assert!(false, "{error:?}"),
            }
        }

        #[test]
        fn no_opening_is_read_beyond_its_limit(
            start in prop::collection::vec(any::<u8>(), 0..20),
            as_handshake in any::<bool>(),
            pieces in sizes(5000),
        ) {
            let mut bytes = if as_handshake { vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff] } else { Vec::new() };
            bytes.extend_from_slice(&start);
            bytes.resize(64 * 1024, 0);
            let mut reads = pieces_of(&bytes, &pieces);
            prop_assert!(read(&mut reads).now_or_never().expect("everything is there").is_err());
            let left: usize = reads.0.iter().map(Vec::len).sum();
            prop_assert!(bytes.len() - left <= LARGEST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up_on_at_the_limit() {
        let (_client, mut server) = tokio::io::duplex(64);
        let start = Instant::now();
        let error = read_client_hello(&mut server, LIMIT).await.unwrap_err();
        assert!(matches!(error, OpeningError::TooSlow(_)));
        assert_eq!(start.elapsed(), LIMIT);
    }
}
