//! How this process reaches the outside: trust roots and the outbound proxy, one decision for both HTTP clients.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::client::proxy::matcher::Matcher;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;
use url::Url;

/// Settings of everything that leaves the machine.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Extra trust roots in PEM, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The outbound proxy.
    pub proxy: ProxyChoice,
    /// True when no endpoint is https: then a machine without any CA certificates will do.
    pub plain_only: bool,
}

/// Which outbound proxy is used, never for loopback.
#[derive(Clone, Debug, Default)]
pub enum ProxyChoice {
    /// None.
    #[default]
    Off,
    /// What the usual variables say.
    Variables {
        /// `HTTPS_PROXY`.
        https: String,
        /// `HTTP_PROXY`.
        http: String,
        /// `ALL_PROXY`.
        all: String,
        /// `NO_PROXY`.
        no: String,
    },
    /// This one, for everything but loopback.
    Url(Url),
}

/// Why TLS or the outbound proxy could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The extra roots cannot be read.
    #[error("endpoints.ca_file {} cannot be used: {}", .0.display(), .1)]
    CaFile(PathBuf, String),
    /// The system's own roots cannot be read.
    #[error(
        "the system's certificate store cannot be used: {0}; install the package ca-certificates or set SSL_CERT_FILE"
    )]
    Roots(rustls::Error),
    /// The platform's verifier or protocol versions are unusable.
    #[error("TLS cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// Trust roots and outbound proxy, ready for use.
#[derive(Clone)]
pub struct Outbound {
    /// TLS for both clients, no ALPN set.
    pub tls: Arc<ClientConfig>,
    matcher: Option<Arc<Matcher>>,
}

impl Outbound {
    /// Reads the roots and the proxy variables once.
    ///
    /// # Errors
    /// [`OutboundError`], which says what to install or set.
    pub fn new(settings: &Settings) -> Result<Self, OutboundError> {
        let matcher = match &settings.proxy {
            ProxyChoice::Off => None,
            ProxyChoice::Variables { https, http, all, no } => {
                let builder = Matcher::builder().all(all.as_str()).http(http.as_str());
                Some(builder.https(https.as_str()).no(no.as_str()).build())
            }
            ProxyChoice::Url(url) => Some(Matcher::builder().all(url.as_str()).build()),
        };
        Ok(Self { tls: Arc::new(tls(settings)?), matcher: matcher.map(Arc::new) })
    }

    /// The proxy to take for an address, and its `Proxy-Authorization`; none for loopback.
    pub fn proxy_for(&self, destination: &http::Uri) -> Option<hyper_util::client::proxy::matcher::Intercept> {
        let host = destination.host()?;
        if is_loopback(host) {
            return None;
        }
        self.matcher.as_ref()?.intercept(destination)
    }
}

/// True for `localhost` and literal loopback addresses.
pub fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(settings: &Settings) -> Result<ClientConfig, OutboundError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(OutboundError::Tls)?;
    if settings.plain_only {
        return Ok(builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
    }
    let extra = extra_roots(settings)?;
    let verifier = Verifier::new_with_extra_roots(extra, provider).map_err(OutboundError::Roots)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

fn extra_roots(settings: &Settings) -> Result<Vec<CertificateDer<'static>>, OutboundError> {
    let Some(path) = &settings.ca_file else { return Ok(Vec::new()) };
    let fail = |why: String| OutboundError::CaFile(path.clone(), why);
    let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match roots {
        Ok(roots) if roots.is_empty() => Err(fail("it holds no PEM certificate".into())),
        Ok(roots) => Ok(roots),
        Err(error) => Err(fail(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_never_takes_the_proxy() {
        let settings = Settings {
            proxy: ProxyChoice::Url(Url::parse("http://proxy.example:3128").unwrap()),
            plain_only: true,
            ca_file: None,
        };
        let outbound = Outbound::new(&settings).unwrap();
        for local in ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:9/"] {
            assert!(outbound.proxy_for(&local.parse().unwrap()).is_none(), "{local}");
        }
        assert!(outbound.proxy_for(&"https://external.pleo.io/".parse().unwrap()).is_some());
    }

    #[test]
    fn an_empty_ca_file_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let settings = Settings { ca_file: Some(file.path().into()), ..Settings::default() };
        let error = Outbound::new(&settings).err().unwrap().to_string();
        assert!(error.contains("endpoints.ca_file") && error.contains("no PEM"), "{error}");
    }
}
