//! Supervises background tasks: one that panics or ends is started again after a growing pause,
//! logged and counted.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::error;

/// First and longest pause before a task is started again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A run of this length makes the next pause the shortest one again.
const STEADY: Duration = Duration::from_secs(60);

/// The threads that serve API requests.
pub const WORKER: &str = "worker";
/// The tasks that accept API connections.
pub const DATA_LISTENER: &str = "data_listener";

/// The state of the background tasks of this process, by name. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(Arc<Mutex<BTreeMap<&'static str, Counts>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    running: usize,
    paused: usize,
    restarts: u64,
}

/// One kind of background task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name in logs, metrics and `status`.
    pub name: &'static str,
    /// Number of instances that are running.
    pub running: usize,
    /// Number of instances that have stopped and wait to be started again.
    pub paused: usize,
    /// Number of restarts since the start of the process.
    pub restarts: u64,
}

impl Supervisor {
    /// All kinds of tasks that were ever started, by name.
    pub fn tasks(&self) -> Vec<Task> {
        let task = |(name, counts): (&&'static str, &Counts)| {
            let Counts { running, paused, restarts } = *counts;
            Task { name, running, paused, restarts }
        };
        self.lock().iter().map(task).collect()
    }

    /// The names of tasks of which at least one instance waits to be started again.
    pub fn paused(&self) -> Vec<&'static str> {
        self.tasks().into_iter().filter(|task| task.paused > 0).map(|task| task.name).collect()
    }

    /// True if all instances of a task have stopped.
    pub fn is_down(&self, name: &'static str) -> bool {
        self.lock().get(name).is_some_and(|counts| counts.running == 0 && counts.paused > 0)
    }

    /// True if no API request can be served now: no worker runs, or none of them accepts
    /// connections.
    pub fn accepts_no_requests(&self) -> bool {
        self.is_down(WORKER) || self.is_down(DATA_LISTENER)
    }

    /// Registers one more instance of a task, which runs until the result is dropped. For threads
    /// and tasks that cannot run under [`supervise`].
    pub fn enter(&self, name: &'static str) -> Note {
        self.lock().entry(name).or_default().running += 1;
        Note { supervisor: self.clone(), name, is_running: true }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Counts>> {
        self.0.lock()
    }
}

/// One registered instance of a task.
#[derive(Debug)]
pub struct Note {
    supervisor: Supervisor,
    name: &'static str,
    is_running: bool,
}

impl Note {
    /// It has stopped and waits to be started again.
    pub fn stopped(&mut self) {
        self.become_running(false);
    }

    /// It is started again.
    pub fn restarted(&mut self) {
        self.become_running(true);
    }

    fn become_running(&mut self, is_running: bool) {
        if self.is_running == is_running {
            return;
        }
        self.is_running = is_running;
        if let Some(counts) = self.supervisor.lock().get_mut(self.name) {
            let (from, to) = if is_running {
                (&mut counts.paused, &mut counts.running)
            } else {
                (&mut counts.running, &mut counts.paused)
            };
            (*from, *to) = (from.saturating_sub(1), to.saturating_add(1));
            counts.restarts += u64::from(is_running);
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Some(counts) = self.supervisor.lock().get_mut(self.name) {
            let own = if self.is_running { &mut counts.running } else { &mut counts.paused };
            *own = own.saturating_sub(1);
        }
    }
}

/// The pause before the next start: it doubles, and is reset after a long run.
#[derive(Debug)]
pub struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE.0)
    }
}

impl Pause {
    /// The pause after a run of this length.
    pub fn after(&mut self, run: Duration) -> Duration {
        if run >= STEADY {
            *self = Self::default();
        }
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE.1);
        pause
    }
}

/// Runs a task for ever: whenever the future of `start` ends or panics, it is started again after a
/// pause of 0.1 to 10 seconds. Ends once `closing` is cancelled, and drops the running future then.
pub async fn supervise<F: Future<Output = ()>>(
    name: &'static str,
    supervisor: &Supervisor,
    closing: &CancellationToken,
    mut start: impl FnMut() -> F,
) {
    let mut note = supervisor.enter(name);
    let work = async {
        let mut pause = Pause::default();
        loop {
            let began = Instant::now();
            let end = unless_panicked(async { start().await }).await;
            if closing.is_cancelled() {
                return;
            }
            let pause = pause.after(began.elapsed());
            note.stopped();
            let how = if end.is_some() { "ended" } else { "panicked" };
            error!(task = name, "a background task {how}; it is started again in {pause:?}");
            sleep(pause).await;
            note.restarted();
        }
    };
    closing.run_until_cancelled(work).await;
}

/// The output of a future; none if it panicked.
async fn unless_panicked<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    // Unwind safe: the future is dropped after a panic, and locks that it shares are not poisoned.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    fn task(supervisor: &Supervisor) -> (usize, usize, u64) {
        let Task { running, paused, restarts, .. } = supervisor.tasks()[0];
        (running, paused, restarts)
    }

    /// Lets a task run that ends in some way each time, for a minute; returns how often it was
    /// started.
    async fn starts_in_a_minute(end: impl Fn(u32)) -> (u32, Supervisor) {
        let (supervisor, closing, starts) =
            (Supervisor::default(), CancellationToken::new(), Cell::new(0));
        let work = supervise("work", &supervisor, &closing, || async {
            starts.set(starts.get() + 1);
            end(starts.get());
        });
        let _ = tokio::time::timeout(Duration::from_secs(60), work).await;
        (starts.get(), supervisor)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_ends_is_started_again_after_growing_pauses() {
        // 0.1 + 0.2 + ... + 6.4 = 12.7 s for eight starts, then one each ten seconds.
        let (panics, supervisor) = starts_in_a_minute(|_| panic!("on purpose")).await;
        assert_eq!((panics, task(&supervisor)), (12, (0, 0, 11)));
        let (ends, _) = starts_in_a_minute(|_| {}).await;
        assert_eq!(ends, 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_panics_is_a_task_that_panics() {
        let (supervisor, closing, starts) =
            (Supervisor::default(), CancellationToken::new(), Cell::new(0));
        let work = supervise("work", &supervisor, &closing, || {
            starts.set(starts.get() + 1);
            assert!(starts.get() > 3, "not yet");
            pending()
        });
        let _ = tokio::time::timeout(Duration::from_secs(60), work).await;
        assert_eq!((starts.get(), task(&supervisor)), (4, (0, 0, 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn paused_tasks_and_tasks_that_are_down_are_reported() {
        let (supervisor, closing) = (Supervisor::default(), CancellationToken::new());
        let fails = supervise("work", &supervisor, &closing, || async {});
        let runs = supervise("work", &supervisor, &closing, pending::<()>);
        let looks = async {
            sleep(Duration::from_millis(1)).await;
            assert_eq!((task(&supervisor), supervisor.paused()), ((1, 1, 0), vec!["work"]));
            assert!(!supervisor.is_down("work"), "one of the two is running");
            closing.cancel();
        };
        tokio::join!(fails, runs, looks);
        assert_eq!((task(&supervisor), supervisor.paused()), ((0, 0, 0), vec![]));
        let mut note = supervisor.enter("alone");
        note.stopped();
        assert!(supervisor.is_down("alone") && !supervisor.is_down("never started"));
    }

    #[test]
    fn a_steady_run_makes_the_next_pause_short_again() {
        let mut pause = Pause::default();
        for _ in 0..20 {
            pause.after(Duration::ZERO);
        }
        assert_eq!(pause.after(STEADY / 2), PAUSE.1);
        assert_eq!(pause.after(STEADY), PAUSE.0);
    }
}
