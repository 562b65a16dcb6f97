//! `/api/report`: scopes and operations of the accounts.

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};

use super::protocol::{Report, ReportQuery, Versioned};
use super::refusal::invalid_name;
use super::state::Shared;
use crate::operate;
use crate::store::AccountName;

/// `GET /api/report`.
pub(super) async fn report(
    State(admin): Shared,
    Query(ReportQuery { account }): Query<ReportQuery>,
) -> Response {
    let Ok(only) = account.map(|name| name.parse::<AccountName>()).transpose() else {
        return invalid_name();
    };
    let accounts = admin.operator.accounts();
    // What has ended until now counts, too.
    admin.log.absorb();
    let report = admin.log.usage().with(|usage| Report {
        since: usage.since(),
        accounts: operate::reports(accounts, usage, only.as_ref()),
    });
    axum::Json(Versioned::from(report)).into_response()
}
