//! Whether the credential that this process remembers under a name is no longer that name's: another
//! process may have removed the account and made it anew, or renamed it and given the name to somebody
//! else.

use super::account::Account;
use super::origin::Origin;
use super::services::Services;
use crate::store::{AccountName, Record};

/// True if what is `saved` under the account's name is another login's than the one that is
/// remembered, whatever its generation: somebody has logged in anew since, or another record of the
/// store has the grant that is remembered, or a later pair of it; or if it is the end of such a
/// login. To keep what is remembered would overwrite the other one, and send a token that has ended
/// or that another name owns.
pub(super) async fn has_moved(
    services: &Services,
    account: &Account,
    known: &Record,
    saved: &Record,
) -> bool {
    // The usual case: an earlier or the same pair of the same login.
    if known.generation < saved.generation || is_same_login(account, known, saved) {
        return false;
    }
    if Origin::of(saved).is_some_and(|saved| saved.is_later_than(known)) {
        return true;
    }
    let Some(ours) = Origin::of(known) else { return false };
    if ours.has_ended_by(saved) {
        return true;
    }
    new_name(services, account, known).await.is_some()
}

/// The other name under which the store has the login that is remembered, or a later pair of it.
pub(super) async fn new_name(
    services: &Services,
    account: &Account,
    known: &Record,
) -> Option<AccountName> {
    let ours = Origin::of(known)?;
    // What cannot be listed or read proves nothing.
    let names = services.store.list().await.ok()?;
    for other in names.into_iter().filter(|other| *other != account.name) {
        if let Ok(Some((record, _))) = services.store.load(&other).await
            && Origin::of(&record).is_some_and(|other| other.is(&ours))
            && record.generation >= known.generation
        {
            return Some(other);
        }
    }
    None
}

/// True if what is saved comes from the login of the account's record in memory, or from the one
/// that this record has ended.
pub(super) fn is_same_login(account: &Account, known: &Record, saved: &Record) -> bool {
    let Some(theirs) = Origin::of(saved) else { return false };
    match Origin::of(known) {
        Some(ours) => ours.is(&theirs),
        None => account.memory().origin.as_ref().is_some_and(|ours| ours.is(&theirs)),
    }
}

/// True if what is remembered takes the place of what is saved with a lower generation: an earlier
/// record of the same login, or an end that is not that of this login or a later one.
pub(super) fn takes_the_place_of(account: &Account, known: &Record, saved: &Record) -> bool {
    saved.generation < known.generation
        && (is_same_login(account, known, saved)
            || saved.ended.is_some()
                && !saved.has_credential()
                && Origin::of(known).is_some_and(|ours| !ours.has_ended_by(saved)))
}
