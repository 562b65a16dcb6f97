//! All client connections: who may come in, how many, and who makes room: those without a whole request.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::Settings;
use super::connection::Activity;
use super::listen::Caller;
use crate::proxy::peer::{Allowed, Peer};
use crate::proxy::reply::{Code, Problem};

/// Connections at rest, or in the middle of a head, that are closed together to make room for new ones.
const EVICTED: usize = 32;
/// File descriptors that are not for client connections: listeners, store, logs, the token endpoint.
const SPARE_FILES: usize = 64;
/// Most connections, whatever the file limit.
const MOST_CONNECTIONS: usize = 20_000;

/// All client connections, counted; at the limit the ones that rest longest make room.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    allowed: Allowed,
    patience: Option<Duration>,
    start: Instant,
    next: AtomicUsize,
    places: Mutex<HashMap<usize, Arc<Activity>>>,
}

/// A connection's place, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    number: usize,
    room: Arc<Room>,
    pub(super) activity: Arc<Activity>,
    /// What every request on it is answered, if it may not come in.
    pub(super) refusal: Option<Problem>,
}

impl Room {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            most: most_connections(settings.max_connections),
            allowed: settings.allowed.clone(),
            patience: settings.idle_timeout,
            start: Instant::now(),
            next: AtomicUsize::new(0),
            places: Mutex::default(),
        }
    }

    /// A place for a connection; none if its caller is gone already.
    pub(super) fn enter(room: &Arc<Self>, caller: Caller) -> Option<Place> {
        let foreign = room.judge(caller).ok()?;
        if let (None, Caller::Unix { process: Some(process), .. }) = (&foreign, caller) {
            debug!(process, program = program(process), "a program connected");
        }
        let is_full = room.lock().len() >= room.most;
        let overloaded = (is_full && room.make_space() == 0).then(overload);
        let activity = Activity::new(room.start, room.patience);
        let number = room.next.fetch_add(1, Ordering::Relaxed);
        room.lock().insert(number, activity.clone());
        Some(Place { number, room: room.clone(), activity, refusal: foreign.or(overloaded) })
    }

    /// The same-user check, once a connection. Callers from other machines are no users of this one: a listener that
    /// they reach requires the local key instead.
    fn judge(&self, caller: Caller) -> Result<Option<Problem>, Gone> {
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let verdict = match caller {
            Caller::Tcp { local, .. } if !is_local(local) => return Ok(None),
            Caller::Tcp { peer, .. } if !is_local(peer) => {
                // A loopback listener has loopback peers, whatever a router may have been told.
                warn!(%peer, "a peer that is not local was turned away");
                return Err(Gone);
            }
            Caller::Tcp { local, peer } => self.allowed.judge(local, peer),
            Caller::Unix { user, .. } => Ok(self.allowed.judge_user(user)),
        };
        match verdict {
            Ok(Peer::Welcome) => Ok(None),
            Ok(Peer::Foreign(uid)) => {
                warn!(uid, "a program of another user was turned away; guard.peer_check names who may call");
                Ok(Some(foreign(uid)))
            }
            Ok(Peer::Unknown) => {
                debug!(?caller, "a caller that cannot be told was turned away");
                Err(Gone)
            }
            Err(error) => {
                warn!("callers cannot be checked ({error}), so they are turned away; see guard.peer_check");
                Err(Gone)
            }
        }
    }

    /// Ends the connections that have been silent, or busy with one head, for longest; returns how many.
    pub(super) fn make_space(&self) -> usize {
        let mut places = self.lock();
        let resting = |(number, activity): (&usize, &Arc<Activity>)| Some((activity.resting_since()?, *number));
        let mut resting: Vec<_> = places.iter().filter_map(resting).collect();
        resting.sort_unstable();
        let evicted = resting.len().min(EVICTED.min(self.most.div_ceil(8)));
        for (_, number) in resting.iter().take(evicted) {
            // Out at once, though its connection is yet to end: a place is given away only once.
            if let Some(activity) = places.remove(number) {
                activity.evict();
            }
        }
        evicted
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Activity>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().remove(&self.number);
    }
}

/// A process's name, where the kernel shows it.
fn program(process: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().escape_default().to_string())
}

/// A caller whose connection is dropped without a word.
#[derive(Debug)]
struct Gone;

/// Each client connection may need one upstream connection beside it.
fn most_connections(configured: usize) -> usize {
    if configured > 0 {
        return configured;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    (files.saturating_sub(SPARE_FILES) / 2).clamp(16, MOST_CONNECTIONS)
}

fn overload() -> Problem {
    let detail = "all connections are busy";
    Problem::new(Code::Overloaded, detail, "Send fewer requests at once, or raise listen.max_connections.")
        .retry_after(Duration::from_secs(1))
        .closing()
}

fn foreign(uid: u32) -> Problem {
    let fix = format!("Call as the user that runs the proxy, or list yours: guard.peer_check = [{uid}] (or \"off\").");
    Problem::new(Code::ForbiddenPeer, format!("this proxy does not serve user {uid}"), fix).closing()
}
