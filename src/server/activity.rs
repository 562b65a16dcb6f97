//! What a connection is doing, seen by all who have to do with it: the wire, hyper's service, the
//! clocks and the room.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http::header::{CONNECTION, HeaderValue};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::proxy::upload::Leftover;

/// Time for a request head from its first byte.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// Time a connection may rest between requests.
const REST: Duration = Duration::from_secs(75);
/// Time for what is left of a body whose request was answered.
pub(super) const LEFT: Duration = Duration::from_secs(2);
/// Largest rest of a body that is waited for, so that the connection can go on: 1 MiB.
const LARGEST_REST: u64 = 1024 * 1024;
/// Largest request head, in bytes.
pub(super) const LARGEST_HEAD: usize = 64 * 1024;

/// What a connection is doing, and since when it rests, its head began or the rest of a body is
/// waited for.
#[derive(Debug)]
pub(super) struct Activity {
    word: AtomicU64,
    /// Since when the caller takes no bytes: milliseconds since `start` plus one; 0 = it does.
    stalled: AtomicU64,
    /// How long that may last; none = for ever.
    patience: Option<Duration>,
    /// The request line that came last holds a `#`, which hyper would cut off silently.
    fragment: AtomicBool,
    /// How many bytes of the request's body have not come yet; the largest number if nobody knows.
    to_come: AtomicU64,
    /// The body of the request under way.
    pub(super) leftover: Arc<Leftover>,
    /// A tunnel was granted, and the answer that says so is on its way.
    granted: AtomicBool,
    /// What comes now comes through a tunnel.
    tunnelled: AtomicBool,
    /// The answer under way has no end but that of the connection, and is not out whole: an orderly
    /// close would pass a part of it off as the whole.
    unframed: AtomicBool,
    /// The answer says that the connection ends with it.
    closing: AtomicBool,
    /// Tells the connection to end to make room.
    pub(super) evicted: Notify,
    start: Instant,
}

/// The phases of a connection, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Resting,
    Head,
    Serving,
    /// The answer is complete, and hyper still writes it.
    Sent,
    /// The answer is out; the rest of the request's body is still coming.
    Draining,
    /// Our side has ended; what comes is thrown away.
    Lingering,
}

impl Activity {
    pub(super) fn new(start: Instant, patience: Option<Duration>) -> Arc<Self> {
        let activity = Self {
            word: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            patience,
            fragment: AtomicBool::new(false),
            to_come: AtomicU64::new(0),
            leftover: Arc::default(),
            granted: AtomicBool::new(false),
            tunnelled: AtomicBool::new(false),
            unframed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            evicted: Notify::new(),
            start,
        };
        activity.set(Doing::Resting);
        Arc::new(activity)
    }

    /// Milliseconds since the server's start at which it came to rest or its head began; none if it
    /// is at work. A head that trickles in makes room like silence: else slow callers could keep
    /// everybody else out. So does a body that nobody wants any more.
    pub(super) fn resting_since(&self) -> Option<u64> {
        let (doing, since) = self.get();
        (!matches!(doing, Doing::Serving | Doing::Sent)).then_some(since)
    }

    pub(super) fn evict(&self) {
        self.evicted.notify_one();
    }

    /// The request line that came last holds a fragment; told once.
    pub(super) fn take_fragment(&self) -> bool {
        self.fragment.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set(&self, doing: Doing) {
        // Since when it is at work, nobody asks.
        let since = if matches!(doing, Doing::Serving | Doing::Sent) { 0 } else { self.elapsed() };
        self.word.store(since << 3 | doing as u64, Ordering::Relaxed);
    }

    pub(super) fn grant_tunnel(&self) {
        self.granted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_granting(&self) -> bool {
        self.granted.load(Ordering::Relaxed)
    }

    /// True if a tunnel was granted, which begins with this.
    pub(super) fn enter_tunnel(&self) -> bool {
        let is_granted = self.granted.swap(false, Ordering::Relaxed);
        self.tunnelled.fetch_or(is_granted, Ordering::Relaxed);
        is_granted
    }

    pub(super) fn is_tunnelled(&self) -> bool {
        self.tunnelled.load(Ordering::Relaxed)
    }

    pub(super) fn begin_unframed(&self) {
        self.unframed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_unframed(&self) -> bool {
        self.unframed.load(Ordering::Relaxed)
    }

    /// Milliseconds since `start`.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 4)
    }

    fn get(&self) -> (Doing, u64) {
        let word = self.word.load(Ordering::Relaxed);
        let doing = match word & 7 {
            0 => Doing::Resting,
            1 => Doing::Head,
            2 => Doing::Serving,
            3 => Doing::Sent,
            4 => Doing::Draining,
            _ => Doing::Lingering,
        };
        (doing, word >> 3)
    }

    pub(super) fn doing(&self) -> Doing {
        self.get().0
    }

    /// The request line that comes next holds a fragment, or does not.
    pub(super) fn set_fragment(&self, fragment: bool) {
        self.fragment.store(fragment, Ordering::Relaxed);
    }

    pub(super) fn set_to_come(&self, bytes: u64) {
        self.to_come.store(bytes, Ordering::Relaxed);
    }

    /// The caller takes no bytes at present.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != 0
    }

    /// Notes whether a write had to wait. True if the caller takes bytes again.
    pub(super) fn wrote(&self, is_pending: bool) -> bool {
        let is_stalled = self.is_stalled();
        if is_stalled != is_pending {
            self.stalled.store(if is_pending { self.elapsed() + 1 } else { 0 }, Ordering::Relaxed);
        }
        is_stalled && !is_pending
    }

    /// What was written is out. True if an answer ended with it.
    pub(super) fn flushed(&self) -> bool {
        let is_end = self.doing() == Doing::Sent;
        if is_end {
            self.unframed.store(false, Ordering::Relaxed);
            let is_open = self.leftover.is_open() && self.leftover.await_end();
            self.set(if is_open { Doing::Draining } else { Doing::Resting });
        }
        is_end
    }

    /// When it has lasted long enough; while a request is served its own limits count, and the
    /// caller's patience to read.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let (doing, since) = self.get();
        let at = |since| self.start + Duration::from_millis(since);
        match (doing, self.stalled.load(Ordering::Relaxed)) {
            (Doing::Resting, _) => Some(at(since) + REST),
            (Doing::Head, _) => Some(at(since) + HEAD),
            (Doing::Draining | Doing::Lingering, _) => Some(at(since) + LEFT),
            (Doing::Serving | Doing::Sent, 0) => None,
            (Doing::Serving | Doing::Sent, stalled) => {
                self.patience.map(|patience| at(stalled) + patience)
            }
        }
    }

    /// Says in the head of an answer that the connection ends with it, if the rest of the request's
    /// body is not known to be small. Who asked by `Expect` and was told nothing may leave the body
    /// out: what follows is not clear then.
    pub(super) fn announce<B>(&self, answer: &mut Response<B>, expects: bool) {
        let is_open = self.leftover.is_open();
        let is_small = self.to_come.load(Ordering::Relaxed) <= LARGEST_REST;
        if is_open && !(is_small && (!expects || self.leftover.is_begun())) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.closing.store(is_open && answer.headers().contains_key(CONNECTION), Ordering::Relaxed);
    }

    /// Reads and throws away what is left of the body. True if the connection may go on with it.
    pub(super) fn poll_rest(&self, left: &mut Option<Incoming>, cx: &mut Context<'_>) -> bool {
        if left.is_none() {
            *left = self.leftover.take();
        }
        let (doing, is_closing) = (self.doing(), self.closing.load(Ordering::Relaxed));
        if let Some(body) = left {
            if is_closing && doing == Doing::Draining {
                // hyper reads on as long as somebody wants it to, and ends when nobody does.
                *left = None;
                return false;
            }
            loop {
                match Pin::new(&mut *body).poll_frame(cx) {
                    // hyper may hold the end back until the next request.
                    Poll::Ready(Some(Ok(_))) if !body.is_end_stream() => {}
                    Poll::Ready(_) => break,
                    Poll::Pending => return false,
                }
            }
            *left = None;
            self.leftover.end();
        }
        let goes_on = doing == Doing::Draining && !self.leftover.is_open();
        if goes_on {
            self.set(Doing::Resting);
        }
        goes_on
    }
}
