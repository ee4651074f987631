//! The server's own certificate.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use super::ImageServerError;

/// A certificate for this address, made just now, and what speaks TLS with it; the certificate as PEM beside it.
pub(super) fn acceptor(address: IpAddr) -> Result<(TlsAcceptor, String), ImageServerError> {
    let key = KeyPair::generate().map_err(ImageServerError::Certificate)?;
    let params = CertificateParams::new(vec![address.to_string(), "localhost".into()]).map_err(ImageServerError::Certificate)?;
    let certificate = params.self_signed(&key).map_err(ImageServerError::Certificate)?;
    let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ImageServerError::Tls)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], secret)
        .map_err(ImageServerError::Tls)?;
    Ok((TlsAcceptor::from(Arc::new(config)), certificate.pem()))
}
