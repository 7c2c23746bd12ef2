//! A key that signs certificates, with its own certificate: what zone and control authorities share.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::certificate::{
    BACKDATED, CertificateError, Facts, Validity, certificates_from_pem, certificates_to_pem,
};
use crate::clocks::OutOfTime;
use crate::key::{KeyError, PrivateKey, RequestError};

/// How long an authority lives unless told otherwise.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Why stored text is no authority.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the authority's key cannot be used: {0}")]
    Key(#[from] KeyError),
    #[error("the certificate is not one of an authority")]
    NotAuthority,
    #[error("key and certificate do not belong together")]
    Mismatch,
    #[error("the certificate does not carry the one name that such an authority has")]
    Name,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("this authority signs for {signs_for} alone, not for {asked}")]
    NotOurs { asked: String, signs_for: String },
    #[error("the authority's own certificate is out of time: {0}")]
    AuthorityOutOfTime(#[from] OutOfTime),
    #[error("'{0}' cannot stand in a certificate")]
    Name(String),
    #[error("the certificate could not be written")]
    Write(#[source] rcgen::Error),
}

pub(crate) struct Authority {
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    validity: Validity,
}

/// What a leaf is to say.
pub(crate) struct Leaf {
    pub(crate) common_name: Option<String>,
    pub(crate) names: Vec<SanType>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) lifetime: Duration,
}

impl Authority {
    /// A new key and its self-signed certificate.
    pub(crate) fn create(
        name: &str,
        uri: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, IssueError> {
        let key = PrivateKey::generate();
        let mut params = params(now, end(now, lifetime));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Tombolo");
        // X.520 allows a common name 64 characters.
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![SanType::URI(ia5(uri)?)];
        let certificate = params.self_signed(&key).map_err(IssueError::Write)?.der().clone();
        let validity = Facts::read(&certificate).expect("a certificate just written can be read").validity;
        Ok(Self { key, certificate, validity })
    }

    /// The reverse of [`Self::to_pem`].
    pub(crate) fn from_pem(text: &str) -> Result<Self, AuthorityError> {
        let key = PrivateKey::from_pem(text)?;
        let certificate = certificates_from_pem(text)?.swap_remove(0);
        let facts = Facts::read(&certificate)?;
        if !facts.authority || facts.usage.signs_certificates == Some(false) {
            return Err(AuthorityError::NotAuthority);
        }
        if facts.public_key != key.subject_public_key_info() {
            return Err(AuthorityError::Mismatch);
        }
        let validity = facts.validity;
        Ok(Self { key, certificate, validity })
    }

    /// Key and certificate, for a sealed store.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let (key, certificate) = (self.key.to_pem(), self.certificate_pem());
        let mut text = Zeroizing::new(String::with_capacity(key.len() + certificate.len()));
        text.push_str(&key);
        text.push_str(&certificate);
        text
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn certificate_pem(&self) -> String {
        certificates_to_pem(std::slice::from_ref(&self.certificate))
    }

    pub(crate) fn validity(&self) -> Validity {
        self.validity
    }

    /// The one URI name of the authority.
    pub(crate) fn uri(&self) -> Result<String, AuthorityError> {
        match Facts::read(&self.certificate)?.uris.as_slice() {
            [uri] => Ok((*uri).to_owned()),
            _ => Err(AuthorityError::Name),
        }
    }

    /// A leaf never outlives its authority.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        leaf: Leaf,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.validity.check(now)?;
        let mut params = params(now, end(now, leaf.lifetime).min(self.validity.not_after));
        // Says so, and carries the key's identifier, which rcgen otherwise leaves out.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = leaf.purposes;
        params.subject_alt_names = leaf.names;
        if let Some(name) = leaf.common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(IssueError::Write)?;
        Ok(params.signed_by(key, &issuer).map_err(IssueError::Write)?.into())
    }
}

/// A name for a certificate. These strings are plain ASCII.
pub(crate) fn ia5(name: &str) -> Result<Ia5String, IssueError> {
    Ia5String::try_from(name).map_err(|_| IssueError::Name(name.to_owned()))
}

fn params(now: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut serial = [0; 16];
    rand::fill(&mut serial).expect("the system has randomness");
    // Positive, and never shorter.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - BACKDATED).into();
    params.not_after = not_after.into();
    params.use_authority_key_identifier_extension = true;
    params
}

/// At most a century: what a certificate can say ends with the year 9999.
fn end(now: SystemTime, lifetime: Duration) -> SystemTime {
    now + lifetime.min(10 * AUTHORITY_LIFETIME)
}
