//! Listeners, workers and the drain.
//!
//! Data workers are single-threaded runtimes, one a core, each with its own upstream connections and a clone of the
//! listening sockets. The admin listener runs on the caller's runtime.

mod connection;
mod listen;
mod room;
mod unix;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::proxy::Forwarder;
use crate::proxy::peer::Allowed;
pub use listen::Address;
use listen::{Accept, Socket, Sockets};
use room::{Place, Room};

/// How long requests under way are given at the end.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where tools talk.
    pub api: Address,
    /// Where people talk; none = off.
    pub admin: Option<SocketAddr>,
    /// Most client connections; 0 = as many as the file limit allows.
    pub max_connections: usize,
    /// Whose programs may call either listener.
    pub allowed: Allowed,
    /// How long a caller may take no bytes; none = for ever.
    pub idle_timeout: Option<Duration>,
}

/// An address that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {address} cannot be listened on: {source}")]
pub struct BindError {
    /// The setting that names it.
    pub setting: &'static str,
    /// The address.
    pub address: Address,
    /// The system's reason.
    pub source: io::Error,
}

/// Sockets that are bound: from here on nobody else can take the ports.
#[derive(Debug)]
pub struct Bound {
    /// The first address of the data listener.
    pub api: Address,
    /// The first address of the admin listener.
    pub admin: Option<SocketAddr>,
    data: Sockets,
    people: Vec<StdListener>,
    settings: Settings,
}

/// Binds both listeners, a loopback address on both families.
///
/// # Errors
/// [`BindError`]: a port is taken, on either family, or the unix socket cannot be had.
pub fn bind(settings: &Settings) -> Result<Bound, BindError> {
    let fail = |setting, address| move |source| BindError { setting, address, source };
    let data = Sockets::bind(&settings.api).map_err(fail("listen.api", settings.api.clone()))?;
    let people = match settings.admin {
        Some(address) => listen::tcp(address).map_err(fail("listen.admin", Address::Tcp(address)))?,
        None => Vec::new(),
    };
    let api = data.port().map_or_else(|| settings.api.clone(), Address::Tcp);
    let admin = people.first().and_then(|listener| listener.local_addr().ok());
    Ok(Bound { api, admin, data, people, settings: settings.clone() })
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    draining: CancellationToken,
    tasks: TaskTracker,
    workers: Vec<thread::JoinHandle<()>>,
    /// The file of a unix socket.
    name: Option<unix::Name>,
}

impl Bound {
    /// Starts serving. Each worker gets a forwarder of its own.
    ///
    /// # Errors
    /// The system gives no thread or socket.
    pub fn serve(self, forwarder: impl Fn() -> Forwarder, admin: Option<Router>) -> io::Result<Running> {
        let draining = CancellationToken::new();
        let room = Arc::new(Room::new(&self.settings));
        let connections = TaskTracker::new();
        let mut workers = Vec::new();
        for number in 0..thread::available_parallelism().map_or(1, Into::into) {
            let sockets = self.data.sockets.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>()?;
            let worker = Worker {
                forwarder: Arc::new(forwarder()),
                room: room.clone(),
                draining: draining.clone(),
                connections: connections.clone(),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || runtime.block_on(worker.run(sockets, number == 0));
            workers.push(thread::Builder::new().name(format!("worker-{number}")).spawn(work)?);
        }
        let tasks = TaskTracker::new();
        for listener in self.people {
            let Some(router) = admin.clone() else { break };
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(serve_admin(listener, router, room.clone(), draining.clone()));
        }
        tasks.close();
        Ok(Running { draining, tasks, workers, name: self.data.name })
    }
}

impl Running {
    /// Accepts nothing more, and waits for requests under way, at most [`DRAIN`].
    pub async fn drain(self) {
        self.draining.cancel();
        // From here on nobody accepts: the next process may have the name.
        drop(self.name);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in self.workers {
                if worker.join().is_err() {
                    error!("a worker panicked");
                }
            }
        });
        // Workers end by their own deadline; the second is for the scheduler's sake.
        let _ = timeout(DRAIN + Duration::from_secs(1), async { tokio::join!(joined, self.tasks.wait()) }).await;
    }
}

/// One thread's part of the data listener.
#[derive(Clone)]
struct Worker {
    forwarder: Arc<Forwarder>,
    room: Arc<Room>,
    draining: CancellationToken,
    /// Those of all workers: none ends before the last is served, since its upstream connections may be in use by others.
    connections: TaskTracker,
}

impl Worker {
    /// Serves until the drain; the first worker also keeps a connection to the API ready.
    async fn run(self, sockets: Vec<Socket>, is_first: bool) {
        for socket in sockets {
            let opened = match socket {
                Socket::Tcp(socket) => TcpListener::from_std(socket).map(|socket| self.open(socket)),
                Socket::Unix(socket) => UnixListener::from_std(socket).map(|socket| self.open(socket)),
            };
            if let Err(error) = opened {
                return error!("a worker cannot listen: {error}");
            }
        }
        let keep_ready = async {
            match is_first {
                true => self.forwarder.keep_ready().await,
                false => std::future::pending().await,
            }
        };
        self.draining.run_until_cancelled(keep_ready).await;
        self.connections.close();
        let _ = timeout(DRAIN, self.connections.wait()).await;
    }

    fn open(&self, listener: impl Accept) {
        let worker = self.clone();
        self.connections.spawn(async move {
            let accepting = accept(&listener, &worker.room, |stream, place| worker.start(stream, place));
            worker.draining.run_until_cancelled(accepting).await;
        });
    }

    fn start(&self, stream: impl connection::Stream, place: Place) {
        let (forwarder, draining) = (self.forwarder.clone(), self.draining.clone());
        self.connections.spawn(async move {
            let service = service_fn(|request| async {
                Ok::<_, Infallible>(match &place.refusal {
                    None => forwarder.answer(request).await,
                    Some(problem) => forwarder.refuse(problem.clone()),
                })
            });
            connection::serve(stream, service, place.activity.clone(), draining).await;
        });
    }
}

async fn serve_admin(listener: TcpListener, router: Router, room: Arc<Room>, draining: CancellationToken) {
    let tasks = TaskTracker::new();
    let accepting = accept(&listener, &room, |stream, place| {
        let service = TowerToHyperService::new(router.clone());
        let draining = draining.clone();
        tasks.spawn(async move {
            let activity = place.activity.clone();
            let Some(problem) = &place.refusal else {
                return connection::serve(stream, service, activity, draining).await;
            };
            let refuse = service_fn(|_| async { Ok::<_, Infallible>(problem.clone().into_response()) });
            connection::serve(stream, refuse, activity, draining).await;
        });
    });
    draining.run_until_cancelled(accepting).await;
    tasks.close();
    let _ = timeout(DRAIN, tasks.wait()).await;
}

/// Accepts for ever; each connection gets a place in the room, if only to be told why it is turned away.
async fn accept<L: Accept>(listener: &L, room: &Arc<Room>, start: impl Fn(L::Stream, Place)) {
    loop {
        match listener.accept().await {
            Ok((stream, caller)) => {
                if let Some(place) = Room::enter(room, caller) {
                    start(stream, place);
                }
            }
            Err(error) => {
                warn!("a connection could not be accepted: {error}");
                room.make_space();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
