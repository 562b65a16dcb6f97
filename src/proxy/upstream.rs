//! The way to the API: HTTP/1.1 over connections that are dialled here, rest on the shelves of a
//! [`Pool`], and carry one request after the other.

mod bounded_read;
mod dial;
mod pool;
mod socket;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Outgoing;
use super::reply::{Code, Problem};
use crate::clock::Clock;
use crate::oauth::endpoint::Origin;
use crate::outbound::{Outbound, explain};
use bounded_read::BoundedRead;
use dial::{DialError, Dialer, Wire};
pub use pool::{Connection, Pool};
use pool::{Line, Shelves};
use socket::{Flood, Signals};

/// Longest head of an answer, in bytes, status line and the empty line included; it has 100 fields
/// at most, which is hyper's own limit.
const LONGEST_HEAD: usize = 64 * 1024;

/// Settings of the way to the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time from the end of the request body to the response head.
    pub response_timeout: Duration,
    /// Time between two bytes of a body, either way; none = no limit.
    pub idle_timeout: Option<Duration>,
    /// Request bodies up to this many bytes are kept to be sent again.
    pub replay_limit: usize,
}

/// The way to the API, shared by all workers; each has a pool of its own.
#[derive(Clone)]
pub struct Way {
    /// The API.
    pub origin: Origin,
    /// Its Host header.
    pub host: HeaderValue,
    dialer: Dialer,
    shelves: Arc<Shelves>,
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was written: the request is free to go again, and its body is back where it came
    /// from.
    Unsent,
    /// It failed under way.
    Failed(hyper::Error),
}

impl Way {
    /// Prepares the way; nothing is connected yet.
    ///
    /// # Errors
    /// A host is no server name, or the outbound proxy is unusable.
    pub fn new(
        origin: Origin,
        outbound: &Outbound,
        settings: &Settings,
        clock: Clock,
    ) -> Result<Self, String> {
        let host = HeaderValue::from_str(&origin.authority())
            .map_err(|_| format!("{origin} has no usable host"))?;
        let dialer =
            Dialer::new(origin.clone(), outbound, settings.connect_timeout, settings.idle_timeout)?;
        Ok(Self { origin, host, dialer, shelves: Arc::new(Shelves::new(clock)) })
    }

    async fn connect(&self) -> Result<Line, Problem> {
        let (wire, signals) = self.dialer.dial().await.map_err(|error| self.unreachable(&error))?;
        let line = match wire {
            Wire::Plain(socket) => self.converse(socket, signals).await,
            Wire::Tls(stream) => self.converse(*stream, signals).await,
            Wire::TlsInTls(stream) => self.converse(*stream, signals).await,
        };
        line.map_err(|error| self.unreachable(&error))
    }

    async fn converse(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        signals: Arc<Signals>,
    ) -> Result<Line, hyper::Error> {
        let mut builder = http1::Builder::new();
        // The size of the buffer bounds the head exactly only if it is the same.
        builder.max_header_size(LONGEST_HEAD).max_buf_size(LONGEST_HEAD);
        let (sender, connection) = builder.handshake(TokioIo::new(BoundedRead::new(io))).await?;
        let shelves = self.shelves.clone();
        let driver = tokio::spawn(async move {
            // Its errors reach whoever waits for a response on it.
            let end = connection.await;
            shelves.ended(end.is_err_and(|error| went_silent(&error)));
        });
        Ok(Line { sender, driver: driver.abort_handle(), signals, end: self.shelves.end_of_new() })
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Problem {
        let (what, fix) = explain(error);
        let what = match error.downcast_ref() {
            Some(DialError::Address { address, .. }) => format!("{what} ({address})"),
            Some(DialError::Late { limit, source: Some(_) }) => {
                format!("{what}, and nobody else answered in {limit:?}")
            }
            _ => what,
        };
        Problem::new(
            Code::UpstreamUnreachable,
            format!("{} cannot be reached: {what}", self.origin),
            fix,
        )
        .retry_after(Duration::from_secs(1))
    }
}

impl From<TrySendError<Request<Outgoing>>> for SendError {
    fn from(mut error: TrySendError<Request<Outgoing>>) -> Self {
        match error.take_message() {
            Some(_request) => Self::Unsent,
            None => Self::Failed(error.into_error()),
        }
    }
}

/// What came is no answer that could be passed on: to ask again would not help.
pub fn is_bad_answer(error: &hyper::Error) -> bool {
    error.is_parse() || is_flood(error)
}

/// What was wrong with an answer, or with the lack of one.
pub fn fault(error: &hyper::Error) -> String {
    match error {
        error if is_flood(error) => "it sent 1 MiB of interim answers (1xx) and no answer".into(),
        error if error.is_parse_too_large() => {
            format!(
                "the head of its answer has more than {} KiB or more than 100 fields",
                LONGEST_HEAD / 1024
            )
        }
        error if error.is_incomplete_message() || error.is_closed() => {
            "it closed the connection without an answer".into()
        }
        error if error.is_parse() => "its answer is not valid HTTP/1.1".into(),
        error if went_silent(error) => {
            "nobody at its end of the connection answered any more".into()
        }
        _ => "the connection broke before an answer came".into(),
    }
}

fn is_flood(error: &hyper::Error) -> bool {
    cause(error).and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<Flood>())
}

/// The kernel gave the connection up: nobody acknowledged its bytes.
fn went_silent(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn cause(error: &hyper::Error) -> Option<&std::io::Error> {
    error.source()?.downcast_ref()
}
