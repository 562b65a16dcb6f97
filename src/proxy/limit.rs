//! Pleo's limit of requests a minute: reads that wait for their turn, and what a 429 asks for.

use std::time::Duration;

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

/// Lets a read wait for its turn under `upstream.pace`, at most `hold` after its arrival. A write
/// takes a turn and does not wait for it.
///
/// # Errors
/// `overloaded`: its turn comes too late.
pub(super) async fn pace(
    account: &Account,
    pace: Option<Pace>,
    (parts, route): (&Parts, &Route),
    arrival: Instant,
) -> Result<(), Problem> {
    let Some(Pace(most)) = pace else { return Ok(()) };
    let is_read = guard::is_read(&parts.method, route.target.path());
    let patience = if is_read {
        account.hold() - arrival.elapsed().min(account.hold())
    } else {
        Duration::MAX
    };
    match account.pacer.take(most, account.now().boot, patience) {
        Err(wait) => Err(reply::over_pace(most, wait)),
        Ok(Duration::ZERO) => Ok(()),
        Ok(_) if !is_read => Ok(()),
        Ok(wait) => {
            sleep(wait).await;
            Ok(())
        }
    }
}

/// Notes how long Pleo asks to wait after too many requests (RFC 6585 section 4).
pub(super) fn note(account: &Account, head: &http::response::Parts) {
    if head.status == StatusCode::TOO_MANY_REQUESTS {
        let wait = retry_after(&head.headers).unwrap_or_default();
        account.rate.limit_until(account.now().boot + millis(wait));
    }
}
