//! A timer for deadlines that usually move before they are reached. It re-arms lazily: on wake-up
//! it re-checks the deadline, so that moving the deadline costs nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Time between checks while there is no deadline.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// A timer that re-arms lazily.
#[derive(Debug)]
pub struct LazyTimer(Pin<Box<Sleep>>);

impl LazyTimer {
    /// Checks the deadline at `first` for the first time.
    pub fn new(first: Instant) -> Self {
        Self(Box::pin(sleep_until(first)))
    }

    /// Checks the deadline at `first` at the latest: for a deadline that came nearer.
    pub fn bring_forward(&mut self, first: Instant) {
        if first < self.0.deadline() {
            self.0.as_mut().reset(first);
        }
    }

    /// Ready once the deadline `due` has passed; none = no deadline for now.
    pub fn poll(&mut self, due: impl Fn() -> Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.0.as_mut().poll(cx));
            let now = Instant::now();
            match due() {
                Some(due) if due <= now => return Poll::Ready(()),
                Some(due) => self.0.as_mut().reset(due),
                None => self.0.as_mut().reset(now + POLL_INTERVAL),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_deadline_of_that_moment_and_not_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (due, checks) = (Cell::new(Some(at(60))), Cell::new(0));
        let mut timer = LazyTimer::new(at(5));
        let fired = poll_fn(|cx| {
            let deadline = || {
                checks.set(checks.get() + 1);
                if start.elapsed().as_secs() == 60 { due.replace(None) } else { due.get() }
            };
            let _ = timer.poll(deadline, cx);
            if start.elapsed().as_secs() < 60 { Poll::Pending } else { Poll::Ready(()) }
        });
        fired.await;
        assert_eq!(
            (start.elapsed().as_secs(), checks.get()),
            (60, 2),
            "checked at 5 s and at 60 s"
        );
        timer.bring_forward(at(61));
        poll_fn(|cx| timer.poll(|| Some(at(63)), cx)).await;
        assert_eq!(start.elapsed().as_secs(), 63);
    }
}
