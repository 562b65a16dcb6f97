//! Notices what other replicas did, by reading the versions that have come since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::Link;
use super::rows::Rows;
use super::trouble::Trouble;
use crate::store::change::{Change, Version, Watched};
use crate::store::name::AccountName;

/// A version is drawn before its row can be read. What was drawn longer ago than this can be read,
/// or never will.
const OVERLAP: Duration = Duration::from_secs(15);
/// How often all versions are read, whatever was seen before.
const EVERYTHING: Duration = Duration::from_secs(60);

/// A reader of the changes.
#[derive(Debug)]
pub(crate) struct Changes {
    link: Arc<Link>,
    environment: String,
    has_no_tables: bool,
    poller: Poller,
}

impl Changes {
    pub(super) fn of(link: Arc<Link>, environment: String, has_no_tables: bool) -> Self {
        Self { link, environment, has_no_tables, poller: Poller::default() }
    }

    /// What changed since the last call; nothing while the database cannot be reached.
    pub(crate) async fn poll(&mut self, watched: &[Watched]) -> Vec<Change> {
        if self.has_no_tables {
            return Vec::new();
        }
        let rows = Rows { link: &self.link, environment: &self.environment };
        let changes = self.poller.poll(&rows, watched).await;
        self.link.metrics.polled(!self.poller.was_missing);
        changes
    }

    /// Ends when another replica has told of a change since the last call.
    pub(crate) async fn news(&self) {
        self.link.news().await;
    }
}

/// What earlier polls found.
#[derive(Debug, Default)]
struct Poller {
    /// The version of each record.
    known: BTreeMap<AccountName, i64>,
    /// The highest version that each of the last polls has seen, oldest first.
    seen: VecDeque<(Instant, i64)>,
    /// When all versions were read last.
    read_all: Option<Instant>,
    /// The database could not be reached at the last poll.
    was_missing: bool,
}

impl Poller {
    /// What changed since the last call, and every watched record that has another version than its
    /// reader knows; nothing while the database cannot be reached.
    async fn poll(&mut self, rows: &Rows<'_>, watched: &[Watched]) -> Vec<Change> {
        let now = Instant::now();
        let is_old = |at: Instant| now - at >= EVERYTHING;
        let is_everything = self.was_missing || self.read_all.is_none_or(is_old);
        let after = if is_everything { -1 } else { self.complete_up_to(now) };
        let rows = match rows.newer_than(after).await {
            Ok(rows) => rows,
            Err(trouble) => {
                self.note_missing(&trouble);
                return Vec::new();
            }
        };
        if self.was_missing {
            info!("the database of the accounts answers again");
        }
        if is_everything {
            self.read_all = Some(now);
        }
        self.learn(now, rows, is_everything, watched)
    }

    /// Said once for each outage.
    fn note_missing(&mut self, trouble: &Trouble) {
        if !mem::replace(&mut self.was_missing, true) {
            warn!(
                "the database of the accounts cannot be used, and requests go on while their tokens live: {trouble}"
            );
        }
    }

    /// The version up to which nothing can come any more.
    fn complete_up_to(&mut self, now: Instant) -> i64 {
        while self.seen.get(1).is_some_and(|(at, _)| now - *at >= OVERLAP) {
            self.seen.pop_front();
        }
        self.seen.front().filter(|(at, _)| now - *at >= OVERLAP).map_or(-1, |(_, version)| *version)
    }

    /// The changes in what was read: the accounts that have another version, and the watched ones of
    /// which the reader has another version.
    fn learn(
        &mut self,
        now: Instant,
        rows: Vec<(AccountName, i64, bool)>,
        is_everything: bool,
        watched: &[Watched],
    ) -> Vec<Change> {
        let highest = rows.iter().map(|(_, version, _)| *version).max();
        let before = self.seen.back().map_or(-1, |(_, version)| *version);
        self.seen.push_back((now, highest.unwrap_or(before).max(before)));
        let mut gone = if is_everything { mem::take(&mut self.known) } else { BTreeMap::new() };
        let mut changed = BTreeSet::new();
        for (name, version, exists) in rows {
            let known = gone.remove(&name).or_else(|| self.known.get(&name).copied());
            if exists {
                self.known.insert(name.clone(), version);
            } else {
                self.known.remove(&name);
            }
            if exists && known != Some(version) || !exists && known.is_some() {
                changed.insert(name);
            }
        }
        changed.extend(gone.into_keys());
        for it in watched {
            let version = self.known.get(&it.account).map(Version::of).unwrap_or_default();
            if it.version == Some(version) {
                changed.remove(&it.account);
            } else {
                changed.insert(it.account.clone());
            }
        }
        let resync = mem::take(&mut self.was_missing).then_some(Change::Resync);
        resync.into_iter().chain(changed.into_iter().map(Change::Changed)).collect()
    }
}
