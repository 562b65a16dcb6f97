//! Logins: begun with a fresh PKCE verifier and state, finished by the callback or the pasted address.

mod listener;
mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use dashmap::DashMap;
use sha2::{Digest as _, Sha256};
use tracing::warn;
use url::Url;

use crate::clock::Deadline;
use crate::oauth::authorize::{Callback, CallbackError, Request, issuer_matches};
use crate::oauth::{Credentials, CredentialsError, Exchange, Outcome};
use crate::secret::{self, AuthorizationCode, CodeVerifier, LoginState, RefreshToken};
use crate::store::AccountName;
use crate::tokens::{Accounts, Asked, ChangeError, Login};

pub use listener::{CallbackListener, ListenerError};
pub use page::{Page, protect, source_hash};

/// How long a person has to consent.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Logins of one account that may be under way: a page that opens /connect again and again gets no further.
const MOST_PENDING: usize = 5;

/// A login that was begun.
#[derive(Debug)]
pub struct Begun {
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
    /// Too many at once.
    #[error("{MOST_PENDING} logins of account {0} are under way; finish one, or wait ten minutes")]
    TooMany(AccountName),
    /// The answer cannot be read.
    #[error("the answer of the authorization server cannot be used: {0}")]
    Callback(#[from] CallbackError),
    /// Nobody waits for this answer.
    #[error("this login is not known: it was used already, or is older than ten minutes; begin again")]
    UnknownState,
    /// The person or the server said no.
    #[error("the login was refused: {0}")]
    Refused(String),
    /// Another server answers (RFC 9207).
    #[error("the answer comes from another authorization server than the one that was asked; nothing was sent to it")]
    Issuer,
    /// The code was not exchanged.
    #[error("the code could not be exchanged: {0}")]
    Exchange(String),
    /// Nobody could listen for the answer.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The account refuses the grant.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

struct Pending {
    account: AccountName,
    verifier: CodeVerifier,
    redirect_uri: String,
    expires: Deadline,
}

/// All logins under way.
pub struct Logins {
    accounts: Arc<Accounts>,
    /// By the SHA-256 of their state, so that looking one up takes no time that depends on the state.
    pending: DashMap<[u8; 32], Pending>,
    /// How the last login of each account ended, for whoever waits for it.
    outcomes: DashMap<AccountName, Result<(), String>>,
}

impl Logins {
    /// None yet.
    pub fn new(accounts: Arc<Accounts>) -> Arc<Self> {
        Arc::new(Self { accounts, pending: DashMap::new(), outcomes: DashMap::new() })
    }

    /// Begins a login.
    ///
    /// # Errors
    /// No client id or secret, or too many logins of this account are under way.
    pub fn begin(&self, account: &AccountName, redirect_uri: &str) -> Result<Begun, LoginError> {
        let oauth = self.accounts.oauth();
        let credentials = oauth.credentials()?;
        let now = self.accounts.clock().now();
        self.pending.retain(|_, pending| !pending.expires.passed(now));
        if self.pending.iter().filter(|pending| pending.account == *account).count() >= MOST_PENDING {
            return Err(LoginError::TooMany(account.clone()));
        }
        let state = LoginState::new(secret::random()?.as_str());
        let verifier = CodeVerifier::new(secret::random()?.as_str());
        let settings = &oauth.settings;
        let request = Request {
            endpoint: &settings.authorize,
            client_id: credentials.id(),
            redirect_uri,
            scopes: &settings.scopes,
            state: &state,
            verifier: &verifier,
        };
        let url = request.url();
        let expires = Deadline::after(now, PATIENCE);
        let pending = Pending { account: account.clone(), verifier, redirect_uri: redirect_uri.into(), expires };
        self.outcomes.remove(account);
        self.pending.insert(key(&state), pending);
        Ok(Begun { url, redirect_uri: redirect_uri.into() })
    }

    /// Finishes a login with what the authorization server sent back. It goes on if the caller leaves.
    ///
    /// # Errors
    /// [`LoginError`]; nothing was saved.
    pub async fn finish(self: &Arc<Self>, callback: Callback) -> Result<AccountName, LoginError> {
        let (_, pending) = self.pending.remove(&key(callback.state())).ok_or(LoginError::UnknownState)?;
        if pending.expires.passed(self.accounts.clock().now()) {
            return Err(LoginError::UnknownState);
        }
        let account = pending.account.clone();
        let code = self.code(callback).inspect_err(|error| self.note(&account, Err(error)))?;
        let asked = self.accounts.ask(&account);
        let logins = self.clone();
        let work = async move {
            let finished = logins.redeem(asked, &pending, &code).await;
            logins.note(&pending.account, finished.as_ref().copied());
            finished
        };
        self.accounts.keep(work).await.unwrap_or_else(|| Err(ChangeError::Closing.into()))?;
        Ok(account)
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

    async fn redeem(&self, asked: Asked, pending: &Pending, code: &AuthorizationCode) -> Result<(), LoginError> {
        let credentials = self.accounts.oauth().credentials()?;
        let login = exchange(&self.accounts, pending, code, &credentials).await?;
        Ok(self.accounts.install(asked, login).await?)
    }

    fn note(&self, account: &AccountName, finished: Result<(), &LoginError>) {
        if let Err(error) = finished {
            warn!(%account, "login failed: {error}");
        }
        self.outcomes.insert(account.clone(), finished.map_err(ToString::to_string));
    }

    /// Saves a refresh token that was issued elsewhere to this client, refreshes it once and finds out whose it is.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn import(self: &Arc<Self>, account: &AccountName, token: RefreshToken) -> Result<(), LoginError> {
        self.accounts.oauth().credentials()?;
        let asked = self.accounts.ask(account);
        let (accounts, name) = (self.accounts.clone(), account.clone());
        let work = async move {
            accounts.import(&asked, token).await?;
            describe(&accounts, &name, &asked).await
        };
        self.accounts.keep(work).await.unwrap_or_else(|| Err(ChangeError::Closing.into()))
    }

    /// Forgets the logins of an account that are under way: it is being logged out.
    pub fn cancel(&self, account: &AccountName) {
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.account != *account);
        if self.pending.len() < before {
            self.outcomes.insert(account.clone(), Err("a logout cancelled the login".into()));
        }
    }

    /// True if a login under way comes back to this redirect URI.
    pub fn is_pending_at(&self, redirect_uri: &str) -> bool {
        let now = self.accounts.clock().now();
        self.pending.iter().any(|pending| pending.redirect_uri == redirect_uri && !pending.expires.passed(now))
    }

    /// How the last login of an account that was begun has ended; none while it is under way.
    pub fn outcome(&self, account: &AccountName) -> Option<Result<(), String>> {
        self.outcomes.get(account).map(|outcome| outcome.clone())
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

/// False for what a browser fetches ahead of a person, or as a part of a page: neither may use a login up.
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
            LoginError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "The login cannot begin"),
            LoginError::Listener(_) => (StatusCode::CONFLICT, "The login cannot begin"),
            _ => (StatusCode::BAD_REQUEST, "The login failed"),
        };
        Self { status, title: title.into(), text: error.to_string() }
    }
}

fn key(state: &LoginState) -> [u8; 32] {
    Sha256::digest(state.expose().as_bytes()).into()
}

/// Code for tokens, then whose they are and whether introspection can be believed.
async fn exchange(
    accounts: &Accounts,
    pending: &Pending,
    code: &AuthorizationCode,
    credentials: &Credentials,
) -> Result<Login, LoginError> {
    let sent = accounts.clock().now();
    let exchange = Exchange::Code { code, verifier: &pending.verifier, redirect_uri: &pending.redirect_uri };
    let tokens = match accounts.oauth().exchange(&exchange, credentials).await {
        Outcome::Fresh(tokens) => tokens,
        Outcome::NotSent(why) | Outcome::Misconfigured(why) => return Err(LoginError::Exchange(why)),
        Outcome::ComeBackLater { why, .. } | Outcome::Ambiguous { why, .. } => {
            return Err(LoginError::Exchange(format!("the token endpoint gave no tokens: {why}; begin again")));
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
    let Some(access) = &tokens.access else {
        return Err(LoginError::Exchange("the token endpoint sent no usable bearer token".into()));
    };
    let subject = accounts.oauth().subject(access).await;
    let subject =
        subject.inspect_err(|error| warn!(account = %pending.account, "whose login this is stays unknown: {error}"));
    let introspection_trusted = match &tokens.refresh {
        Some(refresh) => accounts.oauth().is_active(refresh, credentials).await.unwrap_or(false),
        None => false,
    };
    Ok(Login { tokens, sent, subject: subject.ok(), introspection_trusted })
}

/// The same two questions about an imported grant, after its first refresh.
async fn describe(accounts: &Arc<Accounts>, name: &AccountName, asked: &Asked) -> Result<(), LoginError> {
    let Ok(Some(record)) = accounts.store().load(name).await else { return Ok(()) };
    let Some(grant) = record.grant else { return Ok(()) };
    let credentials = accounts.oauth().credentials()?;
    let subject = match &grant.access {
        Some(access) => accounts.oauth().subject(access).await.ok(),
        None => None,
    };
    let trusted = accounts.oauth().is_active(&grant.refresh, &credentials).await.unwrap_or(false);
    Ok(accounts.describe(asked, subject, trusted).await?)
}
