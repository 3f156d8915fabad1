//! With what a listener speaks https: the certificate of its settings, and how TLS is spoken.
//!
//! Invariants: TLS 1.2 and 1.3, HTTP/2 or HTTP/1.1 by ALPN, no client certificates; no key in a text.
//! Fails with: [`Problems`] at the listener's settings.
//! Source: `design.md` §6.4, §8; RFC 7301 (ALPN).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustls::{ServerConfig, crypto::aws_lc_rs::Ticketer, server::ResolvesServerCert, sign::SingleCertAndKey};

use super::{
    certificate::{self, Pair},
    generated::{self, Found},
    given, provider,
};
use crate::config::{Listener, ListenerTls, Problems};

/// Something about a setting below `listeners[].tls`.
#[derive(Debug, PartialEq, Eq)]
pub struct Complaint {
    pub key: &'static str,
    pub text: String,
}

/// With what a listener speaks TLS, and what the log should say of it.
#[derive(Debug)]
pub struct Opened {
    pub config: Arc<ServerConfig>,
    /// When its certificate does.
    pub ends: Option<SystemTime>,
    index: usize,
    warnings: Vec<Complaint>,
    /// Of a certificate of our own making.
    made: Option<(PathBuf, Found)>,
}

/// The TLS of listener number `index`; `None` if it speaks plain http. May wait for another process that makes a
/// certificate; makes one itself, if so set.
pub fn open(index: usize, listener: &Listener, now: SystemTime) -> Result<Option<Opened>, Problems> {
    let problem = |key: &str, text: String| Problems::one(format!("listeners[{index}].tls.{key}"), text);
    let (pair, warnings, made) = match &listener.tls {
        None => return Ok(None),
        Some(ListenerTls::Files { certificate, key }) => {
            let read = given::read(certificate, key, listener, now);
            let (pair, warnings) = read.map_err(|complaints| collected(index, complaints))?;
            (pair, warnings, None)
        }
        Some(ListenerTls::Generated { directory }) => {
            let opened = generated::open(directory, &listener.names(), now)
                .map_err(|error| problem("generate_in", error.to_string()))?;
            let warnings = shared_directory(directory);
            (opened.pair, warnings, Some((opened.ca_file, opened.found)))
        }
    };
    let ends = pair.cert.first().and_then(certificate::end);
    let config =
        server_config(pair).map_err(|error| Problems::one(format!("listeners[{index}].tls"), error.to_string()))?;
    Ok(Some(Opened {
        config: Arc::new(config),
        ends,
        index,
        warnings,
        made,
    }))
}

impl Opened {
    /// Logs what people have to know or to do.
    pub fn tell(&self) {
        let listener = self.index;
        for warning in &self.warnings {
            tracing::warn!("{}", told(listener, warning));
        }
        let Some((ca, found)) = &self.made else { return };
        let ca = ca.display();
        match found {
            Found::Good => {}
            Found::Nothing => tracing::info!(listener, %ca, "made a certificate"),
            Found::Bad(reason) => tracing::warn!(
                listener,
                %ca,
                reason,
                "made a new certificate with a new authority: apps have to load ca.pem again"
            ),
        }
        tracing::info!(listener, %ca, "speaks https; apps have to trust this ca.pem");
    }
}

/// What is wrong with what the settings refer to, and what is allowed and will hurt; writes nothing.
pub fn check(index: usize, listener: &Listener, now: SystemTime) -> (Problems, Vec<String>) {
    let (problems, warnings) = match &listener.tls {
        None => (vec![], vec![]),
        Some(ListenerTls::Files { certificate, key }) => match given::read(certificate, key, listener, now) {
            Ok((_, warnings)) => (vec![], warnings),
            Err(problems) => (problems, vec![]),
        },
        Some(ListenerTls::Generated { directory }) => {
            let problem = (directory.exists() && !directory.is_dir()).then(|| Complaint {
                key: "generate_in",
                text: format!("{} is no folder", directory.display()),
            });
            (problem.into_iter().collect(), shared_directory(directory))
        }
    };
    (
        collected(index, problems),
        warnings.iter().map(|warning| told(index, warning)).collect(),
    )
}

/// How TLS is spoken.
fn server_config(pair: Pair) -> Result<ServerConfig, rustls::Error> {
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(pair));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are resumed without memory of ours.
    config.ticketer = Ticketer::new()?;
    Ok(config)
}

fn shared_directory(directory: &Path) -> Vec<Complaint> {
    let warning = generated::others_may_write(directory).then(|| Complaint {
        key: "generate_in",
        text: format!(
            "other users may write to {}: they could put an authority of their own in the place of ca.pem, which \
             apps trust; `chmod go-w` it, or name a folder in it that does not exist yet",
            directory.display()
        ),
    });
    warning.into_iter().collect()
}

fn collected(index: usize, complaints: Vec<Complaint>) -> Problems {
    let mut problems = Problems::default();
    for Complaint { key, text } in complaints {
        problems.add(format!("listeners[{index}].tls.{key}"), text);
    }
    problems
}

fn told(index: usize, Complaint { key, text }: &Complaint) -> String {
    format!("listeners[{index}].tls.{key}: {text}")
}
