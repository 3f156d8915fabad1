//! One question to the admin port of a running proxy, for `healthcheck` and `wait`.
//!
//! Cheap, for probes run it every few seconds: no TLS, one thread, one connection. Never through an HTTP proxy.
//! Owns: a connection, for one question. Invariants: bounded in time and in bytes.
//! Units: [`PATIENCE`] for one question, bytes. Fails with: what was asked, and what came.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::{Source, last_words::one_line};
use crate::config::{Problems, units::span_text};

/// From the connection to the end of the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer's text; what is said of it is shorter still.
const LONGEST: usize = 64 << 10;
/// Fits a termination message.
const SHOWN: usize = 1500;

/// Where the proxy is.
#[derive(clap::Args)]
pub(super) struct Place {
    #[command(flatten)]
    source: Source,
    /// The admin port, `http://HOST:PORT`; without it the configuration says where it is. With a path, that is asked.
    #[arg(long, value_name = "URL", value_parser = target)]
    url: Option<Target>,
}

/// What `--url` names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// `HOST:PORT`.
    authority: String,
    /// With its query; `None`: none was given.
    path: Option<String>,
}

/// A path of one of several addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// `HOST:PORT`; the first that connects answers.
    authorities: Vec<String>,
    path: String,
}

/// What came, and from where.
pub(super) struct Answer {
    status: StatusCode,
    said: String,
}

impl Answer {
    pub(super) fn good(&self) -> bool {
        self.status.is_success()
    }

    /// In one line.
    pub(super) fn said(self) -> String {
        self.said
    }
}

impl Place {
    /// `path`, unless `--url` has one.
    pub(super) fn question(&self, path: &str) -> Result<Question, Problems> {
        Ok(match &self.url {
            Some(target) => Question {
                authorities: vec![target.authority.clone()],
                path: target.path.clone().unwrap_or_else(|| path.to_owned()),
            },
            None => Question {
                authorities: self.source.load()?.admin.addresses.iter().map(nearby).collect(),
                path: path.to_owned(),
            },
        })
    }
}

/// Where a listener is reached from its own machine: one on all addresses, at loopback of its family.
fn nearby(address: &SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port()).to_string()
}

fn target(text: &str) -> Result<Target, &'static str> {
    const FORM: &str = "expected http://HOST:PORT";
    let url = Url::parse(text).map_err(|_| FORM)?;
    match url.scheme() {
        "http" => {}
        "https" => return Err("expected http://HOST:PORT: the admin port speaks no https"),
        _ => return Err(FORM),
    }
    let host = url.host_str().ok_or(FORM)?;
    let port = url.port_or_known_default().ok_or(FORM)?;
    let path = match (url.path(), url.query()) {
        ("/", None) => None,
        (path, None) => Some(path.to_owned()),
        (path, Some(query)) => Some(format!("{path}?{query}")),
    };
    Ok(Target {
        authority: format!("{host}:{port}"),
        path,
    })
}

impl Question {
    /// An answer within `limit`, or why there is none.
    pub(super) async fn ask(&self, limit: Duration) -> Result<Answer, String> {
        match timeout(limit, self.answer()).await {
            Ok(answered) => answered,
            Err(_) => Err(format!(
                "http://{}{}: no answer within {}",
                self.authorities.join(" or "),
                self.path,
                span_text(limit)
            )),
        }
    }

    async fn answer(&self) -> Result<Answer, String> {
        let mut failed = vec![];
        for authority in &self.authorities {
            let from = format!("http://{authority}{}", self.path);
            match TcpStream::connect(authority.as_str()).await {
                Ok(stream) => {
                    return converse(stream, authority, &self.path)
                        .await
                        .map(|(status, text)| Answer {
                            status,
                            said: one_line(&format!("{from} answered {}: {text}", status.as_u16()), SHOWN),
                        })
                        .map_err(|error| format!("{from}: {error}"));
                }
                Err(error) => failed.push(format!("{from}: {error}")),
            }
        }
        Err(failed.join("; "))
    }
}

async fn converse(stream: TcpStream, authority: &str, path: &str) -> Result<(StatusCode, String), anyhow::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let (head, mut body) = response.into_parts();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                text.extend_from_slice(&data[..data.len().min(LONGEST - text.len())]);
            }
            if text.len() == LONGEST {
                break;
            }
        }
        Ok((head.status, String::from_utf8_lossy(&text).into_owned()))
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    // The connection moves the exchange along; when it ends first, what came is there to be read.
    tokio::select! {
        answered = &mut exchange => answered,
        _ended = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_asked_at_loopback() {
        for (address, at) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.1.2.3:9090", "10.1.2.3:9090"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(nearby(&address.parse().unwrap()), at);
        }
    }

    #[test]
    fn a_url_is_an_address_and_perhaps_a_path() {
        for (text, authority, path) in [
            ("http://localhost:9090", "localhost:9090", None),
            ("http://localhost:9090/", "localhost:9090", None),
            ("http://[::1]:9090", "[::1]:9090", None),
            ("http://sf-token-proxy", "sf-token-proxy:80", None),
            ("http://10.0.0.1:1/readyz?x=1", "10.0.0.1:1", Some("/readyz?x=1")),
        ] {
            let expected = Target {
                authority: authority.to_owned(),
                path: path.map(str::to_owned),
            };
            assert_eq!(target(text), Ok(expected), "{text}");
        }
        for text in [
            "https://localhost:9090",
            "localhost:9090",
            "127.0.0.1:9090",
            "",
            "unix:/x",
            "http://",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
