//! Who is in the shop and who calls whom, and the documents that say so.

use std::net::IpAddr;

use crate::traffic::Pair;

/// One application of the shop with its sidecar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member {
    pub service: &'static str,
    pub zone: &'static str,
    /// Which of its replicas.
    pub(crate) number: u8,
    /// The last byte of its address.
    pub(crate) host: u8,
}

pub(crate) const FRONTEND: Member = Member { service: "frontend", zone: "east", number: 1, host: 11 };
const CATALOG_EAST: Member = Member { service: "catalog", zone: "east", number: 1, host: 12 };
pub(crate) const CATALOG_WEST: Member = Member { service: "catalog", zone: "west", number: 1, host: 22 };
const CART: Member = Member { service: "cart", zone: "west", number: 1, host: 23 };
pub(crate) const MEMBERS: [Member; 4] = [FRONTEND, CATALOG_EAST, CATALOG_WEST, CART];

/// Who calls whom, and at which port of its own sidecar.
pub(crate) const CALLS: [(Member, Member, u16); 4] = [
    (FRONTEND, CATALOG_EAST, 10_001),
    (FRONTEND, CATALOG_WEST, 10_002),
    (FRONTEND, CART, 10_003),
    (CART, CATALOG_EAST, 10_001),
];
/// The same for bytes that are no HTTP: both ways between the zones, and within one.
pub(crate) const STREAMS: [(Member, Member, u16); 3] =
    [(FRONTEND, CART, 10_004), (CART, CATALOG_EAST, 10_002), (FRONTEND, CATALOG_EAST, 10_006)];

/// A second replica, which is there for a while only; and who calls both, from their own zone and from the other.
pub(crate) const SECOND_CATALOG: Member = Member { number: 2, host: 24, ..CATALOG_WEST };
pub(crate) const REPLICAS: [Member; 2] = [CATALOG_WEST, SECOND_CATALOG];
pub(crate) const CALLERS_OF_REPLICAS: [Member; 2] = [CART, FRONTEND];

/// The zone of what is in several.
pub const ANY: &str = "any";
/// The frontend calls the catalog of whichever zone.
pub(crate) const JOINED: Pair =
    Pair { caller: FRONTEND.service, from: FRONTEND.zone, called: CATALOG_EAST.service, to: ANY };

/// What a sidecar is to take, as its Dataplane says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Speaks {
    Http1,
    Http2,
    Bytes,
}

impl Speaks {
    pub const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Bytes];

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Bytes => "events",
        }
    }

    fn protocol(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Bytes => "tcp",
        }
    }

    /// Where a service is found.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 => 8081,
            Self::Bytes => 9000,
        }
    }

    /// Where its application listens: one that takes requests takes them in both versions.
    fn application(self) -> u16 {
        match self {
            Self::Http1 | Self::Http2 => APP_HTTP,
            Self::Bytes => APP_EVENTS,
        }
    }

    /// Where the frontend reaches the catalog of whichever zone.
    pub(crate) fn joined(self) -> u16 {
        match self {
            Self::Http1 => 10_005,
            Self::Http2 => 10_007,
            Self::Bytes => 10_008,
        }
    }

    /// Where those who call the replicas reach them.
    pub(crate) fn replicated(self) -> u16 {
        match self {
            Self::Http1 => 10_011,
            Self::Http2 => 10_012,
            Self::Bytes => 10_013,
        }
    }
}

pub(crate) const APP_HTTP: u16 = 3000;
pub(crate) const APP_EVENTS: u16 = 3001;

/// The permission under which the shop runs.
pub const PERMISSION: &str = "/meshes/default/meshtrafficpermissions/shop";
pub const ALLOW_SHOP: &str = "\
type: MeshTrafficPermission
mesh: default
name: shop
spec:
  rules:
  - default:
      allow:
      - source: {workload: frontend}
      - source: {workload: cart}
";

pub(crate) const JOINED_CATALOG: &str = "/meshes/default/meshmultizoneservices/catalog";
/// The catalogs of all zones under one name.
pub(crate) const JOIN_CATALOG: &str = "\
type: MeshMultiZoneService
mesh: default
name: catalog
spec:
  selector:
    meshService:
      matchLabels: {tombolo.io/display-name: catalog}
  ports:
  - {name: http, port: 8080, appProtocol: http}
  - {name: http2, port: 8081, appProtocol: http2}
  - {name: events, port: 9000, appProtocol: tcp}
";

impl Member {
    /// Of its Dataplane.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.service, self.number)
    }

    /// The document that its sidecar joins with.
    pub(crate) fn dataplane(self, ip: IpAddr) -> String {
        let name = self.name();
        let mut yaml = format!(
            "type: Dataplane\nmesh: default\nname: {name}\nnetworking:\n  address: {ip}\n  inbound:\n"
        );
        for speaks in Speaks::ALL {
            let (name, protocol) = (speaks.name(), speaks.protocol());
            let (port, application) = (speaks.port(), speaks.application());
            yaml += &format!(
                "  - {{name: {name}, port: {port}, servicePort: {application}, serviceAddress: {ip}, \
                 protocol: {protocol}}}\n"
            );
        }
        let outbounds = self.outbounds();
        if !outbounds.is_empty() {
            yaml += "  outbound:\n";
        }
        for (port, backend) in outbounds {
            yaml += &format!("  - address: {ip}\n    port: {port}\n    backendRef: {{{backend}}}\n");
        }
        yaml
    }

    /// Where its application finds whom it calls.
    fn outbounds(self) -> Vec<(u16, String)> {
        let calls = CALLS.iter().map(|call| (call, Speaks::Http1));
        let calls = calls.chain(STREAMS.iter().map(|call| (call, Speaks::Bytes)));
        let own = calls.filter(|((caller, ..), _)| *caller == self);
        let own = own.map(|((_, called, port), speaks)| (*called, *port, speaks));
        let replicas = Speaks::ALL.into_iter().filter(|_| CALLERS_OF_REPLICAS.contains(&self));
        let replicas = replicas.map(|speaks| (CATALOG_WEST, speaks.replicated(), speaks));
        let of_one_zone = own.chain(replicas).map(|(Self { service, zone, .. }, port, speaks)| {
            let labels = format!("{{tombolo.io/display-name: {service}, tombolo.io/zone: {zone}}}");
            (port, format!("kind: MeshService, port: {}, labels: {labels}", speaks.port()))
        });
        let joined = Speaks::ALL.iter().filter(|_| self == FRONTEND).map(|speaks| {
            let at = speaks.port();
            (speaks.joined(), format!("kind: MeshMultiZoneService, port: {at}, name: {}", JOINED.called))
        });
        of_one_zone.chain(joined).collect()
    }
}

pub(crate) fn pair(caller: Member, called: Member) -> Pair {
    Pair { caller: caller.service, from: caller.zone, called: called.service, to: called.zone }
}

/// Closes the cart to the frontend: for people to try, and for stores that are put back to a copy from before it, where the
/// cart must stay closed.
pub const DENIAL: &str = "/meshes/default/meshtrafficpermissions/no-frontend";
pub const DENIAL_DOCUMENT: &str = "\
type: MeshTrafficPermission
mesh: default
name: no-frontend
spec:
  targetRef:
    kind: Dataplane
    labels: {tombolo.io/workload: cart}
  rules:
  - default:
      deny:
      - source: {workload: frontend}
";
