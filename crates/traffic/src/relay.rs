//! The relay of a zone ingress: looks a name up whole, and moves bytes that it cannot read.
//!
//! A handle is a capability: who knows it reaches a handshake, and nothing more. Whoever does not know one is
//! told nothing, not even that there is something: every other opening ends in a reset without a byte.

mod carry;
mod pipes;
mod refusal;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use snapshot::parts::Handles;
use telemetry::{About, Flag, Labels, Series};
use tokio::io::AsyncWriteExt;
use tokio::time;
use tracing::debug;

use self::carry::{Means, carry};
use self::pipes::Pipes;
use self::refusal::Refusal;
use crate::opening::read_client_hello;
use crate::standing::{Registry, Standing};
use crate::transport::Transport;
use crate::worker::Shared;

/// What an ingress takes on at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    /// Of one IPv4 address, or of the 64 bits of an IPv6 network that one machine has for itself.
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
    means: Means,
    handles: RefCell<Handles>,
    flows: Registry<Flow>,
    series: Arc<Series>,
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
        let means = Means { scratch: shared.scratch.clone(), pipes: Pipes::default() };
        let series = shared.recorder.series(Labels::RELAY);
        Self {
            shared,
            limits,
            means,
            series,
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
        let about = || About { from: Some(from), ..About::default() };
        let mut record = self.shared.recorder.begin(&self.series, about);
        let opened = match self.admit(from) {
            Some(place) => self.open(&mut stream, dial).await.map(|opened| (place, opened)),
            None => Err(Refusal::OverLimit),
        };
        let (_place, (opening, flow, mut endpoint)) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                // Whatever it was, it looks the same from outside.
                stream.reset_on_drop();
                refusal.count(&self.shared.metrics);
                record.failed(refusal.flag());
                debug!(%from, why = &refusal as &dyn std::error::Error, "a connection was ended");
                return;
            }
        };
        self.shared.metrics.relayed.add();
        record.reached(flow.endpoint);
        let watch = flow.standing.watch();
        let _entry = self.flows.enter(flow);
        let carried = async {
            endpoint.write_all(&opening).await?;
            drop(opening);
            carry(&mut stream, &mut endpoint, &self.means).await
        };
        let copied = tokio::select! {
            biased;
            () = watch.revoked() => None,
            copied = carried => Some(copied),
        };
        match copied {
            Some(Ok((sent, received))) => {
                record.moved(sent, received);
                record.ended();
            }
            cut => {
                record.failed(if cut.is_some() { Flag::Reset } else { Flag::Revoked });
                stream.reset_on_drop();
                endpoint.reset_on_drop();
            }
        }
    }

    async fn open<I, O, F>(
        &self,
        stream: &mut I,
        dial: impl FnOnce(SocketAddr) -> F,
    ) -> Result<(Vec<u8>, Rc<Flow>, O), Refusal>
    where
        I: Transport,
        O: Transport,
        F: Future<Output = std::io::Result<O>>,
    {
        let opening = read_client_hello(stream, self.limits.opening).await?;
        let handle = opening.server_name;
        let endpoint = self.handles.borrow().0.get(&handle).copied();
        let endpoint = endpoint.ok_or(Refusal::UnknownName)?;
        let connected = time::timeout(self.limits.connect, dial(endpoint)).await;
        let connected = connected.map_err(|_| Refusal::NoAnswer(self.limits.connect))?;
        let connected = connected.map_err(Refusal::Unreachable)?;
        // It may have been taken away while we dialled.
        if self.handles.borrow().0.get(&handle) != Some(&endpoint) {
            return Err(Refusal::TakenAway);
        }
        let flow = Rc::new(Flow { handle, endpoint, standing: Standing::new() });
        Ok((opening.bytes, flow, connected))
    }

    fn admit(self: &Rc<Self>, from: IpAddr) -> Option<Place> {
        let from = peer(from);
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

/// Whom an address stands for.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
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

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::ClientConnection;
    use tokio::io::AsyncReadExt;
    use tokio::task::LocalSet;
    use tokio::time::Instant;

    use super::*;
    use crate::fixture::{HANDLE, Pipe, WEB, World};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn relay(limits: Limits) -> Rc<Relay> {
        let relay = Relay::new(Rc::default(), limits);
        relay.set_handles(Handles([(HANDLE.to_owned(), endpoint(1))].into()));
        Rc::new(relay)
    }

    fn endpoint(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn hello(name: &'static str) -> Vec<u8> {
        let world = World::new();
        let config = world.credentials(&world.east, WEB).client_http.clone();
        let mut bytes = Vec::new();
        ClientConnection::new(config, name.try_into().unwrap()).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    async fn never(_: SocketAddr) -> io::Result<Pipe> {
        panic!("nobody is dialled")
    }

    #[tokio::test]
    async fn a_known_name_leads_to_exactly_its_endpoint_with_every_byte() {
        LocalSet::new()
            .run_until(async {
                let relay = relay(Limits::default());
                let (mut client, near) = Pipe::pair(64 * 1024);
                let (far, mut server) = Pipe::pair(64 * 1024);
                let dial = |to| async move {
                    assert_eq!(to, endpoint(1));
                    Ok(far)
                };
                let serving = tokio::task::spawn_local(relay.serve(near, PEER, dial));
                let mut bytes = hello(HANDLE);
                bytes.extend_from_slice(b" and more");
                client.write_all(&bytes).await.unwrap();
                client.shutdown().await.unwrap();
                let mut seen = Vec::new();
                server.read_to_end(&mut seen).await.unwrap();
                assert_eq!(seen, bytes);
                server.write_all(b"answer").await.unwrap();
                server.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, b"answer");
                serving.await.unwrap();
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn s43_unknown_sni_is_closed_like_any_other() {
        let unknown = hello("catalogue.west.tombolo.internal");
        // A name is looked up whole.
        let below = hello("x.catalog.west.tombolo.internal");
        let http = b"GET / HTTP/1.1\r\nhost: catalog.west.tombolo.internal\r\n\r\n";
        let cases: [(&str, &[u8], &str); 5] = [
            ("an unknown name", &unknown, "relay_unknown_names"),
            ("a name below a known one", &below, "relay_unknown_names"),
            ("plain HTTP", http, "relay_not_tls"),
            ("half a hello", &unknown[..100], "relay_slow_openings"),
            ("nothing at all", b"", "relay_slow_openings"),
        ];
        for (why, bytes, cause) in cases {
            let relay = relay(Limits::default());
            let (mut client, near) = Pipe::pair(64 * 1024);
            let reset = near.reset.clone();
            client.write_all(bytes).await.unwrap();
            relay.clone().serve(near, PEER, never).await;
            assert!(reset.get(), "{why}: not a reset");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(answer.is_empty(), "{why}: {answer:?}");
            assert_eq!(counted(&relay), ["relay_refusals", cause], "{why}");
        }
    }

    /// The counters that have counted one.
    fn counted(relay: &Relay) -> Vec<&'static str> {
        let counters = relay.shared.metrics.read();
        let counted = counters.iter().filter(|(_, count)| *count > 0);
        counted.inspect(|(name, count)| assert_eq!(*count, 1, "{name}")).map(|(name, _)| name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_does_not_answer_looks_like_an_unknown_name() {
        let relay = relay(Limits::default());
        let (mut client, near) = Pipe::pair(64 * 1024);
        let reset = near.reset.clone();
        client.write_all(&hello(HANDLE)).await.unwrap();
        let start = Instant::now();
        relay.clone().serve(near, PEER, |_| std::future::pending::<io::Result<Pipe>>()).await;
        assert_eq!(start.elapsed(), Limits::default().connect);
        assert!(reset.get());
        assert_eq!(counted(&relay), ["relay_refusals", "relay_unreachable"]);
    }

    #[tokio::test]
    async fn a_flow_ends_in_a_reset_when_its_handle_goes_or_leads_elsewhere() {
        let cases = [
            ("gone", Handles::default(), true),
            ("elsewhere", Handles([(HANDLE.to_owned(), endpoint(2))].into()), true),
            (
                "the same",
                Handles([(HANDLE.to_owned(), endpoint(1)), ("new".into(), endpoint(2))].into()),
                false,
            ),
        ];
        for (why, handles, ends) in cases {
            let local = LocalSet::new();
            local
                .run_until(async {
                    let relay = relay(Limits::default());
                    let (mut client, near) = Pipe::pair(64 * 1024);
                    let (far, mut server) = Pipe::pair(64 * 1024);
                    let resets = [near.reset.clone(), far.reset.clone()];
                    let dial = |_| async move { Ok(far) };
                    let serving = tokio::task::spawn_local(relay.clone().serve(near, PEER, dial));
                    let bytes = hello(HANDLE);
                    client.write_all(&bytes).await.unwrap();
                    server.read_exact(&mut vec![0; bytes.len()]).await.unwrap();

                    let gone = relay.set_handles(handles);
                    assert_eq!(gone.len(), usize::from(ends), "{why}");
                    for standing in gone {
                        standing.unwatched().await;
                    }
                    if ends {
                        serving.await.unwrap();
                    } else {
                        client.write_all(b"still").await.unwrap();
                        server.read_exact(&mut [0; 5]).await.unwrap();
                    }
                    assert_eq!(resets.map(|reset| reset.get()), [ends, ends], "{why}");
                })
                .await;
        }
    }

    #[tokio::test]
    async fn each_peer_and_all_together_have_their_limit() {
        let relay = relay(Limits { connections: 3, connections_per_peer: 2, ..Limits::default() });
        let other: IpAddr = [127, 0, 0, 2].into();
        let first = relay.admit(PEER).unwrap();
        let second = relay.admit(PEER).unwrap();
        assert!(relay.admit(PEER).is_none(), "of one peer");
        let third = relay.admit(other).unwrap();
        assert!(relay.admit(other).is_none(), "of all");
        drop(first);
        let fourth = relay.admit(other).unwrap();
        let (_client, near) = Pipe::pair(64);
        let reset = near.reset.clone();
        relay.clone().serve(near, other, never).await;
        assert!(reset.get());
        assert_eq!(counted(&relay), ["relay_refusals", "relay_over_limit"]);
        drop((second, third, fourth));
        assert!(relay.peers.borrow().is_empty());
    }

    #[test]
    fn a_peer_is_an_address_or_the_network_of_one_machine() {
        let cases = [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:0:1::7", "2001:db8:0:1::"),
            ("2001:db8:0:1:ffff::8", "2001:db8:0:1::"),
            ("2001:db8:0:2::7", "2001:db8:0:2::"),
        ];
        for (address, want) in cases {
            assert_eq!(peer(address.parse().unwrap()).to_string(), want, "{address}");
        }
    }
}
