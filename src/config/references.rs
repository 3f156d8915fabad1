//! What a configuration refers to outside of itself: secrets, programs, files.
//!
//! Pure: nothing is read here.

use std::path::Path;

use super::{ClientAuth, Config, Grant, ListenerTls, SecretRef};

/// What a grant refers to.
#[derive(Debug, Clone, Copy)]
pub enum Reference<'a> {
    Secret(&'a SecretRef),
    /// An RSA key, PEM.
    PrivateKey(&'a SecretRef),
    Program(&'a str),
}

impl<'a> Reference<'a> {
    pub fn secret(self) -> Option<&'a SecretRef> {
        match self {
            Self::Secret(secret) | Self::PrivateKey(secret) => Some(secret),
            Self::Program(_) => None,
        }
    }
}

impl Grant {
    /// Each with its key below `grant`.
    pub fn references(&self) -> Vec<(&'static str, Reference<'_>)> {
        use Reference::{PrivateKey, Program, Secret};
        match self {
            Self::JwtBearer(grant) => vec![("jwt_bearer.private_key", PrivateKey(&grant.private_key))],
            Self::SamlBearer(grant) => vec![("saml_bearer.private_key", PrivateKey(&grant.private_key))],
            Self::ClientCredentials(grant) => {
                vec![("client_credentials.client_secret", Secret(&grant.client_secret))]
            }
            Self::PlatformCredentials(grant) => {
                vec![("oauth2_client_credentials.client_secret", Secret(&grant.client_secret))]
            }
            Self::RefreshToken(grant) => {
                let auth = match &grant.auth {
                    ClientAuth::Secret(secret, _) => Some(("refresh_token.client_secret", Secret(secret))),
                    ClientAuth::PrivateKey(key) => Some(("refresh_token.private_key", PrivateKey(key))),
                    ClientAuth::None => None,
                };
                let token = grant.refresh_token.as_ref();
                let token = token.map(|token| ("refresh_token.refresh_token", Secret(token)));
                auth.into_iter().chain(token).collect()
            }
            Self::Password(grant) => {
                let token = grant.security_token.as_ref();
                let token = token.map(|token| ("password.security_token", Secret(token)));
                let always = [
                    ("password.client_secret", Secret(&grant.client_secret)),
                    ("password.password", Secret(&grant.password)),
                ];
                always.into_iter().chain(token).collect()
            }
            Self::TokenExchange(grant) => {
                let secret = grant.client_secret.as_ref();
                let secret = secret.map(|secret| ("token_exchange.client_secret", Secret(secret)));
                let subject = ("token_exchange.subject_token", Secret(&grant.subject_token));
                secret.into_iter().chain([subject]).collect()
            }
            Self::Static(grant) => vec![("static.access_token", Secret(&grant.access_token))],
            Self::Command(grant) => {
                let program = grant.argv.first();
                program
                    .map(|program| ("command.run", Program(program)))
                    .into_iter()
                    .collect()
            }
        }
    }
}

impl Config {
    /// The files that matter while the program runs: secrets, trusted authorities, certificates of listeners. Not what is
    /// of the program's own making.
    pub fn files(&self) -> Vec<&Path> {
        let grants = self.orgs.values().map(|org| &org.grant);
        let references = grants.flat_map(|grant| grant.references());
        let secrets = references.filter_map(|(_, reference)| reference.secret()?.path());
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let certificates = listeners.filter_map(|tls| match tls {
            ListenerTls::Files { certificate, key } => Some([certificate.as_path(), key.as_path()]),
            ListenerTls::Generated { .. } => None,
        });
        let authorities = self.upstream.ca_file.as_deref();
        secrets.chain(certificates.flatten()).chain(authorities).collect()
    }
}
