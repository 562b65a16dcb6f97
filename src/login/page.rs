//! The pages around a login in the browser, for people who need not know what a token is: plain
//! text in plain HTML, without scripts, not stored.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::error::LoginError;
use crate::store::AccountName;

const STYLE: &str = "body{font:1rem/1.55 system-ui,sans-serif;margin:0;background:#f6f6f8;color:#18181b;\
color-scheme:light dark;overflow-wrap:anywhere}main{max-width:34rem;margin:12vh auto 2rem;padding:1.8rem 2rem;background:#fff;\
border:1px solid #e2e2e8;border-top:5px solid #b42318;border-radius:12px}main.done{border-top-color:#14713a}\
h1{font-size:1.35rem;line-height:1.3;margin:0 0 .6rem}p{margin:0 0 .9rem}dl{display:grid;grid-template-columns:max-content 1fr;\
gap:.2rem 1.2rem;margin:0 0 1.1rem}dt,.detail{color:#54555e}dd{margin:0}.detail{font-size:.88rem;border-top:1px solid #e2e2e8;\
padding-top:.9rem;margin:0}code{font-size:.95em}@media(prefers-color-scheme:dark){body{background:#101115;color:#ececf1}\
main{background:#17181d;border-color:#2c2d36;border-top-color:#ff958b}main.done{border-top-color:#6cd391}dt,.detail{color:#adaeb8}\
.detail{border-color:#2c2d36}}@media(max-width:40rem){main{margin:0;border-radius:0;border-width:5px 0 0;min-height:100vh;box-sizing:border-box}}";

/// A page for a person, who need not know what a token is.
#[derive(Clone, Debug)]
pub struct Page {
    /// 200, or the status of the error.
    pub status: StatusCode,
    /// Title and heading.
    pub title: String,
    /// What happened and what to do next.
    pub text: String,
    /// What was connected: terms and values.
    pub facts: Vec<(&'static str, String)>,
    /// The same for the person who looks after the proxy, if it differs.
    pub detail: Option<String>,
}

impl Page {
    /// A page of a title and a text.
    pub fn new(status: StatusCode, title: &str, text: &str) -> Self {
        let (title, text) = (title.into(), text.into());
        Self { status, title, text, facts: Vec::new(), detail: None }
    }

    /// Says that an account is connected, to which company and for what.
    pub fn connected(account: &AccountName, company: Option<&str>, scope: &[String]) -> Self {
        let name = company.map_or_else(|| format!("Account {account}"), str::to_owned);
        let text = "Programs on this computer can work with its data at Pleo from now on, as far as is listed here. \
                    There is nothing else to do: you can close this page.";
        let mut page = Self::new(StatusCode::OK, &format!("{name} is connected"), text);
        page.facts.extend(company.map(|company| ("Company", company.to_owned())));
        page.facts.push(("Account", account.to_string()));
        page.facts.extend(permission("May see", scope, ":read"));
        page.facts.extend(permission("May change", scope, ":write"));
        page
    }

    /// Says why a login cannot begin or failed.
    pub fn failure(error: &LoginError) -> Self {
        let (status, title, text) = explanation(error);
        Self { detail: Some(error.to_string()), ..Self::new(status, title, text) }
    }

    fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (self.title) " - pleo-proxy" }
                style { (PreEscaped(STYLE)) }
                main class=[self.status.is_success().then_some("done")] {
                    h1 { (self.title) }
                    p { (self.text) }
                    @if !self.facts.is_empty() {
                        dl { @for (term, value) in &self.facts { dt { (term) } dd { (value) } } }
                    }
                    @if let Some(detail) = &self.detail {
                        p.detail { "For the person who looks after pleo-proxy: " (detail) }
                    }
                }
            }
        };
        page.into_string()
    }
}

/// Status, title, and what it means for the person who wanted to connect.
fn explanation(error: &LoginError) -> (StatusCode, &'static str, &'static str) {
    let again = "Nothing was connected and nothing has changed. Start again with the link that you were given.";
    match error {
        LoginError::Callback(_) => {
            (StatusCode::BAD_REQUEST, "This login cannot be finished", again)
        }
        LoginError::UnknownState => (
            StatusCode::BAD_REQUEST,
            "This login has expired",
            "It was begun more than ten minutes ago, or a later one took its place. Start again with the link that you \
             were given.",
        ),
        LoginError::Refused(_) => (
            StatusCode::BAD_REQUEST,
            "The connection was not allowed",
            "Pleo, or somebody at its page, said no, so nothing was connected and nothing has changed. Was it by mistake? \
             Start again with the link that you were given.",
        ),
        LoginError::Credentials(_) | LoginError::Random(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The login cannot begin",
            "pleo-proxy is not set up completely. Show this page to the person who looks after it.",
        ),
        LoginError::Listener(_) => (
            StatusCode::CONFLICT,
            "The login cannot begin",
            "The browser could not come back to pleo-proxy. Show this page to the person who looks after it.",
        ),
        LoginError::Change(_) => (
            StatusCode::BAD_REQUEST,
            "The login failed",
            "You logged in at Pleo, but the login was not saved here. Show this page to the person who looks after pleo-proxy.",
        ),
        _ => (StatusCode::BAD_REQUEST, "The login failed", again),
    }
}

/// The scopes that end so, as words: `export-jobs:read` is "export jobs".
fn permission(term: &'static str, scope: &[String], end: &str) -> Option<(&'static str, String)> {
    let words: Vec<String> = scope
        .iter()
        .filter_map(|scope| scope.strip_suffix(end))
        .map(|it| it.replace('-', " "))
        .collect();
    (!words.is_empty()).then(|| (term, words.join(", ")))
}

/// True if a person opens the address. A prefetch, or a part of another page, must not use up a
/// login.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    let is_prefetch = ["sec-purpose", "purpose"].iter().any(|name| headers.contains_key(*name));
    !is_prefetch
        && headers.get("sec-fetch-dest").is_none_or(|destination| destination == "document")
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.html()).into_response();
        let policy = format!(
            "default-src 'none'; style-src '{}'; frame-ancestors 'none'",
            source_hash(STYLE)
        );
        protect(&mut response, &policy);
        response
    }
}

/// Sets the headers of every page: not stored, not framed, no referrer sent, and only what the
/// policy names is loaded.
pub fn protect(response: &mut Response, policy: &str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
}

/// A script's or style's hash as a source expression (Content Security Policy level 3).
fn source_hash(source: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(source.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_shown_and_not_run() {
        let evil = "<svg/onload=\"x('&')\">";
        let facts = vec![("Company", evil.to_owned())];
        let detail = Some(evil.to_owned());
        let page = Page { facts, detail, ..Page::new(StatusCode::OK, evil, evil) }.html();
        let shown = "&lt;svg/onload=&quot;x('&amp;')&quot;&gt;";
        assert_eq!(page.matches(shown).count(), 5, "title, heading, text, fact, detail: {page}");
        assert!(!page.contains("<svg") && !page.contains("PreEscaped"), "{page}");
    }

    #[test]
    fn a_connected_company_is_named_with_what_it_allows_in_words() {
        let scope = ["users:read", "export-jobs:read", "vendors:write"].map(str::to_owned);
        let page = Page::connected(&AccountName::fallback(), Some("Harbour Coffee"), &scope).html();
        for said in ["<h1>Harbour Coffee is connected</h1>", "users, export jobs", "May change"] {
            assert!(page.contains(said), "{said}: {page}");
        }
        let unnamed = Page::connected(&AccountName::fallback(), None, &[]);
        assert_eq!(unnamed.title, "Account default is connected");
        assert_eq!(unnamed.facts.len(), 1);
    }

    #[test]
    fn a_failure_is_said_in_words_for_everybody_and_in_detail() {
        let page = Page::failure(&LoginError::Refused("access_denied".into())).html();
        assert!(page.contains("The connection was not allowed"), "{page}");
        assert!(page.contains("the login was refused: access_denied"), "{page}");
        assert!(!page.contains("class=\"done\""), "{page}");
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_else() {
        let page = Page::new(StatusCode::OK, "Connected", "Done");
        let style = format!("<style>{STYLE}</style>");
        assert!(page.html().contains(&style), "the hash is of the style as it is sent");
        let response = page.into_response();
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        let expected = format!("style-src '{}'", source_hash(STYLE));
        assert!(
            policy.starts_with("default-src 'none'; ") && policy.contains(&expected),
            "{policy}"
        );
    }
}
