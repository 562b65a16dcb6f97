//! Bodies both ways: streamed frame by frame in constant memory. A request body is copied on its
//! way, up to a bound, so that it can be sent once more after a 401.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::kept::Kept;
use super::upload::Upload;
use super::upstream::Connection;
use crate::lazy_timer::LazyTimer;

/// Bytes of request bodies that all requests together may keep: 64 MiB.
const KEPT_IN_ALL: usize = 64 * 1024 * 1024;

/// Reads how much may be kept of one body: bytes, or with a binary unit such as `256KiB`.
///
/// # Errors
/// What is possible.
pub fn replay_limit(text: &str) -> Result<usize, &'static str> {
    let (number, unit) = text
        .split_at(text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1024),
        "MiB" => Some(1024 * 1024),
        _ => None,
    };
    let bytes = number
        .parse::<usize>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes <= KEPT_IN_ALL)
        .ok_or("must be a size between 0 and 64MiB in bytes, KiB or MiB")
}

/// How much is kept of request bodies, by all requests.
#[derive(Debug, Default)]
pub struct Budget(AtomicUsize);

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        let fits = self.0.fetch_add(bytes, Ordering::AcqRel) + bytes <= KEPT_IN_ALL;
        if !fits {
            self.give(bytes);
        }
        fits
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// A body that fails while it is streamed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it comes from broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// No byte for `idle_timeout`.
    #[error("no byte came for {0:?}")]
    Idle(Duration),
}

/// A request body from its arrival to its last sending.
#[derive(Debug)]
pub struct Original {
    shared: Arc<Shared>,
    limit: usize,
}

/// What the copies of a request body have in common.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    budget: Arc<Budget>,
    idle: Option<Duration>,
    /// Told when the body that is being sent has ended or was given back.
    rested: Notify,
}

#[derive(Debug)]
struct State {
    kept: Kept,
    /// False once more came than may be kept.
    whole: bool,
    /// What has not been read yet, while no copy is being sent.
    rest: Option<Upload>,
    /// When a byte was taken last.
    moved: Instant,
    /// When the last byte was read.
    ended: Option<Instant>,
    /// The caller broke off.
    failed: bool,
}

impl Original {
    /// Takes a body over that arrived `now`; of those of up to `limit` bytes a copy is kept.
    pub fn new(
        body: Upload,
        limit: usize,
        budget: Arc<Budget>,
        idle: Option<Duration>,
        now: Instant,
    ) -> Self {
        let ended = body.is_end_stream().then_some(now);
        let whole = body.size_hint().lower() <= limit as u64;
        let kept = Kept::default();
        let state = State { kept, whole, rest: Some(body), moved: now, ended, failed: false };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                budget,
                idle,
                rested: Notify::new(),
            }),
            limit,
        }
    }

    /// The body to be sent, from its first byte; once more only if
    /// [`can_repeat`](Self::can_repeat).
    pub fn outgoing(&self) -> Outgoing {
        let mut state = self.shared.lock();
        let rest = state.rest.take();
        let replay = if state.whole { state.kept.copy() } else { VecDeque::new() };
        let left: u64 = rest.as_ref().map_or(0, |rest| rest.size_hint().exact().unwrap_or(0));
        let is_exact = rest.as_ref().is_none_or(|rest| rest.size_hint().exact().is_some());
        let length = is_exact.then_some(state.kept.bytes as u64 + left);
        Outgoing {
            shared: self.shared.clone(),
            replay,
            rest,
            limit: self.limit,
            length,
            idle: Idle::new(self.shared.idle),
        }
    }

    /// Waits until the copy that was sent has ended or was dropped, then tells whether another can
    /// follow.
    pub async fn can_repeat(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let rested = self.shared.rested.notified();
            {
                let state = self.shared.lock();
                if !state.whole || state.failed {
                    return false;
                }
                if state.ended.is_some() || state.rest.is_some() {
                    return true;
                }
            }
            if tokio::time::timeout_at(deadline, rested).await.is_err() {
                return false;
            }
        }
    }

    /// True if the body is small enough to be kept so far.
    pub fn is_kept(&self) -> bool {
        self.shared.lock().whole
    }

    /// When a byte was taken last, or the body arrived.
    pub fn moved(&self) -> Instant {
        self.shared.lock().moved
    }

    /// When the last byte was read, if it was.
    pub fn ended(&self) -> Option<Instant> {
        self.shared.lock().ended
    }

    /// True if the caller broke off or stalled.
    pub fn failed(&self) -> bool {
        self.shared.lock().failed
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn keep(&self, data: &Bytes, limit: usize, left: u64) {
        let mut state = self.lock();
        state.moved = Instant::now();
        if !state.whole {
            return;
        }
        let more = state.kept.more(data.len(), limit, left);
        if more.is_some_and(|more| self.budget.take(more)) {
            state.kept.add(data, more.unwrap_or_default());
        } else {
            state.whole = false;
            self.budget.give(std::mem::take(&mut state.kept).memory);
        }
    }

    fn end(&self, failed: bool) {
        let mut state = self.lock();
        state.failed |= failed;
        state.ended = (!failed).then(Instant::now);
        drop(state);
        self.rested.notify_waiters();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let kept = self.state.get_mut().kept.memory;
        self.budget.give(kept);
    }
}

/// A request body on its way to the upstream: what was kept of it, then the rest as it comes.
#[derive(Debug)]
pub struct Outgoing {
    shared: Arc<Shared>,
    replay: VecDeque<Bytes>,
    rest: Option<Upload>,
    limit: usize,
    length: Option<u64>,
    idle: Idle,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(data) = this.replay.pop_front() {
            this.length = this.length.map(|length| length.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(rest) = &mut this.rest else { return Poll::Ready(None) };
        match ready!(this.idle.poll_data(rest, cx)) {
            Some(Ok(data)) => {
                this.length = this.length.map(|length| length.saturating_sub(data.len() as u64));
                this.shared.keep(&data, this.limit, this.length.unwrap_or(u64::MAX));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            end => {
                let error = end.and_then(Result::err);
                this.rest = None;
                this.shared.end(error.is_some());
                Poll::Ready(error.map(Err))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.replay.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        // hyper does not poll a body again whose last byte it has.
        let ended = rest.is_end_stream();
        let mut state = self.shared.lock();
        if ended && !state.failed {
            state.ended.get_or_insert_with(Instant::now);
        }
        state.rest = Some(rest);
        drop(state);
        self.shared.rested.notify_waiters();
    }
}

/// A response body on its way to the caller.
#[derive(Debug)]
pub enum Answer {
    /// An answer of the proxy itself.
    Ours(Option<Bytes>),
    /// The upstream's, as it comes.
    Theirs(Box<Theirs>),
}

/// The upstream's response body; its connection returns to the pool at the end.
#[derive(Debug)]
pub struct Theirs {
    body: Incoming,
    /// Held until the end; then returned, or closed if it is not reusable.
    connection: Option<Connection>,
    reusable: bool,
    /// The end of a body that failed, until what came before it is on its way to the caller.
    failed: Option<BodyError>,
    idle: Idle,
}

impl Answer {
    /// An answer of the proxy itself.
    pub fn ours(bytes: Bytes) -> Self {
        Self::Ours(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// The upstream's answer.
    pub fn theirs(
        body: Incoming,
        connection: Connection,
        reusable: bool,
        idle: Option<Duration>,
    ) -> Self {
        let mut theirs = Theirs {
            body,
            connection: Some(connection),
            reusable,
            failed: None,
            idle: Idle::new(idle),
        };
        if theirs.body.is_end_stream() {
            theirs.finish();
        }
        Self::Theirs(Box::new(theirs))
    }
}

impl Theirs {
    /// The next piece. An error comes a turn after it was met: hyper drops what it has not written
    /// yet, be it the head, when a body fails.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.idle.poll_data(&mut self.body, cx)) {
            Some(Err(error)) => {
                self.failed = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            data => Poll::Ready(data),
        }
    }

    fn finish(&mut self) {
        if let Some(connection) = self.connection.take_if(|_| self.reusable) {
            connection.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Ours(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Theirs(theirs) => {
                let frame = ready!(theirs.poll_data(cx));
                if frame.is_none() || theirs.body.is_end_stream() {
                    theirs.finish();
                }
                Poll::Ready(frame.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(bytes) => bytes.is_none(),
            Self::Theirs(theirs) => theirs.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Theirs(theirs) => theirs.body.size_hint(),
        }
    }
}

/// Gives up on a body that stalls. The timer exists only while a body is waited for, and is not
/// touched by one that flows.
#[derive(Debug)]
struct Idle {
    limit: Option<Duration>,
    alarm: Option<LazyTimer>,
    last: Option<Instant>,
}

impl Idle {
    fn new(limit: Option<Duration>) -> Self {
        Self { limit, alarm: None, last: None }
    }

    /// The next data frame; trailers are left out.
    fn poll_data<B>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>>
    where
        B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
    {
        loop {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.last = None;
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    return self.poll_limit(cx).map(|limit| Some(Err(BodyError::Idle(limit))));
                }
            }
        }
    }

    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let due = *self.last.get_or_insert_with(Instant::now) + limit;
        self.alarm.get_or_insert_with(|| LazyTimer::new(due)).poll(|| Some(due), cx).map(|()| limit)
    }
}
