//! Time limits for work that must not be abandoned while its result is waiting to be read.
//!
//! A plain timer also counts time in which this process did not run: stopped by a signal, frozen
//! with its container, or suspended. It fires on resume, before the response that arrived meanwhile
//! is read, and that response may hold the only copy of new tokens. A limit here counts only time
//! in which the process ran.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// The part of a limit that one standstill can use up.
const TICK: Duration = Duration::from_secs(1);

/// Runs `work` until it ends, or until this process has run for `limit`; `None` if it did not end.
///
/// The limit is cut into ticks, one after the other: a standstill, however long, ends one tick. One
/// more tick follows the last one, so that what arrived during a standstill right before the end is
/// still read.
pub async fn while_running<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let tick = TICK.min(limit);
    let mut left = limit;
    loop {
        if let Ok(done) = tokio::time::timeout(tick, &mut work).await {
            return Some(done);
        }
        if left.is_zero() {
            return None;
        }
        left = left.saturating_sub(tick);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use tokio::time::{Instant, advance, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Something that arrives `after` this time and is noticed a little later, because the task
    /// that reads a socket runs first.
    async fn arriving(after: Duration) -> &'static str {
        let (tx, rx) = oneshot::channel();
        tokio::spawn(async move {
            sleep(after).await;
            for _ in 0..5 {
                yield_now().await;
            }
            let _ = tx.send("read");
        });
        rx.await.unwrap_or("lost")
    }

    /// Lets the runtime run for `run`, then stands still for `stop`, then goes on.
    async fn with_a_standstill(
        arrives: Duration,
        run: Duration,
        stop: Duration,
    ) -> Option<&'static str> {
        let waiting = tokio::spawn(while_running(LIMIT, arriving(arrives)));
        let mut ran = Duration::ZERO;
        while ran < run {
            // In small steps, as a running process sees time.
            sleep(Duration::from_millis(100)).await;
            ran += Duration::from_millis(100);
        }
        advance(stop).await;
        waiting.await.unwrap_or(None)
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrived_during_a_standstill_is_read_before_the_limit_is_checked() {
        let second = Duration::from_secs(1);
        for (arrives, run) in [(5, 0), (5, 4), (29, 20), (31, 29), (40, 30)] {
            let read = with_a_standstill(second * arrives, second * run, second * 3600).await;
            assert_eq!(read, Some("read"), "arrives after {arrives} s, stands still after {run} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_standstill_the_limit_holds() {
        let start = Instant::now();
        assert_eq!(while_running(LIMIT, std::future::pending::<()>()).await, None);
        let took = start.elapsed();
        assert!(took >= LIMIT && took <= LIMIT + Duration::from_secs(2), "{took:?}");
        let start = Instant::now();
        let short = Duration::from_millis(50);
        assert_eq!(while_running(short, std::future::pending::<()>()).await, None);
        assert!(start.elapsed() <= short * 3, "{:?}", start.elapsed());
    }
}
