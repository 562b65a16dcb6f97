//! The guard: a request is judged before a token is looked at, a refresh begun or a body read.
//!
//! A web page can make a browser send nearly anything to loopback; what it cannot do is name our Host after a DNS
//! rebinding, hide its Origin on a write, or hide `Sec-Fetch-Site` on a read. Each check alone has a hole, so all
//! stand, on both listeners.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::reply::{Code, Problem};
use crate::oauth::endpoint::Origin;
use crate::secret::LocalKey;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Carries the local key.
pub const KEY_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-key");

/// Settings of the guard.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts beside the loopback names, exact `host:port`.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages may call the data listener.
    pub allow_origins: Vec<String>,
    /// What callers must send, if set.
    pub local_key: Option<LocalKey>,
    /// Forward reads only.
    pub read_only: bool,
    /// Forward `DELETE /v1/installations/me`.
    pub allow_disconnect: bool,
}

/// The guard of one listener.
#[derive(Debug)]
pub struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
    /// Origins of the listener itself, whose own pages may call it.
    pub own_origins: Vec<String>,
    /// Authorities that an absolute-form target may name; none on the admin listener.
    upstream: Vec<String>,
    local_key: Option<LocalKey>,
    read_only: bool,
    allow_disconnect: bool,
}

/// Put into a request's extensions by the server if the request line held a `#`.
#[derive(Clone, Copy, Debug)]
pub struct Fragment;

/// What the guard found out on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The allow-listed origin of the page that asks.
    pub origin: Option<HeaderValue>,
    /// The request asks for permission (CORS preflight) and is answered here.
    pub preflight: bool,
}

impl Guard {
    /// The guard of the data listener on `port`, before an API at `api`.
    pub fn data(settings: &Settings, port: u16, api: &Origin) -> Self {
        Self {
            hosts: hosts(settings, port),
            origins: settings.allow_origins.clone(),
            own_origins: Vec::new(),
            upstream: vec![api.host.clone(), api.authority_with_port()],
            local_key: settings.local_key.clone(),
            read_only: settings.read_only,
            allow_disconnect: settings.allow_disconnect,
        }
    }

    /// The guard of the admin listener on `port`: its own pages may call it, nobody else's.
    pub fn admin(settings: &Settings, port: u16) -> Self {
        let hosts = hosts(settings, port);
        // Behind a reverse proxy the page is https; the Host check is the same either way.
        let own_origins = hosts.iter().flat_map(|host| [format!("http://{host}"), format!("https://{host}")]).collect();
        Self {
            hosts,
            origins: Vec::new(),
            own_origins,
            upstream: Vec::new(),
            local_key: None,
            read_only: false,
            allow_disconnect: false,
        }
    }

    /// Judges a request by its head.
    ///
    /// # Errors
    /// The refusal, which ends the connection.
    pub fn check(&self, parts: &Parts) -> Result<Admitted, Problem> {
        self.judge(parts).map_err(Problem::closing)
    }

    fn judge(&self, parts: &Parts) -> Result<Admitted, Problem> {
        check_method(&parts.method)?;
        check_framing(parts)?;
        self.check_host(parts)?;
        check_target(parts)?;
        let origin = self.check_origin(parts)?;
        self.check_fetch_site(parts, origin)?;
        check_upgrade(&parts.headers)?;
        let preflight = origin == Page::Allowed
            && parts.method == Method::OPTIONS
            && parts.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD);
        if !preflight {
            self.check_key(&parts.headers)?;
        }
        let allowed = parts.headers.get(ORIGIN).filter(|_| origin == Page::Allowed).cloned();
        Ok(Admitted { origin: allowed, preflight })
    }

    /// One Host, one of ours; in absolute-form the API's, and the target and Host agree.
    fn check_host(&self, parts: &Parts) -> Result<(), Problem> {
        let host = single(&parts.headers, &HOST)?.ok_or_else(|| bad("the Host header is missing"))?;
        let host = host.to_str().map_err(|_| bad("the Host header is not readable"))?;
        if host.is_empty() || host.contains(['@', ' ', ',', '/']) {
            return Err(bad("the Host header is not a host and port"));
        }
        let Some(authority) = parts.uri.authority() else {
            return match self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
                true => Ok(()),
                false => Err(forbidden_host(host)),
            };
        };
        let is_http = parts.uri.scheme_str().is_some_and(|scheme| ["http", "https"].contains(&scheme));
        if !is_http || authority.as_str().contains('@') {
            return Err(bad("the request target is neither a path nor an absolute URL of the API"));
        }
        if !authority.as_str().eq_ignore_ascii_case(host) {
            return Err(bad("the request target and the Host header name different hosts"));
        }
        match self.upstream.iter().any(|known| known.eq_ignore_ascii_case(authority.as_str())) {
            true => Ok(()),
            false => Err(forbidden_host(authority.as_str())),
        }
    }

    fn check_origin(&self, parts: &Parts) -> Result<Page, Problem> {
        let Some(origin) = single(&parts.headers, &ORIGIN)? else { return Ok(Page::None) };
        let is_listed = |list: &[String]| list.iter().any(|known| known.as_bytes() == origin.as_bytes());
        match origin {
            _ if is_listed(&self.origins) => Ok(Page::Allowed),
            _ if is_listed(&self.own_origins) => Ok(Page::Own),
            _ => Err(forbidden_origin("a page of another origin sent this request")),
        }
    }

    fn check_fetch_site(&self, parts: &Parts, origin: Page) -> Result<(), Problem> {
        let Some(site) = single(&parts.headers, &SEC_FETCH_SITE)? else { return Ok(()) };
        let reads = parts.method == Method::GET || parts.method == Method::HEAD;
        let admin = self.upstream.is_empty();
        match site.as_bytes() {
            _ if origin == Page::Allowed => Ok(()),
            b"none" if reads => Ok(()),
            b"same-origin" if admin => Ok(()),
            // The three addresses that other sites may lead a person to check the navigation themselves.
            _ if admin && reads && is_navigation(parts) => Ok(()),
            _ => Err(forbidden_origin("a browser says that another site caused this request")),
        }
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(key) = &self.local_key else { return Ok(()) };
        let fix = "Send the content of guard.local_key_file in the header Pleo-Proxy-Key.";
        if headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR) {
            let detail = "the request came through a relay, which a listener with a local key does not accept";
            return Err(Problem::new(Code::LocalKeyRequired, detail, "Call the proxy directly."));
        }
        let sent = single(headers, &KEY_HEADER)?.and_then(|value| value.to_str().ok());
        match sent.is_some_and(|sent| key.matches(sent)) {
            true => Ok(()),
            false => Err(Problem::new(Code::LocalKeyRequired, "the header Pleo-Proxy-Key is missing or wrong", fix)),
        }
    }

    /// Judges what would be forwarded: the very bytes of the path.
    ///
    /// # Errors
    /// `read_only` or `protected_operation`.
    pub fn check_operation(&self, method: &Method, path: &str) -> Result<(), Problem> {
        if is_disconnect(method, path) && !self.allow_disconnect {
            let detail = "DELETE /v1/installations/me revokes every token of this client, the proxy's own included";
            return Err(Problem::new(
                Code::ProtectedOperation,
                detail,
                "Set guard.allow_disconnect = true if that is what you want.",
            )
            .closing());
        }
        match self.read_only && !is_read(method, path) {
            true => Err(Problem::new(
                Code::ReadOnly,
                "guard.read_only forwards GET, HEAD and POST ...:search only",
                "Set guard.read_only = false to allow writes.",
            )
            .closing()),
            false => Ok(()),
        }
    }
}

/// Who a request says it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    None,
    Own,
    Allowed,
}

/// True for `DELETE /v1/installations/me` however its path is written: a server may decode what we pass on as it is.
pub fn is_disconnect(method: &Method, path: &str) -> bool {
    method == Method::DELETE && plain(path).ends_with("/installations/me")
}

/// Lower-case, decoded as often as it can be, without empty or dot segments: for comparison only.
fn plain(path: &str) -> String {
    let mut decoded = path.to_owned();
    for _ in 0..4 {
        decoded = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
    }
    let mut segments = Vec::new();
    for segment in decoded.split(['/', '\\']) {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment.to_ascii_lowercase()),
        }
    }
    format!("/{}", segments.join("/"))
}

/// GET, HEAD, and a POST whose path, as it is forwarded and without any escape, ends in `:search`.
fn is_read(method: &Method, path: &str) -> bool {
    match *method {
        Method::GET | Method::HEAD => true,
        Method::POST => path.ends_with(":search") && !path.contains('%'),
        _ => false,
    }
}

fn check_method(method: &Method) -> Result<(), Problem> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            Ok(())
        }
        Method::CONNECT => Err(Problem::new(
            Code::MethodNotAllowed,
            "CONNECT would tunnel past the proxy, which then could add no credential",
            "Call http://127.0.0.1:PORT/v1/... directly, or use an http:// URL with this proxy.",
        )),
        _ => Err(Problem::new(
            Code::MethodNotAllowed,
            format!("the method {} is not forwarded", method.as_str().escape_default()),
            format!("Use one of {}.", super::reply::METHODS),
        )),
    }
}

/// What hyper lets through and we do not: transfer codings but `chunked`, both lengths, foreign expectations.
fn check_framing(parts: &Parts) -> Result<(), Problem> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(bad("the only transfer coding is chunked, once"));
        }
        if parts.version == Version::HTTP_10 || parts.headers.contains_key(CONTENT_LENGTH) {
            return Err(bad("a chunked request has no Content-Length and is HTTP/1.1"));
        }
    }
    match single(&parts.headers, &EXPECT)? {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Problem::new(
            Code::ExpectationFailed,
            "the only expectation that can be met is 100-continue",
            "Leave the Expect header out.",
        )),
        _ => Ok(()),
    }
}

/// The bytes of path and query, which are forwarded as they are.
fn check_target(parts: &Parts) -> Result<(), Problem> {
    let path = parts.uri.path();
    if path == "*" {
        return Err(match parts.method {
            Method::OPTIONS => Problem::new(
                Code::MethodNotAllowed,
                "OPTIONS * asks about the server as a whole, which is not forwarded",
                "Ask about a path.",
            ),
            _ => bad("the request target is not a path"),
        });
    }
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if !path.starts_with('/') || target.bytes().any(|byte| !(0x21..=0x7e).contains(&byte)) {
        return Err(bad("the request target is not a path of visible ASCII characters"));
    }
    if target.contains('\\') || parts.extensions.get::<Fragment>().is_some() {
        return Err(bad("the request target holds a backslash or a fragment"));
    }
    if path.split('/').any(is_dot_segment) {
        return Err(bad("the path holds a dot segment, which servers resolve differently"));
    }
    let names_token = |query: &str| form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "access_token");
    match parts.uri.query().is_some_and(names_token) {
        true => Err(bad("the query holds access_token; the proxy adds the credential itself")),
        false => Ok(()),
    }
}

/// `.` or `..`, a dot possibly written `%2e`.
fn is_dot_segment(segment: &str) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while !rest.is_empty() {
        let is_escape = rest.get(..3).is_some_and(|head| head.eq_ignore_ascii_case("%2e"));
        rest = match rest.strip_prefix('.') {
            Some(rest) => rest,
            None if is_escape => &rest[3..],
            None => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

/// Websockets and service workers have no use here. An offer of h2c is ignored, as RFC 9110 section 7.8 allows.
fn check_upgrade(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(SERVICE_WORKER) {
        return Err(forbidden_origin("a browser asks for a service worker"));
    }
    let other = headers.get_all(UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    match other || headers.contains_key(SEC_WEBSOCKET_KEY) {
        true => Err(bad("connections are not upgraded; the API speaks plain HTTP requests")),
        false => Ok(()),
    }
}

fn is_navigation(parts: &Parts) -> bool {
    let is = |name: &str, expected: &str| parts.headers.get(name).is_none_or(|value| value == expected);
    is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && matches!(parts.uri.path(), "/" | "/connect" | "/callback")
        && parts.method == Method::GET
        && !parts.headers.contains_key("sec-purpose")
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        Some(_) => Err(bad(format!("the header {name} came more than once"))),
        None => Ok(value),
    }
}

fn hosts(settings: &Settings, port: u16) -> Vec<String> {
    let own = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
    let all = own.into_iter().chain(settings.allow_hosts.iter().cloned());
    // Clients leave a default port out (RFC 9110 section 4.2.3).
    all.flat_map(|host| [Some(host.clone()), without_default_port(&host)]).flatten().collect()
}

/// `host` for `host:80` and `host:443`.
fn without_default_port(host: &str) -> Option<String> {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).map(str::to_owned)
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, detail, "Correct the request.")
}

fn forbidden_host(host: &str) -> Problem {
    let shown: String = host.chars().take(100).filter(char::is_ascii_graphic).collect();
    Problem::new(
        Code::ForbiddenHost,
        format!("the host {shown} is not this proxy's"),
        "Call 127.0.0.1 or localhost with the port, or add the exact host:port to guard.allow_hosts.",
    )
}

fn forbidden_origin(detail: &str) -> Problem {
    let fix = "Call from a program, or add the page's exact origin to guard.allow_origins.";
    Problem::new(Code::ForbiddenOrigin, detail, fix)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn guard(settings: &Settings) -> Guard {
        Guard::data(settings, 8088, &Origin::parse("https://external.pleo.io").unwrap())
    }

    fn parts(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn judge(settings: &Settings, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Admitted, Code> {
        let mut all = vec![("host", "127.0.0.1:8088")];
        if headers.iter().any(|(name, _)| *name == "host") {
            all.clear();
        }
        all.extend_from_slice(headers);
        guard(settings).check(&parts(method, target, &all)).map_err(|problem| problem.code)
    }

    fn default(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Admitted, Code> {
        judge(&Settings::default(), method, target, headers)
    }

    #[test]
    fn tools_pass() {
        for host in ["127.0.0.1:8088", "localhost:8088", "LocalHost:8088", "[::1]:8088"] {
            assert!(default("GET", "/v1/x", &[("host", host)]).is_ok(), "{host}");
        }
        assert!(default("GET", "/v1/x", &[("sec-fetch-mode", "cors")]).is_ok(), "node's fetch");
        assert!(default("POST", "/v1/accounting-entries:search?a=1&a=2", &[]).is_ok());
        assert!(default("GET", "/v1/x", &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]).is_ok());
        assert!(default("GET", "http://external.pleo.io/v1/x", &[("host", "external.pleo.io")]).is_ok());
    }

    #[test]
    fn only_our_own_names_are_hosts() {
        for host in [
            "0.0.0.0:8088",
            "[::ffff:7f00:1]:8088",
            "rebind.test:8088",
            "localhost.evil.test:8088",
            "evil.localhost:8088",
            "localhost.:8088",
            "127.1:8088",
            "2130706433:8088",
            "0x7f.0.0.1:8088",
            "0177.0.0.1:8088",
            "127.0.0.2:8088",
            "10.0.2.555:8088",
            "[::1%25lo]:8088",
            "localhost6:8088",
            "localhost:1",
            "localhost",
            "proxy.internal",
            "external.pleo.io",
        ] {
            assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::ForbiddenHost), "{host}");
        }
        for host in ["a@localhost:8088", "localhost:8088@evil", "localhost:8088,evil", ""] {
            assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::BadRequest), "{host}");
        }
        // A page of a rebound name is of the same origin as its request.
        let rebound = [("host", "rebind.test:8088"), ("origin", "http://rebind.test:8088")];
        assert_eq!(default("POST", "/", &rebound), Err(Code::ForbiddenHost));
        let twice = [("host", "127.0.0.1:8088"), ("host", "127.0.0.1:8088")];
        assert_eq!(default("GET", "/", &twice), Err(Code::BadRequest));
        for host in ["localhost/:8088", "localhost :8088"] {
            assert_eq!(default("GET", "/", &[("host", host)]), Err(Code::BadRequest), "{host}");
        }
        let extra = Settings { allow_hosts: vec!["proxy.internal:80".into()], ..Settings::default() };
        for host in ["proxy.internal:80", "proxy.internal"] {
            assert!(judge(&extra, "GET", "/", &[("host", host)]).is_ok(), "{host}");
        }
        assert_eq!(judge(&extra, "GET", "/", &[("host", "proxy.internal:443")]), Err(Code::ForbiddenHost));
        for port in [80, 443] {
            let guard = Guard::admin(&Settings::default(), port);
            assert!(guard.check(&parts("GET", "/", &[("host", "localhost")])).is_ok(), "{port}");
        }
    }

    #[test]
    fn a_refusal_shows_a_host_cut_and_without_what_could_break_a_line() {
        let host = format!("a\tb.{}", "x".repeat(200));
        let Err(problem) = guard(&Settings::default()).check(&parts("GET", "/", &[("host", &host)])) else {
            panic!("a refusal")
        };
        let shown = format!("{problem:?}");
        assert!(shown.contains(&format!("the host ab.{} is not", "x".repeat(96))), "{shown}");
    }

    #[test]
    fn absolute_targets_name_the_api_or_nothing() {
        for (target, host) in [
            ("http://evil.example/x", "evil.example"),
            ("http://127.0.0.1:8088/x", "127.0.0.1:8088"),
            ("http://external.pleo.io:80/x", "external.pleo.io:80"),
            ("http://external.pleo.io.evil/x", "external.pleo.io.evil"),
        ] {
            assert_eq!(default("GET", target, &[("host", host)]), Err(Code::ForbiddenHost), "{target}");
        }
        assert!(default("GET", "http://external.pleo.io:443/x", &[("host", "external.pleo.io:443")]).is_ok());
        let mismatch = default("GET", "http://external.pleo.io/x", &[("host", "127.0.0.1:8088")]);
        assert_eq!(mismatch, Err(Code::BadRequest));
        for (target, host) in [
            ("http://u:p@external.pleo.io/x", "external.pleo.io"),
            ("external.pleo.io:443", "external.pleo.io:443"),
            ("ftp://external.pleo.io/x", "external.pleo.io"),
        ] {
            assert_eq!(default("GET", target, &[("host", host)]), Err(Code::BadRequest), "{target}");
            let refused = guard(&Settings::default()).check(&parts("GET", target, &[("host", host)]));
            assert!(
                refused.is_err_and(|problem| format!("{problem:?}").contains("an absolute URL of the API")),
                "{target}"
            );
        }
    }

    #[test]
    fn pages_are_refused() {
        let extensions = ["chrome-extension://aaaabbbb", "moz-extension://aaaabbbb"];
        for origin in ["http://evil.test", "null", "http://localhost:3000"].into_iter().chain(extensions) {
            assert_eq!(default("POST", "/v1/x", &[("origin", origin)]), Err(Code::ForbiddenOrigin), "{origin}");
        }
        for site in ["cross-site", "same-site", "same-origin", "odd"] {
            assert_eq!(default("GET", "/", &[("sec-fetch-site", site)]), Err(Code::ForbiddenOrigin), "{site}");
        }
        assert_eq!(default("POST", "/", &[("sec-fetch-site", "none")]), Err(Code::ForbiddenOrigin));
        assert_eq!(default("GET", "/", &[("service-worker", "script")]), Err(Code::ForbiddenOrigin));
        assert_eq!(default("OPTIONS", "/", &[("origin", "http://evil.test")]), Err(Code::ForbiddenOrigin));
    }

    #[test]
    fn an_allow_listed_page_is_matched_exactly() {
        let settings = Settings { allow_origins: vec!["http://localhost:3000".into()], ..Settings::default() };
        let same_site = ("sec-fetch-site", "same-site");
        let admitted = judge(&settings, "GET", "/", &[("origin", "http://localhost:3000"), same_site]).unwrap();
        assert_eq!(admitted.origin.unwrap(), "http://localhost:3000");
        let asks = [("origin", "http://localhost:3000"), ("access-control-request-method", "DELETE")];
        assert!(judge(&settings, "OPTIONS", "/", &asks).unwrap().preflight);
        assert!(!judge(&settings, "GET", "/", &asks).unwrap().preflight, "another method asks for nothing");
        assert!(!judge(&settings, "OPTIONS", "/", &asks[..1]).unwrap().preflight, "it names no method");
        assert_eq!(judge(&settings, "OPTIONS", "/", &asks[1..]), Ok(Admitted::default()), "no page asks");
        for origin in [
            "http://localhost:30001",
            "http://localhost:3000.evil.test",
            "https://localhost:3000",
            "http://localhost:3000/",
            "HTTP://LOCALHOST:3000",
        ] {
            assert_eq!(judge(&settings, "GET", "/", &[("origin", origin)]), Err(Code::ForbiddenOrigin), "{origin}");
        }
        assert_eq!(judge(&settings, "GET", "/", &[same_site]), Err(Code::ForbiddenOrigin));
        let twice = [("origin", "http://localhost:3000"); 2];
        assert_eq!(judge(&settings, "GET", "/", &twice), Err(Code::BadRequest));
    }

    #[test]
    fn the_admin_listener_takes_its_own_pages_and_three_navigations() {
        let guard = Guard::admin(&Settings::default(), 8089);
        let judge = |method: &str, target: &str, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:8089")];
            all.extend_from_slice(headers);
            guard.check(&parts(method, target, &all)).map(drop).map_err(|problem| problem.code)
        };
        assert!(judge("POST", "/api/session", &[("origin", "http://127.0.0.1:8089")]).is_ok());
        assert!(judge("GET", "/api/status", &[("sec-fetch-site", "same-origin")]).is_ok());
        let cross = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        for target in ["/", "/connect?account=a", "/callback?code=a&state=b"] {
            assert!(judge("GET", target, &cross).is_ok(), "{target}");
            assert_eq!(judge("POST", target, &cross), Err(Code::ForbiddenOrigin), "{target}");
            assert_eq!(judge("HEAD", target, &cross), Err(Code::ForbiddenOrigin), "{target}");
            let fetch = [cross[0], ("sec-fetch-mode", "cors"), cross[2]];
            assert_eq!(judge("GET", target, &fetch), Err(Code::ForbiddenOrigin), "{target}");
        }
        assert_eq!(judge("GET", "/api/status", &cross), Err(Code::ForbiddenOrigin));
        let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "image")];
        assert_eq!(judge("GET", "/connect", &image), Err(Code::ForbiddenOrigin));
        let prefetch = [("sec-fetch-site", "cross-site"), ("sec-purpose", "prefetch")];
        assert_eq!(judge("GET", "/callback", &prefetch), Err(Code::ForbiddenOrigin));
        assert_eq!(judge("POST", "/api/shutdown", &[("origin", "http://127.0.0.1:8088")]), Err(Code::ForbiddenOrigin));
    }

    #[test]
    fn targets_are_plain_paths() {
        for target in ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/.%2E/admin", "/.", "/v1/%2e", "/v1/..\\admin", "/é"] {
            assert_eq!(default("GET", target, &[]), Err(Code::BadRequest), "{target}");
        }
        let mut cut = parts("GET", "/v1/x", &[("host", "localhost:8088")]);
        cut.extensions.insert(Fragment);
        assert!(guard(&Settings::default()).check(&cut).is_err_and(|problem| problem.code == Code::BadRequest));
        for target in ["/v1/..%2fadmin", "/v1/%252e%252e/", "//evil.example/x", "/v1/a.b/..c/...", "/%00"] {
            assert!(default("GET", target, &[]).is_ok(), "{target}");
        }
        assert_eq!(default("GET", "/v1/x?access_token=z", &[]), Err(Code::BadRequest));
        assert_eq!(default("GET", "/v1/x?a=1&acc%65ss_token", &[]), Err(Code::BadRequest));
        assert!(default("GET", "/v1/x?my_access_token=z", &[]).is_ok());
    }

    #[test]
    fn methods_codings_and_expectations() {
        for method in ["TRACE", "CONNECT", "FOO", "get", "PROPFIND"] {
            let target = if method == "CONNECT" { "evil.example:443" } else { "/" };
            assert_eq!(default(method, target, &[]), Err(Code::MethodNotAllowed), "{method}");
        }
        let tunnel = guard(&Settings::default()).check(&parts("CONNECT", "evil.example:443", &[]));
        assert!(tunnel.is_err_and(|problem| format!("{problem:?}").contains("Call http://127.0.0.1:PORT/v1/")));
        assert_eq!(default("OPTIONS", "*", &[]), Err(Code::MethodNotAllowed));
        for coding in ["gzip, chunked", "identity", "xchunked", "chunked, chunked", "chunked, identity"] {
            assert_eq!(default("POST", "/", &[("transfer-encoding", coding)]), Err(Code::BadRequest), "{coding}");
        }
        let lines = [("transfer-encoding", "chunked"), ("transfer-encoding", "identity")];
        assert_eq!(default("POST", "/", &lines), Err(Code::BadRequest));
        let mut old = parts("POST", "/", &[("host", "localhost:8088"), ("transfer-encoding", "chunked")]);
        assert!(guard(&Settings::default()).check(&old).is_ok());
        old.version = Version::HTTP_10;
        assert!(guard(&Settings::default()).check(&old).is_err_and(|problem| problem.code == Code::BadRequest));
        let both = [("transfer-encoding", "chunked"), ("content-length", "3")];
        assert_eq!(default("POST", "/", &both), Err(Code::BadRequest));
        assert!(default("POST", "/", &[("transfer-encoding", "Chunked"), ("expect", "100-Continue")]).is_ok());
        assert_eq!(default("POST", "/", &[("expect", "200-ok")]), Err(Code::ExpectationFailed));
        assert_eq!(default("GET", "/", &[("upgrade", "websocket")]), Err(Code::BadRequest));
        assert!(default("GET", "/", &[("upgrade", "h2c")]).is_ok());
        assert_eq!(default("GET", "/", &[("sec-websocket-key", "a")]), Err(Code::BadRequest));
        assert_eq!(default("GET", "*", &[]), Err(Code::BadRequest));
    }

    #[test]
    fn a_local_key_is_required_once_it_is_set() {
        let settings = Settings { local_key: Some(LocalKey::new("k3y")), ..Settings::default() };
        assert_eq!(judge(&settings, "GET", "/", &[]), Err(Code::LocalKeyRequired));
        assert_eq!(judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3")]), Err(Code::LocalKeyRequired));
        assert!(judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3y")]).is_ok());
        for relay in [("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=10.0.0.1")] {
            let relayed = judge(&settings, "GET", "/", &[("pleo-proxy-key", "k3y"), relay]);
            assert_eq!(relayed, Err(Code::LocalKeyRequired), "{relay:?}");
        }
        let page = Settings { allow_origins: vec!["http://localhost:3000".into()], ..settings };
        let asks = [("origin", "http://localhost:3000"), ("access-control-request-method", "GET")];
        assert!(judge(&page, "OPTIONS", "/", &asks).is_ok(), "a browser sends no key with a preflight");
        for (method, headers) in [("OPTIONS", &asks[..1]), ("GET", &asks[..]), ("OPTIONS", &asks[1..])] {
            assert_eq!(judge(&page, method, "/", headers), Err(Code::LocalKeyRequired), "{method} {headers:?}");
        }
    }

    #[test]
    fn read_only_and_disconnect_match_the_bytes_that_are_forwarded() {
        let read_only = guard(&Settings { read_only: true, ..Settings::default() });
        let code = |guard: &Guard, method, path| guard.check_operation(&method, path).map_err(|problem| problem.code);
        assert!(code(&read_only, Method::POST, "/v1/vendors:search").is_ok());
        assert!(code(&read_only, Method::GET, "/v1/x").is_ok() && code(&read_only, Method::HEAD, "/v1/x").is_ok());
        assert!(code(&guard(&Settings::default()), Method::POST, "/v1/vendors").is_ok());
        for path in ["/v1/vendors", "/v1/vendors%3Asearch", "/v1/%2e:search", "/v1/x:searched"] {
            assert_eq!(code(&read_only, Method::POST, path), Err(Code::ReadOnly), "{path}");
        }
        assert_eq!(code(&read_only, Method::PUT, "/v1/x"), Err(Code::ReadOnly));
        let open = guard(&Settings::default());
        for path in [
            "/v1/installations/me",
            "/v1/installations/me/",
            "/V1/Installations/Me",
            "/v1//installations/%6de",
            "/v1/x/..%2finstallations%2fme",
            "/v1/%2569nstallations/me",
            "/v1/installations/me;a=b",
            "/v1/./installations//x/..\\me",
        ] {
            assert_eq!(code(&open, Method::DELETE, path), Err(Code::ProtectedOperation), "{path}");
        }
        assert!(code(&open, Method::GET, "/v1/installations/me").is_ok());
        assert!(code(&open, Method::DELETE, "/v1/installations/me2").is_ok());
        let allowed = guard(&Settings { allow_disconnect: true, ..Settings::default() });
        assert!(code(&allowed, Method::DELETE, "/v1/installations/me").is_ok());
    }

    proptest! {
        #[test]
        fn no_foreign_host_ever_passes(host in "[a-z0-9.:\\[\\]]{1,30}") {
            if let Ok(value) = HeaderValue::from_str(&host) {
                let request = Request::builder().uri("/").header("host", value).body(()).unwrap().into_parts().0;
                let passes = guard(&Settings::default()).check(&request).is_ok();
                prop_assert_eq!(passes, ["127.0.0.1:8088", "localhost:8088", "[::1]:8088"].contains(&host.as_str()));
            }
        }

        #[test]
        fn dot_segments_are_found_however_written(segment in "(\\.|%2e|%2E|a|%|2e){0,4}") {
            let decoded = segment.replace("%2e", ".").replace("%2E", ".");
            prop_assert_eq!(is_dot_segment(&segment), decoded == "." || decoded == "..");
        }
    }
}
