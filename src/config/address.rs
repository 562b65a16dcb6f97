//! Addresses, URLs and origins.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use url::{Host, Url};

use super::problem::Fault;
use super::setting::Value;
use crate::server::Address;

/// Bytes of `sun_path` with its closing zero, on Linux (unix(7)); elsewhere fewer, which binding then tells.
const LONGEST_SOCKET: usize = 108;
/// Schemes whose pages have the origin `null`, or that no page has.
const PAGELESS: [&str; 8] = ["file", "data", "blob", "about", "javascript", "ftp", "ws", "wss"];

/// What a URL may consist of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    /// Scheme, host, port.
    Origin,
    /// And a path.
    Path,
    /// And a query.
    Query,
}

/// A port, or a unix socket whose path starts at `base` if it is relative.
pub(super) fn api_listener(value: &Value, base: &Path) -> Result<Address, Fault> {
    let Some(path) = value.text().strip_prefix("unix:") else {
        return port(value).map(Address::Tcp);
    };
    let path = base.join(path);
    if value.text().ends_with([':', '/']) || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Fault::new("names no file behind `unix:`").help("write a path such as unix:/run/pleo/api.sock"));
    }
    match path.as_os_str().len() {
        0..LONGEST_SOCKET => Ok(Address::Unix(path)),
        _ => {
            let problem = format!("is longer than the {} bytes that a unix socket's path may have", LONGEST_SOCKET - 1);
            Err(Fault::new(problem).help("choose a shorter path"))
        }
    }
}

fn port(value: &Value) -> Result<SocketAddr, Fault> {
    value.text().parse().map_err(|_| Fault::new("must be an IP address and a port"))
}

pub(super) fn admin(value: &Value) -> Result<Option<SocketAddr>, Fault> {
    if value.text() == "off" {
        return Ok(None);
    }
    let fault = |fault: Fault| Fault { problem: fault.problem.replace("a port", "a port, or off"), ..fault };
    port(value).map(Some).map_err(fault)
}

/// `endpoints.authorize`: may have a query, as RFC 6749 section 3.1 allows.
pub(super) fn authorize(value: &Value) -> Result<Url, Fault> {
    safe(value.text(), Parts::Query)
}

pub(super) fn token(value: &Value) -> Result<Url, Fault> {
    safe(value.text(), Parts::Path)
}

pub(super) fn introspect(value: &Value) -> Result<Option<Url>, Fault> {
    optional(value, |text| safe(text, Parts::Path))
}

/// The API's origin: paths come from the callers.
pub(super) fn api(value: &Value) -> Result<Url, Fault> {
    safe(value.text(), Parts::Origin)
}

pub(super) fn redirect_uri(value: &Value) -> Result<Option<Url>, Fault> {
    optional(value, |text| {
        let url = safe(text, Parts::Query)?;
        // It is compared with the registered one as text, so it must leave us as it was written.
        if url.as_str() == text {
            Ok(url)
        } else {
            Err(Fault::new("is not in normal form").help(format!("write {url}")))
        }
    })
}

/// An outbound proxy's URL, the one place where a user and a password are welcome.
pub(super) fn outbound_proxy(text: &str) -> Result<Url, Fault> {
    let help = "write \"env\", \"off\" or a URL such as \"http://proxy.example:3128\"";
    let has_scheme = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    if !has_scheme {
        let problem =
            "must be env, off or a URL that starts with http:// or https:// (SOCKS proxies are not supported)";
        return Err(Fault::new(problem).help(help));
    }
    crate::outbound::proxy_url(text).map_err(|problem| Fault::new(problem).help(help))
}

fn optional<T>(value: &Value, parse: impl Fn(&str) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
    if value.text().is_empty() { Ok(None) } else { parse(value.text()).map(Some) }
}

/// A URL that credentials may travel to. The text is checked before it is parsed: `url` repairs what should be
/// refused (backslashes, tabs, missing slashes, empty user names).
fn safe(text: &str, parts: Parts) -> Result<Url, Fault> {
    let authority = authority(text)?;
    let rest = text.split_once("://").map_or("", |(_, rest)| &rest[authority.len()..]);
    if authority.contains('@') {
        return Err(Fault::new("must not contain a user or password (nor an `@`)"));
    }
    if rest.contains('#') {
        return Err(Fault::new("must not have a fragment (`#`)"));
    }
    if parts == Parts::Origin && !matches!(rest, "" | "/") {
        return Err(Fault::new("must be an origin: scheme, host and port, without path or query"));
    }
    if parts != Parts::Query && rest.contains('?') {
        return Err(Fault::new("must not have a query (`?`)"));
    }
    let url = Url::parse(text).map_err(|error| Fault::new(format!("is not a URL: {error}")))?;
    let named =
        !authority.is_empty() && !authority.contains('%') && url.host_str().is_some_and(|host| !host.is_empty());
    if !named || url.port() == Some(0) {
        return Err(Fault::new("must name a host (and no port 0)"));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(Fault::new("must be https: plain http is for loopback hosts only"));
    }
    Ok(url)
}

/// Host and port as written, of a URL that starts with a scheme we speak.
fn authority(text: &str) -> Result<&str, Fault> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(Fault::new("must be a URL without spaces, backslashes or characters outside ASCII"));
    }
    match text.split_once("://") {
        Some(("http" | "https", rest)) => Ok(rest.split(['/', '?', '#']).next().unwrap_or(rest)),
        _ => Err(Fault::new("must be a URL that starts with https://")),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether a URL leads to a listener of ours.
pub(super) fn leads_to(url: &Url, listener: SocketAddr) -> bool {
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip),
        Some(Host::Domain("localhost")) => IpAddr::from([127, 0, 0, 1]),
        Some(Host::Domain(_)) | None => return false,
    };
    listener.port() != 0 && url.port_or_known_default() == Some(listener.port()) && overlap(ip, listener.ip())
}

/// Whether two listeners would take each other's port.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() != 0 && one.port() == other.port() && overlap(one.ip(), other.ip())
}

/// A loopback listener binds both families, and an unspecified address is all of them.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || one.is_unspecified() || other.is_unspecified() || (one.is_loopback() && other.is_loopback())
}

/// Exact `host:port`, as a Host header carries it.
pub(super) fn allowed_host(text: &str) -> Result<String, Fault> {
    let help = "write a host and its port, such as \"proxy.internal:8088\"";
    let fault = |problem: &str| Fault::new(problem).help(help);
    if text.contains('*') {
        return Err(fault("must be exact: wildcards are not supported"));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| fault("needs a port"))?;
    let numeric = !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port != 0);
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(name),
    };
    if valid && numeric {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(fault("must be host:port, without a scheme or path"))
    }
}

/// An origin exactly as browsers send it (RFC 6454 section 6.2): a web page's, or an app's or extension's with a scheme
/// of its own.
pub(super) fn allowed_origin(text: &str) -> Result<String, Fault> {
    let help = "write scheme, host and port if it is not the scheme's own, such as \"http://localhost:3000\" or \
                \"tauri://localhost\"";
    if text == "null" || text.contains('*') {
        return Err(Fault::new("must be exact: `*` and `null` would let any page in").help(help));
    }
    let url = Url::parse(text).ok();
    if let Some(scheme) = url.as_ref().map(Url::scheme).filter(|scheme| PAGELESS.contains(scheme)) {
        return Err(Fault::new(format!("names no page: browsers send no such origin for {scheme}:")).help(help));
    }
    match url.and_then(|url| origin(&url)) {
        Some(exact) if exact == text => Ok(exact),
        Some(exact) if exact.eq_ignore_ascii_case(text.trim_end_matches('/')) => {
            Err(Fault::new("is not what browsers send").help(format!("write \"{exact}\"")))
        }
        _ => Err(Fault::new("must be an origin: scheme, host and port, nothing else").help(help)),
    }
}

/// Scheme, host and port as browsers write them; none if there is no host that a page could have.
fn origin(url: &Url) -> Option<String> {
    if matches!(url.scheme(), "http" | "https") {
        return Some(url.origin().ascii_serialization());
    }
    let host = url.host_str()?;
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    is_name.then(|| format!("{}://{host}{port}", url.scheme()))
}

/// A URL, or what a proxy variable holds instead, without user and password.
pub(super) fn without_userinfo(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    super::one_line(&format!("{scheme}{separator}{host}"))
}
