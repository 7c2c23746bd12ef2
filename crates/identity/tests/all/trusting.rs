//! Whom a store believes, certificate by certificate.

use std::time::SystemTime;

use identity::{
    AUTHORITY_LIFETIME, Claims, Problem, Refusal, Role, TrustStore, VerifyError, ZoneCa, certificates_to_pem,
};
use model::TrustDomain;
use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

use crate::forge::{Forge, authority_params, dns, leaf_params, set_times, uri};
use crate::support::{HOUR, domain, id, now, svid, trust, zone_ca};

pub(crate) const WEB: &str = "spiffe://default.east.mesh.local/workload/web";
const SUBJECT_ALTERNATIVE_NAME: &[u64] = &[2, 5, 29, 17];

/// An authority of `default.<zone>.mesh.local` that signs whatever it is told.
pub(crate) fn forge(zone: &str) -> Forge {
    Forge::root(authority_params(zone, vec![uri(&format!("spiffe://{}", domain(zone)))]))
}

pub(crate) fn bundle(zone: &str, pem: String) -> (TrustDomain, model::ZoneName, String) {
    (domain(zone).parse().unwrap(), zone.parse().unwrap(), pem)
}

fn store(forges: &[(&str, &Forge)]) -> TrustStore {
    let (store, problems) =
        TrustStore::from_bundles(forges.iter().map(|(zone, forge)| bundle(zone, forge.pem())));
    assert_eq!(problems, []);
    store
}

fn verify(store: &TrustStore, chain: &[CertificateDer<'_>], role: Role) -> Result<String, VerifyError> {
    store.verify(chain, now(), role).map(|peer| peer.id.to_string())
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf_params(vec![uri(WEB)]);
    change(&mut params);
    params
}

/// A subject alternative name extension with these bytes as its URIs.
fn raw_names(uris: &[&[u8]]) -> CustomExtension {
    let with_length = |tag: u8, of: &[u8]| [&[tag, u8::try_from(of.len()).unwrap()], of].concat();
    let names: Vec<u8> = uris.iter().flat_map(|uri| with_length(0x86, uri)).collect();
    CustomExtension::from_oid_content(SUBJECT_ALTERNATIVE_NAME, with_length(0x30, &names))
}

#[test]
fn s32_only_a_leaf_with_exactly_one_spiffe_id_is_a_workload() {
    let east = forge("east");
    let store = store(&[("east", &east)]);
    let names = |names: Vec<SanType>| leaf_params(names);
    let refused = [
        ("two ids", names(vec![uri(WEB), uri("spiffe://default.east.mesh.local/workload/admin")])),
        ("the same id twice", names(vec![uri(WEB), uri(WEB)])),
        ("an id and another URI", names(vec![uri(WEB), uri("https://example.com/")])),
        ("no name", names(vec![])),
        ("a DNS name", names(vec![dns("web.default.east.mesh.local")])),
        ("an id as DNS name", names(vec![dns(WEB)])),
        ("an id as mail address", names(vec![SanType::Rfc822Name(WEB.try_into().unwrap())])),
        ("no path", names(vec![uri("spiffe://default.east.mesh.local")])),
        ("an empty path", names(vec![uri("spiffe://default.east.mesh.local/")])),
        ("a NUL", names(vec![uri("spiffe://default.east.mesh.local/workload/web\0/x")])),
        ("a NUL in the domain", names(vec![uri("spiffe://default.east.mesh.local\0.evil/workload/web")])),
        ("a wildcard", names(vec![uri("spiffe://default.east.mesh.local/workload/*")])),
        ("a wildcard domain", names(vec![uri("spiffe://*.east.mesh.local/workload/web")])),
        ("a trailing slash", names(vec![uri(&format!("{WEB}/"))])),
        ("a dot segment", names(vec![uri("spiffe://default.east.mesh.local/workload/../admin")])),
        ("an escape", names(vec![uri("spiffe://default.east.mesh.local/workload%2fweb")])),
        ("a port", names(vec![uri("spiffe://default.east.mesh.local:443/workload/web")])),
        ("a user", names(vec![uri("spiffe://x@default.east.mesh.local/workload/web")])),
        ("a query", names(vec![uri(&format!("{WEB}?x"))])),
        ("another scheme", names(vec![uri("https://default.east.mesh.local/workload/web")])),
        ("another spelling", names(vec![uri("SPIFFE://default.east.mesh.local/workload/web")])),
        ("an upper-case domain", names(vec![uri("spiffe://default.EAST.mesh.local/workload/web")])),
        ("an empty name", names(vec![uri("")])),
    ];
    for (why, params) in refused {
        let found = verify(&store, &[east.leaf(&params)], Role::Client);
        assert!(matches!(found, Err(VerifyError::Id(_))), "{why}: {found:?}");
    }
    let raw = |uris: &[&[u8]]| {
        with(|it| {
            it.subject_alt_names.clear();
            it.custom_extensions = vec![raw_names(uris)];
        })
    };
    let unreadable = [
        ("not ASCII", raw(&["spiffe://default.east.mesh.local/workload/wéb".as_bytes()])),
        ("not UTF-8", raw(&[b"spiffe://default.east.mesh.local/workload/w\xffb"])),
        ("an unreadable one beside it", raw(&[WEB.as_bytes(), b"spiffe://\xff/x"])),
        ("a second set of names", with(|it| it.custom_extensions = vec![raw_names(&[WEB.as_bytes()])])),
    ];
    for (why, params) in unreadable {
        let found = verify(&store, &[east.leaf(&params)], Role::Client);
        assert!(matches!(found, Err(VerifyError::Malformed(_) | VerifyError::Id(_))), "{why}: {found:?}");
    }
    let accepted = [
        ("as it should be", leaf_params(vec![uri(WEB)])),
        ("the same, by hand", raw(&[WEB.as_bytes()])),
        ("names of other kinds beside it", leaf_params(vec![dns("*.example.com"), uri(WEB)])),
    ];
    for (why, params) in accepted {
        let found = verify(&store, &[east.leaf(&params)], Role::Client);
        assert_eq!(found.unwrap(), WEB, "{why}");
    }
}

#[test]
fn s34_a_leaf_must_be_meant_for_what_it_is_used_for_and_now() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    let east = forge("east");
    let store = store(&[("east", &east)]);
    let purposes =
        |purposes: &[ExtendedKeyUsagePurpose]| with(|it| it.extended_key_usages = purposes.to_vec());
    // Whether it will do as a client, and as a server.
    let cases = [
        ("both", purposes(&[ServerAuth, ClientAuth]), true, true),
        ("client", purposes(&[ClientAuth]), true, false),
        ("server", purposes(&[ServerAuth]), false, true),
        ("not said", purposes(&[]), false, false),
        ("any", purposes(&[Any]), false, false),
        ("code", purposes(&[CodeSigning]), false, false),
        (
            "an authority",
            with(|it| it.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
            false,
            false,
        ),
        ("signs certificates", with(|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)), false, false),
        ("signs lists", with(|it| it.key_usages.push(KeyUsagePurpose::CrlSign)), false, false),
        ("key use not said", with(|it| it.key_usages.clear()), true, true),
        ("ended", with(|it| set_times(it, now() - 2 * HOUR, now() - HOUR)), false, false),
        ("not begun", with(|it| set_times(it, now() + HOUR, now() + 2 * HOUR)), false, false),
        (
            "unknown but critical",
            with(|it| {
                let mut unknown =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions.push(unknown);
            }),
            false,
            false,
        ),
    ];
    for (why, params, client, server) in cases {
        let leaf = [east.leaf(&params)];
        let found = verify(&store, &leaf, Role::Client);
        assert_eq!(found.is_ok(), client, "{why} as a client: {found:?}");
        let found = verify(&store, &leaf, Role::Server);
        assert_eq!(found.is_ok(), server, "{why} as a server: {found:?}");
    }
}

#[test]
fn an_authority_speaks_for_its_own_trust_domain_alone() {
    let (east, west, stranger) = (forge("east"), forge("west"), forge("north"));
    let store = store(&[("east", &east), ("west", &west)]);
    let web = leaf_params(vec![uri(WEB)]);
    let signed_by_west = west.leaf(&web);
    for role in [Role::Client, Role::Server] {
        assert!(verify(&store, &[east.leaf(&web)], role).is_ok());
        for (why, chain) in [
            ("west's authority", vec![signed_by_west.clone()]),
            ("west's authority, shown as well", vec![signed_by_west.clone(), west.certificate.clone()]),
            (
                "both authorities shown",
                vec![signed_by_west.clone(), west.certificate.clone(), east.certificate.clone()],
            ),
            ("a stranger's authority", vec![stranger.leaf(&web), stranger.certificate.clone()]),
        ] {
            let found = verify(&store, &chain, role);
            assert!(matches!(found, Err(VerifyError::Chain(_) | VerifyError::Intermediate(_))), "{why}");
        }
        let found = verify(
            &store,
            &[stranger.leaf(&leaf_params(vec![uri("spiffe://default.north.mesh.local/workload/web")]))],
            role,
        );
        assert!(matches!(found, Err(VerifyError::UnknownDomain(_))), "{found:?}");
    }
    assert!(matches!(verify(&store, &[], Role::Client), Err(VerifyError::NoCertificate)));
    let garbage = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
    assert!(matches!(verify(&store, &[garbage], Role::Client), Err(VerifyError::Malformed(_))));
}

#[test]
fn an_intermediate_signs_for_the_domain_above_it_alone() {
    let (east, west) = (forge("east"), forge("west"));
    let store = store(&[("east", &east), ("west", &west)]);
    let (of_east, of_west) =
        (uri("spiffe://default.east.mesh.local"), uri("spiffe://default.west.mesh.local"));
    let web = leaf_params(vec![uri(WEB)]);
    let cart = leaf_params(vec![uri("spiffe://default.west.mesh.local/workload/cart")]);
    let plain = authority_params("i", vec![]);
    let named = authority_params("i", vec![of_east.clone()]);
    let mut leaflike = plain.clone();
    leaflike.is_ca = IsCa::ExplicitNoCa;
    let mut silent = plain.clone();
    silent.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut ended = plain.clone();
    set_times(&mut ended, now() - 2 * HOUR, now() - HOUR);
    let cases = [
        ("without a name", &plain, &web, true),
        ("with the domain's name", &named, &web, true),
        ("with another's name", &authority_params("i", vec![of_west.clone()]), &web, false),
        ("with both names", &authority_params("i", vec![of_east, of_west]), &web, false),
        ("with a workload's name", &authority_params("i", vec![uri(WEB)]), &web, false),
        ("no authority", &leaflike, &web, false),
        ("may not sign", &silent, &web, false),
        ("ended", &ended, &web, false),
        ("for the other's workload", &plain, &cart, false),
    ];
    for (why, intermediate, leaf, good) in cases {
        let intermediate = east.intermediate(intermediate.clone());
        let chain = [intermediate.leaf(leaf), intermediate.certificate.clone()];
        let found = verify(&store, &chain, Role::Server);
        assert_eq!(found.is_ok(), good, "{why}: {found:?}");
    }
}

#[test]
fn a_bundle_is_admitted_certificate_by_certificate() {
    let (east, old) = (forge("east"), forge("east"));
    let nameless = Forge::root(authority_params("nameless", vec![]));
    let west = forge("west");
    let leaf = certificates_to_pem(&[east.leaf(&leaf_params(vec![uri(WEB)]))]);
    let may_not_sign = Forge::root({
        let mut params = authority_params("east", vec![]);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
    });
    let broken = certificates_to_pem(&[CertificateDer::from(vec![0x30, 1, 0])]);
    type Expected = fn(&Refusal) -> bool;
    let cases: [(&str, String, Option<Expected>); 10] = [
        ("one root", east.pem(), None),
        ("two roots", east.pem() + &old.pem(), None),
        ("the same root twice", east.pem() + &east.pem(), None),
        ("a root without a name", east.pem() + &nameless.pem(), None),
        ("another's root", east.pem() + &west.pem(), Some(|it| matches!(it, Refusal::ForeignName(_)))),
        ("a leaf", east.pem() + &leaf, Some(|it| matches!(it, Refusal::NotAuthority))),
        (
            "a key that may not sign",
            may_not_sign.pem() + &east.pem(),
            Some(|it| *it == Refusal::NotAuthority),
        ),
        ("garbage in a section", broken + &east.pem(), Some(|it| matches!(it, Refusal::Unreadable(_)))),
        ("words around it", format!("subject: east\n{}\n# end", east.pem()), None),
        ("a private key beside it", format!("{}{}", east.key.to_pem().as_str(), east.pem()), None),
    ];
    let web = [east.leaf(&leaf_params(vec![uri(WEB)]))];
    for (why, pem, problem) in cases {
        let (store, problems) = TrustStore::from_bundles([bundle("east", pem)]);
        match problem {
            None => assert_eq!(problems, [], "{why}"),
            Some(expected) => {
                let [Problem { domain, reason }] = &problems[..] else { panic!("{why}: {problems:?}") };
                assert!(domain.as_str() == "default.east.mesh.local" && expected(reason), "{why}: {reason}");
            }
        }
        assert_eq!(verify(&store, &web, Role::Client).unwrap(), WEB, "{why}");
    }
    for (why, pem) in
        [("nothing", String::new()), ("words", "hello".into()), ("half", east.pem()[..90].into())]
    {
        let (store, problems) = TrustStore::from_bundles([bundle("east", pem)]);
        assert!(
            matches!(problems[..], [Problem { reason: Refusal::Unreadable(_), .. }]),
            "{why}: {problems:?}"
        );
        assert!(matches!(verify(&store, &web, Role::Client), Err(VerifyError::NoAnchor(_))), "{why}");
    }
}

#[test]
fn a_key_is_an_anchor_of_one_trust_domain_and_a_copy_disturbs_nothing() {
    let (west, thief) = (forge("west"), forge("athief"));
    let cart = [west.leaf(&leaf_params(vec![uri("spiffe://default.west.mesh.local/workload/cart")]))];
    let of_thief = "spiffe://default.athief.mesh.local";
    let forged = [west.leaf(&leaf_params(vec![uri(&format!("{of_thief}/workload/web"))]))];
    let copies = [
        ("as it is", west.certificate.clone()),
        ("signed anew, without a name", thief.sign(&authority_params("west", vec![]), &west.key)),
        (
            "signed anew, with the thief's name",
            thief.sign(&authority_params("west", vec![uri(of_thief)]), &west.key),
        ),
    ];
    for (why, copy) in copies {
        // The thief comes first in the order of names.
        for thief_first in [true, false] {
            let mut bundles = vec![
                bundle("athief", thief.pem() + &certificates_to_pem(std::slice::from_ref(&copy))),
                bundle("west", west.pem()),
            ];
            if !thief_first {
                bundles.reverse();
            }
            let (store, problems) = TrustStore::from_bundles(bundles);
            let [Problem { domain, .. }] = &problems[..] else { panic!("{why}: {problems:?}") };
            assert_eq!(domain.as_str(), "default.athief.mesh.local", "{why}");
            assert!(verify(&store, &cart, Role::Client).is_ok(), "{why}");
            assert!(verify(&store, &forged, Role::Client).is_err(), "{why}");
        }
    }
}

#[test]
fn where_nobody_proves_a_key_the_first_bundle_stands() {
    let shared = Forge::root(authority_params("shared", vec![]));
    let ids = ["east", "west"].map(|zone| id(zone, "web").to_string());
    for order in [["east", "west"], ["west", "east"]] {
        let (store, problems) = TrustStore::from_bundles(order.map(|zone| bundle(zone, shared.pem())));
        let owner: TrustDomain = domain(order[0]).parse().unwrap();
        let loser = domain(order[1]).parse().unwrap();
        assert_eq!(problems, [Problem { domain: loser, reason: Refusal::KeyOfAnother(owner.clone()) }]);
        for id in &ids {
            let found = verify(&store, &[shared.leaf(&leaf_params(vec![uri(id)]))], Role::Client);
            assert_eq!(found.is_ok(), id.contains(owner.as_str()), "{id}: {found:?}");
        }
    }
}

#[test]
fn a_bundle_that_was_read_before_is_judged_beside_others_as_all_together_are() {
    let (east, west, shared) =
        (forge("east"), forge("west"), Forge::root(authority_params("shared", vec![])));
    let copy =
        west.sign(&authority_params("east", vec![uri("spiffe://default.north.mesh.local")]), &east.key);
    let copy = certificates_to_pem(&[copy]);
    let pool = [
        ("east", east.pem()),
        ("west", west.pem()),
        ("west", shared.pem() + &west.pem()),
        ("south", shared.pem()),
        ("south", east.pem()),
        ("north", copy),
        ("north", "hello".to_owned()),
        ("east", shared.pem()),
    ];
    let claims = pool.each_ref().map(|(zone, pem)| Claims::read(&domain(zone).parse().unwrap(), pem));
    let of_zone = |at: usize| bundle(pool[at].0, pool[at].1.clone());
    let mut problems = 0;
    for (first, second, last) in (0..512).map(|n| (n / 64, n / 8 % 8, n % 8)) {
        let [a, b, c] = [first, second, last].map(|at| pool[at].0);
        if a == b || b == c || a == c {
            continue;
        }
        let (_, all) = TrustStore::from_bundles([first, second, last].map(of_zone));
        let want = all.into_iter().find(|problem| problem.domain == *claims[last].domain());
        let found = claims[last].problem([&claims[first], &claims[second]]);
        assert_eq!(found, want, "{last} beside {first} and {second}");
        problems += usize::from(found.is_some());
    }
    assert!(problems > 10, "{problems}");
}

#[test]
fn a_trust_domain_stands_once_and_control_planes_have_their_own_names() {
    let (east, other) = (forge("east"), forge("east"));
    let (store, problems) =
        TrustStore::from_bundles([bundle("east", east.pem()), bundle("east", other.pem())]);
    assert!(matches!(problems[..], [Problem { reason: Refusal::Repeated, .. }]), "{problems:?}");
    let leaf = leaf_params(vec![uri(WEB)]);
    assert!(verify(&store, &[east.leaf(&leaf)], Role::Client).is_ok());
    assert!(verify(&store, &[other.leaf(&leaf)], Role::Client).is_err());

    for reserved in ["tombolo.internal", "global.tombolo.internal", "east.zone.tombolo.internal"] {
        let forge = Forge::root(authority_params("x", vec![uri(&format!("spiffe://{reserved}"))]));
        let (_, problems) =
            TrustStore::from_bundles([(reserved.parse().unwrap(), "east".parse().unwrap(), forge.pem())]);
        assert!(matches!(problems[..], [Problem { reason: Refusal::Reserved, .. }]), "{reserved}");
    }
}

#[test]
fn an_anchor_counts_in_its_own_time_alone() {
    let start = now();
    let year = 365 * 24 * HOUR;
    let (old, new) = (
        ZoneCa::create(domain("east").parse().unwrap(), year, start - year + 2 * HOUR).unwrap(),
        ZoneCa::create(domain("east").parse().unwrap(), AUTHORITY_LIFETIME, start).unwrap(),
    );
    let (store, problems) = TrustStore::from_bundles([bundle("east", old.bundle_pem() + &new.bundle_pem())]);
    assert_eq!(problems, []);
    let verify = |svid: &identity::Svid, at: SystemTime| {
        store.verify(svid.credential().chain(), at, Role::Client).is_ok()
    };
    let (by_old, by_new) = (svid(&old, &id("east", "web")), svid(&new, &id("east", "web")));
    assert!(verify(&by_old, start + HOUR) && verify(&by_new, start + HOUR));
    // The leaf is cut to the life of its authority.
    assert_eq!(by_old.not_after(), old.validity().not_after);
    assert!(!verify(&by_old, start + 3 * HOUR) && verify(&by_new, start + 3 * HOUR));
    assert!(verify(&by_new, start) && !verify(&by_new, start - HOUR), "it began ten minutes ago");

    let gone = ZoneCa::create(domain("east").parse().unwrap(), HOUR, start - 2 * HOUR).unwrap();
    let (store, problems) = TrustStore::from_bundles([bundle("east", gone.bundle_pem())]);
    assert_eq!(problems, [], "out of time is no fault of the bundle");
    let found = store.verify(by_new.credential().chain(), start, Role::Client);
    assert!(matches!(found, Err(VerifyError::AnchorOutOfTime(..))), "{found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whoever_is_believed_is_who_the_certificate_says(
        signer in 0..3_usize,
        named in 0..3_usize,
        workload in "[a-z]([a-z0-9-]{0,20}[a-z0-9])?",
    ) {
        let zones = ["east", "west", "north"];
        let forges = zones.map(forge);
        let store = store(&[(zones[0], &forges[0]), (zones[1], &forges[1]), (zones[2], &forges[2])]);
        let id = id(zones[named], &workload);
        let leaf = forges[signer].leaf(&leaf_params(vec![uri(id.as_str())]));
        let found = store.verify(&[leaf], now(), Role::Server);
        prop_assert_eq!(found.is_ok(), signer == named);
        if let Ok(peer) = found {
            prop_assert_eq!((peer.id, peer.zone.as_str()), (id, zones[named]));
        }
    }

    #[test]
    fn no_uri_is_read_as_another(name in "(spiffe://)?[ -~\0]{0,40}") {
        let east = forge("east");
        let found = verify(&store(&[("east", &east)]), &[east.leaf(&leaf_params(vec![uri(&name)]))], Role::Client);
        prop_assert!(found.is_err() || found.as_ref().unwrap() == &name, "{:?}", found);
    }
}

#[test]
fn no_byte_of_a_certificate_can_be_changed() {
    let east = zone_ca("east");
    let store = trust(&[("east", &east)]);
    let svid = svid(&east, &id("east", "web"));
    let leaf = &svid.credential().chain()[0];
    assert!(verify(&store, std::slice::from_ref(leaf), Role::Client).is_ok());
    for at in 0..leaf.len() {
        let mut changed = leaf.to_vec();
        changed[at] ^= 1 << (at % 8);
        let found = verify(&store, &[changed.into()], Role::Client);
        assert!(found.is_err(), "byte {at} of {}: {found:?}", leaf.len());
    }
    for end in 0..leaf.len() {
        assert!(verify(&store, &[leaf[..end].to_vec().into()], Role::Client).is_err(), "cut at {end}");
    }
    assert!(verify(&store, &[[leaf, &[0][..]].concat().into()], Role::Client).is_err(), "one byte more");
}
