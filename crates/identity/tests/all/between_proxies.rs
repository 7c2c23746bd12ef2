//! Handshakes between proxies: who is let in, who is not, and that it is asked each time.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::{
    Alpn, Credential, PrivateKey, Role, Svid, SvidError, TrustStore, peer_of, sni, utc, workload_client,
    workload_server,
};
use rcgen::KeyPair;
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig};

use crate::forge::{leaf_params, uri};
use crate::support::{
    HOUR, Pair, Refused, credulous_client, domain, handshake, id, now, svid, trust, with_certificate, zone_ca,
};

const HANDLE: &str = "abcdefghijklmnopqrstuvwxyz.abcdefgh.tombolo.internal";

async fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Pair, Refused> {
    handshake(client.clone(), server.clone(), sni(HANDLE).unwrap()).await
}

/// East's web, west's cart, and those who believe both.
struct Two {
    web: Svid,
    cart: Svid,
    trust: Arc<TrustStore>,
}

fn two() -> Two {
    let (east, west) = (zone_ca("east"), zone_ca("west"));
    let (web, cart) = (svid(&east, &id("east", "web")), svid(&west, &id("west", "cart")));
    Two { web, cart, trust: trust(&[("east", &east), ("west", &west)]) }
}

#[tokio::test]
async fn two_workloads_of_different_zones_know_each_other_after_the_handshake() {
    let Two { web, cart, trust } = two();
    let client = workload_client(&web, trust.clone(), Alpn::H2).unwrap();
    let server = workload_server(&cart, trust.clone(), &[Alpn::H2, Alpn::Http1]).unwrap();

    let pair = connect(&client, &server).await.unwrap();

    let (client, server) = (pair.client.get_ref().1, pair.server.get_ref().1);
    let found = peer_of(client.peer_certificates(), &trust, now(), Role::Server).unwrap();
    assert_eq!((found.id, found.zone.as_str()), (id("west", "cart"), "west"));
    let found = peer_of(server.peer_certificates(), &trust, now(), Role::Client).unwrap();
    assert_eq!((found.id, found.zone.as_str()), (id("east", "web"), "east"));
    assert_eq!(found.not_after, web.not_after());
    assert_eq!(server.server_name(), Some(HANDLE));
    for (alpn, version, suite, group) in [
        (
            client.alpn_protocol(),
            client.protocol_version(),
            client.negotiated_cipher_suite(),
            client.negotiated_key_exchange_group(),
        ),
        (
            server.alpn_protocol(),
            server.protocol_version(),
            server.negotiated_cipher_suite(),
            server.negotiated_key_exchange_group(),
        ),
    ] {
        assert_eq!(alpn.and_then(Alpn::from_bytes), Some(Alpn::H2));
        assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
        assert_eq!(suite.unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(group.unwrap().name(), NamedGroup::X25519);
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_or_after_it_was_dropped_from_trust_is_nobody() {
    let Two { web, cart, trust } = two();
    let client_of = |certificates, trust| peer_of(certificates, trust, now(), Role::Client);
    assert_eq!(client_of(None, &trust), None);
    assert_eq!(client_of(Some(&[]), &trust), None);
    let (nobody, _) = TrustStore::from_bundles([]);
    assert_eq!(client_of(Some(web.credential().chain()), &nobody), None);
    assert_eq!(client_of(Some(cart.credential().chain()), &trust).unwrap().id, *cart.id());
}

#[tokio::test]
async fn a_peer_is_believed_for_as_long_as_the_anchor_that_led_to_it_is_there() {
    let (first, second, west) = (zone_ca("east"), zone_ca("east"), zone_ca("west"));
    let store = |pems: &[&str]| {
        let east = (domain("east").parse().unwrap(), "east".parse().unwrap(), pems.concat());
        let west = (domain("west").parse().unwrap(), "west".parse().unwrap(), west.bundle_pem());
        let (store, problems) = TrustStore::from_bundles([east, west]);
        assert_eq!(problems, []);
        store
    };
    let (a, b) = (&*first.bundle_pem(), &*second.bundle_pem());
    let both = store(&[a, b]);
    for (seen_by, of_first) in [(&store(&[a]), true), (&both, true), (&both, false)] {
        let web = svid(if of_first { &first } else { &second }, &id("east", "web"));
        for role in [Role::Client, Role::Server] {
            let peer = peer_of(Some(web.credential().chain()), seen_by, now(), role).unwrap();
            assert_eq!(peer, seen_by.verify(web.credential().chain(), now(), role).unwrap());
            let believed = |pems: &[&str]| store(pems).still_believes(&peer).is_some();
            assert!(believed(&[a, b]) && believed(&[b, a]));
            assert_eq!((believed(&[a]), believed(&[b])), (of_first, !of_first));
            let (none, _) = TrustStore::from_bundles([]);
            assert!(none.still_believes(&peer).is_none());
        }
    }
}

#[tokio::test]
async fn an_id_of_east_that_west_signed_is_refused_by_client_and_by_server() {
    let (east, west) = (zone_ca("east"), zone_ca("west"));
    let both = trust(&[("east", &east), ("west", &west)]);
    let cart = svid(&west, &id("west", "cart"));
    let web = svid(&east, &id("east", "web"));
    // West's authority refuses to sign east's id, so its key does it by hand.
    let key = PrivateKey::generate();
    let stolen = west.to_pem();
    let issuer =
        rcgen::Issuer::from_ca_cert_pem(&west.bundle_pem(), PrivateKey::from_pem(&stolen).unwrap()).unwrap();
    let forged = leaf_params(vec![uri(id("east", "web").as_str())]).signed_by(&key, &issuer).unwrap();
    let forged = Svid::new(vec![forged.der().clone()], &key).unwrap();
    assert_eq!(forged.id(), web.id());

    let client = |svid| workload_client(svid, both.clone(), Alpn::H2).unwrap();
    let server = |svid| workload_server(svid, both.clone(), &[Alpn::H2]).unwrap();
    connect(&client(&web), &server(&cart)).await.unwrap();
    connect(&client(&cart), &server(&web)).await.unwrap();

    let refused = connect(&client(&forged), &server(&cart)).await.err().unwrap();
    assert!(refused.server.as_ref().unwrap().contains("UnknownIssuer"), "{refused:?}");
    assert!(refused.client.as_ref().unwrap().contains("UnknownCA"), "{refused:?}");
    let refused = connect(&client(&cart), &server(&forged)).await.err().unwrap();
    assert!(refused.client.as_ref().unwrap().contains("UnknownIssuer"), "{refused:?}");
    assert!(refused.server.as_ref().unwrap().contains("UnknownCA"), "{refused:?}");
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong_on_the_side_that_refuses() {
    let (east, west) = (zone_ca("east"), zone_ca("west"));
    let only_west = trust(&[("west", &west)]);
    let all = trust(&[("east", &east), ("west", &west)]);
    let client = workload_client(&svid(&east, &id("east", "web")), all, Alpn::H2).unwrap();
    let server = workload_server(&svid(&west, &id("west", "cart")), only_west, &[Alpn::H2]).unwrap();
    let refused = connect(&client, &server).await.err().unwrap();
    let said = refused.server.unwrap();
    assert!(said.contains("trust domain default.east.mesh.local is not known here"), "{said}");
}

/// What was issued just now is good for whose clock is five minutes off, either way; ten are too many.
#[tokio::test]
async fn s41_clocks_may_be_five_minutes_off() {
    const MINUTE: Duration = Duration::from_secs(60);
    let Two { web, trust, .. } = two();
    let believed = |now: SystemTime| trust.verify(web.credential().chain(), now, Role::Client);
    for late in [-5_i32, 0, 5] {
        let off = MINUTE * late.unsigned_abs();
        let clock = if late < 0 { now() - off } else { now() + off };
        assert_eq!(believed(clock).unwrap().id, id("east", "web"), "{late} minutes");
    }
    let slow = now() - 11 * MINUTE;
    let refused = believed(slow).unwrap_err().to_string();
    let told = format!("and here it is {}: compare the clocks", utc(slow));
    assert!(
        refused.contains("is valid at this time: it counts from ") && refused.ends_with(&told),
        "{refused}"
    );
}

#[tokio::test]
async fn a_leaf_that_ended_after_it_was_configured_is_refused() {
    let east = zone_ca("east");
    let key = PrivateKey::generate();
    let chain = east.issue(key.request().der(), &id("east", "web"), HOUR, now() - 2 * HOUR);
    assert!(chain.is_err(), "the authority was not there yet");
    let old = identity::ZoneCa::create(east.trust_domain().clone(), 100 * HOUR, now() - 3 * HOUR).unwrap();
    let trust = trust(&[("east", &old)]);
    let chain = old.issue(key.request().der(), &id("east", "web"), HOUR, now() - 2 * HOUR).unwrap();
    let ended = Svid::new(chain, &key).unwrap();
    let good = svid(&old, &id("east", "cart"));
    let server = workload_server(&good, trust.clone(), &[Alpn::H2]).unwrap();
    let client = workload_client(&ended, trust.clone(), Alpn::H2).unwrap();
    let refused = connect(&client, &server).await.err().unwrap();
    assert!(refused.server.unwrap().contains("expired"));
    let server = workload_server(&ended, trust.clone(), &[Alpn::H2]).unwrap();
    let client = workload_client(&good, trust, Alpn::H2).unwrap();
    assert!(connect(&client, &server).await.err().unwrap().client.unwrap().contains("expired"));
}

#[tokio::test]
async fn a_client_must_show_a_certificate_and_speak_tls_1_3() {
    let Two { web, cart, trust } = two();
    let server = workload_server(&cart, trust, &[Alpn::H2]).unwrap();
    let good = with_certificate(credulous_client(&[&rustls::version::TLS13]), &web);
    connect(&Arc::new(good), &server).await.unwrap();

    let bare = credulous_client(&[&rustls::version::TLS13]).with_no_client_auth();
    let refused = connect(&Arc::new(bare), &server).await.err().unwrap();
    assert!(refused.server.unwrap().contains("no certificates"));

    let old = with_certificate(credulous_client(&[&rustls::version::TLS12]), &web);
    assert!(connect(&Arc::new(old), &server).await.err().unwrap().server.is_some());
}

#[tokio::test]
async fn the_server_takes_the_protocols_it_declares_or_none() {
    let Two { web, cart, trust } = two();
    let all = [Alpn::H2, Alpn::Http1, Alpn::Tcp];
    for declared in [&[Alpn::Tcp][..], &[Alpn::H2, Alpn::Http1]] {
        let server = workload_server(&cart, trust.clone(), declared).unwrap();
        for offered in all {
            let client = workload_client(&web, trust.clone(), offered).unwrap();
            let found = connect(&client, &server).await;
            assert_eq!(found.is_ok(), declared.contains(&offered), "{offered:?} at {declared:?}");
            if let Ok(pair) = found {
                let agreed = pair.server.get_ref().1.alpn_protocol().and_then(Alpn::from_bytes);
                assert_eq!(agreed, Some(offered));
            }
        }
        let silent = with_certificate(credulous_client(&[&rustls::version::TLS13]), &web);
        let pair = connect(&Arc::new(silent), &server).await.unwrap();
        assert_eq!(pair.server.get_ref().1.alpn_protocol(), None);
    }
}

#[tokio::test]
async fn s33_no_connection_is_ever_resumed() {
    let Two { web, cart, trust } = two();
    let client = workload_client(&web, trust.clone(), Alpn::H2).unwrap();
    let server = workload_server(&cart, trust.clone(), &[Alpn::H2]).unwrap();
    // Others that would like to resume, so that each side is seen to prevent it alone.
    let mut eager_client = with_certificate(credulous_client(&[&rustls::version::TLS13]), &web);
    eager_client.resumption = Resumption::in_memory_sessions(16);
    let mut eager_server = (*server).clone();
    eager_server.session_storage = ServerSessionMemoryCache::new(16);
    eager_server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    eager_server.send_tls13_tickets = 2;
    let (eager_client, eager_server) = (Arc::new(eager_client), Arc::new(eager_server));

    let cases = [
        ("ours and ours", &client, &server, HandshakeKind::Full),
        ("an eager client", &eager_client, &server, HandshakeKind::Full),
        ("an eager server", &client, &eager_server, HandshakeKind::Full),
        ("both eager, or this test shows nothing", &eager_client, &eager_server, HandshakeKind::Resumed),
    ];
    for (why, client, server, second) in cases {
        let first = connect(client, server).await.unwrap();
        assert_eq!(first.client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "{why}");
        let again = connect(client, server).await.unwrap();
        assert_eq!(again.client.get_ref().1.handshake_kind(), Some(second), "{why}");
        assert_eq!(again.server.get_ref().1.handshake_kind(), Some(second), "{why}");
    }
    assert!(!server.send_half_rtt_data && server.max_early_data_size == 0);
}

#[test]
fn a_handle_is_a_dns_name() {
    assert_eq!(sni(HANDLE).unwrap().to_str(), HANDLE);
    for bad in ["", "127.0.0.1", "a b", "a..b"] {
        assert!(sni(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_svid_is_a_chain_and_its_key_and_survives_as_text() {
    let Two { web, cart, .. } = two();
    let (chain, key) = (web.credential().chain_pem(), web.credential().key_pem());
    let again = Svid::from_pem(&chain, &key).unwrap();
    assert_eq!((again.id(), again.not_after()), (web.id(), web.not_after()));
    assert_eq!(again.credential().chain(), web.credential().chain());
    assert_eq!(again.credential().key_pem(), key);

    // Static files come from other tools, with keys of other kinds.
    let key_pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let leaf = leaf_params(vec![uri(web.id().as_str())]).self_signed(&key_pair).unwrap();
    assert_eq!(Svid::from_pem(&leaf.pem(), &key_pair.serialize_pem()).unwrap().id(), web.id());

    let of_cart = cart.credential().key_pem();
    assert!(matches!(Svid::from_pem(&chain, &of_cart), Err(SvidError::Key(_))));
    assert!(matches!(Svid::from_pem(&chain, "no key"), Err(SvidError::KeyPem)));
    assert!(matches!(Svid::from_pem("no certificate", &key), Err(SvidError::Certificate(_))));
    let nameless = leaf_params(vec![]).self_signed(&key_pair).unwrap();
    let found = Svid::from_pem(&nameless.pem(), &key_pair.serialize_pem());
    assert!(matches!(found, Err(SvidError::Id(_))));
    assert!(Credential::from_pem(&nameless.pem(), &key_pair.serialize_pem()).is_ok());
}

#[test]
fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_never_later() {
    let start = now();
    let east = zone_ca("east");
    let key = PrivateKey::generate();
    for hours in [1, 24, 720] {
        let life = hours * HOUR;
        let chain = east.issue(key.request().der(), &id("east", "web"), life, start).unwrap();
        let svid = Svid::new(chain, &key).unwrap();
        let at = |jitter: f64| svid.renew_at(jitter).duration_since(start).unwrap().as_secs_f64();
        let life = life.as_secs_f64();
        // Certificates speak in whole seconds.
        assert!((at(0.0) - life * 2.0 / 3.0).abs() < 2.0, "{hours}: {}", at(0.0));
        assert!((at(1.0) - life * (2.0 / 3.0 - 0.1)).abs() < 2.0, "{hours}: {}", at(1.0));
        assert!(at(0.5) < at(0.0) && at(0.5) > at(1.0));
        assert_eq!((at(-1.0), at(9.0)), (at(0.0), at(1.0)));
    }
}
