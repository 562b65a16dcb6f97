//! Listeners, workers and the drain.
//!
//! Data workers are single-threaded runtimes, one a core, each with its own upstream connections
//! and a clone of the listening sockets. The admin listener runs on the caller's runtime. All of
//! them are restarted if they stop.

mod accept;
mod admin_listener;
mod callback;
mod client_stream;
mod connection;
mod file_limits;
mod framing;
mod limiter;
mod listen;
mod malformed;
mod passed;
mod settings;
mod unix;
mod worker;

use parking_lot::Mutex;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::exchange::recorder::Recorders;
use crate::proxy::Forwarder;
use crate::supervise::{Supervisor, supervise};
use admin_listener::{ADMIN_DRAIN, AdminListener};
pub use callback::callback;
pub use file_limits::{max_connections, possible as possible_connections};
use limiter::ConnectionLimiter;
pub use listen::Address;
use listen::{Socket, Sockets};
pub use passed::{ADMIN as ADMIN_SOCKET, API as API_SOCKET, Passed, PassedError};
pub use settings::Settings;
pub use worker::DRAIN;
use worker::Worker;

/// The supervisor's name for the task that accepts connections to the admin listener.
const ADMIN_LISTENER: &str = "admin_listener";

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {address} cannot be listened on: {source}")]
pub struct BindError {
    /// The setting it comes from.
    pub setting: &'static str,
    /// The address.
    pub address: Address,
    /// The system's reason.
    pub source: io::Error,
}

/// The bound sockets: from here on no other program can take the ports.
#[derive(Debug)]
pub struct Bound {
    /// The first address of the data listener.
    pub api: Address,
    /// The first address of the admin listener.
    pub admin: Option<SocketAddr>,
    data: Sockets,
    admin_listeners: Vec<StdListener>,
    settings: Settings,
}

/// Binds both listeners, a loopback address on both families; those that were passed are taken as
/// they are.
///
/// # Errors
/// [`BindError`]: a port is taken, in either family, or the unix socket cannot be bound.
pub fn bind(settings: &Settings, passed: Passed) -> Result<Bound, BindError> {
    let fail = |setting, address| move |source| BindError { setting, address, source };
    let data = match passed.api.is_empty() {
        true => Sockets::bind(&settings.api),
        false => Sockets::adopt(passed.api),
    };
    let data = data.map_err(fail("listen.api", settings.api.clone()))?;
    let admin_listeners = match settings.admin {
        Some(_) if !passed.admin.is_empty() => listen::with_twins(passed.admin),
        Some(address) => listen::tcp(address),
        None => Ok(Vec::new()),
    };
    let named = settings.admin.map_or_else(|| settings.api.clone(), Address::Tcp);
    let admin_listeners = admin_listeners.map_err(fail("listen.admin", named))?;
    let api = data.port().map_or_else(|| settings.api.clone(), Address::Tcp);
    let admin = admin_listeners.first().and_then(|listener| listener.local_addr().ok());
    Ok(Bound { api, admin, data, admin_listeners, settings: settings.clone() })
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    draining: CancellationToken,
    workers: TaskTracker,
    /// Tasks of the admin listener, which goes on while requests are drained.
    admin_tasks: TaskTracker,
    ending: CancellationToken,
    /// Sockets of the data listener.
    sockets: Arc<Mutex<Vec<Socket>>>,
    /// The file of a unix socket.
    socket_file: Option<unix::SocketFile>,
}

impl Bound {
    /// Starts serving with one worker a core, or fewer if the system gives no more threads. Each
    /// has its own forwarder.
    ///
    /// # Errors
    /// The system gives not even one thread, or no socket.
    pub fn serve(
        self,
        forwarder: impl Fn() -> Forwarder,
        admin: Option<Router>,
        recorders: &Arc<Recorders>,
        supervisor: &Supervisor,
    ) -> io::Result<Running> {
        let (draining, ending) = (CancellationToken::new(), CancellationToken::new());
        let first = forwarder();
        let max = file_limits::max_admitted(self.settings.max_connections);
        let limiter = Arc::new(ConnectionLimiter::new(&self.settings, max));
        let mut first = Some(first);
        let sockets = Arc::new(Mutex::new(self.data.sockets));
        let (workers, connections) = (TaskTracker::new(), TaskTracker::new());
        for number in 0..thread::available_parallelism().map_or(1, Into::into) {
            let worker = Worker {
                forwarder: Arc::new(first.take().unwrap_or_else(&forwarder)),
                sockets: sockets.clone(),
                limiter: limiter.clone(),
                draining: draining.clone(),
                connections: connections.clone(),
                recorder: recorders.recorder(),
                supervisor: supervisor.clone(),
            };
            match worker.start(number, workers.token()) {
                Ok(()) => {}
                Err(error) if number == 0 => return Err(error),
                Err(error) => {
                    warn!(
                        "{number} data workers serve, the system gives no thread to more: {error}"
                    );
                    break;
                }
            }
        }
        let admin_tasks = TaskTracker::new();
        let limiter = Arc::new(ConnectionLimiter::new(&self.settings, file_limits::ADMIN));
        for socket in self.admin_listeners {
            let Some(router) = admin.clone() else { break };
            let (limiter, ending, supervisor) =
                (limiter.clone(), ending.clone(), supervisor.clone());
            admin_tasks.spawn(async move {
                let listener =
                    AdminListener { router, limiter, ending, connections: TaskTracker::new() };
                let listen = || listener.listen(&socket);
                supervise(ADMIN_LISTENER, &supervisor, &listener.ending, listen).await;
                listener.end().await;
            });
        }
        workers.close();
        admin_tasks.close();
        let socket_file = self.data.socket_file;
        Ok(Running { draining, workers, admin_tasks, ending, sockets, socket_file })
    }
}

impl Running {
    /// Accepts no more connections to the data listener, and waits for the current requests, at
    /// most [`DRAIN`].
    pub async fn drain(&mut self) {
        self.draining.cancel();
        // The next process may have the port or the socket's name.
        self.sockets.lock().clear();
        self.socket_file = None;
        // Workers end by their own deadline, unless one hangs.
        if timeout(DRAIN + Duration::from_secs(1), self.workers.wait()).await.is_err() {
            error!("a data worker hangs; what it was serving is cut off");
        }
    }

    /// Ends the admin listener, which has reported the status until now.
    pub async fn end(self) {
        self.ending.cancel();
        let _ = timeout(2 * ADMIN_DRAIN, self.admin_tasks.wait()).await;
    }
}
