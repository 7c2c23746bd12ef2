//! What the store key does: seals what is secret before a backend sees it, and chains the hashes.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, hkdf, hmac, rand};
use model::Record;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::Error;

/// Bytes that never show in a log, and are wiped when dropped.
#[derive(Clone, Eq, PartialEq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} secret bytes)", self.0.len())
    }
}

/// The history of an origin's own line up to one revision, in 32 bytes. Compared for equality only:
/// another hash at the same revision is another history.
#[derive(Clone, Copy, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub struct RollingHash(pub [u8; 32]);

impl RollingHash {
    /// Before the first revision.
    pub const START: Self = Self([0; 32]);
}

impl fmt::Display for RollingHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RollingHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A record as backends see it: of a secret one the bytes are sealed, the rest stands as it is.
#[derive(Clone)]
pub(crate) struct Sealed(Record);

impl Sealed {
    /// From what a backend kept.
    pub(crate) fn from_rest(record: Record) -> Self {
        Self(record)
    }

    /// Everything but the bytes, which may be sealed.
    pub(crate) fn envelope(&self) -> &Record {
        &self.0
    }
}

/// The keys that follow from the store key.
pub(crate) struct StoreKeys {
    chain: hmac::Key,
    records: RandomizedNonceKey,
    private: RandomizedNonceKey,
}

/// Random, one for each store, 32 bytes.
pub(crate) type StoreKey = Zeroizing<[u8; 32]>;

pub(crate) fn new_store_key() -> StoreKey {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(key.as_mut_slice()).expect("the system gives randomness");
    key
}

/// Random, so that a lane that was forgotten and comes back never meets a number of its past.
pub(crate) fn new_generation() -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the system gives randomness");
    u64::from_be_bytes(bytes)
}

impl StoreKeys {
    pub(crate) fn new(key: &StoreKey) -> Self {
        Self {
            chain: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            records: sealing_key(key, b"records"),
            private: sealing_key(key, b"private values"),
        }
    }

    /// `h(n) = HMAC-SHA-256(store key, h(n-1) | n as 8 bytes | key | SHA-256(bytes))`, where a
    /// deletion has no bytes. Where an origin is told anew its name stands for the key.
    pub(crate) fn chain(
        &self,
        before: &RollingHash,
        revision: u64,
        key: &impl fmt::Display,
        bytes: &[u8],
    ) -> RollingHash {
        let mut context = hmac::Context::with_key(&self.chain);
        context.update(&before.0);
        context.update(&revision.to_be_bytes());
        context.update(key.to_string().as_bytes());
        context.update(digest::digest(&digest::SHA256, bytes).as_ref());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        RollingHash(hash)
    }

    pub(crate) fn seal(&self, record: &Record) -> Sealed {
        let mut record = record.clone();
        if record.secret {
            record.bytes = seal(&self.records, &record.key.to_string(), &record.bytes).into();
        }
        Sealed(record)
    }

    pub(crate) fn open(&self, Sealed(mut record): Sealed) -> Result<Record, Error> {
        if record.secret {
            let name = record.key.to_string();
            let opened = open(&self.records, &name, &record.bytes);
            record.bytes = opened.ok_or(Error::Damaged { what: name })?.into();
        }
        Ok(record)
    }

    pub(crate) fn seal_private(&self, name: &str, value: &SecretBytes) -> Vec<u8> {
        seal(&self.private, name, value.expose())
    }

    pub(crate) fn open_private(&self, name: &str, sealed: &[u8]) -> Result<SecretBytes, Error> {
        let opened = open(&self.private, name, sealed);
        opened.map(SecretBytes::from).ok_or_else(|| Error::Damaged { what: name.to_owned() })
    }
}

/// Each use has a key of its own, so that a value sealed for one never opens as another.
fn sealing_key(key: &StoreKey, purpose: &[u8]) -> RandomizedNonceKey {
    let mut derived = Zeroizing::new([0; 32]);
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key.as_slice())
        .expand(&[b"tombolo store ", purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(derived.as_mut_slice()))
        .expect("32 bytes are what HKDF-SHA-256 gives");
    RandomizedNonceKey::new(&AES_256_GCM, derived.as_slice()).expect("AES-256 takes 32 bytes")
}

/// AES-256-GCM: a random nonce, then the ciphertext with its tag.
fn seal(key: &RandomizedNonceKey, name: &str, plain: &[u8]) -> Vec<u8> {
    let mut text = plain.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut text)
        .expect("a value that fits in memory can be sealed");
    [nonce.as_ref().as_slice(), text.as_slice()].concat()
}

fn open(key: &RandomizedNonceKey, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_under_its_own_name_and_key() {
        let keys = StoreKeys::new(&new_store_key());
        let sealed = keys.seal_private("ca", &SecretBytes::from(b"secret".to_vec()));
        assert_eq!(keys.open_private("ca", &sealed).unwrap().expose(), b"secret");
        assert!(keys.open_private("cb", &sealed).is_err());
        assert!(StoreKeys::new(&new_store_key()).open_private("ca", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(keys.open_private("ca", &sealed[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(format!("{:?}", SecretBytes::from(b"abc".to_vec())), "(3 secret bytes)");
    }
}
