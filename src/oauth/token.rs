//! The token endpoint: the form that is sent, and what an answer means. The only code that posts there.
//!
//! An [`Outcome`] is named by what the caller must do next, because a lost or odd answer to a single-use refresh
//! token must never be taken for a denial.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::authorize::printable;
use super::{ClientAuth, Exchange};
use crate::secret::{AccessToken, ClientSecret, RefreshToken};

/// Largest answer that is read, in bytes: real ones are a few KiB.
pub(super) const LARGEST_ANSWER: usize = 64 * 1024;
/// Longest token that is believed, in bytes: half of what a request head may hold.
const LONGEST_TOKEN: usize = 32 * 1024;
/// Above this `expires_in` is read as milliseconds, and no life is longer: one day in seconds.
const LONGEST_LIFE: f64 = 86_400.0;
/// Below this `expires_in` is as good as nought: one millisecond, the unit that lives are kept in.
const SHORTEST_LIFE: f64 = 0.001;
/// Life of an access token whose `expires_in` is absent, unreadable or not positive.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// Longest wait a `Retry-After` can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a token request came to, named by what the caller must do.
#[derive(Debug)]
pub enum Outcome {
    /// Save these before anything else.
    Fresh(Tokens),
    /// The request never left: try again later, nothing is spent.
    NotSent(String),
    /// The server asks for patience and has not looked at the token.
    ComeBackLater {
        /// What it answered.
        why: String,
        /// How long it asks to wait, at most five minutes.
        retry_after: Option<Duration>,
    },
    /// The pair may or may not be spent.
    Ambiguous {
        /// What was seen.
        why: String,
        /// True if a whole answer came, so that no copy of the request can still be under way.
        answered: bool,
    },
    /// The grant is over, in the server's own words (an error code).
    Dead(String),
    /// Something on our side must change; the grant is untouched.
    Misconfigured(String),
}

/// The usable parts of a successful answer.
#[derive(Debug)]
pub struct Tokens {
    /// The new access token, if one can be put into a header.
    pub access: Option<AccessToken>,
    /// The new refresh token, if one was sent.
    pub refresh: Option<RefreshToken>,
    /// A refresh token was sent that is none: the old one is spent, and its successor cannot be used.
    pub refresh_unreadable: bool,
    /// Life of the access token, counted from before the request was sent.
    pub life: Duration,
    /// Granted scopes, if told.
    pub scope: Option<Vec<String>>,
    /// What was unusual, for the log.
    pub oddities: Vec<&'static str>,
}

/// The body of a token request.
pub(super) fn form(exchange: &Exchange<'_>) -> Zeroizing<String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    match exchange {
        Exchange::Code { code, verifier, redirect_uri } => form
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code.expose())
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("code_verifier", verifier.expose()),
        Exchange::Refresh(token) => {
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.expose())
        }
    };
    Zeroizing::new(form.finish())
}

/// Adds the client's proof to a form, in one style only (RFC 6749 section 2.3); returns the header for the Basic ones.
pub(super) fn authenticate(
    style: ClientAuth,
    id: &str,
    secret: &ClientSecret,
    form: &mut Zeroizing<String>,
) -> Option<HeaderValue> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = match style {
        ClientAuth::Basic => Zeroizing::new(format!("{}:{}", encode(id), encode(secret.expose()))),
        ClientAuth::BasicRaw => Zeroizing::new(format!("{id}:{}", secret.expose())),
        ClientAuth::Post => {
            let proof = Zeroizing::new(format!("&client_id={}&client_secret={}", encode(id), encode(secret.expose())));
            form.push_str(&proof);
            return None;
        }
    };
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut header = HeaderValue::from_str(&value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Sends a prepared token request once and reads its answer.
pub(super) async fn post(request: reqwest::RequestBuilder) -> Outcome {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return failure(error),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > LARGEST_ANSWER => {
                return Outcome::Ambiguous { why: format!("its answer ({status}) was too long"), answered: true };
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return read(status, &headers, &body),
            Err(_) if status.is_success() => {
                return Outcome::Ambiguous { why: format!("its answer ({status}) broke off"), answered: false };
            }
            // An error's status says enough without its body.
            Err(_) => return read(status, &headers, b""),
        }
    }
}

fn failure(error: reqwest::Error) -> Outcome {
    let error = error.without_url();
    if error.is_builder() {
        return Outcome::Misconfigured(format!("the token request cannot be built: {error}"));
    }
    let why = innermost(&error);
    match error.is_connect() {
        true => Outcome::NotSent(why),
        false if error.is_timeout() => Outcome::Ambiguous { why: "it did not answer in time".into(), answered: false },
        false => Outcome::Ambiguous { why: format!("the connection broke: {why}"), answered: false },
    }
}

/// The last cause in a chain of errors: the one a person can act on.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    printable(&error.to_string(), 200)
}

/// What a whole answer means.
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
    let json: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
    if status.is_success()
        && let Some(tokens) = json.as_ref().and_then(tokens)
    {
        return Outcome::Fresh(tokens);
    }
    match status.as_u16() {
        429 | 503 => Outcome::ComeBackLater { why: format!("it answered {status}"), retry_after: retry_after(headers) },
        200..=299 | 400..=499 => match json.as_ref().and_then(error_code) {
            Some(code) => by_code(code, headers),
            None => Outcome::Ambiguous { why: format!("it answered {status} in no known form"), answered: true },
        },
        300..=399 => Outcome::Ambiguous {
            why: format!("it answered with a redirect ({status}), which is never followed; check endpoints.token"),
            answered: true,
        },
        _ => Outcome::Ambiguous { why: format!("it answered {status}"), answered: true },
    }
}

fn by_code(code: &str, headers: &HeaderMap) -> Outcome {
    match code {
        "invalid_grant" | "invalid_refresh_token" => Outcome::Dead(code.to_owned()),
        "temporarily_unavailable" | "slow_down" => {
            Outcome::ComeBackLater { why: format!("it answered {code}"), retry_after: retry_after(headers) }
        }
        "server_error" => Outcome::Ambiguous { why: "it answered server_error".into(), answered: true },
        "invalid_client" => {
            Outcome::Misconfigured("invalid_client: check client.id, the client secret and client.auth".into())
        }
        "unauthorized_client" => Outcome::Misconfigured(
            "unauthorized_client: this client may not use the grant; check client.id and environment".into(),
        ),
        "invalid_scope" => Outcome::Misconfigured("invalid_scope: check client.scopes".into()),
        "invalid_target" | "invalid_request" | "unsupported_grant_type" => {
            Outcome::Misconfigured(format!("{code}: check endpoints.token and client.auth"))
        }
        _ => Outcome::Misconfigured(format!("{}: check [client] and [endpoints]", printable(code, 64))),
    }
}

/// The `error` code; Pleo's `invalid_refresh_token` may stand in the description instead (pleo.md 1.5).
fn error_code(json: &Value) -> Option<&str> {
    let code = json.get("error")?.as_str().filter(|code| !code.is_empty())?;
    match json.get("error_description").and_then(Value::as_str) {
        description @ Some("invalid_refresh_token") => description,
        _ => Some(code),
    }
}

fn tokens(json: &Value) -> Option<Tokens> {
    let mut oddities = Vec::new();
    let sent = json.get("refresh_token").filter(|token| !token.is_null());
    let refresh = sent.and_then(Value::as_str).filter(|token| is_refresh_token(token));
    let refresh_unreadable = sent.is_some() && refresh.is_none();
    let access = json.get("access_token").and_then(Value::as_str).filter(|token| is_bearer_token(token));
    if refresh.is_none() && access.is_none() {
        return None;
    }
    let bearer = match json.get("token_type") {
        None | Some(Value::Null) => {
            oddities.push("token_type is missing, taken for bearer");
            true
        }
        Some(kind) => kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")),
    };
    match (bearer, access) {
        (false, _) => oddities.push("token_type is not bearer"),
        (true, None) => oddities.push("access_token is missing or unusable"),
        (true, Some(_)) => {}
    }
    if refresh_unreadable {
        oddities.push("refresh_token is unusable");
    }
    let life = life(json.get("expires_in"), &mut oddities);
    let scope = scope(json.get("scope"));
    Some(Tokens {
        access: access.filter(|_| bearer).map(AccessToken::new),
        refresh: refresh.map(RefreshToken::new),
        refresh_unreadable,
        life,
        scope,
        oddities,
    })
}

/// `b64token` (RFC 6750 section 2.1), the only thing that may follow `Bearer ` in a header.
fn is_bearer_token(token: &str) -> bool {
    let stem = token.trim_end_matches('=');
    !stem.is_empty()
        && token.len() <= LONGEST_TOKEN
        && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

/// `1*VSCHAR` (RFC 6749 appendix A.17).
fn is_refresh_token(token: &str) -> bool {
    !token.is_empty() && token.len() <= LONGEST_TOKEN && token.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

fn life(expires_in: Option<&Value>, oddities: &mut Vec<&'static str>) -> Duration {
    let told = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    match told.filter(|seconds: &f64| seconds.is_finite() && *seconds >= SHORTEST_LIFE) {
        Some(seconds) if seconds > LONGEST_LIFE => {
            oddities.push("expires_in is read as milliseconds");
            Duration::from_secs_f64((seconds / 1000.0).min(LONGEST_LIFE))
        }
        Some(seconds) => Duration::from_secs_f64(seconds),
        None => {
            oddities.push("expires_in is missing or unusable, taken for 300 s");
            UNKNOWN_LIFE
        }
    }
}

/// Splits on space and `+` (pleo.md 1.4); an array is taken as it is.
fn scope(scope: Option<&Value>) -> Option<Vec<String>> {
    let split = |text: &str| {
        text.split([' ', '+']).map(|scope| printable(scope, 100)).filter(|scope| !scope.is_empty()).collect::<Vec<_>>()
    };
    match scope? {
        Value::String(text) => Some(split(text)),
        Value::Array(items) => Some(items.iter().filter_map(Value::as_str).flat_map(split).collect()),
        _ => None,
    }
}

/// Seconds or an HTTP date (RFC 9110 section 10.2.3), at most five minutes.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::{AuthorizationCode, CodeVerifier};

    fn answer(status: u16, body: &str) -> Outcome {
        read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    fn fresh(body: &str) -> Tokens {
        match answer(200, body) {
            Outcome::Fresh(tokens) => tokens,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn forms_are_encoded() {
        let code = AuthorizationCode::new("a+b/c d");
        let verifier = CodeVerifier::new("v~");
        let form = form(&Exchange::Code { code: &code, verifier: &verifier, redirect_uri: "http://127.0.0.1:1/cb" });
        assert_eq!(
            form.as_str(),
            "grant_type=authorization_code&code=a%2Bb%2Fc+d&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcb&code_verifier=v%7E"
        );
    }

    #[test]
    fn basic_is_form_encoded_before_base64() {
        let decode = |style| {
            let secret = ClientSecret::new("z/tZ9VwFZqApmIQ+ZH1I5pLk/uB4ud:X2/8bL+wfFTt1rFw=");
            let mut form = Zeroizing::new(String::from("a=b"));
            let header = authenticate(style, "1PpG/Q 1", &secret, &mut form);
            let header = header.map(|header| {
                assert!(header.is_sensitive());
                let encoded = header.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
                String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
            });
            (header, form.to_string())
        };
        let (basic, form) = decode(ClientAuth::Basic);
        assert_eq!(basic.unwrap(), "1PpG%2FQ+1:z%2FtZ9VwFZqApmIQ%2BZH1I5pLk%2FuB4ud%3AX2%2F8bL%2BwfFTt1rFw%3D");
        assert_eq!(form, "a=b");
        assert!(decode(ClientAuth::BasicRaw).0.unwrap().starts_with("1PpG/Q 1:z/tZ9"));
        let (none, form) = decode(ClientAuth::Post);
        assert!(none.is_none() && form.contains("&client_id=1PpG%2FQ+1&client_secret=z%2FtZ9"));
    }

    #[test]
    fn expires_in_in_every_shape() {
        for (told, seconds) in [
            ("600", 600.0),
            ("\"600\"", 600.0),
            ("600.5", 600.5),
            ("600000", 600.0),
            ("86400", 86_400.0),
            ("1e99", 86_400.0),
            ("0", 300.0),
            ("-1", 300.0),
            ("1e-9", 300.0),
            ("null", 300.0),
            ("\"soon\"", 300.0),
            ("[]", 300.0),
        ] {
            let tokens = fresh(&format!(r#"{{"access_token":"a","token_type":"bearer","expires_in":{told}}}"#));
            assert!((tokens.life.as_secs_f64() - seconds).abs() < 1e-6, "{told}: {:?}", tokens.life);
        }
        assert_eq!(fresh(r#"{"access_token":"a"}"#).life, UNKNOWN_LIFE);
    }

    #[test]
    fn a_pair_is_saved_whatever_else_is_odd() {
        let tokens =
            fresh(r#"{"access_token":"a b","refresh_token":"r","scope":"x:read+y:read z","token_type":"BEARER"}"#);
        assert!(tokens.access.is_none() && tokens.refresh.is_some());
        assert_eq!(tokens.scope.unwrap(), ["x:read", "y:read", "z"]);
        let mac = fresh(r#"{"access_token":"a","refresh_token":"r","token_type":"mac","error":"none"}"#);
        assert!(mac.access.is_none() && mac.refresh.is_some());
        let absent = fresh(r#"{"access_token":"a==","refresh_token":null}"#);
        assert!(absent.refresh.is_none() && !absent.refresh_unreadable);
        for odd in ["5", "\"\"", "\"a\\u0000\"", "[]"] {
            let odd = fresh(&format!(r#"{{"access_token":"a","refresh_token":{odd}}}"#));
            assert!(odd.refresh.is_none() && odd.refresh_unreadable);
        }
        assert!(fresh(r#"{"access_token":"a\r\nX: y","refresh_token":"r"}"#).access.is_none());
    }

    #[test]
    fn only_a_definite_code_is_dead() {
        for (status, body) in [
            (400, r#"{"error":"invalid_grant"}"#),
            (401, r#"{"error":"invalid_refresh_token"}"#),
            (400, r#"{"error":"invalid_request","error_description":"invalid_refresh_token"}"#),
            (200, r#"{"error":"invalid_grant"}"#),
        ] {
            assert!(matches!(answer(status, body), Outcome::Dead(_)), "{status} {body}");
        }
        for (status, body) in [
            (200, "<html>"),
            (200, "{"),
            (200, "[]"),
            (200, r#"{"access_token":5}"#),
            (500, r#"{"error":"invalid_grant"}"#),
            (502, ""),
            (504, ""),
            (401, "invalid_grant"),
            (404, "<html>invalid_grant</html>"),
            (302, ""),
        ] {
            assert!(matches!(answer(status, body), Outcome::Ambiguous { answered: true, .. }), "{status} {body}");
        }
        let almost = r#"{"error":"invalid_\u0000grant"}"#;
        assert!(matches!(answer(400, almost), Outcome::Misconfigured(_)));
        for code in ["invalid_client", "unauthorized_client", "invalid_scope", "something_new"] {
            let body = format!(r#"{{"error":"{code}"}}"#);
            assert!(matches!(answer(401, &body), Outcome::Misconfigured(why) if why.contains(code)));
        }
    }

    #[test]
    fn patience_is_clamped() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        for (text, seconds) in [("120", 120), ("99999999", 300), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)] {
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers), Some(Duration::from_secs(seconds)), "{text}");
        }
        for status in [429, 503] {
            assert!(matches!(answer(status, "<html>"), Outcome::ComeBackLater { .. }));
        }
    }

    #[test]
    fn no_outcome_shows_a_token() {
        let shown = format!("{:?}", answer(200, r#"{"access_token":"canary","refresh_token":"canary"}"#));
        assert!(!shown.contains("canary"), "{shown}");
        let shown = format!("{:?}", answer(400, r#"{"error_description":"canary"}"#));
        assert!(!shown.contains("canary"), "{shown}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(status in 200_u16..600, body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body);
        }

        #[test]
        fn a_usable_access_token_fits_a_header(token in "\\PC*") {
            if is_bearer_token(&token) {
                let value = format!("Bearer {token}");
                prop_assert!(HeaderValue::from_str(&value).is_ok());
            }
        }

        #[test]
        fn every_life_is_within_a_day(expires_in in any::<f64>()) {
            let value = serde_json::json!(expires_in);
            let life = life(Some(&value), &mut Vec::new());
            prop_assert!(life <= Duration::from_secs(86_400));
        }
    }
}
