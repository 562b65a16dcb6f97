//! Logins and logouts: what a person decides about an account. Both take the locks that a refresh
//! takes, and the last one to be asked for wins.

mod company;
mod error;
mod locked_change;
mod name;
mod new_record;
mod redeemed;
mod savable;

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::account::Account;
use super::api_key::{self, KeyCheck, KeyLogin};
use super::health::Health;
use super::key_file;
use super::origin::after;
use super::reason::LoginReason;
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::refresher::Refresher;
use super::registry::Registry;
use super::services::Services;
use super::snapshot::Snapshot;
use super::subject;
use super::transition;
use crate::clock::{Deadline, Now};
use crate::oauth::Tokens;
use crate::secret::RefreshToken;
use crate::store::{AccountName, EndReason, Grant, Record, StoredKey};
use company::{Turn, held_elsewhere};
pub use error::ChangeError;
pub use locked_change::ChangeTicket;
use locked_change::check_changeable;
use new_record::{grant_of, record_of, subject_of};
use redeemed::{Patience, Redeemed};

/// Lifetime in the record of an imported token until its first refresh.
const UNKNOWN_LIFETIME: Duration = Duration::from_secs(600);

/// A grant fresh from a login.
#[derive(Debug)]
pub struct Login {
    /// What the token endpoint gave.
    pub tokens: Tokens,
    /// The instant before it was asked.
    pub sent: Now,
    /// Whose grant it is, or why the API did not say so.
    pub subject: Result<String, String>,
    /// The company's name, if the API gave it.
    pub company: Option<String>,
    /// True if introspection called the new refresh token active.
    pub introspection_trusted: bool,
    /// Another account that holds this company is logged out in its favour.
    pub replaces: bool,
}

/// Logins and logouts of this process.
#[derive(Debug)]
pub struct Changes {
    services: Arc<Services>,
    registry: Arc<Registry>,
    refresher: Arc<Refresher>,
    /// See [`Turn`].
    installing: tokio::sync::Mutex<()>,
}

impl Changes {
    pub(super) fn new(
        services: Arc<Services>,
        registry: Arc<Registry>,
        refresher: Arc<Refresher>,
    ) -> Self {
        Self { services, registry, refresher, installing: tokio::sync::Mutex::default() }
    }

    /// Whether a login of an account could be saved, as far as that is known before.
    ///
    /// # Errors
    /// [`ChangeError`] says what to do.
    pub async fn ensure_savable(&self, name: &AccountName) -> Result<(), ChangeError> {
        let store = &self.services.store;
        let stored = store.load(name).await;
        if let Some(error) = stored.err().filter(|error| !error.is_corrupt()) {
            return Err(error.into());
        }
        savable::ensure_savable(store, name).await
    }

    /// Takes a place in the order of logins and logouts, at the moment somebody asks.
    pub(super) fn begin(&self, name: &AccountName) -> ChangeTicket {
        ChangeTicket::new(self.registry.get_or_insert(name))
    }

    /// Saves a login and lets requests use it. Its code is spent: on a shared store its tokens are
    /// kept for a while where they cannot be saved at once.
    pub(super) async fn install(
        &self,
        ticket: ChangeTicket,
        login: Login,
    ) -> Result<(), ChangeError> {
        let refresh = login.tokens.refresh.clone().ok_or(ChangeError::NoRefreshToken)?;
        let deadline = Deadline::after(login.sent, login.tokens.lifetime);
        let (sent, trusted) = (login.sent, login.introspection_trusted);
        let grant = grant_of(&self.services, login.tokens, refresh, deadline, sent, trusted);
        let Login { subject, company, replaces, .. } = login;
        let mut redeemed = Redeemed { grant, deadline, sent, subject, company, replaces, tries: 0 };
        let mut patience = Patience::begin(&self.services);
        loop {
            match self.try_install(&ticket, &mut redeemed).await {
                Err(error) if patience.is_worth(&error, ticket.account()).await => {}
                ended => return ended,
            }
        }
    }

    async fn try_install(
        &self,
        ticket: &ChangeTicket,
        login: &mut Redeemed,
    ) -> Result<(), ChangeError> {
        let account = ticket.account();
        let change = ticket.lock(&self.services, true).await?;
        let previous = change.previous.as_ref();
        login.date(&change.locked, ticket);
        login.ensure_latest(ticket, previous)?;
        let bound = previous.and_then(|record| record.subject.clone());
        let subject = subject_of(&account.name, bound, login.subject.clone())?;
        login.ensure_not_overtaken(&self.services, &account.name, previous).await?;
        let known = previous.filter(|record| record.subject == subject);
        let company = known.and_then(|record| record.company.clone());
        let company = login.company.clone().or(company);
        let turn = Turn::take(&self.installing, &self.services).await?;
        let other = self.other_holder(account, subject.as_deref(), login.replaces).await?;
        let is_usable = login.grant.access.is_some();
        let record = Record { company, ..record_of(login.grant.clone(), subject) };
        let lock = match login.saved_as(previous) {
            Some(saved) => ticket.adopt(change, saved, &self.services)?,
            None => ticket.save(change, record, Some(login.deadline), &self.services).await?,
        };
        drop((lock, turn));
        account.memory().remember_success(is_usable);
        if !is_usable {
            let generation = account.peek().generation();
            self.refresher.start(account, RefreshReason::Retry, generation);
        }
        account.touch(self.services.now());
        info!(account = %account.name, "connected");
        subject::learn(&self.services, &self.registry, account);
        if let Some(other) = other {
            self.moved(&other, &account.name).await;
        }
        Ok(())
    }

    /// Saves an API key and lets requests use it. Other accounts may have the same company: an API
    /// key ends nobody's tokens.
    ///
    /// # Errors
    /// [`ChangeError`]; the account is as it was.
    pub async fn install_key(
        &self,
        ticket: ChangeTicket,
        login: KeyLogin,
    ) -> Result<(), ChangeError> {
        let account = ticket.account();
        let change = ticket.lock(&self.services, true).await?;
        let previous = change.previous.as_ref();
        if !login.replaces && previous.is_some_and(|record| record.grant.is_some()) {
            return Err(ChangeError::ConnectedByLogin(account.name.clone()));
        }
        let bound = previous.and_then(|record| record.subject.clone());
        let subject = subject_of(&account.name, bound, login.subject)?;
        let known = previous.filter(|record| record.subject == subject);
        let company = login.company.or_else(|| known.and_then(|record| record.company.clone()));
        let nothing = Record { ended: None, ..Record::tombstone(0, 0, EndReason::LoggedOut) };
        let added_at = change.locked.date(self.services.now()).max(after(previous));
        let key = StoredKey { added_at, ..login.key };
        let record = Record { api_key: Some(key), subject, company, ..nothing };
        drop(ticket.save(change, record, None, &self.services).await?);
        account.touch(self.services.now());
        info!(account = %account.name, "connected with an API key");
        api_key::warn_of_expiry(&self.services, account);
        Ok(())
    }

    /// Asks Pleo whether it takes the API key of an account.
    pub async fn check_key(&self, account: &Arc<Account>) -> KeyCheck {
        if let Some(path) = account.key_file() {
            key_file::reload(&self.services, account, path).await;
            if matches!(account.snapshot().health, Health::StoreError(_)) {
                return KeyCheck::NotSent;
            }
        }
        api_key::check(&self.services, account).await
    }

    async fn other_holder(
        &self,
        account: &Account,
        subject: Option<&str>,
        replaces: bool,
    ) -> Result<Option<AccountName>, ChangeError> {
        held_elsewhere(&self.services, &self.registry, &account.name, subject, replaces).await
    }

    /// Logs an account out whose company another one holds now.
    async fn moved(&self, other: &AccountName, to: &AccountName) {
        let account = self.registry.get_or_insert(other);
        if let Err(error) = self.logout(&account, EndReason::Moved { to: to.to_string() }).await {
            warn!(account = %other, "its company was moved to account {to}, and it could not be logged out: {error}");
        }
    }

    /// Saves a refresh token that was issued elsewhere, then refreshes once.
    pub(super) async fn import(
        &self,
        ticket: &ChangeTicket,
        token: RefreshToken,
    ) -> Result<(), ChangeError> {
        let account = ticket.account();
        let change = ticket.lock(&self.services, true).await?;
        let previous = change.previous.as_ref();
        if previous.is_some_and(Record::has_credential) {
            return Err(ChangeError::Connected(account.name.clone()));
        }
        let had_record = previous.is_some();
        let now = self.services.now();
        let nothing = Tokens {
            access: None,
            refresh: None,
            refresh_unreadable: false,
            lifetime: UNKNOWN_LIFETIME,
            scope: None,
            oddities: Vec::new(),
        };
        let expired = Deadline::after(now, Duration::ZERO);
        let grant = grant_of(&self.services, nothing, token, expired, now, false);
        let logged_in_at = change.locked.date(now).max(after(previous));
        let grant = Grant { logged_in_at, ..grant };
        let subject = previous.and_then(|record| record.subject.clone());
        // The first refresh shows whose the token is.
        let company = previous.and_then(|record| record.company.clone());
        let subject_unconfirmed = subject.is_some();
        let record = Record { company, subject_unconfirmed, ..record_of(grant, subject) };
        drop(ticket.save(change, record, None, &self.services).await?);
        account.touch(now);
        let generation = account.peek().generation();
        match self.refresher.refresh(account, RefreshReason::Asked, generation).await {
            RefreshReport::Refreshed | RefreshReport::Adopted => Ok(()),
            RefreshReport::Limited | RefreshReport::Failed => {
                Err(self.import_failed(ticket, had_record).await?)
            }
        }
    }

    /// Why the first refresh of an imported token failed. One that the server refused leaves no
    /// record where there was none before.
    async fn import_failed(
        &self,
        ticket: &ChangeTicket,
        had_record: bool,
    ) -> Result<ChangeError, ChangeError> {
        let account = ticket.account();
        let health = account.snapshot().health.clone();
        let why = health.sentence(&account.name).unwrap_or("no reason is known".into());
        let Health::LoginRequired(reason) = &health else {
            return Ok(ChangeError::Import(why));
        };
        if !had_record {
            let change = ticket.lock(&self.services, false).await?;
            if change.previous.is_none_or(|record| record.grant.is_none()) {
                change.locked.remove().await?;
                account.forget_record();
            }
        }
        Ok(ChangeError::Refused(reason.to_string()))
    }

    /// Saves what became known about an imported grant after its first refresh.
    ///
    /// # Errors
    /// [`ChangeError::OtherSubject`] or [`ChangeError::ConnectedElsewhere`]: the grant was ended.
    /// `ImportUnconfirmed`: it stays and serves nobody; the API is asked again.
    pub async fn describe(
        &self,
        ticket: &ChangeTicket,
        subject: Result<String, String>,
        company: Option<String>,
        introspection_trusted: bool,
    ) -> Result<(), ChangeError> {
        let account = ticket.account();
        let change = ticket.lock(&self.services, false).await?;
        let Some(mut record) = change.previous.clone() else { return Ok(()) };
        let _turn = Turn::take(&self.installing, &self.services).await?;
        let judged = match subject_of(&account.name, record.subject.clone(), subject) {
            Ok(it) => self.other_holder(account, it.as_deref(), false).await.map(|_| it),
            Err(error) => Err(error),
        };
        match judged {
            Ok(subject) => record.subject = subject,
            Err(ChangeError::Unconfirmed { why, .. }) => {
                return Err(ChangeError::ImportUnconfirmed(why));
            }
            Err(error) => {
                let now = change.locked.date(self.services.now()).max(after(Some(&record)));
                let reason = error.end_reason();
                let ended =
                    Record { subject: record.subject.clone(), ..Record::tombstone(0, now, reason) };
                ticket.save(change, ended, None, &self.services).await?;
                return Err(error);
            }
        }
        record.subject_unconfirmed = false;
        record.company = company.or(record.company);
        if let Some(grant) = &mut record.grant {
            grant.introspection_trusted = introspection_trusted;
        }
        account.memory().version = change.locked.save(&record).await?;
        let health = transition::health_of(&record, account, &self.services);
        account.publish(record, health, None);
        Ok(())
    }

    /// Forgets a grant: a tombstone takes its place. Requests that wait are refused at once.
    pub(super) async fn logout(
        &self,
        account: &Arc<Account>,
        reason: EndReason,
    ) -> Result<(), ChangeError> {
        check_changeable(account)?;
        let ticket = ChangeTicket::new(account.clone());
        let before = account.snapshot();
        ticket.logout_began();
        account.set_health(Health::LoginRequired(LoginReason::Ended(reason.clone())));
        let change = ticket.lock(&self.services, false).await;
        if change.is_err() {
            ticket.logout_ended();
            self.give_logout_up(account, &before);
        }
        let change = change?;
        let at = change.locked.date(self.services.now()).max(after(change.previous.as_ref()));
        let tombstone = Record::tombstone(0, at, reason);
        let saved = ticket.save(change, tombstone, None, &self.services).await;
        ticket.logout_ended();
        drop(saved?);
        info!(account = %account.name, "logged out");
        Ok(())
    }

    /// Gives an account another name, with its tokens and its company; not while there are `users`,
    /// who are asked for under its lock.
    ///
    /// # Errors
    /// [`ChangeError`]; the account has the name that it had.
    pub async fn rename(
        &self,
        account: &Arc<Account>,
        to: &AccountName,
        users: Option<impl FnOnce() -> Vec<String> + Send + 'static>,
    ) -> Result<(), ChangeError> {
        let to = self.registry.get_or_insert(to);
        name::rename(&self.services, &self.installing, account, &to, users).await
    }

    /// Removes an account that was logged out, or whose login has ended.
    ///
    /// # Errors
    /// [`ChangeError`]; `StillConnected`: it has tokens, which only a logout deletes.
    pub async fn remove(&self, account: &Arc<Account>) -> Result<(), ChangeError> {
        name::remove(&self.services, account).await
    }

    /// Restores the state of an account whose logout was given up: what its record says, where that
    /// changed meanwhile.
    fn give_logout_up(&self, account: &Account, before: &Snapshot) {
        if account.order().is_logging_out() {
            return;
        }
        let Some(record) = account.record() else {
            return account.set_health(before.health.clone());
        };
        let unsaved = account.memory().unsaved.clone();
        let health = match unsaved {
            Some(why) => Health::Unsaved(why),
            None if record.generation == before.generation() => before.health.clone(),
            None => transition::health_of(&record, account, &self.services),
        };
        account.publish(Record::clone(&record), health, None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::super::sync::StoreSync;
    use super::super::testing;
    use super::super::unsaved;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_logout_that_is_given_up_leaves_the_account_as_it_is_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _commands) = testing::services(folder.path());
        let registry = Arc::new(Registry::new(services.context.clone()));
        let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
        let changes = Changes::new(services.clone(), registry.clone(), refresher.clone());
        let name = AccountName::fallback();
        testing::save_expired(&services, &name).await;
        let account = registry.get_or_insert(&name);
        StoreSync::new(services.clone(), registry, refresher).reload(&account).await;
        for unsaved in [None, Some("the disk is full".to_owned())] {
            let lock = account.refresh_lock.clone().lock_owned().await;
            let logout = changes.logout(&account, EndReason::LoggedOut);
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
            drop(lock);
        }
        let record = account.record().unwrap();
        let logout = ChangeTicket::new(account.clone());
        logout.logout_began();
        unsaved::saved(&services, &account, &record);
        assert!(
            matches!(account.snapshot().health, Health::Unsaved(_)),
            "a logout waits for the refresh lock"
        );
        logout.logout_ended();
        account.memory().unsaved = Some("the disk is full".to_owned());
        unsaved::saved(&services, &account, &record);
        assert_eq!(account.snapshot().health, Health::Connected);
    }
}
