//! The responses that the data listener makes itself, all in one form: problem+json (RFC 9457) with
//! a code. Never status 401, which would make a tool start a login of its own.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use strum::VariantArray;

/// Marks a response that is the proxy's own, not Pleo's.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-error");
/// Methods that are forwarded.
pub const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// The commands that a text may name.
pub const COMMANDS: [&str; 25] = [
    "serve",
    "exec",
    "login",
    "logout",
    "status",
    "accounts",
    "api",
    "refresh",
    "why",
    "report",
    "logs",
    "capture",
    "har",
    "open",
    "stop",
    "wait",
    "health",
    "sandbox",
    "store",
    "service",
    "doctor",
    "config",
    "init",
    "completions",
    "man",
];
/// The program, as texts name it.
const PROGRAM: &str = "pleo-proxy";

/// The text with its commands as they read the configuration of `program`, such as
/// `pleo-proxy --config my.toml`.
pub fn with_program(text: &str, program: &str) -> String {
    let mut parts = text.split(PROGRAM);
    let mut changed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let word = part.strip_prefix(' ').unwrap_or_default();
        let end = word.find(|it: char| !it.is_ascii_lowercase()).unwrap_or(word.len());
        let is_command = COMMANDS.contains(&&word[..end]);
        changed.push_str(if is_command { program } else { PROGRAM });
        changed.push_str(part);
    }
    changed
}

/// What went wrong. Each code has a status and a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, VariantArray)]
pub enum Code {
    /// The request is malformed or ambiguous.
    BadRequest,
    /// The Host header is not one of ours.
    ForbiddenHost,
    /// A web page of another origin sent the request.
    ForbiddenOrigin,
    /// A program of another user sent the request, or the kernel does not say whose it is.
    ForbiddenPeer,
    /// The local key is missing or wrong.
    LocalKeyRequired,
    /// The proxy forwards reads only.
    ReadOnly,
    /// The request would revoke every token.
    ProtectedOperation,
    /// No such account.
    AccountUnknown,
    /// The listener serves another account only.
    ForbiddenAccount,
    /// Several accounts are connected, and the request names none.
    AccountRequired,
    /// A method that is not forwarded.
    MethodNotAllowed,
    /// An `Expect` that is not `100-continue`.
    ExpectationFailed,
    /// A setting must change.
    Misconfigured,
    /// No connection to the API.
    UpstreamUnreachable,
    /// The API closed the connection or sent invalid HTTP.
    UpstreamBroken,
    /// The API took too long.
    UpstreamTimeout,
    /// Only a login helps.
    LoginRequired,
    /// No fresh token within `hold`.
    RefreshTimeout,
    /// The token endpoint cannot be reached or fails.
    AuthUnreachable,
    /// A refresh replaced the token while the request was being sent.
    TokenRotated,
    /// The account's record cannot be used.
    StoreError,
    /// The store cannot be written, so nothing can be refreshed.
    StoreUnwritable,
    /// Too many requests or connections.
    Overloaded,
    /// The proxy is shutting down.
    ShuttingDown,
}

impl Code {
    /// The code as callers see it.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The status of its responses.
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// What it means, in a few words.
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// What to do about it, in short; the fix of a problem knows more of the case.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::BadRequest => "correct the request; the detail in the response's body says where",
            Self::ForbiddenHost => {
                "call 127.0.0.1 or localhost with the port, or set guard.allow_hosts"
            }
            Self::ForbiddenOrigin => "call from a program, or set guard.allow_origins",
            Self::ForbiddenPeer => "run the caller as the proxy's user, or set guard.peer_check",
            Self::LocalKeyRequired => {
                "send the content of guard.local_key_file in the header Pleo-Proxy-Key, directly"
            }
            Self::ReadOnly => "turn guard.read_only off to allow writes",
            Self::ProtectedOperation => "set guard.allow_disconnect if that is what you want",
            Self::AccountUnknown => {
                "pleo-proxy status lists the accounts, pleo-proxy login NAME adds one"
            }
            Self::ForbiddenAccount => {
                "leave the account out of the request, or start pleo-proxy exec --account NAME"
            }
            Self::AccountRequired => {
                "put /@NAME in front of the path, send Pleo-Proxy-Account: NAME, or set default_account"
            }
            Self::MethodNotAllowed => {
                "use a method that the response's Allow lists; for CONNECT use http:// addresses"
            }
            Self::ExpectationFailed => "leave the header Expect out",
            Self::Misconfigured => "change the setting that pleo-proxy status names",
            Self::UpstreamUnreachable => {
                "check the network, upstream.proxy and endpoints.ca_file, then send it again"
            }
            Self::UpstreamBroken => "check whether the request took effect, then repeat it",
            Self::UpstreamTimeout => {
                "check whether the request took effect; upstream.response_timeout is the limit"
            }
            Self::LoginRequired => "pleo-proxy login",
            Self::RefreshTimeout => "send it again; pleo-proxy status says what it waits for",
            Self::AuthUnreachable => {
                "send it again after Retry-After; pleo-proxy status shows the next attempt"
            }
            Self::TokenRotated => "send it again; a higher upstream.replay_limit avoids it",
            Self::StoreError => "do what pleo-proxy status says",
            Self::StoreUnwritable => "free disk space or give write access to the store",
            Self::Overloaded => "send fewer requests at once, or later",
            Self::ShuttingDown => "start the proxy again, then repeat the request",
        }
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
            Self::ForbiddenAccount => {
                ("forbidden_account", S::FORBIDDEN, "This listener serves another account")
            }
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
                ("auth_unreachable", S::SERVICE_UNAVAILABLE, "No access token is available now")
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

/// A response of the proxy's own: what went wrong, and the one thing to do next.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What went wrong.
    pub code: Code,
    detail: String,
    fix: String,
    retry_after: Option<Duration>,
    closes: bool,
    /// Overrides the status of the code.
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
    /// What went wrong with this request, and how to fix it.
    pub fn new(code: Code, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fix: fix.into(),
            retry_after: None,
            closes: false,
            status: None,
        }
    }

    /// What went wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// How to fix it.
    pub fn fix(&self) -> &str {
        &self.fix
    }

    /// The same with commands that read the configuration of `program`.
    pub fn with_program(self, program: &str) -> Self {
        let Self { detail, fix, .. } = &self;
        let (detail, fix) = (with_program(detail, program), with_program(fix, program));
        Self { detail, fix, ..self }
    }

    /// The connection closes after this response: what follows on it cannot be trusted.
    pub fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    /// Overrides the status of the code: malformed requests have several (RFC 6585 section 5).
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Adds `Retry-After`: trying again after this time may help.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// The response.
    pub fn into_response(self) -> Response<Bytes> {
        let (code, status, title) = self.code.row();
        let status = self.status.unwrap_or(status);
        let body = Body {
            kind: "about:blank",
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code,
            fix: &self.fix,
        };
        let json = serde_json::to_vec(&body).expect("strings and numbers always have a JSON form");
        let mut response = Response::new(Bytes::from(json));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(code));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: a caller that retries too early is refused again.
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            );
        }
        if self.code == Code::MethodNotAllowed {
            headers.insert(ALLOW, HeaderValue::from_static(METHODS));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_get_the_flags_of_the_configuration_once_and_prose_stays() {
        let program = "pleo-proxy --config /a/my.toml";
        let text = "a pleo-proxy runs; `pleo-proxy login acme`, or pleo-proxy status. pleo-proxy";
        let with_flags = "a pleo-proxy runs; `pleo-proxy --config /a/my.toml login acme`, or \
                          pleo-proxy --config /a/my.toml status. pleo-proxy";
        assert_eq!(with_program(text, program), with_flags);
        assert_eq!(with_program(with_flags, program), with_flags);
        let problem =
            Problem::new(Code::LoginRequired, "d", "pleo-proxy login").with_program(program);
        assert_eq!(problem.fix(), format!("{program} login"));
    }

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
}
