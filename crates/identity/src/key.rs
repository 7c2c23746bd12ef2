//! Private keys and requests for certificates.
//!
//! A private key has neither `Debug` nor `Serialize`, is wiped from memory, and leaves the process only
//! through [`PrivateKey::to_pem`], into a file that is readable by its owner alone or into a sealed store.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::certificate::pem;

/// A P-256 key: the only kind that is made or certified here.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyError {
    #[error("this is not PEM text with a private key")]
    Pem,
    #[error("this is not a P-256 private key in PKCS#8")]
    NotP256,
}

impl PrivateKey {
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .expect("making a P-256 key fails only without memory or randomness");
        let pkcs8 = pair.to_pkcs8v1().expect("a key just made can be written");
        Self { pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()), pair }
    }

    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| KeyError::Pem)?;
        let key = Self::from_der(der.secret_pkcs8_der());
        zeroize::Zeroize::zeroize(&mut der);
        key
    }

    /// From PKCS#8.
    pub fn from_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map_err(|_| KeyError::NotP256)?;
        Ok(Self { pkcs8: Zeroizing::new(pkcs8.to_vec()), pair })
    }

    pub fn to_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &self.pkcs8)
    }

    /// Asks for a certificate of this key. It asks for no name: the issuer takes the identity from the
    /// credential of the session.
    pub fn request(&self) -> CertificateRequest {
        let mut wanted = rcgen::CertificateParams::default();
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        let request = wanted.serialize_request(self).expect("a request without names can be written");
        CertificateRequest { der: request.der().to_vec() }
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The uncompressed point.
    pub(crate) fn public_point(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into()
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| rcgen::Error::RingUnspecified)?.as_ref().to_vec())
    }
}

/// A request for a certificate (PKCS#10), made by [`PrivateKey::request`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateRequest {
    der: Vec<u8>,
}

impl CertificateRequest {
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    #[error("the certificate request is malformed")]
    Malformed,
    #[error("the certificate request is for a key that is not P-256")]
    NotP256,
    #[error("the certificate request is not signed by its own key")]
    BadSignature,
}

/// The only thing that an issuer takes from a request: the key, whose holder signed the request.
pub(crate) struct RequestedKey {
    point: Vec<u8>,
}

impl RequestedKey {
    pub(crate) fn read(request: &[u8]) -> Result<Self, RequestError> {
        let request = match X509CertificationRequest::from_der(request) {
            Ok(([], request)) => request,
            _ => return Err(RequestError::Malformed),
        };
        let key = &request.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|found| found.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(RequestError::NotP256);
        }
        let point = key.subject_public_key.data.as_ref();
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(RequestError::BadSignature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(request.certification_request_info.raw, &request.signature_value.data)
            .map_err(|_| RequestError::BadSignature)?;
        Ok(Self { point: point.to_vec() })
    }
}

impl rcgen::PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
