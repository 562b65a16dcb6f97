//! The host names of a listener, and those of the API in requests that use the listener as an HTTP
//! proxy.

use std::net::{Ipv6Addr, SocketAddr};

use http::header::HOST;
use http::request::Parts;

use super::refusal::{bad, list, single};
use super::settings::{Settings, Tunnelled};
use crate::oauth::endpoint::Origin;
use crate::problem::{Code, Problem};

/// The hosts of one listener.
#[derive(Debug)]
pub(super) struct Hosts {
    own: Vec<String>,
    /// The address in error messages: `http://127.0.0.1:8088`.
    pub(super) address: String,
    /// Spellings of the API's authority; none on the admin listener, which forwards nothing.
    api: Vec<String>,
    /// Where tunnels may lead.
    tunnels: Vec<String>,
    /// The setting `guard.allow_hosts`.
    allowed: Vec<String>,
}

impl Hosts {
    pub(super) fn new(settings: &Settings, own: SocketAddr, api: Option<&Origin>) -> Self {
        let port = own.port();
        let loopback = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        // An address literal cannot be rebound, and browsers mark requests of pages to loopback;
        // any other address needs a local key. The unspecified address names no host, and browsers
        // do not mark requests to it.
        let bound = Some(own.ip().to_canonical())
            .filter(|ip| !ip.is_unspecified())
            .map(|ip| SocketAddr::new(ip, port));
        let address = bound.map_or_else(|| loopback[0].clone(), |bound| bound.to_string());
        let mut hosts: Vec<String> = loopback.into();
        hosts.extend(bound.map(|bound| bound.to_string()).filter(|bound| !hosts.contains(bound)));
        hosts.extend(settings.allow_hosts.iter().cloned());
        // Clients leave a default port out (RFC 9110 section 4.2.3).
        let own = hosts
            .into_iter()
            .flat_map(|host| [Some(host.clone()), without_default_port(&host)])
            .flatten();
        let plain = |api: &Origin| format!("{}:80", api.host);
        Self {
            own: own.collect(),
            address: format!("http://{address}"),
            api: api
                .map(|api| vec![api.host.clone(), plain(api), api.authority_with_port()])
                .unwrap_or_default(),
            // A tunnel to a TLS port would carry TLS, into which no credential can be put.
            tunnels: api
                .map(|api| [Some(plain(api)), (!api.tls).then(|| api.authority_with_port())])
                .map(|both| both.into_iter().flatten().collect())
                .unwrap_or_default(),
            allowed: settings.allow_hosts.clone(),
        }
    }

    pub(super) fn own(&self) -> impl Iterator<Item = &str> {
        self.own.iter().map(String::as_str)
    }

    /// The API's host and port as a plain HTTP client writes them; none on the admin listener.
    pub(super) fn api(&self) -> Option<&str> {
        self.api.first().map(String::as_str)
    }

    /// True if a tunnel may lead to this `host:port`.
    pub(super) fn is_tunnel(&self, authority: &str) -> bool {
        has(&self.tunnels, authority)
    }

    /// Checks that there is one Host: ours, or the API's if the target is in absolute form. Then
    /// target and Host may spell the API differently: with its port, with `:80`, or without.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Problem> {
        let host = host(parts)?;
        let Some(authority) = parts.uri.authority() else {
            let is_api = || parts.extensions.get::<Tunnelled>().is_some() && has(&self.api, host);
            return if has(&self.own, host) || is_api() {
                Ok(())
            } else {
                Err(self.forbidden(host))
            };
        };
        let is_http =
            parts.uri.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme));
        if !is_http || authority.as_str().contains('@') {
            return Err(bad("the request target is neither a path nor an absolute URL of the API"));
        }
        self.check_api(authority.as_str(), host)
    }

    /// Checks the authority that a request to an HTTP proxy names, and its Host.
    pub(super) fn check_api(&self, authority: &str, host: &str) -> Result<(), Problem> {
        match (has(&self.api, authority), has(&self.api, host)) {
            (true, true) => Ok(()),
            (false, _) if authority.eq_ignore_ascii_case(host) => Err(self.elsewhere(authority)),
            _ => Err(bad("the request target and the Host header name different hosts")),
        }
    }

    /// The refusal of a host that is not ours.
    fn forbidden(&self, host: &str) -> Problem {
        let shown = shown(host);
        let call = format!("Call {}", self.address);
        let fix = match allowable(host) {
            Some(host) => {
                let hosts = list(&self.allowed, &host);
                format!(
                    "{call}, or, if that name leads to this proxy on purpose, set guard.allow_hosts = {hosts}."
                )
            }
            None => format!("{call}."),
        };
        Problem::new(Code::ForbiddenHost, format!("the host {shown} is not this proxy's"), fix)
    }

    /// The refusal of a request for another server.
    pub(super) fn elsewhere(&self, authority: &str) -> Problem {
        let shown = shown(authority);
        let fix = match self.api() {
            Some(api) => format!(
                "Use it for http://{api} only, and let the tool reach {shown} without it (NO_PROXY)."
            ),
            None => format!("Call {} itself.", self.address),
        };
        Problem::new(Code::ForbiddenHost, format!("this proxy forwards nothing to {shown}"), fix)
    }
}

/// The one Host of a request.
pub(super) fn host(parts: &Parts) -> Result<&str, Problem> {
    let host = single(&parts.headers, &HOST)?.ok_or_else(|| bad("the Host header is missing"))?;
    let host = host.to_str().map_err(|_| bad("the Host header is not readable"))?;
    if host.is_empty() || host.contains(['@', ' ', ',', '/']) {
        return Err(bad("the Host header is not a host and port"));
    }
    Ok(host)
}

fn has(known: &[String], authority: &str) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(authority))
}

/// `host` for `host:80` and `host:443`.
fn without_default_port(host: &str) -> Option<String> {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).map(str::to_owned)
}

/// A Host as `guard.allow_hosts` takes it; none if that would take no such name, or should not: web
/// pages reach the unspecified address, and loopback written as IPv6, without a mark that they are
/// pages.
fn allowable(host: &str) -> Option<String> {
    let host = host.to_ascii_lowercase();
    let (name, port) = host.rsplit_once(':').unwrap_or((&host, "80"));
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let is_fit = is_name && !name.is_empty() && name.len() <= 253 && name != "0.0.0.0";
    (is_fit && port.parse::<u16>().is_ok_and(|port| port != 0)).then(|| format!("{name}:{port}"))
}

/// Cut, and without what could break a line.
fn shown(host: &str) -> String {
    host.chars().take(100).filter(char::is_ascii_graphic).collect()
}

/// Reads an item of `guard.allow_hosts`: exact `host:port`, as a Host header carries it.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn allowed_host(text: &str) -> Result<String, String> {
    let refuse = |problem| {
        Err(format!("{problem}; write a host and its port, such as \"proxy.internal:8088\""))
    };
    if text.contains('*') {
        return refuse("must be exact: wildcards are not supported");
    }
    let Some((host, port)) = text.rsplit_once(':') else { return refuse("needs a port") };
    let numeric = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if valid && numeric {
        Ok(text.to_ascii_lowercase())
    } else {
        refuse("must be host:port, without a scheme or path")
    }
}

/// True for the characters of a host name or an IPv4 address.
pub(super) fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}
