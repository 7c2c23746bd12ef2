//! How a control plane proves who it is.
//!
//! Its certificate must be signed by the given authority, and carry the address that was dialled, or one of
//! the names that control planes have by their role: the address at which one reaches it may be any.

use std::sync::Arc;

use model::ZoneName;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The error is for people: what is wrong with the authorities.
pub(crate) fn client_config(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".into());
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ControlPlane { chain }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct ControlPlane {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for ControlPlane {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify =
            |name: &ServerName<'_>| self.chain.verify_server_cert(leaf, intermediates, name, ocsp, now);
        match verify(dialled) {
            Err(error) if is_wrong_name(&error) => match role_name(leaf) {
                Some(name) => verify(&name),
                None => Err(error),
            },
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn is_wrong_name(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
        )
    )
}

/// `global.tombolo.internal` or `<zone>.zone.tombolo.internal`, if the certificate carries it. No public
/// authority signs such a name.
fn role_name(leaf: &CertificateDer<'_>) -> Option<ServerName<'static>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) if is_role(name) => ServerName::try_from((*name).to_owned()).ok(),
        _ => None,
    })
}

fn is_role(name: &str) -> bool {
    name == "global.tombolo.internal"
        || name.strip_suffix(".zone.tombolo.internal").is_some_and(|zone| zone.parse::<ZoneName>().is_ok())
}

/// For people.
pub(crate) fn explain(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by the given authority".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has ended (or this machine's clock is wrong)".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet (or this machine's clock is wrong)".into()
        }
        error if is_wrong_name(&Error::InvalidCertificate(error.clone())) => {
            "its certificate is for another name".into()
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_planes_have_names_by_role() {
        for (name, is) in [
            ("global.tombolo.internal", true),
            ("east.zone.tombolo.internal", true),
            ("global.zone.tombolo.internal", false),
            ("a.b.zone.tombolo.internal", false),
            ("*.zone.tombolo.internal", false),
            ("east.tombolo.internal", false),
        ] {
            assert_eq!(is_role(name), is, "{name}");
        }
    }
}
