//! The answers the proxy makes itself, all in one form: problem+json (RFC 9457) with a code, and
//! never status 401, which would make a tool start a login of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use strum::VariantArray;

use super::body::Answer;
use crate::accounts::Refusal;
use crate::store::AccountName;

/// Marks an answer that is ours, not the upstream's.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-error");
/// Methods that are forwarded.
pub const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// What went wrong; each has its status, title and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum Code {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The Host header is not one of ours.
    ForbiddenHost,
    /// A web page of another origin asks.
    ForbiddenOrigin,
    /// Another user or machine asks.
    ForbiddenPeer,
    /// The local key is missing or wrong.
    LocalKeyRequired,
    /// The proxy forwards reads only.
    ReadOnly,
    /// The request would revoke every token.
    ProtectedOperation,
    /// No such account.
    AccountUnknown,
    /// Several accounts, none named.
    AccountRequired,
    /// A method that is not forwarded.
    MethodNotAllowed,
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed,
    /// A setting must change.
    Misconfigured,
    /// No connection to the upstream.
    UpstreamUnreachable,
    /// The upstream broke off or spoke no HTTP.
    UpstreamBroken,
    /// The upstream took too long.
    UpstreamTimeout,
    /// Only a login helps.
    LoginRequired,
    /// No fresh token within `hold`.
    RefreshTimeout,
    /// The token endpoint gives no token now.
    AuthUnreachable,
    /// A rotation overtook this request.
    TokenRotated,
    /// The account's record cannot be used.
    StoreError,
    /// No refresh can be noted durably.
    StoreUnwritable,
    /// Too many requests or connections.
    Overloaded,
    /// The proxy is about to end.
    ShuttingDown,
}

impl Code {
    /// The code as it is written.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// The status.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => {
                ("bad_request", S::BAD_REQUEST, "The request cannot be forwarded as it is")
            }
            Self::ForbiddenHost => {
                ("forbidden_host", S::FORBIDDEN, "The Host header is not allowed")
            }
            Self::ForbiddenOrigin => {
                ("forbidden_origin", S::FORBIDDEN, "Requests of web pages are not allowed")
            }
            Self::ForbiddenPeer => ("forbidden_peer", S::FORBIDDEN, "This caller is not allowed"),
            Self::LocalKeyRequired => {
                ("local_key_required", S::FORBIDDEN, "The local key is missing or wrong")
            }
            Self::ReadOnly => ("read_only", S::FORBIDDEN, "Only reads are forwarded"),
            Self::ProtectedOperation => {
                ("protected_operation", S::FORBIDDEN, "This would revoke every token")
            }
            Self::AccountUnknown => ("account_unknown", S::NOT_FOUND, "There is no such account"),
            Self::AccountRequired => ("account_required", S::CONFLICT, "Say which account"),
            Self::MethodNotAllowed => {
                ("method_not_allowed", S::METHOD_NOT_ALLOWED, "This method is not forwarded")
            }
            Self::ExpectationFailed => {
                ("expectation_failed", S::EXPECTATION_FAILED, "Unknown expectation")
            }
            Self::Misconfigured => {
                ("misconfigured", S::INTERNAL_SERVER_ERROR, "A setting must change")
            }
            Self::UpstreamUnreachable => {
                ("upstream_unreachable", S::BAD_GATEWAY, "Pleo cannot be reached")
            }
            Self::UpstreamBroken => {
                ("upstream_broken", S::BAD_GATEWAY, "Pleo's answer broke off or made no sense")
            }
            Self::UpstreamTimeout => {
                ("upstream_timeout", S::GATEWAY_TIMEOUT, "Pleo did not answer in time")
            }
            Self::LoginRequired => {
                ("login_required", S::SERVICE_UNAVAILABLE, "A login is required")
            }
            Self::RefreshTimeout => {
                ("refresh_timeout", S::SERVICE_UNAVAILABLE, "No fresh token in time")
            }
            Self::AuthUnreachable => {
                ("auth_unreachable", S::SERVICE_UNAVAILABLE, "No token to be had now")
            }
            Self::TokenRotated => {
                ("token_rotated", S::SERVICE_UNAVAILABLE, "The token changed under this request")
            }
            Self::StoreError => {
                ("store_error", S::SERVICE_UNAVAILABLE, "The account's record cannot be used")
            }
            Self::StoreUnwritable => {
                ("store_unwritable", S::SERVICE_UNAVAILABLE, "The store cannot be written")
            }
            Self::Overloaded => ("overloaded", S::SERVICE_UNAVAILABLE, "Too many requests at once"),
            Self::ShuttingDown => {
                ("shutting_down", S::SERVICE_UNAVAILABLE, "The proxy is shutting down")
            }
        }
    }
}

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What went wrong.
    pub code: Code,
    detail: String,
    fix: String,
    retry_after: Option<Duration>,
    close: bool,
    /// In place of the code's own.
    status: Option<StatusCode>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    fix: &'a str,
}

impl Problem {
    /// What went wrong with this request, and the one thing to do next.
    pub fn new(code: Code, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fix: fix.into(),
            retry_after: None,
            close: false,
            status: None,
        }
    }

    /// The one thing to do next.
    pub fn fix(&self) -> &str {
        &self.fix
    }

    /// The connection ends with this answer: what follows on it is not to be trusted.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }

    /// Answered with a status of its own: there are several for what is no request (RFC 6585
    /// section 5).
    pub fn status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Waiting this long helps.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The answer.
    pub fn into_response(self) -> Response<Answer> {
        let (word, status, title) = self.code.row();
        let status = self.status.unwrap_or(status);
        let body = Body {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code: word,
            fix: &self.fix,
        };
        let json = serde_json::to_vec(&body).expect("strings and numbers always have a JSON form");
        let mut response = Response::new(Answer::ours(Bytes::from(json)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(word));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: a caller that comes back too early is refused again.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            );
        }
        if self.code == Code::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static(METHODS));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Problem {
    fn refresh_timeout(why: String) -> Self {
        let fix = "Try again; if it stays, see `pleo-proxy status`.";
        Self::new(Code::RefreshTimeout, why, fix).retry_after(Duration::from_secs(1))
    }

    /// Why an account gives no token.
    pub fn refused(refusal: Refusal, account: &AccountName) -> Self {
        let second = Duration::from_secs(1);
        match refusal {
            Refusal::LoginRequired(reason) => {
                let fix = format!(
                    "Run `pleo-proxy login {account}`, or open /connect?account={account} on the admin listener."
                );
                Self::new(Code::LoginRequired, reason.sentence(account), fix)
            }
            Refusal::AuthUnreachable(why, wait) => {
                let fix = "Try again later; `pleo-proxy status` shows the next attempt.";
                Self::new(Code::AuthUnreachable, why.to_string(), fix).retry_after(wait.max(second))
            }
            Refusal::RefreshTimeout { hold, reason } => {
                let why = reason.map_or("the token endpoint is slow".into(), |it| it.to_string());
                Self::refresh_timeout(format!("no fresh token within {hold:?}: {why}"))
            }
            Refusal::Locked(why) => Self::refresh_timeout(why.to_string()),
            Refusal::Misconfigured(why) => {
                let fix = format!(
                    "Change the setting, then restart the proxy or run `pleo-proxy refresh {account}`."
                );
                Self::new(Code::Misconfigured, why.to_string(), fix)
            }
            Refusal::StoreError(why) => {
                let fix = format!(
                    "Mend the file as it says (the proxy notices), or run `pleo-proxy login {account}`."
                );
                Self::new(Code::StoreError, why, fix)
            }
            Refusal::StoreUnwritable(why, wait) => {
                let fix = "Make room or give write access; the proxy tries again.";
                Self::new(Code::StoreUnwritable, why, fix).retry_after(wait.max(second))
            }
            Refusal::Overloaded => {
                let why = "too many requests of this account wait for a token";
                Self::new(Code::Overloaded, why, "Send fewer requests at once.").retry_after(second)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::{LoginReason, RetryReason};

    #[test]
    fn a_problem_has_its_code_in_body_and_header() {
        let problem = Problem::new(Code::AuthUnreachable, "d", "f")
            .retry_after(Duration::from_millis(1500))
            .closing();
        let response = problem.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["pleo-proxy-error"], "auth_unreachable");
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["connection"], "close");
    }

    #[test]
    fn refusals_of_tokens_are_never_401() {
        let acme: AccountName = "acme".parse().unwrap();
        for refusal in [
            Refusal::LoginRequired(LoginReason::LoggedOut),
            Refusal::AuthUnreachable(RetryReason::Failed, Duration::ZERO),
            Refusal::RefreshTimeout { hold: Duration::ZERO, reason: None },
            Refusal::Locked(RetryReason::Failed),
            Refusal::StoreError("w".into()),
            Refusal::StoreUnwritable("w".into(), Duration::ZERO),
            Refusal::Overloaded,
        ] {
            assert_eq!(Problem::refused(refusal, &acme).code.status(), 503);
        }
        assert_eq!(
            Problem::refused(Refusal::Misconfigured(RetryReason::Failed), &acme).code.status(),
            500
        );
    }

    #[test]
    fn commands_in_a_fix_name_the_account() {
        let acme: AccountName = "acme".parse().unwrap();
        for (refusal, command) in [
            (Refusal::LoginRequired(LoginReason::LoggedOut), "`pleo-proxy login acme`"),
            (Refusal::LoginRequired(LoginReason::LoggedOut), "/connect?account=acme "),
            (Refusal::StoreError("w".into()), "`pleo-proxy login acme`"),
            (Refusal::Misconfigured(RetryReason::Failed), "`pleo-proxy refresh acme`"),
        ] {
            let problem = Problem::refused(refusal, &acme);
            assert!(problem.fix().contains(command), "{}", problem.fix());
        }
    }
}
