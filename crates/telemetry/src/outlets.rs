//! The telemetry of one process: what its workers share, and what writes for them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::access_log::{self, Line, Writer};
use crate::otlp::{Exporter, SpanOf};
use crate::queue::{Dropped, Feed, Intake, queue};
use crate::record::Finished;
use crate::series::{Recorder, Scrape, Table};

/// Where the access log goes: one JSON object a line for each request and opaque connection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AccessLog {
    #[default]
    Off,
    Stderr,
    /// Appended to.
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" => Self::Off,
            "stderr" => Self::Stderr,
            path => Self::File(path.into()),
        })
    }
}

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Of a collector that speaks OTLP over gRPC, such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// How probable it is that a trace that begins here is recorded, from 0 to 1. What came with a decision
    /// keeps it.
    pub sampling: f64,
}

/// Metrics are always on; the rest only where it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub access_log: AccessLog,
    pub tracing: Option<Tracing>,
}

/// What all workers of a process share. Clones are the same.
#[derive(Clone, Default)]
pub struct Telemetry(Arc<Inner>);

#[derive(Default)]
struct Inner {
    tables: Mutex<Vec<Arc<Table>>>,
    lines: Option<Feed<Line>>,
    tracing: Option<Sampler>,
    lines_dropped: Dropped,
    spans_dropped: Dropped,
}

pub(crate) struct Sampler {
    pub(crate) sampling: f64,
    spans: Feed<SpanOf>,
}

/// Lines and spans that wait at most, and those that are written at once.
const LINES: (usize, usize) = (16_384, 1_024);
const SPANS: (usize, usize) = (8_192, 512);

/// What writes for the workers; nothing is written while it does not run.
pub struct Outlets {
    lines: Option<(Writer, Intake<Line>)>,
    spans: Option<(Exporter, Intake<SpanOf>)>,
    spans_dropped: Arc<AtomicU64>,
}

impl Telemetry {
    /// `service` is what a collector knows this program as. An error is a file that cannot be opened, or an
    /// address that is none. Needs a tokio runtime.
    pub fn new(settings: &Settings, service: &str) -> anyhow::Result<(Self, Outlets)> {
        let (lines_dropped, spans_dropped) = (Dropped::default(), Dropped::default());
        let (mut feed, mut lines) = (None, None);
        if let Some(writer) = Writer::open(&settings.access_log)? {
            let (put, taken) = queue(LINES.0, LINES.1, &lines_dropped);
            (feed, lines) = (Some(put), Some((writer, taken)));
        }
        let (mut tracing, mut spans) = (None, None);
        if let Some(setting) = &settings.tracing {
            let (put, taken) = queue(SPANS.0, SPANS.1, &spans_dropped);
            tracing = Some(Sampler { sampling: setting.sampling, spans: put });
            spans = Some((Exporter::new(setting, service)?, taken));
        }
        let outlets = Outlets { lines, spans, spans_dropped: spans_dropped.clone() };
        let inner = Inner { tables: Mutex::default(), lines: feed, tracing, lines_dropped, spans_dropped };
        Ok((Self(Arc::new(inner)), outlets))
    }

    /// For one worker more.
    pub fn worker(&self) -> Recorder {
        let table = Arc::<Table>::default();
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner).push(table.clone());
        Recorder::new(table, self.clone())
    }

    /// A scrape of the registry sums the workers.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Scrape(self.clone())));
    }

    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn tracing(&self) -> Option<&Sampler> {
        self.0.tracing.as_ref()
    }

    pub(crate) fn wants_details(&self) -> bool {
        self.0.lines.is_some() || self.0.tracing.is_some()
    }

    /// Lines and spans that were lost.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        (self.0.lines_dropped.load(Ordering::Relaxed), self.0.spans_dropped.load(Ordering::Relaxed))
    }

    pub(crate) fn tell(&self, finished: Finished) {
        let sampled = finished.details.context.is_some_and(|context| context.sampled);
        let sampler = self.0.tracing.as_ref().filter(|_| sampled);
        let finished = Arc::new(finished);
        if let Some(lines) = &self.0.lines {
            lines.put(finished.clone());
        }
        if let Some(sampler) = sampler {
            sampler.spans.put(finished);
        }
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Telemetry")
    }
}

impl Outlets {
    /// Writes until `stop`, then what still waits, and ends. Neither a full disk nor a dead collector ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { lines, spans, spans_dropped } = self;
        let log = async {
            if let Some((writer, taken)) = lines {
                access_log::run(writer, taken, &stop).await;
            }
        };
        let export = async {
            if let Some((exporter, taken)) = spans {
                exporter.run(taken, &spans_dropped, &stop).await;
            }
        };
        tokio::join!(log, export, stop.cancelled());
        Ok(())
    }
}
