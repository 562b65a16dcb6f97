//! Which outbound proxy leads to a destination, by the setting or by the usual variables, which are
//! read as curl reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use url::Url;

use super::error::OutboundError;

/// Which outbound proxy is used, never for loopback.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// None.
    #[default]
    Off,
    /// What [`ProxyVariables`] say.
    Env,
    /// This one, for everything but loopback; may carry a user and a password.
    Url(Url),
}

impl ProxyChoice {
    /// True if it carries a user or a password, which are not shown.
    pub fn has_password(&self) -> bool {
        matches!(self, Self::Url(url) if url.password().is_some() || !url.username().is_empty())
    }
}

impl FromStr for ProxyChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "env" => Ok(Self::Env),
            "off" => Ok(Self::Off),
            text if text.starts_with("http://") || text.starts_with("https://") => {
                proxy_url(text).map(Self::Url)
            }
            _ => Err(
                "must be env, off or a URL that starts with http:// or https:// (SOCKS proxies are not supported)",
            ),
        }
    }
}

/// As the setting has it, without user and password.
impl fmt::Display for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Env => f.write_str("env"),
            Self::Url(url) => f.write_str(&without_userinfo(url.as_str())),
        }
    }
}

impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The usual variables that name outbound proxies, and their values, which may carry passwords.
/// `HTTP_PROXY` is for `http` destinations, of which there are none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables(BTreeMap<String, String>);

impl ProxyVariables {
    const NAMES: [&str; 8] = [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ];

    /// Those of an environment that are set.
    pub fn of(environment: &BTreeMap<String, String>) -> Self {
        let set = |name: &&str| environment.get(*name).filter(|value| !value.is_empty());
        Self(
            Self::NAMES
                .iter()
                .filter_map(|name| Some(((*name).to_owned(), set(name)?.clone())))
                .collect(),
        )
    }

    /// The value of a variable by its upper-case name, empty if it is not set; its lower-case twin
    /// goes first, as for curl.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .get(&name.to_ascii_lowercase())
            .or_else(|| self.0.get(name))
            .map(String::as_str)
            .unwrap_or_default()
    }

    /// Names and values with user and password taken out: fit to be shown.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| (name.as_str(), without_userinfo(value)))
    }
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

/// A URL, or what a proxy variable holds instead, without user and password.
fn without_userinfo(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}")
}

/// An outbound proxy.
#[derive(Clone)]
pub struct OutboundProxy {
    /// The setting or the variable that names it.
    pub named_by: &'static str,
    /// Where it is; may carry a user and a password.
    url: Url,
}

impl OutboundProxy {
    /// True if it is spoken to over TLS.
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Its host name or address, IPv6 in brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// Its URL, user and password included, for a client that takes them from there.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// `Proxy-Authorization` (RFC 7617), if there is a user or a password.
    pub fn authorization(&self) -> Option<HeaderValue> {
        if self.url.username().is_empty() && self.url.password().is_none() {
            return None;
        }
        let mut pair: Vec<u8> = percent_decode_str(self.url.username()).collect();
        pair.push(b':');
        pair.extend(percent_decode_str(self.url.password().unwrap_or_default()));
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for OutboundProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{} ({})", self.url.scheme(), self.host(), self.port(), self.named_by)
    }
}

/// The proxy, if there is one, and the destinations that bypass it.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    /// The proxy, or why its value cannot be used: an error only if a destination needs the proxy.
    proxy: Option<Result<OutboundProxy, OutboundError>>,
    no: Vec<Exception>,
}

/// An item of `NO_PROXY`.
#[derive(Clone, Debug)]
struct Exception {
    /// A name with its suffixes, an address, a network, or `*`.
    host: String,
    port: Option<u16>,
}

impl Routes {
    pub(super) fn new(choice: &ProxyChoice, variables: &ProxyVariables) -> Self {
        match choice {
            ProxyChoice::Off => Self::default(),
            ProxyChoice::Url(url) => {
                let proxy = OutboundProxy { named_by: "upstream.proxy", url: url.clone() };
                Self { proxy: Some(Ok(proxy)), no: Vec::new() }
            }
            ProxyChoice::Env => {
                let first = ["HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, variables.get(name)));
                let set = first.into_iter().find(|(_, value)| !value.trim().is_empty());
                let read = |(named_by, value): (&'static str, &str)| match proxy_url(value) {
                    Ok(url) => Ok(OutboundProxy { named_by, url }),
                    Err(problem) => Err(OutboundError::Proxy { named_by, problem }),
                };
                Self { proxy: set.map(read), no: exceptions(variables.get("NO_PROXY")) }
            }
        }
    }

    /// The proxy that leads to a host, which is not loopback.
    pub(super) fn to(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Option<&OutboundProxy>, OutboundError> {
        match &self.proxy {
            Some(proxy) if !self.is_exception(host, port) => {
                proxy.as_ref().map(Some).map_err(Clone::clone)
            }
            _ => Ok(None),
        }
    }

    /// The library matches suffixes, addresses and networks; ports and `*.` are handled here.
    fn is_exception(&self, host: &str, port: u16) -> bool {
        let applicable =
            self.no.iter().filter(|exception| exception.port.is_none_or(|only| only == port));
        let hosts: Vec<_> = applicable.map(|exception| exception.host.as_str()).collect();
        let Ok(destination) = http::Uri::try_from(format!("https://{host}:{port}/")) else {
            return false;
        };
        let anything = Matcher::builder().all("http://proxy.invalid").no(hosts.join(","));
        anything.build().intercept(&destination).is_none()
    }
}

/// Items are separated by commas, blanks or both.
fn exceptions(no: &str) -> Vec<Exception> {
    no.split([',', ' ', '\t', '\r', '\n']).filter(|item| !item.is_empty()).map(exception).collect()
}

fn exception(item: &str) -> Exception {
    let (host, port) = match item.rsplit_once(':') {
        // More than one colon without brackets is an address alone.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (item, None),
        },
        _ => (item, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host =
        host.strip_prefix("*.").map_or_else(|| host.to_owned(), |suffix| format!(".{suffix}"));
    // A name may end with the dot of the root.
    Exception { host: host.trim_end_matches('.').to_owned(), port }
}

/// Reads a proxy's address: `http://` or `https://`, or neither, which is `http://`; then user and
/// password, percent-encoded where need be, host and port.
///
/// # Errors
/// What is wrong with it, without repeating it: it may contain a password.
pub fn proxy_url(text: &str) -> Result<Url, &'static str> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err("must start with http:// or https:// (SOCKS proxies are not supported)");
    }
    // The URL parser would repair these, or read them as the end of the host.
    if rest.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        return Err(
            "must be ASCII without blanks and backslashes; in user and password write them as %XX",
        );
    }
    let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| "is not a host and a port")?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !is_bare || url.port() == Some(0) || url.host_str().is_none_or(str::is_empty) {
        return Err(
            "must be a host and a port with nothing behind; in user and password write / ? # as %2F %3F %23",
        );
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(proxy: &str, no: &str) -> Routes {
        of([("HTTPS_PROXY", proxy), ("NO_PROXY", no)])
    }

    fn of<const N: usize>(variables: [(&str, &str); N]) -> Routes {
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Routes::new(&ProxyChoice::Env, &ProxyVariables::of(&variables.into()))
    }

    #[test]
    fn a_proxy_is_read_as_people_write_it() {
        for (text, tls, host, port) in [
            ("proxy.example:3128", false, "proxy.example", 3128),
            (" http://proxy.example:3128/ ", false, "proxy.example", 3128),
            ("HTTP://Proxy.Example:3128", false, "proxy.example", 3128),
            ("https://proxy.example", true, "proxy.example", 443),
            ("user:secret@[::1]:8080", false, "[::1]", 8080),
        ] {
            let routes = routes(text, "");
            let proxy = routes.to("external.pleo.io", 443).unwrap().unwrap();
            assert_eq!((proxy.is_tls(), proxy.host(), proxy.port()), (tls, host, port), "{text}");
            assert!(!format!("{proxy:?}{routes:?}").contains("secret"));
        }
    }

    #[test]
    fn a_password_is_decoded_and_may_hold_an_at_sign() {
        for (text, pair) in [
            ("http://DOM%5Cuser:p%40ss%25@h:1", "DOM\\user:p@ss%"),
            ("http://user:p@ss@h:1", "user:p@ss"),
            ("http://user@h:1", "user:"),
            ("http://:word@h:1", ":word"),
        ] {
            let proxy = OutboundProxy { named_by: "HTTPS_PROXY", url: proxy_url(text).unwrap() };
            assert_eq!(
                proxy.authorization().unwrap(),
                format!("Basic {}", STANDARD.encode(pair)),
                "{text}"
            );
        }
        let open = OutboundProxy { named_by: "HTTPS_PROXY", url: proxy_url("http://h:1").unwrap() };
        assert!(open.authorization().is_none());
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_value_and_only_where_it_would_be_used() {
        for bad in [
            "socks5h://user:canary@h:1",
            "ftp://canary@h",
            "http://DOM\\user:canary@h:1",
            "http://user:can/ary@h:1",
            "http://user:can?ary@h:1",
            "http://user:canary@",
            "http://user:ca nary@h",
            "http://h:99999",
            "http://h:0",
            "://h",
        ] {
            let error = routes(bad, "").to("external.pleo.io", 443).unwrap_err().to_string();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("ary"), "{bad}: {error}");
            assert!(
                routes(bad, ".pleo.io").to("external.pleo.io", 443).unwrap().is_none(),
                "{bad}"
            );
        }
    }

    #[test]
    fn exceptions_are_read_as_people_write_them() {
        for no in [
            "external.pleo.io",
            ".pleo.io",
            "pleo.io",
            "*.pleo.io",
            "external.pleo.io:443",
            "*.pleo.io:443",
            "localhost, external.pleo.io ,x",
            "localhost external.pleo.io",
            "External.PLEO.io",
            "external.pleo.io.",
            "*",
        ] {
            assert!(routes("h:1", no).to("external.pleo.io", 443).unwrap().is_none(), "{no}");
        }
        for no in [
            "",
            "pleo.io:8443",
            "eo.io",
            "internal.pleo.io",
            "external.pleo.io:",
            "10.0.0.0/8",
            ",",
        ] {
            assert!(routes("h:1", no).to("external.pleo.io", 443).unwrap().is_some(), "{no}");
        }
        for (no, host) in [
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3:443", "10.1.2.3"),
            ("2001:db8::/32", "[2001:db8::1]"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
        ] {
            assert!(routes("h:1", no).to(host, 443).unwrap().is_none(), "{no}");
        }
    }

    #[test]
    fn the_variable_for_https_goes_first_and_blanks_are_nothing() {
        for (https, named_by) in [("h:1", "HTTPS_PROXY"), ("", "ALL_PROXY"), ("  ", "ALL_PROXY")] {
            let routes = of([("HTTPS_PROXY", https), ("ALL_PROXY", "a:1")]);
            assert_eq!(routes.to("external.pleo.io", 443).unwrap().unwrap().named_by, named_by);
        }
    }
}
