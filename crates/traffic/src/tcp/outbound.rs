//! A connection of the own application to a destination.

use std::rc::Rc;
use std::sync::Arc;

use telemetry::{About, Flag};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::connect::{ConnectError, Secured, reach, read_status, secure, within};
use crate::deadline::of_flow;
use crate::outbound::{ATTEMPTS, Destination, Endpoint};
use crate::record::Exchange;
use crate::tls::Credentials;
use crate::transport::{Transport, copy_both};

/// Carries one connection to its end. What cannot be delivered ends in a reset, so that the application does
/// not take it for an orderly end.
pub async fn serve(mut stream: impl Transport, destination: Rc<Destination>) {
    let shared = destination.shared().clone();
    let mut record = destination.begin(About::default);
    let (endpoint, mut connected) = match connect(&destination).await {
        Ok(connected) => connected,
        Err(error) => {
            shared.metrics.outbound_failures.add();
            record.failed((&error).into());
            debug!(destination = %destination.id, reason = error.reason(), %error, "a connection failed");
            stream.reset_on_drop();
            return;
        }
    };
    destination.tell_endpoint(&mut record, &endpoint);
    let _in_flight = endpoint.occupy();
    let (standing, _entry) = destination.enter(connected.peer);
    let watch = standing.watch();
    let deadline = shared.deadlines.begin(of_flow(&destination.part().timeouts));
    let mut flow = Exchange::of_flow(record, deadline);
    let copied = tokio::select! {
        biased;
        () = watch.revoked() => None,
        copied = copy_both(&mut stream, &mut connected.stream, &shared.scratch, &flow.deadline) => Some(copied),
    };
    match copied {
        Some(Ok(())) => flow.ended(),
        cut => {
            flow.failed(if cut.is_some() { Flag::Reset } else { Flag::Revoked });
            stream.reset_on_drop();
            connected.stream.reset_on_drop();
        }
    }
}

/// Tries one endpoint after the other.
async fn connect(destination: &Destination) -> Result<(Rc<Endpoint>, Secured<TcpStream>), ConnectError> {
    let credentials = destination.credentials()?;
    let mut tried = Vec::new();
    let mut last = None;
    while tried.len() < ATTEMPTS {
        let endpoint = match destination.pick(&tried) {
            Ok(endpoint) => endpoint,
            // Why the endpoints that there are failed says more than that none is left.
            Err(none) => return Err(last.unwrap_or(none)),
        };
        let part = destination.part();
        let attempt = open(&endpoint, destination, &credentials);
        let outcome = within(&part, endpoint.part.address, attempt).await;
        endpoint.record(&outcome, destination.shared());
        match outcome {
            Ok(connected) => return Ok((endpoint, connected)),
            Err(error) if error.may_retry() => last = Some(error),
            Err(error) => return Err(error),
        }
        tried.push(endpoint);
    }
    Err(last.unwrap_or_else(|| ConnectError::NoEndpoint { destination: destination.id.clone() }))
}

async fn open(
    endpoint: &Endpoint,
    destination: &Destination,
    credentials: &Arc<Credentials>,
) -> Result<Secured<TcpStream>, ConnectError> {
    let stream = reach(&endpoint.part).await?;
    let part = destination.part();
    let mut secured: Secured<TcpStream> =
        secure(stream, &endpoint.part, &part, &credentials.client_tcp, &credentials.trust).await?;
    let stream: &mut TlsStream<TcpStream> = &mut secured.stream;
    read_status(stream, endpoint.part.address).await?;
    Ok(secured)
}
