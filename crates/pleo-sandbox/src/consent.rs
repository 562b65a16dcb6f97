//! The pages shown to the person who logs in: consent, and the error page. They have no scripts;
//! maud escapes every value.

use std::borrow::Cow;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::form_urlencoded;

use super::grants::CodeRequest;
use super::subject::Subject;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#f4f2ef;margin:0}\
main{max-width:30rem;margin:12vh auto;padding:2rem;background:#fff;border-radius:12px;box-shadow:0 1px 8px #0002}\
h1{font-size:1.3rem;margin-top:0}label{display:block;padding:.3rem 0}code{background:#f4f2ef;padding:0 .3em}\
.note{color:#666;font-size:.9rem}button{font:inherit;padding:.5rem 1.4rem;border-radius:8px;border:1px solid #999;\
background:#fff;cursor:pointer;margin-right:.6rem}button.yes{background:#1b5e3f;border-color:#1b5e3f;color:#fff}";

/// Parameters that the form itself sets.
const FORM_FIELDS: [&str; 3] = ["subject", "urn_pleo_params_oauth_subject", "decision"];

/// Asks the person to allow or deny `request`. Hidden fields repeat the parameters of the
/// authorization request, so that the posted form is checked like the request itself.
pub(crate) fn consent_page(query: &[u8], request: &CodeRequest) -> Response {
    let body = html! {
        h1 { "Connect an app to Pleo (sandbox)" }
        p { "The app asks for " code { (request.scope) } ". Choose whom it may act for:" }
        form method="post" action="/oauth/authorize" {
            @for (name, value) in repeated_parameters(query) {
                input type="hidden" name=(name) value=(value);
            }
            (subject_choices(request.subject))
            p {
                button class="yes" name="decision" value="allow" { "Allow" }
                " "
                button name="decision" value="deny" { "Deny" }
            }
        }
        p class="note" {
            "This is a fake Pleo on your own machine; all data is made up. You go back to "
            code { (request.redirect_uri) } "."
        }
    };
    page(StatusCode::OK, &body)
}

/// Says what is wrong where the redirect URI cannot be trusted with the error.
pub(crate) fn error_page(message: &str) -> Response {
    page(StatusCode::BAD_REQUEST, &html! { h1 { "This login cannot go on" } p { (message) } })
}

fn repeated_parameters(query: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query).filter(|(name, _)| !FORM_FIELDS.contains(&name.as_ref()))
}

fn subject_choices(preselected: Subject) -> Markup {
    let unlisted = Some(preselected).filter(|subject| !Subject::LISTED.contains(subject));
    html! {
        @for subject in Subject::LISTED.into_iter().chain(unlisted) {
            label {
                input type="radio" name="subject" value=(subject.urn())
                    checked[subject == preselected];
                " " (subject.title())
            }
        }
    }
}

fn page(status: StatusCode, body: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Pleo sandbox" }
                style { (PreEscaped(STYLE)) }
            }
            body { main { (body) } }
        }
    };
    // No form-action: browsers also apply it to the redirect after the form, whose host differs
    // from login to login.
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Not no-referrer: it makes browsers post the form with `Origin: null`.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page.into_string()).into_response()
}
