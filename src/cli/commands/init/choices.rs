//! What was chosen, by flags or by answers, and the configuration that follows.

use std::path::{Path, PathBuf};

use url::Url;
use zeroize::Zeroizing;

use crate::cli::context::Context;
use crate::cli::exit::Failure;
use crate::config::{self, Config, Environment, SecretSource};
use crate::oauth;
use crate::secret::ClientSecret;

/// What was chosen so far.
#[derive(Default)]
pub(super) struct Choices {
    pub(super) environment: Option<Environment>,
    pub(super) client_id: Option<String>,
    pub(super) scopes: Vec<String>,
    pub(super) read_only: bool,
    pub(super) redirect_uri: Option<Url>,
    pub(super) port: Option<u16>,
    pub(super) secret: Option<Secret>,
    /// The endpoints are given, such as those of a sandbox that runs alone.
    pub(super) has_endpoints: bool,
}

/// Where the client secret is.
pub(super) enum Secret {
    /// Whoever runs the proxy has it.
    Elsewhere,
    /// In this file.
    In(PathBuf),
    /// It is written to a file.
    New(Zeroizing<String>),
}

impl Choices {
    /// True if Pleo has to know the client: in all environments but the sandbox.
    pub(super) fn is_for_pleo(&self) -> bool {
        self.environment != Some(Environment::Sandbox)
    }

    /// True if there is a client with a secret: only the embedded sandbox has its own.
    pub(super) fn has_client(&self) -> bool {
        self.is_for_pleo() || self.has_endpoints
    }

    /// Pleo takes no loopback redirect URI in production, so there is no default.
    pub(super) fn needs_redirect_uri(&self) -> bool {
        self.environment == Some(Environment::Production) && self.redirect_uri.is_none()
    }

    /// The flags that are needed where nobody can be asked, but for the secret.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let has_client = self.has_client();
        let needed = [
            (self.environment.is_none(), "--environment NAME"),
            (has_client && self.client_id.is_none(), "--client-id ID"),
            (has_client && self.scopes.is_empty(), "--for PURPOSES (or --scopes SCOPES)"),
            (self.needs_redirect_uri(), "--redirect-uri URI"),
        ];
        needed.into_iter().filter(|(is_needed, _)| *is_needed).map(|(_, flag)| flag).collect()
    }

    /// The client secret to write.
    pub(super) fn new_secret(&self) -> Option<&str> {
        match &self.secret {
            Some(Secret::New(secret)) => Some(secret),
            _ => None,
        }
    }

    /// The configuration that the file will be, which is complete and valid. A new secret will be
    /// in the file `secret`.
    pub(super) fn config(&self, context: &Context, secret: &Path) -> Result<Config, Failure> {
        let flags = context.flags_for(self.environment, self.assignments(secret));
        let config = config::load_flags(&flags, &Context::homes()).map_err(Failure::usage)?;
        let mut complete = config.clone();
        match &self.secret {
            Some(Secret::In(_)) => {}
            Some(Secret::New(secret)) => {
                complete.oauth.client_secret = value(secret);
            }
            // It is not missing: whoever runs the proxy has it.
            Some(Secret::Elsewhere) | None => complete.oauth.client_secret = value("elsewhere"),
        }
        let warnings = config::check(&complete).map_err(Failure::usage)?;
        warnings.iter().for_each(|warning| status!("warning: {}", warning.sentence()));
        Ok(config)
    }

    /// The settings as `KEY=VALUE`, in TOML.
    fn assignments(&self, secret: &Path) -> Vec<String> {
        let mut sets = Vec::new();
        let mut set = |name: &str, value: toml::Value| sets.push(format!("{name}={value}"));
        if let Some(port) = self.port {
            set("listen.api", format!("127.0.0.1:{port}").into());
            set("listen.admin", format!("127.0.0.1:{}", port + 1).into());
        }
        self.client_id.iter().for_each(|id| set("client.id", id.as_str().into()));
        let file = match &self.secret {
            Some(Secret::In(file)) => Some(file.as_path()),
            Some(Secret::New(_)) => Some(secret),
            Some(Secret::Elsewhere) | None => None,
        };
        file.iter().for_each(|file| set("client.secret_file", file.display().to_string().into()));
        if !self.scopes.is_empty() {
            set("client.scopes", self.scopes.clone().into());
        }
        self.redirect_uri.iter().for_each(|uri| set("client.redirect_uri", uri.as_str().into()));
        if self.read_only {
            set("guard.read_only", true.into());
        }
        sets
    }
}

fn value(secret: &str) -> SecretSource {
    SecretSource::Value(ClientSecret::new(secret))
}

/// A client id that is one.
pub(super) fn client_id(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("must not be empty") } else { oauth::client_id(text) }
}

/// A client secret, which is one line.
pub(super) fn one_line(secret: Zeroizing<String>) -> Result<Zeroizing<String>, &'static str> {
    if secret.contains(char::is_control) {
        Err("the client secret has several lines, or control characters")
    } else {
        Ok(secret)
    }
}
