//! Header policy in both directions. For the API a new map is built from what may pass, and only
//! then the credential goes in: stripping after that would let a caller's `Connection:
//! Authorization` remove the token.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::route::Route;
use crate::oauth::endpoint::Origin;

/// Room for fields in a new map: hyper reads the response into it, and makes it no larger for most.
const USUAL_FIELDS: usize = 12;
/// Maps with room for more fields than this are not kept.
const MAX_SPARE_FIELDS: usize = 64;
/// Empty maps that are kept, at most.
const MAX_SPARE: usize = 64;

/// Empty maps for the next requests. hyper uses each map again for what arrives on the same
/// connection, so that one a request goes around and none is made.
#[derive(Debug, Default)]
pub(super) struct SpareMaps(Mutex<Vec<HeaderMap>>);

impl SpareMaps {
    /// An empty map.
    pub(super) fn take(&self) -> HeaderMap {
        let kept = self.0.lock().pop();
        kept.unwrap_or_else(|| HeaderMap::with_capacity(USUAL_FIELDS))
    }

    /// Empties a map, and keeps it.
    pub(super) fn give_back(&self, mut map: HeaderMap) {
        map.clear();
        if !(USUAL_FIELDS..=MAX_SPARE_FIELDS).contains(&map.capacity()) {
            return;
        }
        let mut kept = self.0.lock();
        if kept.len() < MAX_SPARE {
            kept.push(map);
        }
    }
}

/// Hop-by-hop fields (RFC 9110 section 7.6.1), and framing, which is set anew for each side.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Fields of a request that are not forwarded, besides the hop-by-hop ones.
fn is_for_proxy(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "authorization"
            | "cookie"
            | "forwarded"
            | "x-real-ip"
            | "via"
            | "origin"
            | "referer"
            | "x-http-method"
            | "x-http-method-override"
            | "x-method-override"
            | "service-worker"
            | "pleo-account"
    ) || name.starts_with("pleo-proxy-")
        || name.starts_with("x-forwarded-")
        || name.starts_with("sec-fetch-")
        || name.starts_with("sec-websocket-")
        || name.starts_with("access-control-request-")
}

/// Fields of a response that are not passed on, besides the hop-by-hop ones: a browser would apply
/// them to the proxy's own origin, or they concern this hop only.
fn is_kept_from_caller(name: &str) -> bool {
    matches!(
        name,
        "set-cookie"
            | "clear-site-data"
            | "alt-svc"
            | "service-worker-allowed"
            | "refresh"
            | "nel"
            | "report-to"
            | "strict-transport-security"
    ) || name.starts_with("pleo-proxy-")
        || name.starts_with("access-control-")
}

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const CROSS_ORIGIN: HeaderValue = HeaderValue::from_static("cross-origin");
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The fields of the request to the API, in the empty map `to`: the caller's end-to-end fields, the
/// API's Host, then the credential.
pub fn to_upstream(
    mut to: HeaderMap,
    from: &Parts,
    host: &HeaderValue,
    credential: &HeaderValue,
) -> HeaderMap {
    let nominated = Nominated::of(&from.headers);
    to.reserve(from.headers.len() + 2);
    to.insert(header::HOST, host.clone());
    for (name, value) in &from.headers {
        if !is_dropped(name.as_str(), is_for_proxy) && !nominated.has(name.as_str()) {
            to.append(name.clone(), value.clone());
        }
    }
    to.insert(header::AUTHORIZATION, credential.clone());
    to
}

/// Sets a length or the chunked coding, which are not forwarded; `length` is that of the body, if it
/// is known. Without one, hyper sends no body with the methods that usually have none.
pub(super) fn set_framing(headers: &mut HeaderMap, from: &Parts, length: Option<u64>) {
    match length {
        None if from.headers.contains_key(header::TRANSFER_ENCODING) => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Some(length) if length > 0 || from.headers.contains_key(header::CONTENT_LENGTH) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        _ => {}
    }
}

/// The fields of the response to the caller: what is not passed on is removed, the proxy's own
/// fields are added.
pub fn to_client(mut headers: HeaderMap, context: &ResponseContext<'_>) -> HeaderMap {
    for name in not_for_client(&headers) {
        headers.remove(name);
    }
    if let header::Entry::Occupied(mut locations) = headers.entry(header::LOCATION) {
        for location in locations.iter_mut() {
            if let Some(local) = context.local(location) {
                *location = local;
            }
        }
    }
    protect(&mut headers, context);
    headers
}

fn not_for_client(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    let nominated = Nominated::of(headers);
    // If there are both, the length is not reliable (RFC 9112 section 6.3).
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let is_dropped = |name: &&HeaderName| {
        let is_false_length = is_chunked && *name == header::CONTENT_LENGTH;
        is_false_length
            || is_dropped(name.as_str(), is_kept_from_caller)
            || nominated.has(name.as_str())
    };
    headers.keys().filter(is_dropped).cloned().collect()
}

/// What the fields of a response depend on.
#[derive(Debug)]
pub struct ResponseContext<'a> {
    /// The caller's request.
    pub request: &'a Parts,
    /// Where it went.
    pub route: &'a Route,
    /// The API.
    pub api: &'a Origin,
    /// The page that sent the request, if `allow_origins` lists it.
    pub origin: Option<&'a HeaderValue>,
}

impl ResponseContext<'_> {
    /// The caller's own address for a location on the API's origin; none for any other, which stays
    /// as it is.
    fn local(&self, location: &HeaderValue) -> Option<HeaderValue> {
        let location = location.to_str().ok()?;
        let rest = match location.strip_prefix('/') {
            // `//host` names another host, with the scheme left out.
            Some(rest) if rest.starts_with('/') => return None,
            Some(_) => location,
            None => self.path_on_api(location)?,
        };
        let account = self.route.account.as_ref().filter(|_| self.route.prefixed);
        let prefix = account.map(|account| format!("/@{account}")).unwrap_or_default();
        let origin = if location.starts_with('/') { String::new() } else { self.own_origin()? };
        let local = format!("{origin}{prefix}{rest}");
        HeaderValue::from_str(&local).ok()
    }

    fn path_on_api<'l>(&self, location: &'l str) -> Option<&'l str> {
        let rest = location
            .split_once("://")
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(self.api.scheme()))?
            .1;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let known = [self.api.authority(), self.api.authority_with_port()];
        known.iter().any(|known| known.eq_ignore_ascii_case(authority)).then_some(match path {
            "" => "/",
            path => path,
        })
    }

    fn own_origin(&self) -> Option<String> {
        let host = self.request.headers.get(header::HOST)?.to_str().ok()?;
        Some(format!("http://{host}"))
    }
}

/// Adds the proxy's own fields: no sniffing, no scripts, and only listed pages may read.
fn protect(to: &mut HeaderMap, context: &ResponseContext<'_>) {
    to.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    to.insert(RESOURCE_POLICY, if context.origin.is_some() { CROSS_ORIGIN } else { SAME_ORIGIN });
    let is_shown = context.request.headers.get(SEC_FETCH_DEST);
    if is_shown.is_some_and(|dest| dest == "document" || dest == "iframe" || dest == "frame") {
        to.insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
    }
    if let Some(origin) = context.origin {
        allow(to, origin);
    }
}

/// Lets one page read a response (Fetch standard, CORS protocol): its exact origin, never with
/// cookies.
pub fn allow(to: &mut HeaderMap, origin: &HeaderValue) {
    to.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    to.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    to.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// True for a name that is hop-by-hop or `is_listed`, or that a server might take for such a name:
/// with `_` or `.` instead of a hyphen.
fn is_dropped(name: &str, is_listed: fn(&str) -> bool) -> bool {
    if name.bytes().any(|byte| matches!(byte, b'_' | b'.')) {
        let plain = name.replace(['_', '.'], "-");
        return is_hop_by_hop(&plain) || is_listed(&plain);
    }
    is_hop_by_hop(name) || is_listed(name)
}

/// The names that `Connection` lines declare to be hop-by-hop.
struct Nominated<'a>(Vec<&'a [u8]>);

impl<'a> Nominated<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        // Bytes, not text: a byte beyond ASCII must not protect the names beside it. No name has
        // quotes or spaces.
        let lines = headers.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
        // The two usual words name nothing that is not dropped anyway.
        let is_unusual = |name: &&[u8]| {
            !name.eq_ignore_ascii_case(b"keep-alive") && !name.eq_ignore_ascii_case(b"close")
        };
        let names = lines
            .filter(is_unusual)
            .flat_map(|line| line.split(|byte| matches!(byte, b',' | b'"' | b' ' | b'\t')));
        Self(names.filter(|name| !name.is_empty() && is_unusual(name)).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|nominated| nominated.eq_ignore_ascii_case(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    const CREDENTIAL: HeaderValue = HeaderValue::from_static("Bearer ours");

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/v1/x").header("host", "127.0.0.1:8088");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn up(headers: &[(&str, &str)]) -> HeaderMap {
        let host = HeaderValue::from_static("external.pleo.io");
        to_upstream(HeaderMap::new(), &request(headers), &host, &CREDENTIAL)
    }

    fn down(headers: &[(&'static str, &str)], asked: &[(&str, &str)], prefixed: bool) -> HeaderMap {
        down_to(None, headers, asked, prefixed)
    }

    fn down_to(
        page: Option<&HeaderValue>,
        headers: &[(&'static str, &str)],
        asked: &[(&str, &str)],
        prefixed: bool,
    ) -> HeaderMap {
        let mut from = HeaderMap::new();
        for (name, value) in headers {
            from.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let account = prefixed.then(|| "acme".parse().unwrap());
        let route = Route { account, target: PathAndQuery::from_static("/"), prefixed };
        let api = Origin::parse("https://external.pleo.io").unwrap();
        let request = request(asked);
        to_client(
            from.clone(),
            &ResponseContext { request: &request, route: &route, api: &api, origin: page },
        )
    }

    #[test]
    fn the_credential_is_ours_whatever_is_sent() {
        let sent = up(&[
            ("authorization", "Bearer evil"),
            ("authorization", "Basic evil"),
            ("proxy-authorization", "Basic x"),
            ("connection", ""),
            ("connection", "authorization, host, x-a"),
            ("connection", "\"Authorization\""),
            ("x-a", "1"),
            ("author_ization", "harmless"),
            ("authori.zation", "harmless"),
        ]);
        assert_eq!(sent.get_all("authorization").iter().collect::<Vec<_>>(), [&CREDENTIAL]);
        assert_eq!(sent["host"], "external.pleo.io");
        assert!(sent.get("x-a").is_none() && sent.get("connection").is_none());
    }

    #[test]
    fn a_connection_line_beyond_ascii_still_names_hop_by_hop_fields() {
        for line in ["x-a, é", "é,X-A", "\"x-a\" é", "close, x-a"] {
            let got = down(&[("connection", line), ("x-a", "1"), ("x-b", "1")], &[], false);
            assert!(got.get("x-a").is_none() && got.get("x-b").is_some(), "{line}");
            let mut asks = request(&[("x-a", "1"), ("x-b", "1")]);
            asks.headers.insert("connection", HeaderValue::from_bytes(line.as_bytes()).unwrap());
            let sent =
                to_upstream(HeaderMap::new(), &asks, &HeaderValue::from_static("h"), &CREDENTIAL);
            assert!(sent.get("x-a").is_none() && sent.get("x-b").is_some(), "{line}");
        }
    }

    #[test]
    fn only_a_listed_page_may_read() {
        let page = HeaderValue::from_static("http://localhost:3000");
        let theirs = [("access-control-allow-origin", "*"), ("vary", "Accept")];
        let got = down_to(Some(&page), &theirs, &[], false);
        assert_eq!(got.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(), [&page]);
        assert_eq!(got["access-control-expose-headers"], "*");
        assert_eq!(got["cross-origin-resource-policy"], "cross-origin");
        assert_eq!(got.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        let got = down(&theirs, &[], false);
        assert_eq!(got["cross-origin-resource-policy"], "same-origin");
        assert_eq!(got.get_all("vary").iter().collect::<Vec<_>>(), ["Accept"]);
        assert!(got.get("access-control-allow-origin").is_none());
    }

    #[test]
    fn a_response_that_a_browser_shows_runs_no_scripts() {
        for (dest, runs_nothing) in
            [("document", true), ("iframe", true), ("frame", true), ("image", false)]
        {
            let got = down(&[("content-security-policy", "x")], &[("sec-fetch-dest", dest)], false);
            let policy = if runs_nothing { "sandbox; default-src 'none'" } else { "x" };
            assert_eq!(got["content-security-policy"], policy, "{dest}");
            assert_eq!(got["x-content-type-options"], "nosniff");
        }
    }

    #[test]
    fn a_length_is_passed_on_only_without_a_transfer_coding() {
        let both = [("content-length", "10"), ("transfer-encoding", "chunked"), ("etag", "a")];
        assert!(down(&both, &[], false).get("content-length").is_none());
        assert!(down(&both, &[], false).get("etag").is_some());
        assert_eq!(down(&both[..1], &[], false)["content-length"], "10");
    }

    #[test]
    fn fields_for_the_proxy_are_not_forwarded() {
        let sent = up(&[
            ("cookie", "a=b"),
            ("origin", "http://x"),
            ("referer", "http://x"),
            ("sec-fetch-site", "none"),
            ("forwarded", "for=1"),
            ("x-forwarded-for", "1"),
            ("X_Forwarded_For", "1"),
            ("x.forwarded.for", "1"),
            ("via", "1.1 a"),
            ("x-http-method-override", "DELETE"),
            ("pleo-account", "acme"),
            ("pleo-proxy-key", "k"),
            ("pleo-proxy-hint", "forged"),
            ("pleo-proxy-request", "forged"),
            ("pleo_account", "acme"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMA"),
            ("expect", "100-continue"),
            ("content-length", "003"),
        ]);
        assert_eq!(
            sent.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["host", "authorization"]
        );
    }

    #[test]
    fn other_fields_pass_in_order() {
        let sent = up(&[
            ("accept", "a"),
            ("x-dup", "1"),
            ("x-dup", "2"),
            ("accept-encoding", "gzip"),
            ("range", "b"),
        ]);
        assert_eq!(sent.get_all("x-dup").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(
            (&sent["accept-encoding"], &sent["range"]),
            (&"gzip".parse().unwrap(), &"b".parse().unwrap())
        );
    }

    #[test]
    fn responses_lose_fields_that_a_browser_would_obey() {
        let got = down(
            &[
                ("set-cookie", "a=b"),
                ("access-control-allow-origin", "*"),
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-private-network", "true"),
                ("clear-site-data", "\"*\""),
                ("alt-svc", "h3"),
                ("refresh", "0"),
                ("service-worker-allowed", "/"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("proxy-authenticate", "Basic"),
                ("pleo-proxy-error", "forged"),
                ("pleo-proxy-hint", "forged"),
                ("pleo_proxy_request", "forged"),
                ("content-type", "text/html"),
                ("content-length", "10"),
                ("transfer-encoding", "chunked"),
            ],
            &[("sec-fetch-dest", "document")],
            false,
        );
        assert_eq!(got["content-security-policy"], "sandbox; default-src 'none'");
        let mut names: Vec<_> = got.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-security-policy",
                "content-type",
                "cross-origin-resource-policy",
                "x-content-type-options"
            ]
        );
    }

    #[test]
    fn locations_on_the_api_become_local() {
        for (location, prefixed, expected) in [
            ("https://external.pleo.io/v1/y?z#f", false, "http://127.0.0.1:8088/v1/y?z#f"),
            ("https://External.Pleo.io:443/v1/y", true, "http://127.0.0.1:8088/@acme/v1/y"),
            ("https://external.pleo.io", false, "http://127.0.0.1:8088/"),
            ("https://external.pleo.io?z", true, "http://127.0.0.1:8088/@acme?z"),
            ("https://external.pleo.io#f", false, "http://127.0.0.1:8088#f"),
            ("https://external.pleo.io:80/v1", false, "https://external.pleo.io:80/v1"),
            ("/v1/y", true, "/@acme/v1/y"),
            ("/v1/y", false, "/v1/y"),
            ("https://external.pleo.io.evil/steal", false, "https://external.pleo.io.evil/steal"),
            ("http://external.pleo.io/v1", false, "http://external.pleo.io/v1"),
            ("//evil/x", true, "//evil/x"),
            ("y", true, "y"),
        ] {
            assert_eq!(
                down(&[("location", location)], &[], prefixed)["location"],
                expected,
                "{location}"
            );
        }
    }

    proptest! {
        #[test]
        fn there_is_one_credential_and_it_is_ours(names in prop::collection::vec("[a-zA-Z_.-]{1,20}", 0..20), nominated in "[a-zA-Z,\" -]{0,60}") {
            let mut headers = vec![("connection", nominated.trim())];
            headers.extend(names.iter().map(|name| (name.as_str(), "evil")));
            let sent = up(&headers);
            prop_assert_eq!(sent.get_all("authorization").iter().collect::<Vec<_>>(), [&CREDENTIAL]);
            prop_assert_eq!(sent.get_all("host").iter().count(), 1);
        }
    }

    #[test]
    fn a_map_that_is_used_again_is_empty_and_of_usual_size() {
        let spare = SpareMaps::default();
        let mut map = spare.take();
        let room = map.capacity();
        map.insert("pleo-proxy-key", HeaderValue::from_static("of another caller"));
        map.append("x-a", HeaderValue::from_static("1"));
        map.append("x-a", HeaderValue::from_static("2"));
        spare.give_back(map);
        let map = spare.take();
        assert!(map.is_empty() && map.capacity() == room, "{map:?}");
        spare.give_back(HeaderMap::with_capacity(1000));
        spare.give_back(HeaderMap::new());
        assert_eq!(spare.0.lock().len(), 0, "too large, and too small");
        (0..2 * MAX_SPARE).for_each(|_| spare.give_back(HeaderMap::with_capacity(USUAL_FIELDS)));
        assert_eq!(spare.0.lock().len(), MAX_SPARE);
    }
}
