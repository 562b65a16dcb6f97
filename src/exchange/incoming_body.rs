//! The body of a request as it arrives. If nobody reads it to its end, the rest goes back to the
//! connection, which reads and discards it: else closing the connection would reset it, and the
//! caller would lose the response.

use parking_lot::{Mutex, MutexGuard};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;

use super::capture::CapturedBody;

/// What a connection knows of the body of its current request.
#[derive(Debug, Default)]
pub struct UnreadBody {
    state: Mutex<State>,
    /// True until the body was read to its end or discarded.
    is_open: AtomicBool,
    /// True while a body was given back and not taken yet.
    is_returned: AtomicBool,
    /// Bytes that were read of it.
    received: AtomicU64,
    /// Notified when a body is given back, and at its end if the connection waits for that.
    pub changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Reading has begun.
    is_begun: bool,
    is_awaited: bool,
    body: Option<Incoming>,
}

impl UnreadBody {
    /// True until the body of the current request was read to its end or discarded.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// True if reading has begun: then a caller that sent `Expect: 100-continue` was told to go on.
    pub fn is_begun(&self) -> bool {
        self.lock().is_begun
    }

    /// Bytes read of the body of the current request.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks for a notification at the end of the body; false if it has ended already.
    pub fn await_end(&self) -> bool {
        self.lock().is_awaited = true;
        self.is_open()
    }

    /// The body, if it was given back.
    pub fn take(&self) -> Option<Incoming> {
        if !self.is_returned.load(Ordering::Acquire) {
            return None;
        }
        self.is_returned.store(false, Ordering::Relaxed);
        self.lock().body.take()
    }

    /// The body has ended, or nobody needs the rest.
    pub fn end(&self) {
        self.is_open.store(false, Ordering::Release);
        if self.lock().is_awaited {
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The body of a request as it arrives.
#[derive(Debug)]
pub struct IncomingBody {
    /// None only once it was given back.
    body: Option<Incoming>,
    /// Where the rest goes; none if there is no body or it has ended.
    unread_body: Option<Arc<UnreadBody>>,
    is_begun: bool,
    /// Where what is read of it is copied to.
    captured: Option<Arc<CapturedBody>>,
}

impl IncomingBody {
    /// Wraps a body; what is not read of it goes to `unread_body`.
    pub fn new(
        body: Incoming,
        unread_body: &Arc<UnreadBody>,
        captured: Option<Arc<CapturedBody>>,
    ) -> Self {
        unread_body.received.store(0, Ordering::Relaxed);
        let unread_body = (!body.is_end_stream()).then(|| {
            *unread_body.lock() = State::default();
            unread_body.is_open.store(true, Ordering::Release);
            unread_body.clone()
        });
        Self { body: Some(body), unread_body, is_begun: false, captured }
    }

    fn begin(&mut self) {
        self.is_begun = true;
        if let Some(unread_body) = &self.unread_body {
            unread_body.lock().is_begun = true;
        }
    }

    fn count(&self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>) {
        if let (Some(unread_body), Some(Ok(frame))) = (&self.unread_body, frame) {
            let data = frame.data_ref().map_or(&[][..], Bytes::as_ref);
            unread_body.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            if let Some(captured) = &self.captured {
                captured.push(data);
            }
        }
    }

    fn end(&mut self) {
        if let Some(unread_body) = self.unread_body.take() {
            unread_body.end();
        }
    }
}

impl Body for IncomingBody {
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
        let is_end = body.is_end_stream() || !matches!(frame, Some(Ok(_)));
        self.count(frame.as_ref());
        if is_end {
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

impl Drop for IncomingBody {
    fn drop(&mut self) {
        let Some(unread_body) = self.unread_body.take() else { return };
        unread_body.lock().body = self.body.take();
        unread_body.is_returned.store(true, Ordering::Release);
        unread_body.changed.notify_one();
    }
}
