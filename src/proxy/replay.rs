//! Request bodies on their way to the API: streamed frame by frame in constant memory, with a
//! bounded copy that is kept so that the request can be sent again.

mod buffer;

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::stall::{BodyError, StallTimer};
use crate::exchange::incoming_body::IncomingBody;
use buffer::ReplayBuffer;

/// Bytes of request bodies that all requests together may keep: 64 MiB.
pub const MAX_KEPT: usize = 64 * 1024 * 1024;

/// Memory that all requests together use for kept bodies.
#[derive(Debug, Default)]
pub struct ReplayBudget(AtomicUsize);

impl ReplayBudget {
    fn take(&self, bytes: usize) -> bool {
        let fits = self.0.fetch_add(bytes, Ordering::AcqRel) + bytes <= MAX_KEPT;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// A request body that may be sent more than once.
#[derive(Debug)]
pub struct ReplayableBody {
    /// None for a request without a body.
    shared: Option<Arc<Shared>>,
    limit: usize,
    /// When the request arrived.
    arrival: Instant,
}

/// Shared by the body and the [`OutgoingBody`] that is being sent.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    budget: Arc<ReplayBudget>,
    stall_limit: Option<Duration>,
    /// Notified when the body that is being sent has ended or was given back.
    released: Notify,
}

#[derive(Debug)]
struct State {
    kept: ReplayBuffer,
    /// False once the body is too long to be kept.
    is_kept: bool,
    /// What has not been read yet, while nothing is being sent.
    unread: Option<IncomingBody>,
    /// When the latest bytes were read.
    last_read: Instant,
    /// When the end was read.
    ended: Option<Instant>,
    /// The caller broke off or stalled.
    failed: bool,
}

impl ReplayableBody {
    /// Wraps a body that arrived `now`; up to `limit` bytes of it are kept.
    pub fn new(
        body: IncomingBody,
        limit: usize,
        budget: Arc<ReplayBudget>,
        stall_limit: Option<Duration>,
        arrival: Instant,
    ) -> Self {
        let shared = (!body.is_end_stream()).then(|| {
            let state = Mutex::new(State {
                kept: ReplayBuffer::default(),
                is_kept: body.size_hint().lower() <= limit as u64,
                ended: None,
                unread: Some(body),
                last_read: arrival,
                failed: false,
            });
            Arc::new(Shared { state, budget, stall_limit, released: Notify::new() })
        });
        Self { shared, limit, arrival }
    }

    /// The body from its first byte. A second time only if [`can_replay`](Self::can_replay).
    pub fn outgoing(&self) -> OutgoingBody {
        let Some(shared) = &self.shared else { return OutgoingBody::default() };
        let mut state = shared.lock();
        let unread = state.unread.take();
        let replay = if state.is_kept { state.kept.copy() } else { VecDeque::new() };
        let unread_length = unread.as_ref().map_or(Some(0), |unread| unread.size_hint().exact());
        let length = unread_length.map(|unread| state.kept.bytes as u64 + unread);
        drop(state);
        OutgoingBody(Some(Box::new(Sending {
            shared: shared.clone(),
            replay,
            unread,
            limit: self.limit,
            length,
            stall: StallTimer::new(shared.stall_limit),
        })))
    }

    /// Waits, for `limit` at most, until the body that was being sent is released. True if it can
    /// be sent again.
    pub async fn can_replay(&self, limit: Duration) -> bool {
        let Some(shared) = &self.shared else { return true };
        let deadline = Instant::now() + limit;
        loop {
            let released = shared.released.notified();
            {
                let state = shared.lock();
                if !state.is_kept || state.failed {
                    return false;
                }
                if state.ended.is_some() || state.unread.is_some() {
                    return true;
                }
            }
            if tokio::time::timeout_at(deadline, released).await.is_err() {
                return false;
            }
        }
    }

    /// True if the body has been short enough to be kept so far.
    pub fn is_kept(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| shared.lock().is_kept)
    }

    /// When the latest bytes were read, or when the request arrived.
    pub fn last_read(&self) -> Instant {
        self.shared.as_ref().map_or(self.arrival, |shared| shared.lock().last_read)
    }

    /// When the end was read; none if it was not.
    pub fn ended(&self) -> Option<Instant> {
        self.shared.as_ref().map_or(Some(self.arrival), |shared| shared.lock().ended)
    }

    /// True if the caller broke off or stalled.
    pub fn failed(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.lock().failed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn keep(&self, data: &Bytes, limit: usize, remaining: u64) {
        let mut state = self.lock();
        state.last_read = Instant::now();
        if !state.is_kept {
            return;
        }
        match state.kept.memory_for(data.len(), limit, remaining) {
            Some(memory) if self.budget.take(memory) => state.kept.add(data, memory),
            _ => {
                state.is_kept = false;
                self.budget.give_back(std::mem::take(&mut state.kept).memory);
            }
        }
    }

    fn end(&self, failed: bool) {
        let mut state = self.lock();
        state.failed |= failed;
        state.ended = (!failed).then(Instant::now);
        drop(state);
        self.released.notify_waiters();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let kept = self.state.get_mut().kept.memory;
        self.budget.give_back(kept);
    }
}

/// A request body that is being sent; none if there is nothing to send. In a box, because a request
/// is moved often on its way to the connection.
#[derive(Debug, Default)]
pub struct OutgoingBody(Option<Box<Sending>>);

/// What was kept of a body, then the rest as it arrives.
#[derive(Debug)]
struct Sending {
    shared: Arc<Shared>,
    replay: VecDeque<Bytes>,
    unread: Option<IncomingBody>,
    limit: usize,
    /// Bytes still to be sent, if known.
    length: Option<u64>,
    stall: StallTimer,
}

impl Sending {
    fn count(&mut self, data: &Bytes) {
        self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(this) = self.0.as_deref_mut() else { return Poll::Ready(None) };
        if let Some(data) = this.replay.pop_front() {
            this.count(&data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(unread) = &mut this.unread else { return Poll::Ready(None) };
        match ready!(this.stall.poll_data(unread, cx)) {
            Some(Ok(data)) => {
                this.count(&data);
                this.shared.keep(&data, this.limit, this.length.unwrap_or(u64::MAX));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            end => {
                let error = end.and_then(Result::err);
                this.unread = None;
                this.shared.end(error.is_some());
                Poll::Ready(error.map(Err))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_at_end = |sending: &Sending| {
            sending.replay.is_empty() && sending.unread.as_ref().is_none_or(Body::is_end_stream)
        };
        self.0.as_deref().is_none_or(is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.0.as_ref().map_or(Some(0), |sending| sending.length);
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some(unread) = self.unread.take() else { return };
        // hyper does not poll a body again after its last byte.
        let has_ended = unread.is_end_stream();
        let mut state = self.shared.lock();
        if has_ended && !state.failed {
            state.ended.get_or_insert_with(Instant::now);
        }
        state.unread = Some(unread);
        drop(state);
        self.shared.released.notify_waiters();
    }
}
