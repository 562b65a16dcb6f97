//! How this process reaches the outside, decided in one place for both HTTP clients: names, trust
//! roots, the outbound proxy, and the explanation of a failure.

mod error;
mod explain;
mod names;
mod roots;
mod route;
pub mod tunnel;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls_platform_verifier::Verifier;

pub use error::OutboundError;
pub use explain::{Cause, Explanation, explain, explanation};
pub use names::{NameError, Names};
pub use route::{OutboundProxy, ProxyChoice, ProxyVariables, proxy_url};
pub use tunnel::TunnelError;

/// A connection is closed if bytes that were sent stay unacknowledged for this long
/// (`TCP_USER_TIMEOUT`, RFC 5482).
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Silence after which TCP probes whether a connection is still open.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
/// Time between two such probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Settings of everything that leaves the machine.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Further trust roots in PEM, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The outbound proxy.
    pub proxy: ProxyChoice,
    /// The proxy variables as they were at the start.
    pub variables: ProxyVariables,
    /// True if no endpoint is https: then no CA certificates are needed.
    pub plain_only: bool,
    /// Hosts and ports that are called: the proxy that leads to one of them must be usable.
    pub destinations: Vec<(String, u16)>,
    /// How keys are exchanged.
    pub key_exchange: KeyExchange,
}

/// How TLS keys are exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum KeyExchange {
    /// With a post-quantum group (X25519MLKEM768) first: the ClientHello fills two packets.
    #[default]
    Hybrid,
    /// Without it: the ClientHello fits one packet, for middleboxes that drop a second one.
    Classic,
}

/// Names, trust roots and outbound proxy, ready for use.
#[derive(Clone)]
pub struct Outbound {
    /// TLS for both clients and for proxies, no ALPN set.
    pub tls: Arc<ClientConfig>,
    /// Name resolution.
    pub names: Names,
    routes: Arc<route::Routes>,
}

impl Outbound {
    /// Reads the roots and the proxy variables once.
    ///
    /// # Errors
    /// [`OutboundError`], which says what to install or set.
    pub fn new(settings: &Settings) -> Result<Self, OutboundError> {
        let routes = Arc::new(route::Routes::new(&settings.proxy, &settings.variables));
        let outbound = Self { tls: Arc::new(tls(settings)?), names: Names::default(), routes };
        for (host, port) in &settings.destinations {
            outbound.proxy_to(host, *port)?;
        }
        Ok(outbound)
    }

    /// The proxy that leads to a host (IPv6 in brackets); none for loopback.
    ///
    /// # Errors
    /// The value of the variable that would name it cannot be used.
    pub fn proxy_to(&self, host: &str, port: u16) -> Result<Option<OutboundProxy>, OutboundError> {
        if is_loopback(host) {
            return Ok(None);
        }
        self.routes.to(host, port).map(Option::<&OutboundProxy>::cloned)
    }
}

/// True for `localhost` and literal loopback addresses.
pub fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(settings: &Settings) -> Result<ClientConfig, OutboundError> {
    let mut provider = default_provider();
    if settings.key_exchange == KeyExchange::Classic {
        provider.kx_groups = vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    }
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(OutboundError::Tls)?;
    if settings.plain_only {
        return Ok(builder
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth());
    }
    let extra = settings
        .ca_file
        .as_ref()
        .map(|path| roots::read(path).map_err(|why| OutboundError::CaFile(path.clone(), why)));
    let extra = extra.transpose()?.unwrap_or_default();
    let verifier = Verifier::new_with_extra_roots(extra, provider).map_err(OutboundError::Roots)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_never_takes_the_proxy() {
        let proxy = ProxyChoice::Url(proxy_url("http://proxy.example:3128").unwrap());
        let settings = Settings { proxy, plain_only: true, ..Settings::default() };
        let outbound = Outbound::new(&settings).unwrap();
        for local in ["127.0.0.1", "localhost", "[::1]"] {
            assert!(outbound.proxy_to(local, 1).unwrap().is_none(), "{local}");
        }
        assert!(outbound.proxy_to("external.pleo.io", 443).unwrap().is_some());
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_an_error_if_a_destination_would_take_it() {
        let variables = ProxyVariables::of(&[("ALL_PROXY".into(), "socks5h://h:1".into())].into());
        let of = |host: &str| Settings {
            proxy: ProxyChoice::Env,
            variables: variables.clone(),
            plain_only: true,
            destinations: vec![(host.into(), 443)],
            ..Settings::default()
        };
        let error = Outbound::new(&of("external.pleo.io")).err().unwrap().to_string();
        assert!(error.contains("ALL_PROXY") && error.contains("SOCKS"), "{error}");
        assert!(Outbound::new(&of("127.0.0.1")).is_ok(), "the sandbox needs no proxy");
    }

    #[test]
    fn a_ca_file_that_cannot_be_used_is_an_error_that_names_it_and_not_the_systems_store() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = Settings { ca_file: Some(file.path().into()), ..Settings::default() };
        for text in ["", "-----BEGIN CERTIFICATE-----\nMAMCAQU=\n-----END CERTIFICATE-----\n"] {
            std::fs::write(file.path(), text).unwrap();
            let error = Outbound::new(&settings).err().unwrap().to_string();
            assert!(error.contains("endpoints.ca_file") && !error.contains("system"), "{error}");
        }
    }

    #[test]
    fn the_classic_key_exchange_leaves_the_large_group_out() {
        let groups = |key_exchange| {
            let settings = Settings { plain_only: true, key_exchange, ..Settings::default() };
            let tls = Outbound::new(&settings).unwrap().tls;
            tls.crypto_provider().kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>()
        };
        let large = rustls::NamedGroup::X25519MLKEM768;
        assert!(groups(KeyExchange::Hybrid).contains(&large));
        assert!(
            !groups(KeyExchange::Classic).contains(&large)
                && groups(KeyExchange::Classic).len() == 3
        );
    }
}
