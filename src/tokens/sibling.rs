//! Records on disk: what other processes of the same store saved is noticed and adopted.

use parking_lot::MutexGuard;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::Accounts;
use super::account::Account;
use super::reason::LoginReason;
use super::refresh::Reason;
use super::snapshot::{Health, Trouble};
use super::subject::unconfirmed;
use crate::clock::Deadline;
use crate::store::{Record, Version};

/// What is known of the store's folder.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// As the last look found it.
    seen: Version,
    /// As it was when all names in it were known.
    listed: Version,
}

impl Accounts {
    /// Looks at records on a task of its own, one look at a time: a disk that hangs holds up no
    /// refresh, and a panic ends this look only.
    pub(super) fn look_aside(self: &Arc<Self>, watched: Vec<Arc<Account>>) {
        let Ok(looking) = self.looking.clone().try_lock_owned() else { return };
        let accounts = self.clone();
        self.control.spawn(async move {
            let _looking = looking;
            accounts.unless_closing(accounts.look(watched)).await;
        });
    }

    /// Looks at the records of accounts that are used or in trouble, and at the folder for new
    /// ones.
    async fn look(self: &Arc<Self>, watched: Vec<Arc<Account>>) {
        self.look_at_secret(&watched).await;
        let names = watched.iter().map(|account| account.name.clone()).collect();
        let (folder, versions) = self.store.versions(names).await;
        for (account, version) in watched.iter().zip(versions) {
            // What could not be read may have been so for a moment only.
            if account.memory().version != version
                || matches!(account.snapshot().health, Health::StoreError(_))
            {
                self.reload(account).await;
            }
        }
        let (seen, listed) = {
            let known = self.folder();
            (known.seen, known.listed)
        };
        if listed != folder && self.look_for_new().await && seen == folder {
            // Listed a second time since it last changed: what came with the same time stamp is
            // found too.
            self.folder().listed = folder;
        }
        self.folder().seen = folder;
    }

    /// Where the client was refused and the secret file is another one by now, it is tried at once.
    async fn look_at_secret(self: &Arc<Self>, watched: &[Arc<Account>]) {
        let is_refused =
            |account: &&Arc<Account>| matches!(account.snapshot().health, Health::Misconfigured(_));
        let mut refused = watched.iter().filter(is_refused).peekable();
        if refused.peek().is_none() {
            return;
        }
        let (secret, now) = (self.secret_stamp().await, self.clock().now());
        for account in refused.filter(|account| account.is_mended(secret, now)) {
            self.start(account, Reason::Retry, account.snapshot().generation);
        }
    }

    /// False if the folder cannot be listed now.
    async fn look_for_new(self: &Arc<Self>) -> bool {
        let Ok(names) = self.store.list().await else { return false };
        for name in names.into_iter().filter(|name| self.get(name).is_none()) {
            self.reload(&self.enter(&name)).await;
        }
        true
    }

    fn folder(&self) -> MutexGuard<'_, Folder> {
        self.folder.lock()
    }

    /// Reads a record that another process may have replaced, and adopts it if it is newer. Whoever
    /// has the turn knows better, so then nothing is done.
    pub(super) async fn reload(&self, account: &Arc<Account>) {
        let Ok(_turn) = account.turn.clone().try_lock_owned() else { return };
        let (folder, versions) = self.store.versions(vec![account.name.clone()]).await;
        let version = versions.first().copied().unwrap_or_default();
        let before = account.memory().version;
        let was_refused = matches!(account.snapshot().health, Health::StoreError(_));
        if before == version && !was_refused {
            return;
        }
        let loaded = self.store.load(&account.name).await;
        // Only now: a caller who leaves while the record is read must not make it count as seen.
        account.memory().version = version;
        match loaded {
            Ok(Some(record)) => self.seen(account, record, was_refused || before.is_absent()).await,
            // A disk that is not there has logged nobody out: looked at again until it is.
            Ok(None) if folder.is_absent() => account.memory().version = before,
            Ok(None) if was_refused || account.memory().record.is_some() => {
                let reason = LoginReason::RecordGone;
                warn!(account = %account.name, "{}", reason.told(&account.name));
                account.set_health(Health::LoginRequired(reason));
            }
            Ok(None) => {}
            // Says nothing about the record; the next look tells.
            Err(problem) if problem.is_passing() && account.memory().record.is_some() => {
                account.memory().version = before;
            }
            Err(problem) => {
                let health = Health::StoreError(problem.to_string());
                account.set_known();
                if account.snapshot().health != health {
                    error!(account = %account.name, "{problem}");
                    account.set_health(health);
                }
            }
        }
    }

    /// A readable record: a newer one is adopted. One that is `back` ends the trouble of its
    /// absence; where it is an older one, memory's is kept, because the older one's token is spent.
    async fn seen(&self, account: &Account, record: Record, back: bool) {
        let (on_disk, known) = (record.generation, account.memory().record.clone());
        match known.filter(|known| known.generation > on_disk) {
            Some(known) if back => {
                warn!(account = %account.name, on_disk, known = known.generation, "an older record was put back; the newer one is kept");
                self.adopt(account, known).await;
            }
            None if back || on_disk > account.snapshot().generation => {
                self.adopt(account, record).await
            }
            _ => {}
        }
    }

    /// Takes over what another process saved. The gate stays as it is.
    pub(super) async fn adopt(&self, account: &Account, record: Record) {
        info!(account = %account.name, generation = record.generation, "record loaded");
        let usable = record.grant.as_ref().is_none_or(|grant| grant.access.is_some());
        account.remember_good(usable);
        let health = match self.health_of(&record) {
            // Else two processes that adopt each other's pairs would go on for ever.
            Health::Connected if account.memory().unusable > 1 => self.no_usable_token(account),
            health => health,
        };
        account.publish(record, health, None);
    }

    /// How an account is that has this record and no other trouble.
    pub(super) fn health_of(&self, record: &Record) -> Health {
        let Some(grant) = &record.grant else {
            let reason =
                record.ended.as_ref().map(|ended| LoginReason::Ended(ended.reason.clone()));
            return Health::LoginRequired(reason.unwrap_or(LoginReason::LoggedOut));
        };
        // Without a client id nothing can be refreshed anyway; commands that only look still tell
        // what is there.
        if grant.issued != self.issued() && self.oauth.settings.client_id.is_some() {
            return Health::LoginRequired(LoginReason::IssuedElsewhere(grant.issued.clone()));
        }
        match record.open_intent() {
            Some(_) => Health::Uncertain(Trouble::until(
                "a refresh was sent and has no known outcome",
                Deadline::after(self.clock().now(), Duration::ZERO),
            )),
            None if record.subject_unconfirmed => unconfirmed(self.clock().now()),
            None => Health::Connected,
        }
    }
}
