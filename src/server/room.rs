//! The client connections of one listener: who may come in, how many, and who makes room.
//!
//! Those who may call have the places. Callers beyond them make room if they rest, longest first;
//! where nobody does, a few more are let in to be told so, and further ones wait in the kernel's
//! queue. Strangers have a few places of their own, to be told why they are turned away.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::Settings;
use super::activity::{Activity, Doing};
use super::files;
use super::listen::Caller;
use crate::proxy::peer::{Peer, Peers};
use crate::proxy::reply::{Code, Problem};
use crate::telemetry::Repeats;

/// Connections at rest that are closed together to make room for new ones, at most.
const EVICTED: usize = 32;
/// A connection that rests for less is closed only if it is the longest-resting one.
const LONG_REST: Duration = Duration::from_secs(10);
/// How long nobody makes room who has just come, or is in the middle of a head: at first, and at
/// least. It is halved for each caller who finds nobody older, so that many silent ones keep nobody
/// waiting for long, and grows again.
const GRACE: Duration = Duration::from_secs(1);
const LEAST_GRACE: Duration = Duration::from_millis(4);
/// How much the grace grows with each caller who finds room at once: by this part of it.
const GROWTH: u32 = 256;
/// Longest wait for a place to be given back before connections are looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// All client connections of a listener.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    peers: Peers,
    patience: Option<Duration>,
    start: Instant,
    next: AtomicUsize,
    guests: Mutex<Guests>,
    /// A place was given back.
    left: Notify,
    strangers: Repeats,
}

#[derive(Debug)]
struct Guests {
    served: HashMap<usize, Arc<Guest>>,
    /// Those whose place was given away and whose connection has not ended yet.
    leaving: HashMap<usize, Arc<Guest>>,
    overloaded: usize,
    strangers: usize,
    grace: Duration,
}

#[derive(Debug)]
struct Guest {
    activity: Arc<Activity>,
    /// A request of it has been heard.
    is_known: AtomicBool,
}

impl Guests {
    /// Places that are taken. Whoever got a request in the moment it was to go is answered first,
    /// and counts.
    fn taken(&self) -> usize {
        self.served.len() + self.leaving.values().filter(|guest| guest.is_at_work()).count()
    }
}

impl Guest {
    fn is_at_work(&self) -> bool {
        self.activity.resting_since().is_none()
    }
}

/// A connection's place, given back when it ends.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    kind: Kind,
    guest: Arc<Guest>,
    /// What every request on it is answered, if it may not come in.
    pub(super) refusal: Option<Problem>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Served(usize),
    Overloaded,
    Stranger,
}

impl Place {
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.guest.activity.clone()
    }

    /// A request came: from now on its rests make room.
    pub(super) fn heard(&self) {
        self.guest.is_known.store(true, Ordering::Relaxed);
    }
}

/// What came of looking for somebody who makes room.
enum Sought {
    Ended,
    /// Some do nothing, and the oldest of them will have done so for long enough in this time.
    TooYoung(Duration),
    /// All are at work.
    Nobody,
}

/// What becomes of a caller.
enum Verdict {
    Welcome,
    Stranger(Problem),
    /// Dropped without a word.
    Gone,
}

impl Room {
    pub(super) fn new(settings: &Settings, most: usize) -> Self {
        Self {
            most,
            peers: settings.peers.clone(),
            patience: settings.idle_timeout,
            start: Instant::now(),
            next: AtomicUsize::new(0),
            guests: Mutex::new(Guests {
                served: HashMap::new(),
                leaving: HashMap::new(),
                overloaded: 0,
                strangers: 0,
                grace: GRACE,
            }),
            left: Notify::new(),
            strangers: Repeats::new("callers of other users were turned away"),
        }
    }

    /// A place for a connection, once there is one; none if its caller is turned away without a
    /// word.
    pub(super) async fn enter(room: &Arc<Self>, caller: Caller) -> Option<Place> {
        match room.judge(caller) {
            Verdict::Gone => None,
            Verdict::Stranger(problem) => {
                let mut guests = room.lock();
                (guests.strangers < files::STRANGERS).then(|| {
                    guests.strangers += 1;
                    room.place(Kind::Stranger, Some(problem))
                })
            }
            Verdict::Welcome => {
                if let Caller::Unix { process: Some(process), .. } = caller {
                    debug!(process, program = program(process), "a program connected");
                }
                Some(Self::admit(room).await)
            }
        }
    }

    /// Callers who may come in wait for a place, and with them those who are not accepted yet.
    async fn admit(room: &Arc<Self>) -> Place {
        loop {
            let mut left = pin!(room.left.notified());
            left.as_mut().enable();
            match room.try_admit() {
                Ok(place) => return place,
                // Also without a place given back: connections become old enough to make room.
                Err(wait) => drop(timeout(wait.min(LOOK), left).await),
            }
        }
    }

    /// A place, or when to look again.
    fn try_admit(self: &Arc<Self>) -> Result<Place, Duration> {
        let mut guests = self.lock();
        while guests.taken() >= self.most {
            match self.evict(&mut guests) {
                Sought::Ended => {}
                Sought::TooYoung(left) => return Err(left),
                Sought::Nobody if guests.overloaded < files::OVERLOADED => {
                    guests.overloaded += 1;
                    return Ok(self.place(Kind::Overloaded, Some(overload())));
                }
                Sought::Nobody => return Err(LOOK),
            }
        }
        Ok(self.serve(&mut guests))
    }

    fn serve(self: &Arc<Self>, guests: &mut Guests) -> Place {
        guests.grace = GRACE.min(guests.grace + guests.grace / GROWTH);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = self.place(Kind::Served(number), None);
        guests.served.insert(number, place.guest.clone());
        place
    }

    fn place(self: &Arc<Self>, kind: Kind, refusal: Option<Problem>) -> Place {
        let activity = Activity::new(self.start, self.patience);
        let guest = Arc::new(Guest { activity, is_known: AtomicBool::new(false) });
        Place { room: self.clone(), kind, guest, refusal }
    }

    /// The same-user check, once a connection. Callers from other machines are no users of this
    /// one: a listener that they reach requires the local key instead.
    fn judge(&self, caller: Caller) -> Verdict {
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let verdict = match caller {
            Caller::Tcp { local, .. } if !is_local(local) => return Verdict::Welcome,
            Caller::Tcp { peer, .. } if !is_local(peer) => {
                // A loopback listener has loopback peers, whatever a router may have been told.
                if self.strangers.admits() {
                    warn!(%peer, "a peer that is not local was turned away");
                }
                return Verdict::Gone;
            }
            Caller::Tcp { local, peer } => self.peers.allowed.judge(local, peer),
            Caller::Unix { user, .. } => Ok(self.peers.allowed.judge_user(user)),
        };
        match verdict {
            Ok(Peer::Welcome) => Verdict::Welcome,
            Ok(Peer::Foreign(uid)) => {
                if self.strangers.admits() {
                    warn!(
                        uid,
                        "a program of another user was turned away; guard.peer_check names who may call"
                    );
                }
                Verdict::Stranger(self.peers.allowed.refusal(uid))
            }
            Ok(Peer::Unknown) => {
                debug!(?caller, "a caller that cannot be told was turned away");
                Verdict::Gone
            }
            Err(error) => Verdict::Stranger(self.peers.unsaid(&error)),
        }
    }

    /// Ends connections that rest, to get their files back.
    pub(super) fn make_space(&self) {
        self.evict(&mut self.lock());
    }

    /// Ends the connection that has been silent, or busy with one head, for longest, and others
    /// that rest for long.
    fn evict(&self, guests: &mut Guests) -> Sought {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let age = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let (mut may_go, mut oldest) = (Vec::new(), None);
        for (number, guest) in &guests.served {
            let Some(since) = guest.activity.resting_since() else { continue };
            let is_at_rest =
                guest.is_known.load(Ordering::Relaxed) && guest.activity.doing() != Doing::Head;
            match is_at_rest || age(since) >= guests.grace {
                true => may_go.push((since, *number)),
                false => oldest = oldest.max(Some(age(since))),
            }
        }
        may_go.sort_unstable();
        let most = EVICTED.min(self.most.div_ceil(8));
        let long =
            may_go.iter().take(most).take_while(|(since, _)| age(*since) >= LONG_REST).count();
        for (_, number) in may_go.iter().take(long.max(1)) {
            // Out at once, though its connection is yet to end: a place is given away only once.
            if let Some(guest) = guests.served.remove(number) {
                guest.activity.evict();
                guests.leaving.insert(*number, guest);
            }
        }
        match (may_go.is_empty(), oldest) {
            (false, _) => Sought::Ended,
            (true, None) => Sought::Nobody,
            (true, Some(oldest)) => {
                guests.grace = LEAST_GRACE.max(guests.grace / 2);
                Sought::TooYoung(guests.grace.saturating_sub(oldest))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.room.lock();
        // Those who wait look again only where they can find something: each look hurries those who
        // are silent.
        let is_room = match self.kind {
            Kind::Served(number) => {
                let leaving = guests.leaving.remove(&number);
                guests.served.remove(&number).is_some()
                    || leaving.is_some_and(|guest| guest.is_at_work())
            }
            Kind::Overloaded => {
                guests.overloaded -= 1;
                true
            }
            Kind::Stranger => {
                guests.strangers -= 1;
                false
            }
        };
        drop(guests);
        if is_room {
            self.room.left.notify_one();
        }
    }
}

/// A process's name, where the kernel shows it.
fn program(process: i32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().escape_default().to_string())
}

fn overload() -> Problem {
    let detail = "all connections are busy";
    Problem::new(
        Code::Overloaded,
        detail,
        "Send fewer requests at once, or raise listen.max_connections.",
    )
    .retry_after(Duration::from_secs(1))
    .closing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::peer::Allowed;

    fn room(most: usize) -> Arc<Room> {
        let peers = Peers::new(Allowed::Users(vec![1]));
        let settings = Settings {
            api: crate::server::Address::Unix("unused".into()),
            admin: None,
            max_connections: most,
            peers,
            idle_timeout: None,
        };
        Arc::new(Room::new(&settings, most))
    }

    async fn enter(room: &Arc<Room>, user: u32) -> Option<Place> {
        let caller = Caller::Unix { user: Some(user), process: None };
        timeout(Duration::from_millis(1), Room::enter(room, caller)).await.ok().flatten()
    }

    async fn served(room: &Arc<Room>) -> Place {
        let place = enter(room, 1).await.unwrap();
        assert!(place.refusal.is_none());
        place
    }

    async fn wait(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn is_in(room: &Room, place: &Place) -> bool {
        let Kind::Served(number) = place.kind else { return false };
        room.lock().served.contains_key(&number)
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_makes_no_room_and_who_rests_longest_does() {
        let room = room(3);
        let (first, second, third) =
            (served(&room).await, served(&room).await, served(&room).await);
        assert!(enter(&room, 1).await.is_none(), "all have just come: it waits");
        second.heard();
        let fourth = served(&room).await;
        assert!(
            is_in(&room, &first) && !is_in(&room, &second) && is_in(&room, &third),
            "only one was at rest"
        );
        tokio::time::sleep(GRACE).await;
        // Silent from the start, and by now for too long.
        let fifth = served(&room).await;
        assert!(
            !is_in(&room, &first)
                && is_in(&room, &third)
                && is_in(&room, &fourth)
                && is_in(&room, &fifth)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_are_at_work_callers_are_told_and_a_head_under_way_is_no_rest() {
        let room = room(2);
        let (first, second) = (served(&room).await, served(&room).await);
        first.heard();
        first.activity().set(Doing::Serving);
        second.heard();
        second.activity().set(Doing::Head);
        assert!(enter(&room, 1).await.is_none(), "a head has just begun: it waits");
        second.activity().set(Doing::Serving);
        assert!(enter(&room, 1).await.unwrap().refusal.is_some());
        assert!(is_in(&room, &first) && is_in(&room, &second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_silent_callers_a_second_keep_nobody_waiting_for_a_second() {
        let room = room(40);
        let caller = Caller::Unix { user: Some(1), process: None };
        let (mut places, mut longest) = (Vec::new(), Duration::ZERO);
        for number in 1..10_000_u32 {
            // One listener takes them in the order in which they came, each a millisecond after the
            // one before.
            let came = room.start + Duration::from_millis(number.into());
            tokio::time::sleep_until(came).await;
            let place = Room::enter(&room, caller).await.unwrap();
            assert!(place.refusal.is_none());
            longest = longest.max(came.elapsed());
            places.push(place);
            places.retain(|place| is_in(&room, place));
        }
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        drop(places);
        for _ in 0..2000 {
            served(&room).await;
        }
        assert_eq!(room.lock().grace, GRACE, "nobody is hurried any more");
    }

    #[tokio::test(start_paused = true)]
    async fn long_rests_are_ended_in_batches_and_short_ones_singly() {
        let room = room(64);
        let mut places = Vec::new();
        for _ in 0..64 {
            let place = served(&room).await;
            place.heard();
            places.push(place);
        }
        let _one = served(&room).await;
        assert_eq!(room.lock().served.len(), 64);
        wait(LONG_REST.as_secs()).await;
        let _more = served(&room).await;
        assert_eq!(room.lock().served.len(), 64 - 8 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_take_no_place_and_end_nobodys_connection() {
        let room = room(1);
        let owner = served(&room).await;
        owner.heard();
        let mut strangers = Vec::new();
        for _ in 0..1000 {
            strangers.extend(enter(&room, 2).await);
        }
        assert_eq!(strangers.len(), files::STRANGERS);
        assert!(strangers.iter().all(|place| place.refusal.is_some()));
        assert!(is_in(&room, &owner));
        strangers.pop();
        assert!(enter(&room, 2).await.is_some(), "a place was given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_the_moment_of_an_eviction_keeps_its_place_until_it_is_answered() {
        let room = room(1);
        let first = served(&room).await;
        first.heard();
        let second = served(&room).await;
        second.heard();
        assert!(!is_in(&room, &first) && is_in(&room, &second));
        first.activity().set(Doing::Serving);
        assert!(
            enter(&room, 1).await.unwrap().refusal.is_some(),
            "one is served: there is no other place"
        );
        drop(first);
        served(&room).await;
        drop(second);
        assert!(room.lock().leaving.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_and_goes_without_a_place_hurries_nobody() {
        let room = room(2);
        let (resting, _silent) = (served(&room).await, served(&room).await);
        resting.heard();
        let _new = served(&room).await;
        assert!(!is_in(&room, &resting));
        let stranger = enter(&room, 2).await.unwrap();
        let caller = Caller::Unix { user: Some(1), process: None };
        let waiting = tokio::spawn({
            let room = room.clone();
            async move { Room::enter(&room, caller).await }
        });
        tokio::task::yield_now().await;
        let grace = room.lock().grace;
        assert!(grace < GRACE, "it waits");
        drop((stranger, resting));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(room.lock().grace, grace, "it has looked once");
        assert!(waiting.await.unwrap().unwrap().refusal.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_those_who_are_told_callers_wait_and_nobody_is_dropped() {
        let room = room(1);
        let busy = served(&room).await;
        busy.activity().set(Doing::Serving);
        let mut told = Vec::new();
        for _ in 0..files::OVERLOADED {
            told.push(enter(&room, 1).await.unwrap());
        }
        assert!(told.iter().all(|place| place.refusal.is_some()));
        assert!(enter(&room, 1).await.is_none(), "it waits");
        let caller = Caller::Unix { user: Some(1), process: None };
        let (place, ()) = tokio::join!(Room::enter(&room, caller), async { drop(busy) });
        assert!(place.unwrap().refusal.is_none());
    }
}
