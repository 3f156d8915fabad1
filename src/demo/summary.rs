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
    settings::{Settings, letters},
    world::Urls,
};

/// Addresses, client ids and files of a running org.
#[derive(Debug, Clone)]
pub struct Summary {
    pub base_url: String,
    pub login_url: String,
    pub control_url: String,
    /// The CA to trust; with `plain_http` not needed.
    pub ca_file: PathBuf,
    pub jwt: Option<JwtSummary>,
    pub client_credentials: Option<SecretSummary>,
}

#[derive(Debug, Clone)]
pub struct JwtSummary {
    pub client_id: String,
    pub username: String,
    /// PKCS#8.
    pub key_file: PathBuf,
    /// The same key in PKCS#1 form.
    pub pkcs1_key_file: PathBuf,
}

#[derive(Debug, Clone)]
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
        Ok(Summary {
            base_url: urls.base.clone(),
            login_url: urls.login.clone(),
            control_url: urls.control.clone(),
            ca_file: self.write("ca.pem", ca_pem)?,
            jwt,
            client_credentials,
        })
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
        Ok(())
    }
}
