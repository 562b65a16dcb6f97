//! `store migrate`: moves all records to another store, for good.
//!
//! At no moment do both stores have a record that is used: the one that leaves is marked first, so
//! that nobody uses it, then it arrives, then a tombstone takes its place. Whenever the process
//! dies, the same command goes on.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Now;
use crate::store::{
    AccountName, EndReason, Ended, Intent, LockError, Locked, Record, RecordError, SaveError, Store,
};

/// Longest wait for the lock of an account: that of an earlier move which was killed lasts 20 s in a
/// database.
const LOCK_PATIENCE: Duration = Duration::from_secs(25);

/// Where records are moved to, as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The folder that will be `store.path`.
    File(PathBuf),
    /// The database of the settings.
    #[cfg(feature = "postgres")]
    Postgres,
}

impl std::str::FromStr for Destination {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            #[cfg(feature = "postgres")]
            None if text == "postgres" => Ok(Self::Postgres),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => Err(
                "must not hold the URL, which other users could read in the list of processes; write it to the file of store.url_file, and give: --to postgres",
            ),
            _ => Err("must be file:FOLDER or postgres"),
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It is in the other store now.
    Now,
    /// It was moved before.
    Before,
    /// There is none.
    Nothing,
}

/// Why a record was not moved: it stays, or goes on at the next attempt.
#[derive(Debug, thiserror::Error)]
pub(super) enum MoveError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Load(#[from] RecordError),
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The other store has a login of this account.
    #[error(
        "account {0} is connected there already; rename or log out one of the two, then run this again"
    )]
    Taken(AccountName),
    /// A move in the other direction was not finished.
    #[error(
        "account {0} is on its way here from there, by a move that did not come to its end; run that one again first"
    )]
    OnItsWay(AccountName),
}

/// Moves one record.
pub(super) async fn move_record(
    source: &Store,
    target: &Store,
    account: &AccountName,
    now: Now,
) -> Result<Moved, MoveError> {
    let from = source.lock(account, LOCK_PATIENCE).await?;
    if let Some((there, _)) = target.load(account).await?
        && has_left(&there)
        && there.has_credential()
    {
        return Err(MoveError::OnItsWay(account.clone()));
    }
    let Some((mut record, _)) = source.load(account).await? else { return Ok(Moved::Nothing) };
    let was_marked = has_left(&record);
    if was_marked && !record.has_credential() {
        return Ok(Moved::Before);
    }
    let to = target.lock(account, LOCK_PATIENCE).await?;
    let there = target.load(account).await?.map(|(record, _)| record);
    let is_record = |there: &Record| is_same(there, &record) || is_end_since(there, &record);
    let has_arrived = was_marked && there.as_ref().is_some_and(is_record);
    // Dates of both stores are compared: the other one's clock is that of both.
    let now = to.date(now);
    if !has_arrived {
        if there.as_ref().is_some_and(Record::has_credential) {
            return Err(MoveError::Taken(account.clone()));
        }
        if record.has_credential() && !was_marked {
            record = mark(&from, &record, target, now).await?;
        }
        arrive(&to, &record, there.map_or(0, |there| there.generation)).await?;
    }
    let gone = Record::tombstone(record.generation + 1, now, left_for(target));
    let (subject, company) = (record.subject, record.company);
    from.save(&Record { subject, company, ..gone }).await?;
    Ok(Moved::Now)
}

/// Marks the record that leaves: from here on nobody uses it.
async fn mark(
    from: &Locked,
    record: &Record,
    target: &Store,
    now: i64,
) -> Result<Record, MoveError> {
    let ended = Some(Ended { at: now, reason: left_for(target) });
    let marked = Record { ended, ..with_generation(record, record.generation + 1) };
    from.save(&marked).await?;
    Ok(marked)
}

/// Saves the record where it goes, as it was before it was marked.
async fn arrive(to: &Locked, record: &Record, before: u64) -> Result<(), MoveError> {
    let arriving = with_generation(record, record.generation.max(before) + 1);
    let ended = arriving.ended.clone().filter(|_| !arriving.has_credential());
    to.save(&Record { ended, ..arriving }).await?;
    Ok(())
}

/// The same record in another generation; an open intent stays open.
fn with_generation(record: &Record, generation: u64) -> Record {
    let intent = record.open_intent().cloned().map(|intent| Intent { generation, ..intent });
    Record { generation, intent, ..record.clone() }
}

fn left_for(target: &Store) -> EndReason {
    EndReason::LeftStore { target: target.describe() }
}

fn has_left(record: &Record) -> bool {
    let reason = record.ended.as_ref().map(|ended| &ended.reason);
    matches!(reason, Some(EndReason::LeftStore { .. }))
}

/// True if both come from one login, or are one API key, and this one is in use.
fn is_same(there: &Record, record: &Record) -> bool {
    let login = |record: &Record| {
        let grant = record.grant.as_ref().map(|grant| (grant.logged_in_at, grant.issued.clone()));
        let key = record.api_key.as_ref().map(|key| (key.added_at, key.api_origin.clone()));
        (grant, key)
    };
    there.has_credential() && !has_left(there) && login(there) == login(record)
}

/// True if a login of the other store has ended there since this record was marked.
fn is_end_since(there: &Record, record: &Record) -> bool {
    let at = |record: &Record| record.ended.as_ref().map(|ended| ended.at);
    !there.has_credential() && !has_left(there) && at(there) > at(record)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::secret::{AccessToken, RefreshToken};
    use crate::store::{Grant, Issued, Sealing};

    fn connected() -> Record {
        let issued =
            Issued { token_endpoint: "t".into(), client_id: "c".into(), api_origin: "a".into() };
        let grant = Grant {
            access: Some(AccessToken::new("access")),
            refresh: RefreshToken::new("refresh"),
            expires_at: 1,
            lifetime: 600_000,
            scope: Vec::new(),
            issued,
            logged_in_at: 7,
            refreshed_at: 8,
            introspection_trusted: true,
        };
        let intent = Intent {
            generation: 5,
            token: "hash".into(),
            sent_at: 9,
            first_sent_at: 9,
            resends: 0,
        };
        let nothing = Record::tombstone(5, 0, EndReason::LoggedOut);
        Record { grant: Some(grant), intent: Some(intent), ended: None, ..nothing }
    }

    fn at(wall: i64) -> Now {
        Now { wall, boot: 0 }
    }

    /// True if somebody who reads it may use its tokens.
    async fn is_used(store: &Store, account: &AccountName) -> bool {
        let record = store.load(account).await.unwrap().map(|(record, _)| record);
        record.is_some_and(|record| record.has_credential() && !has_left(&record))
    }

    /// Polls it at most so often, then drops it: what the process has not begun by then, it never
    /// does. True if it ended.
    async fn cut_short<T>(work: impl Future<Output = T>, polls: u32) -> bool {
        let mut work = pin!(work);
        for _ in 0..polls {
            if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        false
    }

    #[tokio::test]
    async fn a_move_that_is_cut_short_anywhere_goes_on_and_no_grant_is_used_on_two_sides() {
        let account: AccountName = "acme".parse().unwrap();
        let mut was_on_its_way = false;
        for polls in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let open =
                |name: &str| Store::open(&folder.path().join(name), Sealing::none()).unwrap();
            let (source, target) = (open("source"), open("target"));
            let locked = source.lock(&account, LOCK_PATIENCE).await.unwrap();
            locked.save(&connected()).await.unwrap();
            drop(locked);
            let whole = cut_short(move_record(&source, &target, &account, at(20)), polls).await;
            // What was begun ends: nobody has the locks any more.
            drop(source.lock(&account, LOCK_PATIENCE).await.unwrap());
            drop(target.lock(&account, LOCK_PATIENCE).await.unwrap());
            let used = (is_used(&source, &account).await, is_used(&target, &account).await);
            assert_ne!(used, (true, true), "after {polls} polls");
            let is_marked = async |store: &Store| {
                let (record, _) = store.load(&account).await.unwrap().unwrap();
                has_left(&record) && record.has_credential()
            };
            let back = is_marked(&source).await;
            if back {
                let back = move_record(&target, &source, &account, at(25)).await;
                assert!(matches!(back, Err(MoveError::OnItsWay(_))), "after {polls} polls");
            }
            was_on_its_way |= back;
            let again = move_record(&source, &target, &account, at(30)).await.unwrap();
            assert_eq!(again, if whole { Moved::Before } else { again }, "after {polls} polls");
            assert!(!is_used(&source, &account).await && is_used(&target, &account).await);
            let (there, _) = target.load(&account).await.unwrap().unwrap();
            assert_eq!(there.grant.as_ref().unwrap().refresh.expose(), "refresh");
            assert_eq!(there.open_intent().unwrap().token, "hash", "it is resolved there");
            let (gone, _) = source.load(&account).await.unwrap().unwrap();
            assert!(gone.generation > 5 && gone.grant.is_none());
            if whole {
                assert!(polls > 5 && was_on_its_way, "it was never cut short");
                return;
            }
        }
    }

    #[tokio::test]
    async fn a_login_that_has_ended_where_it_went_is_not_moved_there_twice() {
        let account: AccountName = "acme".parse().unwrap();
        for (ended_at, is_moved) in [(25, false), (15, true)] {
            let folder = tempfile::tempdir().unwrap();
            let open =
                |name: &str| Store::open(&folder.path().join(name), Sealing::none()).unwrap();
            let (source, target) = (open("source"), open("target"));
            let from = source.lock(&account, LOCK_PATIENCE).await.unwrap();
            // Marked, and the process ended before it buried the record.
            mark(&from, &connected(), &target, 20).await.unwrap();
            drop(from);
            let to = target.lock(&account, LOCK_PATIENCE).await.unwrap();
            to.save(&Record::tombstone(9, ended_at, EndReason::LoggedOut)).await.unwrap();
            drop(to);
            assert_eq!(move_record(&source, &target, &account, at(30)).await.unwrap(), Moved::Now);
            assert_eq!(is_used(&target, &account).await, is_moved, "ended at {ended_at}");
            assert!(!is_used(&source, &account).await);
        }
    }

    #[tokio::test]
    async fn another_login_in_the_other_store_is_not_overwritten() {
        let account: AccountName = "acme".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&folder.path().join(name), Sealing::none()).unwrap();
        let (source, target) = (open("source"), open("target"));
        for store in [&source, &target] {
            let locked = store.lock(&account, LOCK_PATIENCE).await.unwrap();
            locked.save(&connected()).await.unwrap();
        }
        let refused = move_record(&source, &target, &account, at(20)).await;
        assert!(matches!(refused, Err(MoveError::Taken(_))));
        assert!(is_used(&source, &account).await && is_used(&target, &account).await);
    }
}
