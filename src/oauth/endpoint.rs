//! Addresses that may see a secret: an [`Endpoint`] or [`Origin`] that exists is https, or http on loopback.

use url::Url;

use crate::outbound::is_loopback;

/// Why an address is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndpointError {
    /// Not an absolute URL with a host.
    #[error("is not an absolute URL such as https://auth.pleo.io/oauth/token")]
    NotUrl,
    /// A scheme that would show secrets or start programs.
    #[error("must be https (http only for 127.0.0.1, [::1] or localhost)")]
    Scheme,
    /// `user:password@`.
    #[error("must not hold a user name or password")]
    Userinfo,
    /// `#...`.
    #[error("must not have a fragment")]
    Fragment,
    /// Anything behind the authority where an origin is asked for.
    #[error("must be an origin: scheme, host and port, with no path and no query")]
    NotOrigin,
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
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(EndpointError::NotUrl)?;
        match url.scheme() {
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

    /// Reads an endpoint.
    ///
    /// # Errors
    /// [`EndpointError`] names the part to change.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        Self::new(Url::parse(text).map_err(|_| EndpointError::NotUrl)?)
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
        let endpoint = Endpoint::parse(text)?;
        if endpoint.url().path() != "/" || endpoint.url().query().is_some() {
            return Err(EndpointError::NotOrigin);
        }
        Ok(endpoint.origin())
    }

    /// The scheme's name.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Host, and the port where it is not the scheme's default: the Host header (RFC 9110 section 7.2).
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

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_or_loopback_only() {
        assert!(Endpoint::parse("https://auth.pleo.io/oauth/token").is_ok());
        assert!(Endpoint::parse("http://127.0.0.1:9/t").is_ok() && Endpoint::parse("http://[::1]/t").is_ok());
        for bad in ["http://auth.pleo.io/t", "file:///etc/passwd", "calc:", "ftp://h/x", "http://127.0.0.1.evil.test/"]
        {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Endpoint::parse("https://u:p@h/").unwrap_err(), EndpointError::Userinfo);
        assert_eq!(Endpoint::parse("https://h/#x").unwrap_err(), EndpointError::Fragment);
    }

    #[test]
    fn an_origin_has_nothing_behind_its_authority() {
        let origin = Origin::parse("https://External.Pleo.io").unwrap();
        assert_eq!((origin.authority().as_str(), origin.port), ("external.pleo.io", 443));
        assert_eq!(Origin::parse("http://127.0.0.1:8090/").unwrap().to_string(), "http://127.0.0.1:8090");
        for bad in ["https://h/v1", "https://h/?x", "https://h@evil/"] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
