//! Our own response to a malformed request, in place of hyper's, which has a status and no reason.
//! It names the line or the character that is wrong, and repeats nothing else of what was sent.

use std::sync::Arc;

use http::header::DATE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::framing::MAX_HEAD;
use crate::exchange::Exchange;
use crate::exchange::activity::Activity;
use crate::problem::{Code, Problem};

/// Header fields of a request, at most; hyper's default.
const MAX_FIELDS: usize = 100;

/// A response to a malformed request, and how much of it is written.
#[derive(Debug)]
pub(super) struct Malformed {
    /// Until everything is written.
    exchange: Option<Exchange>,
    bytes: Vec<u8>,
    written: usize,
    body_length: usize,
}

impl Malformed {
    /// The response to `head`, which hyper refuses by `refusal`; empty if hyper has no response.
    pub(super) fn new(activity: &Arc<Activity>, head: &[u8], refusal: &[u8]) -> Self {
        let mut exchange = Exchange::malformed(activity);
        let status = refusal.get(9..12).and_then(|status| StatusCode::from_bytes(status).ok());
        let problem = explain(head, status.unwrap_or(StatusCode::BAD_REQUEST)).closing();
        let mut response = exchange.refuse(problem);
        if let Some(date) = date(refusal) {
            response.headers_mut().insert(DATE, date);
        }
        exchange.respond(response.status(), response.headers_mut(), false);
        let (parts, body) = response.into_parts();
        let mut bytes = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
        write_fields(&mut bytes, &parts.headers, body.len());
        let body_length = if head.starts_with(b"HEAD ") { 0 } else { body.len() };
        bytes.extend_from_slice(&body[..body_length]);
        Self { exchange: Some(exchange), bytes, written: 0, body_length }
    }

    /// What is not written yet.
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// So many more bytes are written.
    pub(super) fn advance(&mut self, written: usize) {
        self.written += written;
        if self.unwritten().is_empty()
            && let Some(mut exchange) = self.exchange.take()
        {
            exchange.sent(self.body_length, &[], || true);
        }
    }
}

fn write_fields(bytes: &mut Vec<u8>, fields: &HeaderMap, length: usize) {
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_ref());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
}

/// The date in hyper's response.
fn date(refusal: &[u8]) -> Option<HeaderValue> {
    let line =
        refusal.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"date: "))?;
    HeaderValue::from_bytes(line.trim_ascii()).ok()
}

/// What is wrong with a request.
fn explain(head: &[u8], status: StatusCode) -> Problem {
    if let Some((detail, fix)) = explain_size(head, status) {
        return Problem::new(Code::BadRequest, detail, fix).with_status(status);
    }
    let (detail, fix) =
        explain_request_line(head).or_else(|| explain_fields(head)).unwrap_or_else(|| {
            ("it is not valid HTTP/1.1".to_owned(), "Send an HTTP/1.1 request.".to_owned())
        });
    Problem::new(Code::BadRequest, detail, fix)
}

/// Detail and fix.
type Explanation = (String, String);

fn explanation(detail: impl Into<String>, fix: impl Into<String>) -> Option<Explanation> {
    Some((detail.into(), fix.into()))
}

fn explain_size(head: &[u8], status: StatusCode) -> Option<Explanation> {
    let is_long =
        || head.len() >= MAX_HEAD || head.split(|byte| *byte == b'\n').count() > MAX_FIELDS;
    match status {
        StatusCode::URI_TOO_LONG => {
            explanation("the target is longer than 64 KiB", "Send a shorter path or query.")
        }
        // hyper has the same status for an impossible length.
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE if is_long() => explanation(
            format!("the head has more than {MAX_FIELDS} header fields or is longer than 64 KiB"),
            "Send fewer or shorter header fields; long values belong in the body.",
        ),
        _ => None,
    }
}

/// What is wrong with the request line; none if nothing is, or if it is not complete.
fn explain_request_line(head: &[u8]) -> Option<Explanation> {
    if head.starts_with(&[0x16, 0x03]) {
        return explanation(
            "it is a TLS greeting, and this listener speaks plain HTTP",
            "Use http:// in place of https://.",
        );
    }
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let end = start + head[start..].iter().position(|byte| *byte == b'\n')?;
    let line = head[start..end].strip_suffix(b"\r").unwrap_or(&head[start..end]);
    let mut words = line.splitn(2, |byte| *byte == b' ');
    let (method, rest) = (words.next()?, words.next().unwrap_or_default());
    if Method::from_bytes(method).is_err() {
        return explanation(
            "its first line does not begin with a method",
            "Send METHOD PATH HTTP/1.1 as the first line.",
        );
    }
    let Some(at) = rest.windows(6).rposition(|it| it == b" HTTP/") else {
        return explanation(
            "its first line does not end with a version",
            "Send METHOD PATH HTTP/1.1 as the first line.",
        );
    };
    let (target, version) = (&rest[..at], &rest[at + 1..]);
    if let Some(explanation) = explain_target(target) {
        return Some(explanation);
    }
    match version {
        b"HTTP/1.1" | b"HTTP/1.0" => None,
        _ => explanation(
            "its version is neither HTTP/1.1 nor HTTP/1.0",
            "Send METHOD PATH HTTP/1.1 as the first line.",
        ),
    }
}

/// The first character that a target may not contain, and how it is escaped.
fn explain_target(target: &[u8]) -> Option<Explanation> {
    let (mut rest, mut part) = (target, &b"/"[..]);
    while let Some(first) = rest.first() {
        let it = character(rest);
        if *first == b'?' {
            part = b"/?";
        }
        let is_wrong = !first.is_ascii_alphanumeric()
            && (first.is_ascii_control()
                || PathAndQuery::try_from(&[part, it].concat()[..]).is_err());
        if is_wrong {
            return wrong_character(it);
        }
        rest = &rest[it.len()..];
    }
    None
}

fn wrong_character(bytes: &[u8]) -> Option<Explanation> {
    let escaped: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let name = match std::str::from_utf8(bytes).ok().and_then(|text| text.chars().next()) {
        Some(' ') => "a blank".to_owned(),
        Some(it) if !it.is_control() => format!("the character {it}"),
        _ => format!("the byte 0x{:02X}", bytes[0]),
    };
    explanation(
        format!("its target holds {name}, which HTTP does not allow there"),
        format!("Write it as {escaped}."),
    )
}

/// The bytes of the first character; the first byte if it is not UTF-8.
fn character(bytes: &[u8]) -> &[u8] {
    let is_one = |length: &usize| std::str::from_utf8(&bytes[..*length]).is_ok();
    &bytes[..(1..=bytes.len().min(4)).find(is_one).unwrap_or(1)]
}

/// What is wrong with the header fields.
fn explain_fields(head: &[u8]) -> Option<Explanation> {
    let lines =
        head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut lines = lines.skip_while(|line| line.is_empty());
    let is_old = lines.next()?.ends_with(b"HTTP/1.0");
    let (mut lengths, mut coding) = (Vec::new(), None);
    for (number, line) in (1..).zip(lines.take_while(|line| !line.is_empty())) {
        let (name, value) = match field(line) {
            Ok(field) => field,
            Err((what, fix)) => {
                return explanation(format!("its header field {number} {what}"), fix);
            }
        };
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths.push(value);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            coding = Some(value);
        }
    }
    if coding.is_some() && is_old {
        return explanation(
            "HTTP/1.0 has no Transfer-Encoding",
            "Send Content-Length, or HTTP/1.1.",
        );
    }
    if coding.is_some_and(|coding| !coding.to_ascii_lowercase().ends_with(b"chunked")) {
        return explanation(
            "its Transfer-Encoding does not end with chunked",
            "Send chunked alone, or Content-Length.",
        );
    }
    let first = lengths.first()?;
    if lengths.iter().any(|length| length != first) {
        return explanation("it has several lengths that differ", "Send one Content-Length.");
    }
    explanation(
        "its Content-Length is no possible number of bytes",
        "Send the length of the body in digits.",
    )
}

/// SocketFile and value.
type Field<'a> = (&'a [u8], &'a [u8]);

/// SocketFile and value of a header field, or what is wrong with it and how it is mended.
fn field(line: &[u8]) -> Result<Field<'_>, (&'static str, &'static str)> {
    if matches!(line[0], b' ' | b'\t') {
        return Err(("begins with a blank", "Send each header field on one line."));
    }
    let colon = line.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(("has no colon", "Send header fields as NAME: VALUE."))?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if HeaderName::from_bytes(name).is_err() {
        return Err((
            "has no valid name",
            "A name is of letters, digits and -, with the colon right behind.",
        ));
    }
    if HeaderValue::from_bytes(value).is_err() {
        return Err(("holds a control character", "Leave it out."));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::exchange::Caller;

    fn text(problem: Problem) -> String {
        let body = problem.into_response().into_body();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        format!("{} {}", json["detail"].as_str().unwrap(), json["fix"].as_str().unwrap())
    }

    fn activity() -> Arc<Activity> {
        Activity::new(Caller::Unix { user: None, process: None }, Instant::now(), None)
    }

    #[test]
    fn the_response_names_what_is_wrong() {
        for (head, words) in [
            ("GET /a<b HTTP/1.1\r\n\r\n", ["character <", "%3C"]),
            ("GET /?a=<b HTTP/1.1\r\n\r\n", ["character <", "%3C"]),
            ("GET /a b HTTP/1.1\r\n\r\n", ["a blank", "%20"]),
            ("GET /a\tb HTTP/1.1\r\n\r\n", ["0x09", "%09"]),
            ("GET /x HTTP/2\r\n\r\n", ["version", "HTTP/1.1"]),
            ("GET /x\r\n\r\n", ["version", "HTTP/1.1"]),
            ("G@T /x HTTP/1.1\r\n\r\n", ["a method", "METHOD"]),
            ("\x16\x03\x01", ["TLS", "http://"]),
            (
                "GET / HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n",
                ["field 2 has no valid name", "letters"],
            ),
            (
                "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
                ["field 2 begins with a blank", "one line"],
            ),
            ("GET / HTTP/1.1\r\nnothing\r\n\r\n", ["no colon", "NAME: VALUE"]),
            ("GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", ["control character", "Leave"]),
            ("PUT / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", ["no possible number", "digits"]),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\n",
                ["several lengths", "one"],
            ),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", ["chunked", "Content-Length"]),
            (
                "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                ["HTTP/1.0 has no", "HTTP/1.1"],
            ),
        ] {
            let text = text(explain(head.as_bytes(), StatusCode::BAD_REQUEST));
            assert!(words.iter().all(|word| text.contains(word)), "{head:?}: {text}");
        }
        let text = text(explain(b"GET /\xff HTTP/1.1\r\n\r\n", StatusCode::BAD_REQUEST));
        assert!(text.contains("0xFF") && text.contains("%FF"), "{text}");
    }

    #[test]
    fn the_response_is_complete_and_has_the_status_and_date_of_hypers() {
        let refusal =
            b"HTTP/1.1 431 Too\r\nconnection: close\r\ncontent-length: 0\r\ndate: Tue\r\n\r\n";
        let many = "X: y\r\n".repeat(101);
        let get =
            Malformed::new(&activity(), format!("GET / HTTP/1.1\r\n{many}").as_bytes(), refusal)
                .bytes;
        let get = String::from_utf8(get).unwrap();
        let (head, body) = get.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        for line in ["pleo-proxy-error: bad_request", "connection: close", "date: Tue"] {
            assert!(head.lines().any(|it| it == line), "{head}");
        }
        assert!(
            head.contains(&format!("content-length: {}", body.len()))
                && body.contains("\"status\":431"),
            "{get}"
        );
        let bare =
            String::from_utf8(Malformed::new(&activity(), b"HEAD / HTTP/1.1\r\n", refusal).bytes)
                .unwrap();
        assert!(bare.ends_with("\r\n\r\n"), "{bare}");
    }

    proptest! {
        #[test]
        fn the_response_repeats_one_character_of_the_request_at_most(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut head = b"GET /secret-marker HTTP/1.1\r\nX: secret-marker\r\n".to_vec();
            head.extend(bytes);
            prop_assert!(!text(explain(&head, StatusCode::BAD_REQUEST)).contains("secret"));
        }
    }
}
