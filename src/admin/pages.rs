//! The pages that other sites may link to: `/`, `/connect` and `/callback`.

use axum::extract::{Query, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::assets::{HTML, POLICY};
use super::refusal::{no_navigation, only_get};
use super::state::Shared;
use crate::login::{Page, is_navigation, protect};
use crate::operate::{LoginRequest, ReturnsBy};
use crate::store::AccountName;

/// `GET /`: the settings URL. The page is the same for everybody; its scripts fetch the data.
pub(super) async fn index() -> Response {
    let mut response = HTML.into_response();
    protect(&mut response, POLICY);
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
            let (title, text) = ("Not a valid account name", error.to_string());
            return Page::new(StatusCode::BAD_REQUEST, title, &text).into_response();
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
