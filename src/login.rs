//! Logins: begun with a fresh PKCE verifier and state, finished by the callback or the pasted
//! address.

mod listener;
mod page;
mod register;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use dashmap::DashMap;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;
use url::Url;

use crate::clock::Deadline;
use crate::oauth::authorize::{Callback, CallbackError, Request, issuer_matches};
use crate::oauth::{self, Credentials, CredentialsError, Exchange, Outcome};
use crate::secret::{self, AccessToken, AuthorizationCode, CodeVerifier, LoginState, RefreshToken};
use crate::store::AccountName;
use crate::timeout::while_running;
use crate::tokens::{Accounts, ChangeError, ChangeTicket, Login};

pub use listener::{CallbackListener, ListenerError, Serve, Serving};
pub use page::{Page, protect, source_hash};
pub use register::End;
use register::{Claim, Register};

/// How long a person has to consent.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long a page that is loaded a second time waits for the end of its login: as long as an
/// exchange may take.
const REPEATED_PATIENCE: Duration = Duration::from_secs(60);
/// How long the API is asked whose a new grant is, in all and in one try, and the pauses between
/// the tries.
const SUBJECT_TIME: Duration = Duration::from_secs(10);
const INTROSPECTION_TIME: Duration = Duration::from_secs(5);
const SUBJECT_TRY: Duration = Duration::from_secs(4);
const SUBJECT_PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];

/// A login that was begun.
#[derive(Debug)]
pub struct Begun {
    /// Names the login in [`Logins::outcome`] and [`Logins::abandon`]; no secret.
    pub id: String,
    /// Where the person goes. Holds `state` and the challenge, no secret.
    pub url: Url,
    /// Where the answer will come.
    pub redirect_uri: String,
}

/// Why a login came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Id or secret are missing.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No randomness.
    #[error("the system has no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// The answer cannot be read.
    #[error("the answer of the authorization server cannot be used: {0}")]
    Callback(#[from] CallbackError),
    /// Nobody waits for this answer.
    #[error(
        "this login is not known: later ones took its place, or it is older than ten minutes; begin again"
    )]
    UnknownState,
    /// Its first callback failed.
    #[error("{0}")]
    Repeated(String),
    /// The person or the server said no.
    #[error("the login was refused: {0}")]
    Refused(String),
    /// Another server answers (RFC 9207).
    #[error(
        "the answer comes from another authorization server than the one that was asked; nothing was sent to it"
    )]
    Issuer,
    /// The code was not exchanged.
    #[error("the code could not be exchanged: {0}")]
    Exchange(String),
    /// Nobody could listen for the answer.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// What was handed in as a refresh token cannot be one.
    #[error(
        "this is no refresh token: it is empty or too long, or holds characters that no token has; nothing was saved. Hand in the token alone"
    )]
    NoToken,
    /// The account refuses the grant.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// What a callback needs to be finished.
struct PendingLogin {
    account: AccountName,
    verifier: CodeVerifier,
    redirect_uri: String,
    /// Another account that holds the company is logged out in this one's favour.
    replaces: bool,
    expires: Deadline,
}

/// All logins under way.
pub struct Logins {
    accounts: Arc<Accounts>,
    register: Register,
    /// How the last login of each account ended, for `status`.
    latest: DashMap<AccountName, Result<(), String>>,
}

impl Logins {
    /// None yet.
    pub fn new(accounts: Arc<Accounts>) -> Arc<Self> {
        Arc::new(Self { accounts, register: Register::default(), latest: DashMap::new() })
    }

    /// Begins a login. Of an account's pending logins the oldest makes room for a sixth. With
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

    /// Finishes a login with what the authorization server sent back. It goes on if the caller
    /// leaves. A callback that comes again ends as the first one did.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved.
    pub async fn finish(self: &Arc<Self>, callback: Callback) -> Result<AccountName, LoginError> {
        // A code that is exchanged now may buy tokens that nobody is there to save.
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
        let finished = self.accounts.keep(work).await.unwrap_or_else(|| {
            let closing = Err(ChangeError::Closing.into());
            self.conclude(&state, &account, closing.as_ref().copied());
            closing
        });
        finished.map(|()| account)
    }

    /// Tells everybody who waits for a login how it ended.
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

    /// The code of a callback that brings one from the server that was asked.
    fn code(&self, callback: Callback) -> Result<AuthorizationCode, LoginError> {
        match callback {
            Callback::Error { message, .. } => Err(LoginError::Refused(message)),
            Callback::Code { issuer: Some(issuer), .. }
                if !issuer_matches(&issuer, &self.accounts.oauth().settings.authorize) =>
            {
                Err(LoginError::Issuer)
            }
            Callback::Code { code, .. } => Ok(code),
        }
    }

    async fn redeem(
        &self,
        ticket: ChangeTicket,
        pending: &PendingLogin,
        code: &AuthorizationCode,
    ) -> Result<(), LoginError> {
        let credentials = self.accounts.credentials().await?;
        let login = exchange(&self.accounts, pending, code, &credentials).await?;
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
        let token = oauth::token::handed_in(&token).ok_or(LoginError::NoToken)?;
        let ticket = self.accounts.begin_change(account);
        let (accounts, name) = (self.accounts.clone(), account.clone());
        let work = async move {
            accounts.import(&ticket, token).await?;
            describe(&accounts, &name, &ticket).await
        };
        self.accounts.keep(work).await.unwrap_or_else(|| Err(ChangeError::Closing.into()))
    }

    /// Ends the pending logins of an account: it is being logged out.
    pub fn cancel(&self, account: &AccountName) {
        let why = "a logout cancelled the login";
        if self.register.cancel(account, why) {
            self.latest.insert(account.clone(), Err(why.into()));
        }
    }

    /// Forgets a pending login by its [`Begun::id`]: whoever began it waits no longer. False if it
    /// is none any more.
    pub fn abandon(&self, login: &str) -> bool {
        self.register.abandon(login)
    }

    /// True if a login under way comes back to this redirect URI.
    pub fn is_pending_at(&self, redirect_uri: &str) -> bool {
        self.register.is_pending_at(redirect_uri, self.accounts.clock().now())
    }

    /// How a login ended, by its [`Begun::id`]; the inner none while it is under way. None if it is
    /// not known: later logins took its place, or it is too old.
    pub fn outcome(&self, login: &str) -> Option<End> {
        self.register.outcome(login, self.accounts.clock().now())
    }

    /// How the last login of an account ended; none if it is under way, or there was none.
    pub fn latest(&self, account: &AccountName) -> Option<Result<(), String>> {
        self.latest.get(account).map(|end| end.clone())
    }

    /// Answers the browser that comes back from the authorization server.
    pub async fn callback(self: &Arc<Self>, query: &str) -> Page {
        let callback = match Callback::from_query(query) {
            Ok(callback) => callback,
            Err(error) => return Page::failure(&error.into()),
        };
        match self.finish(callback).await {
            Ok(account) => Page {
                status: StatusCode::OK,
                title: "Connected".into(),
                text: format!("The account {account} is connected. You can close this page."),
            },
            Err(error) => Page::failure(&error),
        }
    }
}

/// False for what a browser fetches ahead of a person, or as a part of a page: neither may use a
/// login up.
pub fn is_navigation(headers: &HeaderMap) -> bool {
    let is_ahead = ["sec-purpose", "purpose"].iter().any(|name| headers.contains_key(*name));
    !is_ahead && headers.get("sec-fetch-dest").is_none_or(|destination| destination == "document")
}

impl Page {
    /// Tells a person why a login cannot begin or did not end well.
    pub fn failure(error: &LoginError) -> Self {
        let (status, title) = match error {
            LoginError::Callback(_) | LoginError::UnknownState => {
                (StatusCode::BAD_REQUEST, "This login cannot be finished")
            }
            LoginError::Credentials(_) | LoginError::Random(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "The login cannot begin")
            }
            LoginError::Listener(_) => (StatusCode::CONFLICT, "The login cannot begin"),
            _ => (StatusCode::BAD_REQUEST, "The login failed"),
        };
        Self { status, title: title.into(), text: error.to_string() }
    }
}

/// The end of a login whose callback came before.
async fn repeated(mut end: watch::Receiver<End>) -> Result<(), LoginError> {
    let unknown = "this login is still being finished; see `pleo-proxy status`";
    let ended = timeout(REPEATED_PATIENCE, end.wait_for(Option::is_some)).await;
    let end = ended.ok().and_then(Result::ok).and_then(|end| end.clone());
    end.unwrap_or_else(|| Err(unknown.into())).map_err(LoginError::Repeated)
}

/// Code for tokens, then whose they are and whether introspection can be believed.
async fn exchange(
    accounts: &Accounts,
    pending: &PendingLogin,
    code: &AuthorizationCode,
    credentials: &Credentials,
) -> Result<Login, LoginError> {
    let sent = accounts.clock().now();
    let exchange =
        Exchange::Code { code, verifier: &pending.verifier, redirect_uri: &pending.redirect_uri };
    let tokens = match accounts.oauth().exchange(&exchange, credentials).await {
        Outcome::Fresh(tokens) => tokens,
        Outcome::NotSent(why) | Outcome::Misconfigured(why) => {
            return Err(LoginError::Exchange(why));
        }
        Outcome::ComeBackLater { why, .. } | Outcome::Ambiguous { why, .. } => {
            return Err(LoginError::Exchange(format!(
                "the token endpoint gave no tokens: {why}; begin again"
            )));
        }
        Outcome::Dead(code) => {
            return Err(LoginError::Exchange(format!(
                "the authorization server refused the code ({code}); begin again"
            )));
        }
    };
    for oddity in &tokens.oddities {
        warn!(account = %pending.account, "the token endpoint's answer is odd: {oddity}");
    }
    let subject = match (&tokens.access, &tokens.refresh) {
        (Some(access), _) => subject(accounts, access).await,
        // The first refresh brings an access token.
        (None, Some(_)) => Err("the token endpoint sent no usable access token".into()),
        (None, None) => {
            return Err(LoginError::Exchange(
                "the token endpoint sent no usable bearer token".into(),
            ));
        }
    };
    if let Err(why) = &subject {
        warn!(account = %pending.account, "whose login this is stays unknown: {why}");
    }
    let introspection_trusted = match &tokens.refresh {
        // Nothing is saved before this has an answer.
        Some(refresh) => {
            let asked =
                while_running(INTROSPECTION_TIME, accounts.oauth().is_active(refresh, credentials))
                    .await;
            asked.is_some_and(|active| active.unwrap_or(false))
        }
        None => false,
    };
    Ok(Login { tokens, sent, subject, introspection_trusted, replaces: pending.replaces })
}

/// Whose token this is. Asked three times: the login of an account that is bound to a company hangs
/// on it.
async fn subject(accounts: &Accounts, access: &AccessToken) -> Result<String, String> {
    let asking = async {
        let mut pauses = SUBJECT_PAUSES.into_iter();
        loop {
            let asked = while_running(SUBJECT_TRY, accounts.oauth().subject(access)).await;
            let why = match asked {
                Some(Ok(subject)) => return Ok(subject),
                Some(Err(error)) => error.to_string(),
                None => format!("the API did not answer within {SUBJECT_TRY:?}"),
            };
            match pauses.next() {
                Some(pause) => sleep(pause).await,
                None => return Err(why),
            }
        }
    };
    while_running(SUBJECT_TIME, asking)
        .await
        .unwrap_or_else(|| Err(format!("the API gave no answer within {SUBJECT_TIME:?}")))
}

/// The same two questions about an imported grant, after its first refresh.
async fn describe(
    accounts: &Arc<Accounts>,
    name: &AccountName,
    ticket: &ChangeTicket,
) -> Result<(), LoginError> {
    let Ok(Some((record, _))) = accounts.store().load(name).await else { return Ok(()) };
    let Some(grant) = record.grant else { return Ok(()) };
    let credentials = accounts.credentials().await?;
    let subject = match &grant.access {
        Some(access) => subject(accounts, access).await,
        None => Err("there is no access token to ask with".into()),
    };
    let trusted = accounts.oauth().is_active(&grant.refresh, &credentials).await.unwrap_or(false);
    Ok(accounts.describe(ticket, subject, trusted).await?)
}
