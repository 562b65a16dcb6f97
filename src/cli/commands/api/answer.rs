//! One response: as it is, or wrapped with its status and headers.

use std::io::IsTerminal as _;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::data_client::{ERROR, is_refusal};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, Pipe};
use crate::diagnostic::one_line;
use crate::proxy::hint::HINT_HEADER;

/// Longest body that is read as a whole, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

/// The body of a response on stdout, as it arrives; its status on stderr unless it is a success.
pub(super) async fn stream(response: Response<Incoming>) -> Result<Exit, Failure> {
    let (head, mut body) = response.into_parts();
    say(head.status, &head.headers);
    if head.headers.contains_key(ERROR) {
        let body = read(body).await?;
        explain(&body);
        output::bytes(&body)?;
        output::bytes(b"\n")?;
        return Ok(exit(head.status, &head.headers));
    }
    let (mut written, mut last) = (0u64, b'\n');
    while let Some(frame) = body.frame().await {
        let broke_off = |error| {
            let why = format!("the response broke off after {written} bytes: {error}");
            Failure::new(Exit::Failed, why)
        };
        let Ok(data) = frame.map_err(broke_off)?.into_data() else { continue };
        if output::bytes(&data)? == Pipe::Closed {
            break;
        }
        written += data.len() as u64;
        last = data.last().copied().unwrap_or(last);
    }
    if last != b'\n' && std::io::stdout().is_terminal() {
        output::bytes(b"\n")?;
    }
    Ok(exit(head.status, &head.headers))
}

/// The output of `--json`.
#[derive(Serialize)]
struct Wrapped {
    version: u32,
    status: u16,
    /// By name; several of one name are separated by commas.
    headers: serde_json::Map<String, Value>,
    /// A value if it is JSON, else a text.
    body: Value,
}

/// Status, headers and body of a response as one line of JSON.
pub(super) async fn wrap(response: Response<Incoming>) -> Result<Exit, Failure> {
    let (head, body) = response.into_parts();
    let body = read(body).await?;
    let mut headers = serde_json::Map::new();
    for name in head.headers.keys() {
        headers.insert(name.to_string(), joined(&head.headers, name.as_str()).into());
    }
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    output::json(&Wrapped { version: 1, status: head.status.as_u16(), headers, body })?;
    Ok(exit(head.status, &head.headers))
}

fn joined(headers: &HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter();
    let values: Vec<_> =
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
    values.join(", ")
}

/// A whole body.
///
/// # Errors
/// It broke off, or is longer than [`MAX_BODY`].
pub(super) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    let read = Limited::new(body, MAX_BODY).collect().await;
    let read = read.map_err(|error| {
        Failure::new(Exit::Failed, format!("the response cannot be read to its end: {error}"))
    })?;
    Ok(read.to_bytes())
}

/// Says what a response is that is no success, and why if that is known.
pub(super) fn say(status: StatusCode, headers: &HeaderMap) {
    if !status.is_success() {
        status!("HTTP {status}");
    }
    if let Some(hint) = headers.get(HINT_HEADER).and_then(|hint| hint.to_str().ok()) {
        status!("{hint}");
    }
}

/// What the proxy's own error says to people.
#[derive(Deserialize)]
struct OwnError {
    detail: String,
    fix: String,
}

/// Says on stderr what went wrong and what to do: the body is for programs, and often goes to one.
fn explain(body: &[u8]) {
    if let Ok(OwnError { detail, fix }) = serde_json::from_slice(body) {
        status!("{}", one_line(&detail));
        status!("fix: {}", one_line(&fix));
    }
}

/// How the command ends after this response.
pub(super) fn exit(status: StatusCode, headers: &HeaderMap) -> Exit {
    if is_refusal(headers, "login_required") {
        Exit::LoginRequired
    } else if status.is_client_error() || status.is_server_error() {
        Exit::Failed
    } else {
        Exit::Fine
    }
}
