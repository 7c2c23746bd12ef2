//! When the process is asked to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Completes at the first SIGINT or SIGTERM. The handlers stand when this returns, not at the first poll, so
/// that no signal falls in between.
pub fn requested() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let signal = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        info!(signal, "asked to stop");
    })
}
