//! `/oauth/authorize`: checks the request, asks the person, sends them back with a code (RFC 6749,
//! RFC 7636, RFC 9207).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use url::Url;

use super::client::Form;
use super::grants::CodeFor;
use super::host::is_loopback;
use super::seed;
use super::subject::Subject;
use super::world::World;
use super::{Options, consent};

pub(crate) fn routes() -> Router<Arc<World>> {
    Router::new().route("/oauth/authorize", get(ask).post(decide))
}

/// An authorization request whose client and redirect URI are good.
struct Asked {
    redirect_uri: Url,
    state: Option<String>,
    meant: CodeFor,
}

/// Why a request is refused: with a page if the redirect URI is not to be trusted, by redirect
/// otherwise.
enum Refused {
    Page(&'static str),
    Redirect(Box<(Url, Option<String>)>, &'static str, &'static str),
}

impl Refused {
    fn answer(self, issuer: &str) -> Response {
        match self {
            Self::Page(message) => consent::error_page(message),
            Self::Redirect(back, error, description) => redirect(
                &back.0,
                back.1.as_deref(),
                issuer,
                &[("error", error), ("error_description", description)],
            ),
        }
    }
}

async fn ask(State(world): State<Arc<World>>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    match check(&world.options, query.as_bytes(), &Preset::of(&world)) {
        Err(refused) => refused.answer(&world.issuer),
        Ok(asked) => {
            world.state().counters.authorizations += 1;
            match world.options.auto_consent {
                true => allow(&world, asked),
                false => consent::page(query.as_bytes(), &asked.meant),
            }
        }
    }
}

/// Whom an authorization is for that names nobody.
#[derive(Default)]
struct Preset {
    /// Chosen for the next ones by whoever controls the sandbox; goes before the hint of the app.
    chosen: Option<String>,
    /// The next company that is not connected.
    free: Subject,
}

impl Preset {
    fn of(world: &World) -> Self {
        let mut state = world.state();
        let preset =
            Self { chosen: state.next_subject.clone(), free: state.grants.first_free_company() };
        if world.options.auto_consent && preset.chosen.is_none() {
            state.grants.reserve(preset.free);
        }
        preset
    }
}

async fn decide(State(world): State<Arc<World>>, headers: HeaderMap, body: Bytes) -> Response {
    if !same_origin(&headers) {
        return (StatusCode::FORBIDDEN, "this form belongs to the sandbox's own page\n")
            .into_response();
    }
    let Ok(form) = Form::read(&headers, &body) else {
        return consent::error_page("The form is not readable.");
    };
    match (check(&world.options, &body, &Preset::default()), form.get("decision")) {
        (Err(refused), _) => refused.answer(&world.issuer),
        (Ok(asked), Some("allow")) => allow(&world, asked),
        (Ok(asked), _) => redirect(
            &asked.redirect_uri,
            asked.state.as_deref(),
            &world.issuer,
            &[("error", "access_denied")],
        ),
    }
}

/// Browsers name the origin of every form they post; other clients need not.
fn same_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    headers
        .get(header::ORIGIN)
        .is_none_or(|origin| origin.as_bytes() == format!("http://{host}").as_bytes())
}

fn allow(world: &World, asked: Asked) -> Response {
    seed::add_company(&mut world.books().companies, asked.meant.subject);
    let code = {
        let mut state = world.state();
        state.counters.codes_issued += 1;
        state.grants.issue_code(asked.meant)
    };
    redirect(&asked.redirect_uri, asked.state.as_deref(), &world.issuer, &[("code", &code)])
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

fn check(options: &Options, encoded: &[u8], preset: &Preset) -> Result<Asked, Refused> {
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
    let refuse = |error, why| Refused::Redirect(Box::new((url.clone(), state.clone())), error, why);
    let challenge = one("code_challenge").unwrap_or_default();
    if one("response_type") != Some("code") {
        return Err(refuse("unsupported_response_type", "response_type must be code"));
    }
    if one("code_challenge_method") != Some("S256") || !is_challenge(challenge) {
        return Err(refuse("invalid_request", "PKCE with S256 is required"));
    }
    let scope = one("scope").filter(|scope| !scope.trim().is_empty());
    let scope = scope.ok_or_else(|| refuse("invalid_scope", "scope is missing"))?;
    let wanted =
        one("subject").or(preset.chosen.as_deref()).or(one("urn_pleo_params_oauth_subject"));
    let subject = wanted.map_or(Some(preset.free), Subject::from_urn);
    let subject = subject.ok_or_else(|| refuse("invalid_request", "no such subject"))?;
    let meant = CodeFor {
        redirect_uri: redirect_uri.to_owned(),
        challenge: challenge.to_owned(),
        scope: scope.to_owned(),
        subject,
    };
    Ok(Asked { redirect_uri: url, state, meant })
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
