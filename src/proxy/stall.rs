//! The limit for a body that stalls, `upstream.idle_timeout`, in either direction.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use crate::lazy_timer::LazyTimer;

/// Why a body fails while it is streamed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it comes from broke.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    /// No byte for `idle_timeout`.
    #[error("no byte came for {0:?}")]
    Stalled(Duration),
}

/// Reads a body and gives up if no byte comes for too long. The timer exists only once the body was
/// waited for, and a body that flows does not touch it.
#[derive(Debug)]
pub(super) struct StallTimer {
    limit: Option<Duration>,
    timer: Option<LazyTimer>,
    /// Since when nothing has come, while something is waited for.
    waiting_since: Option<Instant>,
}

impl StallTimer {
    /// A timer with a limit; none = never.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, timer: None, waiting_since: None }
    }

    /// The next data frame; trailers are dropped.
    pub(super) fn poll_data<B>(
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
                    self.waiting_since = None;
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    return self.poll_limit(cx).map(|limit| Some(Err(BodyError::Stalled(limit))));
                }
            }
        }
    }

    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let due = *self.waiting_since.get_or_insert_with(Instant::now) + limit;
        self.timer.get_or_insert_with(|| LazyTimer::new(due)).poll(|| Some(due), cx).map(|()| limit)
    }
}
