//! The practice org's certificate authority and its server certificate.
//!
//! Owns: nothing. Invariants: the leaf names localhost, 127.0.0.1 and ::1 only; the CA key never leaves this file.
//! Fails with: rcgen's or rustls' reason.
//! Source: SF §7.3 (TLS 1.2 and 1.3, ALPN offers h2).

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::StartError;

/// What the server needs and what clients must trust.
pub(crate) struct Identity {
    pub(crate) server: Arc<ServerConfig>,
    /// For gRPC: HTTP/2 or nothing.
    pub(crate) grpc: Arc<ServerConfig>,
    pub(crate) ca_pem: String,
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// A new CA and leaf; ALPN offers `h2` first if asked to.
pub(crate) fn make(http2: bool) -> Result<Identity, StartError> {
    let failed = |e: rcgen::Error| StartError::Tls(e.to_string());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name
        .push(DnType::CommonName, "sf-token-proxy practice CA");
    let ca_key = KeyPair::generate().map_err(failed)?;
    let issuer = CertifiedIssuer::self_signed(ca, ca_key).map_err(failed)?;

    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut leaf = CertificateParams::new(names).map_err(failed)?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let leaf_key = KeyPair::generate().map_err(failed)?;
    let certificate = leaf.signed_by(&leaf_key, &issuer).map_err(failed)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(VERSIONS)
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], key)
        })
        .map_err(|e| StartError::Tls(e.to_string()))?;
    let mut grpc = server.clone();
    grpc.alpn_protocols.push(b"h2".to_vec());
    if http2 {
        server.alpn_protocols.push(b"h2".to_vec());
    }
    server.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(Identity {
        server: Arc::new(server),
        grpc: Arc::new(grpc),
        ca_pem: issuer.pem(),
    })
}
