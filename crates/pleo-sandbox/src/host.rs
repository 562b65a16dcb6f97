//! Refuses every `Host` that is not a loopback name, so that a web page cannot reach the sandbox by
//! DNS rebinding.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

pub(crate) async fn loopback_only(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next().and_then(|value| value.to_str().ok());
    let target_fits =
        request.uri().authority().is_none_or(|authority| is_loopback(authority.as_str()));
    match (host, hosts.next()) {
        (Some(host), None) if is_loopback(host) && target_fits => next.run(request).await,
        _ => (
            StatusCode::FORBIDDEN,
            "the sandbox accepts the hosts 127.0.0.1, localhost and [::1] only\n",
        )
            .into_response(),
    }
}

/// Whether `host[:port]` names this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| match host.strip_prefix(name) {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    })
}
