//! A request's body as it arrives, and what is left of it when nobody reads it to its end: that
//! goes back to the connection, which throws it away, so that an early answer is not lost in a
//! reset.

use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;

/// What a connection knows of the body of the request under way.
#[derive(Debug, Default)]
pub struct Leftover {
    state: Mutex<State>,
    /// True while the body was neither read to its end nor thrown away.
    is_open: AtomicBool,
    /// True while a body was given back and not taken yet.
    is_here: AtomicBool,
    /// Told when something was left, and when the connection waits for the end of the body.
    pub news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody has asked for a byte of it.
    is_begun: bool,
    is_awaited: bool,
    body: Option<Incoming>,
}

impl Leftover {
    /// True if the body of the request under way was not read to its end.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// True if somebody has begun to read it: whoever asked by `Expect` has been told to send it.
    pub fn is_begun(&self) -> bool {
        self.lock().is_begun
    }

    /// The same as [`is_open`](Self::is_open); if so, its end is told by `news`.
    pub fn await_end(&self) -> bool {
        self.lock().is_awaited = true;
        self.is_open()
    }

    /// What was given back.
    pub fn take(&self) -> Option<Incoming> {
        if !self.is_here.load(Ordering::Acquire) {
            return None;
        }
        self.is_here.store(false, Ordering::Relaxed);
        self.lock().body.take()
    }

    /// The body came to its end, or is not wanted by anybody.
    pub fn end(&self) {
        self.is_open.store(false, Ordering::Release);
        if self.lock().is_awaited {
            self.news.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// A request body on its way in.
#[derive(Debug)]
pub struct Upload {
    /// None only once it was given back.
    body: Option<Incoming>,
    /// Where the rest goes; none if there is no body or it has ended.
    leftover: Option<Arc<Leftover>>,
    is_begun: bool,
}

impl Upload {
    /// Takes a body over; what is not read of it goes to `leftover`.
    pub fn new(body: Incoming, leftover: &Arc<Leftover>) -> Self {
        let leftover = (!body.is_end_stream()).then(|| {
            *leftover.lock() = State::default();
            leftover.is_open.store(true, Ordering::Release);
            leftover.clone()
        });
        Self { body: Some(body), leftover, is_begun: false }
    }

    fn begin(&mut self) {
        self.is_begun = true;
        if let Some(leftover) = &self.leftover {
            leftover.lock().is_begun = true;
        }
    }

    fn end(&mut self) {
        if let Some(leftover) = self.leftover.take() {
            leftover.end();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.is_begun {
            self.begin();
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(leftover) = self.leftover.take() else { return };
        leftover.lock().body = self.body.take();
        leftover.is_here.store(true, Ordering::Release);
        leftover.news.notify_one();
    }
}
