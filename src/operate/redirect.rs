//! How the callbacks of logins arrive: at `/callback` of the admin listener, at a temporary
//! listener, or pasted by the user.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::login::{Begun, CallbackListener, ListenerError, LoginError, Logins, Serve};
use crate::store::AccountName;

/// How often it is checked whether a temporary listener is still needed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The path of the admin listener's own redirect URI.
const CALLBACK: &str = "/callback";

/// How the callback of a login comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnsBy {
    /// The browser follows the redirect, so something has to listen there.
    Browser,
    /// The user pastes the address.
    Paste,
}

/// A login to start.
#[derive(Clone, Copy, Debug)]
pub struct LoginRequest<'a> {
    /// The account to connect.
    pub account: &'a AccountName,
    /// How its callback comes back.
    pub returns_by: ReturnsBy,
    /// Log out another account that holds the company.
    pub replaces: bool,
}

/// The redirect URI, and the listener there.
pub struct Redirect {
    target: Target,
    /// True in a process with an admin listener. A redirect URI on another machine may then lead
    /// there through a reverse proxy, and a temporary listener is closed when no login needs it.
    has_admin: bool,
    /// How a temporary listener is served.
    serve: Serve,
    /// The temporary listener, and the redirect URI with its real port.
    listener: Mutex<Option<(CallbackListener, Url)>>,
    /// Cancelled when the process ends.
    ending: CancellationToken,
}

/// Where a redirect URI leads.
enum Target {
    /// To the admin listener itself.
    Own(String),
    /// To an address where nothing listens yet, or to another machine.
    Other(Url),
}

impl Redirect {
    /// For a process whose admin listener is at `origin` and also known by `own_origins`.
    pub fn with_admin(
        configured: Option<Url>,
        origin: &str,
        own_origins: &[String],
        serve: Serve,
        ending: CancellationToken,
    ) -> Arc<Self> {
        let is_own = |uri: &Url| {
            uri.path() == CALLBACK && own_origins.contains(&uri.origin().ascii_serialization())
        };
        let target = match configured {
            None => Target::Own(format!("{origin}{CALLBACK}")),
            Some(uri) if is_own(&uri) => Target::Own(uri.into()),
            Some(uri) => Target::Other(uri),
        };
        Arc::new(Self { target, has_admin: true, serve, listener: Mutex::default(), ending })
    }

    /// For a command that runs while no proxy does, and calls [`Redirect::close`].
    pub fn standalone(uri: Url, serve: Serve) -> Arc<Self> {
        let (target, ending) = (Target::Other(uri), CancellationToken::new());
        Arc::new(Self { target, has_admin: false, serve, listener: Mutex::default(), ending })
    }

    /// Starts a login, with a listener for its callback if one is needed.
    pub(super) async fn begin(
        self: &Arc<Self>,
        logins: &Arc<Logins>,
        request: LoginRequest<'_>,
    ) -> Result<Begun, LoginError> {
        let LoginRequest { account, returns_by, replaces } = request;
        let uri = match &self.target {
            Target::Own(uri) => return logins.begin(account, uri, replaces).await,
            Target::Other(uri) if returns_by == ReturnsBy::Paste => {
                return logins.begin(account, uri.as_str(), replaces).await;
            }
            Target::Other(uri) => uri,
        };
        let mut slot = self.listener.lock().await;
        let opened = if slot.is_some() { None } else { self.open(uri, logins).await? };
        let listened = opened.as_ref().or(slot.as_ref()).map_or(uri, |(_, listened)| listened);
        let begun = logins.begin(account, listened.as_str(), replaces).await?;
        if let Some(opened) = opened {
            *slot = Some(opened);
            if self.has_admin {
                tokio::spawn(
                    self.clone().close_when_unused(logins.clone(), begun.redirect_uri.clone()),
                );
            }
        }
        Ok(begun)
    }

    /// A listener at the redirect URI; `None` if that is on another machine, whose reverse proxy
    /// forwards to the admin listener.
    async fn open(
        &self,
        uri: &Url,
        logins: &Arc<Logins>,
    ) -> Result<Option<(CallbackListener, Url)>, ListenerError> {
        match CallbackListener::open(uri, logins.clone(), &self.serve).await {
            Err(ListenerError::Elsewhere(_)) if self.has_admin => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Closes the listener once no pending login needs it.
    async fn close_when_unused(self: Arc<Self>, logins: Arc<Logins>, redirect_uri: String) {
        loop {
            sleep(POLL_INTERVAL).await;
            let mut slot = self.listener.lock().await;
            if self.ending.is_cancelled() || !logins.is_pending_at(&redirect_uri) {
                if let Some((listener, _)) = slot.take() {
                    listener.close().await;
                }
                return;
            }
        }
    }

    /// Closes the listener if there is one, after its last response is sent.
    pub async fn close(&self) {
        if let Some((listener, _)) = self.listener.lock().await.take() {
            listener.close().await;
        }
    }
}
