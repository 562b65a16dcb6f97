//! Listeners, workers and the drain.
//!
//! Data workers are single-threaded runtimes, one a core, each with its own upstream connections
//! and a clone of the listening sockets. The admin listener runs on the caller's runtime. All of
//! them are started again if they stop.

mod activity;
mod beside;
mod connection;
mod files;
mod framing;
mod listen;
mod malformed;
mod room;
mod unix;
mod wire;
mod worker;

use parking_lot::Mutex;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::proxy::Forwarder;
use crate::proxy::peer::Peers;
use crate::supervise::{Supervisor, supervise};
use crate::telemetry::Repeats;
pub use beside::beside;
pub use files::max_connections;
pub use listen::Address;
use listen::{Accept, Socket, Sockets};
use room::{Place, Room};
use worker::Worker;

/// How long requests under way are given at the end.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long the admin listener's last answers are given after everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin: at
/// first and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));
/// What somebody who is turned away gets for a request, and to read why.
const TURNED_AWAY: Duration = Duration::from_secs(5);
/// What the supervisor calls the task that accepts what people and operators send.
const ADMIN_LISTENER: &str = "admin_listener";

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
    pub peers: Peers,
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
        Some(address) => {
            listen::tcp(address).map_err(fail("listen.admin", Address::Tcp(address)))?
        }
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
    workers: TaskTracker,
    /// The admin listener, which goes on while requests are drained.
    people: TaskTracker,
    ending: CancellationToken,
    /// Those of the data listener.
    sockets: Arc<Mutex<Vec<Socket>>>,
    /// The file of a unix socket.
    name: Option<unix::Name>,
}

impl Bound {
    /// Starts serving, with a worker a core or as many as the system gives threads for. Each gets a
    /// forwarder of its own.
    ///
    /// # Errors
    /// The system gives not even one thread, or no socket.
    pub fn serve(
        self,
        forwarder: impl Fn() -> Forwarder,
        admin: Option<Router>,
        supervisor: &Supervisor,
    ) -> io::Result<Running> {
        let (draining, ending) = (CancellationToken::new(), CancellationToken::new());
        let room =
            Arc::new(Room::new(&self.settings, files::places(self.settings.max_connections)));
        let sockets = Arc::new(Mutex::new(self.data.sockets));
        let (workers, connections) = (TaskTracker::new(), TaskTracker::new());
        for number in 0..thread::available_parallelism().map_or(1, Into::into) {
            let worker = Worker {
                forwarder: Arc::new(forwarder()),
                sockets: sockets.clone(),
                room: room.clone(),
                draining: draining.clone(),
                connections: connections.clone(),
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
        let people = TaskTracker::new();
        let admin_room = Arc::new(Room::new(&self.settings, files::ADMIN));
        for listener in self.people {
            let Some(router) = admin.clone() else { break };
            let (room, ending, supervisor) =
                (admin_room.clone(), ending.clone(), supervisor.clone());
            people.spawn(async move {
                let people = People { router, room, ending, connections: TaskTracker::new() };
                supervise(ADMIN_LISTENER, &supervisor, &people.ending, || people.listen(&listener))
                    .await;
                people.end().await;
            });
        }
        workers.close();
        people.close();
        Ok(Running { draining, workers, people, ending, sockets, name: self.data.name })
    }
}

impl Running {
    /// Accepts no more requests of tools, and waits for those under way, at most [`DRAIN`].
    pub async fn drain(&mut self) {
        self.draining.cancel();
        // From here on nobody accepts: the next process may have port and name.
        self.sockets.lock().clear();
        self.name = None;
        // Workers end by their own deadline. One that hangs is left behind.
        if timeout(DRAIN + Duration::from_secs(1), self.workers.wait()).await.is_err() {
            error!("a data worker hangs; what it was serving is cut off");
        }
    }

    /// Ends the admin listener, which told until now how things stood.
    pub async fn end(self) {
        self.ending.cancel();
        let _ = timeout(2 * LAST_ANSWERS, self.people.wait()).await;
    }
}

/// A listener for people and operators.
struct People {
    router: Router,
    room: Arc<Room>,
    ending: CancellationToken,
    connections: TaskTracker,
}

impl People {
    /// Listens on another name for the same socket, so that a start that fails can be tried again.
    async fn listen(&self, listener: &StdListener) {
        match listener.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => self.accept(&listener).await,
            Err(error) => error!("the admin listener cannot be listened on: {error}"),
        }
    }

    async fn accept(&self, listener: &TcpListener) {
        accept(listener, &self.room, |stream, place| self.serve(stream, place)).await;
    }

    fn serve(&self, stream: TcpStream, place: Place) {
        let (router, ending) = (TowerToHyperService::new(self.router.clone()), self.ending.clone());
        self.connections.spawn(async move {
            let activity = place.activity();
            if let Some(problem) = &place.refusal {
                let refuse =
                    service_fn(|_| async { Ok::<_, Infallible>(problem.clone().into_response()) });
                return turn_away(connection::serve(stream, refuse, activity, ending)).await;
            }
            let service = service_fn(|request| {
                place.heard();
                router.call(request)
            });
            connection::serve(stream, service, activity, ending).await;
        });
    }

    /// Gives the last answers their moment.
    async fn end(&self) {
        self.connections.close();
        let _ = timeout(LAST_ANSWERS, self.connections.wait()).await;
    }
}

/// Serves somebody who may not come in: a silent one does not stay.
async fn turn_away(serving: impl Future<Output = ()>) {
    let _ = timeout(TURNED_AWAY, serving).await;
}

/// Accepts for ever; each connection gets a place in the room, if only to be told why it is turned
/// away.
async fn accept<L: Accept>(listener: &L, room: &Arc<Room>, start: impl Fn(L::Stream, Place)) {
    let (failures, mut pause) = (Repeats::new("connections could not be accepted"), ACCEPT_PAUSE.0);
    loop {
        match listener.accept().await {
            Ok((stream, caller)) => {
                pause = ACCEPT_PAUSE.0;
                if let Some(place) = Room::enter(room, caller).await {
                    start(stream, place);
                }
            }
            Err(error) if is_the_callers(&error) => {}
            Err(error) => {
                if failures.admits() {
                    warn!("a connection could not be accepted: {error}");
                }
                room.make_space();
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
}

/// The caller left while it was accepted.
fn is_the_callers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}
