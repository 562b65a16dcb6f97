//! The latest attempts to refresh, of all accounts.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::refresh_reason::RefreshReason;
use crate::store::AccountName;

/// Attempts that are kept.
const MAX_KEPT: usize = 500;

/// An attempt to refresh that has ended.
#[derive(Clone, Debug)]
pub struct PastRefresh {
    /// When it began, in UNIX milliseconds.
    pub at: i64,
    /// The account.
    pub account: AccountName,
    /// Why.
    pub reason: RefreshReason,
    /// How it ended.
    pub outcome: &'static str,
    /// How long it took, waiting for locks included.
    pub took: Duration,
    /// Requests that were waiting at its end.
    pub waiting: usize,
}

/// The latest attempts.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<VecDeque<PastRefresh>>);

impl History {
    /// Adds one; the oldest makes room.
    pub(super) fn add(&self, refresh: PastRefresh) {
        let mut kept = self.0.lock();
        kept.truncate(MAX_KEPT - 1);
        kept.push_front(refresh);
    }

    /// Those that began at `from` (UNIX milliseconds) or later, oldest first.
    pub(super) fn since(&self, from: i64) -> Vec<PastRefresh> {
        self.0.lock().iter().rev().filter(|refresh| refresh.at >= from).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_attempts_are_kept_in_their_order() {
        let history = History::default();
        for at in 0..600 {
            history.add(PastRefresh {
                at,
                account: AccountName::fallback(),
                reason: RefreshReason::Margin,
                outcome: "fresh",
                took: Duration::ZERO,
                waiting: 0,
            });
        }
        let times = |from| history.since(from).iter().map(|it| it.at).collect::<Vec<_>>();
        assert_eq!((times(0).len(), times(0)[0]), (MAX_KEPT, 100));
        assert_eq!(times(598), [598, 599]);
    }
}
