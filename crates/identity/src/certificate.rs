//! What a certificate says of itself, before anyone believes it, and certificates as text.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use model::SpiffeId;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use crate::clocks::OutOfTime;

/// Certificates, ours and others', begin this long before they are issued: clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(10 * 60);

/// Why bytes or text are no certificate that can be used here.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum CertificateError {
    #[error("this is not PEM text: {0}")]
    Pem(String),
    #[error("there is no certificate in it")]
    Empty,
    #[error("a certificate is malformed")]
    Malformed,
    #[error("a certificate has a name that cannot be read")]
    UnreadableName,
}

/// When a certificate counts, both ends included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    /// Of a certificate in DER.
    pub fn of(der: &[u8]) -> Result<Self, CertificateError> {
        Ok(Facts::read(der)?.validity)
    }

    pub fn covers(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    pub fn check(&self, now: SystemTime) -> Result<(), OutOfTime> {
        if self.covers(now) { Ok(()) } else { Err(OutOfTime { validity: *self, now }) }
    }
}

/// Reads the certificates of a PEM text, in its order; other sections are passed over.
pub fn certificates_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CertificateError::Pem(error.to_string()))?;
    if certificates.is_empty() { Err(CertificateError::Empty) } else { Ok(certificates) }
}

pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem("CERTIFICATE", der).as_str().to_owned()).collect()
}

/// One PEM section (RFC 7468).
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(BASE64.encode(der));
    // Room for all of it, so that no half of a secret stays behind where the text outgrew its place.
    let mut text = Zeroizing::new(String::with_capacity(encoded.len() * 66 / 64 + 2 * label.len() + 64));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The parts of a certificate that decisions here look at. Chains, signatures and times are judged by
/// webpki; it knows nothing of SPIFFE, and takes a certificate that does not say what it is for.
pub(crate) struct Facts<'a> {
    pub(crate) uris: Vec<&'a str>,
    pub(crate) dns_names: Vec<&'a str>,
    pub(crate) authority: bool,
    pub(crate) usage: Usage,
    pub(crate) validity: Validity,
    /// SubjectPublicKeyInfo, as encoded.
    pub(crate) public_key: &'a [u8],
}

/// What the key may be used for. Without a key usage extension, signing certificates is left open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    pub(crate) client: bool,
    pub(crate) server: bool,
    pub(crate) signs_certificates: Option<bool>,
    pub(crate) signs_lists: bool,
}

impl<'a> Facts<'a> {
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, CertificateError> {
        Self::of(&parse(der)?)
    }

    pub(crate) fn of(certificate: &X509Certificate<'a>) -> Result<Self, CertificateError> {
        let malformed = |_| CertificateError::Malformed;
        let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
        // Errors on a repeated extension, of which another reader might take the other.
        if let Some(names) = certificate.subject_alternative_name().map_err(malformed)? {
            for name in &names.value.general_names {
                match *name {
                    GeneralName::URI(uri) => uris.push(uri),
                    GeneralName::DNSName(name) => dns_names.push(name),
                    GeneralName::Invalid(..) => return Err(CertificateError::UnreadableName),
                    _ => {}
                }
            }
        }
        let constraints = certificate.basic_constraints().map_err(malformed)?;
        let purposes = certificate.extended_key_usage().map_err(malformed)?;
        let keys = certificate.key_usage().map_err(malformed)?;
        Ok(Self {
            uris,
            dns_names,
            authority: constraints.is_some_and(|found| found.value.ca),
            usage: Usage {
                client: purposes.as_ref().is_some_and(|found| found.value.client_auth),
                server: purposes.as_ref().is_some_and(|found| found.value.server_auth),
                signs_certificates: keys.as_ref().map(|found| found.value.key_cert_sign()),
                signs_lists: keys.is_some_and(|found| found.value.crl_sign()),
            },
            validity: Validity {
                not_before: time(certificate.validity().not_before),
                not_after: time(certificate.validity().not_after),
            },
            public_key: certificate.tbs_certificate.subject_pki.raw,
        })
    }

    /// The SPIFFE id of a leaf: its one URI name. Other kinds of names are allowed and mean nothing.
    pub(crate) fn id(&self) -> Result<SpiffeId, IdError> {
        match self.uris.as_slice() {
            [] => Err(IdError::None),
            [uri] => uri.parse().map_err(|_| IdError::NotSpiffe(shown(uri))),
            several => Err(IdError::Several(several.len())),
        }
    }
}

/// Why a certificate names no workload.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdError {
    #[error("it has no URI name")]
    None,
    #[error("it has {0} URI names where exactly one is allowed")]
    Several(usize),
    #[error("its URI name '{0}' is not a SPIFFE id with a path")]
    NotSpiffe(String),
}

/// A name that someone else chose, fit for a line of a log.
pub(crate) fn shown(name: &str) -> String {
    name.escape_debug().take(200).collect()
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}
