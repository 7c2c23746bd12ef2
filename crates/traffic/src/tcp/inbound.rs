//! A connection of another proxy to the own application.

use std::rc::Rc;
use std::time::Duration;

use identity::Alpn;
use telemetry::{About, Flag};
use tokio::io::AsyncWriteExt;
use tokio::time;
use tracing::debug;

use crate::access::Verdict;
use crate::connect::{Status, dial};
use crate::deadline::of_flow;
use crate::http::application::Limits;
use crate::inbound::{Inbound, Peer};
use crate::record::Exchange;
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
    let mut record = shared.recorder.begin(&peer.series, About::default);
    let wants_status = alpn == Some(Alpn::Tcp);
    if peer.verdict.borrow().is_denied() {
        inbound.deny(&peer);
        record.failed(Flag::Denied);
        return refuse(stream, wants_status, Status::Denied).await;
    }
    if let Verdict::Observed(_) = &*peer.verdict.borrow() {
        shared.metrics.observed_denials.add();
    }
    let watch = peer.standing().watch();
    if inbound.closing.is_cancelled() {
        record.failed(Flag::Draining);
        return refuse(stream, wants_status, Status::Draining).await;
    }
    let part = inbound.part();
    let limits = Limits::from(&part.timeouts);
    let dialled = tokio::select! {
        biased;
        () = watch.revoked() => {
            record.failed(Flag::Revoked);
            return stream.reset_on_drop();
        }
        dialled = time::timeout(limits.connect, dial(part.application)) => dialled,
    };
    let mut application = match dialled.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        Ok(application) => application,
        Err(error) => {
            shared.metrics.application_failures.add();
            record.failed(Flag::ApplicationUnreachable);
            debug!(inbound = inbound.name, %error, "the application does not accept a connection");
            return refuse(stream, wants_status, Status::Unreachable).await;
        }
    };
    let deadline = shared.deadlines.begin(of_flow(&part.timeouts));
    let mut flow = Exchange::of_flow(record, deadline);
    let carried = async {
        if wants_status {
            stream.write_u8(Status::Connected.as_byte()).await?;
            stream.flush().await?;
        }
        copy_both(&mut stream, &mut application, &shared.scratch, &flow.deadline).await
    };
    let carried = tokio::select! {
        biased;
        () = watch.revoked() => None,
        carried = carried => Some(carried),
    };
    match carried {
        Some(Ok(())) => flow.ended(),
        // By one of the sides, or because it is no longer allowed.
        cut => {
            flow.failed(if cut.is_some() { Flag::Reset } else { Flag::Revoked });
            stream.reset_on_drop();
            application.reset_on_drop();
        }
    }
}

/// How long a peer may take to take one byte.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let _ = time::timeout(PATIENCE, told).await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::SystemTime;

    use futures::FutureExt;
    use identity::SVID_LIFETIME;
    use model::Protocol;
    use policy::access::{AccessRule, ClientMatch, Effect, RuleOrigin};
    use snapshot::parts::{self, Access};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    use super::*;
    use crate::ProxyConfig;
    use crate::connect::{Secured, secure};
    use crate::fixture::{CATALOG, Pipe, WEB, World, destination, endpoint, nowhere};
    use crate::inbound::Inbounds;
    use crate::worker::Shared;

    const LIMIT: Duration = Duration::from_secs(5);

    /// The catalog's sidecar, and a client of it.
    struct Side {
        world: World,
        shared: Rc<Shared>,
        inbounds: Inbounds,
        config: ProxyConfig,
    }

    impl Side {
        fn new(application: SocketAddr, allowed: bool) -> Self {
            let world = World::new();
            let credentials = world.credentials(&world.west, CATALOG);
            let shared = Rc::<Shared>::default();
            shared.credentials.replace(Some(credentials.clone()));
            let inbounds = Inbounds::new(shared.clone());
            let part = parts::Inbound {
                listen: nowhere(),
                application,
                protocol: Protocol::Tcp,
                access: access(allowed),
                timeouts: parts::Timeouts::default(),
                client_timeouts: Vec::new(),
            };
            let config = ProxyConfig {
                outbound: Vec::new(),
                inbounds: BTreeMap::from([(9000, Arc::new(part))]),
                destinations: BTreeMap::new(),
                credentials,
            };
            inbounds.apply(&config);
            Self { world, shared, inbounds, config }
        }

        /// A connection from the web, and whether the inbound's end of it was reset.
        async fn connect(&self) -> (Secured<Pipe>, Rc<std::cell::Cell<bool>>) {
            let web = self.world.credentials(&self.world.east, WEB);
            let (near, far) = Pipe::pair(64 * 1024);
            let reset = far.reset.clone();
            let inbound = self.inbounds.inbound(9000).unwrap();
            tokio::task::spawn_local(inbound.serve(far));
            let (endpoint, part) =
                (endpoint(nowhere(), CATALOG), destination(Protocol::Tcp, &[CATALOG], LIMIT));
            (secure(near, &endpoint, &part, &web.client_tcp, &web.trust).await.unwrap(), reset)
        }

        fn permit(&mut self, allowed: bool) -> Vec<Rc<crate::standing::Standing>> {
            let part = self.config.inbounds.get_mut(&9000).unwrap();
            Arc::make_mut(part).access = access(allowed);
            self.inbounds.apply(&self.config)
        }
    }

    fn access(allowed: bool) -> Access {
        let rule = AccessRule {
            effect: Effect::Allow,
            clients: ClientMatch::Exactly(WEB.parse().unwrap()),
            origin: RuleOrigin {
                policy: "MeshTrafficPermission/default/global//allow".parse().unwrap(),
                version: "global-1-1".parse().unwrap(),
                path: "spec".into(),
            },
        };
        Access { rules: if allowed { vec![rule] } else { vec![] }, ..Access::default() }
    }

    async fn application() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_connection_does_not_outlive_the_certificate_that_it_was_let_in_for() {
        let (listener, address) = application().await;
        let swept = async {
            let side = Side::new(address, true);
            let (mut client, reset) = side.connect().await;
            assert_eq!(client.stream.read_u8().await.unwrap(), Status::Connected.as_byte());
            let (_application, _) = listener.accept().await.unwrap();

            let (now, today) = (time::Instant::now(), SystemTime::now());
            side.inbounds.sweep(now, today + SVID_LIFETIME / 2);
            assert!(!side.inbounds.inbound(9000).unwrap().closing.is_cancelled() && !reset.get());
            assert!(client.stream.read_u8().now_or_never().is_none(), "it goes on");
            side.inbounds.sweep(now, today + SVID_LIFETIME + Duration::from_secs(1));
            assert!(client.stream.read_u8().await.is_err());
            assert!(reset.get());
        };
        LocalSet::new().run_until(swept).await;
    }

    #[tokio::test]
    async fn the_first_byte_says_what_became_of_the_connection() {
        let (_listener, address) = application().await;
        let (free, nobody) = application().await;
        drop(free);
        let cases = [
            ("connected", address, true, false, Status::Connected),
            ("denied", address, false, false, Status::Denied),
            ("unreachable", nobody, true, false, Status::Unreachable),
            ("draining", address, true, true, Status::Draining),
            ("denied comes first", nobody, false, true, Status::Denied),
        ];
        for (why, application, allowed, draining, want) in cases {
            let ended = async {
                let side = Side::new(application, allowed);
                if draining {
                    side.shared.draining.cancel();
                }
                let (mut client, reset) = side.connect().await;
                assert_eq!(client.stream.read_u8().await.unwrap(), want.as_byte(), "{why}");
                if want != Status::Connected {
                    // It ends in order: the byte has said why.
                    assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0, "{why}");
                    assert!(!reset.get(), "{why}");
                }
            };
            LocalSet::new().run_until(ended).await;
        }
    }

    #[tokio::test]
    async fn a_denial_costs_the_application_nothing_and_is_remembered() {
        let (listener, address) = application().await;
        let denied = async {
            let side = Side::new(address, false);
            let (mut client, _) = side.connect().await;
            client.stream.write_all(b"hello").await.unwrap();
            assert_eq!(client.stream.read_u8().await.unwrap(), Status::Denied.as_byte());
            assert_eq!(side.shared.metrics.read().denials, 1);
        };
        LocalSet::new().run_until(denied).await;
        assert!(FutureExt::now_or_never(listener.accept()).is_none());
    }

    #[tokio::test]
    async fn an_open_connection_is_judged_again_and_reset_if_it_is_denied() {
        let (listener, address) = application().await;
        let judged = async {
            let mut side = Side::new(address, true);
            let (mut client, reset) = side.connect().await;
            assert_eq!(client.stream.read_u8().await.unwrap(), 0);
            let (mut application, _) = listener.accept().await.unwrap();

            assert!(side.permit(true).is_empty());
            client.stream.write_all(b"hello").await.unwrap();
            application.read_exact(&mut [0; 5]).await.unwrap();

            let gone = side.permit(false);
            assert_eq!(gone.len(), 1);
            gone[0].unwatched().await;
            assert!(reset.get());
            let error = application.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            // No close_notify: nobody takes it for an orderly end.
            assert!(client.stream.read(&mut [0]).await.is_err());
            assert_eq!(side.shared.metrics.read().revocations, 1);
        };
        LocalSet::new().run_until(judged).await;
    }

    #[tokio::test]
    async fn an_inbound_that_is_taken_away_takes_its_connections_with_it() {
        let (_listener, address) = application().await;
        let ended = async {
            let mut side = Side::new(address, true);
            let (mut client, reset) = side.connect().await;
            assert_eq!(client.stream.read_u8().await.unwrap(), 0);
            side.config.inbounds.clear();
            for standing in side.inbounds.apply(&side.config) {
                standing.unwatched().await;
            }
            assert!(reset.get());
        };
        LocalSet::new().run_until(ended).await;
    }
}
