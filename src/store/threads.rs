//! The threads on which file work is done. They are started once and kept: new tokens can be saved
//! even when the system gives no more threads.

use parking_lot::Mutex;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tokio::sync::oneshot;
use tracing::warn;

/// Number of threads, if the system gives as many: the work waits for the disk, not for a
/// processor.
const MAX_THREADS: usize = 4;
/// Pieces of work that may wait for a thread. Only a disk that hangs makes the queue that long.
const MAX_WAITING: usize = 4096;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that end when the last reference to them is dropped.
#[derive(Debug)]
pub(super) struct Threads(SyncSender<Work>);

impl Threads {
    /// Starts as many threads as the system gives.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, waiting) = sync_channel(MAX_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..MAX_THREADS {
            let waiting = waiting.clone();
            match thread::Builder::new()
                .name(format!("store-{number}"))
                .spawn(move || work_off(&waiting))
            {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    warn!(
                        "the store works with {number} threads, the system gives no more: {error}"
                    );
                    break;
                }
            }
        }
        Ok(Self(sender))
    }

    /// Runs work on one of them. It is not cancelled when the caller leaves: work that has begun
    /// ends, and what it owns is dropped after it.
    ///
    /// # Errors
    /// It was not done: too much is waiting, or it panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (sender, done) = oneshot::channel();
        let work = Box::new(move || drop(sender.send(work())));
        self.0
            .try_send(work)
            .map_err(|_| io::Error::other("the disk does not keep up with the store's work"))?;
        done.await.map_err(|_| io::Error::other("the store's work on it failed (a bug)"))
    }
}

fn work_off(waiting: &Mutex<Receiver<Work>>) {
    loop {
        let next = waiting.lock().recv();
        let Ok(work) = next else { return };
        // The panic hook has logged the panic; the waiting caller sees that its sender was dropped.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn work_that_panics_fails_alone_and_the_threads_stay() {
        let threads = Threads::start().unwrap();
        for _ in 0..3 * MAX_THREADS {
            assert!(threads.run(|| panic!("on purpose")).await.is_err());
        }
        assert_eq!(threads.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_over_the_limit_is_refused_and_waiting_work_is_done() {
        let threads = Threads::start().unwrap();
        let (hold, held) = sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        let (mut waiting, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
        let refused = loop {
            let held = held.clone();
            let mut run = Box::pin(threads.run(move || held.lock().recv().is_err()));
            match run.as_mut().poll(&mut context) {
                Poll::Ready(refused) => break refused,
                Poll::Pending => waiting.push(run),
            }
        };
        assert!(refused.unwrap_err().to_string().contains("does not keep up"));
        assert!(
            (MAX_WAITING..=MAX_WAITING + MAX_THREADS).contains(&waiting.len()),
            "{}",
            waiting.len()
        );
        drop(hold);
        for run in waiting {
            run.await.unwrap();
        }
    }
}
