//! What happens to the name of an account: it gets another one, or is given up.

use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::info;

use super::error::ChangeError;
use super::locked_change::{ChangeTicket, LockedChange, check_changeable};
use crate::accounts::account::Account;
use crate::accounts::services::Services;
use crate::accounts::transition;
use crate::accounts::unknown::UnknownAccount;
use crate::store::{LockError, Record};

/// Moves the record of `from` to the name of `to`, which has none. Both are locked, here and for
/// other processes, and the store moves it in one step: whenever the process dies, the tokens are
/// under one name and not under two, of which each would end the other's.
pub(super) async fn rename(
    services: &Services,
    installing: &Mutex<()>,
    from: &Arc<Account>,
    to: &Arc<Account>,
    users: Option<impl FnOnce() -> Vec<String> + Send + 'static>,
) -> Result<(), ChangeError> {
    if from.name == to.name {
        return Err(ChangeError::NameTaken(to.name.clone()));
    }
    check_changeable(from)?;
    let (old, new) = (ChangeTicket::new(from.clone()), ChangeTicket::new(to.clone()));
    let (left, taken) = lock_both(&old, &new, services).await?;
    if taken.previous.is_some() {
        return Err(ChangeError::NameTaken(to.name.clone()));
    }
    // A program that comes to use the account from here on waits for its lock.
    if let Some(users) = users {
        ensure_unused(from, services.store.aside(users).await.map_err(LockError::Io)?)?;
    }
    // A login that asks now which account has its company asks before or after.
    let _installing = installing.lock().await;
    old.check_order()?;
    let record = saved_record(&left, from, services).await?;
    // Requests on their way have arrived before a refresh under the new name can end their token.
    let now = services.now();
    let closed = from.gate.close(from.epoch(now), services.settings().drain).await;
    let version = left.locked.rename(&taken.locked).await?;
    old.took_place();
    new.took_place();
    to.memory().version = version;
    transition::adopt(record, to, services);
    if from.is_warm(now) {
        to.touch(now);
    }
    from.forget_record();
    drop(closed);
    info!(account = %from.name, to = %to.name, "renamed");
    Ok(())
}

fn ensure_unused(account: &Account, users: Vec<String>) -> Result<(), ChangeError> {
    if users.is_empty() {
        return Ok(());
    }
    Err(ChangeError::InUse { account: account.name.clone(), users: users.join(", ") })
}

/// Both locks of both accounts, in the order of their names: two renames in opposite directions do
/// not wait for each other.
async fn lock_both(
    old: &ChangeTicket,
    new: &ChangeTicket,
    services: &Services,
) -> Result<(LockedChange, LockedChange), ChangeError> {
    if old.account().name < new.account().name {
        let left = old.lock(services, false).await?;
        Ok((left, new.lock(services, false).await?))
    } else {
        let taken = new.lock(services, false).await?;
        Ok((old.lock(services, false).await?, taken))
    }
}

/// The newest record of an account, which is on disk when this returns: an older one there is a
/// backup that was put back.
async fn saved_record(
    change: &LockedChange,
    account: &Account,
    services: &Services,
) -> Result<Record, ChangeError> {
    let unknown = || UnknownAccount::among(&account.name, &[]);
    let (stored, _) = services.store.load(&account.name).await?.ok_or_else(unknown)?;
    match &change.previous {
        Some(known) if known.generation > stored.generation => {
            change.locked.save(known).await?;
            Ok(known.clone())
        }
        _ => Ok(stored),
    }
}

/// Removes the record of an account that has no grant.
pub(super) async fn remove(services: &Services, account: &Arc<Account>) -> Result<(), ChangeError> {
    check_changeable(account)?;
    let ticket = ChangeTicket::new(account.clone());
    let change = ticket.lock(services, false).await?;
    let previous = change.previous.as_ref();
    let record = previous.ok_or_else(|| UnknownAccount::among(&account.name, &[]))?;
    if record.has_credential() {
        return Err(ChangeError::StillConnected(account.name.clone()));
    }
    change.locked.remove().await?;
    ticket.took_place();
    account.forget_record();
    info!(account = %account.name, "removed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::accounts::refresher::Refresher;
    use crate::accounts::registry::Registry;
    use crate::accounts::sync::StoreSync;
    use crate::accounts::testing;

    #[tokio::test]
    async fn a_rename_waits_for_requests_on_their_way() {
        let folder = tempfile::tempdir().unwrap();
        let (services, _commands) = testing::services(folder.path());
        let registry = Arc::new(Registry::new(services.context.clone()));
        let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
        let (old, new) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        testing::save_expired(&services, &old).await;
        let (from, to) = (registry.get_or_insert(&old), registry.get_or_insert(&new));
        StoreSync::new(services.clone(), registry, refresher).reload(&from).await;
        let request = from.gate.enter(from.epoch(services.now())).unwrap();
        let renaming = tokio::spawn({
            let (services, from, to) = (services.clone(), from.clone(), to.clone());
            let nobody = None::<fn() -> Vec<String>>;
            async move { rename(&services, &Mutex::default(), &from, &to, nobody).await }
        });
        while let Some(later) = from.gate.enter(from.epoch(services.now())) {
            from.gate.leave(later);
            assert!(!renaming.is_finished(), "it did not wait");
            sleep(Duration::from_millis(1)).await;
        }
        assert!(services.store.load(&new).await.unwrap().is_none(), "the request has its token");
        from.gate.leave(request);
        renaming.await.unwrap().unwrap();
        assert!(services.store.load(&old).await.unwrap().is_none());
        assert_eq!(to.record().unwrap().generation, 1);
        assert!(!from.is_known() && to.is_known());
        let after = from.gate.enter(from.epoch(services.now())).unwrap();
        from.gate.leave(after);
    }
}
