//! What a proxy says of each request and connection: one record of it feeds metrics, access log and trace.
//!
//! A worker opens a [`Record`] when a request or connection begins, tells it what becomes of it, and drops it
//! at the end. Its numbers go into a [`Series`] whose labels were resolved before, by the configuration or the
//! handshake; a scrape sums the workers. What the access log and the collector of traces want goes through
//! bounded queues that never make a worker wait or wake anyone: who cannot keep up loses lines and spans, and
//! they are counted.

pub mod flag;
pub mod metrics;

pub mod context;
pub mod record;
pub mod series;

mod queue;

pub mod access_log;
pub mod otlp;

pub mod outlets;

pub use context::TraceContext;
pub use flag::Flag;
pub use metrics::{Direction, Labels, Unit, Who};
pub use outlets::{AccessLog, Outlets, Settings, Telemetry, Tracing};
pub use record::{About, Record};
pub use series::{Recorder, Series};
