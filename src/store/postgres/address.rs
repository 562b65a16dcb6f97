//! Where the database is: read from its URL, and what of it may be shown.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::private_file::{self, PrivateFileError};
use crate::secret::DatabaseSecret;
use crate::store::database::UrlSource;

/// Most bytes of a file with a URL.
const MAX_FILE: u64 = 16 * 1024;
/// Time to connect to one address.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection is given up if bytes that were sent stay unacknowledged for this long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Silence after which TCP probes whether a connection is still open, and the time between probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_PROBES: u32 = 2;

/// What a URL looks like, for errors.
const EXAMPLE: &str = "postgresql://pleo_proxy:PASSWORD@db.example:5432/pleo?sslmode=verify-full";

/// Why a URL cannot be used. It never shows one.
#[derive(Debug, thiserror::Error)]
pub(super) enum UrlError {
    /// None is configured.
    #[error(
        "the URL of the database is not set; write it to a file with mode 600 and set, below [store]: url_file = \"database-url\"; or set PLEO_PROXY_STORE_URL"
    )]
    Missing,
    /// The file cannot be read.
    #[error("store.url_file: {0}")]
    File(#[from] PrivateFileError),
    /// It is no URL of a database.
    #[error("the URL of the database cannot be read ({0}); write one such as {EXAMPLE}")]
    Form(String),
    /// It names no host.
    #[error(
        "the URL of the database names no host; write one such as {EXAMPLE}, or for a unix socket postgresql:///pleo?host=/run/postgresql&user=pleo_proxy"
    )]
    NoHost,
    /// Some of its hosts are unix sockets and others are not.
    #[error("the URL of the database names unix sockets and other hosts; name hosts of one kind")]
    MixedHosts,
    /// It asks for a connection without TLS.
    #[error(
        "the URL of the database asks for a connection without TLS (sslmode=disable), on which anybody on the way could read the tokens; remove sslmode, or use a unix socket: postgresql:///pleo?host=/run/postgresql"
    )]
    Plain,
    /// It names an address to connect to in place of the host.
    #[error(
        "the URL of the database sets hostaddr, which leads past the checks of its host; remove hostaddr, and name the host alone"
    )]
    HostAddress,
    /// One of its at signs ends the user and password too early, or too late.
    #[error(
        "the URL of the database has an @ where none can be; write @ in the user and password as %40, / as %2F, ? as %3F and : as %3A"
    )]
    AtSign,
}

/// Reads the URL.
pub(super) fn read(source: &UrlSource) -> Result<DatabaseSecret, UrlError> {
    match source {
        UrlSource::None => Err(UrlError::Missing),
        UrlSource::Value(url) => Ok(url.clone()),
        UrlSource::File(path) => {
            let text = private_file::read_text(path, MAX_FILE)?;
            Ok(DatabaseSecret::new(text.trim()))
        }
    }
}

/// A database that can be connected to.
#[derive(Clone)]
pub(super) struct Address {
    /// One for each host, in their order.
    pub(super) configs: Vec<Config>,
    /// The URL, what is in it before its host, and its password, to be known as secrets.
    pub(super) secrets: Vec<DatabaseSecret>,
    /// True if it is reached through a unix socket.
    pub(super) is_local: bool,
    /// Host, database and user, for people.
    pub(super) shown: String,
}

impl Address {
    pub(super) fn parse(url: &DatabaseSecret) -> Result<Self, UrlError> {
        let text = url.expose().trim();
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(UrlError::Form(
                "it begins with neither postgresql:// nor postgres://".into(),
            ));
        }
        let login = login_of(text)?;
        let (text, mode) = without_mode(text);
        let mut config: Config = text.parse().map_err(|error| UrlError::Form(explain(&error)))?;
        let is_unix = |host: &Host| matches!(host, Host::Unix(_));
        let hosts = config.get_hosts().to_vec();
        let is_local = hosts.iter().all(is_unix);
        if !config.get_hostaddrs().is_empty() {
            return Err(UrlError::HostAddress);
        }
        if hosts.iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(UrlError::AtSign);
        }
        if hosts.is_empty() {
            return Err(UrlError::NoHost);
        }
        if !is_local && hosts.iter().any(is_unix) {
            return Err(UrlError::MixedHosts);
        }
        if !is_local && mode.as_deref() == Some("disable") {
            return Err(UrlError::Plain);
        }
        config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        config
            .connect_timeout(CONNECT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .keepalives_idle(KEEPALIVE_TIME)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_PROBES)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("pleo-proxy");
        }
        let password = config.get_password().map(String::from_utf8_lossy);
        let secrets = [Some(url.clone()), login, password.map(DatabaseSecret::new)];
        let secrets = secrets.into_iter().flatten().collect();
        let shown = shown(&config);
        let configs = one_each(&config);
        Ok(Self { configs, secrets, is_local, shown })
    }
}

impl Address {
    /// Each host alone with its name, whether it can be written or not.
    pub(super) fn each_host(&self) -> Vec<(String, Self)> {
        let alone = |config: &Config| {
            let mut config = config.clone();
            config.target_session_attrs(TargetSessionAttrs::Any);
            (hosts(&config).join(","), Self { configs: vec![config], ..self.clone() })
        };
        self.configs.iter().map(alone).collect()
    }
}

/// What stands before the host: user and password as they are written. The client ends them at the
/// first at sign, wherever that is: in a password, the rest of it would be taken for the host, and
/// shown.
fn login_of(url: &str) -> Result<Option<DatabaseSecret>, UrlError> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let Some((login, rest)) = rest.split_once('@') else { return Ok(None) };
    let user = login.split(':').next().unwrap_or_default();
    if rest.contains('@') || user.contains(['/', '?']) {
        return Err(UrlError::AtSign);
    }
    Ok(login.contains(':').then(|| DatabaseSecret::new(login)))
}

/// The URL without `sslmode`, and what that was: the certificate is always verified in full, and
/// the client does not know the words for it.
fn without_mode(url: &str) -> (String, Option<String>) {
    let Some((before, query)) = url.split_once('?') else { return (url.to_owned(), None) };
    let of = |pair: &&str| pair.split_once('=').is_some_and(|(name, _)| name == "sslmode");
    let (modes, others): (Vec<_>, Vec<_>) = query.split('&').partition(of);
    let mode = modes.last().and_then(|pair| pair.split_once('=')).map(|(_, mode)| mode.to_owned());
    let query = others.join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    (format!("{before}{separator}{query}"), mode)
}

/// What is wrong with it. The client names the option, never its value.
fn explain(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.unwrap_or_else(|| error.to_string())
}

/// The same for each host alone: the client gives one that accepts and says nothing all the time that
/// there is for all of them.
fn one_each(config: &Config) -> Vec<Config> {
    let hosts = config.get_hosts().iter().enumerate();
    hosts
        .map(|(at, host)| {
            let mut one = Config::new();
            match host {
                Host::Tcp(name) => one.host(name),
                Host::Unix(path) => one.host_path(path),
            };
            let port = config.get_ports().get(at).or_else(|| config.get_ports().first());
            port.map(|port| one.port(*port));
            config.get_user().map(|user| one.user(user));
            config.get_password().map(|password| one.password(password));
            config.get_dbname().map(|name| one.dbname(name));
            config.get_options().map(|options| one.options(options));
            config.get_application_name().map(|name| one.application_name(name));
            config.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
            config.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
            config.get_keepalives_interval().map(|pause| one.keepalives_interval(pause));
            config.get_keepalives_retries().map(|probes| one.keepalives_retries(probes));
            one.keepalives(config.get_keepalives())
                .keepalives_idle(config.get_keepalives_idle())
                .ssl_mode(config.get_ssl_mode())
                .ssl_negotiation(config.get_ssl_negotiation())
                .channel_binding(config.get_channel_binding())
                .target_session_attrs(config.get_target_session_attrs());
            one
        })
        .collect()
}

/// The hosts with their ports, for people.
fn hosts(config: &Config) -> Vec<String> {
    let host = |(at, host): (usize, &Host)| {
        let name = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        let port = config.get_ports().get(at).or_else(|| config.get_ports().first());
        port.map_or(name.clone(), |port| format!("{name}:{port}"))
    };
    config.get_hosts().iter().enumerate().map(host).collect()
}

fn shown(config: &Config) -> String {
    let user = config.get_user().unwrap_or("the user of the process");
    let database = config.get_dbname().unwrap_or(user);
    format!("PostgreSQL at {}, database {database} as {user}", hosts(config).join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, UrlError> {
        Address::parse(&DatabaseSecret::new(url))
    }

    #[test]
    fn every_host_but_a_unix_socket_is_reached_by_tls_whatever_the_mode() {
        for mode in ["", "?sslmode=verify-full", "?sslmode=verify-ca", "?sslmode=prefer"] {
            let address = parse(&format!("postgresql://me:canary@127.0.0.1/pleo{mode}")).unwrap();
            assert_eq!(address.configs[0].get_ssl_mode(), SslMode::Require, "{mode}");
            assert!(!address.is_local);
        }
        let refused = parse("postgresql://me:canary@localhost/pleo?a=b&sslmode=disable");
        assert!(refused.is_err());
        let refused = parse("postgresql://me:canary@localhost/pleo?sslmode=disable");
        assert!(matches!(refused, Err(UrlError::Plain)));
        let local =
            parse("postgresql:///pleo?host=/run/postgresql&user=me&sslmode=disable").unwrap();
        assert!(local.is_local);
        let mixed = parse("postgresql://db.example/pleo?host=/run/postgresql");
        assert!(matches!(mixed, Err(UrlError::MixedHosts)));
    }

    #[test]
    fn host_database_and_user_are_shown_and_no_password() {
        let address =
            parse("postgres://me:canary@db.example:5433/pleo?sslmode=verify-full").unwrap();
        assert_eq!(address.shown, "PostgreSQL at db.example:5433, database pleo as me");
        assert!(address.secrets.iter().any(|secret| secret.expose() == "canary"));
    }

    #[test]
    fn an_address_in_place_of_the_host_is_refused() {
        for url in [
            "postgresql:///pleo?host=/nonexistent&hostaddr=127.0.0.1&user=me",
            "postgresql://me:canary@db.example/pleo?hostaddr=10.0.0.1",
            "postgresql:///pleo?hostaddr=127.0.0.1&user=me",
            "postgresql:///pleo?host=/nonexistent&host%61ddr=127.0.0.1&user=me",
        ] {
            assert!(matches!(parse(url), Err(UrlError::HostAddress)), "{url}");
        }
    }

    #[test]
    fn a_password_with_an_at_sign_is_refused_and_no_part_of_it_shown() {
        for url in [
            "postgresql://me:pa@canary@db.example/pleo",
            "postgresql://me:pa@can/ary@db.example/pleo",
            "postgresql://me:pa@can?ary@db.example/pleo",
            "postgresql://me:pa@can,ary@db.example:5432/pleo?sslmode=verify-full",
            "postgresql://me@canary:pass@db.example/pleo",
            "postgresql:///pleo?host=/run/postgresql&user=me&password=can@ary",
            "postgresql:///pleo?host=/run/postgresql&user=me&password=c:an@ary",
            "postgresql://me:pass@canary%40db.example/pleo",
        ] {
            let error = parse(url).err().unwrap();
            assert!(matches!(error, UrlError::AtSign), "{url}: {error}");
            assert!(!error.to_string().contains("ary") && error.to_string().contains("%40"));
        }
        let address = parse("postgresql://me%40corp:pa%40canary@db.example/pleo").unwrap();
        assert_eq!(address.shown, "PostgreSQL at db.example:5432, database pleo as me@corp");
        let secrets: Vec<_> = address.secrets.iter().map(DatabaseSecret::expose).collect();
        assert!(secrets.contains(&"pa@canary") && secrets.contains(&"me%40corp:pa%40canary"));
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_shown() {
        for bad in [
            "",
            "canary",
            "host=db password=canary",
            "postgresql://me:canary@db:port/x",
            "postgresql:///pleo",
            "postgresql://me:canary@db/x?canary=1",
        ] {
            let error = parse(bad).err().unwrap().to_string();
            assert!(!error.contains("me:canary") && error.contains("postgresql://"), "{error}");
        }
    }
}
