//! A timer for limits that mostly move away before they are reached: it is set as seldom as can be,
//! fires, asks when it is due by now, and is set anew. To move the limit costs nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// When it asks again while there is no limit.
const LOOK: Duration = Duration::from_secs(10);

/// A timer.
#[derive(Debug)]
pub struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// Asks at `first` for the first time.
    pub fn new(first: Instant) -> Self {
        Self(Box::pin(sleep_until(first)))
    }

    /// Asks at `first`, or before: for a limit that came nearer.
    pub fn by(&mut self, first: Instant) {
        if first < self.0.deadline() {
            self.0.as_mut().reset(first);
        }
    }

    /// Ready once it asked and the limit, `due`, had come; none = no limit for now.
    pub fn poll(&mut self, due: impl Fn() -> Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.0.as_mut().poll(cx));
            let now = Instant::now();
            match due() {
                Some(due) if due <= now => return Poll::Ready(()),
                Some(due) => self.0.as_mut().reset(due),
                None => self.0.as_mut().reset(now + LOOK),
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
    async fn fires_when_it_is_due_by_then_and_not_before() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (due, asked) = (Cell::new(Some(at(60))), Cell::new(0));
        let mut alarm = Alarm::new(at(5));
        let rings = poll_fn(|cx| {
            let answer = || {
                asked.set(asked.get() + 1);
                if start.elapsed().as_secs() == 60 { due.replace(None) } else { due.get() }
            };
            let _ = alarm.poll(answer, cx);
            if start.elapsed().as_secs() < 60 { Poll::Pending } else { Poll::Ready(()) }
        });
        rings.await;
        assert_eq!((start.elapsed().as_secs(), asked.get()), (60, 2), "asked at 5 s and at 60 s");
        alarm.by(at(61));
        poll_fn(|cx| alarm.poll(|| Some(at(63)), cx)).await;
        assert_eq!(start.elapsed().as_secs(), 63);
    }
}
