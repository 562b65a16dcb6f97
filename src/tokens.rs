//! Custody of the tokens: all accounts of this process, each an independent chain of single-use
//! refresh tokens.
//!
//! Requests see an account through its [`Snapshot`] and borrow its token with a [`Lease`];
//! everything that changes a grant goes through its turn and the store's lock: `refresh`, `change`.
//! What nobody asks for happens in `schedule`, and `sync` adopts what other processes saved.

mod account;
mod change;
#[expect(
    unreachable_pub,
    reason = "the model in tests/model compiles this file as its own, and tests it from outside"
)]
mod gate;
mod in_flight;
mod lease;
mod limiter;
mod misconfigured;
mod outage;
mod reason;
mod refresh;
mod schedule;
mod secret_file;
mod settle;
mod snapshot;
mod status;
mod subject;
mod sync;
mod unsaved;

use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::clock::Clock;
use crate::oauth;
use crate::store::{AccountName, Changes, Store};
use crate::supervise::Supervisor;
use crate::telemetry::Metrics;
use crate::timeout::while_running;
use account::{Shared, Wish};
use limiter::RefreshLimiter;
use outage::Outage;
use secret_file::SecretFile;

pub use account::Account;
pub use change::{Asked, ChangeError, Login};
pub use lease::Lease;
pub use reason::LoginReason;
pub use refresh::{Reason, Report};
pub use snapshot::{Credential, Health, Refusal, Snapshot, Trouble};
pub use status::{LastRefresh, Status};

/// How long a turn waits for the store's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How long anybody waits for a turn: a refresh takes its lock (10 s), reaches the server (5 s),
/// drains and posts (30 s).
const TURN_PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of the process waits for token requests: their own deadline, and their save.
const LAST_CALLS: Duration = oauth::CALL.saturating_add(Duration::from_secs(5));

/// Settings of custody.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an exchange waits for requests that hold the old token.
    pub drain: Duration,
    /// How long a request waits for a token.
    pub hold: Duration,
    /// How long after its last use an account is refreshed ahead of need.
    pub keep_warm: Duration,
    /// A grant not refreshed for this long is refreshed, so that it does not lapse.
    pub idle_refresh: Duration,
    /// The account of callers who name none.
    pub default_account: Option<AccountName>,
}

/// Who looks after the accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// This process does what nobody asks for: it serves.
    Scheduled,
    /// Nothing happens but what is asked for: one command, then the end.
    OnDemand,
}

/// Whom callers get who name no account.
#[derive(Clone, Debug)]
pub enum Choice {
    /// This one.
    One(Arc<Account>),
    /// Several are connected, none is the default.
    Ambiguous(Vec<AccountName>),
    /// None is connected.
    None,
}

/// A choice, and the version of the accounts that it was made of.
#[derive(Debug)]
struct Chosen {
    version: u64,
    choice: Arc<Choice>,
}

/// What a rejected request (401) does next.
#[derive(Debug)]
pub enum Verdict {
    /// Borrow again: there is another token.
    Again,
    /// Pass the upstream's answer on.
    Give,
    /// There will be no other token now.
    Refuse(Refusal),
}

/// All accounts of this process.
#[derive(Debug)]
pub struct Accounts {
    map: DashMap<AccountName, Arc<Account>>,
    store: Store,
    oauth: Arc<oauth::Client>,
    secret_file: SecretFile,
    shared: Arc<Shared>,
    /// Where refreshes run, whatever thread asks for them.
    control: Handle,
    tasks: TaskTracker,
    supervisor: Supervisor,
    closing: CancellationToken,
    limiter: RefreshLimiter,
    outage: Outage,
    /// When the scheduler was last awake; none before the first time.
    heard: Mutex<Option<Instant>>,
    /// Locked while the store's changes are polled.
    changes: Arc<tokio::sync::Mutex<Changes>>,
    chosen: ArcSwap<Chosen>,
    choosing: Mutex<()>,
    /// Held from the check that no other account has a login's company until the login is saved.
    installing: tokio::sync::Mutex<()>,
}

impl Accounts {
    /// Loads all records, on the current runtime. With [`Care::Scheduled`] they are looked after
    /// from here on.
    ///
    /// # Errors
    /// The store's folder cannot be read. A bad record affects its account only.
    pub async fn open(
        store: Store,
        oauth: oauth::Client,
        settings: Settings,
        clock: Clock,
        care: Care,
    ) -> std::io::Result<Arc<Self>> {
        let (accounts, granted) = Self::empty(store, oauth, settings, clock);
        // A store that cannot be listed stops the start.
        accounts.store.list().await?;
        accounts.poll_changes(&mut *accounts.changes.lock().await, &[]).await;
        if care == Care::Scheduled {
            tokio::spawn(accounts.clone().schedule(granted));
        }
        Ok(accounts)
    }

    /// No account yet, and the wishes of those that come.
    fn empty(
        store: Store,
        oauth: oauth::Client,
        settings: Settings,
        clock: Clock,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Wish>) {
        let (wishes, granted) = mpsc::unbounded_channel();
        let accounts = Self {
            map: DashMap::new(),
            changes: Arc::new(tokio::sync::Mutex::new(store.changes())),
            store,
            oauth: Arc::new(oauth),
            secret_file: SecretFile::default(),
            shared: Arc::new(Shared {
                settings,
                clock,
                metrics: Arc::default(),
                wishes,
                choice_version: AtomicU64::new(1),
            }),
            control: Handle::current(),
            tasks: TaskTracker::new(),
            supervisor: Supervisor::default(),
            closing: CancellationToken::new(),
            limiter: RefreshLimiter::default(),
            outage: Outage::default(),
            heard: Mutex::default(),
            chosen: ArcSwap::from_pointee(Chosen { version: 0, choice: Arc::new(Choice::None) }),
            choosing: Mutex::default(),
            installing: tokio::sync::Mutex::default(),
        };
        (Arc::new(accounts), granted)
    }

    /// An account that is known: it has a record (possibly a new one on disk), is named by the
    /// settings, or is `default`.
    pub async fn find(self: &Arc<Self>, name: &AccountName) -> Option<Arc<Account>> {
        if let Some(account) = self.get(name) {
            return Some(account);
        }
        let is_named = self.settings().default_account.as_ref() == Some(name)
            || *name == AccountName::fallback();
        if !is_named {
            match self.store.load(name).await {
                Ok(None) => return None,
                // For want of files nobody can say: a name that callers make up must not become an
                // account.
                Err(error) if error.is_passing() => return None,
                Ok(Some(_)) | Err(_) => {}
            }
        }
        let account = self.enter(name);
        account.set_known();
        self.reload(&account).await;
        Some(account)
    }

    /// An account that this process knows already: the usual path of a request.
    pub fn get(&self, name: &AccountName) -> Option<Arc<Account>> {
        self.map.get(name).map(|account| account.clone()).filter(|account| account.is_known())
    }

    /// The account of callers who name none: the configured one, else the only one with a grant,
    /// else `default` if it has a record.
    pub fn choice(&self) -> Arc<Choice> {
        let chosen = self.chosen.load();
        if chosen.version == self.shared.choice_version.load(Ordering::Acquire) {
            return chosen.choice.clone();
        }
        // One at a time, and whoever comes meanwhile waits: an older answer is neither given nor
        // stored last.
        let _choosing = self.choosing.lock();
        // Read before the accounts are: a change that comes in between is looked at again.
        let version = self.shared.choice_version.load(Ordering::Acquire);
        let choice = Arc::new(self.choose());
        self.chosen.store(Arc::new(Chosen { version, choice: choice.clone() }));
        choice
    }

    fn choose(&self) -> Choice {
        if let Some(name) = &self.settings().default_account {
            return self.get(name).map_or(Choice::None, Choice::One);
        }
        let mut granted: Vec<_> =
            self.all().into_iter().filter(|account| account.age().is_some()).collect();
        if granted.len() == 1 {
            return granted.pop().map_or(Choice::None, Choice::One);
        }
        match self.get(&AccountName::fallback()).filter(|account| account.has_record()) {
            Some(account) => Choice::One(account),
            None if granted.is_empty() => Choice::None,
            None => Choice::Ambiguous(granted.iter().map(|account| account.name.clone()).collect()),
        }
    }

    /// All accounts, sorted by name.
    pub fn all(&self) -> Vec<Arc<Account>> {
        let mut all = self.unsorted();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn unsorted(&self) -> Vec<Arc<Account>> {
        self.map
            .iter()
            .map(|entry| entry.value().clone())
            .filter(|account| account.is_known())
            .collect()
    }

    /// What to do after the upstream refused the token of `generation` (401). Waits at most until
    /// `deadline`.
    pub async fn rejected(
        self: &Arc<Self>,
        account: &Arc<Account>,
        generation: u64,
        deadline: Instant,
    ) -> Verdict {
        // A disk that hangs is waited for no longer than anything else.
        let _ = tokio::time::timeout_at(deadline, self.reload(account)).await;
        let snapshot = account.snapshot();
        if snapshot.generation > generation {
            return Verdict::Again;
        }
        if matches!(snapshot.health, Health::Uncertain(_)) {
            account.forget_credential(generation);
        }
        // Counted among those who wait, which moves the account up in the queue of refreshes.
        let held = account.hold();
        let report =
            tokio::time::timeout_at(deadline, self.refresh(account, Reason::Rejected, generation))
                .await;
        drop(held);
        let snapshot = account.snapshot();
        match report {
            _ if snapshot.generation > generation
                && !matches!(snapshot.health, Health::LoginRequired(_)) =>
            {
                Verdict::Again
            }
            Ok(Report::Limited) => Verdict::Give,
            Ok(_) => Verdict::Refuse(self.refusal(&snapshot)),
            Err(_) => {
                let hold = self.settings().hold;
                Verdict::Refuse(Refusal::RefreshTimeout(format!("no fresh token within {hold:?}")))
            }
        }
    }

    /// The same for a request that cannot be sent again: later ones shall fare better.
    pub fn rejected_for_good(self: &Arc<Self>, account: &Arc<Account>, generation: u64) {
        if account.snapshot().generation == generation
            && !account.was_just_forced(self.clock().now())
        {
            self.start(account, Reason::Rejected, generation);
        }
    }

    /// Why a refresh that failed leaves a request without a token that the upstream accepts.
    fn refusal(&self, snapshot: &Snapshot) -> Refusal {
        let why = snapshot.health.why().unwrap_or("the refresh failed").to_owned();
        let wait = snapshot
            .health
            .next_try()
            .map(|next| next.remaining(self.clock().now()))
            .unwrap_or_default();
        match &snapshot.health {
            Health::LoginRequired(reason) => Refusal::LoginRequired(reason.clone()),
            Health::Misconfigured(_) => Refusal::Misconfigured(why),
            Health::StoreError(_) => Refusal::StoreError(why),
            Health::StoreUnwritable(_) | Health::Unsaved(_) => Refusal::StoreUnwritable(why, wait),
            Health::Locked(_) => Refusal::RefreshTimeout(why),
            Health::Connected | Health::Retrying(_) | Health::Uncertain(_) => {
                Refusal::AuthUnreachable(why, wait)
            }
        }
    }

    /// Ends custody: nothing new is begun, token requests under way are waited for. Returns the
    /// accounts whose new pair could not be saved.
    pub async fn close(&self) -> Vec<AccountName> {
        self.closing.cancel();
        self.tasks.close();
        if while_running(LAST_CALLS, self.tasks.wait()).await.is_none() {
            error!("a token request did not end in time; its account may need a login");
        }
        let unsaved = |account: &Arc<Account>| account.memory().unsaved.is_some();
        self.all()
            .iter()
            .filter(|account| unsaved(account))
            .map(|account| account.name.clone())
            .collect()
    }

    /// Runs work that must end even if its caller leaves, and that the end of the process waits
    /// for.
    pub async fn keep<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.tasks.spawn_on(work, &self.control).await.ok()
    }

    /// Where grants are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The OAuth client.
    pub fn oauth(&self) -> &oauth::Client {
        &self.oauth
    }

    /// The clock of all deadlines.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Settings of custody.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Counters of everything that is done to tokens and requests.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// What became of the background tasks of this process, those of other parts included.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// True once the process is about to end.
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.closing.run_until_cancelled(work).await
    }

    fn enter(&self, name: &AccountName) -> Arc<Account> {
        let new = || Arc::new(Account::new(name.clone(), self.shared.clone()));
        self.map.entry(name.clone()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::oauth::endpoint::{Endpoint, Origin};
    use crate::oauth::{ClientAuth, SecretSource};
    use crate::outbound::{self, Outbound};
    use crate::secret::{ClientSecret, RefreshToken};
    use crate::store::{EndReason, Grant, Record};

    const NOWHERE: &str = "http://127.0.0.1:9";
    /// What only a test that fails waits for.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Accounts whose token endpoint is not there.
    pub(super) fn accounts(
        folder: &std::path::Path,
    ) -> (Arc<Accounts>, mpsc::UnboundedReceiver<Wish>) {
        let settings = oauth::Settings {
            client_id: Some("client".into()),
            client_secret: SecretSource::Value(ClientSecret::new("secret")),
            auth: ClientAuth::Basic,
            scopes: Vec::new(),
            authorize: Endpoint::parse(NOWHERE).unwrap(),
            token: Endpoint::parse(NOWHERE).unwrap(),
            introspect: None,
            api: Origin::parse(NOWHERE).unwrap(),
        };
        let outbound = outbound::Settings { plain_only: true, ..outbound::Settings::default() };
        let client = oauth::Client::new(settings, &Outbound::new(&outbound).unwrap()).unwrap();
        let custody = Settings {
            drain: Duration::from_secs(2),
            hold: Duration::from_secs(15),
            keep_warm: Duration::from_secs(600),
            idle_refresh: Duration::from_secs(604_800),
            default_account: None,
        };
        let store = Store::open(&folder.join("store")).unwrap();
        Accounts::empty(store, client, custody, Clock::system())
    }

    /// A record whose token has expired, on disk.
    async fn save_expired(accounts: &Accounts, name: &AccountName) {
        let now = accounts.clock().now().wall;
        let grant = Grant {
            access: None,
            refresh: RefreshToken::new("refresh"),
            expires_at: now,
            life: 600_000,
            scope: Vec::new(),
            issued: accounts.issued(),
            logged_in_at: now,
            refreshed_at: now,
            introspection_trusted: false,
        };
        let record = Record {
            generation: 1,
            grant: Some(grant),
            subject: None,
            subject_unconfirmed: false,
            intent: None,
            ended: None,
        };
        let locked = accounts.store().lock(name, Duration::ZERO).await.unwrap();
        accounts.store().save(&locked, &record).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_logout_that_is_given_up_leaves_the_account_as_it_is_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let (accounts, _granted) = accounts(folder.path());
        let name = AccountName::fallback();
        save_expired(&accounts, &name).await;
        let account = accounts.find(&name).await.unwrap();
        for unsaved in [None, Some("the disk is full".to_owned())] {
            let turn = account.turn.clone().lock_owned().await;
            let logout = accounts.logout(&name, EndReason::LoggedOut);
            let meanwhile = async {
                while !account.order().is_logging_out() {
                    sleep(Duration::from_millis(1)).await;
                }
                assert!(matches!(account.snapshot().health, Health::LoginRequired(_)));
                account.memory().unsaved.clone_from(&unsaved);
            };
            let (given_up, ()) = tokio::join!(logout, meanwhile);
            assert!(matches!(given_up, Err(ChangeError::Busy(_))), "{given_up:?}");
            let expected = unsaved.map_or(Health::Connected, Health::Unsaved);
            assert_eq!(account.snapshot().health, expected);
            drop(turn);
        }
        let record = account.memory().record.clone().unwrap();
        let logout = account.order().ask();
        account.order().logout_began(logout);
        accounts.saved_at_last(&account, &record);
        assert!(
            matches!(account.snapshot().health, Health::Unsaved(_)),
            "a logout is waiting for the turn"
        );
        account.order().logout_ended(logout);
        account.memory().unsaved = Some("the disk is full".to_owned());
        accounts.saved_at_last(&account, &record);
        assert_eq!(account.snapshot().health, Health::Connected);
    }

    #[tokio::test]
    async fn a_scheduler_that_starts_again_grants_what_the_one_before_had_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (accounts, granted) = accounts(folder.path());
        let name = AccountName::fallback();
        save_expired(&accounts, &name).await;
        let account = accounts.find(&name).await.unwrap();
        assert_eq!(accounts.scheduler_silence(), None, "there was none yet");
        let waiting = account.clone();
        tokio::spawn(async move { waiting.lease(Instant::now() + PATIENCE).await.map(drop) });
        let granted = Arc::new(tokio::sync::Mutex::new(granted));
        let taken = async {
            let mut granted = granted.lock().await;
            while !matches!(granted.recv().await, Some(Wish::Refresh(..))) {}
        };
        timeout(PATIENCE, taken).await.unwrap();
        let scheduler = tokio::spawn(schedule::run(accounts.clone(), granted.clone()));
        let tried = async {
            while account.memory().last.is_none() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, tried).await.unwrap();
        scheduler.abort();
        assert!(scheduler.await.unwrap_err().is_cancelled());
        assert!(granted.try_lock().is_ok(), "the wishes outlive it");
    }
}
