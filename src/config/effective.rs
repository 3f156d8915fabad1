//! The settings as they count, written in the form of the file; secrets as their references.
//!
//! Invariants: read back and checked, it gives the same configuration (tested); it holds no secret, and of an egress
//! proxy nothing at all (its URL may hold a password).

use serde_json::Value;

use super::{
    Config, Grant, Listener, LogFormat, Org, SecretRef, SendSecret,
    file::{
        AdminFile, BudgetFile, ClientCredentialsFile, File, GrantFile, JwtBearerFile, ListenerFile, LogFile, OneOrMany,
        OrgFile, ReplayFile, SecretFile, ShutdownFile, Size, Span, TokenFile, UpstreamFile,
    },
    units::{parse_size, parse_span, size_text, span_text},
};

impl Config {
    /// As a file that says everything.
    pub fn to_file(&self) -> File {
        File {
            listeners: self.listeners.iter().map(listener).collect(),
            admin: AdminFile {
                address: addresses(&self.admin.addresses),
                startup_patience: span(self.admin.startup_patience),
            },
            orgs: self.orgs.iter().map(|(name, o)| (name.to_string(), org(o))).collect(),
            upstream: UpstreamFile {
                connect_timeout: span(self.upstream.connect_timeout),
                response_timeout: span(self.upstream.response_timeout),
                body_idle_timeout: span(self.upstream.body_idle_timeout),
                pool_idle_timeout: span(self.upstream.pool_idle_timeout),
                pool_max_idle: number(self.upstream.pool_max_idle),
                ca_file: self.upstream.ca_file.as_ref().map(|path| path.display().to_string()),
            },
            replay: ReplayFile {
                max_body: Size(size_text(self.replay.max_body)),
                total: Size(size_text(self.replay.total)),
            },
            shutdown: ShutdownFile {
                drain: span(self.shutdown.drain),
            },
            log: LogFile {
                format: format_name(self.log.format).into(),
                level: self.log.level.clone(),
                requests: self.log.requests,
            },
            threads: number(self.threads),
        }
    }

    /// As YAML.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        write_yaml(&self.to_json(), 0, &mut text);
        text
    }

    pub fn to_json(&self) -> Value {
        serde_json::to_value(self.to_file()).expect("the file shape must be representable as JSON")
    }
}

fn listener(listener: &Listener) -> ListenerFile {
    ListenerFile {
        address: addresses(&listener.addresses),
        org: Some(listener.org.to_string()),
        hosts: listener.hosts.clone(),
        allowed_origins: listener.allowed_origins.clone(),
        extra_paths: listener.extra_paths.clone(),
        insecure_allow_any_caller: listener.insecure_allow_any_caller,
        max_connections: number(listener.max_connections),
        idle_timeout: span(listener.idle_timeout),
    }
}

fn org(org: &Org) -> OrgFile {
    OrgFile {
        login_url: Some(org.login.url.origin().ascii_serialization()),
        instance_url: org.instance_url.as_ref().map(|url| url.origin().ascii_serialization()),
        grant: grant(&org.grant),
        token: TokenFile {
            lifetime: span(org.token.lifetime),
            refresh_wait: span(org.token.refresh_wait),
            cool_down: span(org.token.cool_down),
            max_waiters: number(org.token.max_waiters),
            exchange_timeout: span(org.token.exchange_timeout),
        },
        login_budget: BudgetFile {
            burst: org.budget.burst.into(),
            per_minute: org.budget.per_minute.into(),
        },
    }
}

fn grant(grant: &Grant) -> GrantFile {
    match grant {
        Grant::JwtBearer(jwt) => GrantFile {
            jwt_bearer: Some(JwtBearerFile {
                client_id: Some(jwt.client_id.clone()),
                username: Some(jwt.username.clone()),
                private_key: Some(secret(&jwt.private_key)),
                audience: Some(jwt.audience.clone()),
            }),
            client_credentials: None,
        },
        Grant::ClientCredentials(client) => GrantFile {
            jwt_bearer: None,
            client_credentials: Some(ClientCredentialsFile {
                client_id: Some(client.client_id.clone()),
                client_secret: Some(secret(&client.client_secret)),
                send_secret: match client.send_secret {
                    SendSecret::Basic => "basic".into(),
                    SendSecret::Body => "body".into(),
                },
            }),
        },
        _ => GrantFile::default(),
    }
}

fn secret(reference: &SecretRef) -> SecretFile {
    SecretFile::Text(reference.to_string())
}

fn addresses(addresses: &[std::net::SocketAddr]) -> OneOrMany {
    match addresses {
        [one] => OneOrMany::One(one.to_string()),
        many => OneOrMany::Many(many.iter().map(ToString::to_string).collect()),
    }
}

fn span(span: std::time::Duration) -> Span {
    Span(span_text(span))
}

fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn format_name(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

/// Mappings and lists of mappings in block form, everything else as JSON, which is YAML too.
fn write_yaml(value: &Value, depth: usize, text: &mut String) {
    let Value::Object(map) = value else {
        return;
    };
    for (key, value) in map {
        text.push_str(&format!("{}{key}:", "  ".repeat(depth)));
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                write_yaml(value, depth + 1, text);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                text.push('\n');
                items.iter().for_each(|item| write_item(item, depth + 1, text));
            }
            Value::String(plain) if is_plain(plain) => text.push_str(&format!(" {plain}\n")),
            other => text.push_str(&format!(" {other}\n")),
        }
    }
}

/// The dash takes the place of the first key's indentation.
fn write_item(item: &Value, depth: usize, text: &mut String) {
    let mut inner = String::new();
    write_yaml(item, depth + 1, &mut inner);
    text.push_str(&format!("{}- {}", "  ".repeat(depth), inner.trim_start()));
}

/// Whether the text needs no quotes: it cannot be read as something else.
fn is_plain(text: &str) -> bool {
    if parse_span(text).is_ok() || parse_size(text).is_ok() {
        return true;
    }
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:@=".contains(c);
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(safe)
        && !text.ends_with(':')
        && !words.contains(&text.to_ascii_lowercase().as_str())
}
