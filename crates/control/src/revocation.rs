//! Which tokens count no more, and who is connected by which, and for how long.
//!
//! A client certificate names the token that it stands on, so that revoking a token turns away all who joined
//! by it and nobody else: not a peer of the same name that joined by another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use identity::{Peer, ServerRole, Validity, peer_from_certificate, token_of_certificate};
use serde::{Deserialize, Serialize};
use sync::link::Handle;
use sync::server::Refusal;
use tokio::sync::watch;

/// How long a revoked token is remembered. No token lives longer than a year, and no certificate, so that
/// nothing stands on it any more by then.
pub const REMEMBERED: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);

/// The names of revoked tokens, each with when it may be forgotten, in seconds since 1970.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Revoked(BTreeMap<String, u64>);

impl Revoked {
    pub(crate) fn covers(&self, token: &str) -> bool {
        self.0.contains_key(token)
    }

    pub(crate) fn is_any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether that is news.
    pub(crate) fn add(&mut self, token: &str, now: u64) -> bool {
        self.0.retain(|_, until| *until > now);
        self.0.insert(token.to_owned(), now + REMEMBERED.as_secs()).is_none()
    }
}

/// A peer with a certificate that counts, for as long as this is kept.
pub struct Admission {
    pub peer: Peer,
    /// None where the certificate does not say so: see [`token_of_certificate`].
    pub token: Option<String>,
    number: u64,
    gate: Arc<Gate>,
}

impl Admission {
    /// The peer got its next certificate, which lets it stay.
    pub(crate) fn renewed(&self, ends: SystemTime) {
        if let Some(here) = self.gate.state().here.get_mut(&self.number) {
            here.ends = here.ends.max(ends);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.state().here.remove(&self.number);
    }
}

/// Lets peers in and turns them away. One lock, so that none slips in while its token is revoked.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Moves with everyone who is let in.
    admitted: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    revoked: Revoked,
    here: BTreeMap<u64, Here>,
    last: u64,
}

struct Here {
    peer: Peer,
    token: Option<String>,
    /// When the last certificate ends that it got.
    ends: SystemTime,
    handle: Handle,
}

impl Gate {
    pub(crate) fn new(revoked: Revoked) -> Arc<Self> {
        let state = Mutex::new(State { revoked, ..State::default() });
        Arc::new(Self { state, admitted: watch::Sender::new(()) })
    }

    /// `certificate` was verified by TLS; `handle` is closed when it counts no more.
    pub(crate) fn admit(
        self: &Arc<Self>,
        certificate: &[u8],
        server: &ServerRole,
        handle: Handle,
    ) -> Result<Admission, Refusal> {
        let unreadable = |error: &dyn ToString| Refusal::Unauthenticated(error.to_string());
        let peer = peer_from_certificate(certificate, server).map_err(|error| unreadable(&error))?;
        let token = token_of_certificate(certificate).map_err(|error| unreadable(&error))?;
        let ends = Validity::of(certificate).map_err(|error| unreadable(&error))?.not_after;
        let mut state = self.state();
        if token.as_ref().is_some_and(|token| state.revoked.covers(token)) {
            return Err(Refusal::Denied(turned_away(&peer)));
        }
        state.last += 1;
        let number = state.last;
        state.here.insert(number, Here { peer: peer.clone(), token: token.clone(), ends, handle });
        drop(state);
        self.admitted.send_replace(());
        Ok(Admission { peer, token, number, gate: self.clone() })
    }

    pub(crate) fn admitted(&self) -> watch::Receiver<()> {
        self.admitted.subscribe()
    }

    /// Ends the sessions of all whose certificate ended, and says when the next one will.
    pub(crate) fn close_ended(&self, now: SystemTime) -> Option<SystemTime> {
        let state = self.state();
        let (ended, others): (Vec<_>, Vec<_>) = state.here.values().partition(|here| here.ends < now);
        for Here { peer, handle, .. } in ended {
            handle.close(format!("the certificate of {peer} ended: come with the next one, or enrol again"));
        }
        others.iter().map(|here| here.ends).min()
    }

    pub(crate) fn covers(&self, token: &str) -> bool {
        self.state().revoked.covers(token)
    }

    pub(crate) fn revoked(&self) -> Revoked {
        self.state().revoked.clone()
    }

    /// Ends the sessions of all who joined by a token that is revoked from now on, and names them.
    pub(crate) fn close(&self, revoked: Revoked) -> Vec<Peer> {
        let mut state = self.state();
        state.revoked = revoked;
        let State { revoked, here, .. } = &*state;
        let gone =
            here.values().filter(|here| here.token.as_ref().is_some_and(|token| revoked.covers(token)));
        let mut peers: Vec<Peer> = gone
            .map(|here| {
                here.handle.close(turned_away(&here.peer));
                here.peer.clone()
            })
            .collect();
        peers.sort();
        peers.dedup();
        peers
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn turned_away(peer: &Peer) -> String {
    format!("the token by which {peer} joined was revoked: enrol again with another")
}
