//! One thread's part of the data listener: a runtime of its own, with its own connections to the
//! API.

use parking_lot::{Mutex, MutexGuard};
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::error;

use super::connection;
use super::listen::{Accept, Socket};
use super::room::{Place, Room};
use super::wire::Stream;
use super::{DRAIN, accept, turn_away};
use crate::proxy::Forwarder;
use crate::supervise::{DATA_LISTENER, Pause, Supervisor, WORKER, supervise};

/// How often a worker that waits for its next start looks whether the process ends.
const LOOK: Duration = Duration::from_millis(50);

/// What a worker serves with.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) forwarder: Arc<Forwarder>,
    /// Empty once nobody may be accepted any more: what stays open takes callers whom nobody will
    /// answer.
    pub(super) sockets: Arc<Mutex<Vec<Socket>>>,
    pub(super) room: Arc<Room>,
    pub(super) draining: CancellationToken,
    /// Those of all workers: none ends before the last is served, since its upstream connections
    /// may be in use by others.
    pub(super) connections: TaskTracker,
    pub(super) supervisor: Supervisor,
}

impl Worker {
    /// Starts the thread, which holds `alive` until it has drained; the first one also keeps a
    /// connection to the API ready.
    ///
    /// # Errors
    /// There is no thread, or no files for a runtime.
    pub(super) fn start(self, number: usize, alive: TaskTrackerToken) -> io::Result<()> {
        let (told, begun) = sync_channel(1);
        let work = move || {
            let _alive = alive;
            // Made where it is used: a runtime must not be dropped by a task of another one.
            match runtime() {
                Ok(runtime) => {
                    let _ = told.send(Ok(()));
                    self.work(number == 0, runtime);
                }
                Err(error) => drop(told.send(Err(error))),
            }
        };
        thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        begun.recv().unwrap_or_else(|_| Err(io::Error::other("it did not begin")))
    }

    /// Works until the drain, with a new runtime whenever one comes to its end before that.
    fn work(self, is_first: bool, runtime: Runtime) {
        let mut first = Some(runtime);
        again(&self.supervisor, &self.draining, || {
            let runtime = first.take().map_or_else(self::runtime, Ok)?;
            runtime.block_on(self.run(is_first));
            // What hangs there does not keep the worker.
            runtime.shutdown_background();
            Ok(())
        });
    }

    /// Serves until the drain, and through it.
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
        match is_first {
            true => {
                supervise("keep_ready", &self.supervisor, &self.draining, || {
                    self.forwarder.keep_ready()
                })
                .await
            }
            false => self.draining.cancelled().await,
        }
        self.connections.close();
        let _ = timeout(DRAIN, self.connections.wait()).await;
    }

    fn sockets(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.sockets.lock()
    }

    /// Listens on another name for the same socket, so that a start that fails can be tried again.
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
        accept(listener, &self.room, |stream, place| self.serve(stream, place)).await;
    }

    fn serve(&self, stream: impl Stream, place: Place) {
        let (forwarder, draining) = (self.forwarder.clone(), self.draining.clone());
        self.connections.spawn(async move {
            let activity = place.activity();
            if let Some(problem) = &place.refusal {
                let refuse = service_fn(|_| async {
                    Ok::<_, Infallible>(forwarder.refuse(problem.clone()))
                });
                return turn_away(connection::serve(stream, refuse, activity, draining)).await;
            }
            let service = service_fn(|request| {
                place.heard();
                async { Ok::<_, Infallible>(forwarder.answer(request).await) }
            });
            connection::serve(stream, service, activity, draining).await;
        });
    }
}

/// Does a worker's work, and again after a pause if it ends or panics before the drain.
fn again(
    supervisor: &Supervisor,
    draining: &CancellationToken,
    mut work: impl FnMut() -> io::Result<()>,
) {
    let (mut note, mut pause) = (supervisor.enter(WORKER), Pause::default());
    loop {
        let began = Instant::now();
        // All that it shares has locks that outlive a panic.
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
            thread::sleep(LOOK);
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
    fn a_worker_that_panics_or_gets_no_runtime_is_started_again_until_the_drain() {
        let (supervisor, draining, mut starts) =
            (Supervisor::default(), CancellationToken::new(), 0);
        again(&supervisor, &draining, || {
            starts += 1;
            assert_eq!((supervisor.is_deaf(), supervisor.tasks()[0].running), (false, 1));
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
