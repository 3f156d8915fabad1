//! What `login` and `logout` act on: one org of the configuration that keeps a refresh token, and its record.
//!
//! Invariants: everything that the configuration can have wrong is found before anything is sent or opened.
//! Fails with: [`Ended`].

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

use super::Ended;
use crate::{
    clock::Clock,
    config::{self, ClientAuth, Config, Grant, Org, OrgName, Problems, RefreshToken},
    store::{Key, Store},
    tls,
    token::{
        HttpExchange, Refusal,
        audit::Audit,
        grant::{check_key, word},
        kept,
    },
};

pub(in crate::cli) struct Place {
    pub(in crate::cli) name: OrgName,
    pub(in crate::cli) org: Org,
    pub(in crate::cli) grant: RefreshToken,
    pub(in crate::cli) store: Store,
    pub(in crate::cli) directory: PathBuf,
    pub(in crate::cli) key: Key,
    pub(in crate::cli) http: HttpExchange,
    pub(in crate::cli) audit: Audit,
}

impl Place {
    /// `command`: `login` or `logout`.
    pub(in crate::cli) fn find(config: &Config, name: Option<&str>, command: &'static str) -> Result<Self, Ended> {
        let (name, org) = chosen(config, name)?;
        let Grant::RefreshToken(grant) = &org.grant else {
            return Err(no_login_needed(name, &org.grant, command));
        };
        let config::Store::File { directory, .. } = &config.store else {
            return Err(Ended::config("store", NOT_DURABLE));
        };
        let store = Store::open(&config.store).map_err(Ended::failed)?;
        let tls = tls::client_config(config.upstream.ca_file.as_deref()).map_err(Ended::failed)?;
        let http = HttpExchange::new(org, tls, &config.upstream.proxy, Clock::system()).map_err(Ended::failed)?;
        Ok(Self {
            name: name.clone(),
            grant: grant.clone(),
            store,
            directory: directory.clone(),
            key: kept::key(name, org, None),
            http,
            audit: Audit::new(name.as_str(), command),
            org: org.clone(),
        })
    }

    /// The secrets that a login will need are there; gives the configured first refresh token.
    pub(in crate::cli) fn secrets(&self) -> Result<Option<SecretString>, Ended> {
        let at = |setting: &str| format!("orgs.{}.grant.refresh_token.{setting}", self.name);
        match &self.grant.auth {
            ClientAuth::None => {}
            ClientAuth::Secret(reference, _) => {
                reference.read().map_err(|e| Ended::config(at("client_secret"), e))?;
            }
            ClientAuth::PrivateKey(reference) => {
                let pem = reference.read().map_err(|e| Ended::config(at("private_key"), e))?;
                let text = |problem| format!("{reference} {problem}");
                check_key(pem.expose_secret()).map_err(|problem| Ended::config(at("private_key"), text(problem)))?;
            }
        }
        let seed = self.grant.refresh_token.as_ref().map(config::SecretRef::read);
        seed.transpose().map_err(|error| {
            let text = format!("{error}; make it readable, or leave it out: a login needs none");
            Ended::config(at("refresh_token"), text)
        })
    }

    /// Salesforce's words, the advice, and the value that the advice is about.
    pub(in crate::cli) fn refused(&self, refusal: &Refusal) -> Ended {
        let mut text = refusal.to_string();
        match refusal.reason {
            "redirect_uri" => text.push_str(&format!(" (it is {})", self.grant.login.callback_url)),
            "client_id" => text.push_str(&format!(
                " (they are {} and {})",
                self.grant.client_id, self.org.login.url
            )),
            "no_scope" => text.push_str(&format!(
                "; `login.scopes` asks for {}",
                self.grant.login.scopes.join(" ")
            )),
            _ => {}
        }
        Ended::Failed(text)
    }
}

fn chosen<'a>(config: &'a Config, name: Option<&str>) -> Result<(&'a OrgName, &'a Org), Ended> {
    let names: Vec<&str> = config.orgs.keys().map(OrgName::as_str).collect();
    let found = match name {
        Some(name) => config.orgs.iter().find(|(known, _)| known.as_str() == name),
        None if names.len() == 1 => config.orgs.iter().next(),
        None => return Err(Ended::Usage(format!("say which org: {}", names.join(", ")))),
    };
    found.ok_or_else(|| {
        let name = name.unwrap_or_default().escape_debug();
        Ended::Usage(format!(
            "no org `{name}` in the configuration; there is {}",
            names.join(", ")
        ))
    })
}

fn no_login_needed(name: &OrgName, grant: &Grant, command: &str) -> Ended {
    let why = match grant {
        Grant::JwtBearer(_) | Grant::SamlBearer(_) => "the proxy logs in by itself with its private key",
        Grant::ClientCredentials(_) | Grant::PlatformCredentials(_) => "the proxy logs in by itself with its secret",
        Grant::Password(_) => "the proxy logs in by itself with the password",
        Grant::TokenExchange(_) => "the proxy logs in by itself with the identity provider's token",
        Grant::Static(_) | Grant::Command(_) | Grant::RefreshToken(_) => "somebody else puts the token in place",
    };
    let grant = word(grant);
    let text = format!("`{command}` is for the grant refresh_token; with {grant} none is needed: {why}");
    Ended::config(format!("orgs.{name}.grant"), text)
}

impl Ended {
    pub(in crate::cli) fn failed(text: impl ToString) -> Self {
        Self::Failed(text.to_string())
    }

    fn config(at: impl Into<String>, text: impl ToString) -> Self {
        Self::Config(Problems::one(at, text.to_string()))
    }
}

const NOT_DURABLE: &str = "a refresh token has to be kept, and the store is memory; add to the configuration\n\
    store:\n  file:\n    directory: /var/lib/sf-token-proxy\n    key: file:/run/secrets/sf/store-key    # openssl rand -base64 32";
