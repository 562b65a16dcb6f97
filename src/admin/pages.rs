//! The pages that other sites may link to: `/`, `/connect` and `/callback`.

use axum::extract::{Query, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::refusal::{no_navigation, only_get};
use super::state::Shared;
use crate::login::{Page, is_navigation, protect, source_hash};
use crate::operate::{LoginRequest, ReturnsBy};
use crate::store::AccountName;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// `GET /`: the settings URL. The page is the same for everybody; its script fetches the accounts.
pub(super) async fn index() -> Response {
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>pleo-proxy</title><style>{STYLE}</style>{HTML}<script>{SCRIPT}</script></html>"
    );
    let policy = format!(
        "default-src 'none'; connect-src 'self'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        source_hash(STYLE),
        source_hash(SCRIPT)
    );
    let mut response = html.into_response();
    protect(&mut response, &policy);
    response
}

#[derive(Deserialize)]
pub(super) struct Connect {
    account: Option<String>,
}

/// `GET /connect`: the initiation URL. Changes nothing but the list of pending logins.
pub(super) async fn connect(
    State(admin): Shared,
    method: Method,
    headers: HeaderMap,
    Query(Connect { account }): Query<Connect>,
) -> Response {
    if method != Method::GET {
        return only_get();
    }
    if !is_navigation(&headers) {
        return no_navigation();
    }
    let default = admin
        .operator
        .accounts()
        .settings()
        .default_account
        .clone()
        .unwrap_or_else(AccountName::fallback);
    let name = match account.map(|name| name.parse::<AccountName>()) {
        None => default,
        Some(Ok(name)) => name,
        Some(Err(error)) => {
            let text = error.to_string();
            return Page {
                status: StatusCode::BAD_REQUEST,
                title: "Not a valid account name".into(),
                text,
            }
            .into_response();
        }
    };
    let request = LoginRequest { account: &name, returns_by: ReturnsBy::Browser, replaces: false };
    match admin.operator.begin_login(request, &admin.redirect).await {
        Ok(begun) => {
            let headers = [
                (LOCATION, begun.url.to_string()),
                (CACHE_CONTROL, "no-store".into()),
                (REFERRER_POLICY, "no-referrer".into()),
            ];
            (StatusCode::FOUND, headers).into_response()
        }
        Err(error) => Page::failure(&error).into_response(),
    }
}

/// `GET /callback`: the redirect URL.
pub(super) async fn callback(
    State(admin): Shared,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    match method {
        Method::GET if is_navigation(&headers) => admin
            .operator
            .logins()
            .callback(query.as_deref().unwrap_or_default())
            .await
            .into_response(),
        Method::GET => no_navigation(),
        _ => only_get(),
    }
}
