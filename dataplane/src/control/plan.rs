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
    /// What the proxy was last given.
    pub in_force: Option<&'a Routes>,
    /// Of which destinations the first word about their endpoints came.
    pub heard: &'a BTreeSet<DestinationId>,
    /// The destinations whose routes waited for long enough.
    pub overdue: &'a BTreeSet<DestinationId>,
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
    /// What the routes of destinations wait for that are to replace others; those stay in force meanwhile.
    pub awaited: BTreeMap<DestinationId, BTreeSet<Awaited>>,
}

/// What is still to come of a backend.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Awaited {
    Part,
    Endpoints,
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
    let Known { ports, parts, certified, .. } = known;
    let listeners = parts.listeners.as_ref().map_or(&[][..], |listeners| &listeners.outbound);
    let listened: BTreeSet<&DestinationId> = listeners.iter().map(|listener| &listener.destination).collect();
    let mut awaited = BTreeMap::new();
    let fronts: BTreeMap<&DestinationId, Arc<Destination>> =
        listened.iter().filter_map(|id| Some((*id, front(known, id, &mut awaited)?))).collect();

    // Also what is to come: it is switched to when it is there.
    let to_come = listened.iter().filter_map(|id| parts.destinations.get(*id));
    let backends = to_come.chain(fronts.values()).flat_map(|part| part.backends());
    let used: BTreeSet<&DestinationId> = listened.iter().copied().chain(backends).collect();

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
        (listened.iter().any(|id| !fronts.contains_key(id)), Missing::Destinations),
    ];
    let missing: BTreeSet<Missing> =
        lacks.into_iter().filter_map(|(lacks, what)| lacks.then_some(what)).collect();
    let plan = Plan {
        subscriptions: wanted_parts.chain(wanted_signals).collect(),
        identity: parts.identity.as_ref().map(|identity| identity.id.clone()),
        routes: Routes::default(),
        missing,
        awaited,
    };
    if plan.is_someone() { Plan { routes: routes(known, listeners, fronts), ..plan } } else { plan }
}

/// The part of a destination that a listener leads to, as it can be in force. New routes wait until all that they
/// name is there: until then those of before go on, and where there were none, so does the whole. Everything else
/// that the part says waits for nothing.
fn front(
    known: Known<'_>,
    id: &DestinationId,
    awaited: &mut BTreeMap<DestinationId, BTreeSet<Awaited>>,
) -> Option<Arc<Destination>> {
    let part = known.parts.destinations.get(id)?;
    // As a backend of another it was in force without its own routes.
    let was_front = |routes: &&Routes| routes.outbound.iter().any(|listener| listener.destination == *id);
    let before = known.in_force.filter(was_front).and_then(|routes| routes.destinations.get(id));
    if known.overdue.contains(id) || before.is_some_and(|before| before.routes == part.routes) {
        return Some(part.clone());
    }
    let lacks = part.backends().filter_map(|id| match known.parts.destinations.contains_key(id) {
        false => Some(Awaited::Part),
        true => (!known.heard.contains(id)).then_some(Awaited::Endpoints),
    });
    let lacks: BTreeSet<Awaited> = lacks.collect();
    if lacks.is_empty() {
        return Some(part.clone());
    }
    awaited.insert(id.clone(), lacks);
    Some(Arc::new(Destination { routes: before?.routes.clone(), ..(**part).clone() }))
}

/// What is there of all that is wanted. A listener whose destination is not there yet waits; one without
/// endpoints is open, and says so to who comes.
fn routes(
    known: Known<'_>,
    listeners: &[OutboundListener],
    fronts: BTreeMap<&DestinationId, Arc<Destination>>,
) -> Routes {
    let Known { ports, parts, .. } = known;
    let is_known = |listener: &&OutboundListener| fronts.contains_key(&listener.destination);
    let inbounds = parts.inbounds.iter().filter(|(port, _)| ports.contains(*port));
    let before = |id| known.in_force.and_then(|routes| routes.destinations.get(id));
    let backends = fronts.values().flat_map(|part| part.backends());
    // One that the routes of before name stays as long as they do.
    let backends = backends.filter_map(|id| Some((id, parts.destinations.get(id).or_else(|| before(id))?)));
    let mut destinations: BTreeMap<DestinationId, Arc<Destination>> =
        backends.map(|(id, part)| (id.clone(), part.clone())).collect();
    destinations.extend(fronts.iter().map(|(id, part)| ((*id).clone(), part.clone())));
    Routes {
        outbound: listeners.iter().filter(is_known).cloned().collect(),
        inbounds: inbounds.map(|(port, part)| (*port, part.clone())).collect(),
        destinations,
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
        let ports = BTreeSet::from([8080]);
        let none = BTreeSet::new();
        plan(Known { ports: &ports, parts: &parts, certified, in_force: None, heard: &none, overdue: &none })
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

    const CART: (&str, &str) = (
        "destination/ms_default_west__cart_80",
        r#"{"protocol":"http","identities":[],"connectionTimeout":1}"#,
    );
    const TO_CART: (&str, &str) = (
        "destination/ms_default_west__catalog_80",
        r#"{"protocol":"http2","identities":[],"connectionTimeout":5000,
            "routes":[{"backends":[{"destination":"ms_default_west__cart_80"}]}]}"#,
    );

    #[test]
    fn new_routes_are_switched_to_when_all_that_they_name_is_there() {
        let (catalog, cart): (DestinationId, DestinationId) =
            ("ms_default_west__catalog_80".parse().unwrap(), "ms_default_west__cart_80".parse().unwrap());
        let ports = BTreeSet::from([8080]);
        let base = [IDENTITY, TRUST, INBOUND, LISTENERS];
        let planned = |held: &[(&str, &'static str)],
                       in_force: Option<&Routes>,
                       heard: &[&DestinationId],
                       overdue: &[&DestinationId]| {
            let mut parts = Parts::default();
            for (name, body) in base.iter().chain(held) {
                parts.put(name, Bytes::from_static(body.as_bytes())).unwrap();
            }
            let [heard, overdue] = [heard, overdue].map(|ids| ids.iter().map(|id| (*id).clone()).collect());
            let (heard, overdue) = (&heard, &overdue);
            plan(Known { ports: &ports, parts: &parts, certified: true, in_force, heard, overdue })
        };
        // How many listeners, and whether to the cart; and what is known of the catalog that is newer than routes.
        let is = |plan: &Plan| {
            let front = plan.routes.destinations.get(&catalog);
            let routed = front.is_some_and(|front| !front.routes.is_empty());
            (plan.routes.outbound.len(), routed, plan.routes.destinations.len())
        };
        let before = planned(&[DESTINATION], None, &[], &[]).routes;
        type Case<'a> = (&'a str, Plan, (usize, bool, usize), &'a [Awaited]);
        let cases: [Case<'_>; 9] = [
            (
                "the backend is to come",
                planned(&[TO_CART], Some(&before), &[], &[]),
                (1, false, 1),
                &[Awaited::Part],
            ),
            (
                "its endpoints are to come",
                planned(&[TO_CART, CART], Some(&before), &[], &[]),
                (1, false, 1),
                &[Awaited::Endpoints],
            ),
            ("all is there", planned(&[TO_CART, CART], Some(&before), &[&cart], &[]), (1, true, 2), &[]),
            (
                "another waited for long enough",
                planned(&[TO_CART], Some(&before), &[], &[&cart]),
                (1, false, 1),
                &[Awaited::Part],
            ),
            ("long enough", planned(&[TO_CART], Some(&before), &[], &[&catalog]), (1, true, 1), &[]),
            (
                "a new listener waits",
                planned(&[TO_CART, CART], None, &[], &[]),
                (0, false, 0),
                &[Awaited::Endpoints],
            ),
            ("and opens", planned(&[TO_CART, CART], None, &[&cart], &[]), (1, true, 2), &[]),
            ("or opens late", planned(&[TO_CART], None, &[], &[&catalog]), (1, true, 1), &[]),
            (
                "without a backend nothing is waited for",
                planned(&[DESTINATION], None, &[], &[]),
                (1, false, 1),
                &[],
            ),
        ];
        for (why, plan, want, awaited) in &cases {
            assert_eq!(
                (is(plan), plan.awaited.values().flatten().copied().collect::<Vec<_>>()),
                (*want, awaited.to_vec()),
                "{why}"
            );
            let names_cart = *why != "without a backend nothing is waited for";
            let wanted = ["destination/ms_default_west__cart_80", "endpoints/ms_default_west__cart_80"];
            assert!(wanted.iter().all(|name| plan.subscriptions.contains(*name) == names_cart), "{why}");
            let is_ready = plan.routes.outbound.len() == 1;
            assert_eq!(plan.missing.is_empty(), is_ready, "{why}");
        }
        let waiting = &cases[0].1.routes.destinations[&catalog];
        assert_eq!(waiting.protocol, model::Protocol::Http2, "only the routes wait");

        // The way back: what the routes of before name stays until the others are there.
        let routed = cases[2].1.routes.clone();
        let elsewhere = (
            TO_CART.0,
            r#"{"protocol":"http","identities":[],"connectionTimeout":5000,
                "routes":[{"backends":[{"destination":"ms_default_west__other_80"}]}]}"#,
        );
        let plan = planned(&[elsewhere], Some(&routed), &[&cart], &[]);
        assert!(plan.routes.destinations.contains_key(&cart));
        assert_eq!(plan.routes.destinations[&catalog].routes, routed.destinations[&catalog].routes);
        for name in ["destination/ms_default_west__cart_80", "destination/ms_default_west__other_80"] {
            assert!(plan.subscriptions.contains(name), "{name}");
        }
        let mut only_backend = cases[6].1.routes.clone();
        only_backend.outbound.clear();
        assert_eq!(is(&planned(&[TO_CART, CART], Some(&only_backend), &[], &[])), (0, false, 0));
        let plan = planned(&[DESTINATION], Some(&routed), &[], &[]);
        assert_eq!(is(&plan), (1, false, 1));
        assert!(!plan.subscriptions.contains("endpoints/ms_default_west__cart_80"));
    }
}
