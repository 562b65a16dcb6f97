//! A response of the authorization server or the API, as far as it has arrived: even an incomplete
//! one may hold the only copy of new tokens.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::RequestBuilder;
use zeroize::Zeroizing;

use super::authorize::printable;
use super::fields::Fields;
use crate::timeout::while_running;

/// Time for a whole call. Long on purpose: a response that is not waited for may carry the only
/// copy of new tokens.
pub(super) const CALL: Duration = Duration::from_secs(30);
/// Largest part of a body that is read, in bytes: real bodies are a few KiB.
const MAX_BODY: usize = 64 * 1024;
/// How long the end of a body is waited for once its object is complete: a wrong Content-Length
/// must not delay requests.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Completely.
    Whole,
    /// It is longer than what is read.
    TooLong,
    /// The connection broke, or the time was up before the end came.
    BrokenOff,
}

/// What has arrived of a response; its head at least.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Zeroizing<Vec<u8>>,
    pub(super) end: End,
}

/// Why there is no response at all.
#[derive(Debug)]
pub(super) enum SendError {
    /// No response head came in time.
    TimedOut,
    /// The request was not sent, or its connection broke.
    Failed(reqwest::Error),
}

/// Sends a request once and reads its response until it ends, or one of the `wanted` members of its
/// object and the object's end have arrived and nothing follows.
///
/// # Errors
/// No head of a response arrived.
pub(super) async fn send(request: RequestBuilder, wanted: &[&str]) -> Result<Response, SendError> {
    let mut arrived = None;
    match while_running(CALL, receive(request, wanted, &mut arrived)).await {
        Some(Err(error)) if arrived.is_none() => Err(SendError::Failed(error)),
        _ => arrived.ok_or(SendError::TimedOut),
    }
}

/// Stores what arrives in `arrived`, so that a caller that stops waiting has it.
async fn receive(
    request: RequestBuilder,
    wanted: &[&str],
    arrived: &mut Option<Response>,
) -> Result<(), reqwest::Error> {
    let mut incoming = request.send().await?;
    let (status, headers) = (incoming.status(), incoming.headers().clone());
    let response = arrived.insert(Response {
        status,
        headers,
        body: Zeroizing::default(),
        end: End::BrokenOff,
    });
    let mut complete = false;
    loop {
        let chunk = if complete {
            match tokio::time::timeout(LAST_BYTES, incoming.chunk()).await {
                Ok(chunk) => chunk?,
                Err(_) => return Ok(()),
            }
        } else {
            incoming.chunk().await?
        };
        let Some(chunk) = chunk else {
            response.end = End::Whole;
            return Ok(());
        };
        let room = MAX_BODY - response.body.len();
        response.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            response.end = End::TooLong;
            return Ok(());
        }
        complete |= chunk.contains(&b'}')
            && Fields::read(&response.body, false, wanted).is_some_and(|it| it.whole);
    }
}

/// Why a server could not be reached, with its name and what to do about it.
pub(super) fn explain(error: &reqwest::Error) -> String {
    let why = innermost(error);
    let host = error.url().and_then(|url| url.host_str()).unwrap_or("the server").to_owned();
    let has = |part: &str| why.contains(part);
    if has("not valid yet") || has("certificate expired") {
        format!(
            "by the clock of this machine the certificate of {host} is not valid ({why}); check the clock"
        )
    } else if has("not valid for name") {
        format!(
            "the certificate of {host} is for another name ({why}); check [endpoints] and the network"
        )
    } else if has("invalid peer certificate") {
        format!(
            "the certificate of {host} is not trusted ({why}); behind a private authority or a network that inspects TLS set endpoints.ca_file"
        )
    } else if has("lookup address") || has("dns error") {
        format!("{host} is not found ({why}); check the network and the name in [endpoints]")
    } else {
        format!("{host}: {why}")
    }
}

/// The last cause in a chain of errors: the one that a person can act on.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    printable(&error.to_string(), 200)
}
