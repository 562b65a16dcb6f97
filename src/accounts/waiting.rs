//! How many requests of an account wait for a token.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::snapshot::Refusal;

/// Requests of one account that may wait at a time.
pub(super) const MAX_WAITING: usize = 1024;

/// Counts the requests that wait.
#[derive(Debug, Default)]
pub(super) struct WaitingRequests(AtomicUsize);

/// One of the requests that wait; counted out on every path.
pub(super) struct WaitingRequest<'a>(&'a AtomicUsize);

impl WaitingRequests {
    /// Counts one more, unless too many wait already.
    pub(super) fn enter(&self) -> Result<WaitingRequest<'_>, Refusal> {
        if self.0.fetch_add(1, Ordering::AcqRel) >= MAX_WAITING {
            self.0.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Overloaded);
        }
        Ok(WaitingRequest(&self.0))
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    /// True while any request waits.
    pub(super) fn is_any(&self) -> bool {
        self.count() > 0
    }

    /// True while exactly one waits.
    pub(super) fn is_one(&self) -> bool {
        self.count() == 1
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
