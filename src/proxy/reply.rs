//! The responses that the proxy makes itself: to a CORS preflight, to a CONNECT, and a problem for
//! each way in which a request fails.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};

use super::guard::{Admitted, Tunnelled};
use super::{headers, upstream};
use crate::accounts::{Accounts, LoginReason, Refusal, UnknownAccount};
use crate::problem::{Code, METHODS, Problem};
use crate::store::AccountName;

/// With more accounts than this an unknown name is not compared with theirs.
const MAX_COMPARED: usize = 100;

/// Grants a tunnel, which ends here: the server sees the mark and serves the requests inside.
pub(super) fn tunnel() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    response.extensions_mut().insert(Tunnelled);
    response
}

/// Tells a page that it may send whatever a program may (Fetch standard, CORS protocol).
pub(super) fn preflight(parts: &Parts, admitted: &Admitted) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let to = response.headers_mut();
    if let Some(origin) = &admitted.origin {
        headers::allow(to, origin);
    }
    to.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    if let Some(requested) = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        to.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    to.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

pub(super) fn account_unknown(name: &AccountName, accounts: &Accounts) -> Problem {
    // Anybody can ask for any name, so little time is spent on it.
    let known = accounts.all();
    let known = if known.len() <= MAX_COMPARED { known.as_slice() } else { &[] };
    let unknown = UnknownAccount::among(name, known);
    Problem::new(Code::AccountUnknown, unknown.detail(), unknown.fix())
}

pub(super) fn account_required(names: &[AccountName]) -> Problem {
    let names: Vec<_> = names.iter().map(AccountName::as_str).collect();
    let detail = format!("several accounts are connected: {}", names.join(", "));
    let one = names.first().unwrap_or(&"NAME");
    let fix = format!(
        "Name one by a header (`Pleo-Account: {one}`) or a path prefix (/@{one}/v1/...), or set \
         default_account = \"{one}\"."
    );
    Problem::new(Code::AccountRequired, detail, fix)
}

pub(super) fn not_connected() -> Problem {
    let fix = "Run `pleo-proxy login`, or open /connect on the admin listener.";
    Problem::new(Code::LoginRequired, "no account is connected", fix)
}

pub(super) fn shutting_down() -> Problem {
    let fix = "Start it again, then repeat the request.";
    Problem::new(Code::ShuttingDown, "the proxy is shutting down", fix).closing()
}

pub(super) fn token_rotated() -> Problem {
    let detail = "a refresh replaced the token while this request's body was being sent, and the body is too long to be kept";
    let fix = "Send it again; bodies up to upstream.replay_limit are repeated by the proxy itself.";
    Problem::new(Code::TokenRotated, detail, fix).retry_after(Duration::ZERO)
}

pub(super) fn over_pace(most: u32, wait: Duration) -> Problem {
    let detail = format!(
        "more reads of this account wait than upstream.pace = \"{most}/min\" lets through within tokens.hold"
    );
    let fix = "Send fewer requests at once, wait as Retry-After says, or raise upstream.pace.";
    Problem::new(Code::Overloaded, detail, fix).retry_after(wait)
}

pub(super) fn body_failed() -> Problem {
    let detail = "the request body broke off or stalled";
    Problem::new(Code::BadRequest, detail, "Send the whole body.").closing()
}

pub(super) fn broken(error: &hyper::Error) -> Problem {
    let fix = "Check whether the request took effect before you repeat it.";
    Problem::new(Code::UpstreamBroken, upstream::describe_failure(error), fix)
}

pub(super) fn closed_at_once() -> Problem {
    let detail = "it closed a new connection before the request could be sent";
    Problem::new(Code::UpstreamBroken, detail, "Try again.")
}

pub(super) fn switched_protocols() -> Problem {
    let detail = "it switched protocols without being asked to";
    Problem::new(Code::UpstreamBroken, detail, "Try again.")
}

pub(super) fn response_timeout(limit: Duration) -> Problem {
    let fix = "Check whether the request took effect before you repeat it, or raise upstream.response_timeout.";
    Problem::new(Code::UpstreamTimeout, format!("no response within {limit:?}"), fix)
}

fn refresh_timeout(why: String) -> Problem {
    let fix = "Try again; if it persists, see `pleo-proxy status`.";
    Problem::new(Code::RefreshTimeout, why, fix).retry_after(Duration::from_secs(1))
}

/// The reason why an account has no token now.
pub(super) fn no_token(refusal: Refusal, account: &AccountName) -> Problem {
    let second = Duration::from_secs(1);
    match refusal {
        Refusal::LoginRequired(reason) => {
            const NEW_KEY: &str = "Make a new key in Pleo (Settings, API Keys)";
            let command = reason.command(account);
            let fix = match &reason {
                LoginReason::KeyInFileRefused(_) => format!(
                    "{NEW_KEY}, and put it there; the proxy notices. If the key is right, run `{command}`."
                ),
                LoginReason::KeyRefused => format!(
                    "{NEW_KEY}, then run `{command}`. If the key is right, run `pleo-proxy refresh {account}`."
                ),
                LoginReason::KeyOfAnotherApi(_) => format!("{NEW_KEY}, then run `{command}`."),
                _ => format!(
                    "Run `{command}`, or open /connect?account={account} on the admin listener."
                ),
            };
            Problem::new(Code::LoginRequired, reason.sentence(account), fix)
        }
        Refusal::AuthUnreachable(why, wait) => {
            let fix = "Try again later; `pleo-proxy status` shows the next attempt.";
            Problem::new(Code::AuthUnreachable, why.to_string(), fix).retry_after(wait.max(second))
        }
        Refusal::RefreshTimeout { hold, reason } => {
            let why = reason.map_or("the token endpoint is slow".into(), |it| it.to_string());
            refresh_timeout(format!("no fresh token within {hold:?}: {why}"))
        }
        Refusal::Locked(why) => refresh_timeout(why.to_string()),
        Refusal::Misconfigured(why) => {
            let fix = format!(
                "Change the setting, then restart the proxy or run `pleo-proxy refresh {account}`."
            );
            Problem::new(Code::Misconfigured, why.to_string(), fix)
        }
        Refusal::StoreError(fault) => {
            let fix = fault.fix(account);
            Problem::new(Code::StoreError, fault.why, fix)
        }
        Refusal::StoreUnwritable(why, wait) => {
            let fix = "Make room or give write access, or bring the database back (pleo-proxy doctor says which); the proxy tries again.";
            Problem::new(Code::StoreUnwritable, why, fix).retry_after(wait.max(second))
        }
        Refusal::Overloaded => {
            let why = "too many requests of this account are waiting for a token";
            Problem::new(Code::Overloaded, why, "Send fewer requests at once.").retry_after(second)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{RetryReason, StoreFault};

    #[test]
    fn an_account_without_a_token_is_never_401() {
        let acme: AccountName = "acme".parse().unwrap();
        for refusal in [
            Refusal::LoginRequired(LoginReason::LoggedOut),
            Refusal::AuthUnreachable(RetryReason::Failed, Duration::ZERO),
            Refusal::RefreshTimeout { hold: Duration::ZERO, reason: None },
            Refusal::Locked(RetryReason::Failed),
            Refusal::StoreError(fault(false)),
            Refusal::StoreUnwritable("w".into(), Duration::ZERO),
            Refusal::Overloaded,
        ] {
            assert_eq!(no_token(refusal, &acme).code.status(), 503);
        }
        assert_eq!(no_token(Refusal::Misconfigured(RetryReason::Failed), &acme).code.status(), 500);
    }

    fn fault(login_helps: bool) -> StoreFault {
        StoreFault { why: "w".into(), login_helps }
    }

    #[test]
    fn a_login_that_would_be_refused_is_not_advised() {
        let problem = no_token(Refusal::StoreError(fault(false)), &"acme".parse().unwrap());
        assert!(!problem.fix().contains("login"), "{}", problem.fix());
    }

    #[test]
    fn commands_in_a_fix_name_the_account() {
        let acme: AccountName = "acme".parse().unwrap();
        for (refusal, command) in [
            (Refusal::LoginRequired(LoginReason::LoggedOut), "`pleo-proxy login acme`"),
            (Refusal::LoginRequired(LoginReason::LoggedOut), "/connect?account=acme "),
            (Refusal::LoginRequired(LoginReason::KeyRefused), "`pleo-proxy login acme --api-key`"),
            (Refusal::LoginRequired(LoginReason::KeyRefused), "`pleo-proxy refresh acme`"),
            (Refusal::StoreError(fault(true)), "`pleo-proxy login acme`"),
            (Refusal::Misconfigured(RetryReason::Failed), "`pleo-proxy refresh acme`"),
        ] {
            let problem = no_token(refusal, &acme);
            assert!(problem.fix().contains(command), "{}", problem.fix());
        }
    }
}
