//! One account: its snapshot for requests and its memory for refreshes.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use super::Settings;
use super::change::Order;
use super::gate::Gate;
use super::reason::LoginReason;
use super::refresh::{Reason, Report};
use super::schedule;
use super::snapshot::{Health, Snapshot, Trouble};
use crate::clock::{Age, Clock, Deadline, Now, millis, since};
use crate::oauth::SecretStamp;
use crate::store::{AccountName, Intent, Record, Version};
use crate::telemetry::Metrics;

/// Longest distance between two refreshes that are forced by a 401.
const LONGEST_LIMIT: Duration = Duration::from_secs(10);
/// How exactly the last use is known, in milliseconds: workers write it once a second, not once a
/// request.
const USE_GRAIN: u64 = 1000;

/// What all accounts share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    /// Wishes of requests, granted by the scheduler.
    pub(super) wishes: mpsc::UnboundedSender<Wish>,
    /// Counts the changes that matter to the choice for callers who name no account.
    pub(super) choice_version: AtomicU64,
}

/// What a request asks the scheduler for.
#[derive(Debug)]
pub(super) enum Wish {
    /// For this generation: by the time it is granted there may be a newer one.
    Refresh(Arc<Account>, Reason, u64),
    /// An idle account is used again, or something changed: work out the next wake anew.
    Look,
}

/// One account.
#[derive(Debug)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    pub(super) gate: Gate,
    /// The turn: one refresh, login or logout at a time in this process.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
    /// The refresh under way, for everybody to wait for.
    pub(super) flight: Mutex<Option<watch::Receiver<Option<Report>>>>,
    order: Mutex<Order>,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: ArcSwap<Snapshot>,
    memory: Mutex<Memory>,
    pub(super) held: AtomicUsize,
    /// Boot time of the last use, in milliseconds; 0 = never.
    last_used: AtomicU64,
    /// True once it had a record or was named by the settings; a login that came to nothing leaves
    /// no account behind.
    known: AtomicBool,
    /// True while a wish of this account waits for the scheduler or its flight.
    wished: AtomicBool,
}

/// What a process remembers of an account beside the snapshot; never looked at by a request on its
/// usual path.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The record that was loaded or saved last.
    pub(super) record: Option<Record>,
    /// Its version in the store.
    pub(super) version: Version,
    /// How old its pair is.
    pub(super) age: Option<Age>,
    /// Failed attempts since the last good one.
    pub(super) attempts: u32,
    /// When a 401 or a person last forced a refresh.
    pub(super) forced_at: Option<Now>,
    /// The sending of an intent that got a whole answer, so that no copy of it is still under way.
    pub(super) answered: Option<(i64, u32)>,
    /// The last sending of an intent, and when it was by the boot clock in milliseconds; below zero
    /// before the boot.
    sent: Option<((i64, u32), i64)>,
    /// Access tokens in a row that could not be used.
    pub(super) unusable: u32,
    /// The last attempt, for `status`.
    pub(super) last: Option<LastAttempt>,
    /// Refusals in a row that say that a setting is wrong.
    pub(super) refusals: u32,
    /// The secret file that was refused last, and when another one may be tried.
    pub(super) refused: (SecretStamp, Option<Deadline>),
    /// When the last attempt began, if it failed.
    pub(super) failed: Option<Now>,
    /// Why the newest pair is not on disk, while it is not.
    pub(super) unsaved: Option<String>,
}

/// The last refresh attempt.
#[derive(Clone, Debug)]
pub(super) struct LastAttempt {
    pub(super) at: i64,
    pub(super) reason: Reason,
    pub(super) outcome: &'static str,
    pub(super) took: Duration,
}

impl Account {
    pub(super) fn new(name: AccountName, shared: Arc<Shared>) -> Self {
        let health = Health::LoginRequired(LoginReason::NotConnected);
        let snapshot = Snapshot { generation: 0, health, credential: None };
        Self {
            name,
            gate: Gate::default(),
            turn: Arc::default(),
            flight: Mutex::default(),
            order: Mutex::default(),
            shared,
            snapshot: ArcSwap::from_pointee(snapshot),
            memory: Mutex::default(),
            held: AtomicUsize::new(0),
            last_used: AtomicU64::new(0),
            known: AtomicBool::new(false),
            wished: AtomicBool::new(false),
        }
    }

    /// The account at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// True if a request would get a token now, or after a refresh that is likely to succeed.
    pub fn can_serve(&self) -> bool {
        let snapshot = self.snapshot.load();
        let likely = matches!(snapshot.health, Health::Connected | Health::Locked(_));
        likely || snapshot.usable(self.shared.clock.now()).is_some()
    }

    /// True if nothing about the account needs anybody's attention.
    pub fn is_well(&self) -> bool {
        self.snapshot.load().health == Health::Connected
    }

    /// True if the token is within its margin or gone.
    pub fn is_due(&self) -> bool {
        let snapshot = self.snapshot.load();
        let now = self.shared.clock.now();
        snapshot
            .credential
            .as_ref()
            .is_none_or(|credential| credential.left_before_margin(now).is_zero())
    }

    /// The time in units of `drain`, which is what the gate counts in.
    pub(super) fn epoch(&self, now: Now) -> u64 {
        now.boot / millis(self.shared.settings.drain).max(1)
    }

    /// Notes that somebody uses the account.
    pub(super) fn touch(&self, now: Now) {
        let last = self.last_used.load(Ordering::Relaxed);
        if now.boot.saturating_sub(last) < USE_GRAIN && last != 0 {
            return;
        }
        let was_idle = !self.is_warm(now);
        self.last_used.store(now.boot.max(1), Ordering::Relaxed);
        if was_idle {
            let _ = self.shared.wishes.send(Wish::Look);
        }
    }

    /// Used within `keep_warm`.
    pub(super) fn is_warm(&self, now: Now) -> bool {
        let last = self.last_used.load(Ordering::Relaxed);
        last != 0 && now.boot.saturating_sub(last) <= millis(self.shared.settings.keep_warm)
    }

    /// Asks the scheduler for a refresh; one wish at a time.
    pub(super) fn wish(self: &Arc<Self>) {
        if !self.wished.swap(true, Ordering::AcqRel) {
            let snapshot = self.snapshot.load();
            let reason =
                if snapshot.health.trouble().is_none() { Reason::Expired } else { Reason::Retry };
            let _ =
                self.shared.wishes.send(Wish::Refresh(self.clone(), reason, snapshot.generation));
        }
    }

    pub(super) fn wish_granted(&self) {
        self.wished.store(false, Ordering::Release);
    }

    /// A refresh of it ended in a panic. It is tried again after a pause, so that a fault that
    /// stays is no storm; what may have been sent is noted in the record.
    pub(super) fn broke_off(&self) {
        let health = &self.snapshot.load().health;
        if matches!(health, Health::LoginRequired(_) | Health::StoreError(_) | Health::Unsaved(_)) {
            return;
        }
        let next_try = Deadline::after(self.shared.clock.now(), self.next_wait(None));
        let why = "a refresh broke off by a fault of this program; its log tells where";
        self.set_health(Health::Retrying(Trouble::until(why, next_try)));
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    /// The order of logins and logouts.
    pub(super) fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock()
    }

    /// The wait before the next attempt, after one more that failed.
    pub(super) fn next_wait(&self, asked_for: Option<Duration>) -> Duration {
        let mut memory = self.memory();
        memory.attempts = memory.attempts.saturating_add(1);
        asked_for.unwrap_or_default().max(schedule::backoff(memory.attempts))
    }

    /// A whole answer with a pair came: earlier trouble is over.
    pub(super) fn remember_good(&self, usable: bool) {
        let mut memory = self.memory();
        memory.attempts = 0;
        memory.answered = None;
        memory.sent = None;
        memory.unusable = if usable { 0 } else { memory.unusable.saturating_add(1) };
        if usable {
            memory.refusals = 0;
        }
    }

    /// Leaves no trace of a record but its generation, below which none is used again.
    pub(super) fn forget_record(&self) {
        {
            let mut memory = self.memory();
            (memory.record, memory.version, memory.age) = (None, Version::default(), None);
        }
        self.set_health(Health::LoginRequired(LoginReason::NotConnected));
        self.known.store(false, Ordering::Release);
        self.shared.choice_version.fetch_add(1, Ordering::AcqRel);
    }

    /// This process sends now: from here on its boot clock alone tells how long ago that was.
    pub(super) fn note_sending(&self, intent: &Intent) {
        let now = i64::try_from(self.shared.clock.now().boot).unwrap_or(i64::MAX);
        self.memory().sent = Some((intent.sending(), now));
    }

    /// How long ago an unanswered intent was sent, time asleep included. Where another process sent
    /// it, its date is believed once, when it is met; one that is still to come counts as now.
    pub(super) fn sent_for(&self, intent: &Intent) -> Duration {
        let (now, sending) = (self.shared.clock.now(), intent.sending());
        let boot = i64::try_from(now.boot).unwrap_or(i64::MAX);
        let mut memory = self.memory();
        let sent = memory.sent.filter(|(known, _)| *known == sending).map_or_else(
            || boot.saturating_sub_unsigned(since(now.wall, intent.sent_at)),
            |(_, sent)| sent,
        );
        memory.sent = Some((sending, sent));
        Duration::from_millis(since(boot, sent))
    }

    /// True if a refresh was forced less than ten seconds, or a quarter of a token's life, ago.
    pub(super) fn was_just_forced(&self, now: Now) -> bool {
        let life = self
            .snapshot
            .load()
            .credential
            .as_ref()
            .map_or(LONGEST_LIMIT, |credential| credential.life);
        let limit = LONGEST_LIMIT.min(life / 4);
        self.memory().forced_at.is_some_and(|last| !Deadline::after(last, limit).passed(now))
    }

    /// How old the current pair is; none without one.
    pub(super) fn age(&self) -> Option<Age> {
        self.memory().age
    }

    /// Makes a record the one that requests see. `deadline` is the one measured when the pair was
    /// issued.
    pub(super) fn publish(&self, record: Record, health: Health, deadline: Option<Deadline>) {
        let now = self.shared.clock.now();
        let snapshot = Snapshot::of(&record, health, deadline, now);
        let has_grant = record.grant.is_some();
        let age = record.grant.as_ref().map(|grant| Age::of(grant.refreshed_at, now));
        let old = {
            let mut memory = self.memory();
            memory.age = age;
            memory.record.replace(record)
        };
        if old.is_none_or(|old| old.grant.is_some() != has_grant) {
            self.shared.choice_version.fetch_add(1, Ordering::AcqRel);
        }
        self.set_known();
        self.snapshot.store(Arc::new(snapshot));
        self.tell();
    }

    /// Changes how the account is, and nothing else of it.
    pub(super) fn set_health(&self, health: Health) {
        let is_refused = |health: &Health| matches!(health, Health::StoreError(_));
        let usable = !is_refused(&health) && !matches!(health, Health::LoginRequired(_));
        let old = self.snapshot.rcu(|old| {
            let credential = old.credential.clone().filter(|_| usable);
            Snapshot { generation: old.generation, health: health.clone(), credential }
        });
        if is_refused(&old.health) != is_refused(&health) {
            self.shared.choice_version.fetch_add(1, Ordering::AcqRel);
        }
        self.tell();
    }

    pub(super) fn set_known(&self) {
        if !self.known.swap(true, Ordering::AcqRel) {
            self.shared.choice_version.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// True if there is a record, readable or not.
    pub(super) fn has_record(&self) -> bool {
        self.memory().record.is_some()
            || matches!(self.snapshot.load().health, Health::StoreError(_))
    }

    /// Takes a token out of use that the upstream has refused.
    pub(super) fn forget_credential(&self, generation: u64) {
        self.snapshot.rcu(|old| match old.generation == generation {
            true => Arc::new(Snapshot { credential: None, ..(**old).clone() }),
            false => old.clone(),
        });
        self.tell();
    }

    /// Lets requests and the scheduler look again.
    pub(super) fn tell(&self) {
        self.gate.tell();
        let _ = self.shared.wishes.send(Wish::Look);
    }
}

/// An account without a record, for tests, and its wishes.
#[cfg(test)]
pub(super) fn unconnected() -> (Arc<Account>, mpsc::UnboundedReceiver<Wish>) {
    tests::account()
}

/// Gives it a token that has expired.
#[cfg(test)]
pub(super) fn expire(account: &Account) {
    let expired = Deadline::after(account.shared.clock.now(), Duration::ZERO);
    account.publish(tests::record(1), Health::Connected, Some(expired));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::super::lease::MAX_HELD;
    use super::super::snapshot::Refusal;
    use super::*;
    use crate::secret::{AccessToken, RefreshToken};
    use crate::store::{Grant, Issued};

    const LIFE: Duration = Duration::from_secs(600);

    fn settings() -> Settings {
        Settings {
            drain: Duration::from_secs(2),
            hold: Duration::from_secs(15),
            keep_warm: LIFE,
            idle_refresh: LIFE * 1000,
            default_account: None,
        }
    }

    pub(super) fn account() -> (Arc<Account>, mpsc::UnboundedReceiver<Wish>) {
        let (wishes, granted) = mpsc::unbounded_channel();
        let shared = Shared {
            settings: settings(),
            clock: Clock::paused(),
            metrics: Arc::default(),
            wishes,
            choice_version: AtomicU64::default(),
        };
        (Arc::new(Account::new(AccountName::fallback(), Arc::new(shared))), granted)
    }

    pub(super) fn record(generation: u64) -> Record {
        let issued = Issued {
            token_endpoint: String::new(),
            client_id: String::new(),
            api_origin: String::new(),
        };
        let grant = Grant {
            access: Some(AccessToken::new(format!("access-{generation}"))),
            refresh: RefreshToken::new("refresh"),
            expires_at: i64::MAX,
            life: millis(LIFE),
            scope: Vec::new(),
            issued,
            logged_in_at: 0,
            refreshed_at: 0,
            introspection_trusted: false,
        };
        Record {
            generation,
            grant: Some(grant),
            subject: None,
            subject_unconfirmed: false,
            intent: None,
            ended: None,
        }
    }

    fn publish(account: &Account, generation: u64) {
        let deadline = Deadline::after(account.shared.clock.now(), LIFE);
        account.publish(record(generation), Health::Connected, Some(deadline));
    }

    /// Requests and refreshes of a made-up day, in milliseconds from its start.
    #[derive(Clone, Debug)]
    struct Plan {
        /// Begins, reaches the server, gets its head; leaves early if the last is set.
        requests: Vec<(u64, u64, u64, Option<u64>)>,
        /// Begins, reaches the server, is answered.
        refreshes: Vec<(u64, u64, u64)>,
    }

    fn plan() -> impl Strategy<Value = Plan> {
        let request = (0_u64..20_000, 0_u64..1_900, 0_u64..4_000, prop::option::of(0_u64..3_000));
        let refresh = (0_u64..20_000, 0_u64..300, 0_u64..300);
        (prop::collection::vec(request, 1..60), prop::collection::vec(refresh, 0..8))
            .prop_map(|(requests, refreshes)| Plan { requests, refreshes })
    }

    /// One request: borrows, travels, is judged by the server's generation at its arrival, returns
    /// the lease.
    async fn request(
        account: Arc<Account>,
        server: Arc<AtomicU64>,
        step: (u64, u64, u64),
    ) -> Result<(), String> {
        let (begin, travel, think) = step;
        sleep(Duration::from_millis(begin)).await;
        let asked = Instant::now();
        let lease = account
            .lease(asked + settings().hold)
            .await
            .map_err(|refusal| format!("{refusal:?}"))?;
        let waited = asked.elapsed();
        sleep(Duration::from_millis(travel)).await;
        let valid = server.load(Ordering::SeqCst);
        sleep(Duration::from_millis(think)).await;
        match lease.generation == valid && waited <= settings().hold {
            true => Ok(()),
            false => Err(format!("sent {} to {valid} after {waited:?}", lease.generation)),
        }
    }

    /// One refresh, as an attempt does it between intent and publish.
    async fn refresh(account: Arc<Account>, server: Arc<AtomicU64>, step: (u64, u64, u64)) {
        let (begin, travel, back) = step;
        sleep(Duration::from_millis(begin)).await;
        let _turn = account.turn.clone().lock_owned().await;
        let closing = Instant::now();
        let epoch = account.epoch(account.shared.clock.now());
        let gate = account.gate.close(epoch, settings().drain).await;
        assert!(closing.elapsed() <= settings().drain, "the drain is bounded");
        sleep(Duration::from_millis(travel)).await;
        let generation = server.fetch_add(1, Ordering::SeqCst) + 1;
        sleep(Duration::from_millis(back)).await;
        publish(&account, generation);
        drop(gate);
    }

    async fn play(plan: Plan) -> Result<(), String> {
        let (account, _wishes) = account();
        let server = Arc::new(AtomicU64::new(1));
        publish(&account, 1);
        let (mut requests, mut refreshes) = (JoinSet::new(), JoinSet::new());
        for step in plan.refreshes {
            refreshes.spawn(refresh(account.clone(), server.clone(), step));
        }
        for (begin, travel, think, leaves) in plan.requests {
            let work = request(account.clone(), server.clone(), (begin, travel, think));
            let limit =
                Duration::from_millis(leaves.map_or(u64::MAX >> 1, |leaves| begin + leaves));
            requests
                .spawn(async move { tokio::time::timeout(limit, work).await.unwrap_or(Ok(())) });
        }
        while let Some(answered) = requests.join_next().await {
            answered.map_err(|error| error.to_string())??;
        }
        refreshes.join_all().await;
        let last = account.gate.enter(0).ok_or("the gate stayed closed")?;
        match account.gate.leave(last) && account.held.load(Ordering::SeqCst) == 0 {
            true => Ok(()),
            false => Err("a lease was not returned".into()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// No request whose way is shorter than the drain reaches the server with a dead token,
        /// whatever else happens.
        #[test]
        fn no_request_arrives_with_a_dead_token(plan in plan()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            prop_assert_eq!(runtime.block_on(play(plan)), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_so_many_wait_and_the_rest_is_told_at_once() {
        let (account, _wishes) = account();
        publish(&account, 1);
        let gate =
            account.gate.close(account.epoch(account.shared.clock.now()), Duration::ZERO).await;
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_HELD {
            let account = account.clone();
            waiting.spawn(async move { account.lease(Instant::now() + LIFE).await.map(drop) });
        }
        // Time stands still until all of them wait.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(account.lease(Instant::now() + LIFE).await.map(drop), Err(Refusal::Overloaded));
        drop(gate);
        assert!(waiting.join_all().await.into_iter().all(|leased| leased.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_wished_anew_once_and_waited_for_no_longer_than_hold() {
        let (account, mut wishes) = account();
        expire(&account);
        let start = Instant::now();
        let (first, second) = tokio::join!(
            account.lease(start + settings().hold),
            account.lease(start + settings().hold)
        );
        assert!(matches!(
            (first, second),
            (Err(Refusal::RefreshTimeout(_)), Err(Refusal::RefreshTimeout(_)))
        ));
        assert_eq!(start.elapsed(), settings().hold);
        let mut refreshes = 0;
        while let Ok(wish) = wishes.try_recv() {
            refreshes += u32::from(matches!(wish, Wish::Refresh(..)));
        }
        assert_eq!(refreshes, 1);
    }

    #[test]
    fn an_unanswered_intent_grows_old_by_the_time_that_runs_whatever_the_wall_clock_does() {
        let start = Now { wall: 1_800_000_000_000, boot: 1_000_000 };
        let clock = Clock::manual(start);
        let (wishes, _) = mpsc::unbounded_channel();
        let choice_version = AtomicU64::default();
        let shared = Shared {
            settings: settings(),
            clock: clock.clone(),
            metrics: Arc::default(),
            wishes,
            choice_version,
        };
        let account = Account::new(AccountName::fallback(), Arc::new(shared));
        let intent = |sent_at| Intent {
            generation: 1,
            token: String::new(),
            sent_at,
            first_sent_at: sent_at,
            resends: 0,
        };
        let seconds = |intent: &Intent| account.sent_for(intent).as_secs();
        let (ahead, earlier) = (intent(start.wall + 7_200_000), intent(start.wall - 3_000));
        assert_eq!(seconds(&ahead), 0);
        clock.set(Now { wall: start.wall, boot: start.boot + 10_000 });
        assert_eq!(seconds(&ahead), 10);
        assert_eq!(seconds(&Intent { resends: 1, ..ahead.clone() }), 0, "another sending");
        assert_eq!(seconds(&earlier), 3, "sent by another process");
        clock.set(Now { wall: start.wall + 86_400_000, boot: start.boot + 11_000 });
        assert_eq!(seconds(&earlier), 4, "the clock was set ahead since");
        account.note_sending(&ahead);
        clock.set(Now { wall: start.wall + 2 * 86_400_000, boot: start.boot + 12_000 });
        assert_eq!(seconds(&ahead), 1, "sent by this process");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_with_a_lease_in_hand_returns_it() {
        let (account, _wishes) = account();
        publish(&account, 1);
        let borrowed = account.clone();
        let task = tokio::spawn(async move {
            let _lease = borrowed.lease(Instant::now() + LIFE).await.unwrap();
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        let ticket = account.gate.enter(0).unwrap();
        assert!(account.gate.leave(ticket), "nobody else is inside");
    }
}
