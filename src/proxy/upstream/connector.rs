//! Makes connections to the API.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::HeaderValue;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};

use super::bounded_read::{Arrival, BoundedRead, MAX_BUFFERED};
use super::connection::{Http1Connection, SharedPool};
use super::dial::{DialError, Dialer, Transport};
use super::failure::{MAX_HEAD, timed_out};
use super::settings::Settings;
use super::socket::Signals;
use crate::clock::Clock;
use crate::oauth::endpoint::Origin;
use crate::outbound::{Outbound, explain};
use crate::problem::{Code, Problem};

/// Makes connections to the API. All workers share it; each has a pool of its own.
#[derive(Clone)]
pub struct Connector {
    /// The API.
    pub origin: Origin,
    /// The Host header for it.
    pub host: HeaderValue,
    dialer: Dialer,
    pub(super) shared: Arc<SharedPool>,
    /// Connections that are open.
    open: Gauge,
}

/// Counts an open connection until it is dropped.
struct Counted(Gauge);

impl Counted {
    fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connector {
    /// Prepares connections; makes none yet.
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
        let shared = Arc::new(SharedPool::new(clock));
        Ok(Self { origin, host, dialer, shared, open: Gauge::default() })
    }

    /// Counts the connections there.
    pub fn counting(self, open: &Gauge) -> Self {
        Self { open: open.clone(), ..self }
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// `upstream_unreachable`.
    pub(super) async fn connect(&self) -> Result<Http1Connection, Problem> {
        let (transport, signals) =
            self.dialer.dial().await.map_err(|error| self.unreachable(&error))?;
        let http1 = match transport {
            Transport::Plain(socket) => self.handshake(socket, signals).await,
            Transport::Tls(stream) => self.handshake(*stream, signals).await,
            Transport::TlsInTls(stream) => self.handshake(*stream, signals).await,
        };
        http1.map_err(|error| self.unreachable(&error))
    }

    async fn handshake(
        &self,
        io: impl AsyncRead + AsyncWrite + Arrival + Unpin + Send + 'static,
        signals: Arc<Signals>,
    ) -> Result<Http1Connection, hyper::Error> {
        let mut builder = http1::Builder::new();
        // The buffer also limits what waits to be written while the API reads a request slowly.
        builder.max_header_size(MAX_HEAD).max_buf_size(MAX_BUFFERED);
        let (sender, connection) = builder.handshake(TokioIo::new(BoundedRead::new(io))).await?;
        let (shared, counted) = (self.shared.clone(), Counted::new(&self.open));
        let driven = signals.clone().drive(connection);
        // No async block, which would have room for the connection twice.
        let driver = tokio::spawn(driven.map(move |end| {
            // Errors also reach the request that is waiting for its response.
            drop(counted);
            shared.closed(end.is_err_and(|error| timed_out(&error)));
        }));
        Ok(Http1Connection {
            sender,
            driver: driver.abort_handle(),
            signals,
            expires: self.shared.next_expiry(),
        })
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Problem {
        let (what, fix) = explain(error);
        let what = match error.downcast_ref() {
            Some(DialError::Address { address, .. }) => format!("{what} ({address})"),
            Some(DialError::Late { limit, source: Some(_) }) => {
                format!("{what}, and no other address answered within {limit:?}")
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
