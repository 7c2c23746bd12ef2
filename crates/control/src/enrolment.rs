//! Joining: a token is exchanged for a client certificate.
//!
//! The token decides who its bearer may become; the request brings the key and nothing else. What a
//! sidecar's token granted is kept, since the Dataplane that it sends later must be of that workload.
//! Uses are counted durably before a certificate is handed out, so that a crash never gives one more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::{Audience, IssueError, Issuer, Peer, ServerRole, TokenClaims, TokenError};
use model::{MeshName, ResourceName, WorkloadName, ZoneName};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use store::SecretBytes;
use sync::link::Handle;
use sync::server::Refusal;
use tokio::sync::Mutex;
use tracing::info;

use crate::home::Home;
use crate::issuing::{Busy, Issuing};
use crate::revocation::{Admission, Gate, Revoked};

/// What a sidecar or an ingress may register.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Grant {
    /// The Dataplane of a sidecar must carry exactly this one; an ingress has none.
    pub workload: Option<WorkloadName>,
    /// Addresses that it may register beside the one its session comes from.
    pub addresses: Vec<IpAddr>,
    /// When the last certificate that stands on it ends, in seconds since 1970.
    pub until: u64,
    /// The token that granted it: when that is revoked, nobody holds the grant any more.
    #[serde(default)]
    pub token: String,
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
/// `peer`; with the grant to remember, for a sidecar or an ingress.
pub fn decide(
    claims: &TokenClaims,
    peer: &Peer,
    server: &ServerRole,
    past: Past<'_>,
    now: SystemTime,
) -> Result<Option<Grant>, Denied> {
    joins(peer, server)?;
    let grant = match (peer, server) {
        (Peer::Zone(wanted), _) => {
            // A token for no zone in particular would be one for all of them.
            if claims.zone.as_ref() != Some(wanted) {
                return Err(Denied::Zone { wanted: wanted.clone(), found: claims.zone.clone() });
            }
            None
        }
        (Peer::Ingress(name), _) => {
            of_this_zone(claims, server)?;
            named(claims, name)?;
            Some(granted(claims, None))
        }
        (Peer::Proxy { mesh, name }, _) => {
            of_this_zone(claims, server)?;
            if claims.mesh.as_ref() != Some(mesh) {
                return Err(Denied::Mesh { wanted: mesh.clone(), found: claims.mesh.clone() });
            }
            named(claims, name)?;
            let workload = claims.workload.clone().ok_or(Denied::NoWorkload)?;
            Some(granted(claims, Some(workload)))
        }
    };
    if let (Some(Grant { workload: Some(wanted), .. }), Some(Grant { workload: Some(held), until, .. })) =
        (&grant, past.grant)
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
    /// Of those who renew; those who join are limited at the door.
    issuing: Issuing,
    /// Held while uses, grants and revocations are read, decided on and written.
    turn: Mutex<()>,
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
        Ok(Self {
            issuer: home.issuer(),
            home,
            gate: Gate::new(revoked),
            issuing: Issuing::default(),
            turn: Mutex::default(),
        })
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

        let _turn = self.turn.lock().await;
        if self.gate.covers(&claims.jti) {
            return Err(Denied::Revoked.into());
        }
        let (mut uses, held) = (self.uses().await?, self.read_grant(&peer).await?);
        let past = Past { uses: uses.0.get(&claims.jti).map_or(0, |used| used.times), grant: held.as_ref() };
        let grant = decide(&claims, &peer, self.home.role(), past, now)?;
        // Before anything is counted: a request that is malformed costs no use.
        let chain = self.issue(&peer, Some(&claims.jti), csr_der, now)?;
        if claims.uses.is_some() {
            uses.0.retain(|_, used| used.exp > seconds(now));
            let used = uses.0.entry(claims.jti.clone()).or_insert(Used { times: 0, exp: claims.exp });
            used.times += 1;
            self.home.store.secret_put(USES, secret(&uses)?).await?;
        }
        if let Some(grant) = grant {
            self.write_grant(&peer, grant, now).await?;
        }
        info!(%peer, token = claims.jti, "joined");
        Ok(Enrolled { peer, chain })
    }

    /// The next certificate of a peer that is connected with one: the answer to `client-certificate`.
    pub async fn renew(
        &self,
        Admission { peer, token, .. }: &Admission,
        csr_der: &[u8],
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, EnrolError> {
        joins(peer, self.home.role())?;
        let _place = self.issuing.turn().await?;
        let _turn = self.turn.lock().await;
        let chain = self.issue(peer, token.as_deref(), csr_der, now)?;
        if let Peer::Proxy { .. } | Peer::Ingress(_) = peer {
            let grant = self.read_grant(peer).await?.ok_or(EnrolError::NoGrant)?;
            self.write_grant(peer, grant, now).await?;
        }
        info!(%peer, "renewed its certificate");
        Ok(chain)
    }

    /// Whether a peer that comes with this certificate, which TLS verified, may stay; `handle` is closed as soon
    /// as the token is revoked by which it joined.
    pub fn admit(&self, certificate: &[u8], handle: Handle) -> Result<Admission, Refusal> {
        self.gate.admit(certificate, self.home.role(), handle)
    }

    /// A token counts no more: durable when this returns, with who was connected by it and is no longer.
    pub async fn revoke(&self, jti: &str, now: SystemTime) -> Result<Vec<Peer>, EnrolError> {
        let _turn = self.turn.lock().await;
        let mut revoked = self.gate.revoked();
        if revoked.add(jti, seconds(now)) {
            self.home.store.secret_put(REVOKED, secret(&revoked)?).await?;
        }
        Ok(self.gate.close(revoked))
    }

    /// What a sidecar or an ingress was granted when it joined, unless the token that did is revoked.
    pub async fn grant(&self, peer: &Peer) -> Result<Option<Grant>, EnrolError> {
        self.read_grant(peer).await
    }

    /// Forgets a sidecar's grant, such as when its Dataplane is deleted: it cannot renew its certificate,
    /// and its name is free for another workload.
    pub async fn forget(&self, peer: &Peer) -> Result<(), EnrolError> {
        let _turn = self.turn.lock().await;
        Ok(self.home.store.secret_delete(&grant_name(peer)).await?)
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
        let held = self.home.store.secret_get(&grant_name(peer)).await?;
        let grant: Option<Grant> = held.map(|held| serde_json::from_slice(held.expose())).transpose()?;
        Ok(grant.filter(|grant| !self.gate.covers(&grant.token)))
    }

    async fn write_grant(&self, peer: &Peer, grant: Grant, now: SystemTime) -> Result<(), EnrolError> {
        let grant = Grant { until: seconds(now + CERTIFICATE_LIFETIME), ..grant };
        Ok(self.home.store.secret_put(&grant_name(peer), secret(&grant)?).await?)
    }
}

/// Of the client certificate of a sidecar or an ingress.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn grant_name(peer: &Peer) -> String {
    format!("grant/{peer}")
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
mod tests {
    use identity::{Pin, PrivateKey};
    use model::Origin;
    use store::MemoryStore;

    use super::*;

    const HOUR: u64 = 3600;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_900_000_000)
    }

    fn zone(name: &str) -> Origin {
        Origin::Zone(name.parse().unwrap())
    }

    fn claims(aud: Audience, iss: Issuer, change: impl FnOnce(&mut TokenClaims)) -> TokenClaims {
        let mut claims = TokenClaims {
            iss,
            aud,
            sub: "test".into(),
            mesh: None,
            zone: None,
            workload: None,
            names: Vec::new(),
            addresses: Vec::new(),
            uses: None,
            nbf: seconds(now()),
            exp: seconds(now()) + HOUR,
            jti: "t1".into(),
            ca: Pin::of(b""),
        };
        change(&mut claims);
        claims
    }

    fn dataplane(change: impl FnOnce(&mut TokenClaims)) -> TokenClaims {
        claims(Audience::Dataplane, Issuer::Zone("east".parse().unwrap()), |claims| {
            claims.mesh = Some("default".parse().unwrap());
            claims.workload = Some("web".parse().unwrap());
            change(claims);
        })
    }

    #[test]
    fn a_token_makes_its_bearer_what_it_says_and_nothing_else() {
        let global = ServerRole::Global;
        let east = ServerRole::Zone("east".parse().unwrap());
        let for_east = || claims(Audience::Zone, Issuer::Global, |c| c.zone = Some("east".parse().unwrap()));
        let ingress = |change: fn(&mut TokenClaims)| {
            claims(Audience::Ingress, Issuer::Zone("east".parse().unwrap()), change)
        };
        let named = |c: &mut TokenClaims| c.names = vec!["web-1".parse().unwrap(), "web-2".parse().unwrap()];
        let cases = [
            ("a zone", for_east(), "zone/east", &global, true),
            ("another zone", for_east(), "zone/west", &global, false),
            (
                "no zone in particular",
                claims(Audience::Zone, Issuer::Global, |_| ()),
                "zone/east",
                &global,
                false,
            ),
            ("a zone at a zone", for_east(), "zone/east", &east, false),
            ("a sidecar", dataplane(|_| ()), "proxy/default/web-1", &east, true),
            ("a sidecar at the global", dataplane(|_| ()), "proxy/default/web-1", &global, false),
            ("another mesh", dataplane(|_| ()), "proxy/shop/web-1", &east, false),
            ("no mesh", dataplane(|c| c.mesh = None), "proxy/default/web-1", &east, false),
            ("no workload", dataplane(|c| c.workload = None), "proxy/default/web-1", &east, false),
            ("one of its names", dataplane(named), "proxy/default/web-2", &east, true),
            ("none of its names", dataplane(named), "proxy/default/web-3", &east, false),
            (
                "another zone's",
                dataplane(|c| c.zone = Some("west".parse().unwrap())),
                "proxy/default/web-1",
                &east,
                false,
            ),
            ("an ingress", ingress(|_| ()), "ingress/east-1", &east, true),
            (
                "none of its ingresses",
                ingress(|c| c.names = vec!["east-1".parse().unwrap()]),
                "ingress/east-2",
                &east,
                false,
            ),
        ];
        for (why, claims, peer, server, may) in cases {
            let decided = decide(&claims, &peer.parse().unwrap(), server, Past::default(), now());
            assert_eq!(decided.is_ok(), may, "{why}: {decided:?}");
        }
    }

    #[test]
    fn uses_and_earlier_grants_count() {
        let east = ServerRole::Zone("east".parse().unwrap());
        let peer: Peer = "proxy/default/web-1".parse().unwrap();
        let held = |workload: &str, until: u64| Grant {
            workload: Some(workload.parse().unwrap()),
            addresses: Vec::new(),
            until,
            token: "t0".into(),
        };
        let (soon, past) = (seconds(now()) + 1, seconds(now()));
        let cases = [
            ("first use", Some(1), 0, None, true),
            ("second use of one", Some(1), 1, None, false),
            ("unlimited", None, 1000, None, true),
            ("the same workload again", None, 0, Some(held("web", soon)), true),
            ("s37 another workload's proxy", None, 0, Some(held("db", soon)), false),
            ("another workload's proxy of the past", None, 0, Some(held("db", past)), true),
        ];
        for (why, most, uses, grant, may) in cases {
            let claims = dataplane(|claims| claims.uses = most);
            let past = Past { uses, grant: grant.as_ref() };
            let decided = decide(&claims, &peer, &east, past, now());
            assert_eq!(decided.is_ok(), may, "{why}: {decided:?}");
        }
    }

    #[tokio::test]
    async fn a_limited_token_is_counted_over_restarts_and_a_bad_request_costs_no_use() {
        let store = MemoryStore::new(zone("east"));
        let csr = PrivateKey::generate().request();
        let peer = "proxy/default/web-1";
        let token = {
            let home = Home::on(store.clone(), now()).await.unwrap();
            home.token_key.issue(&dataplane(|claims| {
                claims.uses = Some(2);
                claims.addresses = vec!["10.0.0.7".parse().unwrap()];
            }))
        };
        let mut chain = None;
        for (why, csr, fits) in [
            ("garbage", &b"garbage"[..], false),
            ("first", csr.der(), true),
            ("second", csr.der(), true),
            ("third", csr.der(), false),
        ] {
            let enroller = Enroller::open(Home::on(store.clone(), now()).await.unwrap()).await.unwrap();
            let enrolled = enroller.enrol(&token, csr, peer, now()).await;
            assert_eq!(enrolled.is_ok(), fits, "{why}: {enrolled:?}");
            chain = enrolled.ok().map(|enrolled| enrolled.chain).or(chain);
        }
        let last = chain.unwrap();
        let enroller = Enroller::open(Home::on(store, now()).await.unwrap()).await.unwrap();
        let peer = peer.parse().unwrap();
        let grant = enroller.grant(&peer).await.unwrap().unwrap();
        assert_eq!((grant.workload.as_deref(), grant.addresses.len()), (Some("web"), 1));

        let later = now() + Duration::from_secs(24 * HOUR);
        let admission = enroller.admit(&last[0], Handle::new()).unwrap();
        let chain = enroller.renew(&admission, csr.der(), later).await.unwrap();
        let known = identity::peer_from_certificate(&chain[0], &ServerRole::Zone("east".parse().unwrap()));
        assert_eq!(known, Ok(peer.clone()));
        assert!(enroller.grant(&peer).await.unwrap().unwrap().until > grant.until);

        enroller.forget(&peer).await.unwrap();
        assert!(enroller.grant(&peer).await.unwrap().is_none());
        assert!(matches!(enroller.renew(&admission, csr.der(), later).await, Err(EnrolError::NoGrant)));
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_token_is_told() {
        let home = Home::on(MemoryStore::new(Origin::Global), now()).await.unwrap();
        let csr = PrivateKey::generate().request();
        let good = claims(Audience::Zone, Issuer::Global, |c| c.zone = Some("east".parse().unwrap()));
        let issue = |change: fn(&mut TokenClaims)| {
            let mut claims = good.clone();
            change(&mut claims);
            home.token_key.issue(&claims)
        };
        let expired = issue(|claims| claims.exp = claims.nbf);
        let early = issue(|claims| claims.nbf += HOUR);
        let other_use = issue(|claims| claims.aud = Audience::Api);
        let other = Home::on(MemoryStore::new(Origin::Global), now()).await.unwrap().token_key.issue(&good);
        let enroller = Enroller::open(home.clone()).await.unwrap();
        for (token, peer, told) in [
            ("garbage", "zone/east", "malformed"),
            (&expired, "zone/east", "expired"),
            (&early, "zone/east", "compare the clocks"),
            (&other_use, "zone/east", "is for 'api'"),
            (&other, "zone/east", "not ours"),
            (&expired, "zone/global", "names no peer"),
            (&expired, "proxy/default/web-1", "does not join at"),
        ] {
            let error = enroller.enrol(token, csr.der(), peer, now()).await.unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    #[tokio::test]
    async fn s39_a_revoked_token_lets_nobody_in_and_turns_away_whoever_joined_by_it() {
        let store = MemoryStore::new(zone("east"));
        let home = Home::on(store.clone(), now()).await.unwrap();
        let csr = PrivateKey::generate().request();
        let token = |jti: &str| home.token_key.issue(&dataplane(|claims| claims.jti = jti.into()));
        let (stolen, good) = (token("stolen"), token("good"));
        let enroller = Enroller::open(home.clone()).await.unwrap();
        let join = async |enroller: &Enroller, token: &str, name: &str| {
            let peer = format!("proxy/default/{name}");
            Ok::<_, EnrolError>(enroller.enrol(token, csr.der(), &peer, now()).await?.chain.swap_remove(0))
        };
        let thief = join(&enroller, &stolen, "web-1").await.unwrap();
        let web_2 = join(&enroller, &good, "web-2").await.unwrap();
        let gone = join(&enroller, &stolen, "web-3").await.unwrap();
        let admission = enroller.admit(&thief, Handle::new()).unwrap();
        let _stays = enroller.admit(&web_2, Handle::new()).unwrap();
        drop(enroller.admit(&gone, Handle::new()).unwrap());
        // A certificate that was renewed stands on the same token.
        let renewed = enroller.renew(&admission, csr.der(), now()).await.unwrap().swap_remove(0);

        let turned_away = enroller.revoke("stolen", now()).await.unwrap();
        assert_eq!(
            turned_away,
            std::slice::from_ref(&admission.peer),
            "who was connected by it, and nobody else"
        );
        drop(admission);
        for enroller in [enroller, Enroller::open(Home::on(store, now()).await.unwrap()).await.unwrap()] {
            for certificate in [&thief, &gone, &renewed] {
                let refused = enroller.admit(certificate, Handle::new());
                assert!(matches!(refused, Err(Refusal::Denied(why)) if why.contains("was revoked")));
            }
            enroller.admit(&web_2, Handle::new()).unwrap();
            let again = join(&enroller, &stolen, "web-4").await;
            assert!(matches!(again, Err(EnrolError::Denied(Denied::Revoked))), "{again:?}");

            // What it granted is nobody's: its name is free for another workload, and the thief stays out.
            let peer = "proxy/default/web-3".parse().unwrap();
            assert_eq!(enroller.grant(&peer).await.unwrap(), None);
            let back = join(&enroller, &good, "web-1").await.unwrap();
            enroller.admit(&back, Handle::new()).unwrap();
            assert!(enroller.admit(&thief, Handle::new()).is_err());
            assert_eq!(enroller.revoke("stolen", now()).await.unwrap(), []);
        }
    }
}
