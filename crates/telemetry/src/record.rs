//! What becomes of one request or connection, from its beginning to its end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::context::TraceContext;
use crate::flag::Flag;
use crate::metrics::Outcome;
use crate::outlets::Telemetry;
use crate::series::{Recorder, Series};

/// What only the access log and traces tell; nobody pays for it while both are off.
#[derive(Clone, Debug, Default)]
pub struct About {
    pub method: Option<String>,
    /// Without its query, which is not for logs.
    pub path: Option<String>,
    pub authority: Option<String>,
    /// What the request came with.
    pub parent: Option<TraceContext>,
    /// The connection's other end, where no identity tells it.
    pub from: Option<IpAddr>,
}

/// Open as long as the request or connection is; dropping it counts it.
///
/// What is dropped before it came to its end, and does not know why, was left by its caller.
#[derive(Debug)]
pub struct Record {
    series: Arc<Series>,
    began: Instant,
    status: Option<u16>,
    flag: Option<Flag>,
    ended: bool,
    details: Option<Box<Details>>,
}

/// For access log and traces.
#[derive(Debug)]
pub(crate) struct Details {
    telemetry: Telemetry,
    pub(crate) began: SystemTime,
    pub(crate) about: About,
    pub(crate) context: Option<TraceContext>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What is told at the end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) series: Arc<Series>,
    pub(crate) took: std::time::Duration,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: Outcome,
    pub(crate) flag: Option<Flag>,
    pub(crate) details: Details,
}

impl Recorder {
    /// `about` is asked only where something wants to know.
    pub fn begin(&self, series: &Arc<Series>, about: impl FnOnce() -> About) -> Record {
        let details = self.telemetry.wants_details().then(|| {
            let about = about();
            let context = self.telemetry.tracing().map(|tracing| match about.parent {
                Some(parent) => parent.child(),
                None => TraceContext::root(tracing.sampling),
            });
            Box::new(Details {
                telemetry: self.telemetry.clone(),
                began: SystemTime::now(),
                about,
                context,
                endpoint: None,
                sent: 0,
                received: 0,
            })
        });
        Record {
            series: series.clone(),
            began: Instant::now(),
            status: None,
            flag: None,
            ended: false,
            details,
        }
    }
}

impl Record {
    /// What the next one is told of the trace; none while traces are off, and then whatever the request came
    /// with stays as it is.
    pub fn context(&self) -> Option<TraceContext> {
        self.details.as_ref()?.context
    }

    /// Who calls whom is known better now.
    pub fn counts_for(&mut self, series: &Arc<Series>) {
        if !Arc::ptr_eq(&self.series, series) {
            self.series = series.clone();
        }
    }

    pub fn reached(&mut self, endpoint: SocketAddr) {
        if let Some(details) = &mut self.details {
            details.endpoint = Some(endpoint);
        }
    }

    pub fn answered(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// Why it failed; the first reason stays.
    pub fn failed(&mut self, flag: Flag) {
        self.flag.get_or_insert(flag);
    }

    /// Bytes of bodies or of a connection, from the caller to the called and back.
    pub fn moved(&mut self, sent: u64, received: u64) {
        self.series.moved(sent, received);
        if let Some(details) = &mut self.details {
            details.sent += sent;
            details.received += received;
        }
    }

    /// It came to its end.
    pub fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let flag = self.flag.or((!self.ended).then_some(Flag::DownstreamGone));
        let outcome = match (self.status, flag) {
            (Some(status), _) => Outcome::Answered(status.into()),
            (None, None) => Outcome::Ended,
            (None, Some(_)) => Outcome::Broken,
        };
        let took = self.began.elapsed();
        self.series.count(outcome, flag, took);
        if let Some(details) = self.details.take() {
            let (telemetry, series) = (details.telemetry.clone(), self.series.clone());
            let status = self.status;
            telemetry.tell(Finished { series, took, status, outcome, flag, details: *details });
        }
    }
}
