//! Two zones' authorities, which also sign what they may not.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub(super) struct Authority {
    key: KeyPair,
    params: CertificateParams,
    pub(super) pem: String,
}

impl Authority {
    pub(super) fn new(domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(&format!("spiffe://{domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    /// Signs whatever it is asked to, and writes `<name>.crt` and `<name>.key`.
    pub(super) fn issue(&self, id: &str, folder: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = params(id);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn params(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.use_authority_key_identifier_extension = true;
    params
}
