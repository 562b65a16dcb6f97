//! Checks the form of a request: its method, framing and target.

use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version};
use url::form_urlencoded;

use super::page::forbidden;
use super::refusal::{bad, single};
use super::settings::Fragment;
use crate::problem::{Code, METHODS, Problem};

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SERVICE_WORKER: HeaderName = HeaderName::from_static("service-worker");

/// Checks that the method can be forwarded; `CONNECT` is checked elsewhere.
pub(super) fn check_method(method: &Method) -> Result<(), Problem> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => Ok(()),
        _ => Err(Problem::new(
            Code::MethodNotAllowed,
            // Not the method itself, which is whatever a caller puts there.
            "this method is not forwarded",
            format!("Use one of {}.", METHODS),
        )),
    }
}

/// Refuses what hyper lets through: transfer codings other than `chunked`, a length beside one, and
/// unknown expectations.
pub(super) fn check_framing(parts: &Parts) -> Result<(), Problem> {
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
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Problem::new(
                Code::ExpectationFailed,
                "the only expectation that can be met is 100-continue",
                "Leave the Expect header out.",
            ))
        }
        _ => Ok(()),
    }
}

/// Checks path and query, which are forwarded byte for byte.
pub(super) fn check_target(parts: &Parts) -> Result<(), Problem> {
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
    let names_token = |query: &str| {
        form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "access_token")
    };
    if parts.uri.query().is_some_and(names_token) {
        return Err(bad("the query holds access_token; the proxy adds the credential itself"));
    }
    Ok(())
}

/// True for `.` and `..`, also with dots written as `%2e`.
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

/// Refuses websockets and service workers. An offer of h2c is ignored, as RFC 9110 section 7.8
/// allows.
pub(super) fn check_upgrade(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(SERVICE_WORKER) {
        return Err(forbidden(
            "a browser asks for a service worker",
            "Call from a program.".into(),
        ));
    }
    let other =
        headers.get_all(UPGRADE).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"));
    if other || headers.contains_key(SEC_WEBSOCKET_KEY) {
        return Err(bad("connections are not upgraded; the API speaks plain HTTP requests"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn dot_segments_are_found_however_written(segment in "(\\.|%2e|%2E|a|%|2e){0,4}") {
            let decoded = segment.replace("%2e", ".").replace("%2E", ".");
            prop_assert_eq!(is_dot_segment(&segment), decoded == "." || decoded == "..");
        }
    }
}
