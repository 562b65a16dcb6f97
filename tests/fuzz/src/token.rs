//! Whatever the token endpoint answers: only a definite code is `Dead`, a token that is used fits a
//! header, and its lifetime is between a millisecond and a day.
//!
//! Input: a line with the status and, if there is more on it, the value of `Retry-After`; then the
//! body.

#![no_main]

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use libfuzzer_sys::fuzz_target;
use pleo_proxy::oauth::token::End;
use pleo_proxy::oauth::{Outcome, Tokens, introspect, token};
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let (status, patience) = line.split_at(line.len().min(3));
    let Ok(status) = StatusCode::from_bytes(status) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(patience.trim_ascii()) {
        headers.insert(RETRY_AFTER, value);
    }
    let json: Option<Value> = serde_json::from_slice(body).ok();
    if !json.as_ref().is_some_and(Value::is_object) {
        // What strict parsing does not read is compared with nothing; its tokens are usable ones
        // all the same.
        for end in [End::Whole, End::TooLong, End::BrokenOff] {
            if let Outcome::Fresh(tokens) = token::read(status, &headers, body, end) {
                assert!(status.is_success());
                fit_their_places(&tokens);
            }
            if let Ok(false) = introspect::active(body, end) {
                assert!(
                    body.contains(&b'}') || body.contains(&0),
                    "inactive by a part of an answer"
                );
            }
            let _ = introspect::subject(body, end);
        }
        return;
    }
    match token::read(status, &headers, body, End::Whole) {
        Outcome::Fresh(tokens) => is_usable(&tokens, status, json.as_ref()),
        Outcome::Dead(code) => is_definite(&code, status, json.as_ref()),
        Outcome::ComeBackLater { why, retry_after } => {
            is_a_line(&why);
            assert!(retry_after.is_none_or(|wait| wait <= LONGEST_WAIT));
        }
        Outcome::Ambiguous { why, answered } => {
            is_a_line(&why);
            assert!(answered, "the whole answer is here");
        }
        Outcome::Misconfigured(why) => {
            is_a_line(&why);
            assert!(field(json.as_ref(), "error").is_some_and(|code| !code.is_empty()));
        }
        Outcome::NotSent(_) | Outcome::HeldUp => panic!("an answer to what was not sent"),
    }
    if let Some(json) = &json {
        introspection(json, body);
    }
});

fn is_usable(tokens: &Tokens, status: StatusCode, json: Option<&Value>) {
    assert!(status.is_success());
    assert!(
        tokens.access.is_some()
            || field(json, "access_token").is_some()
            || tokens.refresh.is_some()
    );
    fit_their_places(tokens);
    if let Some(access) = &tokens.access {
        assert_eq!(field(json, "access_token"), Some(access.expose()));
    }
    if let Some(refresh) = &tokens.refresh {
        assert_eq!(field(json, "refresh_token"), Some(refresh.expose()));
    }
}

fn fit_their_places(tokens: &Tokens) {
    assert!((Duration::from_millis(1)..=DAY).contains(&tokens.lifetime), "{:?}", tokens.lifetime);
    if let Some(access) = &tokens.access {
        let token = access.expose();
        let stem = token.trim_end_matches('=');
        assert!(
            !stem.is_empty()
                && stem.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c))
        );
        assert!(HeaderValue::from_str(&format!("Bearer {token}")).is_ok());
    }
    if let Some(refresh) = &tokens.refresh {
        assert!(refresh.expose().chars().all(|c| c == ' ' || c.is_ascii_graphic()));
        assert!(!tokens.refresh_unreadable);
    }
    for scope in tokens.scope.iter().flatten() {
        is_a_line(scope);
        assert!(!scope.is_empty() && !scope.contains([' ', '+']));
    }
}

fn is_definite(code: &str, status: StatusCode, json: Option<&Value>) {
    assert!(
        status.is_success() || status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
    );
    let by_code = field(json, "error") == Some(code)
        && ["invalid_grant", "invalid_refresh_token"].contains(&code);
    let by_description = field(json, "error").is_some_and(|code| !code.is_empty())
        && code == "invalid_refresh_token"
        && field(json, "error_description") == Some(code);
    assert!(by_code || by_description, "{code}");
}

fn introspection(json: &Value, body: &[u8]) {
    if let Ok(active) = introspect::active(body, End::Whole) {
        assert_eq!(json["active"], Value::Bool(active));
    }
    if let Ok(subject) = introspect::subject(body, End::Whole) {
        assert!(!subject.is_empty(), "a subject that nobody can read");
        is_a_line(&subject);
    }
}

fn field<'a>(json: Option<&'a Value>, name: &str) -> Option<&'a str> {
    json?.get(name)?.as_str()
}

fn is_a_line(text: &str) {
    assert!(text.chars().count() <= 300 && !text.contains(char::is_control));
}
