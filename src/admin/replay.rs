//! `POST /api/requests/ID/replay`: sends a request of the log again, through the data listener and
//! all of its guard.

use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, HOST, HeaderName};
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response as AxumResponse;
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::api::data;
use super::protocol::{Replay, Replayed};
use super::refusal::refusal;
use super::state::{Admin, Shared};
use crate::log::repeat::{NotRepeatable, Repeat};

/// Time until the head of the response is there: `hold`, and what Pleo takes.
const PATIENCE: Duration = Duration::from_secs(150);
const ACCOUNT: HeaderName = HeaderName::from_static("pleo-account");
const KEY: HeaderName = HeaderName::from_static("pleo-proxy-key");
/// The id of a request.
const ID: HeaderName = HeaderName::from_static("pleo-proxy-request");

/// `POST /api/requests/ID/replay`.
pub(super) async fn replay(
    State(admin): Shared,
    Path(id): Path<String>,
    body: Bytes,
) -> AxumResponse {
    let replay = match body.trim_ascii() {
        b"" => Ok(Replay::default()),
        body => serde_json::from_slice(body),
    };
    let Ok(Replay { confirm }) = replay else {
        let why = "The body must be empty, or {\"confirm\": true}.";
        return refusal(StatusCode::BAD_REQUEST, "bad_request", why);
    };
    let repeat = match admin.log.repeat(&id) {
        Ok(repeat) => repeat,
        Err(why) => return not_repeatable(why),
    };
    if !repeat.is_read && !confirm {
        let why = "This request may change data at Pleo; confirm that it is sent again.";
        return refusal(StatusCode::CONFLICT, "confirm_required", why);
    }
    match timeout(PATIENCE, send(&admin, repeat)).await {
        Ok(Ok(replayed)) => data(replayed),
        Ok(Err(error)) => {
            let why = format!("The request could not be sent to the data listener: {error:#}.");
            refusal(StatusCode::BAD_GATEWAY, "not_sent", &why)
        }
        Err(_) => {
            refusal(StatusCode::GATEWAY_TIMEOUT, "not_sent", "There was no response in time.")
        }
    }
}

fn not_repeatable(why: NotRepeatable) -> AxumResponse {
    let (status, code) = match why {
        NotRepeatable::Unknown => (StatusCode::NOT_FOUND, "not_kept"),
        NotRepeatable::Incomplete => (StatusCode::CONFLICT, "not_repeatable"),
        NotRepeatable::BodyNotKept => (StatusCode::CONFLICT, "body_not_kept"),
    };
    refusal(status, code, &format!("{why}."))
}

async fn send(admin: &Admin, repeat: Repeat) -> anyhow::Result<Replayed> {
    match admin.tools.origin.strip_prefix("unix:") {
        Some(path) => {
            let stream = UnixStream::connect(path).await.context(path.to_owned())?;
            send_on(stream, "localhost", admin, repeat).await
        }
        None => {
            let authority = admin.tools.origin.trim_start_matches("http://");
            let stream = TcpStream::connect(authority).await.context(authority.to_owned())?;
            send_on(stream, authority, admin, repeat).await
        }
    }
}

async fn send_on(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    host: &str,
    admin: &Admin,
    repeat: Repeat,
) -> anyhow::Result<Replayed> {
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(driver);
    let (head, mut body) =
        connection.send_request(request(host, admin, repeat)?).await?.into_parts();
    // Read to its end, so that the exchange ends as it should.
    while body.frame().await.transpose()?.is_some() {}
    driver.abort();
    let id = head.headers.get(ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    Ok(Replayed { id, status: head.status.as_u16() })
}

fn request(host: &str, admin: &Admin, repeat: Repeat) -> anyhow::Result<Request<Body>> {
    let mut request = Request::new(Body::from(repeat.body));
    *request.method_mut() = repeat.method;
    *request.uri_mut() = repeat.target.parse()?;
    let mut headers = repeat.headers;
    // They were meant for the connection that the request came on.
    for name in ["connection", "expect", "transfer-encoding", "te", "trailer", "upgrade"] {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    headers.insert(HOST, HeaderValue::try_from(host)?);
    if let Some(account) = &repeat.account {
        headers.insert(ACCOUNT, HeaderValue::try_from(account.as_str())?);
    }
    if let Some(key) = &admin.local_key {
        let mut value = HeaderValue::try_from(key.expose())?;
        value.set_sensitive(true);
        headers.insert(KEY, value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}
