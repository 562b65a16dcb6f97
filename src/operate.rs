//! Operations on accounts: login, refresh, logout, status. The admin listener offers them, and the
//! command line runs the same code on the store while no proxy runs.

mod redirect;
mod report;
mod why;

use std::sync::Arc;

use jiff::civil::Date;

use crate::accounts::{
    Accounts, ChangeError, DefaultAccount, KeyCheck, RefreshReason, RefreshReport, Status,
    UnknownAccount,
};
use crate::login::{Begun, LoginError, Logins};
use crate::oauth::authorize::Callback;
use crate::secret::{ApiKey, RefreshToken};
use crate::store::{AccountName, EndReason};

pub use redirect::{LoginRequest, Redirect, ReturnsBy};
pub use report::reports;
pub use why::{Question, WhyError, expectation};

/// Names the programs beside this process that send as an account.
pub type Users = Arc<dyn Fn(&AccountName) -> Vec<String> + Send + Sync>;

/// Operations on the accounts of a store.
#[derive(Clone)]
pub struct Operator {
    accounts: Arc<Accounts>,
    logins: Arc<Logins>,
}

/// An account, and how its last login in this process ended.
#[derive(Debug)]
pub struct AccountStatus {
    /// The account.
    pub account: Status,
    /// `None` if there was no login, or one is pending.
    pub last_login: Option<Result<(), String>>,
}

/// How a requested refresh ended, and the account after it.
#[derive(Debug)]
pub struct Refreshed {
    /// How it ended.
    pub outcome: RefreshOutcome,
    /// The account.
    pub account: Status,
}

/// How a requested refresh ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// It was not due, and not forced.
    Fresh,
    /// There are new tokens.
    Refreshed,
    /// Another process had refreshed already.
    Adopted,
    /// It failed; the account's state says why.
    Failed,
}

impl From<RefreshReport> for RefreshOutcome {
    fn from(report: RefreshReport) -> Self {
        match report {
            RefreshReport::Refreshed => Self::Refreshed,
            RefreshReport::Adopted => Self::Adopted,
            RefreshReport::Limited | RefreshReport::Failed => Self::Failed,
        }
    }
}

impl Operator {
    /// Operations on these accounts, with no login pending.
    pub fn new(accounts: Arc<Accounts>) -> Self {
        let logins = Logins::new(accounts.clone());
        Self { accounts, logins }
    }

    /// The accounts.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// The pending logins.
    pub fn logins(&self) -> &Arc<Logins> {
        &self.logins
    }

    /// All accounts, by name.
    pub fn status(&self) -> Vec<AccountStatus> {
        let accounts = self.accounts.all();
        let status = accounts.iter().map(|account| {
            let last_login = self.logins.latest(&account.name);
            AccountStatus { account: Status::of(account), last_login }
        });
        status.collect()
    }

    /// The account of requests that name none, if there is one.
    pub fn default_account(&self) -> Option<AccountName> {
        match &*self.accounts.default_account() {
            DefaultAccount::One(account) => Some(account.name.clone()),
            DefaultAccount::Ambiguous(_) | DefaultAccount::None => None,
        }
    }

    /// Refreshes an account's tokens if they are due, or in any case if `force`. An API key is not
    /// refreshed; the API is asked whether it takes it.
    ///
    /// # Errors
    /// [`ChangeError::Unknown`]: there is no such account. `KeyUnchecked`: the API did not answer.
    pub async fn refresh(&self, name: &AccountName, force: bool) -> Result<Refreshed, ChangeError> {
        let found = self.accounts.find(name).await;
        let account = found.ok_or_else(|| UnknownAccount::among(name, &self.accounts.all()))?;
        let snapshot = account.snapshot();
        if snapshot.source.api_key().is_some() || self.accounts.settings().key_file(name).is_some()
        {
            let outcome = match self.accounts.changes().check_key(&account).await {
                KeyCheck::Works => RefreshOutcome::Fresh,
                KeyCheck::Refused | KeyCheck::NotSent => RefreshOutcome::Failed,
                KeyCheck::Unknown(why) => return Err(ChangeError::KeyUnchecked(why)),
            };
            return Ok(Refreshed { outcome, account: Status::of(&account) });
        }
        let generation = snapshot.generation();
        let is_fresh = account.is_well() && !account.is_due();
        let outcome = if is_fresh && !force {
            RefreshOutcome::Fresh
        } else {
            self.accounts.refresh(&account, RefreshReason::Asked, generation).await.into()
        };
        Ok(Refreshed { outcome, account: Status::of(&account) })
    }

    /// Deletes an account's grant and cancels its pending logins.
    ///
    /// # Errors
    /// [`ChangeError`]; on `Save` the grant is out of use in this process, and still on disk.
    pub async fn logout(&self, name: &AccountName) -> Result<(), ChangeError> {
        self.logins.cancel(name).await;
        self.accounts.logout(name, EndReason::LoggedOut).await
    }

    /// Gives an account another name, and cancels the pending logins of both. It goes on if the
    /// caller leaves. With `users` it is refused while one of them uses the account.
    ///
    /// # Errors
    /// [`ChangeError`]; the account has the name that it had.
    pub async fn rename(
        &self,
        name: &AccountName,
        to: &AccountName,
        users: Option<&Users>,
    ) -> Result<(), ChangeError> {
        self.logins.cancel(name).await;
        self.logins.cancel(to).await;
        let (accounts, name, to) = (self.accounts.clone(), name.clone(), to.clone());
        let users = users.cloned();
        let work = async move {
            let account = accounts.find(&name).await;
            let account = account.ok_or_else(|| UnknownAccount::among(&name, &accounts.all()))?;
            let asked = name.clone();
            let users = users.map(|users| move || users(&asked));
            accounts.changes().rename(&account, &to, users).await
        };
        self.accounts.run_to_completion(work).await.unwrap_or(Err(ChangeError::Closing))
    }

    /// Removes an account without tokens, and cancels its pending logins. It goes on if the caller
    /// leaves.
    ///
    /// # Errors
    /// [`ChangeError`]; the account is still there.
    pub async fn remove(&self, name: &AccountName) -> Result<(), ChangeError> {
        self.logins.cancel(name).await;
        let (accounts, name) = (self.accounts.clone(), name.clone());
        let work = async move {
            let account = accounts.find(&name).await;
            let account = account.ok_or_else(|| UnknownAccount::among(&name, &accounts.all()))?;
            accounts.changes().remove(&account).await
        };
        self.accounts.run_to_completion(work).await.unwrap_or(Err(ChangeError::Closing))
    }

    /// Starts a login whose callback comes through `redirect`.
    ///
    /// # Errors
    /// [`LoginError`]; no login is pending.
    pub async fn begin_login(
        &self,
        request: LoginRequest<'_>,
        redirect: &Arc<Redirect>,
    ) -> Result<Begun, LoginError> {
        redirect.begin(&self.logins, request).await
    }

    /// Finishes a login with the address that the browser was sent back to.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved, or the address belonged to another account's login.
    pub async fn finish_login(&self, name: &AccountName, address: &str) -> Result<(), LoginError> {
        let account = self.logins.finish(Callback::from_address(address)?).await?;
        if account == *name {
            return Ok(());
        }
        let whose =
            format!("that address belongs to a login of account {account}, which is connected now");
        Err(LoginError::Refused(whose))
    }

    /// Connects an account with an API key; only if it `replaces` it, one that has a login.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved.
    pub async fn add_key(
        &self,
        name: &AccountName,
        key: ApiKey,
        expires_on: Option<Date>,
        replaces: bool,
    ) -> Result<(), LoginError> {
        self.logins.add_key(name, key, expires_on, replaces).await
    }

    /// Connects an account with a refresh token that was issued elsewhere to this client.
    ///
    /// # Errors
    /// [`LoginError`] says whether it was saved.
    pub async fn import(&self, name: &AccountName, token: RefreshToken) -> Result<(), LoginError> {
        self.logins.import(name, token).await
    }
}
