//! The page that ends a login in the browser: plain text in plain HTML, without scripts, not
//! stored.

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

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem;\
color-scheme:light dark}h1{font-size:1.4rem}code{font-size:.95em}";

/// A page for a person.
#[derive(Clone, Debug)]
pub struct Page {
    /// 200, or the status of the error.
    pub status: StatusCode,
    /// Title and heading.
    pub title: String,
    /// What happened and what to do next.
    pub text: String,
}

impl Page {
    /// Says why a login cannot begin or failed.
    pub fn failure(error: &LoginError) -> Self {
        let (status, title) = match error {
            LoginError::Callback(_) | LoginError::UnknownState => {
                (StatusCode::BAD_REQUEST, "This login cannot be finished")
            }
            LoginError::Credentials(_) | LoginError::Random(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "The login cannot begin")
            }
            LoginError::Listener(_) => (StatusCode::CONFLICT, "The login cannot begin"),
            _ => (StatusCode::BAD_REQUEST, "The login failed"),
        };
        Self { status, title: title.into(), text: error.to_string() }
    }

    fn html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (self.title) " - pleo-proxy" }
                style { (PreEscaped(STYLE)) }
                h1 { (self.title) }
                p { (self.text) }
            }
        };
        page.into_string()
    }
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
        let page = Page { status: StatusCode::OK, title: evil.into(), text: evil.into() }.html();
        let shown = "&lt;svg/onload=&quot;x('&amp;')&quot;&gt;";
        assert_eq!(page.matches(shown).count(), 3, "title, heading and text: {page}");
        assert!(!page.contains("<svg") && !page.contains("PreEscaped"), "{page}");
    }

    #[test]
    fn the_policy_allows_the_style_and_nothing_else() {
        let page = Page { status: StatusCode::OK, title: "Connected".into(), text: "Done".into() };
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
