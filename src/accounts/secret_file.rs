//! The client's secret, read off the runtimes' threads: its file may be on a mount that hangs.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::oauth::{Client, Credentials, CredentialsError, SecretVersion};
use crate::redaction::KnownSecrets;
use crate::store::Store;
use crate::timeout::while_running;

/// Longest wait for the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the secret file.
#[derive(Debug)]
pub(super) struct SecretFile {
    oauth: Arc<Client>,
    /// Runs work on files.
    store: Store,
    /// One read at a time: a mount that hangs takes one of the store's threads, not all.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// Version of the file when it was last read.
    stamp: Mutex<SecretVersion>,
    known: KnownSecrets,
}

impl SecretFile {
    pub(super) fn new(oauth: Arc<Client>, store: Store, known: KnownSecrets) -> Self {
        Self { oauth, store, reading: Arc::default(), stamp: Mutex::default(), known }
    }

    /// Client id and secret for one attempt.
    pub(super) async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let read = |oauth: &Client| (oauth.secret_version(), oauth.credentials());
        let (stamp, credentials) = self.run(read).await.ok_or(CredentialsError::Hangs(PATIENCE))?;
        *self.stamp.lock() = stamp;
        credentials.inspect(|credentials| self.known.learn_lasting(credentials.secret()))
    }

    /// Version of the file now; the last known one if it cannot be looked at.
    pub(super) async fn current_stamp(&self) -> SecretVersion {
        self.run(Client::secret_version).await.unwrap_or_else(|| self.last_stamp())
    }

    /// Version of the secret that was used last.
    pub(super) fn last_stamp(&self) -> SecretVersion {
        *self.stamp.lock()
    }

    async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Client) -> T + Send + 'static,
    ) -> Option<T> {
        let done = async {
            let reading = self.reading.clone().lock_owned().await;
            let oauth = self.oauth.clone();
            let work = move || {
                let _reading = reading;
                read(&oauth)
            };
            self.store.aside(work).await.ok()
        };
        while_running(PATIENCE, done).await.flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::super::testing;
    use crate::store::AccountName;

    #[tokio::test(start_paused = true)]
    async fn a_secret_file_that_hangs_takes_one_thread_and_five_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _commands) = testing::services(folder.path());
        let (hold, held) = sync_channel::<()>(0);
        let hangs = services.secret_file.run(move |_| held.recv().is_ok());
        assert_eq!(hangs.await, None);
        for _ in 0..8 {
            let error = services.secret_file.credentials().await.unwrap_err();
            assert!(error.is_passing() && error.to_string().contains("within 5s"), "{error}");
        }
        assert!(
            services.store.load(&AccountName::fallback()).await.unwrap().is_none(),
            "the store works on"
        );
        drop(hold);
        tokio::time::resume();
        services.secret_file.credentials().await.unwrap();
    }
}
