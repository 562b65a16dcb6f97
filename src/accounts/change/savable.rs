//! Whether the record of a login may be saved by this process.

use super::error::ChangeError;
use crate::store::{AccountName, Protection, Store};

/// A process without a key saves no login beside sealed records: it was started without its key by
/// mistake. What is kept as it is already is replaced.
pub(super) async fn ensure_savable(store: &Store, name: &AccountName) -> Result<(), ChangeError> {
    if store.key().is_some() {
        return Ok(());
    }
    // Without a key nothing but a plain record can be read.
    let kept = store.load(name).await;
    if matches!(kept, Ok(Some((record, _))) if record.has_credential()) {
        return Ok(());
    }
    for other in store.list().await.unwrap_or_default() {
        if let Ok(Some(Protection::Sealed(key))) = store.protection(&other).await {
            return Err(ChangeError::NoStoreKey { account: name.clone(), other, key });
        }
    }
    Ok(())
}
