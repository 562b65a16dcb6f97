//! Routes for tests under the API origin that Pleo does not have. Like the rest of the API they
//! need a valid token.
//!
//! - `ANY /v1/echo/...`: the request as JSON. Header names are lower case and equal names are
//!   grouped, because the HTTP library keeps no more; the value of `Authorization` is replaced by
//!   `ok`.
//! - `GET /v1/stream?events=N&gap_ms=M`: server-sent events, one at a time.
//! - `GET /v1/bytes?n=N`: N bytes (2 GiB at most) with a `Content-Length`; byte i is `i % 251` of
//!   each 64 KiB piece.
//! - `PUT,POST /v1/sink`: reads a body of any length in constant memory; responds with its length
//!   and SHA-256.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, RawQuery, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, put};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::paging::Query;
use super::response::{Problem, json_response};
use super::state::{SandboxState, hex};

const MAX_BYTES: u64 = 2 << 30;
const MAX_EVENTS: u64 = 100_000;

pub(crate) fn routes() -> Router<Arc<SandboxState>> {
    Router::new()
        .route("/v1/echo", any(echo))
        .route("/v1/echo/{*rest}", any(echo))
        .route("/v1/stream", get(stream))
        .route("/v1/bytes", get(bytes))
        .route("/v1/sink", put(sink).post(sink))
        .layer(DefaultBodyLimit::disable())
}

async fn echo(request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let (length, sha256) = digest(body).await?;
    let received = json!({
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "query": parts.uri.query(),
        "version": format!("{:?}", parts.version),
        "headers": redacted(&parts.headers),
        "body": { "length": length, "sha256": sha256 },
    });
    Ok(json_response(StatusCode::OK, &received))
}

fn redacted(headers: &HeaderMap) -> Vec<[Value; 2]> {
    let pair = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        let text = if name == header::AUTHORIZATION {
            "ok".to_owned()
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        [json!(name.as_str()), json!(text)]
    };
    headers.iter().map(pair).collect()
}

async fn sink(body: Body) -> Result<Response, Problem> {
    let (length, sha256) = digest(body).await?;
    Ok(json_response(StatusCode::OK, &json!({ "length": length, "sha256": sha256 })))
}

/// Length and SHA-256 of a body, read piece by piece.
async fn digest(mut body: Body) -> Result<(u64, String), Problem> {
    let (mut length, mut hasher) = (0, Sha256::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::invalid("the body broke off"))?;
        if let Ok(piece) = frame.into_data() {
            length += piece.len() as u64;
            hasher.update(&piece);
        }
    }
    Ok((length, hex(&hasher.finalize())))
}

async fn stream(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let query = Query::read(query.as_deref());
    let events = query.number("events", 5)?.min(MAX_EVENTS);
    let gap = Duration::from_millis(query.number("gap_ms", 100)?);
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        for n in 0..events {
            if n > 0 {
                tokio::time::sleep(gap).await;
            }
            let event = format!("id: {n}\nevent: tick\ndata: {{\"n\":{n}}}\n\n");
            if sender.send_data(event.into()).await.is_err() {
                return;
            }
        }
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::new(body)).into_response())
}

const PIECE: usize = 64 << 10;
static PATTERN: [u8; PIECE] = pattern();

const fn pattern() -> [u8; PIECE] {
    let mut pattern = [0; PIECE];
    let mut at = 0;
    while at < PIECE {
        pattern[at] = (at % 251) as u8;
        at += 1;
    }
    pattern
}

/// A body that repeats the pattern for this many more bytes.
struct PatternBody(u64);

impl HttpBody for PatternBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.0.min(PIECE as u64);
        self.0 -= size;
        let piece = || Bytes::from_static(&PATTERN[..size as usize]);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

async fn bytes(RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let n = Query::read(query.as_deref()).number("n", 1024)?;
    if n > MAX_BYTES {
        return Err(Problem::invalid_parameter("n is at most 2147483648"));
    }
    let content_type = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((content_type, Body::new(PatternBody(n))).into_response())
}
