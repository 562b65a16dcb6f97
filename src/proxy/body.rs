//! The body of a response on its way to the caller, streamed frame by frame in constant memory.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::stall::{BodyError, StallTimer};
use super::upstream::Connection;

/// The body of a response.
#[derive(Debug)]
pub enum ResponseBody {
    /// Made by the proxy itself.
    Own(Full<Bytes>),
    /// The API's, as it arrives.
    Upstream(Box<UpstreamBody>),
}

/// The API's response body. At its end the connection returns to the pool.
#[derive(Debug)]
pub struct UpstreamBody {
    body: Incoming,
    /// Held until the end; then released, or closed if it is not reusable.
    connection: Option<Connection>,
    is_reusable: bool,
    /// The error that ended the body, until what came before it has been written.
    error: Option<BodyError>,
    stall: StallTimer,
}

impl ResponseBody {
    /// A body of the proxy's own.
    pub fn own(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }

    /// The API's body, which comes over `connection`.
    pub fn upstream(
        body: Incoming,
        connection: Connection,
        is_reusable: bool,
        stall_limit: Option<Duration>,
    ) -> Self {
        let mut upstream = UpstreamBody {
            body,
            connection: Some(connection),
            is_reusable,
            error: None,
            stall: StallTimer::new(stall_limit),
        };
        if upstream.body.is_end_stream() {
            upstream.release();
        }
        Self::Upstream(Box::new(upstream))
    }
}

impl UpstreamBody {
    /// The next data frame. An error is returned one poll after it occurred: when a body fails,
    /// hyper drops everything it has not written yet, even the head.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let (body, stall) = (&mut self.body, &mut self.stall);
        let mut read = || stall.poll_data(body, cx);
        let data = match &self.connection {
            Some(connection) => connection.read_body(read),
            None => read(),
        };
        match ready!(data) {
            Some(Err(error)) => {
                self.error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            data => Poll::Ready(data),
        }
    }

    fn release(&mut self) {
        if let Some(connection) = self.connection.take_if(|_| self.is_reusable) {
            connection.release();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(upstream) => {
                let data = ready!(upstream.poll_data(cx));
                if data.is_none() || upstream.body.is_end_stream() {
                    upstream.release();
                }
                Poll::Ready(data.map(|data| data.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(upstream) => upstream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(upstream) => upstream.body.size_hint(),
        }
    }
}
