//! The page that ends a login in the browser: plain text in plain HTML, nothing runs, nothing is
//! kept.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem;\
color-scheme:light dark}h1{font-size:1.4rem}code{font-size:.95em}";

/// A page for a person.
#[derive(Clone, Debug)]
pub struct Page {
    /// 200, or what went wrong.
    pub status: StatusCode,
    /// Its heading.
    pub title: String,
    /// What happened and what to do next.
    pub text: String,
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let (title, text) = (escape(&self.title), escape(&self.text));
        let html = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{title} - pleo-proxy</title><style>{STYLE}</style><h1>{title}</h1><p>{text}</p></html>"
        );
        let mut response = (self.status, html).into_response();
        let policy = format!(
            "default-src 'none'; style-src '{}'; frame-ancestors 'none'",
            source_hash(STYLE)
        );
        protect(&mut response, &policy);
        response
    }
}

/// Headers of every page: not stored, not framed, nothing loaded but what the policy names, no
/// address passed on.
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
pub fn source_hash(source: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(source.as_bytes())))
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_shown_not_run() {
        assert_eq!(
            escape("<svg/onload=\"x('&')\">"),
            "&lt;svg/onload=&quot;x(&#39;&amp;&#39;)&quot;&gt;"
        );
    }
}
