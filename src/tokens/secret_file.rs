//! The client's secret, read off the runtimes' threads: its file may lie on a mount that hangs.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use super::Accounts;
use crate::oauth::{Client, Credentials, CredentialsError, SecretStamp};
use crate::timeout::while_running;

/// Longest wait for the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the file.
#[derive(Debug, Default)]
pub(super) struct SecretFile {
    /// One look at a time: a mount that hangs takes one of the store's threads, not all.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// As it was when it was last looked at.
    stamp: Mutex<SecretStamp>,
}

impl SecretFile {
    fn stamp(&self) -> MutexGuard<'_, SecretStamp> {
        self.stamp.lock()
    }
}

impl Accounts {
    /// Client id and secret for one attempt.
    ///
    /// # Errors
    /// [`CredentialsError`] names the setting.
    pub async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        let look = |oauth: &Client| (oauth.secret_stamp(), oauth.credentials());
        let (stamp, credentials) =
            self.look_at_file(look).await.ok_or(CredentialsError::Hangs(PATIENCE))?;
        *self.secret_file.stamp() = stamp;
        credentials
    }

    /// The file's stamp now; the last known one if it cannot be looked at.
    pub(super) async fn secret_stamp(&self) -> SecretStamp {
        self.look_at_file(Client::secret_stamp).await.unwrap_or_else(|| self.last_secret_stamp())
    }

    /// The stamp of the secret that was used last.
    pub(super) fn last_secret_stamp(&self) -> SecretStamp {
        *self.secret_file.stamp()
    }

    async fn look_at_file<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Client) -> T + Send + 'static,
    ) -> Option<T> {
        let (oauth, looking) = (self.oauth.clone(), self.secret_file.looking.clone());
        let looked = async {
            let looking = looking.lock_owned().await;
            let work = move || {
                let _looking = looking;
                look(&oauth)
            };
            self.store.aside(work).await.ok()
        };
        while_running(PATIENCE, looked).await.flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use crate::store::AccountName;

    #[tokio::test(start_paused = true)]
    async fn a_secret_file_that_hangs_takes_one_thread_and_five_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let (accounts, _granted) = super::super::tests::accounts(folder.path());
        let (hold, held) = sync_channel::<()>(0);
        let hangs = accounts.look_at_file(move |_| held.recv().is_ok());
        assert_eq!(hangs.await, None);
        for _ in 0..8 {
            let error = accounts.credentials().await.unwrap_err();
            assert!(error.is_passing() && error.to_string().contains("within 5s"), "{error}");
        }
        assert!(
            accounts.store().load(&AccountName::fallback()).await.unwrap().is_none(),
            "the store works on"
        );
        drop(hold);
        tokio::time::resume();
        accounts.credentials().await.unwrap();
    }
}
