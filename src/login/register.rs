//! The logins that were begun: what is needed to finish each, and how the finished ones ended. A
//! finished login stays known until it would have expired, so that a page that is loaded twice and
//! a command that waits are told its result.

use data_encoding::HEXLOWER;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;

use super::error::LoginError;
use crate::clock::{Deadline, Now};
use crate::secret::{CodeVerifier, LoginState};
use crate::store::{AccountName, LoginId, MAX_PENDING, MAX_PENDING_IN_ALL, StoredLogin};

/// How long the result of a login is kept at least.
const RESULT_TIME: Duration = Duration::from_secs(60);
/// How often a callback looks whether the one before it has taken its login.
const TAKING_POLL: Duration = Duration::from_millis(20);

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
    /// Other replicas may finish or cancel it.
    pub(super) is_shared: bool,
}

impl PendingLogin {
    /// What other replicas need to finish it.
    pub(super) fn stored(&self) -> StoredLogin {
        let Self { account, verifier, redirect_uri, replaces, .. } = self;
        StoredLogin {
            account: account.clone(),
            verifier: verifier.clone(),
            redirect_uri: redirect_uri.clone(),
            replaces: *replaces,
        }
    }
}

/// All logins of this process.
#[derive(Default)]
pub(super) struct Register {
    entries: DashMap<LoginId, Entry>,
    /// The logins that a callback is taking right now.
    taking: DashSet<LoginId>,
    begun: AtomicU64,
}

/// One callback is taking a login; the next one waits until this is dropped.
pub(super) struct Taking<'a> {
    register: &'a Register,
    key: LoginId,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.register.taking.remove(&self.key);
    }
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

/// Who finishes a login, and how it ended if that is known.
pub(super) enum Finished {
    /// This process, and this is its result.
    Here(Result<AccountName, LoginError>),
    /// Its callback came before.
    Before(AccountName, watch::Receiver<End>),
    /// Its callback came to another replica.
    Elsewhere(AccountName),
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
    /// Adds a pending login and returns its id, which is not secret. The oldest ones over the limits
    /// are removed, and their keys returned.
    pub(super) fn add(
        &self,
        state: &LoginState,
        pending: PendingLogin,
        now: Now,
    ) -> (String, Vec<LoginId>) {
        self.entries.retain(|_, entry| !entry.is_over(now));
        let mut removed = self.remove_oldest(MAX_PENDING, |entry| entry.account == pending.account);
        removed.extend(self.remove_oldest(MAX_PENDING_IN_ALL, |_| true));
        let (key, end) = (key(state), watch::Sender::default());
        let (account, expires) = (pending.account.clone(), pending.expires);
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.entries.insert(key, Entry { number, account, pending: Some(pending), expires, end });
        (id(&key), removed)
    }

    /// Removes the oldest of the counted pending logins until one more is within the limit.
    fn remove_oldest(&self, limit: i64, is_counted: impl Fn(&Entry) -> bool) -> Vec<LoginId> {
        let counted =
            self.entries.iter().filter(|entry| entry.pending.is_some() && is_counted(entry));
        let mut oldest: Vec<_> = counted.map(|entry| (entry.number, *entry.key())).collect();
        oldest.sort_unstable();
        let excess = (oldest.len() + 1).saturating_sub(usize::try_from(limit).unwrap_or_default());
        let oldest: Vec<_> = oldest.into_iter().take(excess).map(|(_, key)| key).collect();
        for key in &oldest {
            self.entries.remove(key);
        }
        oldest
    }

    /// Waits until no other callback is taking this login: to the store all of this process are one.
    pub(super) async fn taking(&self, key: LoginId) -> Taking<'_> {
        while !self.taking.insert(key) {
            sleep(TAKING_POLL).await;
        }
        Taking { register: self, key }
    }

    /// A login that was claimed is pending again.
    pub(super) fn give_back(&self, key: &LoginId, pending: PendingLogin) {
        if let Some(mut entry) = self.entries.get_mut(key) {
            entry.pending = Some(pending);
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

    /// Takes over a login that another replica began, to be finished here.
    pub(super) fn take_over(&self, key: LoginId, account: &AccountName, expires: Deadline) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let (account, end) = (account.clone(), watch::Sender::default());
        self.entries.insert(key, Entry { number, account, pending: None, expires, end });
    }

    /// The key of a login by its id, while it is pending or being finished.
    pub(super) fn unfinished(&self, login: &str) -> Option<(LoginId, AccountName)> {
        let mut entries = self.entries.iter();
        let found =
            entries.find(|entry| id(entry.key()) == login && entry.end.borrow().is_none())?;
        Some((*found.key(), found.account.clone()))
    }

    /// Records how a claimed login ended, and wakes everyone who waits for it.
    pub(super) fn end(&self, key: &LoginId, end: Result<(), String>, now: Now) {
        if let Some(mut entry) = self.entries.get_mut(key) {
            entry.pending = None;
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

pub(super) fn key(state: &LoginState) -> LoginId {
    Sha256::digest(state.expose().as_bytes()).into()
}

/// A part of the key: it tells logins apart and does not reveal the state.
pub(super) fn id(key: &LoginId) -> String {
    HEXLOWER.encode(&key[..8])
}
