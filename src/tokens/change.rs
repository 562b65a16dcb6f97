//! Logins and logouts: what a person decides about an account. Both take the turn and the lock that a refresh takes,
//! and the last one to be asked wins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{info, warn};

use super::account::Account;
use super::refresh::{Reason, Report};
use super::snapshot::Health;
use super::{Accounts, LOCK_PATIENCE, TURN_PATIENCE};
use crate::clock::{Deadline, Now, millis};
use crate::oauth::Tokens;
use crate::secret::RefreshToken;
use crate::store::{AccountName, Grant, LockError, Locked, Record, RecordError, SaveError, Stamp};
use crate::timeout::while_running;

/// Life that an imported token's record states until its first refresh tells.
const UNKNOWN_LIFE: Duration = Duration::from_secs(600);

/// A grant fresh from a login.
#[derive(Debug)]
pub struct Login {
    /// What the token endpoint gave.
    pub tokens: Tokens,
    /// The instant before it was asked.
    pub sent: Now,
    /// Whose grant it is, if the API said so.
    pub subject: Option<String>,
    /// True if introspection called the new refresh token active.
    pub introspection_trusted: bool,
}

/// A place in the order of what was asked for.
#[derive(Debug)]
pub struct Asked {
    account: Arc<Account>,
    number: u64,
}

/// Why a login or logout came to nothing; the account is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such account.
    #[error("there is no account {0}")]
    Unknown(AccountName),
    /// A later login or logout came first.
    #[error("a later login or logout of account {0} took its place")]
    Superseded(AccountName),
    /// The account belongs to somebody else.
    #[error(
        "account {account} belongs to {bound}, and this login is for {offered}; nothing was saved. Connect it under a name of its own: pleo-proxy login NEWNAME"
    )]
    OtherSubject {
        /// The account.
        account: AccountName,
        /// Whom it is bound to.
        bound: String,
        /// Whom the login is for.
        offered: String,
    },
    /// An import would put a working login at risk.
    #[error("account {0} is connected; log it out before importing a refresh token, or import under another name")]
    Connected(AccountName),
    /// The login brought no refresh token.
    #[error("the authorization server sent no refresh token, so the login would end within minutes; nothing was saved")]
    NoRefreshToken,
    /// Another process is at work on the account.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// A damaged record could not be put aside.
    #[error("the damaged record of account {0} could not be put aside: {1}")]
    SetAside(AccountName, std::io::Error),
    /// An imported token was not accepted.
    #[error("the token was saved, and its first refresh failed: {0}")]
    Import(String),
    /// The server refused an imported token for good.
    #[error("the authorization server does not take this refresh token, so it was not kept: {0}")]
    Refused(String),
    /// The newest pair is not on disk yet.
    #[error("the newest tokens of account {0} are not saved yet ({1}); make room or give write access first")]
    Unsaved(AccountName, String),
    /// A refresh takes longer than any should.
    #[error("a refresh of account {0} does not end; try again")]
    Busy(AccountName),
    /// The process is about to end.
    #[error("the proxy is shutting down")]
    Closing,
}

impl Accounts {
    /// Takes a place in the order of logins and logouts, at the moment somebody asks.
    pub fn ask(self: &Arc<Self>, name: &AccountName) -> Asked {
        let account = self.enter(name);
        let number = account.asked.fetch_add(1, Ordering::AcqRel) + 1;
        Asked { account, number }
    }

    /// Saves a login and lets requests use it.
    ///
    /// # Errors
    /// [`ChangeError`]; the account is as it was.
    pub async fn install(self: &Arc<Self>, asked: Asked, login: Login) -> Result<(), ChangeError> {
        let refresh = login.tokens.refresh.clone().ok_or(ChangeError::NoRefreshToken)?;
        let account = asked.account.clone();
        let (_turn, locked, previous) = self.begin(&asked, true).await?;
        let bound = previous.as_ref().and_then(|record| record.subject.clone());
        if let (Some(bound), Some(offered)) = (&bound, &login.subject)
            && bound != offered
        {
            let (bound, offered) = (bound.clone(), offered.clone());
            return Err(ChangeError::OtherSubject { account: account.name.clone(), bound, offered });
        }
        let deadline = Deadline::after(login.sent, login.tokens.life);
        let grant = self.grant(login.tokens, refresh, deadline, login.sent, login.introspection_trusted);
        let usable = grant.access.is_some();
        let subject = login.subject.or(bound);
        let record = Record { generation: 0, grant: Some(grant), subject, intent: None, ended: None };
        self.replace(&account, locked, previous, record, Some(deadline)).await?;
        account.remember_good(usable);
        account.touch(self.clock().now());
        info!(account = %account.name, "connected");
        Ok(())
    }

    /// Saves a refresh token that was issued elsewhere, then refreshes once.
    ///
    /// # Errors
    /// [`ChangeError`]; after `Import` the token is saved all the same: it may work yet, or be spent.
    pub async fn import(self: &Arc<Self>, asked: &Asked, token: RefreshToken) -> Result<(), ChangeError> {
        let account = asked.account.clone();
        let (turn, locked, previous) = self.begin(asked, true).await?;
        if previous.as_ref().is_some_and(|record| record.grant.is_some()) {
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
        let subject = previous.as_ref().and_then(|record| record.subject.clone());
        let record = Record { generation: 0, grant: Some(grant), subject, intent: None, ended: None };
        self.replace(&account, locked, previous, record, None).await?;
        drop(turn);
        account.touch(now);
        match self.refresh(&account, Reason::Asked, account.snapshot().generation).await {
            Report::Refreshed | Report::Adopted => Ok(()),
            _ => {
                let snapshot = account.snapshot();
                let why = snapshot.health.why().unwrap_or("no reason is known").to_owned();
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

    /// Removes the tombstone of an import that the server refused: there was no such account before.
    async fn remove_refused(self: &Arc<Self>, asked: &Asked) -> Result<(), ChangeError> {
        let (_turn, locked, newest) = self.begin(asked, false).await?;
        if newest.is_some_and(|record| record.grant.is_some()) {
            return Ok(());
        }
        self.store().remove(&locked).await?;
        asked.account.forget_record();
        Ok(())
    }

    /// Notes what became known about an imported grant after its first refresh.
    ///
    /// # Errors
    /// [`ChangeError::OtherSubject`]: the account is bound to somebody else, and its grant was ended.
    pub async fn describe(
        self: &Arc<Self>,
        asked: &Asked,
        subject: Option<String>,
        introspection_trusted: bool,
    ) -> Result<(), ChangeError> {
        let account = asked.account.clone();
        let (_turn, locked, previous) = self.begin(asked, false).await?;
        let Some(mut record) = previous else { return Ok(()) };
        let bound = record.subject.clone();
        if let (Some(bound), Some(offered)) = (bound, &subject)
            && bound != *offered
        {
            let error = ChangeError::OtherSubject { account: account.name.clone(), bound, offered: offered.clone() };
            let now = self.clock().now().wall;
            let ended = Record { subject: record.subject.clone(), ..Record::tombstone(0, now, error.to_string()) };
            self.replace(&account, locked, Some(record), ended, None).await?;
            return Err(error);
        }
        record.subject = subject.or(record.subject);
        if let Some(grant) = &mut record.grant {
            grant.introspection_trusted = introspection_trusted;
        }
        let (_locked, saved) = self.store().save(locked, record.clone()).await;
        saved?;
        self.note_stamp(&account).await;
        account.memory().record = Some(record);
        Ok(())
    }

    /// Forgets a grant: a tombstone takes its place. Requests that wait are let go at once. It goes on if the caller
    /// leaves.
    ///
    /// # Errors
    /// [`ChangeError`]; on `Save` the grant is out of use in this process, and still on disk.
    pub async fn logout(self: &Arc<Self>, name: &AccountName, why: &str) -> Result<(), ChangeError> {
        let (accounts, name, why) = (self.clone(), name.clone(), why.to_owned());
        let work = async move { accounts.forget(&name, &why).await };
        self.keep(work).await.unwrap_or(Err(ChangeError::Closing))
    }

    async fn forget(self: &Arc<Self>, name: &AccountName, why: &str) -> Result<(), ChangeError> {
        let account = self.find(name).await.ok_or_else(|| ChangeError::Unknown(name.clone()))?;
        if let Health::Unsaved(why) = &account.snapshot().health {
            return Err(ChangeError::Unsaved(name.clone(), why.clone()));
        }
        let asked = self.ask(name);
        let why = self.login_hint(name, why);
        account.set_health(Health::LoginRequired(why.clone()));
        let (_turn, locked, previous) = match self.begin(&asked, false).await {
            Ok(begun) => begun,
            Err(error) => {
                // Nothing was changed: the next look at the record puts the account back as it is there.
                account.memory().stamp = Stamp::default();
                return Err(error);
            }
        };
        let tombstone = Record::tombstone(0, self.clock().now().wall, why);
        self.replace(&account, locked, previous, tombstone, None).await?;
        info!(account = %name, "logged out");
        Ok(())
    }

    /// Turn, lock and the record to be replaced: the one on disk, unless memory has a newer one.
    async fn begin(
        self: &Arc<Self>,
        asked: &Asked,
        replaces_corrupt: bool,
    ) -> Result<(tokio::sync::OwnedMutexGuard<()>, Locked, Option<Record>), ChangeError> {
        let account = &asked.account;
        if let Health::Unsaved(why) = &account.snapshot().health {
            return Err(ChangeError::Unsaved(account.name.clone(), why.clone()));
        }
        let turn = while_running(TURN_PATIENCE, account.turn.clone().lock_owned()).await;
        let turn = turn.ok_or_else(|| ChangeError::Busy(account.name.clone()))?;
        if account.asked.load(Ordering::Acquire) != asked.number {
            return Err(ChangeError::Superseded(account.name.clone()));
        }
        let locked = self.store().lock(&account.name, LOCK_PATIENCE).await?;
        let stored = match self.store().load(&account.name).await {
            Ok(stored) => stored,
            Err(RecordError::Undecodable(..)) if replaces_corrupt => {
                self.set_aside(&locked).await?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        let remembered = account.memory().record.clone();
        let newest = [stored, remembered].into_iter().flatten().max_by_key(|record| record.generation);
        Ok((turn, locked, newest))
    }

    async fn set_aside(&self, locked: &Locked) -> Result<(), ChangeError> {
        let now = self.clock().now().wall / 1000;
        let aside = self.store().set_aside(locked, now).await;
        let aside = aside.map_err(|error| ChangeError::SetAside(locked.account.clone(), error))?;
        warn!(account = %locked.account, "the damaged record was put aside as {}", aside.display());
        Ok(())
    }

    /// Saves the record as the next generation and publishes it.
    async fn replace(
        &self,
        account: &Account,
        locked: Locked,
        previous: Option<Record>,
        record: Record,
        deadline: Option<Deadline>,
    ) -> Result<(), ChangeError> {
        let known = account.snapshot().generation.max(previous.map_or(0, |record| record.generation));
        let record = Record { generation: known + 1, ..record };
        let (_locked, saved) = self.store().save(locked, record.clone()).await;
        saved?;
        self.note_stamp(account).await;
        let health = self.health_of(&account.name, &record);
        account.publish(record, health, deadline);
        Ok(())
    }

    fn grant(&self, tokens: Tokens, refresh: RefreshToken, deadline: Deadline, sent: Now, trusted: bool) -> Grant {
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
