//! What the token and introspection endpoints share: form bodies, client authentication, errors
//! (RFC 6749).

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use url::form_urlencoded;

use super::Options;

/// An error of RFC 6749 section 5.2.
#[derive(Debug)]
pub(crate) struct OauthError {
    status: StatusCode,
    code: String,
    description: &'static str,
}

impl OauthError {
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<String>,
        description: &'static str,
    ) -> Self {
        Self { status, code: code.into(), description }
    }

    pub(crate) fn invalid_request(description: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    pub(crate) fn invalid_client(description: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_client", description)
    }

    pub(crate) fn is_client_failure(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.code, "error_description": self.description });
        let mut response = no_store(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"sandbox\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// JSON that no cache may keep (RFC 6749 section 5.1).
pub(crate) fn no_store(status: StatusCode, body: &Value) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::PRAGMA, "no-cache"),
    ];
    (status, headers, body.to_string()).into_response()
}

/// A form body in which every name occurs once.
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, OauthError> {
        let content_type =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let media = content_type.split(';').next().unwrap_or("").trim();
        if !media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OauthError::invalid_request(
                "the body must be application/x-www-form-urlencoded",
            ));
        }
        let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
        let doubled = pairs
            .iter()
            .enumerate()
            .any(|(at, (name, _))| pairs[..at].iter().any(|(other, _)| other == name));
        if doubled {
            return Err(OauthError::invalid_request("a parameter is given twice"));
        }
        Ok(Self(pairs))
    }

    /// Empty values count as absent (RFC 6749 section 3.2).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    pub(crate) fn need(&self, name: &str, missing: &'static str) -> Result<&str, OauthError> {
        self.get(name).ok_or_else(|| OauthError::invalid_request(missing))
    }
}

/// Checks the client's credentials, by Basic or in the body, never both (RFC 6749 section 2.3).
pub(crate) fn authenticate(
    options: &Options,
    headers: &HeaderMap,
    form: &Form,
) -> Result<(), OauthError> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let basic = authorizations.next();
    if authorizations.next().is_some() || (basic.is_some() && form.get("client_secret").is_some()) {
        return Err(OauthError::invalid_request("more than one way of client authentication"));
    }
    let known = match basic {
        Some(value) => {
            let same_client = form.get("client_id").is_none_or(|id| id == options.client_id);
            same_client && basic_fits(options, value)
        }
        None => {
            let (id, secret) = (form.get("client_id"), form.get("client_secret"));
            equal(id.unwrap_or(""), &options.client_id)
                & equal(secret.unwrap_or(""), &options.client_secret)
        }
    };
    known.then_some(()).ok_or_else(|| OauthError::invalid_client("client authentication failed"))
}

/// Accepts the form encoding of section 2.3.1, and verbatim values as many clients send them: which
/// of them Pleo expects is not known.
fn basic_fits(options: &Options, value: &HeaderValue) -> bool {
    let Some((id, secret)) = decode_basic(value) else { return false };
    let matches = |id: &str, secret: &str| {
        equal(id, &options.client_id) & equal(secret, &options.client_secret)
    };
    matches(&id, &secret) | matches(&form_decode(&id), &form_decode(&secret))
}

fn decode_basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let (id, secret) = str::from_utf8(&decoded).ok()?.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (id.to_owned(), secret.to_owned()))
}

fn form_decode(encoded: &str) -> String {
    let pair = format!("v={encoded}");
    form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn equal(given: &str, requested: &str) -> bool {
    given.as_bytes().ct_eq(requested.as_bytes()).into()
}
