//! A relay before a zone's ingress that keeps what passes: the eyes of someone on the wire between zones.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// More than a check of a minute makes; who looks longer sees the beginning.
const MOST_KEPT: usize = 64 << 20;

pub struct Relay {
    pub address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    tape: Arc<Mutex<Tape>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Each direction of each connection, from its first byte.
#[derive(Default)]
struct Tape {
    streams: Vec<Vec<u8>>,
    kept: usize,
    /// Something was no longer kept, so nothing can be said of it.
    overflowed: bool,
}

impl Relay {
    /// Listens at once; `target` can be given later.
    pub async fn start(listen: SocketAddr) -> anyhow::Result<Self> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("binding the relay {listen}"))?;
        let address = listener.local_addr()?;
        let (target, targets) = watch::channel(address);
        let relay = Self {
            address,
            target,
            tape: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        relay.tasks.spawn(accept(
            listener,
            targets,
            relay.tape.clone(),
            relay.stop.clone(),
            relay.tasks.clone(),
        ));
        Ok(relay)
    }

    /// Leads new connections there, and cuts the open ones.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    pub fn target(&self) -> SocketAddr {
        *self.target.borrow()
    }

    /// How many bytes passed so far.
    pub fn bytes(&self) -> usize {
        lock(&self.tape).kept
    }

    /// Whether these bytes passed in the clear, in either direction.
    pub fn saw(&self, marker: &[u8]) -> bool {
        let tape = lock(&self.tape);
        tape.streams.iter().any(|stream| stream.windows(marker.len()).any(|window| window == marker))
    }

    /// Checks that everything that passed was TLS records (RFC 8446, section 5.1), and counts them.
    pub fn tls_records(&self) -> anyhow::Result<usize> {
        let tape = lock(&self.tape);
        ensure!(!tape.overflowed, "more passed than was kept");
        tape.streams.iter().map(|stream| tls_records(stream)).sum()
    }

    pub async fn shutdown(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The last record may still be on its way.
fn tls_records(mut stream: &[u8]) -> anyhow::Result<usize> {
    let mut records = 0;
    while let [kind, major, minor, high, low, rest @ ..] = stream {
        ensure!(matches!(kind, 20..=23), "a record of the unknown type {kind}");
        ensure!(*major == 3 && (1..=3).contains(minor), "a record of version {major}.{minor}");
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        ensure!(length <= (1 << 14) + 256, "a record of {length} bytes");
        stream = rest.get(length..).unwrap_or_default();
        records += 1;
    }
    Ok(records)
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<SocketAddr>,
    tape: Arc<Mutex<Tape>>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (mut targets, tape, stop) = (targets.clone(), tape.clone(), stop.clone());
        tasks.spawn(async move {
            let target = *targets.borrow_and_update();
            tokio::select! {
                () = stop.cancelled() => {}
                _ = targets.changed() => {}
                () = pass(stream, target, &tape) => {}
            }
        });
    }
}

async fn pass(near: TcpStream, target: SocketAddr, tape: &Mutex<Tape>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Without it a relay adds delays that are none of the mesh's.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(copy(near_in, far_out, tape), copy(far_in, near_out, tape));
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, tape: &Mutex<Tape>) {
    let track = lock(tape).add();
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        lock(tape).keep(track, &buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

impl Tape {
    fn add(&mut self) -> usize {
        self.streams.push(Vec::new());
        self.streams.len() - 1
    }

    fn keep(&mut self, track: usize, bytes: &[u8]) {
        if self.kept + bytes.len() > MOST_KEPT {
            self.overflowed = true;
            return;
        }
        self.kept += bytes.len();
        self.streams[track].extend_from_slice(bytes);
    }
}

fn lock(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_records_pass_for_tls_records() {
        let record = [23, 3, 3, 0, 2, 7, 7];
        assert_eq!(tls_records(&[record, record].concat()).unwrap(), 2);
        assert_eq!(tls_records(&record[..6]).unwrap(), 1);
        assert!(tls_records(b"GET / HTTP/1.1\r\n").is_err());
        assert!(tls_records(&[record.as_slice(), b"hello"].concat()).is_err());
    }
}
