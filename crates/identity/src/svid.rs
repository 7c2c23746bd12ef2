//! A certificate with its key: who we are.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::{Zeroize, Zeroizing};

use crate::certificate::{
    BACKDATED, CertificateError, Facts, IdError, Validity, certificates_from_pem, certificates_to_pem, pem,
};
use crate::clocks::OutOfTime;
use crate::key::PrivateKey;
use crate::tls::provider;

#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the certificate names no workload: {0}")]
    Id(#[from] IdError),
    #[error("the private key is not PEM text in PKCS#8, PKCS#1 or SEC1")]
    KeyPem,
    #[error("the private key cannot be used, or is not the certificate's")]
    Key(#[source] rustls::Error),
}

/// A chain, leaf first, with the key of the leaf. Having one means that the two fit.
pub struct Credential {
    certified: Arc<CertifiedKey>,
    key: SecretKey,
    validity: Validity,
}

impl Credential {
    /// The key may be of any kind that rustls can sign with: static files come from other tools.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, SvidError> {
        let key = SecretKey(PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| SvidError::KeyPem)?);
        Self::from_parts(certificates_from_pem(chain)?, key)
    }

    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, SvidError> {
        Self::from_parts(chain, SecretKey(key.to_rustls()))
    }

    fn from_parts(chain: Vec<CertificateDer<'static>>, key: SecretKey) -> Result<Self, SvidError> {
        let validity = Facts::read(chain.first().ok_or(CertificateError::Empty)?)?.validity;
        // Wiped by rustls when it has read it.
        let copy = key.0.clone_key();
        let certified = CertifiedKey::from_der(chain, copy, &provider()).map_err(SvidError::Key)?;
        Ok(Self { certified: Arc::new(certified), key, validity })
    }

    /// The leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub fn chain_pem(&self) -> String {
        certificates_to_pem(self.chain())
    }

    /// For a file that only its owner can read, and for a sealed store.
    pub fn key_pem(&self) -> Zeroizing<String> {
        let label = match &self.key.0 {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem(label, self.key.0.secret_der())
    }

    /// When to ask for the next one: after `share` of its life, counted from when it was issued. `jitter`
    /// in `0.0..1.0` brings it forward by up to a tenth of that life, so that proxies that started
    /// together do not all ask together.
    pub fn renew_at(&self, share: f64, jitter: f64) -> SystemTime {
        let Validity { not_before, not_after } = self.validity;
        let whole = not_after.duration_since(not_before).unwrap_or_default();
        // A short life would otherwise be over, by this reckoning, before it began.
        let backdated = if whole > BACKDATED { BACKDATED } else { Duration::ZERO };
        let life = whole - backdated;
        not_before + backdated + life.mul_f64((share - jitter.clamp(0.0, 1.0) / 10.0).clamp(0.0, 1.0))
    }

    /// Whether it counts now, and is not to be renewed already, as one that was issued just now: see
    /// [`Self::renew_at`].
    pub fn check_fresh(&self, share: f64, now: SystemTime) -> Result<(), OutOfTime> {
        if self.renew_at(share, 1.0) <= now {
            return Err(OutOfTime { validity: self.validity, now });
        }
        self.validity.check(now)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

/// The share of its life after which a workload's certificate is renewed.
const RENEWAL: f64 = 2.0 / 3.0;

/// A workload's certificate with its key: a credential whose leaf carries exactly one SPIFFE id.
pub struct Svid {
    id: SpiffeId,
    credential: Credential,
}

impl Svid {
    /// `chain` is the leaf and then its intermediates, if any; `key` belongs to the leaf.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, SvidError> {
        Self::from_credential(Credential::from_pem(chain, key)?)
    }

    /// From what an issuer answered to [`PrivateKey::request`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, SvidError> {
        Self::from_credential(Credential::new(chain, key)?)
    }

    fn from_credential(credential: Credential) -> Result<Self, SvidError> {
        let id = Facts::read(&credential.chain()[0])?.id()?;
        Ok(Self { id, credential })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    pub fn not_before(&self) -> SystemTime {
        self.credential.validity.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.credential.validity.not_after
    }

    /// At two thirds of its life, or up to a tenth of it earlier: see [`Credential::renew_at`].
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        self.credential.renew_at(RENEWAL, jitter)
    }

    /// Whether it counts now, as one that was issued just now does: see [`Credential::check_fresh`].
    pub fn check_fresh(&self, now: SystemTime) -> Result<(), OutOfTime> {
        self.credential.check_fresh(RENEWAL, now)
    }
}

/// A key of any kind, wiped when it goes.
struct SecretKey(PrivateKeyDer<'static>);

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
