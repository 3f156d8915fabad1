//! TLS: the one client configuration, for the org and the login host; and below, what a listener speaks it with.
//!
//! The client trusts the system's roots and, beside them, the operator's bundle (`upstream.ca_file`). TLS 1.2 and 1.3; nothing pinned
//! (Salesforce rotates its certificates, SF §7.3). The provider is aws-lc-rs, for TLS and signatures alike.
//!
//! Fails with: the file and what is wrong with it.

use std::{path::Path, sync::Arc};

use rustls::{ClientConfig, crypto::CryptoProvider};
use rustls_pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;

mod certificate;
mod generated;
mod given;
pub mod listener;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates in {path} (setting upstream.ca_file): {reason}")]
    CaFile { path: String, reason: String },
    #[error("cannot set up TLS; if this machine has no certificate authorities, set upstream.ca_file")]
    Rustls(#[from] rustls::Error),
}

/// aws-lc-rs.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client configuration without ALPN; callers set `alpn_protocols` on their copy.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let extra = ca_file.map(read_certificates).transpose()?.unwrap_or_default();
    let verifier = Verifier::new_with_extra_roots(extra, Arc::clone(&provider))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Every certificate of a PEM bundle; at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificate::chain_in(path).map_err(|reason| TlsError::CaFile {
        path: path.display().to_string(),
        reason,
    })
}
