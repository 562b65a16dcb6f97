//! `/api/accounts/NAME`: what happens to the name of an account.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use tracing::warn;

use super::api::{change_failed, data};
use super::protocol::{Done, Outcome, RenameBody};
use super::refusal::{invalid_name, refusal};
use super::state::{Admin, Shared};
use crate::store::AccountName;

/// `POST /api/accounts/NAME/rename`.
pub(super) async fn rename(
    State(admin): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return invalid_name() };
    let new = serde_json::from_slice::<RenameBody>(&body).map(|it| (it.to.parse(), it.force));
    let (to, force): (AccountName, _) = match new {
        Ok((Ok(to), force)) => (to, force),
        Ok((Err(error), _)) => {
            let why = format!("The new name {error}.");
            return refusal(StatusCode::BAD_REQUEST, "bad_request", &why);
        }
        Err(_) => {
            let why = "The body is not JSON with the new name: {\"to\": \"NAME\"}.";
            return refusal(StatusCode::BAD_REQUEST, "bad_request", why);
        }
    };
    let users = (!force).then_some(&admin.users);
    if let Err(error) = admin.operator.rename(&name, &to, users).await {
        return change_failed(&name, &error);
    }
    move_counters(&admin, &name, Some(&to)).await;
    data(Done { outcome: Outcome::Renamed, account: Some(to.to_string()) })
}

/// `DELETE /api/accounts/NAME`.
pub(super) async fn remove(State(admin): Shared, Path(name): Path<String>) -> Response {
    let Ok(name) = name.parse::<AccountName>() else { return invalid_name() };
    if let Err(error) = admin.operator.remove(&name).await {
        return change_failed(&name, &error);
    }
    move_counters(&admin, &name, None).await;
    data(Done { outcome: Outcome::Removed, account: Some(name.to_string()) })
}

/// The counters of operations follow the account. They are statistics: where the disk refuses, the
/// account has its new name all the same.
async fn move_counters(admin: &Admin, from: &AccountName, to: Option<&AccountName>) {
    admin.log.absorb();
    let to = to.map(AccountName::as_str);
    if let Err(error) = admin.log.usage().move_account(from.as_str(), to).await {
        warn!(account = %from, "the counters of its requests keep its old name: {error}");
    }
}
