//! A worker of the data listener: a thread with a runtime and connections to the API of its own.

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::accept::{accept, refuse};
use super::client_stream::Stream;
use super::connection;
use super::limiter::{ConnectionLimiter, ConnectionPermit};
use super::listen::{Accept, Socket};
use crate::exchange::recorder::Recorder;
use crate::proxy::Forwarder;
use crate::supervise::{DATA_LISTENER, Pause, Supervisor, WORKER, supervise};

/// Time for the current requests at shutdown.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How often a worker that waits for its restart checks whether the server drains.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a worker needs.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) forwarder: Arc<Forwarder>,
    /// Emptied at shutdown: a socket that stays open takes connections that nobody will serve.
    pub(super) sockets: Arc<Mutex<Vec<Socket>>>,
    pub(super) limiter: Arc<ConnectionLimiter>,
    pub(super) draining: CancellationToken,
    /// Client connections of all workers: none ends before all are served, since others may be
    /// using its connections to the API.
    pub(super) connections: TaskTracker,
    pub(super) recorder: Arc<Recorder>,
    pub(super) supervisor: Supervisor,
}

impl Worker {
    /// Starts the thread, which holds `alive` until it has drained. The first worker also keeps a
    /// connection to the API ready.
    ///
    /// # Errors
    /// The system gives no thread, or no file descriptors for a runtime.
    pub(super) fn start(self, number: usize, alive: TaskTrackerToken) -> io::Result<()> {
        let (report, started) = sync_channel(1);
        let work = move || {
            let _alive = alive;
            // Made on its own thread: a task of another runtime must not drop it.
            match runtime() {
                Ok(runtime) => {
                    let _ = report.send(Ok(()));
                    self.work(number == 0, runtime);
                }
                Err(error) => drop(report.send(Err(error))),
            }
        };
        thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the worker did not start")))
    }

    /// Serves until the drain, with a new runtime if one ends before that.
    fn work(self, is_first: bool, runtime: Runtime) {
        let mut first = Some(runtime);
        restart_until_drained(&self.supervisor, &self.draining, || {
            let runtime = first.take().map_or_else(self::runtime, Ok)?;
            runtime.block_on(self.run(is_first));
            // A task that hangs does not keep the worker.
            runtime.shutdown_background();
            Ok(())
        });
    }

    /// Serves until all connections have drained.
    async fn run(&self, is_first: bool) {
        let count = self.sockets().len();
        for number in 0..count {
            let worker = self.clone();
            self.connections.spawn(async move {
                supervise(DATA_LISTENER, &worker.supervisor, &worker.draining, || {
                    worker.listen(number)
                })
                .await;
            });
        }
        if is_first {
            let keep_ready = || self.forwarder.keep_ready();
            supervise("keep_ready", &self.supervisor, &self.draining, keep_ready).await;
        } else {
            self.draining.cancelled().await;
        }
        self.connections.close();
        let _ = timeout(DRAIN, self.connections.wait()).await;
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.sockets.lock()
    }

    /// Listens on a clone of the socket, so that a restart can do so again.
    async fn listen(&self, number: usize) {
        let socket = self.sockets().get(number).map(Socket::try_clone);
        let failed = match socket {
            None => return,
            Some(Ok(Socket::Tcp(socket))) => match TcpListener::from_std(socket) {
                Ok(listener) => return self.accept(&listener).await,
                Err(error) => error,
            },
            Some(Ok(Socket::Unix(socket))) => match UnixListener::from_std(socket) {
                Ok(listener) => return self.accept(&listener).await,
                Err(error) => error,
            },
            Some(Err(error)) => error,
        };
        error!("a worker cannot listen: {failed}");
    }

    async fn accept(&self, listener: &impl Accept) {
        accept(listener, &self.limiter, |stream, permit| self.serve(stream, permit)).await;
    }

    fn serve(&self, stream: impl Stream, permit: ConnectionPermit) {
        permit.activity.record_with(&self.recorder);
        let (forwarder, draining) = (self.forwarder.clone(), self.draining.clone());
        self.connections.spawn(async move {
            let activity = permit.activity.clone();
            if let Some(problem) = &permit.refusal {
                return refuse(stream, activity, problem, draining).await;
            }
            let forwarder = &forwarder;
            let handler = |request, mut exchange| async move {
                (forwarder.answer(request, &mut exchange).await, exchange)
            };
            connection::serve(stream, handler, activity, draining).await;
        });
    }
}

/// Runs a worker, and restarts it after a pause if it ends or panics before the drain.
fn restart_until_drained(
    supervisor: &Supervisor,
    draining: &CancellationToken,
    mut work: impl FnMut() -> io::Result<()>,
) {
    let (mut note, mut pause) = (supervisor.enter(WORKER), Pause::default());
    loop {
        let began = Instant::now();
        // All that it shares is behind locks that a panic does not poison.
        let end = catch_unwind(AssertUnwindSafe(&mut work));
        if draining.is_cancelled() {
            return;
        }
        let why = match end {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => format!("it got no runtime: {error}"),
            Err(_) => "it panicked".to_owned(),
        };
        let pause = pause.after(began.elapsed());
        error!("a data worker stopped, {why}; it is started again in {pause:?}");
        note.stopped();
        let next = Instant::now() + pause;
        while Instant::now() < next && !draining.is_cancelled() {
            thread::sleep(POLL_INTERVAL);
        }
        note.restarted();
    }
}

/// A runtime of one thread.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_or_gets_no_runtime_is_restarted_until_the_drain() {
        let (supervisor, draining, mut starts) =
            (Supervisor::default(), CancellationToken::new(), 0);
        restart_until_drained(&supervisor, &draining, || {
            starts += 1;
            assert_eq!(
                (supervisor.accepts_no_requests(), supervisor.tasks()[0].running),
                (false, 1)
            );
            match starts {
                1 => panic!("on purpose"),
                2 => return Err(io::Error::other("no files")),
                _ => draining.cancel(),
            }
            Ok(())
        });
        let worker = supervisor.tasks()[0];
        assert_eq!((starts, worker.restarts, worker.running, worker.paused), (3, 2, 0, 0));
    }
}
