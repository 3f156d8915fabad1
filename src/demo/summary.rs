//! What a person or a test needs to use the org, on disk and on screen.
//!
//! Owns: a private directory (0700, files 0600), removed on drop unless the caller chose it.
//! Invariants: secrets are in files, never in the summary's text. Fails with: the system's reason.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret as _;

use super::{
    settings::{ExchangeApp, PasswordUser, Settings, WebApp, letters},
    world::{ORG_ID, Urls},
};

/// Addresses, client ids and files of a running org.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Summary {
    pub base_url: String,
    pub login_url: String,
    pub control_url: String,
    /// The CA to trust; with `plain_http` not needed.
    pub ca_file: PathBuf,
    pub jwt: Option<JwtSummary>,
    pub client_credentials: Option<SecretSummary>,
    /// One for each of the settings' web apps, in their order.
    pub web: Vec<WebSummary>,
    pub password: Option<PasswordSummary>,
    pub exchange: Option<ExchangeSummary>,
    /// Data Cloud's host, with its scheme.
    pub tenant_url: Option<String>,
    /// The Pub/Sub API's host, with its scheme.
    pub pubsub_url: Option<String>,
    /// 18 characters: the Pub/Sub API's `tenantid`.
    pub org_id: String,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct WebSummary {
    pub client_id: String,
    /// Who says yes on the page.
    pub username: String,
    pub callbacks: Vec<String>,
    /// If the app has a secret.
    pub secret_file: Option<PathBuf>,
    /// If the app has a key: PKCS#8, the same as the JWT app's.
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct PasswordSummary {
    pub client_id: String,
    pub secret_file: PathBuf,
    pub username: String,
    pub password_file: PathBuf,
    /// To be appended to the password.
    pub security_token_file: PathBuf,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct ExchangeSummary {
    pub client_id: String,
    pub secret_file: Option<PathBuf>,
    /// The first subject token, and the last part of its type's URN.
    pub subject_token_file: PathBuf,
    pub subject_token_type: String,
    pub username: String,
    pub handler: String,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct JwtSummary {
    pub client_id: String,
    pub username: String,
    /// PKCS#8.
    pub key_file: PathBuf,
    /// The same key in PKCS#1 form.
    pub pkcs1_key_file: PathBuf,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct SecretSummary {
    pub client_id: String,
    pub secret_file: PathBuf,
}

/// The directory and what is in it.
pub(crate) struct Files {
    directory: PathBuf,
    ours: bool,
}

impl Files {
    /// In `chosen`, or in a new private directory among the temporary files.
    pub(crate) fn directory(chosen: Option<&Path>) -> io::Result<Self> {
        let name = format!(
            "sf-practice-{}-{}",
            std::process::id(),
            letters(8, b"abcdefghijklmnopqrstuvwxyz")
        );
        let directory = chosen.map_or_else(|| std::env::temp_dir().join(name), Path::to_path_buf);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(chosen.is_some());
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory)?;
        Ok(Self {
            directory,
            ours: chosen.is_none(),
        })
    }

    fn write(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&path)?.write_all(content.as_bytes())?;
        Ok(path)
    }

    pub(crate) fn summary(&self, settings: &Settings, urls: &Urls, ca_pem: &str) -> io::Result<Summary> {
        let jwt = match (settings.jwt_clients.first(), &settings.practice_key) {
            (Some(client), Some(key)) => Some(JwtSummary {
                client_id: client.client_id.clone(),
                username: client.username.clone(),
                key_file: self.write("jwt.key", &key.pkcs8_pem())?,
                pkcs1_key_file: self.write("jwt.pkcs1.key", &key.pkcs1_pem())?,
            }),
            _ => None,
        };
        let client_credentials = match settings.secret_clients.first() {
            Some(client) => Some(SecretSummary {
                client_id: client.client_id.clone(),
                secret_file: self.write("client_secret", client.secret.expose_secret())?,
            }),
            None => None,
        };
        let web = settings.web_apps.iter().enumerate();
        Ok(Summary {
            base_url: urls.base.clone(),
            login_url: urls.login.clone(),
            control_url: urls.control.clone(),
            ca_file: self.write("ca.pem", ca_pem)?,
            jwt,
            client_credentials,
            web: web
                .map(|(n, app)| self.web(n, app, settings))
                .collect::<io::Result<_>>()?,
            password: settings
                .password_users
                .first()
                .map(|user| self.password(user))
                .transpose()?,
            exchange: self.exchange(settings.exchange_apps.first())?,
            tenant_url: urls.tenant.clone(),
            pubsub_url: urls.pubsub.clone(),
            org_id: ORG_ID.to_owned(),
        })
    }

    fn web(&self, number: usize, app: &WebApp, settings: &Settings) -> io::Result<WebSummary> {
        let secret = app.secret.as_ref();
        let secret = secret.map(|secret| self.write(&format!("web{number}_secret"), secret.expose_secret()));
        let key = settings.practice_key.as_ref().filter(|_| app.key.is_some());
        let key = key.map(|key| self.write(&format!("web{number}.key"), &key.pkcs8_pem()));
        Ok(WebSummary {
            client_id: app.client_id.clone(),
            username: app.username.clone(),
            callbacks: app.callbacks.clone(),
            secret_file: secret.transpose()?,
            key_file: key.transpose()?,
        })
    }

    fn password(&self, user: &PasswordUser) -> io::Result<PasswordSummary> {
        Ok(PasswordSummary {
            client_id: user.client_id.clone(),
            secret_file: self.write("password_secret", user.secret.expose_secret())?,
            username: user.username.clone(),
            password_file: self.write("password", user.password.expose_secret())?,
            security_token_file: self.write("security_token", user.security_token.expose_secret())?,
        })
    }

    fn exchange(&self, app: Option<&ExchangeApp>) -> io::Result<Option<ExchangeSummary>> {
        let Some((app, subject)) = app.and_then(|app| Some((app, app.subjects.first()?))) else {
            return Ok(None);
        };
        let secret = app.secret.as_ref();
        let secret = secret.map(|secret| self.write("exchange_secret", secret.expose_secret()));
        Ok(Some(ExchangeSummary {
            client_id: app.client_id.clone(),
            secret_file: secret.transpose()?,
            subject_token_file: self.write("subject_token", subject.token.expose_secret())?,
            subject_token_type: subject.kind.clone(),
            username: subject.username.clone(),
            handler: app.handler.clone(),
        }))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.ours {
            // Best effort: a left-over directory is private all the same.
            fs::remove_dir_all(&self.directory).ok();
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "practice org     {}", self.base_url)?;
        writeln!(f, "login            {}", self.login_url)?;
        writeln!(f, "control          {}", self.control_url)?;
        writeln!(f, "CA to trust      {}", self.ca_file.display())?;
        if let Some(jwt) = &self.jwt {
            writeln!(f, "JWT bearer       client id {}", jwt.client_id)?;
            writeln!(f, "                 user      {}", jwt.username)?;
            writeln!(f, "                 key       {}", jwt.key_file.display())?;
        }
        if let Some(app) = &self.client_credentials {
            writeln!(f, "client creds     client id {}", app.client_id)?;
            writeln!(f, "                 secret    {}", app.secret_file.display())?;
        }
        for app in &self.web {
            writeln!(f, "web app          client id {}", app.client_id)?;
            writeln!(f, "                 user      {}", app.username)?;
            for (name, file) in [("secret", &app.secret_file), ("key", &app.key_file)] {
                if let Some(file) = file {
                    writeln!(f, "                 {name:9} {}", file.display())?;
                }
            }
        }
        if let Some(app) = &self.password {
            writeln!(f, "password         client id {}", app.client_id)?;
            writeln!(f, "                 secret    {}", app.secret_file.display())?;
            writeln!(f, "                 user      {}", app.username)?;
            writeln!(f, "                 password  {}", app.password_file.display())?;
            writeln!(f, "                 token     {}", app.security_token_file.display())?;
        }
        if let Some(app) = &self.exchange {
            writeln!(f, "token exchange   client id {}", app.client_id)?;
            writeln!(f, "                 subject   {}", app.subject_token_file.display())?;
        }
        if let Some(tenant) = &self.tenant_url {
            writeln!(f, "Data Cloud       {tenant}")?;
        }
        if let Some(pubsub) = &self.pubsub_url {
            writeln!(f, "Pub/Sub          {pubsub}")?;
            writeln!(f, "                 tenant id {}", self.org_id)?;
        }
        Ok(())
    }
}
