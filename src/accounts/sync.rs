//! What other processes saved to the store is noticed and adopted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep};
use tracing::{debug, error, info, warn};

use super::account::Account;
use super::health::{Health, StoreFault};
use super::key_file;
use super::moved;
use super::reason::LoginReason;
use super::refresh_reason::RefreshReason;
use super::refresher::Refresher;
use super::registry::Registry;
use super::services::Services;
use super::settings::Background;
use super::transition;
use crate::store::{
    AccountName, Change, Changes, Loaded, Protection, Record, RecordError, Version, Watched,
};
use crate::supervise::supervise;

/// Pause after a poll for news: a busy replica tells many times a second.
const NEWS_PAUSE: Duration = Duration::from_millis(100);
/// Records that are read at once: a store on another machine answers each after a while.
const RELOADS: usize = 32;

/// Follows the changes of the store.
#[derive(Debug)]
pub(super) struct StoreSync {
    services: Arc<Services>,
    registry: Arc<Registry>,
    refresher: Arc<Refresher>,
    /// Locked while the store is polled.
    polling: Arc<tokio::sync::Mutex<Polling>>,
}

#[derive(Debug)]
struct Polling {
    changes: Changes,
    /// Accounts with a change that is not read yet.
    unread: BTreeMap<AccountName, Arc<Account>>,
}

impl Polling {
    fn add(&mut self, account: Arc<Account>) {
        self.unread.insert(account.name.clone(), account);
    }
}

impl StoreSync {
    pub(super) fn new(
        services: Arc<Services>,
        registry: Arc<Registry>,
        refresher: Arc<Refresher>,
    ) -> Self {
        let polling = Polling { changes: services.store.changes(), unread: BTreeMap::new() };
        let polling = Arc::new(tokio::sync::Mutex::new(polling));
        Self { services, registry, refresher, polling }
    }

    /// Loads the records of all accounts.
    pub(super) async fn load_all(&self) -> std::io::Result<()> {
        let mut polling = self.polling.lock().await;
        for name in self.services.store.list().await? {
            polling.add(self.registry.get_or_insert(&name));
        }
        let named = self.services.settings().named.iter();
        for (name, _) in named.filter(|(_, named)| named.api_key_file.is_some()) {
            polling.add(self.registry.get_or_insert(name));
        }
        self.poll(&mut polling, &[]).await;
        Ok(())
    }

    /// Polls the store's changes on a task of its own, one poll at a time: a disk that hangs holds
    /// up no refresh, and a panic ends this poll only.
    pub(super) fn start_polling(self: &Arc<Self>, watched: Vec<Arc<Account>>) {
        let Ok(mut polling) = self.polling.clone().try_lock_owned() else { return };
        let sync = self.clone();
        self.services.spawn_detached(async move {
            let polled = async {
                sync.retry_with_new_secret(&watched).await;
                sync.poll(&mut polling, &watched).await;
            };
            sync.services.unless_closing(polled).await;
        });
    }

    /// Polls whenever another process tells of a change, besides the regular polls, until the end.
    pub(super) async fn follow_news(self: Arc<Self>) {
        let reader = self.services.store.changes();
        let follow = async || loop {
            reader.news().await;
            let began = Instant::now();
            self.poll(&mut *self.polling.lock().await, &[]).await;
            // The regular polls, which watch more, have most of the time.
            sleep(NEWS_PAUSE.max(began.elapsed() * 4)).await;
        };
        supervise("store_news", &self.services.supervisor, &self.services.closing, follow).await;
    }

    /// Loads the records that have changed, and those of new accounts. The store reports a new
    /// account once, so what cannot be read now is read at a later poll.
    async fn poll(&self, polling: &mut Polling, watched: &[Arc<Account>]) {
        // The store knows nothing of a file that the settings name.
        let with_file = watched.iter().filter(|account| account.key_file().is_some());
        with_file.for_each(|account| polling.add(account.clone()));
        let watched = watched.iter().map(|account| watch(account)).collect();
        for change in polling.changes.poll(watched).await {
            match change {
                Change::Changed(name) => polling.add(self.registry.get_or_insert(&name)),
                Change::Resync => {
                    self.services.store_back.send_modify(|times| *times += 1);
                    self.registry.sorted().into_iter().for_each(|it| polling.add(it));
                }
            }
        }
        let unread: Vec<_> = polling.unread.values().cloned().collect();
        let reload = async |account: Arc<Account>| self.reload(&account).await.then_some(account);
        let mut read = stream::iter(unread).map(reload).buffer_unordered(RELOADS);
        while let Some(account) = read.next().await {
            account.map(|account| polling.unread.remove(&account.name));
        }
    }

    /// Where the client was refused and the secret file has changed since, a refresh is tried at
    /// once.
    async fn retry_with_new_secret(&self, watched: &[Arc<Account>]) {
        let is_refused =
            |account: &&Arc<Account>| matches!(account.peek().health, Health::Misconfigured(_));
        let mut refused = watched.iter().filter(is_refused).peekable();
        if refused.peek().is_none() {
            return;
        }
        let secret = self.services.secret_file.current_stamp().await;
        let now = self.services.now();
        for account in refused.filter(|account| account.memory().is_mended(secret, now)) {
            let generation = account.peek().generation();
            self.refresher.start(account, RefreshReason::Retry, generation);
        }
    }

    /// Reads a record that another process may have replaced, and adopts it if it is newer. While
    /// this process refreshes or changes the account, it knows better, so nothing is done. False if
    /// the record was not read.
    pub(super) async fn reload(&self, account: &Arc<Account>) -> bool {
        let Ok(_lock) = account.refresh_lock.clone().try_lock_owned() else { return false };
        if let Some(path) = account.key_file() {
            return key_file::reload(&self.services, account, path).await;
        }
        let before = account.memory().version;
        let was_refused = is_refused(account);
        // The version is remembered only after the record is read: if the caller leaves meanwhile,
        // the change is reported again.
        match self.services.store.load_as_kept(&account.name).await {
            Ok(Some(loaded)) if loaded.version == before && !was_refused => {}
            Ok(Some(Loaded { record, version, protection })) => {
                self.warn_if_plain(account, &record, &protection);
                let back = was_refused || before.is_absent();
                return self.look_at(account, record, version, back).await;
            }
            Ok(None) if before.is_absent() && !was_refused && account.record().is_none() => {}
            Ok(None) => {
                account.memory().version = Version::default();
                if was_refused || account.record().is_some() {
                    self.record_gone(account).await;
                }
            }
            Err(RecordError::StoreMissing(_) | RecordError::Unreachable(_)) => return false,
            Err(error) if error.is_passing() && account.record().is_some() => return false,
            Err(error) => {
                let fault = StoreFault::from(&error);
                let health = Health::StoreError(fault.clone());
                account.set_known();
                if account.peek().health != health {
                    error!(account = %account.name, "{}", fault.why);
                    account.set_health(health);
                }
            }
        }
        true
    }

    /// Another process has removed the account after its logout, or has renamed it: then nothing is
    /// wrong. Else people are told.
    async fn record_gone(&self, account: &Account) {
        let Some(known) = account.record() else { return transition::record_gone(account) };
        if let Some(name) = moved::new_name(&self.services, account, &known).await {
            info!(account = %account.name, "renamed elsewhere to {name}");
            account.forget_record();
        } else if !known.has_credential() && self.services.store.is_shared() {
            // A file that is deleted by hand may come back with an earlier record, which the one that
            // is remembered keeps out.
            info!(account = %account.name, "removed elsewhere");
            account.forget_record();
        } else if account.peek().health != Health::LoginRequired(LoginReason::RecordGone) {
            transition::record_gone(account);
        }
    }

    /// With a key every record is to be sealed: one that is not was saved before there was a key, or
    /// put there by somebody. It is used all the same, and said by a proxy each time that it is read.
    fn warn_if_plain(&self, account: &Account, record: &Record, protection: &Protection) {
        if self.services.background == Background::Enabled
            && self.services.store.key().is_some()
            && record.has_credential()
            && *protection == Protection::Plain
        {
            warn!(account = %account.name, "its record is not sealed, though there is a key: if nobody put it there, seal it with: pleo-proxy store seal");
        }
    }

    /// True if the name was given to another account meanwhile.
    async fn is_anothers(&self, account: &Account, record: &Record) -> bool {
        match account.record() {
            Some(known) => moved::has_moved(&self.services, account, &known, record).await,
            None => false,
        }
    }

    /// Adopts a readable record if it is newer. One that has come `back` ends the trouble of its
    /// absence. Where it is an older one, memory's is kept, because the older one's token is spent,
    /// and saved over it, so that no other process sends that. False if it must be read again.
    async fn look_at(
        &self,
        account: &Arc<Account>,
        record: Record,
        version: Version,
        back: bool,
    ) -> bool {
        let known = account.record().filter(|known| known.generation > record.generation);
        if self.is_anothers(account, &record).await {
            account.memory().version = version;
            transition::adopt(record, account, &self.services);
            return true;
        }
        let Some(known) = known else {
            account.memory().version = version;
            if back || record.generation > account.peek().generation() {
                transition::adopt(record, account, &self.services);
            }
            return true;
        };
        if account.memory().is_new_older(version) {
            warn!(account = %account.name, on_disk = record.generation, known = known.generation, "an older record was put back; the newer one is kept and saved over it");
        }
        if back {
            account.memory().version = version;
            transition::adopt(Record::clone(&known), account, &self.services);
        }
        if !moved::takes_the_place_of(account, &known, &record) {
            account.memory().version = version;
            return true;
        }
        let saved = self.save_over(account, &known).await;
        if let Err(why) = &saved {
            debug!(account = %account.name, "the older record is still there: {why}");
        }
        saved.is_ok()
    }

    /// Saves memory's record over an older one, unless that is another one by now.
    async fn save_over(&self, account: &Account, known: &Record) -> Result<(), String> {
        let store = &self.services.store;
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let locked = store.lock(&account.name, Duration::ZERO).await.map_err(|it| told(&it))?;
        let stored = store.load(&account.name).await.map_err(|it| told(&it))?;
        let is_older =
            stored.is_some_and(|(stored, _)| moved::takes_the_place_of(account, known, &stored));
        if !is_older {
            return Err("another one was saved meanwhile".into());
        }
        let version = locked.save(known).await.map_err(|it| told(&it))?;
        account.memory().version = version;
        info!(account = %account.name, generation = known.generation, "saved over the older record");
        Ok(())
    }
}

/// True if the record could not be used when it was last read.
fn is_refused(account: &Account) -> bool {
    matches!(account.peek().health, Health::StoreError(_))
}

/// A record that could not be used is read again at each poll: the cause may be over.
fn watch(account: &Account) -> Watched {
    let version = account.memory().version;
    Watched { account: account.name.clone(), version: (!is_refused(account)).then_some(version) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::testing::{save_expired, services};
    use crate::store::EndReason;

    /// An account, and its record in the store, which is not read yet.
    struct Setup {
        services: Arc<Services>,
        sync: StoreSync,
        name: AccountName,
        account: Arc<Account>,
        first: Record,
        _folder: tempfile::TempDir,
    }

    impl Setup {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (services, _commands) = services(folder.path());
            let registry = Arc::new(Registry::new(services.context.clone()));
            let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
            let sync = StoreSync::new(services.clone(), registry.clone(), refresher);
            let name: AccountName = "acme".parse().unwrap();
            let account = registry.get_or_insert(&name);
            save_expired(&services, &name).await;
            let (first, _) = services.store.load(&name).await.unwrap().unwrap();
            Self { services, sync, name, account, first, _folder: folder }
        }
    }

    #[tokio::test]
    async fn a_new_record_of_an_account_that_is_being_changed_is_read_later() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _commands) = services(folder.path());
        let registry = Arc::new(Registry::new(services.context.clone()));
        let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
        let sync = StoreSync::new(services.clone(), registry.clone(), refresher);
        let name = "acme".parse().unwrap();
        let account = registry.get_or_insert(&name);
        let changing = account.refresh_lock.clone().lock_owned().await;
        save_expired(&services, &name).await;
        let mut polling = sync.polling.lock().await;
        sync.poll(&mut polling, &[]).await;
        assert!(account.record().is_none());
        drop(changing);
        for _ in 0..2 {
            sync.poll(&mut polling, &[]).await;
            assert!(account.record().is_some());
            assert!(polling.unread.is_empty());
        }
    }

    #[tokio::test]
    async fn an_older_record_of_the_same_login_is_replaced_by_the_one_in_memory() {
        let Setup { services, sync, name, account, first, _folder } = Setup::new().await;
        let at = |generation| Record { generation, ..first.clone() };
        let save = async |record: Record| {
            // A program that another test starts has the files of this process open for a moment.
            let locked = services.store.lock(&name, Duration::from_secs(10)).await.unwrap();
            locked.save(&record).await.unwrap();
        };
        let stored = async || services.store.load(&name).await.unwrap().unwrap().0.generation;
        save(at(3)).await;
        assert!(sync.reload(&account).await);
        // A standby that lags, or a backup.
        save(at(2)).await;
        let lock = services.store.lock(&name, Duration::from_secs(10)).await.unwrap();
        assert!(!sync.reload(&account).await, "somebody works on it");
        assert_eq!(stored().await, 2);
        drop(lock);
        assert!(sync.reload(&account).await);
        assert_eq!((stored().await, account.peek().generation()), (3, 3));
        assert!(sync.reload(&account).await);
        // Of an earlier login nothing is known.
        let mut other = at(2);
        other.grant.as_mut().unwrap().logged_in_at -= 1000;
        save(other.clone()).await;
        assert!(sync.reload(&account).await);
        assert_eq!((stored().await, account.peek().generation()), (2, 3));
        // The account was removed, and somebody has logged in anew.
        other.grant.as_mut().unwrap().logged_in_at += 2000;
        save(other).await;
        assert!(sync.reload(&account).await);
        assert_eq!((stored().await, account.peek().generation()), (2, 2));
    }

    #[tokio::test]
    async fn the_end_of_a_login_is_saved_over_an_older_pair_of_it_and_of_no_later_one() {
        let Setup { services, sync, name, account, first, _folder } = Setup::new().await;
        let save = async |record: &Record| {
            let locked = services.store.lock(&name, Duration::ZERO).await.unwrap();
            locked.save(record).await.unwrap();
        };
        let stored = async || services.store.load(&name).await.unwrap().unwrap().0;
        assert!(sync.reload(&account).await);
        let login = first.grant.as_ref().unwrap().logged_in_at;
        save(&Record::tombstone(3, login + 60_000, EndReason::LoggedOut)).await;
        assert!(sync.reload(&account).await);
        // A standby that lags.
        save(&Record { generation: 2, ..first.clone() }).await;
        assert!(sync.reload(&account).await);
        assert!(stored().await.grant.is_none(), "it would be sent again by whoever starts");
        assert_eq!(account.peek().generation(), 3);
        let mut anew = first;
        anew.grant.as_mut().unwrap().logged_in_at += 120_000;
        save(&anew).await;
        assert!(sync.reload(&account).await);
        assert!(stored().await.grant.is_some());
        assert_eq!(
            (account.peek().generation(), account.record().unwrap().grant.is_some()),
            (1, true)
        );
    }

    #[tokio::test]
    async fn a_lower_generation_that_ends_a_later_login_counts_and_one_before_is_replaced() {
        let Setup { services, sync, name, account, first, _folder } = Setup::new().await;
        let login = first.grant.as_ref().unwrap().logged_in_at;
        let sixth = Record { generation: 6, subject: Some("company".into()), ..first };
        let save = async |record: &Record| {
            let locked = services.store.lock(&name, Duration::ZERO).await.unwrap();
            locked.save(record).await.unwrap();
        };
        let interrupted = EndReason::Interrupted { sent_at: login };
        let interrupted_later = EndReason::Interrupted { sent_at: login + 1 };
        let of_company = |record| Record { subject: Some("company".into()), ..record };
        for (saved, is_kept) in [
            // A database that is back at what was before the login.
            (Record::tombstone(2, login - 1, EndReason::LoggedOut), true),
            // Or before the answer came that seemed lost.
            (of_company(Record::tombstone(5, login + 1, interrupted.clone())), true),
            // Or before it came back from another store.
            (Record::tombstone(5, login + 1, EndReason::LeftStore { target: "x".into() }), true),
            // The account was removed and made anew, and that login has ended.
            (Record::tombstone(2, login + 1, EndReason::LoggedOut), false),
            (Record::tombstone(2, login + 1, interrupted), false),
            (of_company(Record::tombstone(2, login + 2, interrupted_later)), false),
            (Record::tombstone(6, login + 1, EndReason::LoggedOut), false),
        ] {
            save(&sixth).await;
            account.memory().version = Version::default();
            assert!(sync.reload(&account).await);
            assert!(account.record().unwrap().grant.is_some());
            save(&saved).await;
            assert!(sync.reload(&account).await, "{saved:?}");
            let (stored, _) = services.store.load(&name).await.unwrap().unwrap();
            let is_connected = account.record().unwrap().grant.is_some();
            assert_eq!((stored.grant.is_some(), is_connected), (is_kept, is_kept), "{saved:?}");
        }
    }

    #[cfg(feature = "postgres")]
    #[tokio::test]
    async fn what_another_replica_tells_of_is_adopted_without_a_regular_poll() {
        use crate::accounts::testing::services_on;
        use crate::secret::DatabaseSecret;
        use crate::store::{Database, PostgresStore, Sealing, Store, UrlSource, postgres_server};
        let Some(database) = postgres_server::Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Database { url, allow_plain: true, ..Database::default() };
        let open = async || {
            let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await;
            services_on(Store::Postgres(Arc::new(store.unwrap())), "http://127.0.0.1:9").0
        };
        let (own, other) = (open().await, open().await);
        let registry = Arc::new(Registry::new(own.context.clone()));
        let refresher = Arc::new(Refresher::new(own.clone(), registry.clone()));
        let sync = Arc::new(StoreSync::new(own.clone(), registry.clone(), refresher));
        let following = tokio::spawn(sync.follow_news());
        // It listens by now: statements of a connection follow each other.
        for _ in 0..2 {
            own.store.list().await.unwrap();
        }
        let name: AccountName = "acme".parse().unwrap();
        save_expired(&other, &name).await;
        let adopted = async {
            while registry.get_or_insert(&name).record().is_none() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), adopted).await.expect("it is told");
        following.abort();
    }
}
