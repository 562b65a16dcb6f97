//! The token endpoint: the form that is sent, and what a response means. The only code that posts
//! there.
//!
//! An [`Outcome`] is named by what the caller must do next, because a lost or malformed response to
//! a single-use refresh token must never be taken for a refusal.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::authorize::printable;
use super::fields::Fields;
use super::limited_form::HeldUp;
use super::response::{self, SendError};
use crate::secret::{AccessToken, AuthorizationCode, ClientSecret, CodeVerifier, RefreshToken};

pub use super::response::End;

/// Members of which a token response has at least one.
const WANTED: [&str; 3] = ["access_token", "refresh_token", "error"];
/// Longest token that is accepted, in bytes: half of what a request head may hold.
const MAX_TOKEN: usize = 32 * 1024;
/// Above this `expires_in` is read as milliseconds, and no lifetime is longer: one day in seconds.
const MAX_LIFETIME: f64 = 86_400.0;
/// Below this `expires_in` counts as zero: one millisecond, the unit in which lifetimes are stored.
const MIN_LIFETIME: f64 = 0.001;
/// Lifetime of an access token whose `expires_in` is absent, unreadable or not positive.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// Longest wait that a `Retry-After` can request.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Client authentication at the token endpoint (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ClientAuth {
    /// HTTP Basic, id and secret form-encoded first.
    Basic,
    /// HTTP Basic without the encoding.
    BasicRaw,
    /// In the form.
    Post,
}

/// What is sent to the token endpoint.
#[derive(Debug)]
pub enum TokenRequest<'a> {
    /// A login's authorization code.
    Code {
        /// From the callback.
        code: &'a AuthorizationCode,
        /// The verifier whose challenge was sent.
        verifier: &'a CodeVerifier,
        /// The redirect URI of the authorization request, unchanged.
        redirect_uri: &'a str,
    },
    /// The single-use refresh token.
    Refresh(&'a RefreshToken),
}

/// The result of a token request, named by what the caller must do.
#[derive(Debug)]
pub enum Outcome {
    /// Save these before anything else.
    Fresh(Tokens),
    /// The request was not sent: try again later, no token is spent.
    NotSent(String),
    /// The time in which it may be sent was over before it was: no token is spent.
    HeldUp,
    /// The server asks to try again later and has not used the token.
    ComeBackLater {
        /// Its response.
        why: String,
        /// How long it asks to wait, at most five minutes.
        retry_after: Option<Duration>,
    },
    /// The refresh token may or may not be spent.
    Ambiguous {
        /// What was received.
        why: String,
        /// True if a complete response came, so that no copy of the request can still be in flight.
        answered: bool,
    },
    /// The grant has ended, with the server's error code.
    Dead(String),
    /// A setting must change; the grant is untouched.
    Misconfigured(String),
}

/// The usable parts of a successful response.
#[derive(Debug)]
pub struct Tokens {
    /// The new access token, if one can be put into a header.
    pub access: Option<AccessToken>,
    /// The new refresh token, if one was sent.
    pub refresh: Option<RefreshToken>,
    /// The refresh token that was sent is invalid: the old one is spent, and its successor cannot
    /// be used.
    pub refresh_unreadable: bool,
    /// Lifetime of the access token, counted from before the request was sent.
    pub lifetime: Duration,
    /// Granted scopes, if the response names them.
    pub scope: Option<Vec<String>>,
    /// What was unusual, for the log.
    pub oddities: Vec<&'static str>,
}

/// The body of a token request.
pub(super) fn form(request: &TokenRequest<'_>) -> Zeroizing<String> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    match request {
        TokenRequest::Code { code, verifier, redirect_uri } => form
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code.expose())
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("code_verifier", verifier.expose()),
        TokenRequest::Refresh(token) => form
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", token.expose()),
    };
    Zeroizing::new(form.finish())
}

/// Adds client authentication to a form, in one style only (RFC 6749 section 2.3); returns the
/// header for the Basic styles.
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
            let proof = Zeroizing::new(format!(
                "&client_id={}&client_secret={}",
                encode(id),
                encode(secret.expose())
            ));
            form.push_str(&proof);
            return None;
        }
    };
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut header = HeaderValue::from_str(&value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Sends a prepared token request once and reads its response.
pub(super) async fn post(request: reqwest::RequestBuilder) -> Outcome {
    match response::send(request, &WANTED).await {
        Ok(response) => read(response.status, &response.headers, &response.body, response.end),
        Err(SendError::TimedOut) => {
            Outcome::Ambiguous { why: "it did not answer in time".into(), answered: false }
        }
        Err(SendError::Failed(error)) => failure(&error),
    }
}

fn failure(error: &reqwest::Error) -> Outcome {
    let why = response::explain(error);
    if error.is_builder() {
        return Outcome::Misconfigured(format!("the token request cannot be built: {why}"));
    }
    if HeldUp::is_cause_of(error) {
        return Outcome::HeldUp;
    }
    if error.is_connect() {
        return Outcome::NotSent(why);
    }
    Outcome::Ambiguous { why: format!("the connection broke: {why}"), answered: false }
}

/// What a response means, as far as it has arrived. New tokens in it count first, then its status,
/// then an error code, which must be in a complete object.
pub fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], end: End) -> Outcome {
    let fields = Fields::read(body, end == End::Whole, &WANTED);
    if status.is_success()
        && let Some(mut tokens) = fields.as_ref().and_then(tokens)
    {
        if end != End::Whole || serde_json::from_slice::<Map<String, Value>>(body).is_err() {
            tokens.oddities.push("it is damaged or incomplete, but its tokens could be read");
        }
        return Outcome::Fresh(tokens);
    }
    let code = fields.as_ref().filter(|fields| fields.whole).and_then(error_code);
    let later = |why| Outcome::ComeBackLater { why, retry_after: retry_after(headers) };
    let ambiguous =
        |why| Outcome::Ambiguous { why, answered: end != End::BrokenOff || !status.is_success() };
    match (status.as_u16(), code) {
        (429 | 503, _) => later(format!("it answered {status}")),
        (200..=299 | 400..=499, Some("invalid_grant" | "invalid_refresh_token")) => {
            Outcome::Dead(code.unwrap_or_default().to_owned())
        }
        (200..=299 | 400..=499, Some(code)) if !setting_of(code).is_empty() => {
            Outcome::Misconfigured(format!("{code}: {}", setting_of(code)))
        }
        (200..=299, Some(code @ ("temporarily_unavailable" | "slow_down"))) => {
            later(format!("it answered {code}"))
        }
        // A gateway in front of the token endpoint may answer so too, and unknown codes may be
        // temporary.
        (400..=499, Some(code)) => later(format!(
            "it answered {status} with {}; if that lasts, check [client] and endpoints.token",
            printable(code, 64)
        )),
        (400..=499, None) => {
            later(format!("it answered {status}; if that lasts, check endpoints.token"))
        }
        (200..=299, Some(code)) => ambiguous(format!("it answered {}", printable(code, 64))),
        (200..=299, None) if end == End::BrokenOff => {
            ambiguous(format!("its answer ({status}) broke off"))
        }
        (200..=299, None) if end == End::TooLong => {
            ambiguous(format!("its answer ({status}) was too long"))
        }
        (200..=299, None) => ambiguous(format!("it answered {status} in no known form")),
        (300..=399, _) => ambiguous(format!(
            "it answered with a redirect ({status}), which is never followed; check endpoints.token"
        )),
        _ => ambiguous(format!("it answered {status}")),
    }
}

/// The settings that an error code is about; empty for codes that are not about this client.
fn setting_of(code: &str) -> &'static str {
    match code {
        "invalid_client" => "check client.id, the client secret and client.auth",
        "unauthorized_client" => {
            "this client may not use the grant; check client.id and environment"
        }
        "invalid_scope" => "check client.scopes",
        "unsupported_grant_type" => "check endpoints.token",
        _ => "",
    }
}

/// The `error` code; Pleo may send `invalid_refresh_token` in the description instead (pleo.md
/// 1.5).
fn error_code(fields: &Fields) -> Option<&str> {
    let code = fields.text("error").filter(|code| !code.is_empty())?;
    match fields.text("error_description") {
        description @ Some("invalid_refresh_token") => description,
        _ => Some(code),
    }
}

/// The tokens of a response; none if a refresh token may have been sent that did not arrive.
fn tokens(fields: &Fields) -> Option<Tokens> {
    let mut oddities = Vec::new();
    let sent = fields.get("refresh_token").filter(|token| !token.is_null());
    let refresh = sent.and_then(Value::as_str).filter(|token| is_refresh_token(token));
    let refresh_unreadable = sent.is_some() && refresh.is_none();
    let access = fields.text("access_token").filter(|token| is_bearer_token(token));
    let may_be_lost = sent.is_none() && !fields.whole;
    if refresh.is_none() && (access.is_none() || may_be_lost) {
        return None;
    }
    let bearer = match fields.get("token_type") {
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
    let lifetime = lifetime(fields.get("expires_in"), &mut oddities);
    let scope = scope(fields.get("scope"));
    Some(Tokens {
        access: access.filter(|_| bearer).map(AccessToken::new),
        refresh: refresh.map(RefreshToken::new),
        refresh_unreadable,
        lifetime,
        scope,
        oddities,
    })
}

/// A refresh token as a person enters it, without the blanks, byte order mark and quotes around it;
/// none if no valid token is left, or the whole document around it was entered.
pub fn entered(text: &RefreshToken) -> Option<RefreshToken> {
    let is_blank =
        |it: char| it.is_whitespace() || it.is_control() || matches!(it, '\u{feff}' | '\u{200b}');
    let text = text.expose().trim_matches(is_blank);
    let quoted =
        ['"', '\''].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    let token = quoted.unwrap_or(text).trim_matches(is_blank);
    let is_document = token.starts_with(['{', '[', '<']) || token.contains("refresh_token");
    (is_refresh_token(token) && !is_document).then(|| RefreshToken::new(token))
}

/// `b64token` (RFC 6750 section 2.1), the only thing that may follow `Bearer ` in a header.
fn is_bearer_token(token: &str) -> bool {
    let stem = token.trim_end_matches('=');
    !stem.is_empty()
        && token.len() <= MAX_TOKEN
        && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

/// `1*VSCHAR` (RFC 6749 appendix A.17).
fn is_refresh_token(token: &str) -> bool {
    !token.is_empty()
        && token.len() <= MAX_TOKEN
        && token.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
}

fn lifetime(expires_in: Option<&Value>, oddities: &mut Vec<&'static str>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    match seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds >= MIN_LIFETIME) {
        Some(seconds) if seconds > MAX_LIFETIME => {
            oddities.push("expires_in is read as milliseconds");
            Duration::from_secs_f64((seconds / 1000.0).min(MAX_LIFETIME))
        }
        Some(seconds) => Duration::from_secs_f64(seconds),
        None => {
            oddities.push("expires_in is missing or unusable, taken for 300 s");
            DEFAULT_LIFETIME
        }
    }
}

/// Splits on space and `+` (pleo.md 1.4); so do the items of an array.
fn scope(scope: Option<&Value>) -> Option<Vec<String>> {
    let split = |text: &str| {
        text.split([' ', '+'])
            .map(|scope| printable(scope, 100))
            .filter(|scope| !scope.is_empty())
            .collect::<Vec<_>>()
    };
    match scope? {
        Value::String(text) => Some(split(text)),
        Value::Array(items) => {
            Some(items.iter().filter_map(Value::as_str).flat_map(split).collect())
        }
        _ => None,
    }
}

/// Seconds or an HTTP date (RFC 9110 section 10.2.3), at most five minutes.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::{AuthorizationCode, CodeVerifier};

    fn answer(status: u16, body: &str) -> Outcome {
        read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), End::Whole)
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
        let form = form(&TokenRequest::Code {
            code: &code,
            verifier: &verifier,
            redirect_uri: "http://127.0.0.1:1/cb",
        });
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
        assert_eq!(
            basic.unwrap(),
            "1PpG%2FQ+1:z%2FtZ9VwFZqApmIQ%2BZH1I5pLk%2FuB4ud%3AX2%2F8bL%2BwfFTt1rFw%3D"
        );
        assert_eq!(form, "a=b");
        assert!(decode(ClientAuth::BasicRaw).0.unwrap().starts_with("1PpG/Q 1:z/tZ9"));
        let (none, form) = decode(ClientAuth::Post);
        assert!(none.is_none() && form.contains("&client_id=1PpG%2FQ+1&client_secret=z%2FtZ9"));
    }

    #[test]
    fn expires_in_in_every_shape() {
        for (expires_in, seconds) in [
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
            let tokens = fresh(&format!(
                r#"{{"access_token":"a","token_type":"bearer","expires_in":{expires_in}}}"#
            ));
            assert!(
                (tokens.lifetime.as_secs_f64() - seconds).abs() < 1e-6,
                "{expires_in}: {:?}",
                tokens.lifetime
            );
        }
        assert_eq!(fresh(r#"{"access_token":"a"}"#).lifetime, DEFAULT_LIFETIME);
    }

    #[test]
    fn a_pair_is_saved_whatever_else_is_odd() {
        let tokens = fresh(
            r#"{"access_token":"a b","refresh_token":"r","scope":"x:read+y:read z","token_type":"BEARER"}"#,
        );
        assert!(tokens.access.is_none() && tokens.refresh.is_some());
        assert_eq!(tokens.scope.unwrap(), ["x:read", "y:read", "z"]);
        let mac =
            fresh(r#"{"access_token":"a","refresh_token":"r","token_type":"mac","error":"none"}"#);
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
            (200, r#"{"error":"something_new"}"#),
            (500, r#"{"error":"invalid_grant"}"#),
            (502, ""),
            (504, r#"{"error":"invalid_client"}"#),
            (302, ""),
        ] {
            assert!(
                matches!(answer(status, body), Outcome::Ambiguous { answered: true, .. }),
                "{status} {body}"
            );
        }
        for code in
            ["invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type"]
        {
            let body = format!(r#"{{"error":"{code}"}}"#);
            for status in [200, 400, 401, 403] {
                assert!(
                    matches!(answer(status, &body), Outcome::Misconfigured(why) if why.contains(code))
                );
            }
        }
    }

    #[test]
    fn a_refusal_without_a_known_code_is_tried_again_later() {
        let codes = [
            "invalid_request",
            "something_new",
            "server_error",
            "invalid_target",
            "invalid_\\u0000grant",
        ];
        let json = codes.map(|code| format!(r#"{{"error":"{code}"}}"#));
        let html = "<html>invalid_grant</html>".to_owned();
        let others = ["", "invalid_grant", "{", r#"{"error":5}"#, r#"{"message":"invalid_grant"}"#]
            .map(String::from);
        for body in json.into_iter().chain(others).chain([html]) {
            for status in [400, 401, 403, 404, 408, 413, 418, 421, 451] {
                let read = answer(status, &body);
                assert!(matches!(read, Outcome::ComeBackLater { .. }), "{status} {body}: {read:?}");
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        let read = read(StatusCode::FORBIDDEN, &headers, b"", End::Whole);
        assert!(
            matches!(read, Outcome::ComeBackLater { retry_after: Some(wait), .. } if wait.as_secs() == 7)
        );
    }

    #[test]
    fn what_arrived_of_an_answer_counts_and_what_may_have_been_lost_stays_open() {
        let cut = |body: &[u8], end| read(StatusCode::OK, &HeaderMap::new(), body, end);
        let pair: &[u8] = r#"{"access_token":"a","refresh_token":"r","expires_in":60"#.as_bytes();
        for end in [End::Whole, End::TooLong, End::BrokenOff] {
            let Outcome::Fresh(tokens) = cut(pair, end) else { panic!("{end:?}") };
            assert_eq!(
                (tokens.access.unwrap().expose(), tokens.refresh.unwrap().expose()),
                ("a", "r")
            );
            assert_eq!(tokens.lifetime, DEFAULT_LIFETIME, "its number may be cut short");
        }
        let Outcome::Fresh(tokens) =
            cut(r#"{"refresh_token":"r","access_token":"a"#.as_bytes(), End::BrokenOff)
        else {
            panic!()
        };
        assert!(tokens.access.is_none() && tokens.refresh.is_some(), "the pair's better half");
        for body in [
            r#"{"access_token":"a""#,
            r#"{"access_token":"a","refresh_token":"r"#,
            "access_token=a&refresh_token=r",
        ] {
            let read = cut(body.as_bytes(), End::BrokenOff);
            assert!(matches!(read, Outcome::Ambiguous { answered: false, .. }), "{body}: {read:?}");
        }
        let Outcome::Fresh(tokens) = cut(r#"{"access_token":"a"}"#.as_bytes(), End::BrokenOff)
        else {
            panic!()
        };
        assert!(
            tokens.refresh.is_none() && !tokens.refresh_unreadable,
            "the object is whole and brings none"
        );
        let marked = b"\xef\xbb\xbf{\"error\":\"invalid_grant\"}";
        let refused = |body, end| read(StatusCode::BAD_REQUEST, &HeaderMap::new(), body, end);
        assert!(matches!(refused(marked, End::Whole), Outcome::Dead(_)));
        assert!(matches!(
            refused(r#"{"error":"invalid_grant","#.as_bytes(), End::BrokenOff),
            Outcome::ComeBackLater { .. }
        ));
    }

    #[test]
    fn patience_is_clamped() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        for (text, seconds) in
            [("120", 120), ("99999999", 300), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)]
        {
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            assert_eq!(retry_after(&headers), Some(Duration::from_secs(seconds)), "{text}");
        }
        for status in [429, 503] {
            assert!(matches!(answer(status, "<html>"), Outcome::ComeBackLater { .. }));
        }
    }

    #[test]
    fn an_entered_token_is_freed_of_what_surrounds_it() {
        let bare =
            |text: &str| entered(&RefreshToken::new(text)).map(|token| token.expose().to_owned());
        for text in [
            "r-1",
            " r-1\r\n",
            "\u{feff}r-1\n",
            "\"r-1\"",
            "\u{feff} 'r-1' \n",
            "\" r-1 \"",
            "r-1\0",
        ] {
            assert_eq!(bare(text).as_deref(), Some("r-1"), "{text:?}");
        }
        for text in [
            "",
            " ",
            "\"\"",
            "''",
            "\u{feff}\n",
            "\" \"",
            "a\nb",
            "caf\u{e9}",
            "a\0b",
            "a\u{200b}b",
            r#"{"refresh_token":"r-1","expires_in":600}"#,
            "{",
            "<html>",
            "refresh_token=r-1",
        ] {
            assert_eq!(bare(text), None, "{text:?}");
        }
        assert_eq!(bare(&"a".repeat(MAX_TOKEN + 1)), None);
    }

    #[test]
    fn no_outcome_shows_a_token() {
        let shown =
            format!("{:?}", answer(200, r#"{"access_token":"canary","refresh_token":"canary"}"#));
        assert!(!shown.contains("canary"), "{shown}");
        let shown = format!("{:?}", answer(400, r#"{"error_description":"canary"}"#));
        assert!(!shown.contains("canary"), "{shown}");
    }

    proptest! {
        #[test]
        fn reading_never_panics(status in 200_u16..600, body in prop::collection::vec(any::<u8>(), 0..300)) {
            for end in [End::Whole, End::TooLong, End::BrokenOff] {
                let _ = read(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body, end);
            }
        }

        #[test]
        fn a_usable_access_token_fits_a_header(token in "\\PC*") {
            if is_bearer_token(&token) {
                let value = format!("Bearer {token}");
                prop_assert!(HeaderValue::from_str(&value).is_ok());
            }
        }

        #[test]
        fn every_lifetime_is_within_a_day(expires_in in any::<f64>()) {
            let value = serde_json::json!(expires_in);
            let lifetime = lifetime(Some(&value), &mut Vec::new());
            prop_assert!(lifetime <= Duration::from_secs(86_400));
        }
    }
}
