//! Addresses that may see a secret: an [`Endpoint`] or [`Origin`] that exists is https, or http on
//! loopback.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use url::Url;

use crate::outbound::is_loopback;

/// Why an address is refused; each continues a sentence that begins with the address's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Something that the URL parser would repair.
    #[error("must be a URL without spaces, backslashes or characters outside ASCII")]
    Characters,
    /// A scheme that starts programs, or none.
    #[error("must be a URL that starts with https://")]
    NotUrl,
    /// The parser's reason.
    #[error("is not a URL: {0}")]
    Unreadable(url::ParseError),
    /// An empty host, a host that is percent-encoded, or port 0.
    #[error("must name a host (and no port 0)")]
    NoHost,
    /// Secrets would travel in the open.
    #[error("must be https: plain http is for loopback hosts only")]
    Scheme,
    /// `user:password@`.
    #[error("must not contain a user or password (nor an `@`)")]
    Userinfo,
    /// `#...`.
    #[error("must not have a fragment (`#`)")]
    Fragment,
    /// `?...` where none is wanted.
    #[error("must not have a query (`?`)")]
    Query,
    /// Anything behind the authority where an origin is asked for.
    #[error("must be an origin: scheme, host and port, without path or query")]
    NotOrigin,
    /// An address that is compared as text, in another spelling than it would leave us.
    #[error("is not in normal form; write {0}")]
    NotNormal(Url),
}

/// An absolute URL that may be sent secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Takes a URL over if secrets may go there.
    ///
    /// # Errors
    /// [`EndpointError`] names the part to change.
    pub fn new(url: Url) -> Result<Self, EndpointError> {
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(EndpointError::NoHost)?;
        match url.scheme() {
            _ if url.port() == Some(0) => return Err(EndpointError::NoHost),
            "https" => {}
            "http" if is_loopback(host) => {}
            _ => return Err(EndpointError::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(EndpointError::Userinfo);
        }
        if url.fragment().is_some() {
            return Err(EndpointError::Fragment);
        }
        Ok(Self(url))
    }

    /// Reads an endpoint, which may have a query (RFC 6749 section 3.1). The text is checked before
    /// it is parsed: `url` repairs what should be refused (backslashes, tabs, missing slashes,
    /// empty user names).
    ///
    /// # Errors
    /// [`EndpointError`] names the part to change.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let (authority, rest) = parts(text)?;
        if authority.contains('@') {
            return Err(EndpointError::Userinfo);
        }
        if rest.contains('#') {
            return Err(EndpointError::Fragment);
        }
        let url = Url::parse(text).map_err(EndpointError::Unreadable)?;
        if authority.is_empty() || authority.contains('%') {
            return Err(EndpointError::NoHost);
        }
        Self::new(url)
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> Origin {
        let tls = self.0.scheme() == "https";
        let host = self.0.host_str().unwrap_or_default().to_owned();
        let port = self.0.port_or_known_default().unwrap_or(if tls { 443 } else { 80 });
        Origin { tls, host, port }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An endpoint that is sent forms: it has no query.
///
/// # Errors
/// [`EndpointError`] names the part to change.
pub fn without_query(text: &str) -> Result<Endpoint, EndpointError> {
    match Endpoint::parse(text)? {
        endpoint if endpoint.0.query().is_some() => Err(EndpointError::Query),
        endpoint => Ok(endpoint),
    }
}

/// A redirect URI. It is compared with the registered one as text, so it must leave us as it was
/// written.
///
/// # Errors
/// [`EndpointError`] names the part to change.
pub fn redirect_uri(text: &str) -> Result<Url, EndpointError> {
    let Endpoint(url) = Endpoint::parse(text)?;
    if url.as_str() == text { Ok(url) } else { Err(EndpointError::NotNormal(url)) }
}

/// Host and port as written, and what stands behind them.
fn parts(text: &str) -> Result<(&str, &str), EndpointError> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(EndpointError::Characters);
    }
    match text.split_once("://") {
        Some(("http" | "https", rest)) => {
            Ok(rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
        }
        _ => Err(EndpointError::NotUrl),
    }
}

/// Scheme, host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// https rather than http.
    pub tls: bool,
    /// Lower-case host name or address literal, IPv6 in brackets.
    pub host: String,
    /// Port, default or not.
    pub port: u16,
}

impl Origin {
    /// Reads an origin such as `https://external.pleo.io`.
    ///
    /// # Errors
    /// [`EndpointError`] names the part to change.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        match parts(text)? {
            // As written: `/v1/..` would be repaired to nothing.
            (authority, rest) if authority.contains('@') || matches!(rest, "" | "/") => {
                Ok(Endpoint::parse(text)?.origin())
            }
            _ => Err(EndpointError::NotOrigin),
        }
    }

    /// The address that it names without a look-up.
    pub fn literal(&self) -> Option<SocketAddr> {
        let literal = self.host.trim_start_matches('[').trim_end_matches(']');
        let ip = if literal == "localhost" {
            Some(Ipv4Addr::LOCALHOST.into())
        } else {
            literal.parse().ok()
        };
        Some(SocketAddr::new(ip?, self.port))
    }

    /// The scheme's name.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Host, and the port where it is not the scheme's default: the Host header (RFC 9110 section
    /// 7.2).
    pub fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            _ => self.authority_with_port(),
        }
    }

    /// Host and port, also where the port is the default.
    pub fn authority_with_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl FromStr for Origin {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Self::parse(text)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_or_loopback_only() {
        assert!(Endpoint::parse("https://auth.pleo.io/oauth/token").is_ok());
        assert!(
            Endpoint::parse("http://127.0.0.1:9/t").is_ok()
                && Endpoint::parse("http://[::1]/t").is_ok()
        );
        for bad in [
            "http://auth.pleo.io/t",
            "file:///etc/passwd",
            "calc:",
            "ftp://h/x",
            "http://127.0.0.1.evil.test/",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Endpoint::parse("https://u:p@h/").unwrap_err(), EndpointError::Userinfo);
        assert_eq!(Endpoint::parse("https://h/#x").unwrap_err(), EndpointError::Fragment);
    }

    #[test]
    fn an_origin_has_nothing_behind_its_authority() {
        let origin = Origin::parse("https://External.Pleo.io").unwrap();
        assert_eq!((origin.authority().as_str(), origin.port), ("external.pleo.io", 443));
        assert_eq!(
            Origin::parse("http://127.0.0.1:8090/").unwrap().to_string(),
            "http://127.0.0.1:8090"
        );
        for bad in ["https://h/v1", "https://h/?x", "https://h@evil/"] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
