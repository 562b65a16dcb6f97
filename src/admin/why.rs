//! `/api/why`: the reason of a refusal, before or after it.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use strum::VariantArray as _;

use super::protocol::{Verdict, Versioned, Why, WhyQuery};
use super::refusal::refusal;
use super::state::{Admin, Shared};
use crate::log;
use crate::log::entry::Entry;
use crate::operate::{self, Question, WhyError};
use crate::problem::Code;

/// `GET /api/why`: what is to be expected of a request, or why an exchange ended as it did.
pub(super) async fn why(State(admin): Shared, Query(query): Query<WhyQuery>) -> Response {
    let WhyQuery { method, path, account, id } = &query;
    if let Some(id) = id {
        let found = admin.log.find(id).ok_or_else(unknown_exchange);
        return found.map_or_else(|refusal| refusal, |found| data(of_entry(&admin, &found.entry)));
    }
    let question = Question { method, target: path, account: account.as_deref() };
    let accounts = admin.operator.accounts();
    match operate::expectation(accounts, question, &admin.about.environment).await {
        Ok(explanation) => data(explanation.into()),
        Err(error) => refused(&error),
    }
}

fn data(why: Why) -> Response {
    axum::Json(Versioned::from(why)).into_response()
}

/// Why an exchange ended as it did; if nothing is known about it, what was observed.
pub(super) fn of_entry(admin: &Admin, entry: &Entry) -> Why {
    let accounts = admin.operator.accounts();
    match log::explanation(accounts, entry, &admin.about.environment) {
        Some(explanation) => explanation.into(),
        None => observed(entry),
    }
}

fn observed(entry: &Entry) -> Why {
    let code = entry.code.as_deref();
    let title = Code::VARIANTS.iter().find(|known| Some(known.as_str()) == code);
    let (verdict, reason, next) = match (entry.status, title) {
        (_, Some(title)) => {
            let reason = format!("the proxy refused it: {} ({})", title.title(), title.as_str());
            (Verdict::Refused, reason, Some(title.remedy()))
        }
        (None, _) if entry.running => (Verdict::Unknown, "it is still running".to_owned(), None),
        (None, _) => {
            (Verdict::Unknown, "the caller left before there was a response".to_owned(), None)
        }
        (Some(status @ ..400), _) => {
            (Verdict::Allowed, format!("Pleo answered with status {status}"), None)
        }
        (Some(status), _) => {
            let reason = format!("Pleo answered with status {status}, and no reason is known");
            (Verdict::Refused, reason, Some("the message in the response's body may say more"))
        }
    };
    Why {
        verdict,
        operation: entry.operation.clone(),
        reason,
        next: next.map(str::to_owned),
        certain: true,
        source: None,
    }
}

fn unknown_exchange() -> Response {
    let detail = "There is no such request in the log: it is older than those that are kept (inspect.requests), or of an earlier run.";
    refusal(StatusCode::NOT_FOUND, "not_kept", detail)
}

fn refused(error: &WhyError) -> Response {
    let (status, code) = match error {
        WhyError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_request"),
        WhyError::Unknown(_) => (StatusCode::NOT_FOUND, "account_unknown"),
        WhyError::Required(_) => (StatusCode::CONFLICT, "account_required"),
    };
    refusal(status, code, &error.to_string())
}
