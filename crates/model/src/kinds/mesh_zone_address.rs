//! MeshZoneAddress: where other zones dial an ingress of this zone.

use serde_json::json;

use super::{Author, Generated, Host, Kind, Naming, ResourceSpec, Root, Scope, Travels};
use crate::document::Fields;

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshZoneAddress {
    pub address: Host,
    pub port: u16,
}

impl ResourceSpec for MeshZoneAddress {
    const KIND: Kind = Kind {
        name: "MeshZoneAddress",
        plural: "meshzoneaddresses",
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
