//! Where the answers to logins come: to `/callback` of the admin listener, to a listener for the
//! length of a login, or by hand.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::LoginRequest;
use crate::login::{Begun, CallbackListener, ListenerError, LoginError, Logins, Serve};

/// How often a listener that serves logins is checked for being needed still.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The path of the admin listener's own redirect URI.
const CALLBACK: &str = "/callback";

/// How the answer to a login comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnsBy {
    /// A browser follows the redirect, so somebody has to listen there.
    Browser,
    /// A person brings the address.
    Hand,
}

/// The redirect URI, and who listens there.
pub struct Redirect {
    target: Target,
    /// True beside an admin listener. It may get answers from a redirect URI elsewhere through a
    /// reverse proxy, and it has many logins, so a listener is closed by itself.
    is_beside_admin: bool,
    /// How another listener is served.
    serve: Serve,
    /// That listener, while a login needs it, and the redirect URI with its real port.
    listener: Mutex<Option<(CallbackListener, Url)>>,
    /// Cancelled when the process ends.
    ending: CancellationToken,
}

/// Where a redirect URI leads.
enum Target {
    /// To the admin listener itself.
    Own(String),
    /// To an address where nobody listens yet, or to another machine.
    Other(Url),
}

impl Redirect {
    /// For a process whose admin listener is at `origin`, and is called by the names in
    /// `own_origins` too.
    pub fn beside_admin(
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
        Arc::new(Self { target, is_beside_admin: true, serve, listener: Mutex::default(), ending })
    }

    /// For a command that runs while no proxy does; it calls [`Redirect::close`].
    pub fn alone(uri: Url, serve: Serve) -> Arc<Self> {
        let (target, ending) = (Target::Other(uri), CancellationToken::new());
        Arc::new(Self { target, is_beside_admin: false, serve, listener: Mutex::default(), ending })
    }

    /// Begins a login whose answer can arrive.
    pub(super) async fn begin(
        self: &Arc<Self>,
        logins: &Arc<Logins>,
        request: LoginRequest<'_>,
    ) -> Result<Begun, LoginError> {
        let LoginRequest { account, returns_by, replaces } = request;
        let uri = match &self.target {
            Target::Own(uri) => return logins.begin(account, uri, replaces).await,
            Target::Other(uri) if returns_by == ReturnsBy::Hand => {
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
            if self.is_beside_admin {
                tokio::spawn(
                    self.clone().close_when_unused(logins.clone(), begun.redirect_uri.clone()),
                );
            }
        }
        Ok(begun)
    }

    /// A listener at the redirect URI; none if it is on another machine, whose reverse proxy leads
    /// to the admin listener.
    async fn open(
        &self,
        uri: &Url,
        logins: &Arc<Logins>,
    ) -> Result<Option<(CallbackListener, Url)>, ListenerError> {
        match CallbackListener::open(uri, logins.clone(), &self.serve).await {
            Err(ListenerError::Elsewhere(_)) if self.is_beside_admin => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Ends the listener once no login comes back to it any more.
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

    /// Ends the listener if there is one; the last page under way still reaches its browser.
    pub async fn close(&self) {
        if let Some((listener, _)) = self.listener.lock().await.take() {
            listener.close().await;
        }
    }
}
