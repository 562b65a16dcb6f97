//! Only loopback names: a web page that rebinds its own name to 127.0.0.1 gets nothing here.

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
        _ => {
            (StatusCode::FORBIDDEN, "the sandbox answers to 127.0.0.1, localhost and [::1] only\n")
                .into_response()
        }
    }
}

/// `host[:port]` of this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| match host.strip_prefix(name) {
        Some("") => true,
        Some(port) => port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    })
}
