//! `/oauth/authorize`: checks the request, asks the person to consent, redirects back with a code
//! (RFC 6749, RFC 7636, RFC 9207).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use url::Url;

use super::client::Form;
use super::fixtures;
use super::grants::CodeRequest;
use super::host::is_loopback;
use super::installations;
use super::state::SandboxState;
use super::subject::Subject;
use super::{Options, consent};

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new().route("/oauth/authorize", get(authorize).post(decide))
}

/// An authorization request that passed every check.
struct ValidRequest {
    redirect_uri: Url,
    state: Option<String>,
    code: CodeRequest,
}

/// A refused authorization request.
enum Refused {
    /// Told to the person, because the redirect URI cannot be trusted.
    Page(&'static str),
    /// Told to the client, by redirect.
    Redirect(Box<RedirectError>),
}

struct RedirectError {
    redirect_uri: Url,
    state: Option<String>,
    error: &'static str,
    description: &'static str,
}

impl Refused {
    fn into_response(self, issuer: &str) -> Response {
        match self {
            Self::Page(message) => consent::error_page(message),
            Self::Redirect(refused) => redirect(
                &refused.redirect_uri,
                refused.state.as_deref(),
                issuer,
                &[("error", refused.error), ("error_description", refused.description)],
            ),
        }
    }
}

async fn authorize(
    State(sandbox): State<Arc<SandboxState>>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    match check(&sandbox.options, query.as_bytes(), &DefaultSubject::of(&sandbox)) {
        Err(refused) => refused.into_response(&sandbox.issuer),
        Ok(request) => {
            sandbox.live().counters.authorizations += 1;
            if sandbox.options.auto_consent {
                allow(&sandbox, request)
            } else {
                consent::consent_page(query.as_bytes(), &request.code)
            }
        }
    }
}

/// The subject of an authorization request that names none.
#[derive(Default)]
struct DefaultSubject {
    /// Set by `POST /sandbox/subject`; takes precedence over the app's hint.
    chosen: Option<String>,
    /// The first company that is not connected; used if there is no hint either.
    free: Subject,
}

impl DefaultSubject {
    fn of(sandbox: &SandboxState) -> Self {
        let mut state = sandbox.live();
        let subject =
            Self { chosen: state.next_subject.clone(), free: state.grants.first_free_company() };
        if sandbox.options.auto_consent && subject.chosen.is_none() {
            state.grants.reserve(subject.free);
        }
        subject
    }
}

async fn decide(
    State(sandbox): State<Arc<SandboxState>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !same_origin(&headers) {
        return (StatusCode::FORBIDDEN, "this form belongs to the sandbox's own page\n")
            .into_response();
    }
    let Ok(form) = Form::read(&headers, &body) else {
        return consent::error_page("The form is not readable.");
    };
    match (check(&sandbox.options, &body, &DefaultSubject::default()), form.get("decision")) {
        (Err(refused), _) => refused.into_response(&sandbox.issuer),
        (Ok(request), Some("allow")) => allow(&sandbox, request),
        (Ok(request), _) => redirect(
            &request.redirect_uri,
            request.state.as_deref(),
            &sandbox.issuer,
            &[("error", "access_denied")],
        ),
    }
}

/// Browsers send the `Origin` of every form they post; other clients need not.
fn same_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    headers
        .get(header::ORIGIN)
        .is_none_or(|origin| origin.as_bytes() == format!("http://{host}").as_bytes())
}

fn allow(sandbox: &SandboxState, request: ValidRequest) -> Response {
    {
        let mut dataset = sandbox.dataset();
        fixtures::add_company(&mut dataset.companies, request.code.subject);
        installations::install(&mut dataset, request.code.subject);
    }
    let code = {
        let mut state = sandbox.live();
        state.counters.codes_issued += 1;
        state.grants.issue_code(request.code)
    };
    redirect(&request.redirect_uri, request.state.as_deref(), &sandbox.issuer, &[("code", &code)])
}

fn redirect(to: &Url, state: Option<&str>, issuer: &str, fields: &[(&str, &str)]) -> Response {
    let mut to = to.clone();
    {
        let mut query = to.query_pairs_mut();
        query.extend_pairs(fields);
        query.extend_pairs(state.map(|state| ("state", state)));
        query.append_pair("iss", issuer);
    }
    let headers = [(header::LOCATION, to.as_str()), (header::CACHE_CONTROL, "no-store")];
    (StatusCode::FOUND, headers).into_response()
}

fn check(
    options: &Options,
    encoded: &[u8],
    default: &DefaultSubject,
) -> Result<ValidRequest, Refused> {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(encoded).into_owned().collect();
    let all = |name: &str| {
        pairs.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    };
    let one = |name: &str| match <Vec<&str>>::as_slice(&all(name)) {
        [value] if !value.is_empty() => Some(*value),
        _ => None,
    };
    if one("client_id") != Some(options.client_id.as_str()) {
        return Err(Refused::Page("client_id is missing, given twice or not known."));
    }
    let redirect_uri =
        one("redirect_uri").ok_or(Refused::Page("redirect_uri is missing or given twice."))?;
    let url = registered(options, redirect_uri)
        .ok_or(Refused::Page("redirect_uri is not registered."))?;
    let state = one("state").map(str::to_owned);
    let refuse = |error, description| {
        let (redirect_uri, state) = (url.clone(), state.clone());
        Refused::Redirect(Box::new(RedirectError { redirect_uri, state, error, description }))
    };
    let challenge = one("code_challenge").unwrap_or_default();
    if one("response_type") != Some("code") {
        return Err(refuse("unsupported_response_type", "response_type must be code"));
    }
    if one("code_challenge_method") != Some("S256") || !is_challenge(challenge) {
        return Err(refuse("invalid_request", "PKCE with S256 is required"));
    }
    let scope = one("scope").filter(|scope| !scope.trim().is_empty());
    let scope = scope.ok_or_else(|| refuse("invalid_scope", "scope is missing"))?;
    let requested =
        one("subject").or(default.chosen.as_deref()).or(one("urn_pleo_params_oauth_subject"));
    let subject = requested.map_or(Some(default.free), Subject::from_urn);
    let subject = subject.ok_or_else(|| refuse("invalid_request", "no such subject"))?;
    let code = CodeRequest {
        redirect_uri: redirect_uri.to_owned(),
        challenge: challenge.to_owned(),
        scope: scope.to_owned(),
        subject,
    };
    Ok(ValidRequest { redirect_uri: url, state, code })
}

fn is_challenge(value: &str) -> bool {
    value.len() == 43
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn registered(options: &Options, uri: &str) -> Option<Url> {
    let url = Url::parse(uri).ok()?;
    let known = match options.redirect_uris.as_slice() {
        [] => {
            url.scheme() == "http"
                && url.host_str().is_some_and(is_loopback)
                && url.username().is_empty()
        }
        known => known.iter().any(|known| known == uri),
    };
    (known && url.fragment().is_none()).then_some(url)
}
