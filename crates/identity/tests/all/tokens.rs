//! What a token must be to be believed (RFC 8725), and what whoever shows another is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use identity::token::NOT_BEFORE_LEEWAY;
use identity::{AdminToken, Audience, Issuer, Pin, TokenClaims, TokenError, TokenKey, ca_of_token, token_id};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn east() -> Issuer {
    "zone:east".parse().unwrap()
}

fn claims() -> TokenClaims {
    TokenClaims {
        iss: east(),
        aud: Audience::Dataplane,
        sub: "web".into(),
        mesh: Some("default".parse().unwrap()),
        zone: Some("east".parse().unwrap()),
        workload: Some("web".parse().unwrap()),
        names: vec!["web-1".parse().unwrap()],
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        uses: Some(1),
        nbf: NOW,
        exp: NOW + 3600,
        jti: token_id(),
        ca: Pin::of(b"ca"),
    }
}

/// A token with this header and these claims, signed by `sign`.
fn token(header: &Value, claims: &Value, sign: impl FnOnce(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64URL_NOPAD.encode(&sign(&message));
    format!("{message}.{signature}")
}

/// Signed as ours are, whatever it says.
fn signed(key: &TokenKey, header: &Value, claims: &Value) -> String {
    let pem = key.to_pem();
    let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    token(header, claims, |message| {
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap();
        BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap()
    })
}

fn verify(key: &TokenKey, token: &str) -> Result<TokenClaims, TokenError> {
    key.verify(token, Audience::Dataplane, &east(), at(NOW))
}

#[test]
fn what_was_issued_is_what_is_read() {
    let key = TokenKey::generate();
    let again = TokenKey::from_pem(&key.to_pem()).unwrap();
    assert_eq!(key.kid(), again.kid());
    let mut least = claims();
    (least.mesh, least.zone, least.workload, least.uses) = (None, None, None, None);
    (least.names, least.addresses) = (vec![], vec![]);
    for claims in [claims(), least] {
        let token = key.issue(&claims);
        assert_eq!(verify(&again, &token), Ok(claims.clone()));
        assert_eq!(ca_of_token(&token), Ok(claims.ca));
        assert_eq!(ca_of_token(&format!("{token}\n")), Ok(claims.ca), "as read from a file");
    }
    assert_ne!(token_id(), token_id());
}

#[test]
fn a_token_is_good_for_one_purpose_at_one_issuer_in_its_time() {
    let key = TokenKey::generate();
    let token = key.issue(&claims());
    let leeway = NOT_BEFORE_LEEWAY.as_secs();
    let found =
        |audience, issuer: &str, now| key.verify(&token, audience, &issuer.parse().unwrap(), at(now)).err();
    use Audience::{Api, Dataplane, Ingress, Zone};
    assert_eq!(found(Dataplane, "zone:east", NOW), None);
    for wanted in [Zone, Ingress, Api] {
        let expected = TokenError::Audience { wanted, found: Dataplane };
        assert_eq!(found(wanted, "zone:east", NOW), Some(expected));
    }
    for issuer in ["global", "zone:west"] {
        let wanted = issuer.parse().unwrap();
        assert_eq!(found(Dataplane, issuer, NOW), Some(TokenError::Issuer { wanted, found: east() }));
    }
    assert_eq!(found(Dataplane, "zone:east", NOW - leeway), None);
    let now = at(NOW - leeway - 1);
    assert_eq!(
        found(Dataplane, "zone:east", NOW - leeway - 1),
        Some(TokenError::NotYet { begin: at(NOW), now })
    );
    assert_eq!(found(Dataplane, "zone:east", NOW + 3599), None);
    let end = NOW + 3600;
    let expired = |ago| Some(TokenError::Expired { end: at(end), now: at(end + ago) });
    assert_eq!(found(Dataplane, "zone:east", NOW + 3600), expired(0), "the end has no leeway");
    assert_eq!(found(Dataplane, "zone:east", NOW + 4000), expired(400));
    assert_eq!(
        found(Ingress, "zone:east", NOW).unwrap().to_string(),
        "the token is for 'dataplane' and cannot be used for 'ingress'"
    );
}

#[test]
fn the_algorithm_and_the_key_are_never_the_tokens_choice() {
    let key = TokenKey::generate();
    let other = TokenKey::generate();
    let kid = key.kid();
    let body = serde_json::to_value(claims()).unwrap();
    let good = json!({"alg": "ES256", "typ": "JWT", "kid": kid});
    assert_eq!(verify(&key, &signed(&key, &good, &body)), Ok(serde_json::from_value(body.clone()).unwrap()));

    let hmac = |secret: &[u8], algorithm| {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        encode(&header, &body, &EncodingKey::from_secret(secret)).unwrap()
    };
    let public = rcgen::KeyPair::from_pem(&key.to_pem()).unwrap();
    let pem = public.public_key_pem();
    let malformed = |found: &TokenError| matches!(found, TokenError::Malformed(_));
    let header = |header: Value| signed(&key, &header, &body);
    type Expected<'a> = &'a dyn Fn(&TokenError) -> bool;
    let algorithm: Expected<'_> = &|found| *found == TokenError::Algorithm;
    let unknown: Expected<'_> = &|found| *found == TokenError::UnknownKey;
    let unsigned = |alg: &str| token(&json!({"alg": alg, "kid": kid}), &body, |_| vec![]);
    let cases: Vec<(&str, String, Expected<'_>)> = vec![
        ("none", unsigned("none"), &malformed),
        ("None", unsigned("None"), &malformed),
        ("no algorithm", header(json!({"kid": kid})), &malformed),
        ("ES256 without a signature", unsigned("ES256"), &|found| *found == TokenError::Signature),
        ("HS256 with the public PEM", hmac(pem.as_bytes(), Algorithm::HS256), algorithm),
        ("HS256 with the public point", hmac(public.public_key_raw(), Algorithm::HS256), algorithm),
        ("HS512 with nothing", hmac(b"", Algorithm::HS512), algorithm),
        ("ES384 in name", header(json!({"alg": "ES384", "kid": kid})), algorithm),
        ("no kid", header(json!({"alg": "ES256"})), unknown),
        ("an empty kid", header(json!({"alg": "ES256", "kid": ""})), unknown),
        ("another kid", header(json!({"alg": "ES256", "kid": other.kid()})), unknown),
        ("a kid of more", header(json!({"alg": "ES256", "kid": format!("{kid}0")})), unknown),
        ("a number as kid", header(json!({"alg": "ES256", "kid": 1})), &malformed),
        ("an object as kid", header(json!({"alg": "ES256", "kid": {"kid": kid}})), &malformed),
        ("null as kid", header(json!({"alg": "ES256", "kid": null})), unknown),
        (
            "critical extensions",
            header(json!({"alg": "ES256", "kid": kid, "crit": ["b64"], "b64": false})),
            &malformed,
        ),
        ("another key under our kid", signed(&other, &good, &body), &|found| *found == TokenError::Signature),
        ("another key", other.issue(&claims()), unknown),
    ];
    for (why, token, expected) in cases {
        let found = verify(&key, &token).unwrap_err();
        assert!(expected(&found), "{why}: {found:?}");
    }
    // A key that comes with the token is not looked at.
    let point =
        BASE64URL_NOPAD.encode(&rcgen::KeyPair::from_pem(&other.to_pem()).unwrap().public_key_raw()[1..33]);
    let own =
        json!({"alg": "ES256", "kid": kid, "jwk": {"kty": "EC", "crv": "P-256", "x": point, "y": point}});
    assert!(verify(&key, &signed(&other, &own, &body)).is_err());
}

#[test]
fn a_token_of_another_control_plane_is_told_apart() {
    let (ours, global) = (TokenKey::generate(), TokenKey::generate());
    let mut claims = claims();
    claims.iss = Issuer::Global;
    let found = verify(&ours, &global.issue(&claims)).unwrap_err();
    assert_eq!(found, TokenError::Issuer { wanted: east(), found: Issuer::Global });
    assert_eq!(found.to_string(), "the token was issued by global; here only those of zone:east count");
}

#[test]
fn claims_are_read_strictly() {
    let key = TokenKey::generate();
    let header = json!({"alg": "ES256", "kid": key.kid()});
    let body = serde_json::to_value(claims()).unwrap();
    let changes: [(&str, Value); 17] = [
        ("iss", json!(null)),
        ("iss", json!("zone:global")),
        ("iss", json!(["zone:east"])),
        ("aud", json!(null)),
        ("aud", json!("everything")),
        ("aud", json!(["dataplane"])),
        ("aud", json!("Dataplane")),
        ("exp", json!(null)),
        ("exp", json!("1800003600")),
        ("exp", json!(-1)),
        ("exp", json!(1.8e9)),
        ("nbf", json!(null)),
        ("jti", json!(null)),
        ("ca", json!("abc")),
        ("names", json!(["Not A Name"])),
        ("addresses", json!(["10.0.0.0/8"])),
        ("uses", json!(-1)),
    ];
    for (field, value) in changes {
        let mut changed = body.clone();
        if value.is_null() {
            changed.as_object_mut().unwrap().remove(field);
        } else {
            changed[field] = value.clone();
        }
        let found = verify(&key, &signed(&key, &header, &changed));
        assert!(matches!(found, Err(TokenError::Malformed(_))), "{field} {value}: {found:?}");
    }
    let twice = format!("{},\"exp\":{}}}", body.to_string().trim_end_matches('}'), NOW * 2);
    let message = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let message = format!("{}.{}", message(&header.to_string()), message(&twice));
    let pem = key.to_pem();
    let signing = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &signing, Algorithm::ES256).unwrap();
    let found = verify(&key, &format!("{message}.{signature}"));
    assert!(matches!(found, Err(TokenError::Malformed(_))), "a claim that stands twice: {found:?}");

    let mut more = body;
    more["later"] = json!({"versions": "may say more"});
    assert!(verify(&key, &signed(&key, &header, &more)).is_ok());
}

#[test]
fn garbage_is_malformed_and_nothing_worse() {
    let key = TokenKey::generate();
    let token = key.issue(&claims());
    let long = "a".repeat(20_000);
    for bad in ["", ".", "..", "...", "a.b", "a.b.c", "hello", "Bearer x.y.z", "é.é.é", &token[1..], &long]
    {
        assert!(matches!(verify(&key, bad), Err(TokenError::Malformed(_))), "{bad}");
        assert!(bad == &token[1..] || ca_of_token(bad).is_err(), "{bad}");
    }
    assert!(matches!(verify(&key, &format!("{token}.{token}")), Err(TokenError::Malformed(_))));
    assert!(verify(&key, &format!("{token} ")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_character_of_a_token_can_be_changed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.-]") {
        let key = TokenKey::generate();
        let token = key.issue(&claims());
        let at = at.index(token.len());
        let changed = format!("{}{to}{}", &token[..at], &token[at + 1..]);
        prop_assume!(changed != token);
        prop_assert!(verify(&key, &changed).is_err());
    }

    #[test]
    fn anything_shown_gets_an_answer(text in "\\PC{0,80}", dots in "[A-Za-z0-9_.-]{0,80}") {
        let key = TokenKey::generate();
        prop_assert!(verify(&key, &text).is_err() && verify(&key, &dots).is_err());
        let _ = (ca_of_token(&text), ca_of_token(&dots));
    }

    #[test]
    fn issuers_round_trip_as_text(zone in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?", text in "(global|zone:)?[a-z:-]{0,9}") {
        prop_assume!(zone != "global");
        let issuer = Issuer::Zone(zone.parse().unwrap());
        prop_assert_eq!(issuer.to_string().parse::<Issuer>(), Ok(issuer));
        if let Ok(issuer) = text.parse::<Issuer>() {
            prop_assert_eq!(issuer.to_string(), text);
        }
    }
}

#[test]
fn the_administrator_is_known_by_the_whole_secret() {
    let token = AdminToken::generate();
    let secret = token.expose().to_owned();
    assert!(token.matches(&secret));
    assert!(format!("{secret}\n").parse::<AdminToken>().unwrap().matches(&secret));
    let upper = secret.to_uppercase();
    let other = AdminToken::generate();
    for bad in ["", "x", &secret[1..], &format!("{secret}0"), &format!(" {secret}"), &upper, other.expose()] {
        assert!(!token.matches(bad) || bad == secret, "{bad}");
    }
    for bad in ["", "\n", "hunter2", &secret[1..], &format!("{secret}{secret}")] {
        assert!(bad.parse::<AdminToken>().is_err(), "{bad}");
    }
}
