//! Spans, sent to a collector over OTLP. A collector that is slow, or gone, costs spans.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::metrics::{Direction, Unit};
use crate::outlets::Tracing;
use crate::queue::Intake;
use crate::record::Finished;

pub(crate) type SpanOf = Arc<Finished>;

pub(crate) struct Exporter {
    exporter: opentelemetry_otlp::SpanExporter,
    scope: InstrumentationScope,
}

/// How long the collector may take for a batch.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it gets for what is left at the end.
const LAST: Duration = Duration::from_secs(1);

impl Exporter {
    pub(crate) fn new(setting: &Tracing, service: &str) -> anyhow::Result<Self> {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&setting.endpoint)
            .with_timeout(LIMIT)
            .build()
            .with_context(|| format!("'{}' is no address of a collector", setting.endpoint))?;
        // Nothing from the environment: what is told is what was set.
        let resource = Resource::builder_empty().with_service_name(service.to_owned()).build();
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("tombolo").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { exporter, scope })
    }

    pub(crate) async fn run(self, mut spans: Intake<SpanOf>, dropped: &AtomicU64, stop: &CancellationToken) {
        let mut broken = false;
        loop {
            let (batch, limit) = match stop.run_until_cancelled(spans.next()).await {
                Some(batch) => (batch, LIMIT),
                None => (spans.now(), LAST),
            };
            if batch.is_empty() {
                return;
            }
            let number = batch.len() as u64;
            let batch = batch.iter().filter_map(|finished| self.span(finished)).collect();
            let sent = time::timeout(limit, self.exporter.export(batch)).await;
            let reason = match sent {
                Ok(Ok(())) => {
                    broken = false;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            dropped.fetch_add(number, Ordering::Relaxed);
            // Once for each outage.
            if !broken {
                broken = true;
                warn!(reason, "the collector of traces does not take spans");
            }
            if stop.is_cancelled() {
                let left = std::iter::from_fn(|| Some(spans.now().len()).filter(|number| *number > 0));
                dropped.fetch_add(left.sum::<usize>() as u64, Ordering::Relaxed);
                return;
            }
        }
    }

    fn span(&self, finished: &Finished) -> Option<SpanData> {
        let details = &finished.details;
        let context = details.context?;
        let labels = &finished.series.labels;
        let trace = TraceId::from(context.trace);
        let parent = details.about.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span));
        let name: Cow<'static, str> = match (&details.about.method, labels.unit) {
            (Some(method), _) => method.clone().into(),
            (None, Unit::Request) => "request".into(),
            (None, Unit::Connection) => "connection".into(),
        };
        let mut attributes = Vec::with_capacity(16);
        labels.texts(|name, value| {
            attributes.push(KeyValue::new(format!("tombolo.{name}"), value.to_string()));
        });
        let text = |name, value: &Option<String>| Some(KeyValue::new(name, value.clone()?));
        attributes.extend(text("http.request.method", &details.about.method));
        attributes.extend(text("server.address", &details.about.authority));
        attributes.extend(text("url.path", &details.about.path));
        let status =
            finished.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status)));
        attributes.extend(status);
        attributes.extend(finished.flag.map(|flag| KeyValue::new("tombolo.flag", flag.as_str())));
        let endpoint =
            details.endpoint.map(|endpoint| KeyValue::new("network.peer.address", endpoint.to_string()));
        attributes.extend(endpoint);
        Some(SpanData {
            span_context: SpanContext::new(
                trace,
                SpanId::from(context.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: details.about.parent.is_some(),
            span_kind: match labels.direction {
                Direction::Outbound => SpanKind::Client,
                Direction::Inbound => SpanKind::Server,
                Direction::Relay => SpanKind::Internal,
            },
            name,
            start_time: details.began,
            end_time: details.began + finished.took,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: match finished.flag {
                Some(flag) => Status::error(flag.as_str()),
                None if finished.status.is_some_and(|status| status >= 500) => Status::error(""),
                None => Status::Unset,
            },
            instrumentation_scope: self.scope.clone(),
        })
    }
}
