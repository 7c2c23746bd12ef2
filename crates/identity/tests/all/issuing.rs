//! What authorities write, and what they take from a request.

use identity::{
    BACKDATED, CertificateRequest, ControlCa, IssueError, Peer, PrivateKey, RequestError, SVID_LIFETIME,
    ServerRole, Svid, token_of_certificate, utc,
};
use rcgen::{CertificateParams, KeyPair, SanType};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::forge::{dns, uri};
use crate::support::{HOUR, domain, id, now, zone_ca};

/// The names, and the identifiers of subject and issuer key.
fn read(der: &[u8]) -> (Vec<String>, Vec<u8>, Vec<u8>, X509Certificate<'_>) {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    let (mut names, mut subject, mut issuer) = (vec![], vec![], vec![]);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(found) => {
                names.extend(found.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => (*uri).to_owned(),
                    other => other.to_string(),
                }));
            }
            ParsedExtension::SubjectKeyIdentifier(found) => subject = found.0.to_vec(),
            ParsedExtension::AuthorityKeyIdentifier(found) => {
                issuer = found.key_identifier.as_ref().unwrap().0.to_vec();
            }
            _ => {}
        }
    }
    (names, subject, issuer, certificate)
}

#[test]
fn a_leaf_says_who_it_is_what_it_is_for_and_who_signed_it() {
    let zone = zone_ca("east");
    let key = PrivateKey::generate();
    let now = now();
    let web = id("east", "web");
    let chain = zone.issue(key.request().der(), &web, SVID_LIFETIME, now).unwrap();
    let [leaf] = &chain[..] else { panic!("a root needs no intermediates") };
    let (names, subject, issuer, leaf) = read(leaf);
    assert_eq!(names, [web.as_str()]);
    let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let seconds = |time: std::time::SystemTime| {
        i64::try_from(time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
    };
    assert_eq!(leaf.validity().not_before.timestamp(), seconds(now - BACKDATED));
    assert_eq!(leaf.validity().not_after.timestamp(), seconds(now + SVID_LIFETIME));

    let root = identity::certificates_from_pem(&zone.bundle_pem()).unwrap();
    let (names, root_subject, root_issuer, root) = read(&root[0]);
    assert_eq!(names, [format!("spiffe://{}", domain("east"))]);
    assert!(!root_subject.is_empty() && !subject.is_empty() && subject != root_subject);
    assert_eq!((issuer, root_issuer), (root_subject.clone(), root_subject));
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert!(root.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(leaf.issuer(), root.subject());
    assert!(root.validity().not_before.timestamp() <= seconds(now - BACKDATED));

    let again = zone.issue(key.request().der(), &web, SVID_LIFETIME, now).unwrap();
    assert_ne!(read(&again[0]).3.raw_serial(), leaf.raw_serial(), "serial numbers are not the key's");
}

#[test]
fn s31_nothing_but_the_key_is_taken_from_a_request() {
    let zone = zone_ca("east");
    let key = PrivateKey::generate();
    let wishes: [Vec<SanType>; 4] = [
        vec![uri("spiffe://default.east.mesh.local/workload/admin")],
        vec![uri(id("east", "web").as_str()), uri("spiffe://default.west.mesh.local/workload/admin")],
        vec![dns("global.tombolo.internal"), dns("*")],
        vec![],
    ];
    for names in wishes {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let request = params.serialize_request(&key).unwrap();
        let chain = zone.issue(request.der(), &id("east", "web"), HOUR, now()).unwrap();
        let (names, _, _, leaf) = read(&chain[0]);
        assert_eq!(names, [id("east", "web").as_str()]);
        assert_eq!(leaf.subject().iter().count(), 0);
        assert!(!leaf.is_ca());
        assert!(Svid::new(chain, &key).is_ok());
    }
}

#[test]
fn a_request_is_signed_by_its_own_p_256_key() {
    let zone = zone_ca("east");
    let issue = |request: &[u8]| zone.issue(request, &id("east", "web"), HOUR, now());
    let refused = |request: &[u8]| match issue(request) {
        Err(IssueError::Request(error)) => error,
        other => panic!("{:?}", other.err()),
    };
    let key = PrivateKey::generate();
    let request: CertificateRequest = key.request();
    assert!(issue(request.der()).is_ok());
    for at in 0..request.der().len() {
        let mut changed = request.der().to_vec();
        changed[at] ^= 1 << (at % 8);
        // What stands beside the signed part may change and mean nothing; the key may not.
        if let Ok(chain) = issue(&changed) {
            assert!(Svid::new(chain, &key).is_ok(), "byte {at} of {changed:02x?}");
        }
    }
    assert_eq!(refused(&[request.der(), &[0]].concat()), RequestError::Malformed);
    assert_eq!(refused(b"-----BEGIN CERTIFICATE REQUEST-----"), RequestError::Malformed);
    for algorithm in [
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        assert_eq!(refused(request.der()), RequestError::NotP256, "{algorithm:?}");
    }
}

/// A day is renewed at two thirds, or a tenth sooner; and what does not count yet is of no use either.
#[test]
fn s41_what_was_issued_just_now_is_fresh_unless_a_clock_is_wrong_by_hours() {
    let zone = zone_ca("east");
    let key = PrivateKey::generate();
    let chain = zone.issue(key.request().der(), &id("east", "web"), SVID_LIFETIME, now()).unwrap();
    let svid = Svid::new(chain, &key).unwrap();
    let minute = HOUR / 60;
    for (by, fresh) in [(0, true), (5, true), (13 * 60, true), (14 * 60, false), (24 * 60 + 1, false)] {
        let found = svid.check_fresh(now() + by * minute);
        assert_eq!(found.is_ok(), fresh, "{by} minutes later: {found:?}");
    }
    for (by, fresh) in [(5, true), (10, true), (11, false)] {
        let clock = now() - by * minute;
        let found = svid.check_fresh(clock);
        assert_eq!(found.is_ok(), fresh, "{by} minutes sooner: {found:?}");
        if let Err(error) = found {
            let (begins, here) = (utc(svid.not_before()), utc(clock));
            let told = format!("it counts from {begins} to ");
            assert!(error.to_string().starts_with(&told), "{error}");
            assert!(
                error.to_string().ends_with(&format!("and here it is {here}: compare the clocks")),
                "{error}"
            );
        }
    }
}

#[test]
fn an_authority_signs_for_its_own_domain_in_its_own_time() {
    let zone = zone_ca("east");
    let request = PrivateKey::generate().request();
    let found = zone.issue(request.der(), &id("west", "web"), HOUR, now());
    assert!(matches!(found, Err(IssueError::NotOurs { .. })));
    for bad in [now() - HOUR, now() + 11 * 365 * 24 * HOUR] {
        let found = zone.issue(request.der(), &id("east", "web"), HOUR, bad);
        assert!(matches!(found, Err(IssueError::AuthorityOutOfTime(_))));
    }
    let forever = zone.issue(request.der(), &id("east", "web"), std::time::Duration::MAX, now()).unwrap();
    let key = PrivateKey::generate();
    assert!(Svid::new(forever, &key).is_err(), "the key is another");
}

#[test]
fn a_zone_is_known_for_a_year_and_other_peers_for_thirty_days() {
    let ca = ControlCa::create(ServerRole::Global, now()).unwrap();
    let request = PrivateKey::generate().request();
    for (peer, days) in [("zone/east", 365), ("proxy/default/web", 30), ("ingress/a", 30)] {
        let peer: Peer = peer.parse().unwrap();
        let chain = ca.issue_client(request.der(), &peer, Some("a-token"), now()).unwrap();
        assert_eq!(token_of_certificate(&chain[0]).unwrap().as_deref(), Some("a-token"));
        let unnamed = ca.issue_client(request.der(), &peer, None, now()).unwrap();
        assert_eq!(token_of_certificate(&unnamed[0]), Ok(None));
        let (names, _, _, leaf) = read(&chain[0]);
        assert_eq!(names, [format!("spiffe://global.tombolo.internal/{peer}")]);
        let purposes = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(purposes.client_auth && !purposes.server_auth);
        let left = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
        assert_eq!(left, days * 24 * 60 * 60 + 10 * 60);
    }
}
