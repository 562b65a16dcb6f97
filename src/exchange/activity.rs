//! What one client connection is doing. Shared by everything that serves it: the socket's reader
//! and writer, hyper's service, the timeouts and the connection limiter.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http::header::{CONNECTION, HeaderValue};
use http_body::Body as _;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::caller::{Caller, Client};
use super::incoming_body::UnreadBody;
use super::recorder::Recorder;
use crate::lazy_timer::LazyTimer;

/// Time for a request head, from its first byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a connection may be idle between requests.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time for reading on after the response: the rest of a request body, then until the caller
/// closes.
pub const LINGER: Duration = Duration::from_secs(2);
/// Largest rest of a request body that is read and discarded to keep the connection: 1 MiB.
const MAX_DISCARDED: u64 = 1024 * 1024;

/// The state of one client connection.
#[derive(Debug)]
pub struct Activity {
    /// Who is at the other end.
    pub client: Arc<Client>,
    /// Where its exchanges are noted; unset on the admin listener, whose requests are not.
    recorder: OnceLock<Arc<Recorder>>,
    /// The phase in the lowest three bits; above them since when, in milliseconds since `start`.
    state: AtomicU64,
    /// Since when the caller accepts no bytes, in milliseconds since `start` plus one; 0 = it does.
    stalled_since: AtomicU64,
    /// How long a caller may accept no bytes; none = no limit.
    stall_limit: Option<Duration>,
    /// The latest request line holds a `#`, which hyper would cut off silently.
    has_fragment: AtomicBool,
    /// Bytes of the request body that have not arrived yet; `u64::MAX` if unknown.
    remaining: AtomicU64,
    /// The body of the current request.
    pub unread_body: Arc<UnreadBody>,
    /// A tunnel was granted, and the response that says so is being written.
    is_granting_tunnel: AtomicBool,
    /// The requests come through a tunnel.
    is_tunnelled: AtomicBool,
    /// The end of the response is the end of the connection, and it is not written whole yet: an
    /// orderly close would make a part of it look complete.
    is_unframed: AtomicBool,
    /// The response says that the connection closes.
    is_closing: AtomicBool,
    /// A complete request has arrived on it at least once.
    has_requested: AtomicBool,
    /// Tells the connection to close to make room for others.
    pub evicted: Notify,
    /// The alarm of the last request, for the next one.
    alarm: Mutex<Option<LazyTimer>>,
    start: Instant,
}

/// The phases of a connection, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// A request head has begun to arrive.
    ReadingHead,
    /// A request is being answered.
    Serving,
    /// The response is complete, and hyper is writing it.
    Flushing,
    /// The response is written; the rest of the request body is read and discarded.
    DiscardingBody,
    /// Our side is closed; whatever arrives is discarded until the caller closes too.
    Lingering,
}

impl Activity {
    /// A new connection of a listener that has been running since `start`.
    pub fn new(caller: Caller, start: Instant, stall_limit: Option<Duration>) -> Arc<Self> {
        let activity = Self {
            client: Arc::new(Client::new(caller)),
            recorder: OnceLock::new(),
            state: AtomicU64::new(0),
            stalled_since: AtomicU64::new(0),
            stall_limit,
            has_fragment: AtomicBool::new(false),
            remaining: AtomicU64::new(0),
            unread_body: Arc::default(),
            is_granting_tunnel: AtomicBool::new(false),
            is_tunnelled: AtomicBool::new(false),
            is_unframed: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            has_requested: AtomicBool::new(false),
            evicted: Notify::new(),
            alarm: Mutex::default(),
            start,
        };
        activity.enter(Phase::Idle);
        Arc::new(activity)
    }

    /// Notes its exchanges there from now on.
    pub fn record_with(&self, recorder: &Arc<Recorder>) {
        if self.recorder.set(recorder.clone()).is_ok() {
            recorder.identify(&self.client);
        }
    }

    pub(super) fn recorder(&self) -> Option<&Recorder> {
        self.recorder.get().map(Arc::as_ref)
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        self.state().0
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        // Nobody needs to know how long a request has been served.
        let is_busy = matches!(phase, Phase::Serving | Phase::Flushing);
        let since = if is_busy { 0 } else { self.elapsed() };
        self.state.store(since << 3 | phase as u64, Ordering::Relaxed);
    }

    fn state(&self) -> (Phase, u64) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 7 {
            0 => Phase::Idle,
            1 => Phase::ReadingHead,
            2 => Phase::Serving,
            3 => Phase::Flushing,
            4 => Phase::DiscardingBody,
            _ => Phase::Lingering,
        };
        (phase, state >> 3)
    }

    /// Milliseconds since `start`.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 4)
    }

    /// Since when it could be closed without losing a response, in milliseconds since the server's
    /// start; none while a request is served. A head that arrives slowly counts from its first
    /// byte: else slow callers could occupy every slot. So does a body that nobody needs any more.
    pub fn evictable_since(&self) -> Option<u64> {
        let (phase, since) = self.state();
        (!matches!(phase, Phase::Serving | Phase::Flushing)).then_some(since)
    }

    /// Tells the connection to close to make room for others.
    pub fn evict(&self) {
        self.evicted.notify_one();
    }

    /// A complete request has arrived.
    pub fn mark_requested(&self) {
        self.has_requested.store(true, Ordering::Relaxed);
    }

    /// True if at least one complete request has arrived.
    pub fn has_requested(&self) -> bool {
        self.has_requested.load(Ordering::Relaxed)
    }

    /// Notes whether the request line that has just arrived holds a fragment.
    pub fn set_fragment(&self, has_fragment: bool) {
        self.has_fragment.store(has_fragment, Ordering::Relaxed);
    }

    /// True once if the latest request line holds a fragment.
    pub fn take_fragment(&self) -> bool {
        self.has_fragment.swap(false, Ordering::Relaxed)
    }

    /// Notes how many bytes of the request body have not arrived yet.
    pub fn set_remaining(&self, bytes: u64) {
        self.remaining.store(bytes, Ordering::Relaxed);
    }

    /// A tunnel was granted; it begins when the response is written.
    pub fn grant_tunnel(&self) {
        self.is_granting_tunnel.store(true, Ordering::Relaxed);
    }

    /// True while the response that grants a tunnel is being written.
    pub fn is_granting_tunnel(&self) -> bool {
        self.is_granting_tunnel.load(Ordering::Relaxed)
    }

    /// Enters a tunnel if one was granted; true if so.
    pub fn enter_tunnel(&self) -> bool {
        let is_granted = self.is_granting_tunnel.swap(false, Ordering::Relaxed);
        self.is_tunnelled.fetch_or(is_granted, Ordering::Relaxed);
        is_granted
    }

    /// True if requests come through a tunnel.
    pub fn is_tunnelled(&self) -> bool {
        self.is_tunnelled.load(Ordering::Relaxed)
    }

    /// A response begins whose end is the end of the connection.
    pub fn begin_unframed(&self) {
        self.is_unframed.store(true, Ordering::Relaxed);
    }

    /// True while such a response is not written whole.
    pub fn is_unframed(&self) -> bool {
        self.is_unframed.load(Ordering::Relaxed)
    }

    /// True while the caller accepts no bytes.
    pub fn is_stalled(&self) -> bool {
        self.stalled_since.load(Ordering::Relaxed) != 0
    }

    /// Notes whether the caller accepted the bytes of the latest write. True if it does so again.
    pub fn note_write(&self, is_pending: bool) -> bool {
        let was_stalled = self.is_stalled();
        if was_stalled != is_pending {
            let since = if is_pending { self.elapsed() + 1 } else { 0 };
            self.stalled_since.store(since, Ordering::Relaxed);
        }
        was_stalled && !is_pending
    }

    /// Everything written so far is flushed. True if it ended with a complete response.
    pub fn note_flushed(&self) -> bool {
        let is_end = self.phase() == Phase::Flushing;
        if is_end {
            self.is_unframed.store(false, Ordering::Relaxed);
            let is_open = self.unread_body.is_open() && self.unread_body.await_end();
            self.enter(if is_open { Phase::DiscardingBody } else { Phase::Idle });
        }
        is_end
    }

    /// When the current phase has lasted too long. While a request is served its own timeouts
    /// apply, and the limit for a caller that does not read.
    pub fn deadline(&self) -> Option<Instant> {
        let (phase, since) = self.state();
        let at = |since| self.start + Duration::from_millis(since);
        match (phase, self.stalled_since.load(Ordering::Relaxed)) {
            (Phase::Idle, _) => Some(at(since) + KEEP_ALIVE_TIMEOUT),
            (Phase::ReadingHead, _) => Some(at(since) + HEAD_TIMEOUT),
            (Phase::DiscardingBody | Phase::Lingering, _) => Some(at(since) + LINGER),
            (Phase::Serving | Phase::Flushing, 0) => None,
            (Phase::Serving | Phase::Flushing, stalled) => {
                self.stall_limit.map(|limit| at(stalled) + limit)
            }
        }
    }

    /// Adds `Connection: close` to a response if the rest of the request body is not known to be
    /// small. A caller that sent `Expect: 100-continue` and never got the interim response may
    /// leave the body out: then it is unclear what the following bytes are.
    pub fn announce_close<B>(&self, response: &mut Response<B>, expects_continue: bool) {
        let is_open = self.unread_body.is_open();
        let is_small = self.remaining.load(Ordering::Relaxed) <= MAX_DISCARDED;
        if is_open && !(is_small && (!expects_continue || self.unread_body.is_begun())) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let is_closing = is_open && response.headers().contains_key(CONNECTION);
        self.is_closing.store(is_closing, Ordering::Relaxed);
    }

    /// An alarm that checks its deadline at `first`, or before. It is that of the last request, if
    /// that gave it back: to make one takes longer than to move it.
    pub fn take_alarm(&self, first: Instant) -> LazyTimer {
        let Some(mut alarm) = self.alarm.lock().take() else { return LazyTimer::new(first) };
        alarm.bring_forward(first);
        alarm
    }

    /// Takes an alarm back that has not rung.
    pub fn give_back_alarm(&self, alarm: LazyTimer) {
        *self.alarm.lock() = Some(alarm);
    }

    /// Reads and discards the rest of the request body, which `rest` holds from the first call on.
    /// True if the connection becomes idle with it.
    pub fn poll_discard(&self, rest: &mut Option<Incoming>, cx: &mut Context<'_>) -> bool {
        if rest.is_none() {
            *rest = self.unread_body.take();
        }
        let phase = self.phase();
        if let Some(body) = rest {
            if phase == Phase::DiscardingBody && self.is_closing.load(Ordering::Relaxed) {
                // hyper reads on as long as this body exists, and closes without it.
                *rest = None;
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
            *rest = None;
            self.unread_body.end();
        }
        let becomes_idle = phase == Phase::DiscardingBody && !self.unread_body.is_open();
        if becomes_idle {
            self.enter(Phase::Idle);
        }
        becomes_idle
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_alarm_of_one_request_rings_in_time_for_the_next() {
        let caller = Caller::Unix { user: None, process: None };
        let start = Instant::now();
        let activity = Activity::new(caller, start, None);
        activity.give_back_alarm(activity.take_alarm(start + Duration::from_secs(60)));
        for seconds in [5, 90] {
            let due = start + Duration::from_secs(seconds);
            let mut alarm = activity.take_alarm(due);
            poll_fn(|cx| alarm.poll(|| Some(due), cx)).await;
            assert_eq!(start.elapsed().as_secs(), seconds);
            activity.give_back_alarm(alarm);
        }
    }
}
