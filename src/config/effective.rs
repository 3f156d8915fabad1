//! The settings as they count, written in the form of the file; secrets as their references.
//!
//! Invariants: read back and checked, it gives the same configuration (tested); it holds no secret, and of an egress
//! proxy nothing at all (its URL may hold a password).

use serde_json::Value;

use super::{
    Api, ApiHost, BodyFormat, Cache, ClientAuth, Config, DataCloud, Grant, Listener, ListenerTls, LogFormat, Org,
    RefreshToken, RotationPolicy, SecretRef, SendSecret, Store, Threads, Users,
    check::SUBJECT_TOKEN_URN,
    file::{
        AdminFile, ApiFile, BudgetFile, CacheFile, ClientCredentialsFile, CommandFile, DataCloudFile, File,
        FileStoreFile, GrantFile, JwtBearerFile, ListenerFile, ListenerTlsFile, LogFile, LoginFile, OneOrMany, OrgFile,
        PasswordFile, PlatformCredentialsFile, PubSubFile, RefreshTokenFile, ReloadFile, ReplayFile, SamlBearerFile,
        SecretFile, ShutdownFile, Size, Span, StaticFile, StoreFile, ThreadsFile, TokenExchangeFile, TokenFile,
        UpstreamFile, UsersBudgetFile, UsersFile,
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
                startup_holds_on_refusal: self.admin.startup_holds_on_refusal,
                quit_endpoint: self.admin.quit_endpoint,
            },
            orgs: self.orgs.iter().map(|(name, o)| (name.to_string(), org(o))).collect(),
            store: store(&self.store),
            upstream: UpstreamFile {
                connect_timeout: span(self.upstream.connect_timeout),
                response_timeout: span(self.upstream.response_timeout),
                body_idle_timeout: span(self.upstream.body_idle_timeout),
                pool_idle_timeout: span(self.upstream.pool_idle_timeout),
                pool_max_idle: number(self.upstream.pool_max_idle),
                http2: self.upstream.http2,
                ca_file: self.upstream.ca_file.as_ref().map(|path| path.display().to_string()),
            },
            replay: ReplayFile {
                max_body: Size(size_text(self.replay.max_body)),
                total: Size(size_text(self.replay.total)),
            },
            shutdown: ShutdownFile {
                delay: span(self.shutdown.delay),
                drain: span(self.shutdown.drain),
            },
            log: LogFile {
                format: format_name(self.log.format).into(),
                level: self.log.level.clone(),
                requests: self.log.requests,
            },
            reload: ReloadFile {
                interval: span(self.reload.interval.unwrap_or_default()),
            },
            threads: match self.threads {
                Threads::Auto => ThreadsFile::Word("auto".into()),
                Threads::Fixed(threads) => ThreadsFile::Number(number(threads)),
            },
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
        local_login: listener.local_login,
        insecure_allow_any_caller: listener.insecure_allow_any_caller,
        tls: listener.tls.as_ref().map(listener_tls),
        users: listener.users.as_ref().map(users),
        max_connections: number(listener.max_connections),
        idle_timeout: span(listener.idle_timeout),
    }
}

fn listener_tls(tls: &ListenerTls) -> ListenerTlsFile {
    let text = |path: &std::path::Path| Some(path.display().to_string());
    match tls {
        ListenerTls::Files { certificate, key } => ListenerTlsFile {
            certificate_file: text(certificate),
            key_file: text(key),
            generate_in: None,
        },
        ListenerTls::Generated { directory } => ListenerTlsFile {
            generate_in: text(directory),
            ..ListenerTlsFile::default()
        },
    }
}

fn org(org: &Org) -> OrgFile {
    OrgFile {
        login_url: Some(org.login.url.origin().ascii_serialization()),
        instance_url: org.instance_url.as_ref().map(|url| url.origin().ascii_serialization()),
        grant: grant(&org.grant),
        api: api(&org.api),
        token: TokenFile {
            lifetime: span(org.token.lifetime),
            refresh_wait: span(org.token.refresh_wait),
            cool_down: span(org.token.cool_down),
            max_waiters: number(org.token.max_waiters),
            exchange_timeout: span(org.token.exchange_timeout),
            introspect: org.token.introspect,
            keep_alive: org.token.keep_alive,
        },
        data_cloud: org.data_cloud.as_ref().map(data_cloud),
        pub_sub: PubSubFile {
            endpoint: org.pub_sub.origin().ascii_serialization(),
        },
        cache: org.cache.as_ref().map(cache),
        login_budget: BudgetFile {
            burst: org.budget.burst.into(),
            per_minute: org.budget.per_minute.into(),
        },
    }
}

fn store(store: &Store) -> Option<StoreFile> {
    match store {
        Store::Memory => None,
        Store::File {
            directory,
            key,
            previous_key,
        } => Some(StoreFile {
            file: Some(FileStoreFile {
                directory: Some(directory.display().to_string()),
                key: Some(secret(key)),
                previous_key: previous_key.as_ref().map(secret),
            }),
        }),
    }
}

fn users(users: &Users) -> UsersFile {
    UsersFile {
        allow: users.allow.clone(),
        header: users.header.to_string(),
        required: users.required,
        max: i64::try_from(users.max).unwrap_or(i64::MAX),
        idle: span(users.idle),
        login_budget: UsersBudgetFile {
            burst: users.budget.burst.into(),
            per_minute: users.budget.per_minute.into(),
        },
    }
}

fn api(api: &Api) -> ApiFile {
    let (host, url, host_field, also) = match &api.host {
        ApiHost::Instance => ("instance", None, None, vec![]),
        ApiHost::Platform { fallback } => ("platform", Some(fallback.origin().ascii_serialization()), None, vec![]),
        ApiHost::Other { field, also } => ("other", None, field.clone(), also.clone()),
    };
    let headers = api.headers.iter();
    let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    ApiFile {
        host: host.into(),
        url,
        host_field,
        also: also.into_iter().collect(),
        headers: headers.map(|(name, value)| (name.to_string(), shown(value))).collect(),
    }
}

fn data_cloud(data_cloud: &DataCloud) -> DataCloudFile {
    DataCloudFile {
        dataspace: data_cloud.dataspace.clone().unwrap_or_else(|| "default".into()),
        renew_before: span(data_cloud.renew_before),
        renew_age: span(data_cloud.renew_age),
    }
}

fn cache(cache: &Cache) -> CacheFile {
    CacheFile {
        ttl: span(cache.ttl),
        max_size: Size(size_text(cache.max_size)),
        max_entry: Size(size_text(cache.max_entry)),
        paths: cache.paths.clone(),
    }
}

fn grant(grant: &Grant) -> GrantFile {
    let mut file = GrantFile::default();
    match grant {
        Grant::JwtBearer(grant) => {
            file.jwt_bearer = Some(JwtBearerFile {
                client_id: Some(grant.client_id.clone()),
                username: Some(grant.username.clone()),
                private_key: Some(secret(&grant.private_key)),
                audience: Some(grant.audience.clone()),
            });
        }
        Grant::ClientCredentials(grant) => {
            file.client_credentials = Some(ClientCredentialsFile {
                client_id: Some(grant.client_id.clone()),
                client_secret: Some(secret(&grant.client_secret)),
                send_secret: send_name(grant.send_secret),
            });
        }
        Grant::RefreshToken(grant) => file.refresh_token = Some(refresh_token(grant)),
        Grant::Password(grant) => {
            file.password = Some(PasswordFile {
                client_id: Some(grant.client_id.clone()),
                client_secret: Some(secret(&grant.client_secret)),
                send_secret: send_name(grant.send_secret),
                username: Some(grant.username.clone()),
                password: Some(secret(&grant.password)),
                security_token: grant.security_token.as_ref().map(secret),
            });
        }
        Grant::TokenExchange(grant) => {
            let kind = grant.subject_token_type.trim_start_matches(SUBJECT_TOKEN_URN);
            file.token_exchange = Some(TokenExchangeFile {
                client_id: Some(grant.client_id.clone()),
                client_secret: grant.client_secret.as_ref().map(secret),
                send_secret: send_name(grant.send_secret),
                subject_token: Some(secret(&grant.subject_token)),
                subject_token_type: kind.to_owned(),
                scope: grant.scope.clone(),
                token_handler: grant.token_handler.clone(),
            });
        }
        Grant::SamlBearer(grant) => {
            file.saml_bearer = Some(SamlBearerFile {
                client_id: Some(grant.client_id.clone()),
                username: Some(grant.username.clone()),
                private_key: Some(secret(&grant.private_key)),
                audience: Some(grant.audience.clone()),
            });
        }
        Grant::PlatformCredentials(grant) => {
            file.oauth2_client_credentials = Some(PlatformCredentialsFile {
                token_path: Some(grant.token_path.clone()),
                body: match grant.body {
                    BodyFormat::Form => "form".into(),
                    BodyFormat::Json => "json".into(),
                },
                client_id: Some(grant.client_id.clone()),
                client_secret: Some(secret(&grant.client_secret)),
                send_secret: send_name(grant.send_secret),
                parameters: grant.parameters.iter().cloned().collect(),
            });
        }
        Grant::Static(grant) => {
            file.static_token = Some(StaticFile {
                access_token: Some(secret(&grant.access_token)),
            });
        }
        Grant::Command(grant) => {
            file.command = Some(CommandFile {
                run: grant.argv.clone(),
            });
        }
    }
    file
}

fn refresh_token(grant: &RefreshToken) -> RefreshTokenFile {
    let mut file = RefreshTokenFile {
        client_id: Some(grant.client_id.clone()),
        refresh_token: grant.refresh_token.as_ref().map(secret),
        rotation: match grant.rotation {
            RotationPolicy::Auto => "auto".into(),
            RotationPolicy::Off => "off".into(),
        },
        login: LoginFile {
            callback_url: grant.login.callback_url.to_string(),
            scopes: grant.login.scopes.clone(),
        },
        ..RefreshTokenFile::default()
    };
    match &grant.auth {
        ClientAuth::Secret(reference, send) => {
            file.client_secret = Some(secret(reference));
            file.send_secret = send_name(*send);
        }
        ClientAuth::PrivateKey(reference) => file.private_key = Some(secret(reference)),
        ClientAuth::None => {}
    }
    file
}

fn send_name(send: SendSecret) -> String {
    match send {
        SendSecret::Basic => "basic".into(),
        SendSecret::Body => "body".into(),
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
        let key = match is_plain(key) {
            true => key.clone(),
            false => Value::from(key.as_str()).to_string(),
        };
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
