//! The accounts of this process, each with its own chain of single-use refresh tokens.
//!
//! Requests see an account through its [`Snapshot`] and borrow its credential with a [`Lease`];
//! everything that changes a grant holds its refresh lock and the store's lock: `refresh_job` for a
//! refresh (what follows from its outcome is decided in `outcome`), `change` for logins and
//! logouts. `scheduler` starts what nobody asks for, and `sync` adopts what other processes saved.

mod account;
mod api_key;
mod backoff;
mod change;
mod credential;
mod default_account;
mod executor;
#[expect(
    unreachable_pub,
    reason = "the model in tests/model compiles this file as its own, and tests it from outside"
)]
mod gate;
mod health;
mod history;
mod key_file;
mod lease;
mod limiter;
mod locked_record;
mod memory;
mod moved;
mod order;
mod origin;
mod outage;
mod outcome;
pub mod pacer;
pub mod rate;
mod reason;
mod refresh_job;
mod refresh_reason;
mod refresher;
mod registry;
mod rejection;
mod scheduler;
mod secret_file;
mod services;
mod settings;
mod snapshot;
mod status;
mod subject;
mod sync;
#[cfg(test)]
mod testing;
mod transition;
mod unknown;
mod unsaved;
mod waiting;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::clock::Clock;
use crate::oauth::{self, Credentials, CredentialsError};
use crate::redaction::KnownSecrets;
use crate::secret::RefreshToken;
use crate::store::{AccountName, EndReason, Issued, Store};
use crate::supervise::Supervisor;
use crate::telemetry::Metrics;
use account::{AccountContext, SchedulerCommand};
use default_account::CachedDefault;
use refresher::Refresher;
use registry::Registry;
use scheduler::Scheduler;
use services::Services;
use sync::StoreSync;

pub use account::Account;
pub use api_key::{KeyCheck, KeyLogin, KeyStatus, key_warning};
pub use change::{ChangeError, ChangeTicket, Changes, Login};
pub use credential::{ApiKeyCredential, Credential, CredentialSource, Expiry};
pub use default_account::DefaultAccount;
pub use health::{Health, RetryState, StoreFault};
pub use history::PastRefresh;
pub use key_file::{KeyFileError, read as read_key_file};
pub use lease::Lease;
pub use reason::{LoginReason, RetryReason};
pub use refresh_reason::{RefreshReason, RefreshReport};
pub use settings::{Background, NamedAccount, Settings, label};
pub use snapshot::{Refusal, Snapshot, Verdict};
pub use status::{LastRefresh, Status};
pub use unknown::UnknownAccount;

/// All accounts of this process.
#[derive(Debug)]
pub struct Accounts {
    services: Arc<Services>,
    registry: Arc<Registry>,
    refresher: Arc<Refresher>,
    changes: Changes,
    sync: Arc<StoreSync>,
    scheduler: Arc<Scheduler>,
    cached_default: CachedDefault,
}

impl Accounts {
    /// Loads all records, on the current runtime. Unless [`Background::Disabled`], the accounts are
    /// looked after from here on.
    ///
    /// # Errors
    /// The store cannot be listed. A bad record affects its account only.
    pub async fn open(
        store: Store,
        oauth: oauth::Client,
        settings: Settings,
        clock: Clock,
        background: Background,
    ) -> std::io::Result<Arc<Self>> {
        let (accounts, commands) = Self::empty(store, oauth, settings, clock, background);
        accounts.sync.load_all().await?;
        if background.is_on() {
            tokio::spawn(accounts.scheduler.clone().supervised(commands));
            if accounts.store().is_shared() {
                tokio::spawn(accounts.sync.clone().follow_news());
            }
        }
        Ok(accounts)
    }

    /// No account yet, and the commands to the scheduler.
    fn empty(
        store: Store,
        oauth: oauth::Client,
        settings: Settings,
        clock: Clock,
        background: Background,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<SchedulerCommand>) {
        let (commands, received) = mpsc::unbounded_channel();
        let context = Arc::new(AccountContext::new(settings, clock, commands));
        store.make_keys_known(&context.known);
        let registry = Arc::new(Registry::new(context.clone()));
        let services = Arc::new(Services::new(store, oauth, context, background));
        let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
        let parts = || (services.clone(), registry.clone(), refresher.clone());
        let (a, b, c) = parts();
        let sync = Arc::new(StoreSync::new(a, b, c));
        let (a, b, c) = parts();
        let scheduler = Arc::new(Scheduler::new(a, b, c, sync.clone()));
        let (a, b, c) = parts();
        let changes = Changes::new(a, b, c);
        let cached_default = CachedDefault::default();
        let accounts =
            Self { services, registry, refresher, changes, sync, scheduler, cached_default };
        (Arc::new(accounts), received)
    }

    /// An account that is known: it has a record (possibly a new one on disk), is named by the
    /// settings, or is `default`.
    pub async fn find(&self, name: &AccountName) -> Option<Arc<Account>> {
        if let Some(account) = self.get(name) {
            return Some(account);
        }
        let settings = self.settings();
        let is_named = settings.default_account.as_ref() == Some(name)
            || settings.named.contains_key(name)
            || *name == AccountName::fallback();
        if !is_named {
            match self.store().load(name).await {
                Ok(None) => return None,
                // Without files nobody knows: a name that callers make up must not become an
                // account.
                Err(error) if error.is_passing() => return None,
                Ok(Some(_)) | Err(_) => {}
            }
        }
        let account = self.registry.get_or_insert(name);
        account.set_known();
        self.sync.reload(&account).await;
        Some(account)
    }

    /// An account that this process knows already: the usual path of a request.
    pub fn get(&self, name: &AccountName) -> Option<Arc<Account>> {
        self.registry.get(name)
    }

    /// All accounts, sorted by name.
    pub fn all(&self) -> Vec<Arc<Account>> {
        self.registry.sorted()
    }

    /// The account of requests that name none: the configured one, else the only one with a grant,
    /// else `default` if it has a record.
    pub fn default_account(&self) -> Arc<DefaultAccount> {
        self.cached_default.get(&self.registry, self.settings().default_account.as_ref())
    }

    /// Refreshes an account, or joins the refresh that is under way, and waits for its end. A
    /// caller who leaves cancels nothing.
    pub async fn refresh(
        &self,
        account: &Arc<Account>,
        reason: RefreshReason,
        generation: u64,
    ) -> RefreshReport {
        self.refresher.refresh(account, reason, generation).await
    }

    /// What to do after the upstream refused the token of `generation` (401). Waits at most until
    /// `deadline`.
    pub async fn rejected(
        &self,
        account: &Arc<Account>,
        generation: u64,
        deadline: Instant,
    ) -> Verdict {
        // A disk that hangs delays no longer than anything else.
        let _ = timeout_at(deadline, self.sync.reload(account)).await;
        rejection::judge(&self.services, &self.refresher, account, generation, deadline).await
    }

    /// The same for a request that cannot be sent again, so that later ones get another token.
    pub fn rejected_for_good(&self, account: &Arc<Account>, generation: u64) {
        rejection::mend(&self.services, &self.refresher, account, generation);
    }

    /// Takes a place in the order of logins and logouts, at the moment somebody asks.
    pub fn begin_change(&self, name: &AccountName) -> ChangeTicket {
        self.changes.begin(name)
    }

    /// Saves a login and lets requests use it.
    ///
    /// # Errors
    /// [`ChangeError`]; the account is as it was.
    pub async fn install(&self, ticket: ChangeTicket, login: Login) -> Result<(), ChangeError> {
        self.changes.install(ticket, login).await
    }

    /// Saves a refresh token that was issued elsewhere, then refreshes once.
    ///
    /// # Errors
    /// [`ChangeError`]; after `Import` the token is saved all the same: it may work yet, or be
    /// spent.
    pub async fn import(
        &self,
        ticket: &ChangeTicket,
        token: RefreshToken,
    ) -> Result<(), ChangeError> {
        self.changes.import(ticket, token).await
    }

    /// Forgets a grant: a tombstone takes its place. Requests that wait are refused at once. It
    /// goes on if the caller leaves.
    ///
    /// # Errors
    /// [`ChangeError`]; on `Save` the grant is out of use in this process, and still on disk.
    pub async fn logout(
        self: &Arc<Self>,
        name: &AccountName,
        reason: EndReason,
    ) -> Result<(), ChangeError> {
        let (accounts, name) = (self.clone(), name.clone());
        let work = async move {
            let found = accounts.find(&name).await;
            let account = found.ok_or_else(|| UnknownAccount::among(&name, &accounts.all()))?;
            accounts.changes.logout(&account, reason).await
        };
        self.run_to_completion(work).await.unwrap_or(Err(ChangeError::Closing))
    }

    /// Logins, logouts and what else people decide about accounts.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Begins nothing new, and waits for token requests under way. Returns the accounts whose new
    /// pair could not be saved.
    pub async fn close(&self) -> Vec<AccountName> {
        self.services.close().await;
        self.services.store.finish_releases().await;
        let is_unsaved = |account: &Arc<Account>| account.memory().unsaved.is_some();
        self.all().into_iter().filter(is_unsaved).map(|account| account.name.clone()).collect()
    }

    /// Runs work that must end even if its caller leaves, and that the end of the process waits
    /// for.
    pub async fn run_to_completion<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.services.spawn(work).await.ok()
    }

    /// Client id and secret for one attempt.
    ///
    /// # Errors
    /// [`CredentialsError`] names the setting.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        self.services.secret_file.credentials().await
    }

    /// The company that an account is bound to, if it is.
    pub fn bound_subject(&self, account: &AccountName) -> Option<String> {
        self.get(account)?.record()?.subject.clone()
    }

    /// Where grants of this process are issued.
    pub fn issued(&self) -> Issued {
        self.services.issued()
    }

    /// For how long the scheduler has not been awake; none if that is no longer than usual, or if
    /// there is none. Time asleep does not count.
    pub fn scheduler_silence(&self) -> Option<Duration> {
        self.scheduler.silence()
    }

    /// Where grants are kept.
    pub fn store(&self) -> &Store {
        &self.services.store
    }

    /// The OAuth client.
    pub fn oauth(&self) -> &oauth::Client {
        &self.services.oauth
    }

    /// The clock of all deadlines.
    pub fn clock(&self) -> &Clock {
        &self.services.context.clock
    }

    /// Settings of all accounts.
    pub fn settings(&self) -> &Settings {
        self.services.settings()
    }

    /// Attempts to refresh that began at `from` (UNIX milliseconds) or later, oldest first.
    pub fn refreshes_since(&self, from: i64) -> Vec<PastRefresh> {
        self.services.context.history.since(from)
    }

    /// Wakes when the state of an account changes.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.services.context.changed.subscribe()
    }

    /// Counters of everything that is done to tokens and requests.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.services.context.metrics
    }

    /// The secrets of this run, for those who take them out of what leaves.
    pub fn known_secrets(&self) -> &KnownSecrets {
        &self.services.context.known
    }

    /// Counts the background tasks of this process that ended or panicked, those of other parts
    /// included.
    pub fn supervisor(&self) -> &Supervisor {
        &self.services.supervisor
    }

    /// True once the process is about to end.
    pub fn is_closing(&self) -> bool {
        self.services.is_closing()
    }
}
