//! The rules for grants: exactly one, and what each needs.
//!
//! Invariants: a secret is a reference, and what stands in its place is never quoted; a grant that Salesforce refuses at
//! a host is refused here.
//! Source: SF §1.2, §1.4 (flow by flow), §5.5 (other clouds).

use url::Url;

use super::{
    Check,
    org::{audience_for, is_loopback},
};
use crate::config::{
    BodyFormat, ClientAuth, ClientCredentials, Command, Grant, JwtBearer, Login, Password, PlatformCredentials,
    RefreshToken, RotationPolicy, SamlBearer, SecretRef, SendSecret, Static, TokenExchange,
    file::{
        ClientCredentialsFile, CommandFile, GrantFile, JwtBearerFile, LoginFile, PasswordFile, PlatformCredentialsFile,
        RefreshTokenFile, SamlBearerFile, SecretFile, StaticFile, TokenExchangeFile,
    },
    problem::{shown, url_shown},
};

const GENERIC_LOGIN_HOSTS: [&str; 2] = ["login.salesforce.com", "test.salesforce.com"];

/// Which grant it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    JwtBearer,
    ClientCredentials,
    RefreshToken,
    Password,
    TokenExchange,
    SamlBearer,
    PlatformCredentials,
    Static,
    Command,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::JwtBearer,
        Self::ClientCredentials,
        Self::RefreshToken,
        Self::Password,
        Self::TokenExchange,
        Self::SamlBearer,
        Self::PlatformCredentials,
        Self::Static,
        Self::Command,
    ];

    /// The first that is there.
    pub(super) fn of(file: &GrantFile) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.is_in(file))
    }

    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::JwtBearer => "jwt_bearer",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken => "refresh_token",
            Self::Password => "password",
            Self::TokenExchange => "token_exchange",
            Self::SamlBearer => "saml_bearer",
            Self::PlatformCredentials => "oauth2_client_credentials",
            Self::Static => "static",
            Self::Command => "command",
        }
    }

    /// Whether the token is found, and no login host asked.
    pub(super) fn finds(self) -> bool {
        matches!(self, Self::Static | Self::Command)
    }

    fn is_in(self, file: &GrantFile) -> bool {
        match self {
            Self::JwtBearer => file.jwt_bearer.is_some(),
            Self::ClientCredentials => file.client_credentials.is_some(),
            Self::RefreshToken => file.refresh_token.is_some(),
            Self::Password => file.password.is_some(),
            Self::TokenExchange => file.token_exchange.is_some(),
            Self::SamlBearer => file.saml_bearer.is_some(),
            Self::PlatformCredentials => file.oauth2_client_credentials.is_some(),
            Self::Static => file.static_token.is_some(),
            Self::Command => file.command.is_some(),
        }
    }
}

impl Check {
    pub(super) fn grant(&mut self, at: &str, file: &GrantFile, login: Option<&Url>) -> Option<Grant> {
        let found: Vec<_> = Kind::ALL.into_iter().filter(|kind| kind.is_in(file)).collect();
        if found.len() != 1 {
            let words = |kinds: &[Kind]| kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>().join(", ");
            let found = match found.as_slice() {
                [] => "none".to_owned(),
                several => words(several),
            };
            let text = format!("expected exactly one of {}; found {found}", words(&Kind::ALL));
            self.problems.add(at, text);
        }
        // Every one that is there is checked, so that nothing hides the next problem.
        let all: Vec<_> = found
            .into_iter()
            .map(|kind| self.grant_of(kind, &format!("{at}.{}", kind.word()), file, login))
            .collect();
        all.into_iter().next()?
    }

    fn grant_of(&mut self, kind: Kind, at: &str, file: &GrantFile, login: Option<&Url>) -> Option<Grant> {
        if matches!(kind, Kind::ClientCredentials | Kind::TokenExchange) {
            self.my_domain_only(at, kind.word(), login);
        }
        match kind {
            Kind::JwtBearer => self
                .jwt_bearer(at, file.jwt_bearer.as_ref()?, login)
                .map(Grant::JwtBearer),
            Kind::ClientCredentials => self
                .client_credentials(at, file.client_credentials.as_ref()?)
                .map(Grant::ClientCredentials),
            Kind::RefreshToken => self
                .refresh_token(at, file.refresh_token.as_ref()?)
                .map(Grant::RefreshToken),
            Kind::Password => self.password(at, file.password.as_ref()?).map(Grant::Password),
            Kind::TokenExchange => self
                .token_exchange(at, file.token_exchange.as_ref()?)
                .map(Grant::TokenExchange),
            Kind::SamlBearer => self
                .saml_bearer(at, file.saml_bearer.as_ref()?, login)
                .map(Grant::SamlBearer),
            Kind::PlatformCredentials => self
                .platform_credentials(at, file.oauth2_client_credentials.as_ref()?)
                .map(Grant::PlatformCredentials),
            Kind::Static => self.static_token(at, file.static_token.as_ref()?).map(Grant::Static),
            Kind::Command => self.command(at, file.command.as_ref()?).map(Grant::Command),
        }
    }

    fn jwt_bearer(&mut self, at: &str, file: &JwtBearerFile, login: Option<&Url>) -> Option<JwtBearer> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let username = self.username(&format!("{at}.username"), file.username.as_deref());
        let key = self.secret(&format!("{at}.private_key"), file.private_key.as_ref(), "key.pem");
        let audience = match file.audience.as_deref() {
            Some(text) => self.audience(&format!("{at}.audience"), text),
            None => login.map(audience_for),
        };
        Some(JwtBearer {
            client_id: client_id?,
            username: username?,
            private_key: key?,
            audience: audience?,
        })
    }

    fn client_credentials(&mut self, at: &str, file: &ClientCredentialsFile) -> Option<ClientCredentials> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let secret = self.client_secret(at, file.client_secret.as_ref());
        let send = self.send_secret(at, &file.send_secret);
        Some(ClientCredentials {
            client_id: client_id?,
            client_secret: secret?,
            send_secret: send?,
        })
    }

    fn refresh_token(&mut self, at: &str, file: &RefreshTokenFile) -> Option<RefreshToken> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let send = self.send_secret(at, &file.send_secret);
        if file.client_secret.is_some() && file.private_key.is_some() {
            let text = "expected client_secret or private_key or neither, found both; Salesforce would not read the key's proof";
            self.problems.add(at, text);
        }
        let auth = match (&file.client_secret, &file.private_key) {
            (Some(secret), _) => {
                let secret = self.client_secret(at, Some(secret));
                secret.and_then(|secret| Some(ClientAuth::Secret(secret, send?)))
            }
            (None, Some(key)) => self
                .secret(&format!("{at}.private_key"), Some(key), "key.pem")
                .map(ClientAuth::PrivateKey),
            (None, None) => Some(ClientAuth::None),
        };
        let token = self.optional_secret(
            &format!("{at}.refresh_token"),
            file.refresh_token.as_ref(),
            "refresh-token",
        );
        let rotation = match file.rotation.as_str() {
            "auto" => Some(RotationPolicy::Auto),
            "off" => Some(RotationPolicy::Off),
            other => self.refuse(
                format!("{at}.rotation"),
                format!("expected auto or off, found {}", shown(other)),
            ),
        };
        let login = self.login(&format!("{at}.login"), &file.login);
        send?;
        Some(RefreshToken {
            client_id: client_id?,
            auth: auth?,
            refresh_token: token?,
            rotation: rotation?,
            login: login?,
        })
    }

    fn login(&mut self, at: &str, file: &LoginFile) -> Option<Login> {
        let callback = self.callback_url(&format!("{at}.callback_url"), file.callback_url.trim());
        let scopes_at = format!("{at}.scopes");
        let word = |scope: &String| !scope.is_empty() && !scope.contains(|c: char| c.is_whitespace() || c.is_control());
        let lasting = |scope: &String| matches!(scope.as_str(), "refresh_token" | "offline_access");
        let scopes = if !file.scopes.iter().all(word) {
            self.refuse(
                scopes_at,
                "expected a list of scopes, each a word, such as [api, refresh_token]",
            )
        } else if !file.scopes.iter().any(lasting) {
            self.refuse(
                scopes_at,
                "expected refresh_token among them, since without it a login brings no refresh token; add it",
            )
        } else {
            Some(file.scopes.clone())
        };
        Some(Login {
            callback_url: callback?,
            scopes: scopes?,
        })
    }

    /// Sent as written, and Salesforce compares letter for letter; so a form that a URL parser would change is refused.
    fn callback_url(&mut self, at: &str, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok().filter(|url| {
            url.scheme() == "http" && is_loopback(url) && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = url.filter(|url| url.port().is_some() && url.query().is_none() && url.fragment().is_none())
        else {
            let text = format!(
                "expected http, loopback and a port, such as `http://localhost:1717/OauthRedirect`, found {}",
                url_shown(text)
            );
            return self.refuse(at, text);
        };
        match url.as_str() == text {
            true => Some(url),
            false => {
                let text = format!("expected the form `{url}`; write it so here and in the app's callback URLs");
                self.refuse(at, text)
            }
        }
    }

    fn password(&mut self, at: &str, file: &PasswordFile) -> Option<Password> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let secret = self.client_secret(at, file.client_secret.as_ref());
        let send = self.send_secret(at, &file.send_secret);
        let username = self.username(&format!("{at}.username"), file.username.as_deref());
        let password = self.secret(&format!("{at}.password"), file.password.as_ref(), "password");
        let token = self.optional_secret(
            &format!("{at}.security_token"),
            file.security_token.as_ref(),
            "security-token",
        );
        Some(Password {
            client_id: client_id?,
            client_secret: secret?,
            send_secret: send?,
            username: username?,
            password: password?,
            security_token: token?,
        })
    }

    fn token_exchange(&mut self, at: &str, file: &TokenExchangeFile) -> Option<TokenExchange> {
        let client_id = self.client_id(at, file.client_id.as_deref());
        let secret = self.optional_secret(
            &format!("{at}.client_secret"),
            file.client_secret.as_ref(),
            "client-secret",
        );
        let send = self.send_secret(at, &file.send_secret);
        let subject = self.secret(
            &format!("{at}.subject_token"),
            file.subject_token.as_ref(),
            "subject-token",
        );
        let kind = match SUBJECT_TOKEN_TYPES.contains(&file.subject_token_type.as_str()) {
            true => Some(format!("{SUBJECT_TOKEN_URN}{}", file.subject_token_type)),
            false => {
                let text = format!(
                    "expected one of {}, found {}",
                    SUBJECT_TOKEN_TYPES.join(", "),
                    shown(&file.subject_token_type)
                );
                self.refuse(format!("{at}.subject_token_type"), text)
            }
        };
        let scope = self.optional_text(&format!("{at}.scope"), file.scope.as_deref(), |c| {
            c == ' ' || c.is_ascii_graphic()
        });
        let handler = self.optional_text(&format!("{at}.token_handler"), file.token_handler.as_deref(), |c| {
            c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
        });
        Some(TokenExchange {
            client_id: client_id?,
            client_secret: secret?,
            send_secret: send?,
            subject_token: subject?,
            subject_token_type: kind?,
            scope: scope?,
            token_handler: handler?,
        })
    }

    fn saml_bearer(&mut self, at: &str, file: &SamlBearerFile, login: Option<&Url>) -> Option<SamlBearer> {
        let jwt = JwtBearerFile {
            client_id: file.client_id.clone(),
            username: file.username.clone(),
            private_key: file.private_key.clone(),
            audience: file.audience.clone(),
        };
        // The same four settings under the same rules.
        let checked = self.jwt_bearer(at, &jwt, login)?;
        Some(SamlBearer {
            client_id: checked.client_id,
            username: checked.username,
            private_key: checked.private_key,
            audience: checked.audience,
        })
    }

    fn platform_credentials(&mut self, at: &str, file: &PlatformCredentialsFile) -> Option<PlatformCredentials> {
        let path = self.token_path(&format!("{at}.token_path"), file.token_path.as_deref());
        let body = match file.body.as_str() {
            "form" => Some(BodyFormat::Form),
            "json" => Some(BodyFormat::Json),
            other => self.refuse(
                format!("{at}.body"),
                format!("expected form or json, found {}", shown(other)),
            ),
        };
        let client_id = self.client_id(at, file.client_id.as_deref());
        let secret = self.client_secret(at, file.client_secret.as_ref());
        let send = self.send_secret(at, &file.send_secret);
        for own in ["grant_type", "client_id", "client_secret"] {
            if file.parameters.contains_key(own) {
                let text = "the grant says it itself; take it out here (not shown, it may be a secret)";
                self.problems.add(format!("{at}.parameters.{own}"), text);
            }
        }
        for name in file.parameters.keys().filter(|name| *name != "client_secret") {
            self.no_secret(&format!("{at}.parameters.{name}"), name);
        }
        Some(PlatformCredentials {
            token_path: path?,
            body: body?,
            client_id: client_id?,
            client_secret: secret?,
            send_secret: send?,
            parameters: file.parameters.clone().into_iter().collect(),
        })
    }

    /// It may choose no other host.
    fn token_path(&mut self, at: &str, text: Option<&str>) -> Option<String> {
        let text = self
            .given(at, text, "the path of the token endpoint, such as `/v2/token`")?
            .trim();
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '\\' | '"' | '<' | '>');
        match text.starts_with('/') && !text.starts_with("//") && text.chars().all(plain) {
            true => Some(text.to_owned()),
            false => {
                let text = format!("expected a path such as `/v2/token`, found {}", url_shown(text));
                self.refuse(at, text)
            }
        }
    }

    fn static_token(&mut self, at: &str, file: &StaticFile) -> Option<Static> {
        let token = self.secret(
            &format!("{at}.access_token"),
            file.access_token.as_ref(),
            "access-token",
        );
        Some(Static { access_token: token? })
    }

    fn command(&mut self, at: &str, file: &CommandFile) -> Option<Command> {
        let at = format!("{at}.run");
        let expected = "expected program and arguments, such as [sf, org, display, --json, --target-org, dev], found";
        match file.run.first() {
            None => self.refuse(at, format!("{expected} nothing")),
            Some(program) if program.trim().is_empty() => self.refuse(at, format!("{expected} an empty program")),
            Some(_) if file.run.iter().any(|part| part.contains(char::is_control)) => {
                self.refuse(at, format!("{expected} control characters"))
            }
            Some(_) => Some(Command { argv: file.run.clone() }),
        }
    }

    /// Elsewhere Salesforce says `invalid_grant: request not supported on this domain`.
    fn my_domain_only(&mut self, grant_at: &str, grant: &str, login: Option<&Url>) {
        let host = login.and_then(Url::host_str).unwrap_or_default();
        if GENERIC_LOGIN_HOSTS.contains(&host) {
            let at = grant_at.replace(&format!(".grant.{grant}"), ".login_url");
            let text = format!(
                "{grant} does not work on {host}; use the org's My Domain URL, such as `https://acme.my.salesforce.com`"
            );
            self.problems.add(at, text);
        }
    }

    fn client_secret(&mut self, at: &str, file: Option<&SecretFile>) -> Option<SecretRef> {
        self.secret(&format!("{at}.client_secret"), file, "client-secret")
    }

    fn send_secret(&mut self, at: &str, text: &str) -> Option<SendSecret> {
        match text {
            "basic" => Some(SendSecret::Basic),
            "body" => Some(SendSecret::Body),
            other => self.refuse(
                format!("{at}.send_secret"),
                format!("expected basic or body, found {}", shown(other)),
            ),
        }
    }

    fn optional_secret(&mut self, at: &str, file: Option<&SecretFile>, example: &str) -> Option<Option<SecretRef>> {
        match file {
            Some(_) => self.secret(at, file, example).map(Some),
            None => Some(None),
        }
    }

    fn optional_text(&mut self, at: &str, text: Option<&str>, good: fn(char) -> bool) -> Option<Option<String>> {
        match text.map(str::trim) {
            None => Some(None),
            Some(text) if !text.is_empty() && text.chars().all(good) => Some(Some(text.to_owned())),
            Some(text) => self.refuse(at, format!("expected a plain word, found {}", shown(text))),
        }
    }

    fn client_id(&mut self, at: &str, text: Option<&str>) -> Option<String> {
        let at = format!("{at}.client_id");
        let text = self.given(&at, text, "the consumer key of the app")?.trim();
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return self.refuse(at, "expected the consumer key of the app, found text with blanks in it");
        }
        Some(text.to_owned())
    }

    fn username(&mut self, at: &str, text: Option<&str>) -> Option<String> {
        let text = self
            .given(at, text, "a Salesforce user name, such as `integration@acme.example`")?
            .trim();
        if !text.contains('@') || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let text = format!(
                "expected a Salesforce user name in the form of an e-mail address, found {}",
                shown(text)
            );
            return self.refuse(at, text);
        }
        Some(text.to_owned())
    }

    /// Kept as written: the login host compares it letter by letter.
    fn audience(&mut self, at: &str, text: &str) -> Option<String> {
        let text = text.trim();
        let good = Url::parse(text).is_ok_and(|url| {
            let tls = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
            // What the parser overlooks would be sent.
            !text.contains(|c: char| c.is_whitespace() || c.is_control())
                && tls
                && url.username().is_empty()
                && url.password().is_none()
        });
        match good {
            true => Some(text.to_owned()),
            false => {
                let found = url_shown(text);
                self.refuse(
                    at,
                    format!("expected a URL such as `https://login.salesforce.com`, found {found}"),
                )
            }
        }
    }

    /// What is not a reference is likely the secret itself, so it is never quoted.
    pub(super) fn secret(&mut self, at: &str, file: Option<&SecretFile>, example: &str) -> Option<SecretRef> {
        let expected = format!("expected a reference: `file:/run/secrets/sf/{example}` or `env:NAME`");
        let (path, variable) = match file {
            None => return self.refuse(at, format!("{expected}, found nothing")),
            Some(SecretFile::Text(text)) => (text.strip_prefix("file:"), text.strip_prefix("env:")),
            Some(SecretFile::Keys(keys)) => (keys.file.as_deref(), keys.env.as_deref()),
        };
        match (path, variable) {
            (Some(path), None) => self.path(at, path.trim()).map(SecretRef::file),
            (None, Some(name)) => self.variable(at, name.trim()).map(SecretRef::Env),
            (Some(_), Some(_)) => self.refuse(at, format!("{expected}, found both")),
            (None, None) => {
                let text = format!(
                    "{expected}, found something else (not shown); a secret may not stand in the configuration itself"
                );
                self.refuse(at, text)
            }
        }
    }

    fn variable(&mut self, at: &str, name: &str) -> Option<String> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = name.bytes().all(word) && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        match good && name.len() <= 128 {
            true => Some(name.to_owned()),
            false => self.refuse(at, "expected the name of an environment variable after `env:` (A-Z, 0-9, _), found something else (not shown)"),
        }
    }

    pub(super) fn given<'a>(&mut self, at: &str, text: Option<&'a str>, expected: &str) -> Option<&'a str> {
        match text {
            Some(text) if !text.trim().is_empty() => Some(text),
            _ => self.refuse(at, format!("expected {expected}, found nothing")),
        }
    }
}

const SUBJECT_TOKEN_TYPES: [&str; 5] = ["jwt", "id_token", "access_token", "refresh_token", "saml2"];
pub(in crate::config) const SUBJECT_TOKEN_URN: &str = "urn:ietf:params:oauth:token-type:";
