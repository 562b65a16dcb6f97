//! `config check`: what is missing before anything can work, and whether the files that are named would do.

use std::path::Path;

use super::problem::ConfigError;
use super::{Config, SECRET_LIMIT, SECRET_VARIABLE, SecretSource};
use crate::oauth::CredentialsError;
use crate::private_file;

/// The client id of `examples/` and of the README.
const EXAMPLE_ID: &str = "your-client-id";
/// Names that nobody can own (RFC 2606), as the examples use them.
const EXAMPLE_DOMAINS: [&str; 4] = ["example.com", "example.org", "example.net", "example"];

impl Config {
    /// Looks at everything that [`load`](super::load) leaves alone, so that commands that do not need it work without.
    /// Returns what is odd and works.
    ///
    /// # Errors
    /// All that is missing and all files that would not do, as text for a person.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        let mut problems = self.missing();
        problems.extend(
            [
                self.secret_fault(),
                self.guard.local_key_file.as_ref().and_then(|path| local_key_fault(path)),
                self.endpoints.ca_file.as_ref().and_then(|path| certificate_fault(path)),
            ]
            .into_iter()
            .flatten(),
        );
        match problems.is_empty() {
            true => Ok(self.oddities()),
            false => Err(ConfigError::all(problems)),
        }
    }

    /// What is odd and works, for the start and for `config check`.
    pub fn oddities(&self) -> Vec<String> {
        let has_space = self.client.secret.read().is_ok_and(|secret| secret.has_outer_space());
        let space =
            "the client secret begins or ends with a space, which is sent with it; if it is none of it, remove it";
        self.warnings.iter().cloned().chain(has_space.then(|| space.to_owned())).collect()
    }

    /// What a login needs. The embedded sandbox brings all of it.
    fn missing(&self) -> Vec<ConfigError> {
        if self.endpoints.embedded_sandbox {
            return Vec::new();
        }
        let client = &self.client;
        let mut problems = Vec::new();
        let mut report = |title: &str, help: &str| problems.push(ConfigError::plain(title, help));
        match client.id.as_deref() {
            None => report("`client.id` is not set", "write, below [client], the id that Pleo gave you: id = \"...\""),
            Some(EXAMPLE_ID) => report("`client.id` is still the example's", "write the id that Pleo gave you"),
            Some(_) => {}
        }
        if matches!(client.secret, SecretSource::None) {
            let help = format!(
                "put it into a file of mode 600 and write, below [client]: secret_file = \"client-secret\"; or set \
                 {SECRET_VARIABLE}"
            );
            report("the client secret is not set", &help);
        }
        if client.scopes.is_empty() {
            let help = "write, below [client], those agreed with Pleo: scopes = [\"export-jobs:read\"]";
            report("`client.scopes` is empty, so a login would ask for nothing", help);
        }
        if client.redirect_uri.as_ref().and_then(|uri| uri.host_str()).is_some_and(is_example) {
            report("`client.redirect_uri` is still the example's", "write the one that is registered at Pleo");
        }
        problems
    }

    fn secret_fault(&self) -> Option<ConfigError> {
        match self.client.secret.read() {
            Ok(_) | Err(CredentialsError::NoSecret) => None,
            Err(error) => Some(ConfigError::text(error)),
        }
    }
}

fn is_example(host: &str) -> bool {
    EXAMPLE_DOMAINS
        .iter()
        .any(|domain| host == *domain || host.strip_suffix(domain).is_some_and(|it| it.ends_with('.')))
}

fn local_key_fault(path: &Path) -> Option<ConfigError> {
    let error = private_file::read_text(path, SECRET_LIMIT).err()?;
    Some(ConfigError::text(format!("`guard.local_key_file`: {error}")))
}

fn certificate_fault(path: &Path) -> Option<ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(content) if content.contains("-----BEGIN CERTIFICATE-----") => None,
        Ok(_) => Some(ConfigError::text(format!("`endpoints.ca_file`: {} holds no PEM certificate", path.display()))),
        Err(error) => {
            Some(ConfigError::text(format!("`endpoints.ca_file`: {} cannot be read: {error}", path.display())))
        }
    }
}
