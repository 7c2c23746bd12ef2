//! Decides what a proxy asks for, what it serves, and what it still lacks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::{DestinationId, SpiffeId};
use snapshot::parts::{Destination, Inbound, OutboundListener, PartName, SignalName};

use super::parts::Parts;

/// What is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The ports of the own inbounds.
    pub ports: &'a BTreeSet<u16>,
    pub parts: &'a Parts,
    /// There is a certificate, and it has not ended. Its identity may be the one before a change.
    pub certified: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Names of parts and signals.
    pub subscriptions: BTreeSet<String>,
    /// Who this proxy is to be.
    pub identity: Option<SpiffeId>,
    /// What is served; nothing at all without a certificate and trust.
    pub routes: Routes,
    /// What keeps the proxy from being ready.
    pub missing: BTreeSet<Missing>,
}

/// A configuration but for the credentials.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    pub outbound: Vec<OutboundListener>,
    pub inbounds: BTreeMap<u16, Arc<Inbound>>,
    pub destinations: BTreeMap<DestinationId, Arc<Destination>>,
}

/// What a proxy that is not ready waits for, in the order in which it comes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Missing {
    /// The zone refused what this proxy says of itself.
    Registration,
    /// No set was put in force yet.
    Configuration,
    Identity,
    Trust,
    Certificate,
    /// A part of an own inbound.
    Inbounds,
    /// A part of a destination that a listener leads to.
    Destinations,
    /// A listener could not be opened.
    Listeners,
}

impl Missing {
    /// For the readiness page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Configuration => "configuration",
            Self::Identity => "identity",
            Self::Trust => "trust",
            Self::Certificate => "certificate",
            Self::Inbounds => "inbounds",
            Self::Destinations => "destinations",
            Self::Listeners => "listeners",
        }
    }
}

impl Plan {
    /// Whether it can show who it is, and knows who others are.
    pub fn is_someone(&self) -> bool {
        ![Missing::Identity, Missing::Trust, Missing::Certificate]
            .iter()
            .any(|what| self.missing.contains(what))
    }
}

pub fn plan(known: Known<'_>) -> Plan {
    let Known { ports, parts, certified } = known;
    let listeners = parts.listeners.as_ref().map_or(&[][..], |listeners| &listeners.outbound);
    let used: BTreeSet<&DestinationId> = listeners.iter().map(|listener| &listener.destination).collect();

    let own = [PartName::Identity, PartName::Trust, PartName::Listeners];
    let inbounds = ports.iter().map(|port| PartName::Inbound(*port));
    let destinations = used.iter().map(|id| PartName::Destination((*id).clone()));
    let wanted_parts = own.into_iter().chain(inbounds).chain(destinations).map(|name| name.to_string());
    let wanted_signals = used.iter().map(|id| SignalName::Endpoints((*id).clone()).to_string());

    let lacks = [
        (parts.listeners.is_none(), Missing::Configuration),
        (parts.identity.is_none(), Missing::Identity),
        (parts.trust.is_none(), Missing::Trust),
        (!certified, Missing::Certificate),
        (ports.iter().any(|port| !parts.inbounds.contains_key(port)), Missing::Inbounds),
        (used.iter().any(|id| !parts.destinations.contains_key(*id)), Missing::Destinations),
    ];
    let missing: BTreeSet<Missing> =
        lacks.into_iter().filter_map(|(lacks, what)| lacks.then_some(what)).collect();
    let plan = Plan {
        subscriptions: wanted_parts.chain(wanted_signals).collect(),
        identity: parts.identity.as_ref().map(|identity| identity.id.clone()),
        routes: Routes::default(),
        missing,
    };
    if plan.is_someone() { Plan { routes: routes(ports, parts, listeners), ..plan } } else { plan }
}

/// What is there of all that is wanted. A listener whose destination is not there yet waits; one without
/// endpoints is open, and says so to who comes.
fn routes(ports: &BTreeSet<u16>, parts: &Parts, listeners: &[OutboundListener]) -> Routes {
    let is_known = |listener: &&OutboundListener| parts.destinations.contains_key(&listener.destination);
    let outbound: Vec<OutboundListener> = listeners.iter().filter(is_known).cloned().collect();
    let leads_to = |id: &DestinationId| outbound.iter().any(|listener| listener.destination == *id);
    let destinations = parts.destinations.iter().filter(|(id, _)| leads_to(id));
    let inbounds = parts.inbounds.iter().filter(|(port, _)| ports.contains(*port));
    Routes {
        destinations: destinations.map(|(id, part)| (id.clone(), part.clone())).collect(),
        inbounds: inbounds.map(|(port, part)| (*port, part.clone())).collect(),
        outbound,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const IDENTITY: (&str, &str) = ("identity", r#"{"id":"spiffe://default.east.mesh.local/workload/web"}"#);
    const TRUST: (&str, &str) = ("trust", "{}");
    const INBOUND: (&str, &str) = (
        "inbound/8080",
        r#"{"listen":"127.0.0.1:8080","application":"127.0.0.1:80","protocol":"http","access":{"rules":[]}}"#,
    );
    const LISTENERS: (&str, &str) = (
        "listeners",
        r#"{"outbound":[{"address":"127.0.0.1:9000","destination":"ms_default_west__catalog_80"}]}"#,
    );
    const NO_LISTENERS: (&str, &str) = ("listeners", r#"{"outbound":[]}"#);
    const DESTINATION: (&str, &str) = (
        "destination/ms_default_west__catalog_80",
        r#"{"protocol":"http","identities":[],"connectionTimeout":5000}"#,
    );

    fn planned(certified: bool, held: &[(&str, &'static str)]) -> Plan {
        let mut parts = Parts::default();
        for (name, body) in held {
            parts.put(name, Bytes::from_static(body.as_bytes())).unwrap();
        }
        plan(Known { ports: &BTreeSet::from([8080]), parts: &parts, certified })
    }

    #[test]
    fn a_proxy_is_ready_when_it_has_all_it_asked_for_and_serves_nothing_as_nobody() {
        use Missing::{Certificate, Configuration, Destinations, Identity, Inbounds, Trust};
        let all = [IDENTITY, TRUST, INBOUND, LISTENERS, DESTINATION];
        // In force: inbounds and outbound listeners.
        type Case<'a> = (&'a str, bool, &'a [(&'a str, &'static str)], &'a [Missing], (usize, usize));
        let cases: &[Case<'_>] = &[
            ("nothing", false, &[], &[Configuration, Identity, Trust, Certificate, Inbounds], (0, 0)),
            ("all", true, &all, &[], (1, 1)),
            ("all but the certificate", false, &all, &[Certificate], (0, 0)),
            ("no identity any more", true, &all[1..], &[Identity], (0, 0)),
            ("no trust", true, &[IDENTITY, INBOUND, NO_LISTENERS], &[Trust], (0, 0)),
            ("a destination to come", true, &all[..4], &[Destinations], (1, 0)),
            ("an inbound to come", true, &[IDENTITY, TRUST, LISTENERS, DESTINATION], &[Inbounds], (0, 1)),
            ("no listeners", true, &[IDENTITY, TRUST, INBOUND, NO_LISTENERS], &[], (1, 0)),
        ];
        for (why, certified, held, missing, (inbounds, outbound)) in cases {
            let plan = planned(*certified, held);
            assert_eq!(plan.missing.iter().copied().collect::<Vec<_>>(), *missing, "{why}");
            assert_eq!(
                (plan.routes.inbounds.len(), plan.routes.outbound.len()),
                (*inbounds, *outbound),
                "{why}"
            );
        }
    }

    #[test]
    fn what_is_subscribed_to_follows_from_the_own_ports_and_the_listeners() {
        let own = ["identity", "inbound/8080", "listeners", "trust"];
        assert!(planned(false, &[]).subscriptions.iter().eq(own));
        let with_destination = [
            "destination/ms_default_west__catalog_80",
            "endpoints/ms_default_west__catalog_80",
            "identity",
            "inbound/8080",
            "listeners",
            "trust",
        ];
        assert!(planned(false, &[LISTENERS]).subscriptions.iter().eq(with_destination));
        assert!(planned(false, &[NO_LISTENERS, DESTINATION]).subscriptions.iter().eq(own));
    }

    #[test]
    fn what_no_listener_leads_to_and_what_is_no_own_port_is_not_served() {
        let foreign = ("inbound/9090", INBOUND.1);
        let plan = planned(true, &[IDENTITY, TRUST, INBOUND, foreign, NO_LISTENERS, DESTINATION]);
        assert_eq!(plan.routes.inbounds.keys().copied().collect::<Vec<_>>(), [8080]);
        assert!(plan.routes.destinations.is_empty());
    }
}
