//! Handshakes between proxies: who is let in, who is not, and that it is asked each time.

use crate::support::{handshake, id, svid, trust, zone_ca};
use identity::{Alpn, peer_of, sni, workload_client, workload_server};

const HANDLE: &str = "abcdefghijklmnopqrstuvwxyz.abcdefgh.tombolo.internal";

#[tokio::test]
async fn two_workloads_of_different_zones_know_each_other_after_the_handshake() {
    let (east, west) = (zone_ca("east"), zone_ca("west"));
    let trust = trust(&[("east", &east), ("west", &west)]);
    let (web, cart) = (svid(&east, &id("east", "web")), svid(&west, &id("west", "cart")));
    let client = workload_client(&web, trust.clone(), Alpn::H2).unwrap();
    let server = workload_server(&cart, trust.clone(), &[Alpn::H2, Alpn::Http1]).unwrap();

    let pair = handshake(client, server, sni(HANDLE).unwrap()).await.unwrap();

    let (client, server) = (pair.client.get_ref().1, pair.server.get_ref().1);
    let found = peer_of(client.peer_certificates(), &trust).unwrap();
    assert_eq!((found.id, found.zone.as_str()), (id("west", "cart"), "west"));
    let found = peer_of(server.peer_certificates(), &trust).unwrap();
    assert_eq!((found.id, found.zone.as_str()), (id("east", "web"), "east"));
    assert_eq!(found.not_after, web.not_after());
    assert_eq!(server.server_name(), Some(HANDLE));
    assert_eq!(client.alpn_protocol().and_then(Alpn::from_bytes), Some(Alpn::H2));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}
