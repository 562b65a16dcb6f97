//! What refreshes, logins and the scheduler work with: the store, the authorization server, the
//! clock, and the tasks they run on.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use super::account::AccountContext;
use super::secret_file::SecretFile;
use super::settings::{Background, CLOSE_PATIENCE, Settings};
use crate::clock::Now;
use crate::oauth;
use crate::store::{Issued, Record, Store};
use crate::supervise::Supervisor;
use crate::timeout::while_running;

#[derive(Debug)]
pub(super) struct Services {
    pub(super) store: Store,
    pub(super) oauth: Arc<oauth::Client>,
    pub(super) secret_file: SecretFile,
    pub(super) context: Arc<AccountContext>,
    pub(super) supervisor: Supervisor,
    pub(super) closing: CancellationToken,
    /// How often a store that was away was there again.
    pub(super) store_back: watch::Sender<u64>,
    /// Whether this process asks servers without being asked to.
    pub(super) background: Background,
    /// Runs all tasks, whatever thread asks for them.
    control: Handle,
    /// Tasks that the end of the process waits for.
    tasks: TaskTracker,
}

impl Services {
    /// On the current runtime.
    pub(super) fn new(
        store: Store,
        oauth: oauth::Client,
        context: Arc<AccountContext>,
        background: Background,
    ) -> Self {
        let oauth = Arc::new(oauth);
        Self {
            secret_file: SecretFile::new(oauth.clone(), store.clone(), context.known.clone()),
            store,
            oauth,
            context,
            supervisor: Supervisor::default(),
            closing: CancellationToken::new(),
            store_back: watch::Sender::new(0),
            background,
            control: Handle::current(),
            tasks: TaskTracker::new(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.context.settings
    }

    pub(super) fn now(&self) -> Now {
        self.context.clock.now()
    }

    /// Where grants of this process are issued.
    pub(super) fn issued(&self) -> Issued {
        let settings = &self.oauth.settings;
        Issued {
            token_endpoint: settings.token.url().to_string(),
            client_id: settings.client_id.clone().unwrap_or_default(),
            api_origin: settings.api.to_string(),
        }
    }

    /// True if the record's grant or API key may be used with the settings of this process. Without
    /// a client id nothing can be refreshed anyway; commands that only look still show what is there.
    pub(super) fn may_use(&self, record: &Record) -> bool {
        let issued = self.issued();
        let (grant, key) = (record.grant.as_ref(), record.api_key.as_ref());
        key.is_none_or(|key| key.api_origin == issued.api_origin)
            && grant.is_none_or(|grant| {
                grant.issued == issued || self.oauth.settings.client_id.is_none()
            })
    }

    /// Runs a task that the end of the process waits for.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tasks.spawn_on(work, &self.control)
    }

    /// Runs a task that nobody waits for.
    pub(super) fn spawn_detached(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.control.spawn(work);
    }

    /// True once the process is about to end.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    pub(super) async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.closing.run_until_cancelled(work).await
    }

    /// Starts nothing new, and waits for the tasks under way.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        if while_running(CLOSE_PATIENCE, self.tasks.wait()).await.is_none() {
            error!("a token request did not end in time; its account may need a login");
        }
    }
}
