//! A relay that keeps what it sees.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    recorded: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Recorder {
    pub(super) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Arc::<Mutex<Vec<u8>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let mut task = JoinSet::new();
        let (log, count) = (recorded.clone(), connections.clone());
        task.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let far = TcpStream::connect(to).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                open.spawn(record(near_read, far_write, log.clone()));
                open.spawn(record(far_read, near_write, log.clone()));
            }
        });
        Self { address, recorded, connections, _task: task }
    }

    pub(super) fn recorded(&self) -> Vec<u8> {
        self.recorded.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn record(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    log: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(read) if read > 0 => {
                log.lock().unwrap().extend_from_slice(&buffer[..read]);
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            // An orderly end is passed on; after a reset both halves are dropped with unread bytes or end.
            Ok(_) => {
                let _ = to.shutdown().await;
                return;
            }
            Err(_) => {
                let _ = to.as_ref().set_zero_linger();
                return;
            }
        }
    }
}
