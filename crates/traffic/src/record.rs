//! Who is told of as calling whom, and why it failed.
//!
//! Labels are resolved when a destination is first used as who we are, and when a peer has proved who it is:
//! a request finds its series by a pointer.

use std::cell::RefCell;
use std::rc::{Rc, Weak as WeakRc};
use std::sync::{Arc, Weak};

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use model::{Protocol, SpiffeId, ZoneName};
use telemetry::metrics::Called;
use telemetry::{About, Direction, Flag, Labels, Record, Series, TraceContext, Unit, Who};

use crate::connect::ConnectError;
use crate::deadline::{Deadline, Limit};
use crate::http::Request;
use crate::inbound::Inbound;
use crate::outbound::{Destination, Endpoint};
use crate::standing::{Standing, Watch};
use crate::tls::Credentials;

const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// A series, as long as what it was resolved for stays the same.
#[derive(Default)]
pub(crate) struct Resolved(RefCell<Option<For>>);

struct For {
    made_as: Weak<Credentials>,
    protocol: Protocol,
    series: Arc<Series>,
}

impl Resolved {
    fn get(
        &self,
        credentials: &Arc<Credentials>,
        protocol: Protocol,
        resolve: impl FnOnce() -> Arc<Series>,
    ) -> Arc<Series> {
        let mut resolved = self.0.borrow_mut();
        if let Some(known) = &*resolved
            && known.made_as.as_ptr() == Arc::as_ptr(credentials)
            && known.protocol == protocol
        {
            return known.series.clone();
        }
        let series = resolve();
        *resolved = Some(For { made_as: Arc::downgrade(credentials), protocol, series: series.clone() });
        series
    }
}

impl Destination {
    /// A request or connection of the application's begins; it is not known yet where it goes.
    pub(crate) fn begin(&self, about: impl FnOnce() -> About) -> Record {
        let series = self.resolved(&self.series, None);
        self.shared().recorder.begin(&series, about)
    }

    /// It goes there.
    pub(crate) fn tell_endpoint(&self, record: &mut Record, endpoint: &Endpoint) {
        record.counts_for(&self.resolved(&endpoint.series, Some(&endpoint.part.zone)));
        record.reached(endpoint.part.address);
    }

    fn resolved(&self, resolved: &Resolved, zone: Option<&ZoneName>) -> Arc<Series> {
        let protocol = self.part().protocol;
        let labels = |credentials: Option<&Credentials>| Labels {
            unit: unit(protocol),
            direction: Direction::Outbound,
            protocol: Some(protocol),
            source: credentials.map_or(Who::Unknown, |credentials| Who::Known(credentials.id.clone())),
            source_zone: credentials.and_then(|credentials| zone_of(credentials, &credentials.id)),
            destination: Who::Known(Called::Service(self.id.clone())),
            destination_zone: zone.cloned(),
        };
        let shared = self.shared();
        match &*shared.credentials.borrow() {
            Some(credentials) => resolved
                .get(credentials, protocol, || shared.recorder.series(labels(Some(credentials.as_ref())))),
            None => shared.recorder.series(labels(None)),
        }
    }
}

impl Inbound {
    /// The series of a peer; none is known of one that did not prove who it is.
    pub(crate) fn series_of(&self, peer: Option<&SpiffeId>) -> Arc<Series> {
        let protocol = self.part().protocol;
        let credentials = self.shared().credentials.borrow();
        let zone = |id| zone_of(credentials.as_deref()?, id);
        let own = credentials.as_ref().map(|credentials| credentials.id.clone());
        let labels = Labels {
            unit: if peer.is_some() { unit(protocol) } else { Unit::Connection },
            direction: Direction::Inbound,
            protocol: Some(protocol),
            source: peer.map_or(Who::Unknown, |peer| Who::Known(peer.clone())),
            source_zone: peer.and_then(zone),
            destination_zone: own.as_ref().and_then(zone),
            destination: own.map_or(Who::Unknown, |workload| {
                Who::Known(Called::Inbound { workload, inbound: self.name })
            }),
        };
        self.shared().recorder.series(labels)
    }
}

fn unit(protocol: Protocol) -> Unit {
    if protocol.is_http() { Unit::Request } else { Unit::Connection }
}

fn zone_of(credentials: &Credentials, id: &SpiffeId) -> Option<ZoneName> {
    credentials.trust.zone_of(&id.trust_domain()).cloned()
}

/// Where an exchange goes on whose answer is over before its upload.
pub(crate) type Rest = Rc<RefCell<Option<Exchange>>>;

/// A request or connection under way: what will be told of it, and how long it may take.
pub(crate) struct Exchange {
    pub(crate) record: Record,
    pub(crate) deadline: Deadline,
    /// Its place among the requests of its connection.
    _open: Option<Request>,
    /// What it was let through by; none where nobody judges it, and after its end.
    standing: Option<Rc<Standing>>,
    /// Of its upload, if it has one.
    rest: WeakRc<RefCell<Option<Exchange>>>,
}

impl Exchange {
    pub(crate) fn of_request(
        record: Record,
        deadline: Deadline,
        open: Request,
        standing: Option<Rc<Standing>>,
    ) -> Self {
        Self { record, deadline, _open: Some(open), standing, rest: WeakRc::new() }
    }

    pub(crate) fn of_flow(record: Record, deadline: Deadline) -> Self {
        Self { record, deadline, _open: None, standing: None, rest: WeakRc::new() }
    }

    /// For what carries it, and has to be gone before it counts as revoked.
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.standing.as_ref().map(Standing::watch)
    }

    /// It has an upload, which is over when the returned is dropped.
    pub(crate) fn uploads(&mut self) -> Rest {
        let rest = Rest::default();
        self.rest = Rc::downgrade(&rest);
        rest
    }

    /// Its answer came to its end, and all of it, unless its upload goes on.
    pub(crate) fn ended(mut self) {
        self.record.ended();
        match self.rest.upgrade() {
            Some(rest) => {
                rest.replace(Some(self));
            }
            None => {
                self.deadline.stop_all();
                self.standing = None;
            }
        }
    }

    /// Why it failed, unless it was cut before.
    pub(crate) fn failed(&mut self, why: Flag) {
        self.record.failed(self.cut().unwrap_or(why));
    }

    fn cut(&self) -> Option<Flag> {
        let overdue = self.deadline.has_passed().and_then(Limit::flag);
        let is_revoked = || self.standing.as_ref().is_some_and(|standing| standing.is_revoked());
        overdue.or_else(|| is_revoked().then_some(Flag::Revoked))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (sent, received) = self.deadline.bytes();
        self.record.moved(sent, received);
        if let Some(why) = self.cut() {
            self.record.failed(why);
        }
    }
}

/// What access log and traces tell of a request.
pub(crate) fn about(method: &Method, uri: &Uri, headers: &HeaderMap) -> About {
    let header = |name| Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned());
    let authority = uri.authority().map(|authority| authority.as_str().to_owned());
    About {
        method: Some(method.as_str().to_owned()),
        path: Some(uri.path().to_owned()),
        authority: authority.or_else(|| header(HOST)),
        parent: parent(headers),
        from: None,
    }
}

/// Two of them are none.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACE_PARENT).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { TraceContext::parse(value.as_bytes()) }
}

/// Tells the next one where the request stands in its trace, where traces are on.
pub(crate) fn propagate(record: &Record, headers: &mut HeaderMap) {
    let Some(context) = record.context() else { return };
    if parent(headers).is_none() {
        // It belongs to what cannot be read.
        headers.remove(TRACE_STATE);
    }
    if let Ok(value) = HeaderValue::try_from(context.to_string()) {
        headers.insert(TRACE_PARENT, value);
    }
}

/// The proxy's own answer was the end of it.
pub(crate) fn refused(record: &mut Record, why: Flag, status: StatusCode) {
    record.failed(why);
    record.answered(status.as_u16());
    record.ended();
}

impl From<&ConnectError> for Flag {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::UnknownDestination { .. } => Flag::DestinationUnknown,
            ConnectError::NoEndpoint { .. } => Flag::NoEndpoint,
            ConnectError::TimedOut { .. } => Flag::ConnectTimeout,
            ConnectError::Unreachable { .. } => Flag::Unreachable,
            ConnectError::NotAHandle { .. } => Flag::BadHandle,
            ConnectError::Handshake { .. } => Flag::HandshakeFailed,
            ConnectError::WrongIdentity { .. } => Flag::WrongIdentity,
            ConnectError::NoProtocol { .. } => Flag::NoProtocol,
            ConnectError::NotEstablished { .. } => Flag::NotEstablished,
            ConnectError::Denied { .. } => Flag::Denied,
            ConnectError::Refused { .. } => Flag::Refused,
            ConnectError::GivenUp { .. } => Flag::GivenUp,
        }
    }
}
