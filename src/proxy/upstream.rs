//! Connections to the API: one pool for each worker, HTTP/1.1, most recently used first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;

use super::body::Outgoing;
use super::reply::{Code, Problem};
use crate::clock::{Clock, millis};
use crate::oauth::endpoint::Origin;
use crate::outbound::Outbound;

/// Connections idle for longer are not used again: shorter than what load balancers commonly allow (60 s).
const IDLE: Duration = Duration::from_secs(45);
/// Idle connections that a worker keeps.
const MOST_IDLE: usize = 512;

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
    uri: Uri,
    connector: HttpConnector,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    outbound: Outbound,
    clock: Clock,
    connect_timeout: Duration,
}

/// A worker's connections.
pub struct Pool {
    way: Way,
    idle: Arc<Mutex<Vec<Idle>>>,
}

struct Idle {
    line: Line,
    /// Boot time in milliseconds: a machine that slept wakes with stale connections.
    since: u64,
}

/// Both ends of a connection: where requests go in, and the task that moves its bytes.
struct Line {
    sender: SendRequest<Outgoing>,
    driver: AbortHandle,
}

/// A connection in use; given back when the response body has ended, else torn down, whatever its task waits for.
pub struct Connection {
    /// None once it was given back.
    line: Option<Line>,
    idle: Arc<Mutex<Vec<Idle>>>,
    clock: Clock,
}

/// Why there is no response.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was written: the request is free to go again, and its body is back where it came from.
    Unsent,
    /// It failed under way.
    Failed(hyper::Error),
}

impl Way {
    /// Prepares the way; nothing is connected yet.
    ///
    /// # Errors
    /// The host is no server name.
    pub fn new(origin: Origin, outbound: Outbound, settings: &Settings, clock: Clock) -> Result<Self, String> {
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| format!("{origin} has no usable host"))?;
        let uri = Uri::try_from(format!("{}://{}/", origin.scheme(), origin.authority_with_port()))
            .map_err(|error| format!("{origin}: {error}"))?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let name = ServerName::try_from(origin.host.trim_matches(['[', ']']).to_owned());
        let tls = match origin.tls {
            true => {
                Some((TlsConnector::from(outbound.tls.clone()), name.map_err(|error| format!("{origin}: {error}"))?))
            }
            false => None,
        };
        let connect_timeout = settings.connect_timeout;
        Ok(Self { origin, host, uri, connector, tls, outbound, clock, connect_timeout })
    }

    async fn connect(&self) -> Result<Line, Problem> {
        match timeout(self.connect_timeout, self.dial()).await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(why)) => Err(self.unreachable(&why)),
            Err(_) => Err(self.unreachable(&format!("no connection within {:?}", self.connect_timeout))),
        }
    }

    async fn dial(&self) -> Result<Line, String> {
        let mut direct = self.connector.clone();
        let tcp = match self.outbound.proxy_for(&self.uri) {
            None => direct.call(self.uri.clone()).await.map_err(|error| innermost(&error))?,
            Some(proxy) => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(self.uri.clone()).await.map_err(|error| format!("outbound proxy: {}", innermost(&error)))?
            }
        };
        match &self.tls {
            None => handshake(tcp.into_inner()).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp.into_inner()).await;
                handshake(stream.map_err(|error| format!("TLS: {}", innermost(&error)))?).await
            }
        }
    }

    fn unreachable(&self, why: &str) -> Problem {
        Problem::new(
            Code::UpstreamUnreachable,
            format!("{} cannot be reached: {why}", self.origin),
            "Check the network, upstream.proxy and endpoints.ca_file, then try again.",
        )
        .retry_after(Duration::from_secs(1))
    }
}

async fn handshake(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Line, String> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(io)).await;
    let (sender, connection) = handshake.map_err(|error| innermost(&error))?;
    // Ends with the connection; its errors reach whoever waits for a response on it.
    let driver = tokio::spawn(connection).abort_handle();
    Ok(Line { sender, driver })
}

impl Pool {
    /// An empty pool.
    pub fn new(way: Way) -> Self {
        Self { way, idle: Arc::default() }
    }

    /// The way it leads.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// An idle connection, if one is worth trying.
    pub fn reuse(&self) -> Option<Connection> {
        let now = self.way.clock.now().boot;
        let mut idle = lock(&self.idle);
        loop {
            let Idle { line, since } = idle.pop()?;
            if now.saturating_sub(since) > millis(IDLE) {
                // The ones below are older still.
                idle.clear();
                return None;
            }
            if !line.sender.is_closed() {
                return Some(self.connection(line));
            }
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// `upstream_unreachable`.
    pub async fn connect(&self) -> Result<Connection, Problem> {
        Ok(self.connection(self.way.connect().await?))
    }

    fn connection(&self, line: Line) -> Connection {
        Connection { line: Some(line), idle: self.idle.clone(), clock: self.way.clock.clone() }
    }
}

impl Connection {
    /// Sends a request and waits for its response head.
    ///
    /// # Errors
    /// [`SendError`] tells whether any of it was written.
    pub async fn send(&mut self, request: Request<Outgoing>) -> Result<Response<Incoming>, SendError> {
        let Some(line) = &mut self.line else { return Err(SendError::Unsent) };
        line.sender.try_send_request(request).await.map_err(|mut error| match error.take_message() {
            Some(request) => {
                drop(request);
                SendError::Unsent
            }
            None => SendError::Failed(error.into_error()),
        })
    }

    /// Lets the next request use it.
    pub fn give_back(mut self) {
        let Some(line) = self.line.take_if(|line| !line.sender.is_closed()) else { return };
        let now = self.clock.now().boot;
        let mut idle = lock(&self.idle);
        if idle.first().is_some_and(|oldest| now.saturating_sub(oldest.since) > millis(IDLE)) {
            idle.retain(|it| now.saturating_sub(it.since) <= millis(IDLE) && !it.line.sender.is_closed());
        }
        if idle.len() < MOST_IDLE {
            idle.push(Idle { line, since: now });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            // A task that waits for the upstream to take bytes would hold on to the caller's body.
            line.driver.abort();
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

fn lock(idle: &Mutex<Vec<Idle>>) -> MutexGuard<'_, Vec<Idle>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
