//! What a person does to accounts: login, refresh, logout, status. The admin listener offers it,
//! and the command line does it on the store while no proxy runs; whoever asks, it happens in the
//! same way.

mod redirect;

use std::sync::Arc;

use crate::login::{Begun, LoginError, Logins};
use crate::oauth::authorize::Callback;
use crate::secret::RefreshToken;
use crate::store::{AccountName, EndReason};
use crate::tokens::{Accounts, ChangeError, RefreshReason, RefreshReport, Status};

pub use redirect::{Redirect, ReturnsBy};

/// Accounts in a person's hands.
#[derive(Clone)]
pub struct Operator {
    accounts: Arc<Accounts>,
    logins: Arc<Logins>,
}

/// An account, and what became of its last login in this process.
#[derive(Debug)]
pub struct AccountStatus {
    /// The account.
    pub account: Status,
    /// None if there was no login, or one is under way.
    pub last_login: Option<Result<(), String>>,
}

/// How a refresh that was asked for ended, and the account since then.
#[derive(Debug)]
pub struct Refreshed {
    /// How it ended.
    pub outcome: RefreshOutcome,
    /// The account.
    pub account: Status,
}

/// How a refresh that was asked for ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// Nothing was due, and nothing was forced.
    Fresh,
    /// There is a new pair.
    Refreshed,
    /// Another process had been faster.
    Adopted,
    /// See the account's state.
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

/// A login that a person wants.
#[derive(Clone, Copy, Debug)]
pub struct LoginRequest<'a> {
    /// The account to connect.
    pub account: &'a AccountName,
    /// How its answer comes back.
    pub returns_by: ReturnsBy,
    /// Another account that holds the company is logged out.
    pub replaces: bool,
}

impl Operator {
    /// For these accounts, with no login under way.
    pub fn new(accounts: Arc<Accounts>) -> Self {
        let logins = Logins::new(accounts.clone());
        Self { accounts, logins }
    }

    /// The accounts.
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// Logins under way.
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

    /// Refreshes an account's token if it is due, or in any case if `force`.
    ///
    /// # Errors
    /// [`ChangeError::Unknown`]: there is no such account.
    pub async fn refresh(&self, name: &AccountName, force: bool) -> Result<Refreshed, ChangeError> {
        let account =
            self.accounts.find(name).await.ok_or_else(|| ChangeError::Unknown(name.clone()))?;
        let generation = account.snapshot().generation();
        let is_fresh = account.is_well() && !account.is_due();
        let outcome = if is_fresh && !force {
            RefreshOutcome::Fresh
        } else {
            self.accounts.refresh(&account, RefreshReason::Asked, generation).await.into()
        };
        Ok(Refreshed { outcome, account: Status::of(&account) })
    }

    /// Forgets an account's grant, and ends its pending logins.
    ///
    /// # Errors
    /// [`ChangeError`]; the grant is as it was.
    pub async fn logout(&self, name: &AccountName) -> Result<(), ChangeError> {
        self.logins.cancel(name);
        self.accounts.logout(name, EndReason::LoggedOut).await
    }

    /// Begins a login whose answer comes by `redirect`.
    ///
    /// # Errors
    /// [`LoginError`]; there is nothing to wait for.
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
    /// [`LoginError`]; nothing was saved, or it was a login of another account.
    pub async fn finish_login(&self, name: &AccountName, address: &str) -> Result<(), LoginError> {
        let account = self.logins.finish(Callback::from_address(address)?).await?;
        if account == *name {
            return Ok(());
        }
        let whose =
            format!("that address belongs to a login of account {account}, which is now connected");
        Err(LoginError::Refused(whose))
    }

    /// Connects an account with a refresh token that was issued elsewhere to this client.
    ///
    /// # Errors
    /// [`LoginError`] says whether it was saved.
    pub async fn import(&self, name: &AccountName, token: RefreshToken) -> Result<(), LoginError> {
        self.logins.import(name, token).await
    }
}
