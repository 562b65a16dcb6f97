//! The client connections of one listener: who is admitted, how many, and which one is closed to
//! make room.
//!
//! Allowed callers share a limited number of slots. When all are taken, the longest-idle connection
//! is evicted; if none is idle, a few callers more are admitted to be told so, and the others wait
//! in the kernel's queue. Callers that fail the peer check have a few slots of their own, in which
//! they are told why.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::file_limits;
use super::settings::Settings;
use crate::exchange::Caller;
use crate::exchange::activity::{Activity, Phase};
use crate::platform::processes;
use crate::problem::{Code, Problem};
use crate::proxy::peer::{Peer, Peers};
use crate::telemetry::Repeats;

/// Idle connections that are evicted together, at most.
const MAX_EVICTED: usize = 32;
/// A connection that is idle for less is evicted only if it is the longest-idle one.
const LONG_IDLE: Duration = Duration::from_secs(10);
/// How long a connection is not evicted that has just been accepted or is in the middle of a head.
/// Halved for each caller that finds nothing else to evict, so that many silent connections delay
/// nobody for long; then it grows again.
const GRACE: Duration = Duration::from_secs(1);
const MIN_GRACE: Duration = Duration::from_millis(4);
/// Each caller that finds a free slot lengthens the grace by this part of it.
const GRACE_GROWTH: u32 = 256;
/// Longest wait for a free slot until the connections are examined again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Admits the client connections of a listener.
#[derive(Debug)]
pub(super) struct ConnectionLimiter {
    max: usize,
    peers: Peers,
    stall_limit: Option<Duration>,
    start: Instant,
    next: AtomicUsize,
    slots: Mutex<Slots>,
    /// Notified when a slot becomes free.
    freed: Notify,
    refusals: Repeats,
}

#[derive(Debug)]
struct Slots {
    admitted: HashMap<usize, Arc<Activity>>,
    /// Evicted connections that have not ended yet.
    evicted: HashMap<usize, Arc<Activity>>,
    overloaded: usize,
    refused: usize,
    grace: Duration,
}

impl Slots {
    /// Slots that are taken. A connection that got a request in the moment of its eviction is
    /// answered first, and counts.
    fn taken(&self) -> usize {
        self.admitted.len() + self.evicted.values().filter(|activity| is_busy(activity)).count()
    }
}

fn is_busy(activity: &Activity) -> bool {
    activity.evictable_since().is_none()
}

/// The slot of a connection, freed when dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    kind: Kind,
    /// What the connection is doing.
    pub(super) activity: Arc<Activity>,
    /// The response to every request on it, if its caller is not admitted.
    pub(super) refusal: Option<Problem>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Admitted(usize),
    Overloaded,
    Refused,
}

/// The result of an attempt to evict.
enum Eviction {
    Evicted,
    /// Some connections could be evicted once this time has passed.
    TooEarly(Duration),
    /// All connections are busy.
    AllBusy,
}

/// The result of the peer check.
enum Verdict {
    Allowed,
    Refused(Problem),
    /// The connection is closed without a response.
    Dropped,
}

impl ConnectionLimiter {
    pub(super) fn new(settings: &Settings, max: usize) -> Self {
        Self {
            max,
            peers: settings.peers.clone(),
            stall_limit: settings.idle_timeout,
            start: Instant::now(),
            next: AtomicUsize::new(0),
            slots: Mutex::new(Slots {
                admitted: HashMap::new(),
                evicted: HashMap::new(),
                overloaded: 0,
                refused: 0,
                grace: GRACE,
            }),
            freed: Notify::new(),
            refusals: Repeats::new("callers of other users were turned away"),
        }
    }

    /// A permit for a connection, once a slot is free; none if it is closed without a response.
    pub(super) async fn admit(self: &Arc<Self>, caller: Caller) -> Option<ConnectionPermit> {
        match self.check_peer(caller) {
            Verdict::Dropped => None,
            Verdict::Refused(problem) => {
                let mut slots = self.slots.lock();
                (slots.refused < file_limits::REFUSED_PEERS).then(|| {
                    slots.refused += 1;
                    self.permit(Kind::Refused, caller, Some(problem))
                })
            }
            Verdict::Allowed => {
                if let Caller::Unix { process: Some(process), .. } = caller {
                    debug!(process, program = program(process), "a program connected");
                }
                Some(self.wait_for_slot(caller).await)
            }
        }
    }

    /// While a caller waits here, those behind it wait to be accepted.
    async fn wait_for_slot(self: &Arc<Self>, caller: Caller) -> ConnectionPermit {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            match self.try_admit(caller) {
                Ok(permit) => return permit,
                // Also if no slot is freed: with time, connections become evictable.
                Err(wait) => drop(timeout(wait.min(RETRY_INTERVAL), freed).await),
            }
        }
    }

    /// A permit, or after how long to try again.
    fn try_admit(self: &Arc<Self>, caller: Caller) -> Result<ConnectionPermit, Duration> {
        let mut slots = self.slots.lock();
        while slots.taken() >= self.max {
            match self.evict(&mut slots) {
                Eviction::Evicted => {}
                Eviction::TooEarly(wait) => return Err(wait),
                Eviction::AllBusy if slots.overloaded < file_limits::OVERLOADED => {
                    slots.overloaded += 1;
                    return Ok(self.permit(Kind::Overloaded, caller, Some(overloaded())));
                }
                Eviction::AllBusy => return Err(RETRY_INTERVAL),
            }
        }
        slots.grace = GRACE.min(slots.grace + slots.grace / GRACE_GROWTH);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let permit = self.permit(Kind::Admitted(number), caller, None);
        slots.admitted.insert(number, permit.activity.clone());
        Ok(permit)
    }

    fn permit(
        self: &Arc<Self>,
        kind: Kind,
        caller: Caller,
        refusal: Option<Problem>,
    ) -> ConnectionPermit {
        let activity = Activity::new(caller, self.start, self.stall_limit);
        ConnectionPermit { limiter: self.clone(), kind, activity, refusal }
    }

    /// The same-user check, once a connection. Callers from other machines are no users of this
    /// one: a listener that they can reach requires the local key instead.
    fn check_peer(&self, caller: Caller) -> Verdict {
        let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let peer = match caller {
            Caller::Tcp { local, .. } if !is_local(local) => return Verdict::Allowed,
            Caller::Tcp { peer, .. } if !is_local(peer) => {
                // A loopback listener has loopback peers, however a router was configured.
                if self.refusals.admits() {
                    warn!(%peer, "a peer that is not local was turned away");
                }
                return Verdict::Dropped;
            }
            Caller::Tcp { local, peer } => self.peers.allowed.judge(local, peer),
            Caller::Unix { user, .. } => Ok(self.peers.allowed.judge_user(user)),
        };
        match peer {
            Ok(Peer::Allowed) => Verdict::Allowed,
            Ok(Peer::OtherUser(uid)) => {
                if self.refusals.admits() {
                    warn!(
                        uid,
                        "a program of another user was turned away; guard.peer_check names who may call"
                    );
                }
                Verdict::Refused(self.peers.allowed.refusal(uid))
            }
            Ok(Peer::Unknown) => {
                debug!(?caller, "a caller whose user is unknown was turned away");
                Verdict::Dropped
            }
            Err(error) => Verdict::Refused(self.peers.lookup_failed(&error)),
        }
    }

    /// Evicts idle connections, to get their file descriptors back.
    pub(super) fn evict_idle(&self) {
        self.evict(&mut self.slots.lock());
    }

    /// Evicts the connection that has been idle, or receiving one head, for longest, and others
    /// that have been idle for long.
    fn evict(&self, slots: &mut Slots) -> Eviction {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let age = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let (mut evictable, mut oldest_in_grace) = (Vec::new(), None);
        for (number, activity) in &slots.admitted {
            let Some(since) = activity.evictable_since() else { continue };
            let is_idle = activity.has_requested() && activity.phase() != Phase::ReadingHead;
            if is_idle || age(since) >= slots.grace {
                evictable.push((since, *number));
            } else {
                oldest_in_grace = oldest_in_grace.max(Some(age(since)));
            }
        }
        evictable.sort_unstable();
        let max = MAX_EVICTED.min(self.max.div_ceil(8));
        let long_idle =
            evictable.iter().take(max).take_while(|(since, _)| age(*since) >= LONG_IDLE).count();
        for (_, number) in evictable.iter().take(long_idle.max(1)) {
            // Removed at once, though the connection has yet to end: a slot is given away only
            // once.
            if let Some(activity) = slots.admitted.remove(number) {
                activity.evict();
                slots.evicted.insert(*number, activity);
            }
        }
        match (evictable.is_empty(), oldest_in_grace) {
            (false, _) => Eviction::Evicted,
            (true, None) => Eviction::AllBusy,
            (true, Some(oldest)) => {
                slots.grace = MIN_GRACE.max(slots.grace / 2);
                Eviction::TooEarly(slots.grace.saturating_sub(oldest))
            }
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut slots = self.limiter.slots.lock();
        // Waiting callers are woken only if they can find something: each of their attempts
        // shortens the grace of silent connections.
        let is_freed = match self.kind {
            Kind::Admitted(number) => {
                let evicted = slots.evicted.remove(&number);
                slots.admitted.remove(&number).is_some()
                    || evicted.is_some_and(|activity| is_busy(&activity))
            }
            Kind::Overloaded => {
                slots.overloaded -= 1;
                true
            }
            Kind::Refused => {
                slots.refused -= 1;
                false
            }
        };
        drop(slots);
        if is_freed {
            self.limiter.freed.notify_one();
        }
    }
}

/// A process's name, where the system shows it.
fn program(process: i32) -> Option<String> {
    let name = processes::name(process.try_into().ok()?)?;
    Some(name.trim_end().escape_default().to_string())
}

fn overloaded() -> Problem {
    let fix = "Send fewer requests at once, or raise listen.max_connections.";
    Problem::new(Code::Overloaded, "all connections are busy", fix)
        .retry_after(Duration::from_secs(1))
        .closing()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::peer::Allowed;

    fn limiter(max: usize) -> Arc<ConnectionLimiter> {
        let peers = Peers::new(Allowed::Users(vec![1]));
        let settings = Settings {
            api: crate::server::Address::Unix("unused".into()),
            admin: None,
            max_connections: max,
            peers,
            idle_timeout: None,
        };
        Arc::new(ConnectionLimiter::new(&settings, max))
    }

    async fn admit(limiter: &Arc<ConnectionLimiter>, user: u32) -> Option<ConnectionPermit> {
        let caller = Caller::Unix { user: Some(user), process: None };
        timeout(Duration::from_millis(1), limiter.admit(caller)).await.ok().flatten()
    }

    async fn admitted(limiter: &Arc<ConnectionLimiter>) -> ConnectionPermit {
        let permit = admit(limiter, 1).await.unwrap();
        assert!(permit.refusal.is_none());
        permit
    }

    async fn wait(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn is_in(limiter: &ConnectionLimiter, permit: &ConnectionPermit) -> bool {
        let Kind::Admitted(number) = permit.kind else { return false };
        limiter.slots.lock().admitted.contains_key(&number)
    }

    #[tokio::test(start_paused = true)]
    async fn new_connections_are_not_evicted_and_the_longest_idle_one_is() {
        let limiter = limiter(3);
        let (first, second, third) =
            (admitted(&limiter).await, admitted(&limiter).await, admitted(&limiter).await);
        assert!(admit(&limiter, 1).await.is_none(), "all are new: it waits");
        second.activity.mark_requested();
        let fourth = admitted(&limiter).await;
        assert!(
            is_in(&limiter, &first) && !is_in(&limiter, &second) && is_in(&limiter, &third),
            "only one was idle"
        );
        tokio::time::sleep(GRACE).await;
        // Silent from the start, and now for longer than the grace.
        let fifth = admitted(&limiter).await;
        assert!(
            !is_in(&limiter, &first)
                && is_in(&limiter, &third)
                && is_in(&limiter, &fourth)
                && is_in(&limiter, &fifth)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn if_all_are_busy_callers_are_told_and_one_that_sends_a_head_is_not_idle() {
        let limiter = limiter(2);
        let (first, second) = (admitted(&limiter).await, admitted(&limiter).await);
        first.activity.mark_requested();
        first.activity.enter(Phase::Serving);
        second.activity.mark_requested();
        second.activity.enter(Phase::ReadingHead);
        assert!(admit(&limiter, 1).await.is_none(), "a head has just begun: it waits");
        second.activity.enter(Phase::Serving);
        assert!(admit(&limiter, 1).await.unwrap().refusal.is_some());
        assert!(is_in(&limiter, &first) && is_in(&limiter, &second));
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_silent_callers_a_second_delay_nobody_by_a_second() {
        let limiter = limiter(40);
        let caller = Caller::Unix { user: Some(1), process: None };
        let (mut permits, mut longest) = (Vec::new(), Duration::ZERO);
        for number in 1..10_000_u32 {
            // One listener accepts them in the order in which they come, each a millisecond after
            // the one before.
            let came = limiter.start + Duration::from_millis(number.into());
            tokio::time::sleep_until(came).await;
            let permit = limiter.admit(caller).await.unwrap();
            assert!(permit.refusal.is_none());
            longest = longest.max(came.elapsed());
            permits.push(permit);
            permits.retain(|permit| is_in(&limiter, permit));
        }
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        drop(permits);
        for _ in 0..2000 {
            admitted(&limiter).await;
        }
        assert_eq!(limiter.slots.lock().grace, GRACE, "the grace has recovered");
    }

    #[tokio::test(start_paused = true)]
    async fn long_idle_connections_are_evicted_in_batches_and_others_one_by_one() {
        let limiter = limiter(64);
        let mut permits = Vec::new();
        for _ in 0..64 {
            let permit = admitted(&limiter).await;
            permit.activity.mark_requested();
            permits.push(permit);
        }
        let _one = admitted(&limiter).await;
        assert_eq!(limiter.slots.lock().admitted.len(), 64);
        wait(LONG_IDLE.as_secs()).await;
        let _more = admitted(&limiter).await;
        assert_eq!(limiter.slots.lock().admitted.len(), 64 - 8 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_fail_the_peer_check_take_no_slot_and_evict_nobody() {
        let limiter = limiter(1);
        let owner = admitted(&limiter).await;
        owner.activity.mark_requested();
        let mut refused = Vec::new();
        for _ in 0..1000 {
            refused.extend(admit(&limiter, 2).await);
        }
        assert_eq!(refused.len(), file_limits::REFUSED_PEERS);
        assert!(refused.iter().all(|permit| permit.refusal.is_some()));
        assert!(is_in(&limiter, &owner));
        refused.pop();
        assert!(admit(&limiter, 2).await.is_some(), "a slot is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_the_moment_of_an_eviction_keeps_its_slot_until_it_is_answered() {
        let limiter = limiter(1);
        let first = admitted(&limiter).await;
        first.activity.mark_requested();
        let second = admitted(&limiter).await;
        second.activity.mark_requested();
        assert!(!is_in(&limiter, &first) && is_in(&limiter, &second));
        first.activity.enter(Phase::Serving);
        assert!(
            admit(&limiter, 1).await.unwrap().refusal.is_some(),
            "one is served: there is no other slot"
        );
        drop(first);
        admitted(&limiter).await;
        drop(second);
        assert!(limiter.slots.lock().evicted.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_a_slot_shorten_nobodys_grace() {
        let limiter = limiter(2);
        let (idle, _silent) = (admitted(&limiter).await, admitted(&limiter).await);
        idle.activity.mark_requested();
        let _new = admitted(&limiter).await;
        assert!(!is_in(&limiter, &idle));
        let refused = admit(&limiter, 2).await.unwrap();
        let caller = Caller::Unix { user: Some(1), process: None };
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.admit(caller).await }
        });
        tokio::task::yield_now().await;
        let grace = limiter.slots.lock().grace;
        assert!(grace < GRACE, "it waits");
        drop((refused, idle));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(limiter.slots.lock().grace, grace, "it has tried once");
        assert!(waiting.await.unwrap().unwrap().refusal.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_those_that_are_told_callers_wait_and_none_is_dropped() {
        let limiter = limiter(1);
        let busy = admitted(&limiter).await;
        busy.activity.enter(Phase::Serving);
        let mut told = Vec::new();
        for _ in 0..file_limits::OVERLOADED {
            told.push(admit(&limiter, 1).await.unwrap());
        }
        assert!(told.iter().all(|permit| permit.refusal.is_some()));
        assert!(admit(&limiter, 1).await.is_none(), "it waits");
        let caller = Caller::Unix { user: Some(1), process: None };
        let (permit, ()) = tokio::join!(limiter.admit(caller), async { drop(busy) });
        assert!(permit.unwrap().refusal.is_none());
    }
}
