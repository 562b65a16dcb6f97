//! What other processes saved to the store is noticed and adopted.

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
use crate::store::{Change, Changes, Record, RecordError, Version, Watched};

impl Accounts {
    /// Polls the store's changes on a task of its own, one poll at a time: a disk that hangs holds
    /// up no refresh, and a panic ends this poll only.
    pub(super) fn start_polling_changes(self: &Arc<Self>, watched: Vec<Arc<Account>>) {
        let Ok(mut changes) = self.changes.clone().try_lock_owned() else { return };
        let accounts = self.clone();
        self.control.spawn(async move {
            let polled = async {
                accounts.retry_with_new_secret(&watched).await;
                accounts.poll_changes(&mut changes, &watched).await;
            };
            accounts.unless_closing(polled).await;
        });
    }

    /// Loads the records that have changed, and those of new accounts.
    pub(super) async fn poll_changes(
        self: &Arc<Self>,
        changes: &mut Changes,
        watched: &[Arc<Account>],
    ) {
        let watched = watched.iter().map(|account| account.watched()).collect();
        for change in changes.poll(watched).await {
            match change {
                Change::Changed(name) => self.reload(&self.enter(&name)).await,
                Change::Resync => {
                    for account in self.all() {
                        self.reload(&account).await;
                    }
                }
            }
        }
    }

    /// Where the client was refused and the secret file has changed since, a refresh is tried at
    /// once.
    async fn retry_with_new_secret(self: &Arc<Self>, watched: &[Arc<Account>]) {
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

    /// Reads a record that another process may have replaced, and adopts it if it is newer. While
    /// this process refreshes or changes the account, it knows better, so nothing is done.
    pub(super) async fn reload(&self, account: &Arc<Account>) {
        let Ok(_turn) = account.turn.clone().try_lock_owned() else { return };
        let before = account.memory().version;
        let was_refused = account.is_refused();
        // The version is remembered only after the record is read: if the caller leaves meanwhile,
        // the change is reported again.
        match self.store.load(&account.name).await {
            Ok(Some((_, version))) if version == before && !was_refused => {}
            Ok(Some((record, version))) => {
                account.memory().version = version;
                self.compare(account, record, was_refused || before.is_absent()).await;
            }
            Ok(None) if before.is_absent() && !was_refused => {}
            Ok(None) => {
                account.memory().version = Version::default();
                if was_refused || account.memory().record.is_some() {
                    let reason = LoginReason::RecordGone;
                    warn!(account = %account.name, "{}", reason.told(&account.name));
                    account.set_health(Health::LoginRequired(reason));
                }
            }
            Err(RecordError::StoreMissing(_)) => {}
            Err(error) if error.is_passing() && account.memory().record.is_some() => {}
            Err(error) => {
                let health = Health::StoreError(error.to_string());
                account.set_known();
                if account.snapshot().health != health {
                    error!(account = %account.name, "{error}");
                    account.set_health(health);
                }
            }
        }
    }

    /// Adopts a readable record if it is newer. One that has come `back` ends the trouble of its
    /// absence; where it is an older one, memory's is kept, because the older one's token is spent.
    async fn compare(&self, account: &Account, record: Record, back: bool) {
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
            // Otherwise two processes that adopt each other's pairs would refresh for ever.
            Health::Connected if account.memory().unusable > 1 => self.no_usable_token(account),
            health => health,
        };
        account.publish(record, health, None);
    }

    /// The health of an account that has this record and no other trouble.
    pub(super) fn health_of(&self, record: &Record) -> Health {
        let Some(grant) = &record.grant else {
            let reason =
                record.ended.as_ref().map(|ended| LoginReason::Ended(ended.reason.clone()));
            return Health::LoginRequired(reason.unwrap_or(LoginReason::LoggedOut));
        };
        // Without a client id nothing can be refreshed anyway; read-only commands still show what is
        // stored.
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

impl Account {
    /// True if the record could not be used when it was last read.
    fn is_refused(&self) -> bool {
        matches!(self.snapshot().health, Health::StoreError(_))
    }

    /// A record that could not be used is read again at each poll: the cause may be over.
    fn watched(&self) -> Watched {
        let version = self.memory().version;
        Watched { account: self.name.clone(), version: (!self.is_refused()).then_some(version) }
    }
}
