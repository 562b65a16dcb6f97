//! `/api/why`: the reason of a refusal, before or after it.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::protocol::{Versioned, Why, WhyQuery};
use super::refusal::refusal;
use super::state::Shared;
use crate::operate::{self, Question, WhyError};

/// `GET /api/why`: what is to be expected of a request.
pub(super) async fn why(State(admin): Shared, Query(query): Query<WhyQuery>) -> Response {
    let WhyQuery { method, path, account } = &query;
    let question = Question { method, target: path, account: account.as_deref() };
    let accounts = admin.operator.accounts();
    match operate::expectation(accounts, question, &admin.about.environment).await {
        Ok(explanation) => axum::Json(Versioned::from(Why::from(explanation))).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &WhyError) -> Response {
    let (status, code) = match error {
        WhyError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        WhyError::Unknown(_) => (StatusCode::NOT_FOUND, "account_unknown"),
        WhyError::Required(_) => (StatusCode::CONFLICT, "account_required"),
    };
    refusal(status, code, &error.to_string())
}
