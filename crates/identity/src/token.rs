//! Tokens: what a peer that is to join shows once, and the administrator's.
//!
//! A token is a JWT that is signed with ES256 and names its key, its issuer and the port it is for. It
//! carries the hash of the control plane's CA, so that its bearer sends it to nobody else. Verification
//! follows RFC 8725: the algorithm and the key are ours to choose, never the token's.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{constant_time, rand};
use data_encoding::HEXLOWER;
use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use model::{MeshName, ResourceName, WorkloadName, ZoneName};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clocks::utc;
use crate::key::{KeyError, PrivateKey};
use crate::pin::Pin;

/// How far in the future a token may begin: clocks differ. Its end is exact.
pub const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(5 * 60);

/// Longer than any token that names addresses by the hundred.
const MAX_LEN: usize = 16 * 1024;

/// What a token says, in the order of its JSON.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct TokenClaims {
    pub iss: Issuer,
    pub aud: Audience,
    /// Who, for people and logs.
    pub sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// The workload whose identity the bearer gets; the Dataplane it registers must be of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadName>,
    /// The Dataplanes or ingresses that the bearer may register as. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ResourceName>,
    /// Addresses that the bearer may register beside the one its session comes from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// How often it can be exchanged. None: as often as one likes until it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Seconds since 1970.
    pub nbf: u64,
    /// Seconds since 1970; not valid at this second any more.
    pub exp: u64,
    /// Names this token for counting its uses and for revoking it.
    pub jti: String,
    /// The authority of the control plane to expect.
    pub ca: Pin,
}

/// Which control plane issued a token: `global` or `zone:<zone>`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Issuer {
    Global,
    Zone(ZoneName),
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("'{0}' issues no tokens: issuers are global and zone:<zone>")]
pub struct InvalidIssuer(String);

/// What a token is for. It is good for nothing else.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// A zone joins the global.
    Zone,
    /// A sidecar joins its zone.
    Dataplane,
    /// An ingress joins its zone.
    Ingress,
    /// The REST API.
    Api,
}

/// Why a token is refused. The texts go to whoever showed it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is malformed: {0}")]
    Malformed(String),
    #[error("the token is signed with an algorithm other than ES256")]
    Algorithm,
    #[error("the token is not ours: it does not name a key of this control plane")]
    UnknownKey,
    #[error("the token is not ours: its signature is wrong")]
    Signature,
    #[error("the token was issued by {found}; here only those of {wanted} count")]
    Issuer { wanted: Issuer, found: Issuer },
    #[error("the token is for '{found}' and cannot be used for '{wanted}'")]
    Audience { wanted: Audience, found: Audience },
    #[error("the token expired at {}, and here it is {}", utc(*.end), utc(*.now))]
    Expired { end: SystemTime, now: SystemTime },
    #[error("the token counts from {}, and here it is {}: compare the clocks", utc(*.begin), utc(*.now))]
    NotYet { begin: SystemTime, now: SystemTime },
}

/// The key with which one control plane signs its tokens.
pub struct TokenKey {
    key: PrivateKey,
    kid: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl TokenKey {
    pub fn generate() -> Self {
        Self::new(PrivateKey::generate())
    }

    /// The reverse of [`Self::to_pem`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Ok(Self::new(PrivateKey::from_pem(text)?))
    }

    fn new(key: PrivateKey) -> Self {
        let hash = digest(&SHA256, key.public_point());
        Self {
            kid: HEXLOWER.encode(&hash.as_ref()[..16]),
            signing: EncodingKey::from_ec_der(key.pkcs8()),
            verifying: DecodingKey::from_ec_der(key.public_point()),
            key,
        }
    }

    /// For the control plane's sealed store and for nothing else.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    /// The name of the key, which follows from the key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    pub fn issue(&self, claims: &TokenClaims) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        encode(&header, claims, &self.signing).expect("a P-256 key signs what can be written as JSON")
    }

    /// What a token says, if it is ours, for this purpose, and for this time.
    pub fn verify(
        &self,
        token: &str,
        wanted: Audience,
        issuer: &Issuer,
        now: SystemTime,
    ) -> Result<TokenClaims, TokenError> {
        let claims = self.read(token, issuer)?;
        claims.check(wanted, now)?;
        Ok(claims)
    }

    /// What a token says, if it is ours, whatever it is for and whether or not its time is over.
    pub fn read(&self, token: &str, issuer: &Issuer) -> Result<TokenClaims, TokenError> {
        if token.len() > MAX_LEN {
            return Err(TokenError::Malformed(format!("it is longer than {MAX_LEN} bytes")));
        }
        let header = decode_header(token).map_err(malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed("it demands extensions that are not known here".into()));
        }
        if header.kid.as_ref() != Some(&self.kid) {
            return Err(whose(token, issuer));
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Ours are checked below, against the time that was handed in.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let decoded = decode::<TokenClaims>(token, &self.verifying, &validation);
        let claims = decoded
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => TokenError::Signature,
                ErrorKind::InvalidAlgorithm => TokenError::Algorithm,
                _ => malformed(error),
            })?
            .claims;
        if claims.iss != *issuer {
            return Err(TokenError::Issuer { wanted: issuer.clone(), found: claims.iss });
        }
        Ok(claims)
    }
}

impl TokenClaims {
    fn check(&self, wanted: Audience, now: SystemTime) -> Result<(), TokenError> {
        if self.aud != wanted {
            return Err(TokenError::Audience { wanted, found: self.aud });
        }
        let (begin, end) = (at(self.nbf), at(self.exp));
        if now >= end {
            return Err(TokenError::Expired { end, now });
        }
        if begin > now + NOT_BEFORE_LEEWAY {
            return Err(TokenError::NotYet { begin, now });
        }
        Ok(())
    }
}

/// A token may say any number.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(FAR))
}

/// In the year 9999.
const FAR: u64 = 253_000_000_000;

/// What a token's bearer goes by.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
pub struct Expected {
    /// The control plane to join.
    pub iss: Issuer,
    pub aud: Audience,
    /// The authority to expect there.
    pub ca: Pin,
}

/// What a token's bearer is to expect. The bearer cannot check the signature, and need not: whoever could
/// change its token could as well have given it another.
pub fn expected_of_token(token: &str) -> Result<Expected, TokenError> {
    insecure_decode_claims(token.trim()).map_err(malformed)
}

/// The authority that a token's bearer is to expect: see [`expected_of_token`].
pub fn ca_of_token(token: &str) -> Result<Pin, TokenError> {
    Ok(expected_of_token(token)?.ca)
}

/// A new name for a token.
pub fn token_id() -> String {
    let mut id = [0; 16];
    rand::fill(&mut id).expect("the system has randomness");
    HEXLOWER.encode(&id)
}

/// Whether [`token_id`] could have made it.
pub fn is_token_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A token of another control plane is a common mistake, worth its own words; it is refused either way.
fn whose(token: &str, wanted: &Issuer) -> TokenError {
    #[derive(Deserialize)]
    struct From {
        iss: Issuer,
    }
    match insecure_decode_claims::<From>(token) {
        Ok(From { iss }) if iss != *wanted => TokenError::Issuer { wanted: wanted.clone(), found: iss },
        _ => TokenError::UnknownKey,
    }
}

fn malformed(error: jsonwebtoken::errors::Error) -> TokenError {
    TokenError::Malformed(match error.kind() {
        ErrorKind::InvalidToken => "it does not have three parts".into(),
        ErrorKind::Json(error) => error.to_string(),
        _ => error.to_string(),
    })
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Zone(zone) => write!(f, "zone:{zone}"),
        }
    }
}

impl FromStr for Issuer {
    type Err = InvalidIssuer;

    fn from_str(text: &str) -> Result<Self, InvalidIssuer> {
        let zone = || Some(Self::Zone(text.strip_prefix("zone:")?.parse().ok()?));
        if text == "global" { Ok(Self::Global) } else { zone().ok_or_else(|| InvalidIssuer(text.into())) }
    }
}

impl TryFrom<String> for Issuer {
    type Error = InvalidIssuer;

    fn try_from(text: String) -> Result<Self, InvalidIssuer> {
        text.parse()
    }
}

impl From<Issuer> for String {
    fn from(issuer: Issuer) -> String {
        issuer.to_string()
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zone => "zone",
            Self::Dataplane => "dataplane",
            Self::Ingress => "ingress",
            Self::Api => "api",
        })
    }
}

/// The secret of `admin.token`: whoever shows it may do everything on the control plane that made it.
pub struct AdminToken(Zeroizing<String>);

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("an administrator token is one line of 64 lower-case hexadecimal digits")]
pub struct InvalidAdminToken;

impl AdminToken {
    /// 256 random bits.
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rand::fill(secret.as_mut()).expect("the system has randomness");
        Self(Zeroizing::new(HEXLOWER.encode(secret.as_ref())))
    }

    /// For the file, and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that says nothing about the secret.
    pub fn matches(&self, shown: &str) -> bool {
        let (ours, shown) = (digest(&SHA256, self.0.as_bytes()), digest(&SHA256, shown.as_bytes()));
        constant_time::verify_slices_are_equal(ours.as_ref(), shown.as_ref()).is_ok()
    }
}

/// Reads the file's text, with or without the line's end. An empty or short secret is refused.
impl FromStr for AdminToken {
    type Err = InvalidAdminToken;

    fn from_str(text: &str) -> Result<Self, InvalidAdminToken> {
        let text = text.trim();
        let valid = text.len() == 64 && HEXLOWER.decode(text.as_bytes()).is_ok();
        if valid { Ok(Self(Zeroizing::new(text.to_owned()))) } else { Err(InvalidAdminToken) }
    }
}
