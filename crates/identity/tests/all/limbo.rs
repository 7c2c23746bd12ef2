//! Chains that other verifiers got wrong. The corpus of x509-limbo is data of its own and not here; these stand for its classes
//! that mean something where a peer is known by a SPIFFE id and its domain's anchors:
//!
//! | class of x509-limbo | here |
//! |---|---|
//! | `pathlen` | how many authorities may follow one |
//! | `rfc5280::nc` | what an intermediate may sign for, URIs above all |
//! | `rfc5280::eku`, `webpki::eku` | an intermediate's purpose bounds the leaf's |
//! | `rfc5280`: critical and duplicate extensions, missing CA bit | whoever cannot be read wholly is not believed |
//! | `rfc5280::validity`, `pathological::multiple-chains-expired-intermediate` | one way of several that counts now |
//! | `rfc5280::chain-untrusted-root`, `webpki::cn`, `webpki::san` | who is believed, and by which name |
//! | `pathological` | circles, crowds and towers of authorities end soon |
//!
//! Left out, since nothing here looks at them: serial numbers, key identifiers, authority information, certificate transparency,
//! revocation lists, and DNS names and addresses in leaves. What a root says of itself binds nobody (RFC 5280, 6.1.1: an anchor is
//! a name and a key).

use std::time::{Duration, Instant};

use identity::Role::{Client, Server};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, NameConstraints,
};
use rustls::pki_types::CertificateDer;

use crate::forge::{Forge, authority_params, leaf_params, set_times, uri};
use crate::support::{HOUR, domain, now};
use crate::trusting::{WEB, bundle, forge};

/// A chain, leaf first, and whether it is believed of a client and of a server.
type Case = (&'static str, Vec<CertificateDer<'static>>, [bool; 2]);

const BELIEVED: [bool; 2] = [true, true];
const REFUSED: [bool; 2] = [false, false];

/// Of a domain in which `east` is the only anchor.
fn judge(east: &Forge, cases: Vec<Case>) {
    let (store, problems) = identity::TrustStore::from_bundles([bundle("east", east.pem())]);
    assert_eq!(problems, []);
    for (why, chain, want) in cases {
        let found = [Client, Server].map(|role| store.verify(&chain, now(), role));
        assert_eq!(found.each_ref().map(Result::is_ok), want, "{why}: {found:?}");
    }
}

fn web() -> CertificateParams {
    leaf_params(vec![uri(WEB)])
}

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = authority_params(name, vec![]);
    change(&mut params);
    params
}

/// A leaf below these authorities, each signed by the one before it.
fn below(
    root: &Forge,
    authorities: Vec<CertificateParams>,
    leaf: &CertificateParams,
) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::new();
    let mut last: Option<Forge> = None;
    for params in authorities {
        let next = last.as_ref().unwrap_or(root).intermediate(params);
        chain.insert(0, next.certificate.clone());
        last = Some(next);
    }
    chain.insert(0, last.as_ref().unwrap_or(root).leaf(leaf));
    chain
}

fn extension(oid: &[u64], content: Vec<u8>, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(critical);
    extension
}

#[test]
fn s32_an_authority_has_no_more_below_it_than_it_may() {
    let east = forge("east");
    let bounded = |name: &str, below: u8| {
        authority(name, |it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(below)))
    };
    let free = |name: &str| authority(name, |_| {});
    judge(
        &east,
        vec![
            ("none allowed, none there", below(&east, vec![bounded("a", 0)], &web()), BELIEVED),
            ("none allowed, one there", below(&east, vec![bounded("a", 0), free("b")], &web()), REFUSED),
            (
                "one allowed, one there",
                below(&east, vec![bounded("a", 1), bounded("b", 0)], &web()),
                BELIEVED,
            ),
            (
                "one allowed, two there",
                below(&east, vec![bounded("a", 1), free("b"), free("c")], &web()),
                REFUSED,
            ),
            (
                "the one below may not allow more",
                below(&east, vec![bounded("a", 0), bounded("b", 9), free("c")], &web()),
                REFUSED,
            ),
        ],
    );
}

/// A subtree of URIs: `[0]` permitted, `[1]` excluded. rcgen knows none.
fn uri_constraints(which: u8, host: &str) -> CustomExtension {
    let length = |content: &[u8]| u8::try_from(content.len()).unwrap();
    let wrap = |tag: u8, content: &[u8]| [&[tag, length(content)], content].concat();
    let subtree = wrap(0x30, &wrap(0x86, host.as_bytes()));
    extension(&[2, 5, 29, 30], wrap(0x30, &wrap(0xa0 | which, &subtree)), true)
}

#[test]
fn s32_an_intermediate_signs_for_nobody_outside_of_its_constraints() {
    let east = forge("east");
    let by = |change: &dyn Fn(&mut CertificateParams)| below(&east, vec![authority("a", change)], &web());
    let subtrees = |permitted: &[&str], excluded: &[&str]| {
        let of = |names: &[&str]| names.iter().map(|name| GeneralSubtree::DnsName((*name).into())).collect();
        Some(NameConstraints { permitted_subtrees: of(permitted), excluded_subtrees: of(excluded) })
    };
    judge(
        &east,
        vec![
            (
                "another's URIs alone",
                by(&|it| it.custom_extensions = vec![uri_constraints(0, &domain("west"))]),
                REFUSED,
            ),
            (
                "no URIs of this domain",
                by(&|it| it.custom_extensions = vec![uri_constraints(1, &domain("east"))]),
                REFUSED,
            ),
            (
                "names of hosts, of which the leaf has none",
                by(&|it| it.name_constraints = subtrees(&["example.com"], &["example.org"])),
                BELIEVED,
            ),
        ],
    );
}

#[test]
fn s32_an_intermediate_for_one_purpose_makes_no_leaf_for_another() {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    let east = forge("east");
    let purposes = |purposes: &[ExtendedKeyUsagePurpose]| {
        let purposes = purposes.to_vec();
        below(&east, vec![authority("a", |it| it.extended_key_usages = purposes)], &web())
    };
    judge(
        &east,
        vec![
            ("clients", purposes(&[ClientAuth]), [true, false]),
            ("servers", purposes(&[ServerAuth]), [false, true]),
            ("both", purposes(&[ClientAuth, ServerAuth]), BELIEVED),
            ("code", purposes(&[CodeSigning]), REFUSED),
        ],
    );
}

#[test]
fn s32_what_cannot_be_read_wholly_is_not_believed() {
    let east = forge("east");
    let by = |change: &dyn Fn(&mut CertificateParams)| below(&east, vec![authority("a", change)], &web());
    let leaf = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = web();
        change(&mut params);
        below(&east, vec![], &params)
    };
    let unknown = |critical| extension(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0], critical);
    // basicConstraints with cA, keyUsage keyCertSign, extendedKeyUsage clientAuth
    let constraints = extension(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff], true);
    let usage = extension(&[2, 5, 29, 15], vec![3, 2, 2, 4], true);
    let purpose = extension(&[2, 5, 29, 37], vec![0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2], false);
    judge(
        &east,
        vec![
            ("an unknown extension", by(&|it| it.custom_extensions = vec![unknown(false)]), BELIEVED),
            ("one that is critical", by(&|it| it.custom_extensions = vec![unknown(true)]), REFUSED),
            ("no word on being an authority", by(&|it| it.is_ca = IsCa::NoCa), REFUSED),
            ("two words on it", by(&|it| it.custom_extensions = vec![constraints.clone()]), REFUSED),
            ("two words on a leaf's keys", leaf(&|it| it.custom_extensions = vec![usage.clone()]), REFUSED),
            ("two words on its purpose", leaf(&|it| it.custom_extensions = vec![purpose.clone()]), REFUSED),
            (
                "an empty list of names",
                leaf(&|it| {
                    it.subject_alt_names.clear();
                    it.custom_extensions = vec![extension(&[2, 5, 29, 17], vec![0x30, 0], true)];
                }),
                REFUSED,
            ),
        ],
    );
}

#[test]
fn s32_time_counts_of_each_part_of_the_way_that_is_taken() {
    let east = forge("east");
    let ended = |it: &mut CertificateParams| set_times(it, now() - 3 * HOUR, now() - HOUR);
    let i = east.intermediate(authority("a", |_| {}));
    let old = east.sign(&authority("a", ended), &i.key);
    let leaf = i.leaf(&web());
    let mut turned = web();
    set_times(&mut turned, now() + HOUR, now() - HOUR);
    judge(
        &east,
        vec![
            ("by one that ended", vec![leaf.clone(), old.clone()], REFUSED),
            ("by it or by another", vec![leaf.clone(), old.clone(), i.certificate.clone()], BELIEVED),
            ("the other way around", vec![leaf, i.certificate.clone(), old], BELIEVED),
            ("an end before its beginning", vec![east.leaf(&turned)], REFUSED),
        ],
    );
}

#[test]
fn s32_a_name_in_another_place_and_a_root_of_ones_own_are_nobody() {
    let (east, own) = (forge("east"), forge("east"));
    let mut common = leaf_params(vec![]);
    common.distinguished_name.push(DnType::CommonName, WEB);
    let key = identity::PrivateKey::generate();
    let itself = web().self_signed(&key).unwrap().der().clone();
    let (i, j) = (east.intermediate(authority("a", |_| {})), own.intermediate(authority("a", |_| {})));
    judge(
        &east,
        vec![
            ("in its common name", vec![east.leaf(&common)], REFUSED),
            ("signed by itself", vec![itself], REFUSED),
            ("a root of the same name", vec![own.leaf(&web()), own.certificate.clone()], REFUSED),
            ("an authority of the same name", vec![j.leaf(&web()), i.certificate.clone()], REFUSED),
            ("the anchor as a leaf", vec![east.certificate.clone()], REFUSED),
            ("an authority as a leaf", vec![i.certificate.clone()], REFUSED),
            (
                "the anchor at the end",
                vec![i.leaf(&web()), i.certificate.clone(), east.certificate.clone()],
                BELIEVED,
            ),
        ],
    );
}

#[test]
fn s32_circles_crowds_and_towers_of_authorities_end_soon() {
    let east = forge("east");
    let same = || authority("a", |_| {});
    // Each signs the other, and nobody the two.
    let (a, b) = (Forge::root(same()), Forge::root(authority("b", |_| {})));
    let circle = vec![a.leaf(&web()), b.sign(&same(), &a.key), a.sign(&authority("b", |_| {}), &b.key)];
    // All have one name, so each could have signed each.
    let crowd: Vec<Forge> = (0..24).map(|_| Forge::root(same())).collect();
    let mut all: Vec<_> = crowd.iter().map(|it| it.certificate.clone()).collect();
    all.insert(0, crowd[0].leaf(&web()));
    let tower = below(&east, (0..16).map(|n| authority(&format!("i{n}"), |_| {})).collect(), &web());
    let begun = Instant::now();
    judge(&east, vec![("circle", circle, REFUSED), ("crowd", all, REFUSED), ("tower", tower, REFUSED)]);
    assert!(begun.elapsed() < Duration::from_secs(30), "a way was looked for {:?} long", begun.elapsed());
}
