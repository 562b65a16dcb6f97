//! The page on which a person allows or denies; no scripts, everything escaped.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use url::form_urlencoded;

use super::grants::CodeFor;
use super::subject::Subject;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#f4f2ef;margin:0}\
main{max-width:30rem;margin:12vh auto;padding:2rem;background:#fff;border-radius:12px;box-shadow:0 1px 8px #0002}\
h1{font-size:1.3rem;margin-top:0}label{display:block;padding:.3rem 0}code{background:#f4f2ef;padding:0 .3em}\
.note{color:#666;font-size:.9rem}button{font:inherit;padding:.5rem 1.4rem;border-radius:8px;border:1px solid #999;\
background:#fff;cursor:pointer;margin-right:.6rem}button.yes{background:#1b5e3f;border-color:#1b5e3f;color:#fff}";

/// Asks whether `meant` may be allowed; the request's own parameters travel along in hidden fields.
pub(crate) fn page(query: &[u8], meant: &CodeFor) -> Response {
    let body = format!(
        "<h1>Connect an app to Pleo (sandbox)</h1>\
         <p>The app asks for <code>{scope}</code>. Choose whom it may act for:</p>\
         <form method=\"post\" action=\"/oauth/authorize\">{hidden}{choices}\
         <p><button class=\"yes\" name=\"decision\" value=\"allow\">Allow</button>\
         <button name=\"decision\" value=\"deny\">Deny</button></p></form>\
         <p class=\"note\">This is a fake Pleo on your own machine; all data is made up. \
         You go back to <code>{redirect_uri}</code>.</p>",
        scope = escape(&meant.scope),
        hidden = hidden(query),
        choices = choices(meant.subject),
        redirect_uri = escape(&meant.redirect_uri),
    );
    html(StatusCode::OK, &body)
}

/// Tells the person what is wrong where no redirect may be trusted.
pub(crate) fn error_page(message: &str) -> Response {
    let body = format!("<h1>This login cannot go on</h1><p>{}</p>", escape(message));
    html(StatusCode::BAD_REQUEST, &body)
}

fn hidden(query: &[u8]) -> String {
    let carried = form_urlencoded::parse(query).filter(|(name, _)| {
        !["subject", "urn_pleo_params_oauth_subject", "decision"].contains(&name.as_ref())
    });
    carried
        .map(|(name, value)| {
            format!(
                "<input type=\"hidden\" name=\"{}\" value=\"{}\">",
                escape(&name),
                escape(&value)
            )
        })
        .collect()
}

fn choices(chosen: Subject) -> String {
    let choice = |subject: Subject| {
        format!(
            "<label><input type=\"radio\" name=\"subject\" value=\"{}\"{}> {}</label>",
            escape(&subject.urn()),
            if subject == chosen { " checked" } else { "" },
            escape(&subject.title()),
        )
    };
    let further = Some(chosen).filter(|chosen| !Subject::ALL.contains(chosen));
    Subject::ALL.into_iter().chain(further).map(choice).collect()
}

fn html(status: StatusCode, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Pleo sandbox</title>\
         <style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    );
    // No form-action: browsers apply it to the redirect that follows the form, whose host differs
    // from login to login.
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not no-referrer: that makes browsers post the form with `Origin: null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}
