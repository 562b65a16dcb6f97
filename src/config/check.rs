//! Checks across settings: conflicts, what is missing for a login, and whether the named files can
//! be used.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::environment::Environment;
use super::error::ConfigError;
use super::inputs::SECRET_VARIABLE;
use super::layers::Reader;
use super::settings::Config;
use super::show::store_key_origin;
use crate::accounts;
use crate::diagnostic::{Code, Diagnostic};
use crate::oauth::endpoint::Origin;
use crate::oauth::{CredentialsError, SecretSource};
use crate::server::Address;
#[cfg(feature = "postgres")]
use crate::store::{self, PostgresStore};

/// The client id of `examples/` and of the README.
const EXAMPLE_ID: &str = "your-client-id";
/// Names that nobody can own (RFC 2606), as the examples use them.
const EXAMPLE_DOMAINS: [&str; 4] = ["example.com", "example.org", "example.net", "example"];
/// Shorter intervals are for tests only: Pleo's refresh tokens are valid for 60 days.
const MIN_IDLE_REFRESH: Duration = Duration::from_secs(3600);

/// Reports settings that conflict.
pub(super) fn together(config: &Config, reader: &mut Reader<'_>) {
    let listeners =
        [("listen.api", config.listen.api.tcp()), ("listen.admin", config.listen.admin)];
    for (name, listener) in listeners.into_iter().filter_map(|(name, at)| Some((name, at?))) {
        if !listener.ip().to_canonical().is_loopback() && config.callers.local_key_file.is_none() {
            let problem = "is open to other machines, and guard.local_key_file is not set; write 127.0.0.1 instead, or \
                           set guard.local_key_file (see docs/security.md)";
            reader.invalid(name, problem);
        }
        if let Some(endpoint) = own_endpoint(config, listener) {
            let (at, other) =
                if reader.layers.is_given(endpoint) { (endpoint, name) } else { (name, endpoint) };
            let problem = format!(
                "has the same address as `{other}`: the proxy would call itself; write another port, or the real endpoint"
            );
            reader.invalid(at, problem);
        }
    }
    if let (Some(api), Some(admin)) = (config.listen.api.tcp(), config.listen.admin)
        && Address::collide(api, admin)
    {
        let problem = "uses the port of the other listener: listen.api and listen.admin must differ; give each a port \
                       of its own; port 0 takes any free one";
        reader.invalid(given(reader, ["listen.admin", "listen.api"]), problem);
    }
    #[cfg(feature = "postgres")]
    if config.embedded_sandbox && config.store.kind == store::Kind::Postgres {
        let problem = "is not for the embedded sandbox, whose accounts end with its process; set endpoints.authorize, \
                       endpoints.token and endpoints.api, or another environment";
        reader.invalid("store.kind", problem);
    }
    if config.tokens.drain > config.tokens.hold {
        let setting = given(reader, ["tokens.drain", "tokens.hold"]);
        let how = if setting == "tokens.hold" { "short" } else { "long" };
        let problem = format!(
            "is too {how}: tokens.drain must not be longer than tokens.hold; requests wait for the drain and the \
             token request together, 2s and 15s by default"
        );
        reader.invalid(setting, problem);
    }
    if config.environment() != Environment::Sandbox && config.tokens.idle_refresh < MIN_IDLE_REFRESH
    {
        reader.invalid("tokens.idle_refresh", "must be between 1h and 30d");
    }
}

/// The first one if it is set, else the second.
fn given(reader: &Reader<'_>, [first, second]: [&'static str; 2]) -> &'static str {
    if reader.layers.is_given(first) { first } else { second }
}

/// The endpoint that is at the address of one of our listeners.
fn own_endpoint(config: &Config, listener: SocketAddr) -> Option<&'static str> {
    let oauth = &config.oauth;
    let candidates: [(&str, Option<Origin>); 4] = [
        ("endpoints.api", Some(oauth.api.clone())),
        ("endpoints.token", Some(oauth.token.origin())),
        ("endpoints.authorize", Some(oauth.authorize.origin())),
        ("endpoints.introspect", oauth.introspect.as_ref().map(|endpoint| endpoint.origin())),
    ];
    let leads_here = |origin: Option<Origin>| {
        let address = origin.and_then(|origin| origin.literal());
        address.is_some_and(|address| Address::collide(address, listener))
    };
    candidates.into_iter().find_map(|(name, origin)| leads_here(origin).then_some(name))
}

/// Checks what [`load`](super::load) does not, because not every command needs it. Returns
/// warnings.
///
/// # Errors
/// Everything that is missing for a login, and files that cannot be used.
pub fn check(config: &Config) -> Result<Vec<Diagnostic>, ConfigError> {
    let mut found = missing(config);
    found.extend(secret_problem(config));
    found.extend(
        config
            .guard()
            .err()
            .map(|error| Diagnostic::of(Code::File, format!("`guard.local_key_file`: {error}"))),
    );
    for (name, account) in &config.accounts {
        let read = account.api_key_file.as_ref().map(|path| accounts::read_key_file(path));
        found.extend(read.and_then(Result::err).map(|error| {
            Diagnostic::of(Code::File, format!("`accounts.{name}.api_key_file`: {error}"))
        }));
    }
    match config.sealing() {
        Err(error) => found
            .push(Diagnostic::of(Code::File, format!("`{}`: {error}", store_key_origin(config)))),
        #[cfg(feature = "postgres")]
        Ok(sealing) if config.store.kind == store::Kind::Postgres => {
            let checked = PostgresStore::check(&config.database, &sealing);
            found.extend(checked.err().map(|error| Diagnostic::of(Code::File, error)));
        }
        Ok(_) => {}
    }
    found.extend(config.outbound.ca_file.as_ref().and_then(|path| certificate_problem(path)));
    if found.is_empty() { Ok(oddities(config)) } else { Err(ConfigError(found)) }
}

/// Warnings, for the start and for `config check`.
pub fn oddities(config: &Config) -> Vec<Diagnostic> {
    let has_space = config.oauth.client_secret.read().is_ok_and(|secret| secret.has_outer_space());
    let title = "the client secret begins or ends with a space, which is sent with it";
    let fix = "remove the space if it is not part of the secret";
    let space = has_space.then(|| Diagnostic::warning(Code::Oddity, title, fix));
    config.warnings.iter().cloned().chain(space).collect()
}

/// What is missing for a login. The embedded sandbox provides everything.
fn missing(config: &Config) -> Vec<Diagnostic> {
    let mut with_key = config.accounts.values().filter(|account| account.api_key_file.is_some());
    let needs_no_client = config.oauth.client_id.is_none() && with_key.next().is_some();
    if config.embedded_sandbox || needs_no_client {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut report =
        |code: Code, title: &str, fix: &str| found.push(Diagnostic::error(code, title, fix));
    match config.oauth.client_id.as_deref() {
        None => report(
            Code::Missing,
            "`client.id` is not set",
            "write, below [client], the id that Pleo gave you: id = \"...\"; without a client, use an API key: accounts.NAME.api_key_file",
        ),
        Some(EXAMPLE_ID) => report(
            Code::Placeholder,
            "`client.id` still has the value of the example",
            "write the id that Pleo gave you",
        ),
        Some(_) => {}
    }
    if matches!(config.oauth.client_secret, SecretSource::None) {
        let fix = format!(
            "write it to a file with mode 600 and set, below [client]: secret_file = \"client-secret\"; or set \
             {SECRET_VARIABLE}"
        );
        report(Code::ClientSecret, "the client secret is not set", &fix);
    }
    if config.oauth.scopes.is_empty() {
        let fix =
            "write, below [client], the scopes agreed with Pleo: scopes = [\"export-jobs:read\"]";
        report(Code::Missing, "`client.scopes` is empty, so a login would ask for nothing", fix);
    }
    if config.login.redirect_uri.as_ref().and_then(|uri| uri.host_str()).is_some_and(is_example) {
        report(
            Code::Placeholder,
            "`client.redirect_uri` still has the value of the example",
            "write the redirect URI that is registered at Pleo",
        );
    }
    found
}

fn secret_problem(config: &Config) -> Option<Diagnostic> {
    match config.oauth.client_secret.read() {
        Ok(_) | Err(CredentialsError::NoSecret) => None,
        Err(error) => Some(Diagnostic::of(Code::ClientSecret, error)),
    }
}

fn is_example(host: &str) -> bool {
    let is_below = |domain: &str| {
        host.strip_suffix(domain).is_some_and(|it| it.is_empty() || it.ends_with('.'))
    };
    EXAMPLE_DOMAINS.into_iter().any(is_below)
}

fn certificate_problem(path: &Path) -> Option<Diagnostic> {
    let title = match std::fs::read_to_string(path) {
        Ok(content) if content.contains("-----BEGIN CERTIFICATE-----") => return None,
        Ok(_) => format!("`endpoints.ca_file`: {} holds no PEM certificate", path.display()),
        Err(error) => format!("`endpoints.ca_file`: {} cannot be read: {error}", path.display()),
    };
    let fix = "name a file of PEM certificates, or remove the setting";
    Some(Diagnostic::error(Code::File, title, fix))
}
