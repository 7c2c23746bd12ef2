//! Certificates as no authority of ours would make them.

use std::time::SystemTime;

use identity::{PrivateKey, certificates_to_pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;

use crate::support::{HOUR, now};

/// A root or an intermediate whose key is at hand.
pub(crate) struct Forge {
    pub(crate) key: PrivateKey,
    pub(crate) certificate: CertificateDer<'static>,
    params: CertificateParams,
}

impl Forge {
    pub(crate) fn root(params: CertificateParams) -> Self {
        let key = PrivateKey::generate();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { key, certificate, params }
    }

    pub(crate) fn intermediate(&self, params: CertificateParams) -> Self {
        let key = PrivateKey::generate();
        let certificate = self.sign(&params, &key);
        Self { key, certificate, params }
    }

    pub(crate) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().clone()
    }

    /// A leaf for a key that nobody keeps.
    pub(crate) fn leaf(&self, params: &CertificateParams) -> CertificateDer<'static> {
        self.sign(params, &PrivateKey::generate())
    }

    pub(crate) fn pem(&self) -> String {
        certificates_to_pem(std::slice::from_ref(&self.certificate))
    }
}

pub(crate) fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// As an authority of ours would be, with these names.
pub(crate) fn authority_params(common_name: &str, names: Vec<SanType>) -> CertificateParams {
    let mut params = params(names);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// As a workload's leaf would be, with these names.
pub(crate) fn leaf_params(names: Vec<SanType>) -> CertificateParams {
    let mut params = params(names);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn params(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.use_authority_key_identifier_extension = true;
    set_times(&mut params, now() - HOUR, now() + 24 * HOUR);
    params
}

pub(crate) fn set_times(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    params.not_before = not_before.into();
    params.not_after = not_after.into();
}
