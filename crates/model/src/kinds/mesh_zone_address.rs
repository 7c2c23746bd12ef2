//! MeshZoneAddress: where other zones dial an ingress of this zone.

use std::net::SocketAddr;

use serde_json::json;

use super::{Author, Generated, Host, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::Fields;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshZoneAddress {
    pub address: Host,
    pub port: u16,
}

impl MeshZoneAddress {
    /// None where it is known by a DNS name.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.address {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl ResourceSpec for MeshZoneAddress {
    const KIND: Kind = Kind {
        name: "MeshZoneAddress",
        plural: "meshzoneaddresses",
        short: "mza",
        scope: Scope::Mesh,
        author: Author::Zone,
        travels: Travels::UP_AND_ACROSS,
        naming: Naming::Subdomain,
        root: Root::Spec,
    };

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let address = fields.required("address").and_then(|item| item.parse());
        let port = fields.required("port").and_then(|item| item.port());
        Some(Self { address: address?, port: port? })
    }
}

impl Generated for MeshZoneAddress {
    fn to_json(&self) -> serde_json::Value {
        json!({ "address": self.address.to_string(), "port": self.port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{assert_generates, right, wrong};

    #[test]
    fn an_address_can_be_dialled() {
        for (host, port) in [("10.0.0.1", 10001), ("2001:db8::1", 65535), ("ingress.example.com", 1)] {
            let spec: MeshZoneAddress = right(&format!("address: '{host}'\nport: {port}"));
            assert_eq!((spec.address.to_string().as_str(), spec.port), (host, port));
            assert_generates(spec);
        }
        let cases = [
            ("", vec!["spec.address", "spec.port"]),
            ("address: 0.0.0.0\nport: 1", vec!["spec.address"]),
            ("address: '::'\nport: 0", vec!["spec.address", "spec.port"]),
            ("address: a\nport: 65536", vec!["spec.port"]),
            ("address: a\nport: '1'", vec!["spec.port"]),
        ];
        for (spec, want) in cases {
            assert_eq!(wrong::<MeshZoneAddress>(spec), want, "{spec}");
        }
    }
}
