//! Endpoint handles: the opaque names by which an endpoint is reached, inside its zone and from others.
//!
//! `<handle>.<zone tag>.tombolo.internal`, 52 characters. A handle is derived from what it names and from
//! the zone's secret salt, so it needs no table to survive a restart, and it can never come to name
//! another address: another address is another handle.

use std::net::SocketAddr;

use aws_lc_rs::{digest, hmac};
use model::{DestinationId, ResourceName, ZoneName};

/// The zone's durable secret, from which its handles are derived.
#[derive(Clone)]
pub struct Salt(hmac::Key);

impl Salt {
    /// Of 32 random bytes.
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The SNI of one endpoint: an inbound of a proxy behind one port of a service.
    pub fn sni(
        &self,
        destination: &DestinationId,
        proxy: &ResourceName,
        address: SocketAddr,
        zone: &ZoneName,
    ) -> String {
        // None of the parts can contain a slash.
        let named = format!("{destination}/{proxy}/{address}");
        let tag = hmac::sign(&self.0, named.as_bytes());
        format!("{}.{}.tombolo.internal", base32(&tag.as_ref()[..16]), zone_tag(zone))
    }
}

/// 40 bits of SHA-256 of the zone's name; a clash is refused when the second zone joins.
pub fn zone_tag(zone: &ZoneName) -> String {
    base32(&digest::digest(&digest::SHA256, zone.as_bytes()).as_ref()[..5])
}

/// RFC 4648 base32 in lower case without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::new();
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(held >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(held << (5 - bits)) as usize & 31]));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn sni(salt: u8, destination: &str, proxy: &str, address: &str) -> String {
        let zone = "west".parse().unwrap();
        let salt = Salt::new(&[salt; 32]);
        salt.sni(&destination.parse().unwrap(), &proxy.parse().unwrap(), address.parse().unwrap(), &zone)
    }

    proptest! {
        /// The names are parts of the same letters: written without a mark between them they would be the same.
        #[test]
        fn s44_two_handles_are_the_same_where_they_name_the_same_alone(
            letters in "[ab]{4,8}",
            cut in 1..4usize,
            other_cut in 1..4usize,
            port in 1..3u16,
            other_port in 1..3u16,
        ) {
            let named = |cut: usize, port: u16| {
                let (section, proxy) = letters.split_at(cut);
                sni(1, &format!("ms_default_west__catalog_{section}"), proxy, &format!("10.0.0.1:{port}"))
            };
            let (one, other) = (named(cut, port), named(other_cut, other_port));
            prop_assert_eq!(one == other, (cut, port) == (other_cut, other_port));
            prop_assert_eq!(one.len(), 52);
        }
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (bytes, text) in [("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn s44_a_handle_is_one_endpoints_and_always_52_characters() {
        let (a, b) = ("ms_default_west__catalog_80", "ms_default_west__catalog_81");
        let all = [
            sni(1, a, "catalog-1", "10.0.0.1:80"),
            sni(2, a, "catalog-1", "10.0.0.1:80"),
            sni(1, b, "catalog-1", "10.0.0.1:80"),
            sni(1, a, "catalog-2", "10.0.0.1:80"),
            sni(1, a, "catalog-1", "10.0.0.1:81"),
        ];
        assert!(all.iter().all(|sni| sni.len() == 52), "{all:?}");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all[0], sni(1, a, "catalog-1", "10.0.0.1:80"));
    }
}
