//! One account: its snapshot for requests, its memory for refreshes, and who may change it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, watch};

use super::credential::CredentialSource;
use super::gate::Gate;
use super::health::{Health, RetryState};
use super::history::History;
use super::memory::Memory;
use super::order::ChangeOrder;
use super::pacer::Pacer;
use super::rate::Rate;
use super::reason::{LoginReason, RetryReason};
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::settings::Settings;
use super::snapshot::Snapshot;
use super::waiting::WaitingRequests;
use crate::clock::{Age, Clock, Deadline, Now, millis};
use crate::redaction::KnownSecrets;
use crate::secret::Secret;
use crate::store::{AccountName, Record};
use crate::telemetry::Metrics;

/// Precision of the last use, in milliseconds: workers write it once a second, not once a request.
const USE_GRAIN: u64 = 1000;

/// What all accounts share.
#[derive(Debug)]
pub(super) struct AccountContext {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    /// Takes every token and key that this process sees.
    pub(super) known: KnownSecrets,
    pub(super) history: History,
    /// To the scheduler.
    pub(super) commands: mpsc::UnboundedSender<SchedulerCommand>,
    /// Counts the changes that matter to the default account.
    pub(super) default_version: AtomicU64,
    /// Wakes whoever watches the state of accounts.
    pub(super) changed: watch::Sender<()>,
}

impl AccountContext {
    pub(super) fn new(
        settings: Settings,
        clock: Clock,
        commands: mpsc::UnboundedSender<SchedulerCommand>,
    ) -> Self {
        Self {
            settings,
            clock,
            metrics: Arc::default(),
            known: KnownSecrets::default(),
            history: History::default(),
            commands,
            default_version: AtomicU64::new(1),
            changed: watch::Sender::default(),
        }
    }
}

/// What requests and refreshes ask the scheduler for.
#[derive(Debug)]
pub(super) enum SchedulerCommand {
    /// Refresh this generation: by the time it is done there may be a newer one.
    Refresh(Arc<Account>, RefreshReason, u64),
    /// An idle account is used again, or a state changed: compute the next wake-up again.
    Reschedule,
}

/// One account.
#[derive(Debug)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    pub(super) gate: Gate,
    /// Held by one refresh, login or logout at a time in this process.
    pub(super) refresh_lock: Arc<tokio::sync::Mutex<()>>,
    /// The refresh under way, for everybody to wait for.
    pub(super) in_flight: Mutex<Option<watch::Receiver<Option<RefreshReport>>>>,
    pub(super) context: Arc<AccountContext>,
    pub(super) waiting: WaitingRequests,
    /// Its requests of the last minute.
    pub rate: Rate,
    /// The turns of its requests under `upstream.pace`.
    pub pacer: Pacer,
    order: Mutex<ChangeOrder>,
    snapshot: ArcSwap<Snapshot>,
    memory: Mutex<Memory>,
    /// Boot time of the last use, in milliseconds; 0 = never.
    last_used: AtomicU64,
    /// True once it had a record or was named by the settings; a login that failed leaves no
    /// account behind.
    known: AtomicBool,
    /// True while a refresh that a request asked for waits for the scheduler or runs.
    refresh_requested: AtomicBool,
}

impl Account {
    pub(super) fn new(name: AccountName, context: Arc<AccountContext>) -> Self {
        let snapshot = Snapshot {
            health: Health::LoginRequired(LoginReason::NotConnected),
            credential: None,
            source: CredentialSource::Absent { generation: 0 },
        };
        Self {
            name,
            gate: Gate::default(),
            refresh_lock: Arc::default(),
            in_flight: Mutex::default(),
            context,
            waiting: WaitingRequests::default(),
            rate: Rate::default(),
            pacer: Pacer::default(),
            order: Mutex::default(),
            snapshot: ArcSwap::from_pointee(snapshot),
            memory: Mutex::default(),
            last_used: AtomicU64::new(0),
            known: AtomicBool::new(false),
            refresh_requested: AtomicBool::new(false),
        }
    }

    /// The account at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The same, cheaper, for a moment.
    pub(super) fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The record that was loaded or saved last, if there is one.
    pub(super) fn record(&self) -> Option<Arc<Record>> {
        self.peek().record().cloned()
    }

    /// What the settings call it, if they do.
    pub(super) fn label(&self) -> Option<String> {
        self.context.settings.named.get(&self.name)?.label.clone()
    }

    /// The file of its API key, if the settings name one.
    pub(super) fn key_file(&self) -> Option<&Path> {
        self.context.settings.key_file(&self.name)
    }

    /// True if a request would get a token now, or after a refresh that is likely to succeed.
    pub fn can_serve(&self) -> bool {
        let snapshot = self.peek();
        let is_likely = matches!(snapshot.health, Health::Connected | Health::Locked(_));
        is_likely || snapshot.usable(self.now()).is_some()
    }

    /// True if nothing about the account needs attention.
    pub fn is_well(&self) -> bool {
        self.peek().health == Health::Connected
    }

    /// True if a request could carry something: a token, once it is refreshed, or an API key.
    pub(super) fn has_credential(&self) -> bool {
        self.peek().source.has_credential()
    }

    /// When its grant was issued or refreshed last, in UNIX milliseconds; none without one.
    pub fn refreshed_at(&self) -> Option<i64> {
        self.peek().source.grant().map(|grant| grant.refreshed_at)
    }

    /// True if the token is within its margin or gone.
    pub fn is_due(&self) -> bool {
        let now = self.now();
        let snapshot = self.peek();
        let credential = snapshot.credential.as_ref();
        credential.is_none_or(|credential| credential.left_before_margin(now).is_zero())
    }

    /// The time, by the clock that the account goes by.
    pub fn now(&self) -> Now {
        self.context.clock.now()
    }

    /// The time in units of `drain`, which is what the gate counts in.
    pub(super) fn epoch(&self, now: Now) -> u64 {
        now.boot / millis(self.context.settings.drain).max(1)
    }

    /// How long its requests wait for a token, or for their turn.
    pub fn hold(&self) -> Duration {
        self.context.settings.hold
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
            self.reschedule();
        }
    }

    /// Used within `keep_warm`.
    pub(super) fn is_warm(&self, now: Now) -> bool {
        let last = self.last_used.load(Ordering::Relaxed);
        last != 0 && now.boot.saturating_sub(last) <= millis(self.context.settings.keep_warm)
    }

    /// Asks the scheduler for a refresh; one request at a time.
    pub(super) fn request_refresh(self: &Arc<Self>) {
        if self.refresh_requested.swap(true, Ordering::AcqRel) {
            return;
        }
        let snapshot = self.peek();
        let is_retry = snapshot.health.retry().is_some();
        let reason = if is_retry { RefreshReason::Retry } else { RefreshReason::Expired };
        let command = SchedulerCommand::Refresh(self.clone(), reason, snapshot.generation());
        let _ = self.context.commands.send(command);
    }

    pub(super) fn clear_refresh_request(&self) {
        self.refresh_requested.store(false, Ordering::Release);
    }

    /// Makes the scheduler compute its next wake-up again.
    pub(super) fn reschedule(&self) {
        let _ = self.context.commands.send(SchedulerCommand::Reschedule);
    }

    /// A refresh of it panicked. It is tried again after a pause, so that a bug that stays is no
    /// storm; what may have been sent is noted in the record.
    pub(super) fn refresh_panicked(&self) {
        let health = &self.peek().health;
        if matches!(health, Health::LoginRequired(_) | Health::StoreError(_) | Health::Unsaved(_)) {
            return;
        }
        let next_try = Deadline::after(self.now(), self.next_wait(None));
        self.set_health(Health::Retrying(RetryState::until(RetryReason::Panicked, next_try)));
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }

    /// The order of logins and logouts.
    pub(super) fn order(&self) -> MutexGuard<'_, ChangeOrder> {
        self.order.lock()
    }

    /// The wait before the next attempt, after one more that failed.
    pub(super) fn next_wait(&self, asked_for: Option<Duration>) -> Duration {
        self.memory().next_wait(asked_for)
    }

    /// True if a refresh was forced a moment ago.
    pub(super) fn was_just_forced(&self, now: Now) -> bool {
        let expiry = self.peek().credential.as_ref().and_then(|credential| credential.expiry);
        self.memory().was_just_forced(expiry.map(|expiry| expiry.lifetime), now)
    }

    /// How old the current pair is; none without one.
    pub(super) fn age(&self) -> Option<Age> {
        self.memory().age
    }

    /// Makes a record the one that requests see. `deadline` is the one measured when the pair was
    /// issued.
    pub(super) fn publish(&self, record: Record, health: Health, deadline: Option<Deadline>) {
        let now = self.now();
        let has_credential = record.has_credential();
        self.remember_secrets(&record);
        self.memory().remember_credential(&record, now);
        let source = CredentialSource::of(record);
        let old = self.snapshot.swap(Arc::new(Snapshot::of(source, health, deadline, now)));
        if old.record().is_none_or(|old| old.has_credential() != has_credential) {
            self.default_may_change();
        }
        self.set_known();
        self.notify();
    }

    /// Its tokens are recognised wherever they would leave.
    fn remember_secrets(&self, record: &Record) {
        let tokens = record.grant.iter().flat_map(|grant| {
            let access = grant.access.as_ref().map(|access| access as &dyn Secret);
            access.into_iter().chain([&grant.refresh as &dyn Secret])
        });
        let key = record.api_key.as_ref().map(|key| &key.key as &dyn Secret);
        self.context.known.learn_current(self.name.as_str(), tokens.chain(key));
    }

    /// Changes notes in the record, and nothing that requests see.
    pub(super) fn replace_record(&self, record: Record) {
        let source = CredentialSource::of(record);
        self.snapshot.rcu(|old| Snapshot { source: source.clone(), ..(**old).clone() });
    }

    /// Leaves no trace of a record but its generation, below which none is used again.
    pub(super) fn forget_record(&self) {
        {
            let mut memory = self.memory();
            (memory.version, memory.age) = Default::default();
        }
        let source = CredentialSource::Absent { generation: self.peek().generation() };
        self.snapshot.rcu(|old| Snapshot { source: source.clone(), ..(**old).clone() });
        self.set_health(Health::LoginRequired(LoginReason::NotConnected));
        self.known.store(false, Ordering::Release);
        self.default_may_change();
    }

    /// Changes the state, and nothing else.
    pub(super) fn set_health(&self, health: Health) {
        let is_refused = |health: &Health| matches!(health, Health::StoreError(_));
        let old = self.snapshot.rcu(|old| old.with_health(health.clone()));
        if is_refused(&old.health) != is_refused(&health) {
            self.default_may_change();
        }
        self.notify();
    }

    /// The same record in another state, unless it is another one by now, or its state is not
    /// `from`. True if that was done.
    pub(super) fn change_health(&self, generation: u64, from: &Health, to: &Health) -> bool {
        let now = self.now();
        let is_so = |it: &Snapshot| it.generation() == generation && it.health == *from;
        let old = self.snapshot.rcu(|old| match is_so(old) {
            true => Arc::new(Snapshot::of(old.source.clone(), to.clone(), None, now)),
            false => old.clone(),
        });
        let is_done = is_so(&old);
        if is_done {
            self.default_may_change();
            self.notify();
        }
        is_done
    }

    pub(super) fn set_known(&self) {
        if !self.known.swap(true, Ordering::AcqRel) {
            self.default_may_change();
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// True if there is a record, readable or not.
    pub(super) fn has_record(&self) -> bool {
        let snapshot = self.peek();
        snapshot.record().is_some() || matches!(snapshot.health, Health::StoreError(_))
    }

    /// Takes a token out of use that the upstream has refused.
    pub(super) fn forget_credential(&self, generation: u64) {
        self.snapshot.rcu(|old| match old.generation() == generation {
            true => Arc::new(Snapshot { credential: None, ..(**old).clone() }),
            false => old.clone(),
        });
        self.notify();
    }

    /// Lets waiting requests and the scheduler look at the account again.
    pub(super) fn notify(&self) {
        self.gate.notify();
        self.reschedule();
        self.context.changed.send_replace(());
    }

    fn default_may_change(&self) {
        self.context.default_version.fetch_add(1, Ordering::AcqRel);
    }
}

/// An account without a record, for tests, and its commands.
#[cfg(test)]
pub(super) fn unconnected() -> (Arc<Account>, mpsc::UnboundedReceiver<SchedulerCommand>) {
    tests::account()
}

/// Gives it a token that has expired.
#[cfg(test)]
pub(super) fn expire(account: &Account) {
    let expired = Deadline::after(account.now(), Duration::ZERO);
    account.publish(tests::record(1), Health::Connected, Some(expired));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::super::lease::Lease;
    use super::super::snapshot::Refusal;
    use super::super::waiting::MAX_WAITING;
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
            ..Settings::default()
        }
    }

    pub(super) fn account() -> (Arc<Account>, mpsc::UnboundedReceiver<SchedulerCommand>) {
        let (commands, received) = mpsc::unbounded_channel();
        let context = AccountContext::new(settings(), Clock::paused(), commands);
        (Arc::new(Account::new(AccountName::fallback(), Arc::new(context))), received)
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
            lifetime: millis(LIFE),
            scope: Vec::new(),
            issued,
            logged_in_at: 0,
            refreshed_at: 0,
            introspection_trusted: false,
        };
        Record {
            generation,
            grant: Some(grant),
            api_key: None,
            subject: None,
            company: None,
            subject_unconfirmed: false,
            intent: None,
            ended: None,
        }
    }

    fn publish(account: &Account, generation: u64) {
        let deadline = Deadline::after(account.now(), LIFE);
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
        let lease = Lease::acquire(&account, asked + settings().hold)
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
        let _lock = account.refresh_lock.clone().lock_owned().await;
        let closing = Instant::now();
        let epoch = account.epoch(account.now());
        let gate = account.gate.close(epoch, settings().drain).await;
        assert!(closing.elapsed() <= settings().drain, "the drain is bounded");
        sleep(Duration::from_millis(travel)).await;
        let generation = server.fetch_add(1, Ordering::SeqCst) + 1;
        sleep(Duration::from_millis(back)).await;
        publish(&account, generation);
        drop(gate);
    }

    async fn play(plan: Plan) -> Result<(), String> {
        let (account, _commands) = account();
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
        match account.gate.leave(last) && !account.waiting.is_any() {
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
        let (account, _commands) = account();
        publish(&account, 1);
        let gate = account.gate.close(account.epoch(account.now()), Duration::ZERO).await;
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let account = account.clone();
            waiting.spawn(async move {
                Lease::acquire(&account, Instant::now() + LIFE).await.map(drop)
            });
        }
        // Time stands still until all of them wait.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(
            Lease::acquire(&account, Instant::now() + LIFE).await.map(drop),
            Err(Refusal::Overloaded)
        );
        drop(gate);
        assert!(waiting.join_all().await.into_iter().all(|leased| leased.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_requests_one_refresh_and_waits_at_most_hold() {
        let (account, mut commands) = account();
        expire(&account);
        let start = Instant::now();
        let (first, second) = tokio::join!(
            Lease::acquire(&account, start + settings().hold),
            Lease::acquire(&account, start + settings().hold)
        );
        assert!(matches!(
            (first, second),
            (Err(Refusal::RefreshTimeout { .. }), Err(Refusal::RefreshTimeout { .. }))
        ));
        assert_eq!(start.elapsed(), settings().hold);
        let mut refreshes = 0;
        while let Ok(command) = commands.try_recv() {
            refreshes += u32::from(matches!(command, SchedulerCommand::Refresh(..)));
        }
        assert_eq!(refreshes, 1);
    }

    #[tokio::test]
    async fn the_tokens_of_every_generation_are_known_as_secrets() {
        let (account, _commands) = account();
        for generation in 1..=3 {
            publish(&account, generation);
        }
        let known = &account.context.known;
        assert!((1..=3).all(|generation| known.occur_in(&format!("access-{generation}"))));
        assert!(!known.occur_in("access-4"));
    }

    #[tokio::test]
    async fn a_state_changes_only_if_nothing_else_has_changed_meanwhile() {
        let (account, _commands) = account();
        let (refused, well) = (Health::LoginRequired(LoginReason::KeyRefused), Health::Connected);
        publish(&account, 1);
        account.set_health(refused.clone());
        publish(&account, 2);
        assert!(!account.change_health(1, &refused, &well), "there was a login");
        account.set_health(Health::LoginRequired(LoginReason::LoggedOut));
        assert!(!account.change_health(2, &refused, &well), "there was a logout");
        assert!(account.snapshot().credential.is_none());
        account.set_health(refused.clone());
        assert!(account.change_health(2, &refused, &well));
        assert!(account.is_well() && account.snapshot().credential.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_with_a_lease_in_hand_returns_it() {
        let (account, _commands) = account();
        publish(&account, 1);
        let borrowed = account.clone();
        let task = tokio::spawn(async move {
            let _lease = Lease::acquire(&borrowed, Instant::now() + LIFE).await.unwrap();
            panic!("on purpose");
        });
        assert!(task.await.unwrap_err().is_panic());
        let ticket = account.gate.enter(0).unwrap();
        assert!(account.gate.leave(ticket), "nobody else is inside");
    }
}
