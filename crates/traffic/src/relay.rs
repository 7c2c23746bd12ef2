//! The relay of a zone ingress: looks a name up whole, and moves bytes that it cannot read.
//!
//! A handle is a capability: who knows it reaches a handshake, and nothing more. Whoever does not know one is
//! told nothing, not even that there is something: every other opening ends in a reset without a byte.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use snapshot::parts::Handles;
use tokio::io::AsyncWriteExt;
use tokio::time;
use tracing::debug;

use crate::opening::read_client_hello;
use crate::standing::{Registry, Standing};
use crate::transport::{Transport, copy_both};
use crate::worker::Shared;

/// What an ingress takes on at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_peer: usize,
    /// From the connection's start until its ClientHello is whole.
    pub opening: Duration,
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            // A peer is a machine, or a whole zone behind address translation.
            connections_per_peer: 16_384,
            opening: Duration::from_secs(5),
            connect: Duration::from_secs(5),
        }
    }
}

pub struct Relay {
    shared: Rc<Shared>,
    limits: Limits,
    handles: RefCell<Handles>,
    flows: Registry<Flow>,
    connections: Cell<usize>,
    peers: RefCell<HashMap<IpAddr, usize>>,
}

/// An open connection through the ingress.
struct Flow {
    handle: String,
    endpoint: SocketAddr,
    standing: Rc<Standing>,
}

impl Relay {
    pub fn new(shared: Rc<Shared>, limits: Limits) -> Self {
        Self {
            shared,
            limits,
            handles: RefCell::default(),
            flows: Registry::default(),
            connections: Cell::default(),
            peers: RefCell::default(),
        }
    }

    /// Takes over a table, and revokes the flows whose handle is gone or leads elsewhere.
    pub fn set_handles(&self, handles: Handles) -> Vec<Rc<Standing>> {
        let mut gone = Vec::new();
        for flow in self.flows.open() {
            if handles.0.get(&flow.handle) != Some(&flow.endpoint) {
                self.shared.metrics.revocations.add();
                flow.standing.revoke();
                gone.push(flow.standing.clone());
            }
        }
        self.handles.replace(handles);
        gone
    }

    /// Relays one connection to its end. `dial` connects to an endpoint.
    pub async fn serve<I, O, F>(
        self: Rc<Self>,
        mut stream: I,
        from: IpAddr,
        dial: impl FnOnce(SocketAddr) -> F,
    ) where
        I: Transport,
        O: Transport,
        F: Future<Output = std::io::Result<O>>,
    {
        let opened = match self.admit(from) {
            Some(place) => self.open(&mut stream, dial).await.map(|opened| (place, opened)),
            None => Err("too many connections".into()),
        };
        let (_place, (opening, flow, mut endpoint)) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                // Whatever it was, it looks the same from outside.
                stream.reset_on_drop();
                self.shared.metrics.relay_refusals.add();
                debug!(%from, reason, "a connection was ended");
                return;
            }
        };
        self.shared.metrics.relayed.add();
        let watch = flow.standing.watch();
        let _entry = self.flows.enter(flow);
        let carried = async {
            endpoint.write_all(&opening).await?;
            drop(opening);
            copy_both(&mut stream, &mut endpoint, &self.shared.scratch).await
        };
        let copied = tokio::select! {
            biased;
            () = watch.revoked() => None,
            copied = carried => Some(copied),
        };
        match copied {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => {
                stream.reset_on_drop();
                endpoint.reset_on_drop();
            }
        }
    }

    async fn open<I, O, F>(
        &self,
        stream: &mut I,
        dial: impl FnOnce(SocketAddr) -> F,
    ) -> Result<(Vec<u8>, Rc<Flow>, O), String>
    where
        I: Transport,
        O: Transport,
        F: Future<Output = std::io::Result<O>>,
    {
        let opening =
            read_client_hello(stream, self.limits.opening).await.map_err(|error| error.to_string())?;
        let handle = opening.server_name;
        let endpoint = self.handles.borrow().0.get(&handle).copied();
        let endpoint = endpoint.ok_or("unknown name")?;
        let connected = time::timeout(self.limits.connect, dial(endpoint)).await;
        let connected = connected.map_err(|_| "the endpoint did not answer in time")?;
        let connected = connected.map_err(|error| format!("the endpoint cannot be reached: {error}"))?;
        // It may have been taken away while we dialled.
        if self.handles.borrow().0.get(&handle) != Some(&endpoint) {
            return Err("the name was taken away".into());
        }
        let flow = Rc::new(Flow { handle, endpoint, standing: Standing::new() });
        Ok((opening.bytes, flow, connected))
    }

    fn admit(self: &Rc<Self>, from: IpAddr) -> Option<Place> {
        let mut peers = self.peers.borrow_mut();
        let of_peer = peers.get(&from).copied().unwrap_or_default();
        if self.connections.get() >= self.limits.connections || of_peer >= self.limits.connections_per_peer {
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        peers.insert(from, of_peer + 1);
        Some(Place { relay: self.clone(), from })
    }
}

/// A connection's place among those that the limits allow.
struct Place {
    relay: Rc<Relay>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relay.connections.set(self.relay.connections.get() - 1);
        let mut peers = self.relay.peers.borrow_mut();
        if let Some(count) = peers.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.from);
            }
        }
    }
}
