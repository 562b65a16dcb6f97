//! Connections at rest: one shelf for each worker, most recently used first. A worker that has none
//! borrows another's, and one is kept ready while requests come: few of them ever wait for a
//! handshake.

use parking_lot::{Mutex, MutexGuard};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::socket::Signals;
use super::{SendError, Way};
use crate::clock::{Clock, millis};
use crate::proxy::body::Outgoing;
use crate::proxy::reply::Problem;

/// Connections idle for longer are not used again: shorter than what load balancers commonly allow
/// (60 s).
const IDLE: u64 = 45_000;
/// One that will not be good for that much longer is replaced before it is needed.
const AHEAD: u64 = 10_000;
/// No connection is older, however busy: an address that has moved is noticed within about a
/// minute.
const OLDEST: u64 = 60_000;
/// Up to that much is added, so that those which were made together do not end together.
const SPREAD: u64 = 15_000;
/// A server that keeps connections for less than that gets none kept ready: it would be a new one
/// every few seconds.
const WORTH_KEEPING: u64 = 10_000;
/// Clocks that drift apart by more between two looks: the machine slept.
const SLEPT: u64 = 1000;
/// How often it is looked whether a connection is ready, beside after each use and each end of one.
const LOOK: Duration = Duration::from_secs(5);
/// Time for a connection in use to come back before another is made to be ready.
const PAUSE: Duration = Duration::from_millis(500);
/// Idle connections that a worker keeps.
const MOST_IDLE: usize = 512;

/// How long a server keeps a connection that rests (RFC 2068 section 19.7.1; common, never
/// standardised again).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What the pools of all workers have in common.
pub(super) struct Shelves {
    all: Mutex<Vec<Shelf>>,
    clock: Clock,
    /// When a connection was asked for last: boot time in milliseconds, 0 = never.
    used: AtomicU64,
    /// What rested before this boot time is not used again.
    fresh_since: AtomicU64,
    /// How far the boot clock, which counts sleep, is ahead of the one that does not, in
    /// milliseconds.
    ahead: AtomicU64,
    /// The start of the clock that does not count sleep.
    start: Instant,
    /// Counts connections, to spread their ends.
    made: AtomicU32,
    /// The server says that it keeps connections for moments only.
    is_brief: AtomicBool,
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
    /// It is not used after this boot time.
    until: u64,
}

/// Both ends of a connection: where requests go in, and the task that moves its bytes.
pub(super) struct Line {
    pub(super) sender: SendRequest<Outgoing>,
    pub(super) driver: AbortHandle,
    pub(super) signals: Arc<Signals>,
    /// Boot time in milliseconds at which it is too old.
    pub(super) end: u64,
}

/// A connection in use; given back when the response body has ended, else torn down, whatever its
/// task waits for.
pub struct Connection {
    /// None once it was given back.
    line: Option<Line>,
    /// Where it came from: its task runs on that worker.
    idle: Shelf,
    shelves: Arc<Shelves>,
    /// How long it may rest, in milliseconds.
    rest: u64,
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
        let shelves = &self.way.shelves;
        let now = shelves.clock.boot();
        shelves.touch(now);
        let found = shelves.take(&self.idle, now).or_else(|| shelves.borrow(now));
        found.map(|(line, idle)| self.connection(line, idle))
    }

    /// As if a connection had been asked for: one is wanted soon.
    pub fn touch(&self) {
        self.way.shelves.touch(self.way.shelves.clock.boot());
    }

    /// Keeps one connection ready for `warm` after each use; never ends.
    pub async fn keep_ready(&self, warm: Duration) {
        let shelves = &self.way.shelves;
        loop {
            let now = shelves.clock.boot();
            shelves.notice_sleep(now);
            let is_empty = shelves.sweep(now);
            if now.saturating_sub(shelves.used.load(Ordering::Relaxed)) > millis(warm) {
                if is_empty {
                    shelves.news.notified().await;
                }
            } else if !shelves.is_brief.load(Ordering::Relaxed) && !shelves.is_ready(now) {
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
        Connection { line: Some(line), idle, shelves: self.way.shelves.clone(), rest: IDLE }
    }
}

impl Shelves {
    pub(super) fn new(clock: Clock) -> Self {
        let (start, now) = (Instant::now(), clock.boot());
        Self {
            all: Mutex::default(),
            clock,
            used: AtomicU64::new(0),
            fresh_since: AtomicU64::new(0),
            ahead: AtomicU64::new(now),
            start,
            made: AtomicU32::new(0),
            is_brief: AtomicBool::new(false),
            news: Notify::new(),
        }
    }

    /// The boot time in milliseconds at which a connection that is made now is too old.
    pub(super) fn end_of_new(&self) -> u64 {
        // Steps of the golden section spread any number of them evenly.
        let turn = u64::from(self.made.fetch_add(1, Ordering::Relaxed).wrapping_mul(2_654_435_769));
        self.clock.boot() + OLDEST + ((SPREAD * turn) >> 32)
    }

    /// A connection has ended; if nobody answered on it any more, the others are no better.
    pub(super) fn ended(&self, went_silent: bool) {
        if went_silent {
            self.distrust(self.clock.boot());
        }
        self.news.notify_one();
    }

    /// Written only if it is new: all workers share the cache line.
    fn note_brief(&self, is_brief: bool) {
        if self.is_brief.load(Ordering::Relaxed) != is_brief {
            self.is_brief.store(is_brief, Ordering::Relaxed);
        }
    }

    /// Nothing that rests now is used again.
    fn distrust(&self, now: u64) {
        self.fresh_since.fetch_max(now + 1, Ordering::Relaxed);
    }

    /// Notes a use, to the second: all workers share the cache line.
    fn touch(&self, now: u64) {
        if now.saturating_sub(self.used.load(Ordering::Relaxed)) > SLEPT {
            // Before the use is noted: who comes by then does not look at the clocks.
            self.notice_sleep(now);
            self.used.store(now, Ordering::Relaxed);
            self.news.notify_one();
        }
    }

    /// The boot clock goes on while the machine sleeps, and the servers' idle limits with it.
    fn notice_sleep(&self, now: u64) {
        let ahead = now.saturating_sub(millis(self.start.elapsed()));
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        if ahead.abs_diff(before) > SLEPT {
            debug!("the machine slept: connections at rest are not used again");
            self.distrust(now);
        }
    }

    /// The connection on a shelf that was used last, if it is worth trying.
    fn take(&self, shelf: &Shelf, now: u64) -> Option<(Line, Shelf)> {
        let mut idle = lock(shelf);
        let found = std::iter::from_fn(|| idle.pop()).find(|idle| self.is_usable(idle, now));
        found.map(|idle| (idle.line, shelf.clone()))
    }

    fn is_usable(&self, idle: &Idle, now: u64) -> bool {
        now <= idle.until
            && idle.since >= self.fresh_since.load(Ordering::Relaxed)
            && !idle.line.sender.is_closed()
    }

    /// A connection of whichever worker has one.
    fn borrow(&self, now: u64) -> Option<(Line, Shelf)> {
        lock(&self.all).iter().find_map(|shelf| self.take(shelf, now))
    }

    /// True if a connection waits that will be good for a while.
    fn is_ready(&self, now: u64) -> bool {
        let fits = |idle: &Idle| self.is_usable(idle, now + AHEAD);
        lock(&self.all).iter().any(|shelf| lock(shelf).iter().any(fits))
    }

    /// Closes what nobody will use any more; true if nothing is left.
    fn sweep(&self, now: u64) -> bool {
        lock(&self.all).iter().fold(true, |is_empty, shelf| {
            let mut idle = lock(shelf);
            idle.retain(|idle| self.is_usable(idle, now));
            is_empty && idle.is_empty()
        })
    }
}

impl Connection {
    /// Sends a request and waits for its response head.
    ///
    /// # Errors
    /// [`SendError`] tells whether any of it was written.
    pub fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> {
        if let Some(line) = &self.line {
            line.signals.await_head(true);
        }
        // At once, not when it is awaited: a request is large, and each move copies it.
        let sent = self.line.as_mut().map(|line| line.sender.try_send_request(request));
        async {
            let Some(sent) = sent else { return Err(SendError::Unsent) };
            let response = sent.await?;
            if let Some(line) = &self.line {
                line.signals.await_head(false);
            }
            if let Some(rest) = kept_for(response.headers()) {
                self.rest = rest.min(IDLE);
                self.shelves.note_brief(rest < WORTH_KEEPING);
            }
            Ok(response)
        }
    }

    /// Lets the next request use it.
    pub fn give_back(mut self) {
        let is_fit = |line: &mut Line| !line.sender.is_closed() && !line.signals.is_lost();
        let Some(line) = self.line.take_if(is_fit) else { return };
        let now = self.shelves.clock.boot();
        let until = line.end.min(now + self.rest);
        if now >= until {
            // Dropping the line closes it.
            return;
        }
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(Idle { line, since: now, until });
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

/// How long a server says that it keeps a connection at rest, less a margin for what is on its way,
/// in milliseconds.
fn kept_for(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let parameter = |wanted: &str| {
        let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        found.next().and_then(|(_, value)| value.trim().trim_matches('"').parse::<u64>().ok())
    };
    if parameter("max") == Some(0) {
        return Some(0);
    }
    let kept = parameter("timeout")?.saturating_mul(1000);
    Some(kept - (kept / 2).min(1000))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::Settings;
    use super::*;
    use crate::clock::Now;
    use crate::oauth::endpoint::Origin;
    use crate::outbound::{self, Outbound};

    /// Somebody who accepts, a way there, and the boot clock.
    async fn way() -> (TcpListener, Way, Clock) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Origin::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let settings = Settings {
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            idle_timeout: None,
            replay_limit: 0,
        };
        let outbound =
            Outbound::new(&outbound::Settings { plain_only: true, ..Default::default() }).unwrap();
        let clock = Clock::manual(Now { wall: 0, boot: 1_000_000 });
        let way = Way::new(origin, &outbound, &settings, clock.clone()).unwrap();
        (listener, way, clock)
    }

    /// Moves the boot clock as if the machine had been awake.
    fn pass(way: &Way, clock: &Clock, millis: u64) {
        let boot = clock.boot() + millis;
        clock.set(Now { wall: 0, boot });
        way.shelves.ahead.fetch_add(millis, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn a_worker_borrows_what_another_does_not_need() {
        let (_listener, way, _) = way().await;
        let (one, other) = (Pool::new(way.clone()), Pool::new(way));
        assert!(one.reuse().is_none() && other.reuse().is_none());
        one.connect().await.unwrap().give_back();
        let borrowed = other.reuse().unwrap();
        assert!(one.reuse().is_none(), "it is in use");
        borrowed.give_back();
        assert!(one.idle.lock().len() == 1 && other.idle.lock().is_empty(), "it went home");
    }

    #[tokio::test]
    async fn a_connection_in_constant_use_ends_with_its_age() {
        let (_listener, way, clock) = way().await;
        let pool = Pool::new(way.clone());
        pool.connect().await.unwrap().give_back();
        for _ in 0..12 {
            pool.reuse().expect("it is younger than a minute").give_back();
            pass(&way, &clock, 5000);
        }
        pass(&way, &clock, SPREAD);
        assert!(pool.reuse().is_none(), "too old at rest");
        let connection = pool.connect().await.unwrap();
        pass(&way, &clock, OLDEST + SPREAD);
        connection.give_back();
        assert!(pool.idle.lock().is_empty(), "too old in use");
    }

    #[tokio::test]
    async fn a_machine_that_slept_trusts_nothing_that_rested() {
        let (_listener, way, clock) = way().await;
        let pool = Pool::new(way.clone());
        let (rested, used) = (pool.connect().await.unwrap(), pool.connect().await.unwrap());
        rested.give_back();
        pass(&way, &clock, 4000);
        pool.reuse().expect("awake for four seconds").give_back();
        clock.set(Now { wall: 0, boot: clock.boot() + 4000 });
        assert!(pool.reuse().is_none(), "asleep for four seconds");
        pass(&way, &clock, 10);
        used.give_back();
        assert!(pool.reuse().is_some(), "this one was in use, and works");
    }

    #[tokio::test]
    async fn when_one_goes_silent_the_others_are_not_trusted_either() {
        let (_listener, way, clock) = way().await;
        let pool = Pool::new(way.clone());
        pool.connect().await.unwrap().give_back();
        way.shelves.ended(false);
        pool.reuse().expect("an end is no alarm").give_back();
        way.shelves.ended(true);
        assert!(pool.reuse().is_none());
        pass(&way, &clock, 10);
        pool.connect().await.unwrap().give_back();
        assert!(pool.reuse().is_some(), "new ones are");
    }

    #[test]
    fn a_servers_hint_is_obeyed_with_a_margin() {
        for (value, rest) in [
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
            assert_eq!(kept_for(&headers), rest, "{value}");
        }
        assert_eq!(kept_for(&HeaderMap::new()), None);
    }
}
