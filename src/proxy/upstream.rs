//! Connections to the API: one pool for each worker, HTTP/1.1, most recently used first. A worker that has none at rest
//! borrows another's, and one is kept ready while requests come: few of them ever wait for a handshake.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use tracing::debug;

use super::body::Outgoing;
use super::reply::{Code, Problem};
use crate::clock::{Clock, millis};
use crate::oauth::endpoint::Origin;
use crate::outbound::Outbound;

/// Connections idle for longer are not used again: shorter than what load balancers commonly allow (60 s).
const IDLE: Duration = Duration::from_secs(45);
/// A connection that has rested for longer is replaced before it is needed.
const FRESH: Duration = Duration::from_secs(35);
/// How often it is looked whether a connection is ready, beside after each use and each end of one.
const LOOK: Duration = Duration::from_secs(5);
/// Time for a connection in use to come back before another is made to be ready.
const PAUSE: Duration = Duration::from_millis(500);
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
    shelves: Arc<Shelves>,
}

/// What the pools of all workers have in common.
#[derive(Default)]
struct Shelves {
    all: Mutex<Vec<Shelf>>,
    /// When a connection was asked for last: boot time in milliseconds, 0 = never.
    used: AtomicU64,
    /// Told when one was asked for or has ended.
    news: Notify,
}

/// Idle connections, the one used last on top.
type Shelf = Arc<Mutex<Vec<Idle>>>;

/// A worker's connections.
pub struct Pool {
    way: Way,
    idle: Shelf,
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
    /// Where it came from: its task runs on that worker.
    idle: Shelf,
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
        Ok(Self { origin, host, uri, connector, tls, outbound, clock, connect_timeout, shelves: Arc::default() })
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
        let proxy = self.outbound.proxy_to(&self.origin.host, self.origin.port).map_err(|error| error.to_string())?;
        let tcp = match proxy {
            None => direct.call(self.uri.clone()).await.map_err(|error| innermost(&error))?,
            Some(proxy) if proxy.is_tls() => return Err("outbound proxy: TLS to it is not there yet".into()),
            Some(proxy) => {
                let uri = format!("http://{}:{}/", proxy.host(), proxy.port());
                let uri = uri.parse().map_err(|_| "outbound proxy: not a host and a port".to_owned())?;
                let mut tunnel = Tunnel::new(uri, direct);
                if let Some(auth) = proxy.authorization() {
                    tunnel = tunnel.with_auth(auth);
                }
                tunnel.call(self.uri.clone()).await.map_err(|error| format!("outbound proxy: {}", innermost(&error)))?
            }
        };
        match &self.tls {
            None => self.handshake(tcp.into_inner()).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp.into_inner()).await;
                self.handshake(stream.map_err(|error| format!("TLS: {}", innermost(&error)))?).await
            }
        }
    }

    async fn handshake(&self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Line, String> {
        let handshake = http1::Builder::new().handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(|error| innermost(&error))?;
        let shelves = self.shelves.clone();
        let driver = tokio::spawn(async move {
            // Its errors reach whoever waits for a response on it.
            let _ = connection.await;
            shelves.news.notify_one();
        });
        Ok(Line { sender, driver: driver.abort_handle() })
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

impl Pool {
    /// An empty pool, which the others may borrow from.
    pub fn new(way: Way) -> Self {
        let idle = Shelf::default();
        lock(&way.shelves.all).push(idle.clone());
        Self { way, idle }
    }

    /// The way it leads.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// An idle connection, if one is worth trying: of this worker, else of another.
    pub fn reuse(&self) -> Option<Connection> {
        let now = self.way.clock.boot();
        self.way.shelves.touch(now);
        let found = take(&self.idle, now).or_else(|| self.way.shelves.borrow(now));
        found.map(|(line, idle)| self.connection(line, idle))
    }

    /// As if a connection had been asked for: one is wanted soon.
    pub fn touch(&self) {
        self.way.shelves.touch(self.way.clock.boot());
    }

    /// Keeps one connection ready for `warm` after each use; never ends.
    pub async fn keep_ready(&self, warm: Duration) {
        let shelves = &self.way.shelves;
        loop {
            let now = self.way.clock.boot();
            let is_empty = shelves.sweep(now);
            if now.saturating_sub(shelves.used.load(Ordering::Relaxed)) > millis(warm) {
                if is_empty {
                    shelves.news.notified().await;
                }
            } else if !shelves.is_ready(now) {
                match self.connect().await {
                    Ok(connection) => connection.give_back(),
                    Err(problem) => debug!(?problem, "no connection is ready"),
                }
            }
            let _ = timeout(LOOK, shelves.news.notified()).await;
            sleep(PAUSE).await;
        }
    }

    /// A new connection.
    ///
    /// # Errors
    /// `upstream_unreachable`.
    pub async fn connect(&self) -> Result<Connection, Problem> {
        Ok(self.connection(self.way.connect().await?, self.idle.clone()))
    }

    fn connection(&self, line: Line, idle: Shelf) -> Connection {
        Connection { line: Some(line), idle, clock: self.way.clock.clone() }
    }
}

impl Shelves {
    /// Notes a use, to the second: all workers share the cache line.
    fn touch(&self, now: u64) {
        if now.saturating_sub(self.used.load(Ordering::Relaxed)) > 1000 {
            self.used.store(now, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    /// A connection of whichever worker has one.
    fn borrow(&self, now: u64) -> Option<(Line, Shelf)> {
        lock(&self.all).iter().find_map(|shelf| take(shelf, now))
    }

    /// True if a connection waits that will be good for a while.
    fn is_ready(&self, now: u64) -> bool {
        let fits = |idle: &Idle| idle.is_usable(now) && now.saturating_sub(idle.since) <= millis(FRESH);
        lock(&self.all).iter().any(|shelf| lock(shelf).iter().any(fits))
    }

    /// Closes what nobody will use any more; true if nothing is left.
    fn sweep(&self, now: u64) -> bool {
        lock(&self.all).iter().fold(true, |is_empty, shelf| {
            let mut idle = lock(shelf);
            idle.retain(|idle| idle.is_usable(now));
            is_empty && idle.is_empty()
        })
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

impl Idle {
    fn is_usable(&self, now: u64) -> bool {
        now.saturating_sub(self.since) <= millis(IDLE) && !self.line.sender.is_closed()
    }
}

/// The connection that was used last, if it is worth trying, and the shelf it belongs on.
fn take(shelf: &Shelf, now: u64) -> Option<(Line, Shelf)> {
    let mut idle = lock(shelf);
    std::iter::from_fn(|| idle.pop()).find(|idle| idle.is_usable(now)).map(|idle| (idle.line, shelf.clone()))
}

impl Connection {
    /// Sends a request and waits for its response head.
    ///
    /// # Errors
    /// [`SendError`] tells whether any of it was written.
    pub fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + use<> {
        // At once, not when it is awaited: a request is large, and each move copies it.
        let sent = self.line.as_mut().map(|line| line.sender.try_send_request(request));
        async {
            match sent {
                Some(sent) => sent.await.map_err(SendError::from),
                None => Err(SendError::Unsent),
            }
        }
    }

    /// Lets the next request use it.
    pub fn give_back(mut self) {
        let Some(line) = self.line.take_if(|line| !line.sender.is_closed()) else { return };
        let now = self.clock.boot();
        let mut idle = lock(&self.idle);
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

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound;

    async fn way() -> (tokio::net::TcpListener, Way) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let settings = Settings {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            idle_timeout: None,
            replay_limit: 0,
        };
        let outbound = Outbound::new(&outbound::Settings { plain_only: true, ..Default::default() }).unwrap();
        let way = Way::new(origin, outbound, &settings, Clock::system()).unwrap();
        (listener, way)
    }

    #[tokio::test]
    async fn a_worker_borrows_what_another_does_not_need() {
        let (_listener, way) = way().await;
        let (one, other) = (Pool::new(way.clone()), Pool::new(way));
        assert!(one.reuse().is_none() && other.reuse().is_none());
        one.connect().await.unwrap().give_back();
        let borrowed = other.reuse().unwrap();
        assert!(one.reuse().is_none(), "it is in use");
        borrowed.give_back();
        assert!(one.idle.lock().unwrap().len() == 1 && other.idle.lock().unwrap().is_empty(), "it went home");
    }
}
