//! What other processes saved to the store is noticed and adopted.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{error, warn};

use super::account::Account;
use super::health::Health;
use super::moved;
use super::refresh_reason::RefreshReason;
use super::refresher::Refresher;
use super::registry::Registry;
use super::services::Services;
use super::transition;
use crate::store::{AccountName, Change, Changes, Record, RecordError, Version, Watched};

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

    /// Loads the records that have changed, and those of new accounts. The store reports a new
    /// account once, so what cannot be read now is read at a later poll.
    async fn poll(&self, polling: &mut Polling, watched: &[Arc<Account>]) {
        let watched = watched.iter().map(|account| watch(account)).collect();
        for change in polling.changes.poll(watched).await {
            match change {
                Change::Changed(name) => polling.add(self.registry.get_or_insert(&name)),
                Change::Resync => self.registry.sorted().into_iter().for_each(|it| polling.add(it)),
            }
        }
        for (name, account) in polling.unread.clone() {
            if self.reload(&account).await {
                polling.unread.remove(&name);
            }
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
        let before = account.memory().version;
        let was_refused = is_refused(account);
        // The version is remembered only after the record is read: if the caller leaves meanwhile,
        // the change is reported again.
        match self.services.store.load(&account.name).await {
            Ok(Some((_, version))) if version == before && !was_refused => {}
            Ok(Some((record, version))) => {
                account.memory().version = version;
                if self.is_anothers(account, &record).await {
                    transition::adopt(record, account, &self.services);
                } else {
                    self.compare(account, record, was_refused || before.is_absent());
                }
            }
            Ok(None) if before.is_absent() && !was_refused => {}
            Ok(None) => {
                account.memory().version = Version::default();
                if was_refused || account.record().is_some() {
                    transition::record_gone(account);
                }
            }
            Err(RecordError::StoreMissing(_)) => return false,
            Err(error) if error.is_passing() && account.record().is_some() => return false,
            Err(error) => {
                let health = Health::StoreError(error.to_string());
                account.set_known();
                if account.peek().health != health {
                    error!(account = %account.name, "{error}");
                    account.set_health(health);
                }
            }
        }
        true
    }

    /// True if the name was given to another account meanwhile.
    async fn is_anothers(&self, account: &Account, record: &Record) -> bool {
        match account.record() {
            Some(known) => moved::has_moved(&self.services, &account.name, &known, record).await,
            None => false,
        }
    }

    /// Adopts a readable record if it is newer. One that has come `back` ends the trouble of its
    /// absence; where it is an older one, memory's is kept, because the older one's token is spent.
    fn compare(&self, account: &Account, record: Record, back: bool) {
        let (on_disk, known) = (record.generation, account.record());
        match known.filter(|known| known.generation > on_disk) {
            Some(known) if back => {
                warn!(account = %account.name, on_disk, known = known.generation, "an older record was put back; the newer one is kept");
                transition::adopt(Record::clone(&known), account, &self.services);
            }
            None if back || on_disk > account.peek().generation() => {
                transition::adopt(record, account, &self.services);
            }
            _ => {}
        }
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
}
