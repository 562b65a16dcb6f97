//! API keys that the settings name a file for: read at the start, and again when the file may have
//! changed. They are in no record; the file is the one place where they are kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info};

use super::account::Account;
use super::api_key::{self, KeyCheck};
use super::health::{Health, StoreFault};
use super::services::Services;
use crate::oauth;
use crate::private_file::{self, PrivateFileError};
use crate::secret::ApiKey;
use crate::store::{EndReason, Record, StoredKey};

/// Largest file of a key, in bytes.
const MAX_FILE: u64 = 16 * 1024;
/// How often Pleo is asked whose a key is if it does not answer, and the first pause, which grows.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(5);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// It holds something else.
    #[error("{} {}", .0.display(), .1)]
    NoKey(PathBuf, &'static str),
}

/// Reads the key in a file.
///
/// # Errors
/// [`KeyFileError`]; it never shows the content.
pub fn read(path: &Path) -> Result<ApiKey, KeyFileError> {
    let text = private_file::read_text(path, MAX_FILE)?;
    oauth::api_key(&text).map_err(|why| KeyFileError::NoKey(path.into(), why))
}

/// Reads the file of an account, and publishes another key that is in it. False if it was not read.
pub(super) async fn reload(services: &Arc<Services>, account: &Arc<Account>, path: &Path) -> bool {
    let file = path.to_owned();
    let key = match services.store.aside(move || read(&file)).await {
        Ok(Ok(key)) => key,
        Ok(Err(KeyFileError::File(error))) if error.is_passing() => return false,
        Ok(Err(why)) => {
            refuse(account, &why);
            return true;
        }
        Err(_) => return false,
    };
    let snapshot = account.snapshot();
    let is_same = snapshot.source.api_key().is_some_and(|known| known.key.is(&key));
    if !is_same {
        publish(services, account, key);
    } else if matches!(snapshot.health, Health::StoreError(_)) {
        account.change_health(snapshot.generation(), &snapshot.health, &Health::Connected);
    }
    true
}

fn refuse(account: &Account, why: &KeyFileError) {
    let why = format!("accounts.{}.api_key_file: {why}", account.name);
    let health = Health::StoreError(StoreFault { why: why.clone(), login_helps: false });
    account.set_known();
    if account.peek().health != health {
        error!(account = %account.name, "{why}");
        account.set_health(health);
    }
}

fn publish(services: &Arc<Services>, account: &Arc<Account>, key: ApiKey) {
    let key = StoredKey {
        key,
        scope: Vec::new(),
        api_origin: services.issued().api_origin,
        added_at: services.now().wall,
        expires_on: None,
    };
    let generation = account.peek().generation() + 1;
    let nothing = Record::tombstone(generation, 0, EndReason::LoggedOut);
    account.publish(Record { api_key: Some(key), ended: None, ..nothing }, Health::Connected, None);
    info!(account = %account.name, "the API key was read from its file");
    if services.background.is_on() {
        let (worker, account) = (services.clone(), account.clone());
        services.spawn(async move {
            worker.unless_closing(describe(&worker, &account, generation)).await;
        });
    }
}

/// Finds out whose the key is, and whether Pleo takes it.
async fn describe(services: &Services, account: &Account, generation: u64) {
    for attempt in 1..=TRIES {
        match api_key::check(services, account).await {
            KeyCheck::Works | KeyCheck::Refused | KeyCheck::NotSent => return,
            KeyCheck::Unknown(_) if account.peek().generation() != generation => return,
            KeyCheck::Unknown(_) => sleep(PAUSE * attempt).await,
        }
    }
}
