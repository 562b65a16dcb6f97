//! Listeners, workers and the drain.
//!
//! Data workers are single-threaded runtimes, one a core, each with its own upstream connections and a clone of the
//! listening sockets. The admin listener runs on the caller's runtime.

mod connection;
mod room;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::proxy::Forwarder;
use crate::proxy::peer::Allowed;
use room::{Place, Room};

/// How long requests under way are given at the end.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where tools talk.
    pub api: SocketAddr,
    /// Where people talk; none = off.
    pub admin: Option<SocketAddr>,
    /// Most client connections; 0 = as many as the file limit allows.
    pub max_connections: usize,
    /// Whose programs may call either listener.
    pub allowed: Allowed,
    /// How long a caller may take no bytes; none = for ever.
    pub idle_timeout: Option<Duration>,
}

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{setting} = {address} cannot be listened on: {source}")]
pub struct BindError {
    /// The setting that names it.
    pub setting: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// The system's reason.
    pub source: io::Error,
}

/// Sockets that are bound: from here on nobody else can take the ports.
#[derive(Debug)]
pub struct Bound {
    /// The first address of the data listener.
    pub api: SocketAddr,
    /// The first address of the admin listener.
    pub admin: Option<SocketAddr>,
    data: Vec<StdListener>,
    people: Vec<StdListener>,
    settings: Settings,
}

/// Binds both listeners, each on both loopback families.
///
/// # Errors
/// [`BindError`]: a port is taken, on either family.
pub fn bind(settings: &Settings) -> Result<Bound, BindError> {
    let fail = |setting, address| move |source| BindError { setting, address, source };
    let data = listen(settings.api).map_err(fail("listen.api", settings.api))?;
    let people = match settings.admin {
        Some(address) => listen(address).map_err(fail("listen.admin", address))?,
        None => Vec::new(),
    };
    let first = |listeners: &[StdListener]| listeners.first().and_then(|listener| listener.local_addr().ok());
    let api = first(&data).unwrap_or(settings.api);
    Ok(Bound { api, admin: first(&people), data, people, settings: settings.clone() })
}

/// One address, and its twin in the other family if it is loopback: `localhost` must not lead to somebody else.
fn listen(address: SocketAddr) -> io::Result<Vec<StdListener>> {
    let twin: Option<IpAddr> = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    // With port 0 the kernel's choice for one family may be taken in the other.
    let tries = if address.port() == 0 { 20 } else { 1 };
    let mut last = io::Error::other("no port is free in both families");
    for _ in 0..tries {
        let first = bind_one(address)?;
        let Some(twin) = twin else { return Ok(vec![first]) };
        match bind_one(SocketAddr::new(twin, first.local_addr()?.port())) {
            Ok(second) => return Ok(vec![first, second]),
            Err(error) if is_absent(&error) => return Ok(vec![first]),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let listener = StdListener::bind(address)?;
    listener.set_nonblocking(true)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

/// A kernel without this family, where nobody can be led astray.
fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    absent.iter().any(|absent| error.raw_os_error() == Some(absent.raw_os_error()))
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    draining: CancellationToken,
    tasks: TaskTracker,
    workers: Vec<thread::JoinHandle<()>>,
}

impl Bound {
    /// Starts serving. Each worker gets a forwarder of its own.
    ///
    /// # Errors
    /// The system gives no thread or socket.
    pub fn serve(self, forwarder: impl Fn() -> Forwarder, admin: Option<Router>) -> io::Result<Running> {
        let draining = CancellationToken::new();
        let room = Arc::new(Room::new(&self.settings));
        let mut workers = Vec::new();
        for number in 0..thread::available_parallelism().map_or(1, Into::into) {
            let listeners = self.data.iter().map(StdListener::try_clone).collect::<io::Result<Vec<_>>>()?;
            let (forwarder, room, draining) = (Arc::new(forwarder()), room.clone(), draining.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = move || runtime.block_on(worker(listeners, forwarder, room, draining));
            workers.push(thread::Builder::new().name(format!("worker-{number}")).spawn(work)?);
        }
        let tasks = TaskTracker::new();
        for listener in self.people {
            let Some(router) = admin.clone() else { break };
            let listener = TcpListener::from_std(listener)?;
            tasks.spawn(serve_admin(listener, router, room.clone(), draining.clone()));
        }
        tasks.close();
        Ok(Running { draining, tasks, workers })
    }
}

impl Running {
    /// Accepts nothing more, and waits for requests under way, at most [`DRAIN`].
    pub async fn drain(self) {
        self.draining.cancel();
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

async fn worker(listeners: Vec<StdListener>, forwarder: Arc<Forwarder>, room: Arc<Room>, draining: CancellationToken) {
    let connections = TaskTracker::new();
    for listener in listeners {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return error!("a worker cannot listen: {error}"),
        };
        let (forwarder, room, draining) = (forwarder.clone(), room.clone(), draining.clone());
        let tasks = connections.clone();
        connections.spawn(async move {
            let accepting = accept(&listener, &room, |stream, place| {
                let forwarder = forwarder.clone();
                let draining = draining.clone();
                tasks.spawn(async move {
                    let service = service_fn(|request| async {
                        Ok::<_, Infallible>(match &place.refusal {
                            None => forwarder.answer(request).await,
                            Some(problem) => forwarder.refuse(problem.clone()),
                        })
                    });
                    connection::serve(stream, service, place.activity.clone(), draining).await;
                });
            });
            draining.run_until_cancelled(accepting).await;
        });
    }
    draining.cancelled().await;
    connections.close();
    let _ = timeout(DRAIN, connections.wait()).await;
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
async fn accept(listener: &TcpListener, room: &Arc<Room>, start: impl Fn(TcpStream, Place)) {
    loop {
        match listener.accept().await {
            // A loopback listener has loopback peers, whatever a router may have been told.
            Ok((_, peer)) if is_stray(listener, peer) => warn!(%peer, "a peer that is not local was turned away"),
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                if let Some(place) = Room::enter(room, &stream, peer) {
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

fn is_stray(listener: &TcpListener, peer: SocketAddr) -> bool {
    let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    listener.local_addr().is_ok_and(is_local) && !is_local(peer)
}
