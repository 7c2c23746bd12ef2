//! The destinations of a worker: their endpoints, how those did lately, and the connections to them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use http::{Uri, request};
use identity::WorkloadPeer;
use model::{DestinationId, ZoneName};
use snapshot::parts::{self, Endpoints};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::ProxyConfig;
use crate::balance::{self, Candidate, Fitness, Record};
use crate::budget::Budget;
use crate::connect::ConnectError;
use crate::http::pool::Pool;
use crate::record::Resolved;
use crate::route::{Plan, Refusal, plan};
use crate::standing::{Entry, Registry, Standing};
use crate::tls::Credentials;
use crate::worker::Shared;

/// A connection is tried at this many endpoints, each once.
pub const ATTEMPTS: usize = 5;

/// All destinations of a worker.
pub struct Outbound {
    shared: Rc<Shared>,
    destinations: RefCell<HashMap<DestinationId, Rc<Destination>>>,
    /// The last word about each, also about those that the configuration is yet to bring.
    signals: RefCell<HashMap<DestinationId, Arc<Endpoints>>>,
    /// Those that the configuration dropped, as long as something of them is open.
    leaving: RefCell<Vec<Weak<Destination>>>,
}

impl Outbound {
    pub fn new(shared: Rc<Shared>) -> Self {
        Self {
            shared,
            destinations: RefCell::default(),
            signals: RefCell::default(),
            leaving: RefCell::default(),
        }
    }

    pub fn destination(&self, id: &DestinationId) -> Option<Rc<Destination>> {
        self.destinations.borrow().get(id).cloned()
    }

    /// Takes over a configuration, and revokes the connections that it no longer allows: those to peers
    /// whom the destination does not list any more, or whose anchor is gone. Endpoints stay. Those made
    /// as someone we no longer are, such as before a renewal, take nothing new.
    pub fn apply(&self, config: &ProxyConfig) -> Vec<Rc<Standing>> {
        let mut destinations = self.destinations.borrow_mut();
        let mut signals = self.signals.borrow_mut();
        let mut leaving = self.leaving.borrow_mut();
        destinations.retain(|id, destination| {
            let stays = config.destinations.contains_key(id);
            if !stays {
                // Nothing new goes there; what is open may finish.
                destination.closing.cancel();
                leaving.push(Rc::downgrade(destination));
                signals.remove(id);
            }
            stays
        });
        let credentials = &config.credentials;
        let home = credentials.trust.zone_of(&credentials.id.trust_domain());
        for (id, part) in &config.destinations {
            let destination = destinations.entry(id.clone()).or_insert_with(|| {
                let new = Destination::new(id.clone(), part.clone(), self.shared.clone());
                new.settle(part, home);
                if let Some(endpoints) = signals.get(id) {
                    new.set_endpoints(endpoints);
                }
                Rc::new(new)
            });
            destination.settle(part, home);
        }
        for destination in destinations.values() {
            destination.find_backends(&destinations);
        }

        leaving.retain(|destination| destination.strong_count() > 0);
        let mut gone = Vec::new();
        for destination in leaving.iter().filter_map(Weak::upgrade).chain(destinations.values().cloned()) {
            gone.extend(destination.rejudge(&config.credentials));
        }
        gone
    }

    /// Replaces the endpoints of a destination; those that stay keep their record and connections. They may
    /// come before the destination does, so that it is complete from its first moment.
    pub fn set_endpoints(&self, id: &DestinationId, endpoints: Arc<Endpoints>) {
        if let Some(destination) = self.destination(id) {
            destination.set_endpoints(&endpoints);
        }
        self.signals.borrow_mut().insert(id.clone(), endpoints);
    }
}

/// One destination on one worker.
pub struct Destination {
    pub id: DestinationId,
    shared: Rc<Shared>,
    part: RefCell<Arc<parts::Destination>>,
    /// Those that its routes name. They may name each other, and end when the configuration drops them.
    backends: RefCell<HashMap<DestinationId, Weak<Destination>>>,
    /// The zone that we are in, as far as that is known.
    home: RefCell<Option<ZoneName>>,
    endpoints: RefCell<Rc<[Rc<Endpoint>]>>,
    /// For requests that an application may have seen.
    pub budget: Budget,
    /// Cancelled when connections of the application should come to their end.
    pub(crate) closing: CancellationToken,
    /// Of what never came to an endpoint.
    pub(crate) series: Resolved,
    /// Connections to other proxies, by whom they lead to.
    open: Registry<OpenConnection>,
}

/// A connection to another proxy, while it is open.
pub(crate) struct OpenConnection {
    peer: WorkloadPeer,
    standing: Rc<Standing>,
}

impl Destination {
    fn new(id: DestinationId, part: Arc<parts::Destination>, shared: Rc<Shared>) -> Self {
        Self {
            id,
            closing: shared.ending.child_token(),
            shared,
            part: RefCell::new(part),
            backends: RefCell::default(),
            home: RefCell::default(),
            endpoints: RefCell::new(Rc::new([])),
            budget: Budget::default(),
            series: Resolved::default(),
            open: Registry::default(),
        }
    }

    /// Counts a connection of the application's.
    pub fn accepted(&self) {
        self.shared.metrics.outbound_connections.add();
    }

    pub fn part(&self) -> Arc<parts::Destination> {
        self.part.borrow().clone()
    }

    /// Where a request goes: under which name, and to which other destination, if it does.
    pub(crate) fn route(&self, request: &request::Parts) -> Result<(Uri, Option<Rc<Self>>), Refusal> {
        match plan(&self.part.borrow(), request, |below| rand::random_range(..below)) {
            Plan::Forward(target) => Ok((target, None)),
            Plan::Route(target, to) => match self.backends.borrow().get(to).and_then(Weak::upgrade) {
                Some(backend) => Ok((target, Some(backend))),
                None => Err(Refusal::NoBackend),
            },
            Plan::Refuse(refusal) => Err(refusal),
        }
    }

    fn find_backends(&self, destinations: &HashMap<DestinationId, Rc<Self>>) {
        let part = self.part.borrow();
        let found = part.backends().filter_map(|id| {
            // Endpoints of what is no HTTP understand no request.
            let backend = destinations.get(id).filter(|backend| backend.part().protocol.is_http())?;
            Some((id.clone(), Rc::downgrade(backend)))
        });
        self.backends.replace(found.collect());
    }

    /// The next endpoint to try.
    pub(crate) fn pick(&self, tried: &[Rc<Endpoint>]) -> Result<Rc<Endpoint>, ConnectError> {
        let endpoints = self.endpoints.borrow().clone();
        let now = Instant::now();
        let candidate = |index: usize| {
            let endpoint: &Rc<Endpoint> = &endpoints[index];
            let out = !endpoint.ready.get()
                || !endpoint.is_listed.get()
                || tried.iter().any(|tried| Rc::ptr_eq(tried, endpoint));
            Candidate {
                fitness: if out { Fitness::Out } else { endpoint.record.get().fitness(now) },
                is_near: endpoint.is_near.get(),
                in_flight: endpoint.in_flight.get(),
                weight: endpoint.weight.get(),
            }
        };
        let dice = [rand::random(), rand::random()];
        match balance::pick(endpoints.len(), candidate, dice) {
            Some(picked) => Ok(endpoints[picked].clone()),
            None => Err(ConnectError::NoEndpoint { destination: self.id.clone() }),
        }
    }

    /// Who we are; none only before the first configuration, when there are no listeners either.
    pub(crate) fn credentials(&self) -> Result<Arc<Credentials>, ConnectError> {
        let unknown = || ConnectError::UnknownDestination { destination: self.id.clone() };
        self.shared.credentials.borrow().clone().ok_or_else(unknown)
    }

    /// Notes a connection to a peer that has proved who it is; it is watched by its standing from now on. Who
    /// the destination lists, and whom we believe, may have changed since the handshake began.
    pub(crate) fn enter(&self, peer: WorkloadPeer) -> (Rc<Standing>, Entry<OpenConnection>) {
        let standing = Standing::new();
        let stays = |now: &Arc<Credentials>| self.stays(&peer, now);
        if !self.shared.credentials.borrow().as_ref().is_some_and(stays) {
            standing.revoke();
        }
        let entry = self.open.enter(Rc::new(OpenConnection { peer, standing: standing.clone() }));
        (standing, entry)
    }

    pub(crate) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Takes over its part, and learns in which zone we are, by the trust domain of our own identity.
    fn settle(&self, part: &Arc<parts::Destination>, home: Option<&ZoneName>) {
        self.part.replace(part.clone());
        if self.home.borrow().as_ref() != home {
            self.home.replace(home.cloned());
        }
        for endpoint in self.endpoints.borrow().iter() {
            self.look_at(endpoint);
        }
    }

    /// Finds out, before any request, what picking asks of each endpoint for each request.
    fn look_at(&self, endpoint: &Endpoint) {
        endpoint.is_near.set(self.home.borrow().as_ref() == Some(&endpoint.part.zone));
        endpoint.is_listed.set(self.part.borrow().identities.contains(&endpoint.part.identity));
    }

    fn set_endpoints(&self, endpoints: &Endpoints) {
        let old = self.endpoints.borrow().clone();
        let new = endpoints.0.iter().map(|part| match old.iter().find(|endpoint| endpoint.is_at(part)) {
            Some(endpoint) => {
                let was_ready = endpoint.ready.replace(part.ready);
                if part.ready && !was_ready {
                    // As good as an answer: how often it failed before says nothing of who has come back.
                    endpoint.answered();
                }
                endpoint.weight.set(part.weight);
                endpoint.clone()
            }
            None => {
                let new = Endpoint::new(part.clone());
                self.look_at(&new);
                Rc::new(new)
            }
        });
        // Connections to an endpoint that is gone end when the last of their streams does.
        let new = new.collect();
        self.endpoints.replace(new);
    }

    fn stays(&self, peer: &WorkloadPeer, credentials: &Credentials) -> bool {
        self.part.borrow().identities.contains(&peer.id) && credentials.trust.still_believes(peer).is_some()
    }

    fn rejudge(&self, credentials: &Arc<Credentials>) -> Vec<Rc<Standing>> {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.pool.retire(credentials);
        }
        let gone = self.open.open().into_iter().filter(|open| !self.stays(&open.peer, credentials));
        gone.map(|open| {
            self.shared.metrics.revocations.add();
            open.standing.revoke();
            open.standing.clone()
        })
        .collect()
    }
}

/// One endpoint of a destination on one worker.
pub(crate) struct Endpoint {
    pub(crate) part: parts::Endpoint,
    ready: Cell<bool>,
    weight: Cell<u32>,
    /// Whether it is in our own zone.
    is_near: Cell<bool>,
    /// Whether the destination lists its identity: a signal can name one of those, but never add one.
    is_listed: Cell<bool>,
    in_flight: Cell<u32>,
    record: Cell<Record>,
    pub(crate) pool: Pool,
    pub(crate) series: Resolved,
}

impl Endpoint {
    fn new(part: parts::Endpoint) -> Self {
        Self {
            ready: Cell::new(part.ready),
            weight: Cell::new(part.weight),
            is_near: Cell::default(),
            is_listed: Cell::default(),
            in_flight: Cell::default(),
            record: Cell::default(),
            pool: Pool::default(),
            series: Resolved::default(),
            part,
        }
    }

    fn is_at(&self, part: &parts::Endpoint) -> bool {
        self.part.address == part.address
            && self.part.sni == part.sni
            && self.part.identity == part.identity
            && self.part.zone == part.zone
    }

    /// Counts the outcome of a connection attempt, and ejects the endpoint where it failed.
    pub(crate) fn record<T>(&self, outcome: &Result<T, ConnectError>, shared: &Shared) {
        match outcome {
            Ok(_) => {
                shared.metrics.connects.add();
                self.answered();
            }
            // It answered.
            Err(ConnectError::Denied { .. }) => self.answered(),
            Err(error) => {
                let wrong_identity = matches!(error, ConnectError::WrongIdentity { .. });
                shared.metrics.connect_failures.add();
                if wrong_identity {
                    shared.metrics.wrong_identities.add();
                }
                self.eject(wrong_identity, shared);
                debug!(reason = error.reason(), error = %error, "connecting failed");
            }
        }
    }

    /// A request was answered.
    pub(crate) fn answered(&self) {
        let mut record = self.record.get();
        if !record.is_spotless() {
            record.succeeded(Instant::now());
            self.record.set(record);
        }
    }

    /// A request was refused unseen, as by a proxy that does not reach its application.
    pub(crate) fn refused(&self, shared: &Shared) {
        self.eject(false, shared);
    }

    fn eject(&self, wrong_identity: bool, shared: &Shared) {
        let mut record = self.record.get();
        if record.failed(wrong_identity, Instant::now()) {
            shared.metrics.ejections.add();
            self.record.set(record);
        }
    }

    /// One more request or connection, until the guard is dropped.
    pub(crate) fn occupy(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(self.clone())
    }
}

pub(crate) struct InFlight(Rc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use http::Request;
    use model::Protocol;
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::connect::ConnectError;
    use crate::fixture::{CART, CATALOG, WEB, World, destination, endpoint, nowhere};

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_an_ejection_but_not_one_for_a_wrong_identity() {
        let (endpoint, shared) = (Endpoint::new(endpoint(nowhere(), CATALOG)), Shared::default());
        let is_good = || endpoint.record.get().fitness(Instant::now()) == Fitness::Good;
        endpoint.refused(&shared);
        assert!(!is_good());
        endpoint.answered();
        assert!(is_good());

        let [found, wanted] = [CART, CATALOG].map(|id| id.parse().unwrap());
        let wrong = Err(ConnectError::WrongIdentity { endpoint: nowhere(), found, wanted });
        endpoint.record::<()>(&wrong, &shared);
        // On a connection of before, or another attempt that was on its way.
        endpoint.answered();
        endpoint.record(&Ok(()), &shared);
        assert_eq!(endpoint.record.get().fitness(Instant::now()), Fitness::Out);
        advance(Duration::from_secs(1)).await;
        endpoint.answered();
        assert!(is_good() && endpoint.record.get().is_spotless());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_is_asked_at_once_however_long_it_was_ejected() {
        let world = World::new();
        let id: DestinationId = "ms_default_west__catalog_http".parse().unwrap();
        let (shared, outbound) = (Rc::<Shared>::default(), Outbound::new(Rc::default()));
        outbound.apply(&ProxyConfig {
            outbound: Vec::new(),
            inbounds: BTreeMap::new(),
            destinations: [(
                id.clone(),
                Arc::new(destination(Protocol::Http, &[CATALOG], Duration::from_secs(5))),
            )]
            .into(),
            credentials: world.credentials(&world.east, WEB),
        });
        let told = |ready| {
            let endpoints = vec![parts::Endpoint { ready, ..endpoint(nowhere(), CATALOG) }];
            outbound.set_endpoints(&id, Arc::new(Endpoints(endpoints)));
            outbound.destination(&id).unwrap().endpoints.borrow()[0].clone()
        };
        let fitness = |endpoint: &Endpoint| endpoint.record.get().fitness(Instant::now());
        let gone = told(true);
        gone.refused(&shared);
        advance(Duration::from_secs(1)).await;
        gone.refused(&shared);
        assert_eq!(fitness(&told(true)), Fitness::Ejected, "it was there all the time");
        told(false);
        assert_eq!(fitness(&told(true)), Fitness::Good);
        gone.eject(true, &shared);
        told(false);
        assert_eq!(fitness(&told(true)), Fitness::Out, "who it is has not changed");
    }

    #[test]
    fn a_route_leads_to_no_backend_that_does_not_speak_http() {
        let world = World::new();
        let [front, back] = ["ms_default_west__shop_http", "ms_default_west__catalog_http"];
        let routes = json!([{ "backends": [{ "destination": back }] }]);
        let outbound = Outbound::new(Rc::default());
        let request = Request::get("http://shop/").body(()).unwrap().into_parts().0;
        for protocol in [Protocol::Http, Protocol::Tcp, Protocol::Grpc, Protocol::Http2] {
            let part = |protocol| destination(protocol, &[CATALOG], Duration::from_secs(5));
            let routed = parts::Destination {
                routes: serde_json::from_value(routes.clone()).unwrap(),
                ..part(Protocol::Http)
            };
            let parts = [(front, routed), (back, part(protocol))];
            outbound.apply(&ProxyConfig {
                outbound: Vec::new(),
                inbounds: BTreeMap::new(),
                destinations: parts.map(|(id, part)| (id.parse().unwrap(), Arc::new(part))).into(),
                credentials: world.credentials(&world.east, WEB),
            });
            let routed = outbound.destination(&front.parse().unwrap()).unwrap().route(&request);
            let led = routed.map(|(_, to)| to.unwrap().id.to_string());
            let want = if protocol == Protocol::Tcp { Err(Refusal::NoBackend) } else { Ok(back.to_owned()) };
            assert_eq!(led, want, "{protocol:?}");
        }
    }

    #[test]
    fn an_endpoint_is_picked_only_while_the_destination_lists_whom_it_names() {
        let world = World::new();
        let id: DestinationId = "ms_default_west__catalog_http".parse().unwrap();
        let outbound = Outbound::new(Rc::default());
        let list = |identities: &[&str]| {
            let part = destination(Protocol::Http, identities, Duration::from_secs(5));
            outbound.apply(&ProxyConfig {
                outbound: Vec::new(),
                inbounds: BTreeMap::new(),
                destinations: BTreeMap::from([(id.clone(), Arc::new(part))]),
                credentials: world.credentials(&world.east, WEB),
            });
        };
        let name = |identity| {
            let endpoints = Endpoints(vec![endpoint(nowhere(), identity)]);
            outbound.set_endpoints(&id, Arc::new(endpoints));
        };
        let picks = || outbound.destination(&id).unwrap().pick(&[]).is_ok();

        name(CATALOG);
        for (identities, want) in
            [(&[CATALOG][..], true), (&[CART], false), (&[CART, CATALOG], true), (&[], false)]
        {
            list(identities);
            assert_eq!(picks(), want, "{identities:?}");
        }
        list(&[CATALOG]);
        name(CART);
        assert!(!picks(), "a signal added an identity");
        name(CATALOG);
        assert!(picks());
    }
}
