//! The access log: one JSON object a line, for machines to read.
//!
//! | field | what |
//! |---|---|
//! | `at` | when it began, UTC |
//! | `event` | `request` or `connection` |
//! | `direction`, `protocol`, `source`, `source_zone`, `destination`, `inbound`, `destination_zone` | as in metrics |
//! | `method`, `authority`, `path` | of a request; never a query, never another header |
//! | `status` | of the answer |
//! | `result`, `flag` | as in metrics |
//! | `duration_ms` | to its end |
//! | `sent`, `received` | bytes of the bodies of a request and its answer, or of an opaque connection |
//! | `endpoint` | what was dialled |
//! | `from` | the other end, where no identity tells it |
//! | `trace`, `span` | where traces are on |
//!
//! What is not known is absent.

use std::sync::Arc;

use anyhow::Context;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::Unit;
use crate::outlets::AccessLog;
use crate::queue::Intake;
use crate::record::Finished;

pub(crate) type Line = Arc<Finished>;

pub(crate) struct Writer(Box<dyn AsyncWrite + Send + Unpin>);

impl Writer {
    /// None where nothing is to be written.
    pub(crate) fn open(setting: &AccessLog) -> anyhow::Result<Option<Self>> {
        Ok(match setting {
            AccessLog::Off => None,
            AccessLog::Stderr => Some(Self(Box::new(tokio::io::stderr()))),
            AccessLog::File(path) => {
                let file = std::fs::File::options().append(true).create(true).open(path);
                let file = file.with_context(|| format!("cannot open the access log {}", path.display()))?;
                Some(Self(Box::new(File::from_std(file))))
            }
        })
    }
}

pub(crate) async fn run(mut writer: Writer, mut lines: Intake<Line>, stop: &CancellationToken) {
    let mut broken = false;
    loop {
        let batch = match stop.run_until_cancelled(lines.next()).await {
            Some(batch) => batch,
            None => lines.now(),
        };
        if batch.is_empty() {
            return;
        }
        let mut text = Vec::with_capacity(batch.len() * 512);
        batch.iter().for_each(|finished| format(finished, &mut text));
        let written = async {
            writer.0.write_all(&text).await?;
            writer.0.flush().await
        };
        match written.await {
            Ok(()) => broken = false,
            // Once for each outage.
            Err(error) if !broken => {
                broken = true;
                warn!(%error, "the access log cannot be written");
            }
            Err(_) => {}
        }
    }
}

fn format(finished: &Finished, out: &mut Vec<u8>) {
    let mut line = Map::new();
    let details = &finished.details;
    let about = &details.about;
    let labels = &finished.series.labels;
    if let Ok(at) = OffsetDateTime::from(details.began).format(&Rfc3339) {
        line.insert("at".into(), at.into());
    }
    let is_request = labels.unit == Unit::Request;
    line.insert("event".into(), if is_request { "request" } else { "connection" }.into());
    labels.texts(|name, value| {
        line.insert(name.into(), value.to_string().into());
    });
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            line.insert(name.into(), value);
        }
    };
    put("method", about.method.as_deref().map(Value::from));
    put("authority", about.authority.as_deref().map(Value::from));
    put("path", about.path.as_deref().map(Value::from));
    put("status", finished.status.map(Value::from));
    put("result", Some(finished.outcome.as_str().into()));
    put("flag", finished.flag.map(|flag| flag.as_str().into()));
    put("duration_ms", Some((finished.took.as_micros() as f64 / 1e3).into()));
    if !is_request {
        put("sent", Some(details.sent.into()));
        put("received", Some(details.received.into()));
    }
    put("endpoint", details.endpoint.map(|endpoint| endpoint.to_string().into()));
    put("from", about.from.map(|from| from.to_string().into()));
    if let Some(context) = details.context {
        put("trace", Some(format!("{:032x}", context.trace).into()));
        put("span", Some(format!("{:016x}", context.span).into()));
    }
    // A map of texts and numbers always is JSON, and a vector takes it.
    let _ = serde_json::to_writer(&mut *out, &line);
    out.push(b'\n');
}
