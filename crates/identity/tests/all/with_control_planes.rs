//! Handshakes with control planes: by pin or by `ca.crt`, before and after joining.

use std::sync::Arc;

use identity::{
    Alpn, ControlCa, Credential, Peer, PeerError, Pin, PrivateKey, ServerRole, TrustStore, api_client_config,
    api_server_config, certificates_to_pem, client_config, peer_from_certificate, server_config,
    workload_client, workload_server,
};
use rcgen::{ExtendedKeyUsagePurpose, IsCa};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};

use crate::forge::{Forge, authority_params, dns, leaf_params, set_times, uri};
use crate::support::{
    HOUR, Pair, Refused, credulous_client, handshake, id, now, svid, trust, with_certificate, zone_ca,
};

async fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Pair, Refused> {
    // What was dialled, which is nobody's name.
    handshake(client.clone(), server.clone(), ServerName::try_from("10.1.2.3").unwrap()).await
}

fn east() -> ServerRole {
    ServerRole::Zone("east".parse().unwrap())
}

fn control(role: ServerRole) -> (ControlCa, Credential) {
    let ca = ControlCa::create(role, now()).unwrap();
    let credential = ca.server_credential(&["cp.example.com".into(), "10.0.0.7".into()], now()).unwrap();
    (ca, credential)
}

fn joined(ca: &ControlCa, peer: &Peer) -> Credential {
    let key = PrivateKey::generate();
    Credential::new(ca.issue_client(key.request().der(), peer, None, now()).unwrap(), &key).unwrap()
}

fn peers() -> [Peer; 3] {
    ["zone/west", "proxy/default/web-1.shop", "ingress/east-1"].map(|peer| peer.parse().unwrap())
}

#[tokio::test]
async fn a_peer_joins_without_a_certificate_and_comes_back_with_one() {
    let (ca, credential) = control(east());
    let server = server_config(&ca, &credential).unwrap();

    let joining = client_config(ca.pin(), east(), None).unwrap();
    let pair = connect(&joining, &server).await.unwrap();
    assert_eq!(pair.server.get_ref().1.peer_certificates(), None);
    assert_eq!(pair.server.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    for peer in peers() {
        let back = client_config(ca.pin(), east(), Some(&joined(&ca, &peer))).unwrap();
        let pair = connect(&back, &server).await.unwrap();
        let shown = pair.server.get_ref().1.peer_certificates().unwrap();
        assert_eq!(peer_from_certificate(&shown[0], &east()), Ok(peer));
        assert!(matches!(peer_from_certificate(&shown[0], &ServerRole::Global), Err(PeerError::NotAPeer(_))));
    }
}

#[tokio::test]
async fn s38_a_server_is_known_by_its_pin_and_by_the_name_of_its_role() {
    let (ca, credential) = control(east());
    let (other, _) = control(east());
    let server = server_config(&ca, &credential).unwrap();
    let west = ServerRole::Zone("west".parse().unwrap());
    let leaf = Pin::of(&credential.chain()[0]);
    let cases = [
        ("as it is", ca.pin(), east(), None),
        ("another CA of the same name", other.pin(), east(), Some("no certificate with the hash")),
        ("another zone", ca.pin(), west, Some("not one of west.zone.tombolo.internal, but of east.zone")),
        ("the global", ca.pin(), ServerRole::Global, Some("not one of global.tombolo.internal")),
        ("the leaf instead of its CA", leaf, east(), Some("not one of a CA")),
    ];
    for (why, pin, role, refused) in cases {
        let found = connect(&client_config(pin, role, None).unwrap(), &server).await;
        match (found, refused) {
            (Ok(_), None) => {}
            (Err(Refused { client: Some(said), .. }), Some(expected)) => {
                assert!(said.contains(expected), "{why}: {said}");
            }
            (found, _) => panic!("{why}: {:?}", found.err()),
        }
    }
}

/// A server that shows this chain, for a key that is the leaf's.
fn showing(chain: &[CertificateDer<'static>], key: &PrivateKey) -> Arc<ServerConfig> {
    let credential = Credential::from_pem(&certificates_to_pem(chain), &key.to_pem()).unwrap();
    server_config(&ControlCa::create(east(), now()).unwrap(), &credential).unwrap()
}

#[tokio::test]
async fn the_pinned_certificate_must_sign_down_to_the_leaf() {
    let name = "east.zone.tombolo.internal";
    let authority = |common_name: &str| authority_params(common_name, vec![uri(&format!("spiffe://{name}"))]);
    let old = Forge::root(authority("old"));
    // The new one's key, certified by the old one as well: old tokens stay good.
    let new = old.intermediate(authority("new"));
    let new_root = authority("new").self_signed(&new.key).unwrap().der().clone();
    let thief = Forge::root(authority("old"));

    let mut server = leaf_params(vec![dns(name)]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut silent = server.clone();
    silent.extended_key_usages.clear();
    let mut client = server.clone();
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let mut wildcard = server.clone();
    wildcard.subject_alt_names = vec![dns("*.zone.tombolo.internal")];
    let mut nameless = server.clone();
    nameless.subject_alt_names = vec![dns("localhost")];
    let mut ended = server.clone();
    set_times(&mut ended, now() - 2 * HOUR, now() - HOUR);
    let mut authority_itself = authority("self");
    authority_itself.subject_alt_names = vec![dns(name)];
    let late = Forge::root({
        let mut params = authority("late");
        set_times(&mut params, now() - 2 * HOUR, now() - HOUR);
        params
    });
    let not_an_authority = Forge::root({
        let mut params = authority("none");
        params.is_ca = IsCa::ExplicitNoCa;
        params
    });

    let pin = |forge: &Forge| Pin::of(&forge.certificate);
    let key = PrivateKey::generate();
    let chain = |signer: &Forge, leaf, rest: &[&CertificateDer<'static>]| {
        let mut chain = vec![signer.sign(leaf, &key)];
        chain.extend(rest.iter().map(|&it| it.clone()));
        chain
    };
    let (of_old, of_new, of_thief) = (&old.certificate, &new.certificate, &thief.certificate);
    let cases = [
        ("signed by the pinned", chain(&old, &server, &[of_old]), pin(&old), true),
        ("cross-signed by the pinned", chain(&new, &server, &[of_new, of_old]), pin(&old), true),
        ("the pinned is in the middle", chain(&new, &server, &[of_new, of_old]), pin(&new), true),
        ("the new root is pinned", chain(&new, &server, &[of_new, &new_root]), Pin::of(&new_root), true),
        ("the pinned is not shown", chain(&old, &server, &[]), pin(&old), false),
        (
            "the pinned is shown but did not sign",
            chain(&thief, &server, &[of_thief, of_old]),
            pin(&old),
            false,
        ),
        ("only decoration", chain(&thief, &server, &[of_old]), pin(&old), false),
        ("no word on its purpose", chain(&old, &silent, &[of_old]), pin(&old), false),
        ("a client's", chain(&old, &client, &[of_old]), pin(&old), false),
        ("a wildcard", chain(&old, &wildcard, &[of_old]), pin(&old), false),
        ("no name of a role", chain(&old, &nameless, &[of_old]), pin(&old), false),
        ("ended", chain(&old, &ended, &[of_old]), pin(&old), false),
        ("an authority as a leaf", chain(&old, &authority_itself, &[of_old]), pin(&old), false),
        ("its authority ended", chain(&late, &server, &[&late.certificate]), pin(&late), false),
        (
            "its signer is no authority",
            chain(&not_an_authority, &server, &[&not_an_authority.certificate]),
            pin(&not_an_authority),
            false,
        ),
    ];
    for (why, chain, pin, good) in cases {
        let client = client_config(pin, east(), None).unwrap();
        let found = connect(&client, &showing(&chain, &key)).await.err();
        assert_eq!(found.is_none(), good, "{why}: {found:?}");
    }
}

#[tokio::test]
async fn the_api_is_reached_by_ca_file_with_or_without_a_role() {
    let (ca, credential) = control(east());
    let (other, _) = control(east());
    let server = api_server_config(&credential).unwrap();
    let both = other.ca_pem() + &ca.ca_pem();
    for (why, ca_file, role, good) in [
        ("its own", ca.ca_pem(), None, true),
        ("its own, and its role", ca.ca_pem(), Some(east()), true),
        ("one of two", both, None, true),
        ("another's", other.ca_pem(), None, false),
        ("another role", ca.ca_pem(), Some(ServerRole::Global), false),
    ] {
        let client = api_client_config(&ca_file, role).unwrap();
        assert_eq!(connect(&client, &server).await.is_ok(), good, "{why}");
    }
    let leaf = certificates_to_pem(&credential.chain()[..1]);
    for bad in ["", "hello", &leaf] {
        assert!(api_client_config(bad, None).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn clients_that_compare_the_dialled_address_are_served_too() {
    let (ca, credential) = control(ServerRole::Global);
    let server = api_server_config(&credential).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(identity::certificates_from_pem(&ca.ca_pem()).unwrap());
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = Arc::new(client);
    let served = ["localhost", "127.0.0.1", "::1", "cp.example.com", "10.0.0.7", "global.tombolo.internal"];
    for name in served {
        let name = ServerName::try_from(name).unwrap();
        assert!(handshake(client.clone(), server.clone(), name.clone()).await.is_ok(), "{name:?}");
    }
    let other = ServerName::try_from("other.example.com").unwrap();
    assert!(handshake(client, server, other).await.is_err());
}

#[tokio::test]
async fn workload_and_control_certificates_never_stand_in_for_each_other() {
    let zone = zone_ca("east");
    let web = svid(&zone, &id("east", "web"));
    let trust = trust(&[("east", &zone)]);
    let (ca, credential) = control(east());
    let peer = joined(&ca, &"proxy/default/web".parse().unwrap());

    // An SVID on the sync port.
    let sync = server_config(&ca, &credential).unwrap();
    let client = with_certificate(credulous_client(&[&rustls::version::TLS13]), &web);
    let refused = connect(&Arc::new(client), &sync).await.err().unwrap();
    assert!(refused.server.unwrap().contains("UnknownIssuer"));
    // A workload that poses as a control plane.
    let posing = workload_server(&web, trust.clone(), &[Alpn::H2]).unwrap();
    let pin = Pin::of(&identity::certificates_from_pem(&zone.bundle_pem()).unwrap()[0]);
    assert!(connect(&client_config(pin, east(), None).unwrap(), &posing).await.is_err());

    // A peer's certificate between proxies: as an SVID it even parses.
    let as_svid = identity::Svid::from_pem(&peer.chain_pem(), &peer.key_pem()).unwrap();
    let server = workload_server(&web, trust.clone(), &[Alpn::H2]).unwrap();
    let client = workload_client(&as_svid, trust.clone(), Alpn::H2).unwrap();
    let refused = connect(&client, &server).await.err().unwrap();
    assert!(refused.server.unwrap().contains("east.zone.tombolo.internal is not known here"));
    // Not even a zone that publishes its control plane's authority as a bundle gets it believed.
    let bundle = (east().to_string().parse().unwrap(), "east".parse().unwrap(), ca.ca_pem());
    let (store, problems) = TrustStore::from_bundles([bundle]);
    assert_eq!(problems.len(), 1);
    let server = workload_server(&web, Arc::new(store), &[Alpn::H2]).unwrap();
    assert!(connect(&client, &server).await.is_err());
    // And the control plane's own.
    let client = workload_client(&web, trust, Alpn::H2).unwrap();
    assert!(connect(&client, &sync).await.is_err());
}

#[tokio::test]
async fn only_a_certificate_that_was_given_to_a_peer_opens_the_sync_port() {
    let (ca, credential) = control(east());
    let server = server_config(&ca, &credential).unwrap();
    let stolen = PrivateKey::from_pem(&ca.to_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&ca.ca_pem(), &stolen).unwrap();
    let key = PrivateKey::generate();
    let peer = "spiffe://east.zone.tombolo.internal/ingress/a";
    let client = |names: &[&str], purposes: &[ExtendedKeyUsagePurpose]| {
        let mut params = leaf_params(names.iter().map(|name| uri(name)).collect());
        params.extended_key_usages = purposes.to_vec();
        params
    };
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let mut ended = client(&[peer], &[ClientAuth]);
    set_times(&mut ended, now() - 2 * HOUR, now() - HOUR);
    let cases = [
        ("a peer's", client(&[peer], &[ClientAuth]), true),
        ("ended", ended, false),
        ("no word on its purpose", client(&[peer], &[]), false),
        ("a server's", client(&[peer], &[ServerAuth]), false),
        ("both", client(&[peer], &[ServerAuth, ClientAuth]), false),
        ("no name", client(&[], &[ClientAuth]), false),
        ("two names", client(&[peer, "spiffe://east.zone.tombolo.internal/ingress/b"], &[ClientAuth]), false),
        (
            "a peer of the global",
            client(&["spiffe://global.tombolo.internal/zone/east"], &[ClientAuth]),
            false,
        ),
        ("a workload's id", client(&["spiffe://default.east.mesh.local/workload/web"], &[ClientAuth]), false),
        ("no such kind", client(&["spiffe://east.zone.tombolo.internal/egress/a"], &[ClientAuth]), false),
    ];
    for (why, params, good) in cases {
        let chain = params.signed_by(&key, &issuer).unwrap().pem();
        let shown = Credential::from_pem(&chain, &key.to_pem()).unwrap();
        let client = client_config(ca.pin(), east(), Some(&shown)).unwrap();
        let found = connect(&client, &server).await.err();
        assert_eq!(found.is_none(), good, "{why}: {found:?}");
    }
    // The server's own leaf, and a peer of another authority with the same names.
    let (other, _) = control(east());
    for shown in [&credential, &joined(&other, &"ingress/a".parse().unwrap())] {
        let client = client_config(ca.pin(), east(), Some(shown)).unwrap();
        assert!(connect(&client, &server).await.is_err());
    }
}

#[tokio::test]
async fn an_authority_that_ended_lets_nobody_in() {
    let long_ago = now() - 11 * 365 * 24 * HOUR;
    let (ended, (good, _)) = (ControlCa::create(east(), long_ago).unwrap(), control(east()));
    let key = PrivateKey::generate();
    let mut params = leaf_params(vec![uri("spiffe://east.zone.tombolo.internal/ingress/a")]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    for (ca, let_in) in [(good, true), (ended, false)] {
        let stolen = PrivateKey::from_pem(&ca.to_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&ca.ca_pem(), &stolen).unwrap();
        let forged = params.signed_by(&key, &issuer).unwrap();
        let shown = identity::Svid::new(vec![forged.der().clone()], &key).unwrap();
        let client = with_certificate(credulous_client(&[&rustls::version::TLS13]), &shown);
        let start = ca.validity().not_before + HOUR;
        let server = server_config(&ca, &ca.server_credential(&[], start).unwrap()).unwrap();
        let found = connect(&Arc::new(client), &server).await.err();
        assert_eq!(found.is_none(), let_in, "{found:?}");
    }
}

#[test]
fn authorities_survive_as_text_and_are_checked_when_read() {
    let (ca, credential) = control(east());
    let again = ControlCa::from_pem(&ca.to_pem()).unwrap();
    assert_eq!((again.pin(), again.role(), again.ca_pem()), (ca.pin(), &east(), ca.ca_pem()));
    assert_eq!(ca.pin().to_string().len(), 64);
    assert_eq!(credential.chain().len(), 2);
    assert_eq!(Pin::of(&credential.chain()[1]), ca.pin());

    let zone = zone_ca("east");
    let zone_again = identity::ZoneCa::from_pem(&zone.to_pem()).unwrap();
    assert_eq!(
        (zone_again.trust_domain(), zone_again.bundle_pem()),
        (zone.trust_domain(), zone.bundle_pem())
    );
    assert!(ControlCa::from_pem(&zone.to_pem()).is_err(), "a zone's authority is not a control plane's");

    let key = PrivateKey::generate().to_pem();
    assert!(ControlCa::from_pem(&format!("{}{}", key.as_str(), ca.ca_pem())).is_err(), "another key");
    assert!(ControlCa::from_pem(&ca.ca_pem()).is_err(), "no key");
    assert!(ControlCa::from_pem(&key).is_err(), "no certificate");
    let leaf = format!("{}{}", credential.key_pem().as_str(), credential.chain_pem());
    assert!(ControlCa::from_pem(&leaf).is_err(), "a leaf is no authority");
}
