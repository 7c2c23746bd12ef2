//! The parts of a proxy's configuration and the signals beside them.
//!
//! A part is JSON, in the same shape on the wire and in a static file. The zone compiles each part as a
//! whole and the proxy replaces it as a whole. Readers ignore fields they do not know, so that a newer
//! zone can serve an older proxy; what an older proxy must not ignore is a new part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use model::{DestinationId, Protocol, SpiffeId, TrustDomain, ZoneName};
use policy::access::{AccessRule, Client, ClientMatch};
use policy::route::RouteRule;
use serde::{Deserialize, Serialize};

/// The name of a part: what a proxy subscribes to.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum PartName {
    /// [`Identity`]
    Identity,
    /// [`Trust`]
    Trust,
    /// [`Listeners`]
    Listeners,
    /// [`Inbound`], by the port it listens on
    Inbound(u16),
    /// [`Destination`]
    Destination(DestinationId),
}

/// The name of a signal: latest value only, outside worlds and proofs.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum SignalName {
    /// [`Endpoints`] of a destination
    Endpoints(DestinationId),
    /// [`Handles`], for an ingress
    Handles,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' names no part: parts are identity, trust, listeners, inbound/<port> and destination/<id>")]
pub struct InvalidPartName(String);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' names no signal: signals are endpoints/<id> and handles")]
pub struct InvalidSignalName(String);

/// `listeners`: where the application's outgoing traffic enters.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Listeners {
    pub outbound: Vec<OutboundListener>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct OutboundListener {
    pub address: SocketAddr,
    pub destination: DestinationId,
}

/// `inbound/<port>`: one port of the application, and who may reach it.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Where other proxies reach this inbound.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    pub protocol: Protocol,
    pub access: Access,
    /// For every client. `connect` is for the way to the application.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// For some clients, broad before narrow: all entries that cover a client apply to its requests, and of
    /// two that set the same the later counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub client_timeouts: Vec<ClientTimeouts>,
}

impl Inbound {
    /// How long the requests of a client may take.
    pub fn timeouts_for(&self, client: &Client) -> Timeouts {
        let covers = |one: &&ClientTimeouts| one.clients.covers(Some(client));
        self.client_timeouts.iter().filter(covers).fold(self.timeouts, |common, one| Timeouts {
            request: one.request.unwrap_or(common.request),
            stream_idle: one.stream_idle.unwrap_or(common.stream_idle),
            ..common
        })
    }
}

#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub struct Access {
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Without any, everything is denied.
    pub rules: Vec<AccessRule>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
pub enum Enforcement {
    #[default]
    Enforce,
    /// What would be denied is let through, counted and logged.
    Observe,
}

/// `destination/<id>`: one port of a service, without its endpoints.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    pub protocol: Protocol,
    /// Exactly these prove to be the service. Empty: nobody does, and no connection is made.
    pub identities: BTreeSet<SpiffeId>,
    /// From the first packet until the peer has accepted the connection: TCP, TLS and its first word.
    pub connection_timeout: Millis,
    /// The others; `connect` is `connection_timeout` again, where a zone compiled it.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Of HTTP alone: which destinations get the requests to this one, by the first rule that covers them. One
    /// that no rule covers is answered with 404. Without any, all go to the destination itself.
    ///
    /// A rule may name this destination as well. The routes of those that it names are not followed further.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteRule>,
}

impl Destination {
    /// Those that the routes name, some perhaps several times.
    pub fn backends(&self) -> impl Iterator<Item = &DestinationId> {
        self.routes.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.destination)
    }
}

/// How long things may take. Nothing, or 0, is for ever.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// Until a new connection can be used.
    pub connect: Millis,
    /// An opaque connection of which no byte moves, in either direction, or one of HTTP without an open request.
    pub idle: Millis,
    /// From the last byte of a request to the last of its answer.
    pub request: Millis,
    /// A request or its answer of which no byte moves, in either direction.
    pub stream_idle: Millis,
    /// A request with its answer, from the first byte to the last.
    pub max_stream: Millis,
    /// A connection, from when it can be used; then it takes no more requests and ends after its last.
    pub max_connection: Millis,
    /// From the first byte of a request's head to its last, on HTTP/1.1. On HTTP/2, where a head leaves no room
    /// for anything else, the question whether its sender lives ends it after 20 s.
    pub request_headers: Millis,
}

/// What differs for some clients of an inbound. What is not given is as for every client.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientTimeouts {
    pub clients: ClientMatch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Millis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Millis>,
}

/// A duration in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(Millis(millis): Millis) -> Self {
        Self::from_millis(millis)
    }
}

/// `trust`: whom to believe, for every trust domain of the mesh.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Trust {
    pub domains: BTreeMap<TrustDomain, TrustBundle>,
}

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct TrustBundle {
    /// The zone that owns the trust domain.
    pub zone: ZoneName,
    /// PEM certificates; in a static file the path of a file of them.
    pub bundle: String,
}

/// `identity`: who this proxy is to be. The key never leaves the proxy: it asks for a certificate of
/// this id over its session.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Identity {
    pub id: SpiffeId,
}

/// `endpoints/<id>`: where the destination's instances are now.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Endpoints(pub Vec<Endpoint>);

#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Endpoint {
    /// What to dial: the proxy itself, or the ingress of its zone.
    pub address: SocketAddr,
    /// The endpoint's handle; sent inside the zone as well, so that there is one path.
    pub sni: String,
    /// Who must answer; counts only if the destination lists it too.
    pub identity: SpiffeId,
    pub zone: ZoneName,
    #[serde(default = "ready")]
    pub ready: bool,
    #[serde(default = "weight")]
    pub weight: u32,
}

fn ready() -> bool {
    true
}

fn weight() -> u32 {
    1
}

/// `handles`: what an ingress relays, SNI to the endpoint it dials.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Handles(pub BTreeMap<String, SocketAddr>);

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => f.write_str("identity"),
            Self::Trust => f.write_str("trust"),
            Self::Listeners => f.write_str("listeners"),
            Self::Inbound(port) => write!(f, "inbound/{port}"),
            Self::Destination(id) => write!(f, "destination/{id}"),
        }
    }
}

impl FromStr for PartName {
    type Err = InvalidPartName;

    fn from_str(text: &str) -> Result<Self, InvalidPartName> {
        let invalid = || InvalidPartName(text.into());
        match text.split_once('/') {
            None if text == "identity" => Ok(Self::Identity),
            None if text == "trust" => Ok(Self::Trust),
            None if text == "listeners" => Ok(Self::Listeners),
            Some(("inbound", port)) => Ok(Self::Inbound(port.parse().map_err(|_| invalid())?)),
            Some(("destination", id)) => Ok(Self::Destination(id.parse().map_err(|_| invalid())?)),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for PartName {
    type Error = InvalidPartName;

    fn try_from(text: String) -> Result<Self, InvalidPartName> {
        text.parse()
    }
}

impl From<PartName> for String {
    fn from(name: PartName) -> String {
        name.to_string()
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(id) => write!(f, "endpoints/{id}"),
            Self::Handles => f.write_str("handles"),
        }
    }
}

impl FromStr for SignalName {
    type Err = InvalidSignalName;

    fn from_str(text: &str) -> Result<Self, InvalidSignalName> {
        let invalid = || InvalidSignalName(text.into());
        match text.split_once('/') {
            None if text == "handles" => Ok(Self::Handles),
            Some(("endpoints", id)) => Ok(Self::Endpoints(id.parse().map_err(|_| invalid())?)),
            _ => Err(invalid()),
        }
    }
}

impl TryFrom<String> for SignalName {
    type Error = InvalidSignalName;

    fn try_from(text: String) -> Result<Self, InvalidSignalName> {
        text.parse()
    }
}

impl From<SignalName> for String {
    fn from(name: SignalName) -> String {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_without_timeouts_are_read_and_wait_for_ever() {
        let destination = r#"{"protocol":"http","identities":[],"connectionTimeout":5000}"#;
        let read: Destination = serde_json::from_str(destination).unwrap();
        assert_eq!((read.connection_timeout, read.timeouts), (Millis(5_000), Timeouts::default()));
        assert_eq!(read.routes, []);
        let inbound = r#"{"listen":"127.0.0.1:1","application":"127.0.0.1:2","protocol":"tcp","access":{"rules":[]},
            "timeouts":{"idle":7200000}}"#;
        let read: Inbound = serde_json::from_str(inbound).unwrap();
        let idle = Timeouts { idle: Millis(7_200_000), ..Timeouts::default() };
        assert_eq!((read.timeouts, read.client_timeouts), (idle, vec![]));
    }

    #[test]
    fn of_the_entries_that_cover_a_client_the_later_counts() {
        let inbound = r#"{"listen":"127.0.0.1:1","application":"127.0.0.1:2","protocol":"http","access":{"rules":[]},
            "timeouts":{"request":15000,"streamIdle":60000,"idle":7},"clientTimeouts":[
                {"clients":"anyone","request":10000},
                {"clients":{"exactly":"spiffe://td/workload/web"},"request":1000,"streamIdle":0},
                {"clients":{"exactly":"spiffe://td/workload/cart"},"streamIdle":5}]}"#;
        let read: Inbound = serde_json::from_str(inbound).unwrap();
        let cases = [("web", 1_000, 0), ("cart", 10_000, 5), ("other", 10_000, 60_000)];
        for (name, request, stream_idle) in cases {
            let id = format!("spiffe://td/workload/{name}").parse().unwrap();
            let found = read.timeouts_for(&Client { id, zone: "east".parse().unwrap() });
            let want =
                Timeouts { request: Millis(request), stream_idle: Millis(stream_idle), ..read.timeouts };
            assert_eq!(found, want, "{name}");
        }
    }

    #[test]
    fn part_and_signal_names_round_trip_as_text() {
        for text in
            ["identity", "trust", "listeners", "inbound/8080", "destination/ms_default_west__catalog_80"]
        {
            assert_eq!(text.parse::<PartName>().unwrap().to_string(), text);
        }
        for text in ["endpoints/ms_default_west__catalog_80", "handles"] {
            assert_eq!(text.parse::<SignalName>().unwrap().to_string(), text);
        }
        for bad in ["", "inbound", "inbound/x", "inbound/70000", "destination/catalog", "telemetry/"] {
            assert!(bad.parse::<PartName>().is_err(), "{bad}");
        }
    }
}
