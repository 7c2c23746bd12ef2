//! Joining: a token is exchanged for a client certificate.
//!
//! The token decides who its bearer may become; the request brings the key and nothing else. What a
//! sidecar's token granted is kept, since the Dataplane that it sends later must be of that workload.
//! The token's end is the end of joining by it, and of nothing that it gave: the certificate has an end of its own, and
//! is renewed for as long as the token is not revoked. When the last certificate of a peer ends, so does its session.
//! Uses are counted durably before a certificate is handed out, so that a crash never gives one more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Audience, IssueError, Issuer, Peer, ServerRole, TokenClaims, TokenError, Validity};
use model::{MeshName, ResourceName, WorkloadName, ZoneName};
use runtime::Clock;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use store::SecretBytes;
use sync::link::Handle;
use sync::server::Refusal;
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::home::Home;
use crate::issuing::{Busy, Issuing};
use crate::revocation::{Admission, Gate, Revoked};

/// What a peer was granted as it joined: by which token, and what a sidecar or an ingress may register.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Grant {
    /// The Dataplane of a sidecar must carry exactly this one; all others have none.
    pub workload: Option<WorkloadName>,
    /// Addresses that it may register beside the one its session comes from.
    pub addresses: Vec<IpAddr>,
    /// When the last certificate that stands on it ends, in seconds since 1970.
    pub until: u64,
    /// The token that granted it: when that is revoked, nobody holds the grant any more.
    #[serde(default)]
    pub token: String,
}

/// Whom a revoked token had let in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TurnedAway {
    /// They had a session, and have none any more.
    pub connected: Vec<Peer>,
    /// They hold a certificate that stands on the token, and are turned away when they come. What they were told before
    /// they keep until then.
    pub away: Vec<Peer>,
}

/// A peer that joined.
#[derive(Debug)]
pub struct Enrolled {
    pub peer: Peer,
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Why nobody joined.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("'{0}' names no peer that could join here")]
    Peer(String),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the certificate request cannot be granted: {0}")]
    Request(#[source] IssueError),
    #[error("this peer did not join here with a token, or its grant is over: enrol again")]
    NoGrant,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error("the control plane cannot write its store now")]
    Store(#[from] store::Error),
    #[error("what the store remembers of earlier enrolments cannot be read")]
    Damaged(#[from] serde_json::Error),
}

/// Why a token does not make its bearer what it wants to be. The texts go to the bearer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denied {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{peer} does not join at {server}")]
    NotHere { peer: Peer, server: ServerRole },
    #[error("the token is for zone '{}', not for zone '{wanted}'", .found.as_ref().map_or("", |zone| zone))]
    Zone { wanted: ZoneName, found: Option<ZoneName> },
    #[error("the token is for mesh '{}', not for mesh '{wanted}'", .found.as_deref().unwrap_or_default())]
    Mesh { wanted: MeshName, found: Option<MeshName> },
    #[error("the token is for {}, not for '{wanted}'", .names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", "))]
    Name { wanted: ResourceName, names: Vec<ResourceName> },
    #[error("the token was revoked: ask for another")]
    Revoked,
    #[error("the token names no workload")]
    NoWorkload,
    #[error("the token was used {0} times, as often as it may be")]
    UsedUp(u32),
    #[error(
        "{peer} has joined as workload '{held}' and the token is for '{wanted}': delete its Dataplane first, or \
         use another name"
    )]
    OtherWorkload { peer: Peer, held: WorkloadName, wanted: WorkloadName },
}

/// What of the past a decision depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// How often the token was exchanged before.
    pub uses: u32,
    /// What the peer was granted before.
    pub grant: Option<&'a Grant>,
}

/// Which tokens make a peer of this sort.
pub fn audience(peer: &Peer) -> Audience {
    match peer {
        Peer::Zone(_) => Audience::Zone,
        Peer::Proxy { .. } => Audience::Dataplane,
        Peer::Ingress(_) => Audience::Ingress,
    }
}

/// Who joins where: zones join the global, all others their zone.
pub fn joins(peer: &Peer, server: &ServerRole) -> Result<(), Denied> {
    match (peer, server) {
        (Peer::Zone(_), ServerRole::Global) => Ok(()),
        (Peer::Proxy { .. } | Peer::Ingress(_), ServerRole::Zone(_)) => Ok(()),
        _ => Err(Denied::NotHere { peer: peer.clone(), server: server.clone() }),
    }
}

/// Whether the bearer of a token, whose signature, issuer, audience and times were found right, may become
/// `peer`; with the grant to remember.
pub fn decide(
    claims: &TokenClaims,
    peer: &Peer,
    server: &ServerRole,
    past: Past<'_>,
    now: SystemTime,
) -> Result<Grant, Denied> {
    joins(peer, server)?;
    let grant = match (peer, server) {
        (Peer::Zone(wanted), _) => {
            // A token for no zone in particular would be one for all of them.
            if claims.zone.as_ref() != Some(wanted) {
                return Err(Denied::Zone { wanted: wanted.clone(), found: claims.zone.clone() });
            }
            granted(claims, None)
        }
        (Peer::Ingress(name), _) => {
            of_this_zone(claims, server)?;
            named(claims, name)?;
            granted(claims, None)
        }
        (Peer::Proxy { mesh, name }, _) => {
            of_this_zone(claims, server)?;
            if claims.mesh.as_ref() != Some(mesh) {
                return Err(Denied::Mesh { wanted: mesh.clone(), found: claims.mesh.clone() });
            }
            named(claims, name)?;
            let workload = claims.workload.clone().ok_or(Denied::NoWorkload)?;
            granted(claims, Some(workload))
        }
    };
    if let (Some(wanted), Some(Grant { workload: Some(held), until, .. })) = (&grant.workload, past.grant)
        && held != wanted
        && *until > seconds(now)
    {
        // Else a token for one workload, whatever its names, could push another off its proxy.
        let (held, wanted) = (held.clone(), wanted.clone());
        return Err(Denied::OtherWorkload { peer: peer.clone(), held, wanted });
    }
    match claims.uses {
        Some(most) if past.uses >= most => Err(Denied::UsedUp(most)),
        _ => Ok(grant),
    }
}

fn granted(claims: &TokenClaims, workload: Option<WorkloadName>) -> Grant {
    Grant { workload, addresses: claims.addresses.clone(), until: 0, token: claims.jti.clone() }
}

fn of_this_zone(claims: &TokenClaims, server: &ServerRole) -> Result<(), Denied> {
    match (server, &claims.zone) {
        (ServerRole::Zone(ours), Some(found)) if ours != found => {
            Err(Denied::Zone { wanted: ours.clone(), found: Some(found.clone()) })
        }
        _ => Ok(()),
    }
}

fn named(claims: &TokenClaims, wanted: &ResourceName) -> Result<(), Denied> {
    if claims.names.is_empty() || claims.names.contains(wanted) {
        Ok(())
    } else {
        Err(Denied::Name { wanted: wanted.clone(), names: claims.names.clone() })
    }
}

/// Lets peers join, and renews their certificates.
pub struct Enroller {
    home: Home,
    issuer: Issuer,
    gate: Arc<Gate>,
    /// Those whose grant stands on a token that is revoked.
    turned_away: watch::Sender<BTreeSet<Peer>>,
    /// Of those who renew; those who join are limited at the door.
    issuing: Issuing,
    turns: Turns,
}

/// Held while uses, grants and revocations are read, decided on and written: what concerns one peer alone goes beside
/// others, so that their writes become durable together.
struct Turns {
    all: RwLock<()>,
    /// Peers share them by chance.
    peers: [Mutex<()>; 64],
}

impl Turns {
    /// For what changes the grant of one peer.
    async fn of(&self, peer: &Peer) -> (RwLockReadGuard<'_, ()>, MutexGuard<'_, ()>) {
        let mix = |sum: usize, byte: u8| sum.wrapping_mul(31).wrapping_add(byte.into());
        let place = peer.to_string().bytes().fold(0, mix) % self.peers.len();
        (self.all.read().await, self.peers[place].lock().await)
    }

    /// For what concerns any number of them.
    async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.all.write().await
    }
}

/// The uses of tokens that are limited, until they end.
#[derive(Default, Deserialize, Serialize)]
struct Uses(BTreeMap<String, Used>);

#[derive(Deserialize, Serialize)]
struct Used {
    times: u32,
    exp: u64,
}

const USES: &str = "control/token-uses";
const REVOKED: &str = "control/revoked-tokens";

impl Enroller {
    pub async fn open(home: Home) -> Result<Self, EnrolError> {
        let revoked = match home.store.secret_get(REVOKED).await? {
            Some(held) => serde_json::from_slice(held.expose())?,
            None => Revoked::default(),
        };
        let is_any = revoked.is_any();
        let enroller = Self {
            issuer: home.issuer(),
            home,
            gate: Gate::new(revoked),
            turned_away: watch::Sender::default(),
            issuing: Issuing::default(),
            turns: Turns { all: RwLock::default(), peers: std::array::from_fn(|_| Mutex::default()) },
        };
        if is_any {
            enroller.turn_away().await?;
        }
        Ok(enroller)
    }

    /// `peer` is who the bearer wants to be, as text: `zone/east`, `proxy/default/web-1`, `ingress/east-1`.
    pub async fn enrol(
        &self,
        token: &str,
        csr_der: &[u8],
        peer: &str,
        now: SystemTime,
    ) -> Result<Enrolled, EnrolError> {
        let peer: Peer = peer.parse().map_err(|_| EnrolError::Peer(peer.chars().take(100).collect()))?;
        joins(&peer, self.home.role())?;
        let verified = self.home.token_key.verify(token.trim(), audience(&peer), &self.issuer, now);
        let claims = verified.map_err(Denied::Token)?;

        // The uses of a token are counted over all peers.
        let is_counted = claims.uses.is_some();
        let _alone = if is_counted { Some(self.turns.alone().await) } else { None };
        let _turn = if is_counted { None } else { Some(self.turns.of(&peer).await) };
        if self.gate.covers(&claims.jti) {
            return Err(Denied::Revoked.into());
        }
        let mut uses = if is_counted { self.uses().await? } else { Uses::default() };
        let held = self.read_grant(&peer).await?;
        let past = Past { uses: uses.0.get(&claims.jti).map_or(0, |used| used.times), grant: held.as_ref() };
        let grant = decide(&claims, &peer, self.home.role(), past, now)?;
        // Before anything is counted: a request that is malformed costs no use.
        let chain = self.issue(&peer, Some(&claims.jti), csr_der, now)?;
        if is_counted {
            uses.0.retain(|_, used| used.exp > seconds(now));
            let used = uses.0.entry(claims.jti.clone()).or_insert(Used { times: 0, exp: claims.exp });
            used.times += 1;
            self.home.store.secret_put(USES, secret(&uses)?).await?;
        }
        self.write_grant(&peer, grant, &chain).await?;
        info!(%peer, token = claims.jti, "joined");
        Ok(Enrolled { peer, chain })
    }

    /// The next certificate of a peer that is connected with one: the answer to `client-certificate`.
    pub async fn renew(
        &self,
        admission: &Admission,
        csr_der: &[u8],
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        let Admission { peer, token, .. } = admission;
        joins(peer, self.home.role())?;
        let _place = self.issuing.turn().await?;
        let _turn = self.turns.of(peer).await;
        let chain = self.issue(peer, token.as_deref(), csr_der, now)?;
        if let Some(grant) = self.read_grant(peer).await? {
            self.write_grant(peer, grant, &chain).await?;
        } else if !matches!(peer, Peer::Zone(_)) {
            return Err(EnrolError::NoGrant);
        }
        admission.renewed(validity(&chain).not_after);
        info!(%peer, "renewed its certificate");
        Ok(chain)
    }

    /// Whether a peer that comes with this certificate, which TLS verified, may stay; `handle` is closed as soon
    /// as the token is revoked by which it joined, and by [`Self::run`] when the last certificate ended that it got.
    pub fn admit(&self, certificate: &[u8], handle: Handle) -> Result<Admission, Refusal> {
        self.gate.admit(certificate, self.home.role(), handle)
    }

    /// Ends the session of every peer whose certificate ended, until `stop`.
    pub async fn run(&self, clock: &Clock, stop: CancellationToken) {
        let mut admitted = self.gate.admitted();
        while !stop.is_cancelled() {
            admitted.mark_unchanged();
            let next = self.gate.close_ended(clock.now());
            // The time of day may be set meanwhile.
            let left = next.and_then(|ends| ends.duration_since(clock.now()).ok()).unwrap_or(LOOK).min(LOOK);
            tokio::select! {
                () = stop.cancelled() => {}
                // A certificate counts to the end of its last second.
                () = time::sleep(left + Duration::from_millis(1)) => {}
                _ = admitted.changed() => {}
            }
        }
    }

    /// A token counts no more: durable when this returns.
    pub async fn revoke(&self, jti: &str, now: SystemTime) -> Result<TurnedAway, EnrolError> {
        let _turn = self.turns.alone().await;
        let mut revoked = self.gate.revoked();
        if revoked.add(jti, seconds(now)) {
            self.home.store.secret_put(REVOKED, secret(&revoked)?).await?;
        }
        let connected = self.gate.close(revoked);
        let mut away = self.turn_away().await?;
        away.retain(|peer, grant| {
            grant.token == jti && grant.until > seconds(now) && !connected.contains(peer)
        });
        Ok(TurnedAway { connected, away: away.into_keys().collect() })
    }

    /// A peer that joined by a token which counts has said who it is: what the one before it said counts no more.
    pub fn registered(&self, peer: &Peer) {
        self.turned_away.send_if_modified(|away| away.remove(peer));
    }

    /// Those whose grant stands on a token that is revoked, until whoever enrols by another has registered, or they are
    /// forgotten.
    pub fn turned_away(&self) -> watch::Receiver<BTreeSet<Peer>> {
        self.turned_away.subscribe()
    }

    /// Looks anew who is turned away, and by which grant. To be called by whoever is alone.
    async fn turn_away(&self) -> Result<BTreeMap<Peer, Grant>, EnrolError> {
        let mut found = BTreeMap::new();
        for name in self.home.store.secret_names(GRANTS).await? {
            let Some(Ok(peer)) = name.strip_prefix(GRANTS).map(str::parse::<Peer>) else { continue };
            let held = self.any_grant(&peer).await.unwrap_or_else(|error| {
                // Nobody else's revocation waits for it; whoever comes by it is refused by its certificate.
                warn!(%peer, %error, "a grant cannot be read");
                None
            });
            found.extend(held.filter(|grant| self.gate.covers(&grant.token)).map(|grant| (peer, grant)));
        }
        self.turned_away.send_replace(found.keys().cloned().collect());
        Ok(found)
    }

    /// What a peer was granted when it joined, unless the token that did is revoked.
    pub async fn grant(&self, peer: &Peer) -> Result<Option<Grant>, EnrolError> {
        self.read_grant(peer).await
    }

    /// Forgets a peer's grant, such as when its document is deleted: a sidecar or an ingress cannot renew its
    /// certificate, and the name is free for another workload.
    pub async fn forget(&self, peer: &Peer) -> Result<(), EnrolError> {
        let _turn = self.turns.of(peer).await;
        self.home.store.secret_delete(&grant_name(peer)).await?;
        self.turned_away.send_if_modified(|away| away.remove(peer));
        Ok(())
    }

    fn issue(
        &self,
        peer: &Peer,
        token: Option<&str>,
        csr_der: &[u8],
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        self.home.ca.issue_client(csr_der, peer, token, now).map_err(EnrolError::Request)
    }

    async fn uses(&self) -> Result<Uses, EnrolError> {
        match self.home.store.secret_get(USES).await? {
            Some(held) => Ok(serde_json::from_slice(held.expose())?),
            None => Ok(Uses::default()),
        }
    }

    async fn read_grant(&self, peer: &Peer) -> Result<Option<Grant>, EnrolError> {
        Ok(self.any_grant(peer).await?.filter(|grant| !self.gate.covers(&grant.token)))
    }

    /// Also one whose token is revoked.
    async fn any_grant(&self, peer: &Peer) -> Result<Option<Grant>, EnrolError> {
        let held = self.home.store.secret_get(&grant_name(peer)).await?;
        Ok(held.map(|held| serde_json::from_slice(held.expose())).transpose()?)
    }

    async fn write_grant(
        &self,
        peer: &Peer,
        grant: Grant,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), EnrolError> {
        let grant = Grant { until: seconds(validity(chain).not_after), ..grant };
        Ok(self.home.store.secret_put(&grant_name(peer), secret(&grant)?).await?)
    }
}

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(60 * 60);

const GRANTS: &str = "grant/";

fn grant_name(peer: &Peer) -> String {
    format!("{GRANTS}{peer}")
}

/// Of what was issued just now.
fn validity(chain: &[CertificateDer<'_>]) -> Validity {
    Validity::of(&chain[0]).expect("a certificate just written can be read")
}

fn secret(value: &impl Serialize) -> Result<SecretBytes, serde_json::Error> {
    Ok(serde_json::to_vec(value)?.into())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What the peer is told.
impl From<EnrolError> for Refusal {
    fn from(error: EnrolError) -> Self {
        let text = error.to_string();
        match error {
            EnrolError::Denied(Denied::Token(_)) => Self::Unauthenticated(text),
            EnrolError::Denied(_) | EnrolError::NoGrant => Self::Denied(text),
            EnrolError::Peer(_) => Self::Invalid(text),
            EnrolError::Busy(_) => Self::Unavailable(text),
            EnrolError::Request(IssueError::Request(_)) => Self::Invalid(text),
            EnrolError::Request(_) | EnrolError::Store(_) | EnrolError::Damaged(_) => {
                tracing::error!(error = %text, "cannot enrol");
                Self::Unavailable("the control plane cannot issue certificates now".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests;
