//! Logins and logouts: what a person decides about an account. Both take the turn and the lock that
//! a refresh takes, and the last one to be asked wins.

mod error;
mod order;

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::account::Account;
use super::reason::LoginReason;
use super::refresh::{Reason, Report};
use super::snapshot::{Health, Snapshot};
use super::{Accounts, LOCK_PATIENCE, TURN_PATIENCE};
use crate::clock::{Deadline, Now, millis};
use crate::oauth::Tokens;
use crate::secret::RefreshToken;
use crate::store::{AccountName, DecodeError, EndReason, Grant, Locked, Record, RecordError};
use crate::timeout::while_running;
pub use error::ChangeError;
pub(super) use order::Order;

/// Life that an imported token's record states until its first refresh tells.
const UNKNOWN_LIFE: Duration = Duration::from_secs(600);

/// A grant fresh from a login.
#[derive(Debug)]
pub struct Login {
    /// What the token endpoint gave.
    pub tokens: Tokens,
    /// The instant before it was asked.
    pub sent: Now,
    /// Whose grant it is, or why the API did not say so.
    pub subject: Result<String, String>,
    /// True if introspection called the new refresh token active.
    pub introspection_trusted: bool,
    /// Another account that holds this company is logged out in its favour.
    pub replaces: bool,
}

/// A place in the order of what was asked for.
#[derive(Debug)]
pub struct Asked {
    account: Arc<Account>,
    number: u64,
}

type Turn = tokio::sync::OwnedMutexGuard<()>;

/// What a change has in its hands.
struct Begun {
    turn: Turn,
    locked: Locked,
    previous: Option<Record>,
    /// What is on disk cannot be read: it is put aside right before the new record is saved.
    is_corrupt: bool,
}

impl Accounts {
    /// Takes a place in the order of logins and logouts, at the moment somebody asks.
    pub fn ask(self: &Arc<Self>, name: &AccountName) -> Asked {
        let account = self.enter(name);
        let number = account.order().ask();
        Asked { account, number }
    }

    /// Saves a login and lets requests use it.
    ///
    /// # Errors
    /// [`ChangeError`]; the account is as it was.
    pub async fn install(self: &Arc<Self>, asked: Asked, login: Login) -> Result<(), ChangeError> {
        let refresh = login.tokens.refresh.clone().ok_or(ChangeError::NoRefreshToken)?;
        let account = asked.account.clone();
        let begun = self.begin(&asked, true).await?;
        let bound = begun.previous.as_ref().and_then(|record| record.subject.clone());
        let subject = subject_of(&account.name, bound, login.subject)?;
        let installing = self.installing.lock().await;
        let other = self.held_elsewhere(&account.name, subject.as_deref(), login.replaces)?;
        let deadline = Deadline::after(login.sent, login.tokens.life);
        let grant =
            self.grant(login.tokens, refresh, deadline, login.sent, login.introspection_trusted);
        let usable = grant.access.is_some();
        let record = granted(grant, subject);
        let turn = self.replace(&asked, begun, record, Some(deadline)).await?;
        drop((turn, installing));
        account.remember_good(usable);
        if !usable {
            self.start(&account, Reason::Retry, account.snapshot().generation);
        }
        account.touch(self.clock().now());
        info!(account = %account.name, "connected");
        self.learn_subject(&account);
        if let Some(other) = other {
            self.moved(&other, &account.name).await;
        }
        Ok(())
    }

    /// The other account that holds a login's company.
    ///
    /// # Errors
    /// There is one, and this login does not replace it.
    fn held_elsewhere(
        &self,
        account: &AccountName,
        subject: Option<&str>,
        replaces: bool,
    ) -> Result<Option<AccountName>, ChangeError> {
        let Some((subject, other)) =
            subject.and_then(|it| Some((it, self.other_holder(account, it)?)))
        else {
            return Ok(None);
        };
        match replaces {
            true => Ok(Some(other)),
            false => Err(ChangeError::ConnectedElsewhere {
                account: account.clone(),
                subject: subject.to_owned(),
                other,
            }),
        }
    }

    /// Logs an account out whose company another one holds now.
    async fn moved(self: &Arc<Self>, other: &AccountName, to: &AccountName) {
        if let Err(error) = self.forget(other, EndReason::Moved { to: to.to_string() }).await {
            warn!(account = %other, "its company was moved to account {to}, and it could not be logged out: {error}");
        }
    }

    /// Saves a refresh token that was issued elsewhere, then refreshes once.
    ///
    /// # Errors
    /// [`ChangeError`]; after `Import` the token is saved all the same: it may work yet, or be
    /// spent.
    pub async fn import(
        self: &Arc<Self>,
        asked: &Asked,
        token: RefreshToken,
    ) -> Result<(), ChangeError> {
        let account = asked.account.clone();
        let begun = self.begin(asked, true).await?;
        let previous = begun.previous.as_ref();
        if previous.is_some_and(|record| record.grant.is_some()) {
            return Err(ChangeError::Connected(account.name.clone()));
        }
        let had_record = previous.is_some();
        let now = self.clock().now();
        let nothing = Tokens {
            access: None,
            refresh: None,
            refresh_unreadable: false,
            life: UNKNOWN_LIFE,
            scope: None,
            oddities: Vec::new(),
        };
        let grant = self.grant(nothing, token, Deadline::after(now, Duration::ZERO), now, false);
        let subject = previous.and_then(|record| record.subject.clone());
        // Whose the token is shows only after its first refresh.
        let record = Record { subject_unconfirmed: subject.is_some(), ..granted(grant, subject) };
        drop(self.replace(asked, begun, record, None).await?);
        account.touch(now);
        match self.refresh(&account, Reason::Asked, account.snapshot().generation).await {
            Report::Refreshed | Report::Adopted => Ok(()),
            _ => {
                let snapshot = account.snapshot();
                let why =
                    snapshot.health.told(&account.name).unwrap_or("no reason is known".into());
                if !matches!(snapshot.health, Health::LoginRequired(_)) {
                    return Err(ChangeError::Import(why));
                }
                if !had_record {
                    self.remove_refused(asked).await?;
                }
                Err(ChangeError::Refused(why))
            }
        }
    }

    /// Removes the tombstone of an import that the server refused: there was no such account
    /// before.
    async fn remove_refused(self: &Arc<Self>, asked: &Asked) -> Result<(), ChangeError> {
        let begun = self.begin(asked, false).await?;
        if begun.previous.is_some_and(|record| record.grant.is_some()) {
            return Ok(());
        }
        self.store().remove(&begun.locked).await?;
        asked.account.forget_record();
        Ok(())
    }

    /// Notes what became known about an imported grant after its first refresh.
    ///
    /// # Errors
    /// [`ChangeError::OtherSubject`] or [`ChangeError::ConnectedElsewhere`]: the grant was ended.
    /// `ImportUnconfirmed`: it stays and serves nobody; the question is asked again.
    pub async fn describe(
        self: &Arc<Self>,
        asked: &Asked,
        subject: Result<String, String>,
        introspection_trusted: bool,
    ) -> Result<(), ChangeError> {
        let account = asked.account.clone();
        let begun = self.begin(asked, false).await?;
        let Some(mut record) = begun.previous.clone() else { return Ok(()) };
        let _installing = self.installing.lock().await;
        let judged = subject_of(&account.name, record.subject.clone(), subject)
            .and_then(|it| self.held_elsewhere(&account.name, it.as_deref(), false).map(|_| it));
        match judged {
            Ok(subject) => record.subject = subject,
            Err(ChangeError::Unconfirmed { why, .. }) => {
                return Err(ChangeError::ImportUnconfirmed(why));
            }
            Err(error) => {
                let now = self.clock().now().wall;
                let reason = error.end_reason();
                let ended =
                    Record { subject: record.subject.clone(), ..Record::tombstone(0, now, reason) };
                self.replace(asked, begun, ended, None).await?;
                return Err(error);
            }
        }
        record.subject_unconfirmed = false;
        if let Some(grant) = &mut record.grant {
            grant.introspection_trusted = introspection_trusted;
        }
        account.memory().version = self.store().save(&begun.locked, &record).await?;
        let health = self.health_of(&record);
        account.publish(record, health, None);
        Ok(())
    }

    /// Forgets a grant: a tombstone takes its place. Requests that wait are let go at once. It goes
    /// on if the caller leaves.
    ///
    /// # Errors
    /// [`ChangeError`]; on `Save` the grant is out of use in this process, and still on disk.
    pub async fn logout(
        self: &Arc<Self>,
        name: &AccountName,
        reason: EndReason,
    ) -> Result<(), ChangeError> {
        let (accounts, name) = (self.clone(), name.clone());
        let work = async move { accounts.forget(&name, reason).await };
        self.keep(work).await.unwrap_or(Err(ChangeError::Closing))
    }

    async fn forget(
        self: &Arc<Self>,
        name: &AccountName,
        reason: EndReason,
    ) -> Result<(), ChangeError> {
        let account = self.find(name).await.ok_or_else(|| ChangeError::Unknown(name.clone()))?;
        is_saved(&account)?;
        let asked = self.ask(name);
        let before = account.snapshot();
        account.order().logout_began(asked.number);
        account.set_health(Health::LoginRequired(LoginReason::Ended(reason.clone())));
        let begun = self.begin(&asked, false).await;
        if begun.is_err() {
            account.order().logout_ended(asked.number);
            self.as_it_was(&account, &before);
        }
        let tombstone = Record::tombstone(0, self.clock().now().wall, reason);
        let replaced = self.replace(&asked, begun?, tombstone, None).await;
        account.order().logout_ended(asked.number);
        drop(replaced?);
        info!(account = %name, "logged out");
        Ok(())
    }

    /// Puts an account back whose logout was given up: to what its record says, where that changed
    /// meanwhile.
    fn as_it_was(&self, account: &Account, before: &Snapshot) {
        if account.order().is_logging_out() {
            return;
        }
        let (record, unsaved) = {
            let memory = account.memory();
            (memory.record.clone(), memory.unsaved.clone())
        };
        let Some(record) = record else { return account.set_health(before.health.clone()) };
        let health = match unsaved {
            Some(why) => Health::Unsaved(why),
            None if record.generation == before.generation => before.health.clone(),
            None => self.health_of(&record),
        };
        account.publish(record, health, None);
    }

    /// Turn, lock and the record to be replaced: the one on disk, unless memory has a newer one.
    /// With `replaces_corrupt` a damaged one counts as none.
    async fn begin(
        self: &Arc<Self>,
        asked: &Asked,
        replaces_corrupt: bool,
    ) -> Result<Begun, ChangeError> {
        let account = &asked.account;
        is_saved(account)?;
        let turn = while_running(TURN_PATIENCE, account.turn.clone().lock_owned()).await;
        let turn = turn.ok_or_else(|| ChangeError::Busy(account.name.clone()))?;
        if account.order().is_superseded(asked.number) {
            return Err(ChangeError::Superseded(account.name.clone()));
        }
        let locked = self.store().lock(&account.name, LOCK_PATIENCE).await?;
        let (stored, is_corrupt) = match self.store().load(&account.name).await {
            Ok(stored) => (stored.map(|(record, _)| record), false),
            // A record of a newer program is whole: it stays.
            Err(RecordError::Undecodable(_, DecodeError::Corrupt(_))) if replaces_corrupt => {
                (None, true)
            }
            Err(error) => return Err(error.into()),
        };
        let remembered = account.memory().record.clone();
        let previous =
            [stored, remembered].into_iter().flatten().max_by_key(|record| record.generation);
        Ok(Begun { turn, locked, previous, is_corrupt })
    }

    async fn set_aside(&self, locked: &Locked) -> Result<(), ChangeError> {
        let now = self.clock().now().wall / 1000;
        let aside = self.store().set_aside(locked, now).await;
        let aside = aside.map_err(|error| ChangeError::SetAside(locked.account.clone(), error))?;
        warn!(account = %locked.account, "the damaged record was put aside as {}", aside);
        Ok(())
    }

    /// Saves the record as the next generation and publishes it. The turn comes back with it.
    async fn replace(
        &self,
        asked: &Asked,
        begun: Begun,
        record: Record,
        deadline: Option<Deadline>,
    ) -> Result<Turn, ChangeError> {
        let account = &asked.account;
        // A later logout may have been asked for while a login's company was looked up.
        if account.order().is_superseded(asked.number) {
            return Err(ChangeError::Superseded(account.name.clone()));
        }
        if begun.is_corrupt {
            self.set_aside(&begun.locked).await?;
        }
        let known =
            account.snapshot().generation.max(begun.previous.map_or(0, |record| record.generation));
        let record = Record { generation: known + 1, ..record };
        let version = self.store().save(&begun.locked, &record).await?;
        account.order().saved(asked.number);
        account.memory().version = version;
        let health = self.health_of(&record);
        account.publish(record, health, deadline);
        Ok(begun.turn)
    }

    fn grant(
        &self,
        tokens: Tokens,
        refresh: RefreshToken,
        deadline: Deadline,
        sent: Now,
        trusted: bool,
    ) -> Grant {
        Grant {
            access: tokens.access,
            refresh,
            expires_at: deadline.wall,
            life: millis(tokens.life),
            scope: tokens.scope.unwrap_or_else(|| self.oauth().settings.scopes.clone()),
            issued: self.issued(),
            logged_in_at: sent.wall,
            refreshed_at: sent.wall,
            introspection_trusted: trusted,
        }
    }
}

/// Nothing is changed while the newest pair is in memory only.
fn is_saved(account: &Account) -> Result<(), ChangeError> {
    match &account.memory().unsaved {
        Some(why) => Err(ChangeError::Unsaved(account.name.clone(), why.clone())),
        None => Ok(()),
    }
}

/// The record of a grant; its generation is given to it when it is saved.
fn granted(grant: Grant, subject: Option<String>) -> Record {
    Record {
        generation: 0,
        grant: Some(grant),
        subject,
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    }
}

/// The subject that an account has after a login. One that is bound takes its own company's login
/// only, and only if it is known to be that.
fn subject_of(
    account: &AccountName,
    bound: Option<String>,
    offered: Result<String, String>,
) -> Result<Option<String>, ChangeError> {
    let account = account.clone();
    match (bound, offered) {
        (Some(bound), Ok(offered)) if bound != offered => {
            Err(ChangeError::OtherSubject { account, bound, offered })
        }
        (Some(bound), Err(why)) => Err(ChangeError::Unconfirmed { account, bound, why }),
        (_, offered) => Ok(offered.ok()),
    }
}
