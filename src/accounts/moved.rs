//! Whether the grant that this process remembers under one name is another account's by now: another
//! process may have renamed it, and given the name to somebody else.

use super::services::Services;
use crate::store::{AccountName, Record};

/// True if another record of the store has the grant that is remembered as that of `name`, or a
/// later pair of it. What is `saved` under `name` is then another account's, whatever its
/// generation: to keep what is remembered would overwrite that one, and send a token that the other
/// name owns.
pub(super) async fn has_moved(
    services: &Services,
    name: &AccountName,
    known: &Record,
    saved: &Record,
) -> bool {
    // The usual case: an earlier or the same pair of the same login.
    if known.generation < saved.generation || is_same_login(known, saved) {
        return false;
    }
    // What cannot be listed or read proves nothing.
    let Ok(names) = services.store.list().await else { return false };
    for other in names.iter().filter(|other| *other != name) {
        if let Ok(Some((record, _))) = services.store.load(other).await
            && is_same_login(known, &record)
            && record.generation >= known.generation
        {
            return true;
        }
    }
    false
}

/// Both come from one login. Its time, in milliseconds, stays with a grant through every refresh.
fn is_same_login(known: &Record, other: &Record) -> bool {
    let (Some(ours), Some(theirs)) = (&known.grant, &other.grant) else { return false };
    (ours.logged_in_at, &ours.issued) == (theirs.logged_in_at, &theirs.issued)
        && known.subject == other.subject
}
