//! Whatever fields come in: what a hop, a caller or a browser must not carry over is gone, what
//! else there is passes as it is, and the one credential is ours.
//!
//! Input: a byte whose lower bits choose what the answer is an answer to, the head of a request, an
//! empty line, the fields of an answer.

#![no_main]

mod head;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use pleo_proxy::oauth::endpoint::Origin;
use pleo_proxy::proxy::headers::{ResponseContext, to_client, to_upstream};
use pleo_proxy::proxy::route::Route;

const CREDENTIAL: HeaderValue = HeaderValue::from_static("Bearer ours");
const API: HeaderValue = HeaderValue::from_static("external.pleo.io");
const PAGE: HeaderValue = HeaderValue::from_static("http://localhost:3000");

/// Of one connection only, or made anew for the next.
const HOP: &str = "connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer \
                   transfer-encoding upgrade http2-settings";
/// What a caller cannot say to the API.
const CALLERS: &str = "host content-length expect authorization cookie forwarded x-real-ip via origin referer \
                       x-http-method x-http-method-override x-method-override service-worker pleo-account \
                       pleo-proxy-* x-forwarded-* sec-fetch-* sec-websocket-* access-control-request-*";
/// What the API cannot say to a browser.
const BROWSERS: &str = "set-cookie clear-site-data alt-svc service-worker-allowed refresh nel report-to \
                        strict-transport-security pleo-proxy-* access-control-*";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let end = text.windows(2).position(|two| two == b"\n\n").unwrap_or(text.len());
    let Some((parts, _)) = head::request(&text[..end]) else { return };
    going_up(&parts);
    let answer = head::fields(text.get(end + 2..).unwrap_or_default());
    coming_down(&parts, &answer, choice & 1 == 1, choice & 2 == 2);
});

fn going_up(parts: &Parts) {
    let sent = to_upstream(HeaderMap::new(), parts, &API, &CREDENTIAL);
    assert_eq!(head::all(&sent, "authorization"), [b"Bearer ours"]);
    assert_eq!(head::all(&sent, "host"), [b"external.pleo.io"]);
    let nominated = nominated(&parts.headers);
    for name in sent.keys().filter(|name| *name != "authorization" && *name != "host") {
        assert!(!is_of(name, HOP) && !is_of(name, CALLERS), "{name} goes up");
        assert!(!is_nominated(name, &nominated), "{name} is for this hop only");
    }
    for name in parts.headers.keys().filter(|name| *name != "authorization" && *name != "host") {
        let stays = is_of(name, HOP) || is_of(name, CALLERS) || is_nominated(name, &nominated);
        assert!(
            stays || head::all(&sent, name.as_str()) == head::all(&parts.headers, name.as_str()),
            "{name}"
        );
    }
}

fn coming_down(parts: &Parts, from: &HeaderMap, prefixed: bool, page: bool) {
    let account = prefixed.then(|| "acme".parse().expect("a name"));
    let route = Route { account, target: PathAndQuery::from_static("/v1/x"), prefixed };
    let api = Origin::parse("https://external.pleo.io").expect("an origin");
    let allowed = PAGE;
    let origin = page.then_some(&allowed);
    let got = to_client(
        from.clone(),
        &ResponseContext { request: parts, route: &route, api: &api, origin },
    );
    let nominated = nominated(from);
    let ours = [
        "x-content-type-options",
        "cross-origin-resource-policy",
        "content-security-policy",
        "vary",
    ];
    for name in got.keys().filter(|name| !ours.contains(&name.as_str())) {
        let allows = page
            && ["access-control-allow-origin", "access-control-expose-headers"]
                .contains(&name.as_str());
        assert!(allows || !is_of(name, HOP) && !is_of(name, BROWSERS), "{name} comes down");
        assert!(allows || !is_nominated(name, &nominated), "{name} is for the other hop only");
        assert!(
            allows
                || name == "location"
                || head::all(&got, name.as_str()) == head::all(from, name.as_str())
        );
    }
    assert_eq!(head::all(&got, "x-content-type-options"), [b"nosniff"]);
    let policy = if page { "cross-origin" } else { "same-origin" };
    assert_eq!(head::all(&got, "cross-origin-resource-policy"), [policy.as_bytes()]);
    assert_eq!(
        head::all(&got, "access-control-allow-origin"),
        origin.map(HeaderValue::as_bytes).into_iter().collect::<Vec<_>>()
    );
    assert!(!from.contains_key("transfer-encoding") || !got.contains_key("content-length"));
    if let Some(dest) = head::all(&parts.headers, "sec-fetch-dest").first() {
        let is_page = [&b"document"[..], b"iframe", b"frame"].contains(dest);
        let policy = head::all(&got, "content-security-policy");
        assert!(!is_page || policy == [b"sandbox; default-src 'none'"]);
    }
    for location in head::all(&got, "location") {
        location_is_kept_or_local(location, parts, from, prefixed);
    }
}

/// A location stays as it is, or is the same place as the caller sees it.
fn location_is_kept_or_local(location: &[u8], parts: &Parts, from: &HeaderMap, prefixed: bool) {
    let was = head::all(from, "location");
    let prefix = if prefixed { "/@acme" } else { "" };
    let own = head::all(&parts.headers, "host")
        .first()
        .map(|host| [b"http://", *host].concat())
        .unwrap_or_default();
    let local = location.strip_prefix(own.as_slice()).unwrap_or(location);
    let rest = local.strip_prefix(prefix.as_bytes());
    // Behind an authority comes a path, a query or a fragment; where there is nothing, the root.
    let is_same =
        |was: &[u8], rest: &[u8]| rest == b"/" || b"/?#".contains(&rest[0]) && was.ends_with(rest);
    let is_local =
        rest.is_some_and(|rest| !rest.is_empty() && was.iter().any(|was| is_same(was, rest)));
    assert!(is_local || was.contains(&location), "{location:?} of {was:?}");
}

/// The names that the lines of `Connection` speak of, in lower case.
fn nominated(fields: &HeaderMap) -> Vec<Vec<u8>> {
    let lines = head::all(fields, "connection").join(&b',').to_ascii_lowercase();
    let names = lines.split(|byte| b",\" \t".contains(byte)).filter(|name| !name.is_empty());
    names.filter(|name| *name != b"close" && *name != b"keep-alive").map(<[u8]>::to_vec).collect()
}

fn is_nominated(name: &HeaderName, nominated: &[Vec<u8>]) -> bool {
    nominated.iter().any(|nominated| nominated == name.as_str().as_bytes())
}

/// True if a list has the name, or one that a server may take for it.
fn is_of(name: &HeaderName, list: &str) -> bool {
    let plain: String =
        name.as_str().chars().map(|c| if "_.".contains(c) { '-' } else { c }).collect();
    list.split_whitespace().any(|entry| match entry.strip_suffix('*') {
        Some(start) => plain.starts_with(start),
        None => plain == entry,
    })
}
