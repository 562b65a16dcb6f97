//! Logins of this process, from the authorize address to the saved grant.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use jiff::civil::Date;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;
use url::Url;

use super::error::LoginError;
use super::page::Page;
use super::redeem;
use super::register::{self, Claim, End, Finished, PendingLogin, Register};
use crate::accounts::{Accounts, ChangeError, ChangeTicket, Status};
use crate::clock::Deadline;
use crate::oauth;
use crate::oauth::authorize::{Callback, Request, issuer_matches};
use crate::secret::{self, ApiKey, AuthorizationCode, CodeVerifier, LoginState, RefreshToken};
use crate::store::{AccountName, LoginId, SharedLogins, StoredLogin, TakenLogin};

/// How long a person has to consent.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long a page that is loaded a second time waits for the end of its login: as long as a token
/// request may take.
const REPEATED_PATIENCE: Duration = Duration::from_secs(60);

/// How often it is asked how a login ended that another replica finishes.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Why a login ended that a logout has cancelled.
const CANCELLED: &str = "a logout cancelled the login";

/// Why a login ended whose row another replica has deleted.
const GONE: &str = "a logout cancelled the login, or later ones took its place; begin again";

/// What a browser is told that does not want to wait longer.
const NOT_ENDED: &str = "this login is still being finished; see `pleo-proxy status`";

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
    /// The same for other replicas.
    shared: SharedLogins,
    /// How the last login of each account ended, for `status`.
    latest: DashMap<AccountName, Result<(), String>>,
}

impl Logins {
    /// No login yet.
    pub fn new(accounts: Arc<Accounts>) -> Arc<Self> {
        let shared = accounts.store().shared_logins();
        Arc::new(Self { accounts, register: Register::default(), shared, latest: DashMap::new() })
    }

    /// Begins a login. An account has at most five pending logins; a sixth ends the oldest. With
    /// `replaces`, another account that holds the company is logged out once this login is saved.
    ///
    /// # Errors
    /// No client id or secret, no randomness, or a record that a login does not replace.
    pub async fn begin(
        &self,
        account: &AccountName,
        redirect_uri: &str,
        replaces: bool,
    ) -> Result<Begun, LoginError> {
        if let Some(path) = self.accounts.settings().key_file(account) {
            return Err(ChangeError::KeyFile(account.clone(), path.into()).into());
        }
        // Before a person consents: a grant that is refused only then is lost.
        self.accounts.changes().ensure_savable(account).await?;
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
        let mut pending = PendingLogin {
            account: owner,
            verifier,
            redirect_uri: redirect,
            replaces,
            expires,
            is_shared: false,
        };
        self.latest.remove(account);
        match self.shared.put(&register::key(&state), &pending.stored()).await {
            Ok(is_shared) => pending.is_shared = is_shared,
            Err(error) => {
                warn!(%account, "the login can be finished on this replica only: {error}");
            }
        }
        let (id, removed) = self.register.add(&state, pending, now);
        for key in removed {
            self.shared.forget(&key).await;
        }
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
        let key = register::key(callback.state());
        let logins = self.clone();
        // On a task of its own from the first step: a login that was taken from the other replicas
        // and not finished would be lost.
        let work = async move { logins.finish_here(&key, callback).await };
        match self.accounts.run_to_completion(work).await {
            Some(Finished::Here(finished)) => finished,
            Some(Finished::Before(account, end)) => repeated(end).await.map(|()| account),
            Some(Finished::Elsewhere(account)) => {
                self.ended_elsewhere(&key, &account).await.map(|()| account)
            }
            None => {
                let closing = LoginError::from(ChangeError::Closing);
                if let Some((key, account)) = self.register.unfinished(&register::id(&key)) {
                    self.conclude(&key, &account, Err(&closing)).await;
                }
                Err(closing)
            }
        }
    }

    async fn finish_here(&self, key: &LoginId, callback: Callback) -> Finished {
        let pending = match self.take(key, callback.state()).await {
            Ok(pending) => pending,
            Err(finished) => return finished,
        };
        let account = pending.account.clone();
        let finished = match self.code(callback) {
            Ok(code) => {
                let ticket = self.accounts.begin_change(&account);
                self.redeem(ticket, &pending, &code).await
            }
            Err(error) => Err(error),
        };
        self.conclude(key, &account, finished.as_ref().copied()).await;
        Finished::Here(finished.map(|()| account))
    }

    /// Takes the login that a callback's state belongs to; whoever gets it must finish and end it.
    async fn take(&self, key: &LoginId, state: &LoginState) -> Result<PendingLogin, Finished> {
        let _taking = self.register.taking(*key).await;
        let claim = self.register.claim(state, self.accounts.clock().now());
        if let Claim::Repeated(account, end) = claim {
            return Err(Finished::Before(account, end));
        }
        match self.shared.take(key).await {
            Ok(TakenLogin::Elsewhere(account)) => Err(Finished::Elsewhere(account)),
            Ok(TakenLogin::First(login)) => Ok(self.take_over(*key, login)),
            Ok(TakenLogin::Unknown) => match claim {
                Claim::First(pending) if pending.is_shared => {
                    let cancelled = Err(GONE.to_owned());
                    let cancelled = self.learn_end(key, &pending.account, cancelled);
                    Err(Finished::Here(cancelled.map(|()| pending.account)))
                }
                Claim::First(pending) => Ok(pending),
                _ => Err(Finished::Here(Err(LoginError::UnknownState))),
            },
            Err(error) => {
                if let Claim::First(pending) = claim {
                    self.register.give_back(key, pending);
                }
                Err(Finished::Here(Err(LoginError::Store(error))))
            }
        }
    }

    /// A login that is finished here, wherever it began.
    fn take_over(&self, key: LoginId, login: StoredLogin) -> PendingLogin {
        let expires = Deadline::after(self.accounts.clock().now(), PATIENCE);
        self.accounts.known_secrets().learn(&login.verifier);
        self.register.take_over(key, &login.account, expires);
        let StoredLogin { account, verifier, redirect_uri, replaces } = login;
        PendingLogin { account, verifier, redirect_uri, replaces, expires, is_shared: true }
    }

    /// How a login ended that another replica finishes.
    async fn ended_elsewhere(
        &self,
        key: &LoginId,
        account: &AccountName,
    ) -> Result<(), LoginError> {
        let asking = async {
            loop {
                match self.shared.ended(key).await {
                    Some(end) => return end,
                    None => sleep(ASK_AGAIN).await,
                }
            }
        };
        match timeout(REPEATED_PATIENCE, asking).await {
            Ok(end) => self.learn_end(key, account, end),
            Err(_) => Err(LoginError::Repeated(NOT_ENDED.into())),
        }
    }

    /// Another replica has finished a login.
    fn learn_end(
        &self,
        key: &LoginId,
        account: &AccountName,
        end: Result<(), String>,
    ) -> Result<(), LoginError> {
        self.latest.insert(account.clone(), end.clone());
        self.register.end(key, end.clone(), self.accounts.clock().now());
        end.map_err(LoginError::Repeated)
    }

    /// Records how a login ended, and tells everyone who waits for it.
    async fn conclude(
        &self,
        key: &LoginId,
        account: &AccountName,
        finished: Result<(), &LoginError>,
    ) {
        if let Err(error) = finished {
            warn!(%account, "login failed: {error}");
        }
        let end = finished.map_err(ToString::to_string);
        self.latest.insert(account.clone(), end.clone());
        self.register.end(key, end.clone(), self.accounts.clock().now());
        self.shared.end(key, end.as_ref().copied().map_err(String::as_str)).await;
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

    /// Connects an account with an API key, once the API has said that it takes it and whose it is.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved.
    pub async fn add_key(
        self: &Arc<Self>,
        account: &AccountName,
        key: ApiKey,
        expires_on: Option<Date>,
        replaces: bool,
    ) -> Result<(), LoginError> {
        self.accounts.known_secrets().learn(&key);
        let ticket = self.accounts.begin_change(account);
        let accounts = self.accounts.clone();
        let work = async move {
            let login = redeem::check_key(&accounts, key, expires_on, replaces).await?;
            Ok(accounts.changes().install_key(ticket, login).await?)
        };
        self.accounts
            .run_to_completion(work)
            .await
            .unwrap_or_else(|| Err(ChangeError::Closing.into()))
    }

    /// Ends the pending logins of an account: it is being logged out.
    pub async fn cancel(&self, account: &AccountName) {
        self.shared.forget_all(account).await;
        if self.register.cancel(account, CANCELLED) {
            self.latest.insert(account.clone(), Err(CANCELLED.into()));
        }
    }

    /// Forgets a pending login by its [`Begun::id`], because the person gave up. False if it is not
    /// pending any more.
    pub async fn abandon(&self, login: &str) -> bool {
        if let Some((key, _)) = self.register.unfinished(login) {
            self.shared.forget(&key).await;
        }
        self.register.abandon(login)
    }

    /// True if a pending login has this redirect URI.
    pub fn is_pending_at(&self, redirect_uri: &str) -> bool {
        self.register.is_pending_at(redirect_uri, self.accounts.clock().now())
    }

    /// How a login ended, by its [`Begun::id`]; the inner none while it is in progress. None if it
    /// is not known: later logins replaced it, or it is too old.
    pub async fn outcome(&self, login: &str) -> Option<End> {
        if let Some((key, account)) = self.register.unfinished(login)
            && let Some(end) = self.shared.ended(&key).await
        {
            // Its callback came to another replica.
            drop(self.learn_end(&key, &account, end));
        }
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
    let ended = timeout(REPEATED_PATIENCE, end.wait_for(Option::is_some)).await;
    let end = ended.ok().and_then(Result::ok).and_then(|end| end.clone());
    end.unwrap_or_else(|| Err(NOT_ENDED.into())).map_err(LoginError::Repeated)
}
