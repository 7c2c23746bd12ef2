//! Decides whether what a proxy says of itself may stand in the zone's store. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

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
    #[error("the advertised address is not of the form 192.0.2.7:10001")]
    Advertise(#[source] serde_json::Error),
}

fn lines(violations: &[Violation]) -> String {
    let lines: Vec<String> =
        violations.iter().map(|violation| format!("{} {}", violation.field, violation.reason)).collect();
    lines.join("; ")
}

/// The Dataplane that a sidecar sent, as it may be stored: with the workload of its token.
pub fn dataplane(
    body: &[u8],
    proxy: &ProxyId,
    granted: &Granted,
    from: IpAddr,
    zone: &ZoneName,
) -> Result<Document, Refusal> {
    let address = Address {
        kind: &Dataplane::KIND,
        mesh: Some(proxy.mesh.clone()),
        name: proxy.name.to_string(),
        origin: Some(Origin::Zone(zone.clone())),
    };
    let tree = document::parse_one(&String::from_utf8_lossy(body))?;
    let document = document::read_at(&tree, &address).map_err(Refusal::Invalid)?;
    for address in document.spec_as::<Dataplane>().map(addresses).unwrap_or_default() {
        if !is_reachable_as(&address, granted, from) {
            return Err(Refusal::Address { found: address.to_string(), from });
        }
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
