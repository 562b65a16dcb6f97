//! Pleo's limit of requests a minute: reads that wait for their turn, and what a 429 asks for.

use http::StatusCode;
use http::request::Parts;
use tokio::time::{Instant, sleep};

use super::route::Route;
use super::upstream::Pace;
use super::{guard, reply};
use crate::accounts::Account;
use crate::clock::millis;
use crate::oauth::token::retry_after;
use crate::problem::Problem;

/// Lets a read wait for its turn under `upstream.pace`, at most `hold` after its arrival. True if it
/// was counted.
///
/// # Errors
/// `overloaded`: its turn comes too late.
pub(super) async fn pace(
    account: &Account,
    pace: Option<Pace>,
    (parts, route): (&Parts, &Route),
    arrival: Instant,
) -> Result<bool, Problem> {
    let Some(Pace(most)) = pace else { return Ok(false) };
    if !guard::is_read(&parts.method, route.target.path()) {
        return Ok(false);
    }
    let deadline = arrival + account.hold();
    while let Err(wait) = account.rate.count_below(most, account.now().boot) {
        if Instant::now() + wait > deadline {
            return Err(reply::over_pace(most, wait));
        }
        sleep(wait).await;
    }
    Ok(true)
}

/// Notes how long Pleo asks to wait after too many requests (RFC 6585 section 4).
pub(super) fn note(account: &Account, head: &http::response::Parts) {
    if head.status == StatusCode::TOO_MANY_REQUESTS {
        let wait = retry_after(&head.headers).unwrap_or_default();
        account.rate.limit_until(account.now().boot + millis(wait));
    }
}
