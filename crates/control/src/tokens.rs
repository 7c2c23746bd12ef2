//! Issues the tokens by which peers join, `POST /tokens/{kind}`, and revokes them, `POST /tokens/revoke`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::gate::Caller;
use api::routes::Tokens;
use api::shapes::{
    InvalidParameter, Problem, RevokeAnswer, RevokeRequest, TokenAnswer, TokenKind, TokenRequest,
};
use futures::future::BoxFuture;
use identity::{Audience, Issuer, Peer, Pin, TokenClaims, TokenError, TokenKey, is_token_id, token_id};
use model::{MeshName, ZoneName};
use tracing::{info, warn};

use crate::enrolment::{Enroller, TurnedAway};
use crate::home::Home;
use runtime::Clock;

/// How long a token can be exchanged unless its request says otherwise.
pub const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// A token is for joining, and a machine that is set up may wait for a while; but not for ever.
pub const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Issues and revokes tokens in the name of one control plane.
pub struct TokenOffice {
    key: Arc<TokenKey>,
    issuer: Issuer,
    ca: Pin,
    enroller: Arc<Enroller>,
    clock: Clock,
}

impl TokenOffice {
    pub fn new(home: &Home, enroller: Arc<Enroller>, clock: Clock) -> Self {
        Self { key: home.token_key.clone(), issuer: home.issuer(), ca: home.pin(), enroller, clock }
    }

    /// A token as the route would give it.
    pub fn issue(&self, kind: TokenKind, request: TokenRequest) -> Result<String, Problem> {
        let claims = claims(kind, request, &self.issuer, self.ca, token_id(), self.clock.now())?;
        Ok(self.key.issue(&claims))
    }
}

impl Tokens for TokenOffice {
    fn kinds(&self) -> &[TokenKind] {
        match self.issuer {
            Issuer::Global => &[TokenKind::Zone],
            Issuer::Zone(_) => &[TokenKind::Dataplane, TokenKind::Ingress],
        }
    }

    fn issue(
        &self,
        kind: TokenKind,
        request: TokenRequest,
        caller: Caller,
    ) -> BoxFuture<'_, Result<TokenAnswer, Problem>> {
        Box::pin(async move {
            let claims = claims(kind, request, &self.issuer, self.ca, token_id(), self.clock.now())?;
            let (sub, jti) = (&claims.sub, &claims.jti);
            info!(caller = %caller.name, %sub, %jti, "issued a token");
            Ok(TokenAnswer { token: self.key.issue(&claims) })
        })
    }

    fn revoke(&self, request: RevokeRequest, caller: Caller) -> BoxFuture<'_, Result<RevokeAnswer, Problem>> {
        Box::pin(async move {
            let jti = jti(request, |token| self.key.read(token, &self.issuer))?;
            let TurnedAway { connected, away } =
                self.enroller.revoke(&jti, self.clock.now()).await.map_err(|error| {
                    warn!(%jti, %error, "a token could not be revoked");
                    Problem::unavailable("the control plane cannot write its store now: try again")
                })?;
            let names = |peers: Vec<Peer>| peers.iter().map(Peer::to_string).collect::<Vec<_>>();
            let (disconnected, away) = (names(connected), names(away));
            info!(caller = %caller.name, %jti, ?disconnected, ?away, "revoked a token");
            Ok(RevokeAnswer { jti, disconnected, away })
        })
    }
}

/// Which token a request names. A token of another control plane is not ours to revoke; of a name alone nobody
/// can say whose it is.
fn jti(
    request: RevokeRequest,
    read: impl FnOnce(&str) -> Result<TokenClaims, TokenError>,
) -> Result<String, Problem> {
    let mistake =
        |field: &str, reason: String| Problem::invalid_document(vec![InvalidParameter::new(field, reason)]);
    match request {
        RevokeRequest::Token(token) => match read(token.trim()) {
            Ok(claims) => Ok(claims.jti),
            Err(TokenError::Issuer { found, .. }) => {
                Err(Problem::written_elsewhere(format!("the token was issued by {found}: revoke it there")))
            }
            Err(error) => Err(mistake("token", error.to_string())),
        },
        RevokeRequest::Jti(jti) if is_token_id(&jti) => Ok(jti),
        RevokeRequest::Jti(_) => {
            Err(mistake("jti", "must be the 'jti' of a token: 32 of 0-9 and a-f".into()))
        }
    }
}

/// What a token says. The request has what its kind needs.
pub fn claims(
    kind: TokenKind,
    request: TokenRequest,
    issuer: &Issuer,
    ca: Pin,
    jti: String,
    now: SystemTime,
) -> Result<TokenClaims, Problem> {
    let TokenRequest { mesh, zone, workload, names, addresses, uses, valid_for } = request;
    let valid_for = valid_for.map_or(VALID_FOR, |span| span.0);
    let mut mistakes = Vec::new();
    if valid_for.is_zero() || valid_for > LONGEST {
        mistakes.push(InvalidParameter::new("valid_for", "must be greater than zero, and at most 365d"));
    }
    if let (Issuer::Zone(ours), Some(asked)) = (issuer, &zone)
        && ours != asked
    {
        let reason = format!("must be '{ours}': ask the control plane of zone '{asked}' for its own tokens");
        mistakes.push(InvalidParameter::new("zone", reason));
    }
    if !mistakes.is_empty() {
        return Err(Problem::invalid_document(mistakes));
    }
    let (aud, mesh, sub) = match kind {
        TokenKind::Zone => (Audience::Zone, None, subject(zone.as_ref())),
        TokenKind::Ingress => (Audience::Ingress, None, format!("ingress of {issuer}")),
        TokenKind::Dataplane => {
            let mesh = mesh.unwrap_or_else(default_mesh);
            let sub = format!("workload {} in mesh {mesh}", workload.as_deref().unwrap_or_default());
            (Audience::Dataplane, Some(mesh), sub)
        }
    };
    let zone = match issuer {
        Issuer::Global => zone,
        Issuer::Zone(ours) => Some(ours.clone()),
    };
    let nbf = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = nbf + valid_for;
    // The end is exact to a second; half a second is no reason to end at once.
    let exp = end.as_secs() + u64::from(end.subsec_nanos() > 0);
    let iss = issuer.clone();
    let nbf = nbf.as_secs();
    Ok(TokenClaims { iss, aud, sub, mesh, zone, workload, names, addresses, uses, nbf, exp, jti, ca })
}

fn subject(zone: Option<&ZoneName>) -> String {
    format!("zone {}", zone.map_or("", |zone| zone.as_str()))
}

fn default_mesh() -> MeshName {
    "default".parse().expect("'default' is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_was_asked_for_within_bounds() {
        let now = UNIX_EPOCH + Duration::from_millis(1_900_000_000_500);
        let (global, east) = (Issuer::Global, Issuer::Zone("east".parse().unwrap()));
        let cases = [
            (TokenKind::Zone, &global, r#"{"zone":"west"}"#, Some((None, Some("west"), 86_401))),
            (
                TokenKind::Dataplane,
                &east,
                r#"{"workload":"web","valid_for":"100ms"}"#,
                Some((Some("default"), Some("east"), 1)),
            ),
            (
                TokenKind::Dataplane,
                &east,
                r#"{"mesh":"shop","workload":"web","zone":"east","valid_for":"1h"}"#,
                Some((Some("shop"), Some("east"), 3601)),
            ),
            (TokenKind::Ingress, &east, "{}", Some((None, Some("east"), 86_401))),
            (TokenKind::Ingress, &east, r#"{"zone":"west"}"#, None),
            (TokenKind::Ingress, &east, r#"{"valid_for":"366d"}"#, None),
            (TokenKind::Ingress, &east, r#"{"valid_for":"0s"}"#, None),
        ];
        for (kind, issuer, body, want) in cases {
            let request: TokenRequest = serde_json::from_str(body).unwrap();
            let made = claims(kind, request, issuer, Pin::of(b"ca"), "id".into(), now);
            let found = made
                .as_ref()
                .ok()
                .map(|claims| (claims.mesh.as_deref(), claims.zone.as_deref(), claims.exp - claims.nbf));
            assert_eq!(found, want, "{kind:?} {body}: {made:?}");
        }
    }

    #[test]
    fn what_is_revoked_is_a_token_of_ours_or_a_name_that_one_could_have() {
        let (ours, theirs) = (TokenKey::generate(), TokenKey::generate());
        let (global, east) = (Issuer::Global, Issuer::Zone("east".parse().unwrap()));
        let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let request = || serde_json::from_str(r#"{"zone":"east"}"#).unwrap();
        let claims = claims(TokenKind::Zone, request(), &global, Pin::of(b"ca"), token_id(), now).unwrap();
        let id = claims.jti.clone();
        let of_east = TokenClaims { iss: east, ..claims.clone() };
        let cases = [
            (
                "ours, whenever it ended",
                RevokeRequest::Token(format!("{}\n", ours.issue(&claims))),
                Ok(id.as_str()),
            ),
            ("its name", RevokeRequest::Jti(id.clone()), Ok(id.as_str())),
            ("another's", RevokeRequest::Token(theirs.issue(&of_east)), Err(403)),
            ("forged", RevokeRequest::Token(theirs.issue(&claims)), Err(400)),
            ("no token", RevokeRequest::Token("a.b.c".into()), Err(400)),
            ("no name", RevokeRequest::Jti("east.token".into()), Err(400)),
        ];
        for (why, request, want) in cases {
            let found = jti(request, |token| ours.read(token, &global));
            assert_eq!(found.as_deref().map_err(|problem| problem.status), want, "{why}");
        }
    }
}
