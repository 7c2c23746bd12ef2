//! Decides whether what a proxy says of itself may stand in the zone's store. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::document::{self, Address, Document, Tree, Violation};
use model::kinds::{Dataplane, Host, ResourceSpec};
use model::labels;
use model::{Origin, WorkloadName, ZoneName};
use serde::Deserialize;

use crate::planner::ProxyId;

/// What the token of a client allowed it to be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Granted {
    pub workload: Option<WorkloadName>,
    /// Where it may be reached beside the address that its session comes from.
    pub addresses: Vec<IpAddr>,
}

/// Why a registration is refused. For the proxy's author.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is not a document: {0}")]
    Syntax(#[from] document::SyntaxError),
    #[error("the Dataplane is not valid: {}", lines(.0))]
    Invalid(Vec<Violation>),
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    #[error("its workload is '{found}', and the token was for '{granted}'")]
    Workload { found: String, granted: WorkloadName },
    #[error(
        "the address {found} is neither the one that the session comes from ({from}) nor one that the token names"
    )]
    Address { found: String, from: IpAddr },
    #[error("the label {0} says who a proxy is, and that is for its token to say: leave it out")]
    Identity(String),
    #[error(
        "{0} is not an address of an application: it belongs to a control plane, to the machine, or to many"
    )]
    Reserved(SocketAddr),
    #[error("the advertised address is not of the form 192.0.2.7:10001")]
    Advertise(#[source] serde_json::Error),
}

fn lines(violations: &[Violation]) -> String {
    let lines: Vec<String> =
        violations.iter().map(|violation| format!("{} {}", violation.field, violation.reason)).collect();
    lines.join("; ")
}

/// The Dataplane that a sidecar sent, as it may be stored: with the workload of its token. `own` is where
/// control planes listen, as far as this one knows.
pub fn dataplane(
    body: &[u8],
    proxy: &ProxyId,
    granted: &Granted,
    from: IpAddr,
    zone: &ZoneName,
    own: &[SocketAddr],
) -> Result<Document, Refusal> {
    let address = Address {
        kind: &Dataplane::KIND,
        mesh: Some(proxy.mesh.clone()),
        name: proxy.name.to_string(),
        origin: Some(Origin::Zone(zone.clone())),
    };
    let reserved = |address: SocketAddr| Err(Refusal::Reserved(address));
    let tree = document::parse_one(&String::from_utf8_lossy(body))?;
    let document = document::read_at(&tree, &address).map_err(Refusal::Invalid)?;
    if let Some(dataplane) = document.spec_as::<Dataplane>() {
        for address in addresses(dataplane) {
            if !is_reachable_as(&address, granted, from) {
                return Err(Refusal::Address { found: address.to_string(), from });
            }
        }
        if let Some(address) = dialled(dataplane).find(|address| is_reserved(address, own)) {
            return reserved(address);
        }
    }
    // Identities are made of them, so whoever chose them would choose who it is.
    if let Some((key, _)) = document.labels.iter().find(|(key, _)| key.as_str().starts_with(K8S)) {
        return Err(Refusal::Identity(key.to_string()));
    }
    match (&granted.workload, document.labels.get(labels::WORKLOAD)) {
        (Some(granted), Some(found)) if found != granted.as_str() => {
            Err(Refusal::Workload { found: found.to_owned(), granted: granted.clone() })
        }
        (Some(granted), None) => with_workload(&document, granted, &address),
        (_, _) => Ok(document),
    }
}

/// Every address at which others would reach this proxy.
fn addresses(dataplane: &Dataplane) -> BTreeSet<Host> {
    let inbounds = dataplane.inbounds.iter().filter_map(|inbound| inbound.address).map(Host::Ip);
    inbounds.chain([dataplane.address.clone()]).collect()
}

/// What an ingress, and the proxy itself, would dial for it.
fn dialled(dataplane: &Dataplane) -> impl Iterator<Item = SocketAddr> + '_ {
    dataplane.inbounds.iter().flat_map(|inbound| {
        let own = match &dataplane.address {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        };
        let listen = inbound.address.or(own).map(|ip| SocketAddr::new(ip, inbound.port));
        listen.into_iter().chain([inbound.service().into()])
    })
}

/// A relay to these would lead past the front door of a control plane, to the machine's own secrets, or to many at
/// once. An address of IPv4 in the form of IPv6 is dialled as what it is.
fn is_reserved(address: &SocketAddr, own: &[SocketAddr]) -> bool {
    let ip = address.ip().to_canonical();
    let is_special = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[..2] == AWS,
    };
    let is_own = |own: &SocketAddr| {
        let own_ip = own.ip().to_canonical();
        own.port() == address.port() && (own_ip == ip || own_ip.is_unspecified())
    };
    // What is unspecified is dialled as the own machine.
    is_special || ip.is_multicast() || ip.is_unspecified() || METADATA.contains(&ip) || own.iter().any(is_own)
}

/// Where clouds tell a machine its secrets, beside the link-local addresses: Alibaba, Azure and Google.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];
/// How the addresses begin that Amazon keeps for such, and for others of its own.
const AWS: [u16; 2] = [0xfd00, 0xec2];

/// The labels of Kubernetes: there the zone knows them from the pod.
const K8S: &str = "k8s.tombolo.io/";

/// Otherwise a stolen sidecar could make an ingress relay to a database. A name could come to mean any
/// address later.
fn is_reachable_as(host: &Host, granted: &Granted, from: IpAddr) -> bool {
    match host {
        Host::Ip(ip) => *ip == from.to_canonical() || granted.addresses.contains(ip),
        Host::Name(_) => false,
    }
}

/// The token's workload is written into the document, so that it is there after every restart.
fn with_workload(
    document: &Document,
    workload: &WorkloadName,
    address: &Address,
) -> Result<Document, Refusal> {
    let mut json: serde_json::Value = serde_json::from_slice(&document.canonical()).map_err(Refusal::Json)?;
    json["labels"][labels::WORKLOAD] = serde_json::json!(workload);
    document::read_at(&Tree::from(json), address).map_err(Refusal::Invalid)
}

/// What an ingress says of itself.
#[derive(Debug, Deserialize)]
struct Ingress {
    advertise: SocketAddr,
}

/// Where other zones dial an ingress.
pub fn ingress(body: &[u8], granted: &Granted, from: IpAddr) -> Result<SocketAddr, Refusal> {
    let Ingress { advertise } = serde_json::from_slice(body).map_err(Refusal::Advertise)?;
    if is_reachable_as(&Host::Ip(advertise.ip()), granted, from) {
        Ok(advertise)
    } else {
        Err(Refusal::Address { found: advertise.ip().to_string(), from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "10.0.0.7";

    fn register(yaml: &str, granted: &Granted) -> Result<Document, Refusal> {
        let proxy = ProxyId { mesh: "default".parse().unwrap(), name: "web-1".parse().unwrap() };
        let own = ["10.0.0.7:5681", "0.0.0.0:5678", "[::ffff:127.9.0.2]:5680"];
        let own = own.map(|own| own.parse().unwrap());
        dataplane(yaml.as_bytes(), &proxy, granted, FROM.parse().unwrap(), &"east".parse().unwrap(), &own)
    }

    fn granted() -> Granted {
        Granted { workload: Some("web".parse().unwrap()), addresses: vec!["10.0.0.8".parse().unwrap()] }
    }

    fn document(labels: &str, address: &str, inbound: &str) -> String {
        format!(
            "{{type: Dataplane, name: web-1, labels: {{{labels}}}, networking: {{address: {address}, inbound: [{inbound}]}}}}"
        )
    }

    #[test]
    fn the_workload_of_the_token_stands_in_the_document() {
        let document = register(&document("app: web", FROM, ""), &granted()).unwrap();
        assert_eq!(document.labels.get(labels::WORKLOAD), Some("web"));
    }

    #[test]
    fn s37_another_workload_does_not_take_a_proxys_name() {
        let cases = [
            ("its own workload", "tombolo.io/workload: web", true),
            ("another workload", "tombolo.io/workload: vault", false),
            ("the same, in the other spelling", "kuma.io/workload: vault", false),
            ("a namespace", "k8s.tombolo.io/namespace: bank", false),
            ("a service account", "k8s.kuma.io/service-account: vault", false),
        ];
        for (why, labels, may) in cases {
            let registered = register(&document(labels, FROM, ""), &granted());
            assert_eq!(registered.is_ok(), may, "{why}: {registered:?}");
        }
    }

    #[test]
    fn s46_a_sidecar_is_reached_only_where_it_is_or_where_its_token_says() {
        let inbound = "{port: 8080, servicePort: 3000}";
        let cases = [
            ("as it is", FROM, inbound, true),
            ("an address of the token", "10.0.0.8", inbound, true),
            ("another machine", "10.0.0.9", inbound, false),
            ("another machine in an inbound", FROM, "{port: 8080, address: 10.0.0.9}", false),
            ("a name", "db.example.org", inbound, false),
        ];
        for (why, address, inbound, may) in cases {
            let registered = register(&document("", address, inbound), &granted());
            assert_eq!(registered.is_ok(), may, "{why}: {registered:?}");
        }
    }

    #[test]
    fn s46_nobody_is_made_to_dial_control_planes_metadata_or_many() {
        let cases = [
            ("10.0.0.7", 3000, true),
            ("127.0.0.1", 3000, true),
            ("192.168.7.7", 80, true),
            ("fd00:7::1", 80, true),
            ("::ffff:192.168.7.7", 80, true),
            // This control plane, at one of its addresses or at all.
            ("10.0.0.7", 5681, false),
            ("::ffff:10.0.0.7", 5681, false),
            ("127.0.0.1", 5678, false),
            ("192.168.7.7", 5678, false),
            ("::ffff:127.9.0.2", 5680, false),
            ("127.9.0.2", 5680, false),
            ("127.9.0.2", 5681, true),
            // Link-local, where most clouds have their metadata.
            ("169.254.169.254", 80, false),
            ("::ffff:169.254.169.254", 80, false),
            ("169.254.170.2", 80, false),
            ("fe80::1", 80, false),
            // And where some others have them.
            ("fd00:ec2::254", 80, false),
            ("fd00:ec2::23", 80, false),
            ("fd20:ce::254", 80, false),
            ("100.100.100.200", 80, false),
            ("::ffff:100.100.100.200", 80, false),
            ("168.63.129.16", 80, false),
            // Many.
            ("224.0.0.1", 80, false),
            ("::ffff:224.0.0.1", 80, false),
            ("ff02::1", 80, false),
            ("255.255.255.255", 80, false),
            // The own machine, by another name.
            ("::ffff:0.0.0.0", 3000, false),
        ];
        for (address, port, may) in cases {
            let inbound = format!("{{port: 8080, serviceAddress: '{address}', servicePort: {port}}}");
            let registered = register(&document("", FROM, &inbound), &granted());
            assert_eq!(registered.is_ok(), may, "{address} {port}: {registered:?}");
        }
        let listens = register(&document("", FROM, "{port: 5681}"), &granted());
        assert!(matches!(listens, Err(Refusal::Reserved(_))), "an ingress would dial it: {listens:?}");
    }

    #[test]
    fn an_ingress_advertises_where_it_is_or_where_its_token_says() {
        for (address, may) in
            [("10.0.0.7:10001", true), ("10.0.0.8:443", true), ("10.0.0.9:443", false), ("x", false)]
        {
            let body = format!("{{\"advertise\":\"{address}\"}}");
            assert_eq!(ingress(body.as_bytes(), &granted(), FROM.parse().unwrap()).is_ok(), may, "{address}");
        }
    }
}
