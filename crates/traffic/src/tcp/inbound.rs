//! A connection of another proxy to the own application.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use identity::Alpn;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time;
use tracing::debug;

use crate::access::Verdict;
use crate::connect::Status;
use crate::http::application::CONNECT;
use crate::inbound::{Inbound, Peer};
use crate::transport::{Transport, copy_both};

/// Decides, dials, says so, and carries the connection to its end. A peer that did not ask for `tombolo-tcp`
/// does not expect a status byte: it gets the application's bytes, or a reset.
pub(crate) async fn serve(
    mut stream: impl Transport,
    alpn: Option<Alpn>,
    inbound: Rc<Inbound>,
    peer: Rc<Peer>,
) {
    let shared = inbound.shared().clone();
    let wants_status = alpn == Some(Alpn::Tcp);
    if peer.verdict.borrow().is_denied() {
        inbound.deny(&peer);
        return refuse(stream, wants_status, Status::Denied).await;
    }
    if let Verdict::Observed(_) = &*peer.verdict.borrow() {
        shared.metrics.observed_denials.add();
    }
    let watch = peer.standing().watch();
    if shared.draining.is_cancelled() {
        return refuse(stream, wants_status, Status::Draining).await;
    }
    let dialled = tokio::select! {
        biased;
        () = watch.revoked() => return stream.reset_on_drop(),
        dialled = dial(inbound.part().application) => dialled,
    };
    let mut application = match dialled {
        Ok(application) => application,
        Err(error) => {
            shared.metrics.application_failures.add();
            debug!(inbound = inbound.name, %error, "the application does not accept a connection");
            return refuse(stream, wants_status, Status::Unreachable).await;
        }
    };
    let carried = async {
        if wants_status {
            stream.write_u8(Status::Connected.as_byte()).await?;
            stream.flush().await?;
        }
        copy_both(&mut stream, &mut application, &shared.scratch).await
    };
    let carried = tokio::select! {
        biased;
        () = watch.revoked() => None,
        carried = carried => Some(carried),
    };
    match carried {
        Some(Ok((received, sent))) => {
            debug!(inbound = inbound.name, client = %peer.id, received, sent, "a connection ended");
        }
        // By one of the sides, or because it is no longer allowed.
        Some(Err(_)) | None => {
            stream.reset_on_drop();
            application.reset_on_drop();
        }
    }
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = time::timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn refuse(mut stream: impl Transport, wants_status: bool, status: Status) {
    if !wants_status {
        stream.reset_on_drop();
        return;
    }
    let told = async {
        stream.write_u8(status.as_byte()).await?;
        stream.shutdown().await
    };
    // A peer that does not take one byte is not waited for.
    let _ = time::timeout(CONNECT, told).await;
}
