//! Connections to the API, in use or idle, and the lists of idle ones that all workers share.

use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::debug;

use super::failure::SendError;
use super::socket::Signals;
use crate::clock::{Clock, millis};
use crate::proxy::replay::OutgoingBody;

// Times in milliseconds.
/// Connections that are idle for longer are not reused: less than load balancers commonly allow
/// (60 s).
const MAX_IDLE: u64 = 45_000;
/// A connection that expires sooner than this is replaced before it is needed.
const READY_MARGIN: u64 = 10_000;
/// No connection is used for longer, however busy: so a moved address is noticed within about a
/// minute.
pub(super) const MAX_AGE: u64 = 60_000;
/// Up to this is added to the age, so that connections made together do not expire together.
pub(super) const MAX_AGE_SPREAD: u64 = 15_000;
/// No connection is kept ready to a server that keeps them for less: it would be a new one every
/// few seconds.
const MIN_KEEP_ALIVE: u64 = 10_000;
/// If the clocks with and without sleep drift apart by more between two readings, the machine
/// slept.
const CLOCK_JUMP: u64 = 1000;
/// Idle connections of a worker, at most.
const MAX_IDLE_PER_WORKER: usize = 512;

/// How long a server keeps an idle connection (RFC 2068 section 19.7.1; common, never standardised
/// again).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What the pools of all workers share.
pub(super) struct SharedPool {
    pub(super) workers: Mutex<Vec<IdleConnections>>,
    pub(super) clock: Clock,
    /// When a connection was last asked for: boot time in milliseconds, 0 = never.
    pub(super) used: AtomicU64,
    /// Connections that became idle before this boot time are not reused.
    valid_since: AtomicU64,
    /// How far the boot clock, which counts sleep, is ahead of the one that does not, in
    /// milliseconds.
    pub(super) ahead: AtomicU64,
    /// The start of the clock that does not count sleep.
    start: Instant,
    /// Connections made so far, to spread their expiry.
    made: AtomicU32,
    /// The server says that it keeps idle connections for a short time only.
    pub(super) is_keep_alive_short: AtomicBool,
    /// Notified when a connection was asked for or has closed.
    pub(super) changed: Notify,
}

/// The idle connections of a worker, the most recently used last.
pub(super) type IdleConnections = Arc<Mutex<Vec<Idle>>>;

pub(super) struct Idle {
    http1: Http1Connection,
    /// When it became idle, in boot time: connections of a machine that slept are stale.
    since: u64,
    /// When it expires, in boot time.
    until: u64,
}

/// The two halves of a connection: hyper's sender of requests, and the task that moves the bytes.
pub(super) struct Http1Connection {
    pub(super) sender: SendRequest<OutgoingBody>,
    pub(super) driver: AbortHandle,
    pub(super) signals: Arc<Signals>,
    /// When it is too old, in boot time.
    pub(super) expires: u64,
}

/// A connection in use. It is released when the response body has ended, or closed when dropped,
/// whatever its task is waiting for.
pub struct Connection {
    /// None once it was released.
    http1: Option<Http1Connection>,
    /// Where it came from: its task runs on that worker.
    home: IdleConnections,
    shared: Arc<SharedPool>,
    /// How long it may be idle, in milliseconds.
    max_idle: u64,
}

impl SharedPool {
    pub(super) fn new(clock: Clock) -> Self {
        let (start, now) = (Instant::now(), clock.boot());
        Self {
            workers: Mutex::default(),
            clock,
            used: AtomicU64::new(0),
            valid_since: AtomicU64::new(0),
            ahead: AtomicU64::new(now),
            start,
            made: AtomicU32::new(0),
            is_keep_alive_short: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// When a connection that is made now expires, in boot time.
    pub(super) fn next_expiry(&self) -> u64 {
        // Steps of the golden section spread any number of them evenly.
        let turn = u64::from(self.made.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_769));
        self.clock.boot() + MAX_AGE + ((MAX_AGE_SPREAD * turn) >> 32)
    }

    /// A connection has closed. If the other end went silent, the idle ones are no better.
    pub(super) fn closed(&self, timed_out: bool) {
        if timed_out {
            self.invalidate_idle(self.clock.boot());
        }
        self.changed.notify_one();
    }

    /// Stores only a change: all workers share the cache line.
    fn set_keep_alive_short(&self, is_short: bool) {
        if self.is_keep_alive_short.load(Ordering::Relaxed) != is_short {
            self.is_keep_alive_short.store(is_short, Ordering::Relaxed);
        }
    }

    /// Connections that are idle now are not reused.
    fn invalidate_idle(&self, now: u64) {
        self.valid_since.fetch_max(now + 1, Ordering::Relaxed);
    }

    /// Notes a use, once a second: all workers share the cache line.
    pub(super) fn mark_used(&self, now: u64) {
        if now.saturating_sub(self.used.load(Ordering::Relaxed)) > CLOCK_JUMP {
            // Before the use is noted: later callers do not check the clocks.
            self.notice_sleep(now);
            self.used.store(now, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }

    /// Invalidates idle connections if the machine slept: the servers' timeouts went on meanwhile.
    pub(super) fn notice_sleep(&self, now: u64) {
        let ahead = now.saturating_sub(millis(self.start.elapsed()));
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        if ahead.abs_diff(before) > CLOCK_JUMP {
            debug!("the machine slept: idle connections are not reused");
            self.invalidate_idle(now);
        }
    }

    /// The most recently used connection of a worker, if it is worth trying.
    pub(super) fn take(
        &self,
        worker: &IdleConnections,
        now: u64,
    ) -> Option<(Http1Connection, IdleConnections)> {
        let mut idle = worker.lock();
        let found = std::iter::from_fn(|| idle.pop()).find(|idle| self.is_usable(idle, now));
        found.map(|idle| (idle.http1, worker.clone()))
    }

    fn is_usable(&self, idle: &Idle, now: u64) -> bool {
        now <= idle.until
            && idle.since >= self.valid_since.load(Ordering::Relaxed)
            && !idle.http1.sender.is_closed()
    }

    /// A connection of any worker.
    pub(super) fn take_any(&self, now: u64) -> Option<(Http1Connection, IdleConnections)> {
        self.workers.lock().iter().find_map(|worker| self.take(worker, now))
    }

    /// True if there is an idle connection that does not expire soon.
    pub(super) fn is_ready(&self, now: u64) -> bool {
        let fits = |idle: &Idle| self.is_usable(idle, now + READY_MARGIN);
        self.workers.lock().iter().any(|worker| worker.lock().iter().any(fits))
    }

    /// Closes connections that are not worth trying; true if none is left.
    pub(super) fn remove_expired(&self, now: u64) -> bool {
        self.workers.lock().iter().fold(true, |is_empty, worker| {
            let mut idle = worker.lock();
            idle.retain(|idle| self.is_usable(idle, now));
            is_empty && idle.is_empty()
        })
    }
}

impl Connection {
    /// A connection that goes back to `home`.
    pub(super) fn new(
        http1: Http1Connection,
        home: IdleConnections,
        shared: Arc<SharedPool>,
    ) -> Self {
        Self { http1: Some(http1), home, shared, max_idle: MAX_IDLE }
    }

    /// Sends a request and waits for its response head.
    ///
    /// # Errors
    /// [`SendError`] tells whether any of it was written.
    pub fn send(
        &mut self,
        request: Request<OutgoingBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> {
        if let Some(http1) = &self.http1 {
            http1.signals.await_head(true);
        }
        // At once, not when it is awaited: a request is large, and each move copies it.
        let sent = self.http1.as_mut().map(|http1| http1.sender.try_send_request(request));
        async {
            let Some(sent) = sent else { return Err(SendError::Unsent) };
            let response = sent.await?;
            if let Some(http1) = &self.http1 {
                http1.signals.await_head(false);
            }
            if let Some(keep_alive) = keep_alive_timeout(response.headers()) {
                self.max_idle = keep_alive.min(MAX_IDLE);
                self.shared.set_keep_alive_short(keep_alive < MIN_KEEP_ALIVE);
            }
            Ok(response)
        }
    }

    /// Reads from the body of its response. hyper would wake the connection's task for each piece
    /// that is taken, also for the last one, when that has nothing left to do.
    pub fn read_body<T>(&self, read: impl FnOnce() -> T) -> T {
        match &self.http1 {
            Some(http1) if http1.sender.is_ready() => http1.signals.let_sleep(read),
            _ => read(),
        }
    }

    /// Returns it to the pool for the next request.
    pub fn release(mut self) {
        let is_usable =
            |http1: &mut Http1Connection| !http1.sender.is_closed() && !http1.signals.is_lost();
        let Some(http1) = self.http1.take_if(is_usable) else { return };
        let now = self.shared.clock.boot();
        let until = http1.expires.min(now + self.max_idle);
        if now >= until {
            // Dropping the sender closes it.
            return;
        }
        let mut idle = self.home.lock();
        if idle.len() < MAX_IDLE_PER_WORKER {
            idle.push(Idle { http1, since: now, until });
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(http1) = &self.http1 {
            // A task that waits for the API to accept bytes would hold on to the caller's body.
            http1.driver.abort();
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

/// How long a server says that it keeps an idle connection, less a margin for a request that is on
/// its way, in milliseconds.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let parameter = |wanted: &str| {
        let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        found.next().and_then(|(_, value)| value.trim().trim_matches('"').parse::<u64>().ok())
    };
    if parameter("max") == Some(0) {
        return Some(0);
    }
    let timeout = parameter("timeout")?.saturating_mul(1000);
    Some(timeout - (timeout / 2).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keep_alive_of_a_server_is_obeyed_with_a_margin() {
        for (value, timeout) in [
            ("timeout=5", Some(4000)),
            ("timeout=5, max=100", Some(4000)),
            ("max=3,Timeout = 30", Some(29_000)),
            ("timeout=\"7\"", Some(6000)),
            ("timeout=1", Some(500)),
            ("timeout=0", Some(0)),
            ("timeout=5, max=0", Some(0)),
            ("timeout=99999999999999999999", None),
            ("timeout=x", None),
            ("max=7", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(KEEP_ALIVE, value.parse().unwrap())]);
            assert_eq!(keep_alive_timeout(&headers), timeout, "{value}");
        }
        assert_eq!(keep_alive_timeout(&HeaderMap::new()), None);
    }
}
