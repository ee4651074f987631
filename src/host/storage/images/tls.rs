//! How the image servers' certificates are judged.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::ImageTls;
use crate::host::{ErrorKind, HostError, Result};

/// The client's side of TLS as the settings want it. A CA file that can't be used is an error, not a weaker check.
pub(super) fn client_config(mode: ImageTls, ca: Option<&Path>) -> Result<ClientConfig> {
    let provider = Arc::new(default_provider());
    let failed = |error: Error| HostError::with_source(ErrorKind::Failed, "TLS can't be set up", error);
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(failed)?;
    match mode {
        ImageTls::Insecure => {
            tracing::warn!(
                "THE CERTIFICATES OF IMAGE SERVERS ARE NOT CHECKED: whoever is between them and this host can replace disk images; set \"image_tls\" to \"verify\" \
                 and \"image_ca\" to the file of their certificate authority in config/cell.cfg"
            );
            Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth())
        }
        ImageTls::Verify => Ok(builder.with_root_certificates(roots(ca)?).with_no_client_auth()),
    }
}

/// The authorities that count: those of the file, or the system's.
fn roots(ca: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (source, certificates) = match ca {
        Some(path) => (path.display().to_string(), read(path)?),
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                tracing::warn!("some of the system's certificate authorities can't be read: {error}");
            }
            ("the system's store".into(), found.certs)
        }
    };
    let (added, ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        let text = format!("no certificate authority in {source} can be used ({ignored} can't be read); image servers can't be checked");
        return Err(HostError::new(ErrorKind::Invalid, text));
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("the certificate authority of image servers, {} (image_ca in config/cell.cfg), can't be read", path.display());
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    certificates.map_err(|error| HostError::with_source(ErrorKind::Invalid, what(), error))
}

/// Takes whatever certificate is shown, as the reference does. The signatures of the handshake would only prove who owns that certificate, so
/// they are not looked at either, and a certificate of any make passes.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_cannot_be_used_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let missing = client_config(ImageTls::Verify, Some(&path)).unwrap_err();
        assert!(missing.context.contains("ca.pem") && missing.context.contains("image_ca"), "{}", missing.context);
        std::fs::write(&path, "no certificate").unwrap();
        let empty = client_config(ImageTls::Verify, Some(&path)).unwrap_err();
        assert!(empty.context.contains("ca.pem"), "{}", empty.context);
        assert!(client_config(ImageTls::Insecure, None).is_ok());
    }
}
