//! The names and labels of everything that records are counted in. Nothing else of them is exposed.
//!
//! | metric | labels beside who and whom | what |
//! |---|---|---|
//! | `tombolo_requests_total` | `result`, `flag` | requests that ended |
//! | `tombolo_request_duration_seconds` | | from a request's head to the end of its answer |
//! | `tombolo_connections_total` | `result`, `flag` | opaque connections that ended, and those that never began |
//! | `tombolo_connection_duration_seconds` | | from an opaque connection's first packet to its end |
//! | `tombolo_sent_bytes_total` | | bytes of bodies and opaque connections from the caller to the called |
//! | `tombolo_received_bytes_total` | | bytes of bodies and opaque connections from the called to the caller |
//! | `tombolo_series_forgotten_total` | | series that were added to `other` to make room |
//! | `tombolo_access_log_dropped_total` | | lines that the access log lost |
//! | `tombolo_spans_dropped_total` | | spans that the collector of traces did not get |
//!
//! Who and whom: `direction`, `protocol`, `source`, `source_zone`, `destination`, `inbound`,
//! `destination_zone`, as [`Labels`] documents them. `result` is [`Outcome`], `flag` is [`Flag`] and absent
//! where nothing failed. What is not known is absent. There is no handle, path or header among them: whoever
//! reads metrics is anonymous.

use std::fmt;

use model::{DestinationId, Protocol, SpiffeId, ZoneName};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::flag::Flag;

/// A name without the `_total` that its counters get, and its help.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
}

const fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help }
}

pub(crate) const REQUESTS: Family = family("tombolo_requests", "Requests that ended");
pub(crate) const REQUEST_DURATION: Family =
    family("tombolo_request_duration_seconds", "From a request's head to the end of its answer");
pub(crate) const CONNECTIONS: Family =
    family("tombolo_connections", "Opaque connections that ended, and those that never began");
pub(crate) const CONNECTION_DURATION: Family =
    family("tombolo_connection_duration_seconds", "From an opaque connection's first packet to its end");
pub(crate) const SENT: Family =
    family("tombolo_sent_bytes", "Bytes of bodies and opaque connections from the caller to the called");
pub(crate) const RECEIVED: Family =
    family("tombolo_received_bytes", "Bytes of bodies and opaque connections from the called to the caller");
pub(crate) const FORGOTTEN: Family =
    family("tombolo_series_forgotten", "Series that were added to 'other' to make room");
pub(crate) const LOG_DROPPED: Family = family("tombolo_access_log_dropped", "Lines that the access log lost");
pub(crate) const SPANS_DROPPED: Family =
    family("tombolo_spans_dropped", "Spans that the collector of traces did not get");

/// The upper bounds of the histograms' buckets but the last, which has none, in microseconds.
pub(crate) const REQUEST_BUCKETS: [u64; BUCKETS] = [
    500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_000_000, 2_000_000,
    8_000_000, 32_000_000,
];
pub(crate) const CONNECTION_BUCKETS: [u64; BUCKETS] = [
    1_000,
    4_000,
    16_000,
    64_000,
    256_000,
    1_000_000,
    4_000_000,
    15_000_000,
    60_000_000,
    240_000_000,
    900_000_000,
    3_600_000_000,
    14_400_000_000,
    43_200_000_000,
    86_400_000_000,
];
pub(crate) const BUCKETS: usize = 15;

/// Different series a worker keeps at most; a proxy that is called by more is told the rest as `other`.
pub(crate) const MOST_SERIES: usize = 1_000;

/// Who called whom.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Labels {
    /// Not a label: what is counted.
    pub unit: Unit,
    /// `direction`
    pub direction: Direction,
    /// `protocol`: as declared. Absent where an ingress cannot know.
    pub protocol: Option<Protocol>,
    /// `source`: the SPIFFE id of the caller; proven, or the proxy's own.
    pub source: Who<SpiffeId>,
    /// `source_zone`
    pub source_zone: Option<ZoneName>,
    /// `destination`: on the calling side the id of the destination, such as
    /// `ms_default_west__catalog_http`; on the called side the proxy's own SPIFFE id.
    pub destination: Who<Called>,
    /// `destination_zone`: of the endpoint that was chosen.
    pub destination_zone: Option<ZoneName>,
}

/// What was called, by the side that tells it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Called {
    Service(DestinationId),
    /// `inbound`: the name of the inbound's part, a port of the proxy's own workload.
    Inbound {
        workload: SpiffeId,
        inbound: u16,
    },
}

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Who<T> {
    /// Absent: it was not known, or never came to be known.
    Unknown,
    Known(T),
    /// `other`: there are more than are told apart.
    Other,
}

/// What is counted one by one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Unit {
    Request,
    /// An opaque one, or one that did not become anything.
    Connection,
}

/// Which side tells it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// The caller's proxy.
    Outbound,
    /// The called one's.
    Inbound,
    /// A zone ingress on the way.
    Relay,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Relay => "relay",
        }
    }
}

/// `result`: how it ended, as its client saw it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// `1xx` to `5xx`: a request was answered; the proxy's own answers count.
    Answered(StatusClass),
    /// `ended`: a connection came to an orderly end.
    Ended,
    /// `broken`: a request without an answer, a connection that never began or ended early.
    Broken,
}

/// The first digit of a status, from 1 to 5; what has another counts as 5.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StatusClass(u8);

impl From<u16> for StatusClass {
    fn from(status: u16) -> Self {
        match status / 100 {
            class @ 1..=5 => Self(class as u8),
            _ => Self(5),
        }
    }
}

impl Outcome {
    pub(crate) const COUNT: usize = 7;

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Ended => 0,
            Self::Answered(StatusClass(class)) => usize::from(class),
            Self::Broken => Self::COUNT - 1,
        }
    }

    pub(crate) fn text_of(index: usize) -> &'static str {
        ["ended", "1xx", "2xx", "3xx", "4xx", "5xx", "broken"][index]
    }

    pub fn as_str(self) -> &'static str {
        Self::text_of(self.index())
    }
}

impl Labels {
    /// An ingress knows neither who calls nor what is called, and a name that leads somewhere is not for
    /// anonymous readers.
    pub const RELAY: Self = Self {
        unit: Unit::Connection,
        direction: Direction::Relay,
        protocol: None,
        source: Who::Unknown,
        source_zone: None,
        destination: Who::Unknown,
        destination_zone: None,
    };

    /// Where everything goes for which there is no room.
    pub(crate) fn other(&self) -> Self {
        Self {
            source: Who::Other,
            source_zone: None,
            destination: Who::Other,
            destination_zone: None,
            ..self.clone()
        }
    }

    /// Name and value of each label that has one.
    pub fn texts(&self, mut put: impl FnMut(&'static str, &dyn fmt::Display)) {
        put("direction", &self.direction.as_str());
        if let Some(protocol) = self.protocol {
            put("protocol", &protocol_name(protocol));
        }
        match &self.source {
            Who::Unknown => {}
            Who::Known(id) => put("source", id),
            Who::Other => put("source", &"other"),
        }
        if let Some(zone) = &self.source_zone {
            put("source_zone", zone);
        }
        match &self.destination {
            Who::Unknown => {}
            Who::Known(Called::Service(id)) => put("destination", id),
            Who::Known(Called::Inbound { workload, inbound }) => {
                put("destination", workload);
                put("inbound", inbound);
            }
            Who::Other => put("destination", &"other"),
        }
        if let Some(zone) = &self.destination_zone {
            put("destination_zone", zone);
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Grpc => "grpc",
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut encoded = Ok(());
        self.texts(|name, value| {
            let value = value.to_string();
            let put = (name, value.as_str()).encode(encoder.encode_label());
            encoded = encoded.and(put);
        });
        encoded
    }
}

/// The labels of a count of ends.
#[derive(Clone, Debug)]
pub(crate) struct Ends<'a> {
    pub(crate) labels: &'a Labels,
    pub(crate) result: &'static str,
    pub(crate) flag: Option<Flag>,
}

impl EncodeLabelSet for Ends<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.labels.encode(encoder)?;
        ("result", self.result).encode(encoder.encode_label())?;
        if let Some(flag) = self.flag {
            ("flag", flag.as_str()).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
