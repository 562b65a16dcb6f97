//! What is noted of an exchange, for the request log. Short and without parsing: it is written for
//! every request, and read for few.

use std::borrow::Cow;
use std::slice::SliceIndex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::caller::Client;
use super::capture::Capture;
use crate::problem::Code;
use crate::store::AccountName;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longest target that is kept, in bytes. A longer one is cut.
const MAX_TARGET: usize = 4096;
/// Longest header value that is kept, in bytes. Of a longer one nothing is: the beginning of a
/// secret at its end would not be recognised.
const MAX_VALUE: usize = 256;
/// How much of an error response of Pleo's is kept, in bytes: its type stands near the beginning.
const MAX_EXCERPT: usize = 4096;

/// What a record takes beside its fields, in bytes: two headers of the allocator, two counters, and
/// its places in lists that grow by doubling.
const OVERHEAD: usize = 128;
/// Texts of up to this length take no memory of their own, in bytes: as long as most are.
const INLINE: usize = 128;

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Responder {
    /// The proxy itself.
    Proxy,
    /// Pleo's API.
    Pleo,
}

/// What is known from the arrival of a request on, also while it runs.
#[derive(Debug)]
pub struct Arrival {
    /// Number of the request in this run of the process, from 1.
    pub number: u64,
    /// When its head had been read.
    pub at: Instant,
    /// Who sent it.
    pub client: Arc<Client>,
    /// None if the request was malformed.
    pub method: Option<Method>,
    /// Target, user agent and `traceparent`, one after another.
    text: SmallVec<[u8; INLINE]>,
    target_end: usize,
    agent_end: usize,
    account: OnceLock<AccountName>,
}

impl Arrival {
    /// Notes a valid request.
    pub fn new<B>(number: u64, client: Arc<Client>, request: &Request<B>) -> Self {
        let headers = request.headers();
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let (target, agent) = (cut(target, MAX_TARGET), value(headers, &USER_AGENT));
        let trace = value(headers, &TRACEPARENT);
        let mut text = SmallVec::with_capacity(target.len() + agent.len() + trace.len());
        for part in [target, &agent, &trace] {
            text.extend_from_slice(part.as_bytes());
        }
        Self {
            number,
            at: Instant::now(),
            client,
            method: Some(request.method().clone()),
            text,
            target_end: target.len(),
            agent_end: target.len() + agent.len(),
            account: OnceLock::new(),
        }
    }

    /// Notes that something arrived that is no valid request.
    pub(super) fn malformed(number: u64, client: Arc<Client>) -> Self {
        Self {
            number,
            at: Instant::now(),
            client,
            method: None,
            text: SmallVec::new(),
            target_end: 0,
            agent_end: 0,
            account: OnceLock::new(),
        }
    }

    /// Path and query as they were sent; empty for a malformed request.
    pub fn target(&self) -> &str {
        self.part(..self.target_end)
    }

    fn part(&self, range: impl SliceIndex<[u8], Output = [u8]>) -> &str {
        std::str::from_utf8(&self.text[range]).expect("it was put together from texts")
    }

    /// True if the target is longer than what is kept of it.
    pub fn is_target_cut(&self) -> bool {
        self.target_end >= MAX_TARGET - 3
    }

    /// The `User-Agent`, if it is text.
    pub fn user_agent(&self) -> Option<&str> {
        Some(self.part(self.target_end..self.agent_end)).filter(|agent| !agent.is_empty())
    }

    /// The `traceparent` (W3C Trace Context), if it is text.
    pub fn traceparent(&self) -> Option<&str> {
        Some(self.part(self.agent_end..)).filter(|trace| !trace.is_empty())
    }

    /// The account that the request goes to, once it is known.
    pub fn account(&self) -> Option<&AccountName> {
        self.account.get()
    }

    pub(crate) fn set_account(&self, name: &AccountName) {
        let _ = self.account.set(name.clone());
    }

    /// What it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + if self.text.spilled() { self.text.capacity() } else { 0 }
    }
}

/// A header value as text; how long it is, if it is too long.
fn value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Cow<'a, str> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.len() {
        ..=MAX_VALUE => value.into(),
        length => format!("[left out: {length} bytes]").into(),
    }
}

/// The first bytes of a text, in whole characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Everything that is noted of an exchange.
#[derive(Debug)]
pub struct Record {
    /// What was known at its arrival.
    pub arrival: Arc<Arrival>,
    /// None if the caller left before there was a response.
    pub status: Option<StatusCode>,
    /// The code of the proxy's own response.
    pub problem: Option<Code>,
    /// Who made the response.
    pub responder: Responder,
    /// Bytes of the request body that were read.
    pub request_bytes: u64,
    /// Bytes of the response body that went to the caller.
    pub response_bytes: u64,
    /// The response ended as it should.
    pub is_complete: bool,
    /// When the latest attempt to send got how far.
    pub times: Times,
    /// It waited for a token.
    pub is_held: bool,
    /// How often it was sent to Pleo.
    pub sends: u8,
    /// It was sent although Pleo had asked to wait (`Retry-After` of a 429).
    pub is_impatient: bool,
    /// Generation of the grant whose token was sent.
    pub generation: Option<u64>,
    /// The beginning of an error response of Pleo's.
    pub excerpt: Vec<u8>,
    /// Headers and bodies, if they are captured.
    pub capture: Option<Box<Capture>>,
}

/// Times since the arrival of a request; none = not reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// A token was there.
    pub token: Option<Duration>,
    /// The token that was sent was there: the first one again, or another after a connection had
    /// been made.
    pub leased: Option<Duration>,
    /// A connection to the API was there.
    pub connected: Option<Duration>,
    /// The head of the API's response was there.
    pub head: Option<Duration>,
    /// The last byte was handed to the caller's connection, or the exchange was given up.
    pub end: Duration,
}

impl Record {
    /// Nothing is known yet but the arrival.
    pub fn new(arrival: Arc<Arrival>) -> Self {
        Self {
            arrival,
            status: None,
            problem: None,
            responder: Responder::Proxy,
            request_bytes: 0,
            response_bytes: 0,
            is_complete: false,
            times: Times::default(),
            is_held: false,
            sends: 0,
            is_impatient: false,
            generation: None,
            excerpt: Vec::new(),
            capture: None,
        }
    }

    /// True if Pleo answered with an error of the caller's kind (4xx).
    pub fn is_refused_by_pleo(&self) -> bool {
        self.responder == Responder::Pleo
            && self.status.is_some_and(|status| status.is_client_error())
    }

    /// Keeps the beginning of an error response, and a captured body.
    pub(super) fn note_data(&mut self, data: &[u8]) {
        if self.is_refused_by_pleo() && self.excerpt.len() < MAX_EXCERPT {
            let room = MAX_EXCERPT - self.excerpt.len();
            self.excerpt.extend_from_slice(&data[..data.len().min(room)]);
        }
        if let Some(capture) = &mut self.capture {
            capture.response.body.push(data);
        }
    }

    /// Drops what was captured if only the requests of another account are meant.
    pub(super) fn forget_foreign_capture(&mut self) {
        let account = self.arrival.account();
        self.capture = self.capture.take().filter(|capture| capture.is_of(account));
    }

    /// What it takes in memory, in bytes, with what the allocator adds to its two parts.
    pub fn size(&self) -> usize {
        let capture = self.capture.as_ref().map_or(0, |capture| capture.size());
        let fixed = size_of::<Self>() + OVERHEAD;
        fixed + self.arrival.size() + self.excerpt.capacity() + capture
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Caller;

    fn arrival(target: &str, agent: &[u8]) -> Arrival {
        let client = Client::new(Caller::Unix { user: None, process: None });
        let agent = http::HeaderValue::from_bytes(agent).unwrap();
        let request = Request::get(target).header("user-agent", agent).body(()).unwrap();
        Arrival::new(1, Arc::new(client), &request)
    }

    #[test]
    fn long_targets_are_cut_and_long_values_and_those_that_are_no_text_left_out() {
        let long = format!("/v1/{}", "x".repeat(10_000));
        let arrived = arrival(&long, "a".repeat(10_000).as_bytes());
        assert_eq!(arrived.target().len(), MAX_TARGET);
        assert!(arrived.is_target_cut());
        assert_eq!(arrived.user_agent(), Some("[left out: 10000 bytes]"));
        assert!(arrived.size() < 8192);
        let short = arrival("/v1/x?y=z", b"\xff");
        assert_eq!(
            (short.target(), short.user_agent(), short.traceparent()),
            ("/v1/x?y=z", None, None)
        );
        assert!(!short.is_target_cut());
    }
}
