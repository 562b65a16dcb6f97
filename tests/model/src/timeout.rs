//! Time that does not pass: a deadline is over already or never comes. A wait for what never comes
//! is a deadlock, which loom reports; so a missed wake-up cannot hide behind a deadline.

use core::future::{Future, poll_fn};
use core::ops::Add;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

/// As in tokio.
#[derive(Clone, Copy, Debug)]
pub struct Instant(Duration);

/// The deadline is over.
#[derive(Debug)]
pub struct Elapsed;

impl Instant {
    /// The only moment there is.
    pub fn now() -> Self {
        Self(Duration::ZERO)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later)
    }
}

/// As in tokio, for a deadline of now or never.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending if deadline.0.is_zero() => Poll::Ready(Err(Elapsed)),
        Poll::Pending => Poll::Pending,
    })
    .await
}
