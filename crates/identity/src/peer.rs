//! Who is at either end of a session with a control plane, as its certificate says it.

use std::fmt;
use std::str::FromStr;

use model::{MeshName, ResourceName, ZoneName};
use rustls::pki_types::ServerName;

const DOMAIN: &str = "tombolo.internal";

/// A control plane. Its name in certificates is made of what it *is*, and never of where it is dialled.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ServerRole {
    Global,
    Zone(ZoneName),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' names no control plane: it is global.{DOMAIN} or <zone>.zone.{DOMAIN}")]
pub struct InvalidServerRole(String);

/// `global.tombolo.internal` or `<zone>.zone.tombolo.internal`.
impl fmt::Display for ServerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => write!(f, "global.{DOMAIN}"),
            Self::Zone(zone) => write!(f, "{zone}.zone.{DOMAIN}"),
        }
    }
}

impl FromStr for ServerRole {
    type Err = InvalidServerRole;

    fn from_str(text: &str) -> Result<Self, InvalidServerRole> {
        let parse = || match text.strip_suffix(DOMAIN)?.strip_suffix('.')? {
            "global" => Some(Self::Global),
            zone => Some(Self::Zone(zone.strip_suffix(".zone")?.parse().ok()?)),
        };
        parse().ok_or_else(|| InvalidServerRole(text.into()))
    }
}

impl ServerRole {
    /// The name to send in a TLS hello, wherever the control plane is dialled.
    pub fn tls_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.to_string()).expect("labels joined by dots are a DNS name")
    }
}

/// A peer that joined a control plane. Text form: `zone/east`, `proxy/default/web-1`, `ingress/east-1`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Peer {
    /// A zone's control plane, at the global.
    Zone(ZoneName),
    /// The sidecar of a Dataplane, at its zone.
    Proxy { mesh: MeshName, name: ResourceName },
    /// An ingress, at its zone.
    Ingress(ResourceName),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' names no peer: peers are zone/<zone>, proxy/<mesh>/<name> and ingress/<name>")]
pub struct InvalidPeer(String);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone(zone) => write!(f, "zone/{zone}"),
            Self::Proxy { mesh, name } => write!(f, "proxy/{mesh}/{name}"),
            Self::Ingress(name) => write!(f, "ingress/{name}"),
        }
    }
}

impl FromStr for Peer {
    type Err = InvalidPeer;

    fn from_str(text: &str) -> Result<Self, InvalidPeer> {
        let parse = || match text.split_once('/')? {
            ("zone", zone) => Some(Self::Zone(zone.parse().ok()?)),
            ("proxy", rest) => {
                let (mesh, name) = rest.split_once('/')?;
                Some(Self::Proxy { mesh: mesh.parse().ok()?, name: name.parse().ok()? })
            }
            ("ingress", name) => Some(Self::Ingress(name.parse().ok()?)),
            _ => None,
        };
        parse().ok_or_else(|| InvalidPeer(text.into()))
    }
}

impl Peer {
    /// The URI name in the certificate that the control plane `server` gives to this peer.
    pub fn uri(&self, server: &ServerRole) -> String {
        format!("spiffe://{server}/{self}")
    }

    /// The reverse of [`Self::uri`]; none where the name is of another control plane, or of no peer.
    pub fn from_uri(uri: &str, server: &ServerRole) -> Option<Self> {
        let rest = uri.strip_prefix("spiffe://")?.strip_prefix(&server.to_string())?;
        rest.strip_prefix('/')?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label() -> impl Strategy<Value = String> {
        "[a-z]([a-z0-9-]{0,12}[a-z0-9])?".prop_filter("reserved", |name| name != "global")
    }

    fn resource() -> impl Strategy<Value = ResourceName> {
        "[a-z0-9]{1,8}(-[a-z0-9]{1,3})?(\\.[a-z0-9]{1,8}){0,2}".prop_map(|name| name.parse().unwrap())
    }

    fn server() -> impl Strategy<Value = ServerRole> {
        prop_oneof![
            Just(ServerRole::Global),
            label().prop_map(|zone| ServerRole::Zone(zone.parse().unwrap()))
        ]
    }

    fn peer() -> impl Strategy<Value = Peer> {
        prop_oneof![
            label().prop_map(|zone| Peer::Zone(zone.parse().unwrap())),
            (label(), resource()).prop_map(|(mesh, name)| Peer::Proxy { mesh: mesh.parse().unwrap(), name }),
            resource().prop_map(Peer::Ingress),
        ]
    }

    proptest! {
        #[test]
        fn peers_and_servers_round_trip_as_text(peer in peer(), server in server(), other in server()) {
            prop_assert_eq!(server.to_string().parse::<ServerRole>(), Ok(server.clone()));
            prop_assert_eq!(peer.to_string().parse::<Peer>(), Ok(peer.clone()));
            let uri = peer.uri(&server);
            prop_assert!(uri.parse::<model::SpiffeId>().is_ok());
            prop_assert_eq!(Peer::from_uri(&uri, &other), (server == other).then_some(peer));
        }

        #[test]
        fn what_parses_is_spelled_as_it_prints(text in "(zone|proxy|ingress|x)?(/[a-z.-]{0,5}){0,3}") {
            if let Ok(peer) = text.parse::<Peer>() {
                prop_assert_eq!(peer.to_string(), text);
            }
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        for bad in
            ["", "zone", "zone/", "zone/global", "zone/a/b", "proxy/default", "proxy//a", "ingress/a/b"]
        {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
        for bad in ["", "tombolo.internal", "east.tombolo.internal", "global.zone.tombolo.internal"] {
            assert!(bad.parse::<ServerRole>().is_err(), "{bad}");
        }
        let east = "east.zone.tombolo.internal".parse().unwrap();
        for bad in [
            "spiffe://east.zone.tombolo.internal",
            "spiffe://east.zone.tombolo.internalzone/x",
            "spiffe://east.zone.tombolo.internal//zone/west",
            "https://east.zone.tombolo.internal/ingress/a",
            "spiffe://xeast.zone.tombolo.internal/ingress/a",
        ] {
            assert_eq!(Peer::from_uri(bad, &east), None, "{bad}");
        }
    }
}
