use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use telemetry::{About, Flag, Settings, Telemetry, TraceContext, Tracing, Unit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::support::{eventually, scrape, value, web_calls_catalog};

/// Takes a batch for each permit.
#[derive(Clone)]
struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
    services: Arc<Mutex<Vec<String>>>,
    permits: Arc<Semaphore>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.permits.acquire().await.unwrap().forget();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.into_iter().flat_map(|resource| resource.attributes);
            let told = attributes.map(|attribute| format!("{}={:?}", attribute.key, attribute.value));
            self.services.lock().unwrap().extend(told);
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(permits: usize) -> (Self, SocketAddr) {
        let collector = Self {
            spans: Arc::default(),
            services: Arc::default(),
            permits: Arc::new(Semaphore::new(permits)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        (collector, address)
    }

    fn count(&self) -> usize {
        self.spans.lock().unwrap().len()
    }
}

fn to(address: SocketAddr, sampling: f64) -> Settings {
    let tracing = Tracing { endpoint: format!("http://{address}"), sampling };
    Settings { tracing: Some(tracing), ..Settings::default() }
}

#[tokio::test]
async fn a_collector_receives_each_sampled_request_with_its_place_in_the_trace() {
    let (collector, address) = Collector::start(Semaphore::MAX_PERMITS).await;
    let (telemetry, outlets) = Telemetry::new(&to(address, 0.0), "web").unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(outlets.run(stop.clone()));

    let recorder = telemetry.worker();
    let series = recorder.series(web_calls_catalog(Unit::Request));
    let parent = TraceContext { trace: 7, span: 8, sampled: true };
    let unsampled = TraceContext { trace: 9, span: 10, sampled: false };
    let mut told = Vec::new();
    // One that is part of a recorded trace, one of a trace that is not, and one that begins here.
    for parent in [Some(parent), Some(unsampled), None] {
        let about = || About { method: Some("GET".into()), parent, ..About::default() };
        let mut record = recorder.begin(&series, about);
        told.push(record.context().unwrap());
        record.failed(Flag::UpstreamReset);
        record.answered(502);
    }
    assert_eq!(told.iter().map(|context| context.sampled).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!((told[0].trace, told[1].trace), (7, 9));

    eventually(|| collector.count() > 0).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    let spans = collector.spans.lock().unwrap().clone();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(span.trace_id, 7_u128.to_be_bytes());
    assert_eq!(span.parent_span_id, 8_u64.to_be_bytes());
    assert_eq!(span.span_id, told[0].span.to_be_bytes());
    assert_eq!((span.name.as_str(), span.kind), ("GET", SpanKind::Client as i32));
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(span.status.as_ref().unwrap().message, "upstream-reset");
    let keys: Vec<&str> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    for key in ["tombolo.source", "tombolo.destination", "tombolo.flag", "http.response.status_code"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    let services = collector.services.lock().unwrap().clone();
    assert!(
        services.iter().any(|told| told.contains("service.name") && told.contains("web")),
        "{services:?}"
    );
}

#[tokio::test]
async fn a_slow_collector_costs_spans_that_are_counted_and_never_latency() {
    let (collector, address) = Collector::start(0).await;
    let (telemetry, outlets) = Telemetry::new(&to(address, 1.0), "web").unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(outlets.run(stop.clone()));
    let worker = telemetry.clone();
    let slowest = tokio::task::spawn_blocking(move || {
        let recorder = worker.worker();
        let series = recorder.series(web_calls_catalog(Unit::Request));
        let one = |_| {
            let start = Instant::now();
            recorder.begin(&series, About::default).ended();
            start.elapsed()
        };
        (0..30_000).map(one).max().unwrap()
    });
    // The collector answers nothing at all, and would for seconds.
    let slowest = slowest.await.unwrap();
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let dropped = || value(&scrape(&telemetry), "tombolo_spans_dropped_total");
    assert!(dropped() > 20_000, "{}", dropped());

    // It comes back to life: what waited arrives, and nothing is lost that was not counted.
    collector.permits.add_permits(100_000);
    eventually(|| collector.count() as u64 + dropped() >= 30_000).await;
    assert_eq!(collector.count() as u64 + dropped(), 30_000);
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_only_spans() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (telemetry, outlets) = Telemetry::new(&to(nobody, 1.0), "web").unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(outlets.run(stop.clone()));
    let recorder = telemetry.worker();
    let series = recorder.series(web_calls_catalog(Unit::Request));
    for _ in 0..10 {
        recorder.begin(&series, About::default).ended();
    }
    eventually(|| value(&scrape(&telemetry), "tombolo_spans_dropped_total") == 10).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}
