//! Listeners: opened and closed by the difference between what is and what should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time;
use tracing::warn;

/// The listeners of a worker, by what they are for.
pub struct Listeners<K> {
    open: BTreeMap<(K, SocketAddr), Open>,
}

impl<K> Default for Listeners<K> {
    fn default() -> Self {
        Self { open: BTreeMap::new() }
    }
}

struct Open {
    bound: SocketAddr,
    accepting: JoinHandle<()>,
}

/// A listener that runs, at the address that it really has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bound<K> {
    pub purpose: K,
    pub address: SocketAddr,
}

/// A listener that could not be opened. It is tried again with the next configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenProblem<K> {
    pub purpose: K,
    pub address: SocketAddr,
    #[source]
    pub cause: io::Error,
}

/// Where accepted connections go, with what they were accepted for and from where.
pub type Take<K> = Rc<dyn Fn(&K, TcpStream, SocketAddr)>;

/// What has to be done.
#[derive(Debug, Eq, PartialEq)]
struct Difference<T> {
    close: Vec<T>,
    open: Vec<T>,
}

fn difference<T: Clone + Ord>(have: &BTreeSet<T>, want: &BTreeSet<T>) -> Difference<T> {
    Difference {
        close: have.difference(want).cloned().collect(),
        open: want.difference(have).cloned().collect(),
    }
}

/// So many connections may wait to be accepted.
const BACKLOG: u32 = 4096;
/// After an error of accepting, which is most likely too many open files.
const PAUSE: Duration = Duration::from_millis(50);

impl<K: Clone + Ord + 'static> Listeners<K> {
    /// Makes the listeners those that are wanted, by the address that was asked for; accepted connections
    /// go to `take`. What stays is not touched.
    pub async fn reconcile(
        &mut self,
        want: BTreeSet<(K, SocketAddr)>,
        take: Take<K>,
    ) -> Vec<ListenProblem<K>> {
        let have = self.open.keys().cloned().collect();
        let Difference { close, open } = difference(&have, &want);
        for key in close {
            if let Some(old) = self.open.remove(&key) {
                old.accepting.abort();
                // Its address is free only when the task is gone.
                let _ = old.accepting.await;
            }
        }
        let mut problems = Vec::new();
        for key in open {
            match bind(key.1).and_then(|listener| Ok((listener.local_addr()?, listener))) {
                Ok((bound, listener)) => {
                    let (purpose, take) = (key.0.clone(), take.clone());
                    let accepting = tokio::task::spawn_local(accept(listener, purpose, take));
                    self.open.insert(key, Open { bound, accepting });
                }
                Err(cause) => problems.push(ListenProblem { purpose: key.0, address: key.1, cause }),
            }
        }
        problems
    }

    /// Stops accepting for what is not to stay.
    pub async fn retain(&mut self, stays: impl Fn(&K) -> bool) {
        for (_, open) in self.open.extract_if(.., |(purpose, _), _| !stays(purpose)) {
            open.accepting.abort();
            let _ = open.accepting.await;
        }
    }

    pub fn bound(&self) -> Vec<Bound<K>> {
        let bound = |((purpose, _), open): (&(K, SocketAddr), &Open)| Bound {
            purpose: purpose.clone(),
            address: open.bound,
        };
        self.open.iter().map(bound).collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // What is accepted inherits this, without a system call for each.
    socket.set_nodelay(true)?;
    keep_alive(&socket)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A peer that vanished without a word is noticed after a minute and a half.
pub(crate) fn keep_alive<S: AsFd>(socket: &S) -> io::Result<()> {
    let probes =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    SockRef::from(socket).set_tcp_keepalive(&probes.with_retries(3))
}

async fn accept<K>(listener: TcpListener, purpose: K, take: Take<K>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                take(&purpose, stream, from);
            }
            Err(error) => {
                warn!(%error, "cannot accept");
                time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_opened_or_closed() {
        let found = difference(&[1, 2, 3].into(), &[2, 3, 4].into());
        assert_eq!(found, Difference { close: vec![1], open: vec![4] });
    }
}
