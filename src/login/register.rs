//! The logins that were begun: what is needed to finish each, and how the finished ones ended. A
//! finished login stays known until it would have expired, so that a page that is loaded twice and
//! a command that waits are told its result.

use data_encoding::HEXLOWER;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::clock::{Deadline, Now};
use crate::secret::{CodeVerifier, LoginState};
use crate::store::AccountName;

/// Logins of one account that may be pending; one more ends the oldest.
const MAX_PENDING: usize = 5;
/// Pending logins of all accounts together: `/connect` needs no key, and takes any name.
const MAX_PENDING_IN_ALL: usize = 100;

/// How long the result of a login is kept at least.
const RESULT_TIME: Duration = Duration::from_secs(60);

/// SHA-256 of a state, so that the time of a look-up does not depend on the state.
type Key = [u8; 32];

/// How a login ended; none while it is pending or being finished.
pub type End = Option<Result<(), String>>;

/// What is needed to finish a login once its callback comes.
pub(super) struct PendingLogin {
    pub(super) account: AccountName,
    pub(super) verifier: CodeVerifier,
    pub(super) redirect_uri: String,
    /// Once this login is saved, another account that holds the company is logged out.
    pub(super) replaces: bool,
    pub(super) expires: Deadline,
}

/// All logins of this process.
#[derive(Default)]
pub(super) struct Register {
    entries: DashMap<Key, Entry>,
    begun: AtomicU64,
}

struct Entry {
    /// Rises with every login that is begun.
    number: u64,
    account: AccountName,
    /// None once its callback came.
    pending: Option<PendingLogin>,
    expires: Deadline,
    end: watch::Sender<End>,
}

impl Entry {
    /// True once it can be forgotten: never while a login is being finished.
    fn is_over(&self, now: Now) -> bool {
        let is_being_finished = self.pending.is_none() && self.end.borrow().is_none();
        !is_being_finished && self.expires.passed(now)
    }
}

/// The login that a callback's state belongs to.
pub(super) enum Claim {
    /// A pending login, which the caller must finish and end.
    First(PendingLogin),
    /// Its callback came before.
    Repeated(AccountName, watch::Receiver<End>),
    /// No login, or one that expired.
    Unknown,
}

impl Register {
    /// Adds a pending login and returns its id, which is not secret. The oldest ones over the limit
    /// are removed.
    pub(super) fn add(&self, state: &LoginState, pending: PendingLogin, now: Now) -> String {
        self.entries.retain(|_, entry| !entry.is_over(now));
        self.remove_oldest(MAX_PENDING, |entry| entry.account == pending.account);
        self.remove_oldest(MAX_PENDING_IN_ALL, |_| true);
        let (key, end) = (key(state), watch::Sender::default());
        let (account, expires) = (pending.account.clone(), pending.expires);
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(key, Entry { number, account, pending: Some(pending), expires, end });
        id(&key)
    }

    /// Removes the oldest of the counted pending logins until one more is within the limit.
    fn remove_oldest(&self, limit: usize, is_counted: impl Fn(&Entry) -> bool) {
        let counted =
            self.entries.iter().filter(|entry| entry.pending.is_some() && is_counted(entry));
        let mut oldest: Vec<_> = counted.map(|entry| (entry.number, *entry.key())).collect();
        oldest.sort_unstable();
        let excess = (oldest.len() + 1).saturating_sub(limit);
        for (_, key) in oldest.iter().take(excess) {
            self.entries.remove(key);
        }
    }

    /// Gives a pending login to the first callback that has its state.
    pub(super) fn claim(&self, state: &LoginState, now: Now) -> Claim {
        let Some(mut entry) = self.entries.get_mut(&key(state)).filter(|entry| !entry.is_over(now))
        else {
            return Claim::Unknown;
        };
        match entry.pending.take() {
            Some(pending) => Claim::First(pending),
            None => Claim::Repeated(entry.account.clone(), entry.end.subscribe()),
        }
    }

    /// Records how a claimed login ended, and wakes everyone who waits for it.
    pub(super) fn end(&self, state: &LoginState, end: Result<(), String>, now: Now) {
        if let Some(mut entry) = self.entries.get_mut(&key(state)) {
            let known_until = Deadline::after(now, RESULT_TIME);
            entry.expires =
                if entry.expires.boot < known_until.boot { known_until } else { entry.expires };
            entry.end.send_replace(Some(end));
        }
    }

    /// Ends the pending logins of an account; true if there were any.
    pub(super) fn cancel(&self, account: &AccountName, why: &str) -> bool {
        let mut pending = self.entries.iter_mut().filter(|entry| entry.account == *account);
        pending.by_ref().fold(false, |any, mut entry| {
            let is_pending = entry.pending.take().is_some();
            if is_pending {
                entry.end.send_replace(Some(Err(why.to_owned())));
            }
            any | is_pending
        })
    }

    /// Forgets a pending login; false if it is not pending (any more).
    pub(super) fn abandon(&self, login: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|key, entry| entry.pending.is_none() || id(key) != login);
        self.entries.len() < before
    }

    /// How a login ended; the outer none: it is not known, because later ones took its place or it
    /// expired.
    pub(super) fn outcome(&self, login: &str, now: Now) -> Option<End> {
        let entry =
            self.entries.iter().find(|entry| id(entry.key()) == login && !entry.is_over(now))?;
        Some(entry.end.borrow().clone())
    }

    /// True if a pending login comes back to this redirect URI.
    pub(super) fn is_pending_at(&self, redirect_uri: &str, now: Now) -> bool {
        let is_there = |pending: &PendingLogin| {
            pending.redirect_uri == redirect_uri && !pending.expires.passed(now)
        };
        self.entries.iter().any(|entry| entry.pending.as_ref().is_some_and(is_there))
    }
}

fn key(state: &LoginState) -> Key {
    Sha256::digest(state.expose().as_bytes()).into()
}

/// A part of the key: it tells logins apart and does not reveal the state.
fn id(key: &Key) -> String {
    HEXLOWER.encode(&key[..8])
}
