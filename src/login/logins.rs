//! Logins of this process, from the authorize address to the saved grant.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;
use url::Url;

use super::error::LoginError;
use super::page::Page;
use super::redeem;
use super::register::{Claim, End, PendingLogin, Register};
use crate::accounts::{Accounts, ChangeError, ChangeTicket, Status};
use crate::clock::Deadline;
use crate::oauth;
use crate::oauth::authorize::{Callback, Request, issuer_matches};
use crate::secret::{self, AuthorizationCode, CodeVerifier, LoginState, RefreshToken};
use crate::store::AccountName;

/// How long a person has to consent.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long a page that is loaded a second time waits for the end of its login: as long as a token
/// request may take.
const REPEATED_PATIENCE: Duration = Duration::from_secs(60);

/// A login that was begun.
#[derive(Debug)]
pub struct Begun {
    /// Identifies the login in [`Logins::outcome`] and [`Logins::abandon`]; not secret.
    pub id: String,
    /// The address that the person opens. It contains `state` and the challenge, no secret.
    pub url: Url,
    /// Where the authorization server sends the browser back to.
    pub redirect_uri: String,
}

/// All logins of this process.
pub struct Logins {
    accounts: Arc<Accounts>,
    register: Register,
    /// How the last login of each account ended, for `status`.
    latest: DashMap<AccountName, Result<(), String>>,
}

impl Logins {
    /// No login yet.
    pub fn new(accounts: Arc<Accounts>) -> Arc<Self> {
        Arc::new(Self { accounts, register: Register::default(), latest: DashMap::new() })
    }

    /// Begins a login. An account has at most five pending logins; a sixth ends the oldest. With
    /// `replaces`, another account that holds the company is logged out once this login is saved.
    ///
    /// # Errors
    /// No client id or secret, or no randomness.
    pub async fn begin(
        &self,
        account: &AccountName,
        redirect_uri: &str,
        replaces: bool,
    ) -> Result<Begun, LoginError> {
        let oauth = self.accounts.oauth();
        let credentials = self.accounts.credentials().await?;
        let now = self.accounts.clock().now();
        let state = LoginState::new(secret::random()?.as_str());
        let verifier = CodeVerifier::new(secret::random()?.as_str());
        self.accounts.known_secrets().learn(&state);
        self.accounts.known_secrets().learn(&verifier);
        let (settings, bound) = (&oauth.settings, self.accounts.bound_subject(account));
        let request = Request {
            endpoint: &settings.authorize,
            client_id: credentials.id(),
            redirect_uri,
            scopes: &settings.scopes,
            state: &state,
            verifier: &verifier,
            subject: bound.as_deref(),
        };
        let url = request.url();
        let expires = Deadline::after(now, PATIENCE);
        let (owner, redirect) = (account.clone(), redirect_uri.into());
        let pending =
            PendingLogin { account: owner, verifier, redirect_uri: redirect, replaces, expires };
        self.latest.remove(account);
        let id = self.register.add(&state, pending, now);
        Ok(Begun { id, url, redirect_uri: redirect_uri.into() })
    }

    /// Finishes a login with the response of the authorization server, even if the caller leaves. A
    /// repeated callback gets the result of the first one.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved.
    pub async fn finish(self: &Arc<Self>, callback: Callback) -> Result<AccountName, LoginError> {
        // The process ends: tokens that a code is exchanged for now could be lost before they are
        // saved.
        if self.accounts.is_closing() {
            return Err(ChangeError::Closing.into());
        }
        let state = callback.state().clone();
        let pending = match self.register.claim(&state, self.accounts.clock().now()) {
            Claim::First(pending) => pending,
            Claim::Repeated(account, end) => return repeated(end).await.map(|()| account),
            Claim::Unknown => return Err(LoginError::UnknownState),
        };
        let account = pending.account.clone();
        let code =
            self.code(callback).inspect_err(|error| self.conclude(&state, &account, Err(error)))?;
        let ticket = self.accounts.begin_change(&account);
        let (logins, key) = (self.clone(), state.clone());
        let work = async move {
            let finished = logins.redeem(ticket, &pending, &code).await;
            logins.conclude(&key, &pending.account, finished.as_ref().copied());
            finished
        };
        let finished = self.accounts.run_to_completion(work).await.unwrap_or_else(|| {
            let closing = Err(ChangeError::Closing.into());
            self.conclude(&state, &account, closing.as_ref().copied());
            closing
        });
        finished.map(|()| account)
    }

    /// Records how a login ended, and tells everyone who waits for it.
    fn conclude(
        &self,
        state: &LoginState,
        account: &AccountName,
        finished: Result<(), &LoginError>,
    ) {
        if let Err(error) = finished {
            warn!(%account, "login failed: {error}");
        }
        let end = finished.map_err(ToString::to_string);
        self.latest.insert(account.clone(), end.clone());
        self.register.end(state, end, self.accounts.clock().now());
    }

    /// The code of a callback, if it has one and comes from the configured server.
    fn code(&self, callback: Callback) -> Result<AuthorizationCode, LoginError> {
        match callback {
            Callback::Error { message, .. } => Err(LoginError::Refused(message)),
            Callback::Code { issuer: Some(issuer), .. }
                if !issuer_matches(&issuer, &self.accounts.oauth().settings.authorize) =>
            {
                Err(LoginError::Issuer)
            }
            Callback::Code { code, .. } => {
                self.accounts.known_secrets().learn(&code);
                Ok(code)
            }
        }
    }

    async fn redeem(
        &self,
        ticket: ChangeTicket,
        pending: &PendingLogin,
        code: &AuthorizationCode,
    ) -> Result<(), LoginError> {
        let credentials = self.accounts.credentials().await?;
        let login = redeem::redeem(&self.accounts, pending, code, &credentials).await?;
        Ok(self.accounts.install(ticket, login).await?)
    }

    /// Saves a refresh token that was issued elsewhere to this client, refreshes it once and finds
    /// out whose it is.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn import(
        self: &Arc<Self>,
        account: &AccountName,
        token: RefreshToken,
    ) -> Result<(), LoginError> {
        self.accounts.credentials().await?;
        let token = oauth::token::entered(&token).ok_or(LoginError::NoToken)?;
        self.accounts.known_secrets().learn(&token);
        let ticket = self.accounts.begin_change(account);
        let (accounts, name) = (self.accounts.clone(), account.clone());
        let work = async move {
            accounts.import(&ticket, token).await?;
            redeem::describe_import(&accounts, &name, &ticket).await
        };
        self.accounts
            .run_to_completion(work)
            .await
            .unwrap_or_else(|| Err(ChangeError::Closing.into()))
    }

    /// Ends the pending logins of an account: it is being logged out.
    pub fn cancel(&self, account: &AccountName) {
        let why = "a logout cancelled the login";
        if self.register.cancel(account, why) {
            self.latest.insert(account.clone(), Err(why.into()));
        }
    }

    /// Forgets a pending login by its [`Begun::id`], because the person gave up. False if it is not
    /// pending any more.
    pub fn abandon(&self, login: &str) -> bool {
        self.register.abandon(login)
    }

    /// True if a pending login has this redirect URI.
    pub fn is_pending_at(&self, redirect_uri: &str) -> bool {
        self.register.is_pending_at(redirect_uri, self.accounts.clock().now())
    }

    /// How a login ended, by its [`Begun::id`]; the inner none while it is in progress. None if it
    /// is not known: later logins replaced it, or it is too old.
    pub fn outcome(&self, login: &str) -> Option<End> {
        self.register.outcome(login, self.accounts.clock().now())
    }

    /// How the last login of an account ended; none if it is in progress, or there was none.
    pub fn latest(&self, account: &AccountName) -> Option<Result<(), String>> {
        self.latest.get(account).map(|end| end.clone())
    }

    /// The page for a browser that comes back from the authorization server.
    pub async fn callback(self: &Arc<Self>, query: &str) -> Page {
        let callback = match Callback::from_query(query) {
            Ok(callback) => callback,
            Err(error) => return Page::failure(&error.into()),
        };
        match self.finish(callback).await {
            Ok(account) => {
                let status = self.accounts.get(&account).map(|account| Status::of(&account));
                let (company, scope) =
                    status.map(|status| (status.company, status.scope)).unwrap_or_default();
                Page::connected(&account, company.as_deref(), &scope)
            }
            Err(error) => Page::failure(&error),
        }
    }
}

/// The result of a login whose callback came before.
async fn repeated(mut end: watch::Receiver<End>) -> Result<(), LoginError> {
    let unknown = "this login is still being finished; see `pleo-proxy status`";
    let ended = timeout(REPEATED_PATIENCE, end.wait_for(Option::is_some)).await;
    let end = ended.ok().and_then(Result::ok).and_then(|end| end.clone());
    end.unwrap_or_else(|| Err(unknown.into())).map_err(LoginError::Repeated)
}
