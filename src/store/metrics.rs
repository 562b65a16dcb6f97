//! What a store counts of itself. Nothing here is on the way of a request: locks, statements and
//! polls belong to refreshes, logins and the scheduler.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// Counts of locks, whatever the kind of store.
#[derive(Clone, Debug, Default)]
pub(super) struct LockMetrics {
    taken: Counter,
    waits: Counter,
    waited: Counter<f64, AtomicU64>,
}

impl LockMetrics {
    /// A lock was taken.
    pub(super) fn taken(&self) {
        self.taken.inc();
    }

    /// Adds them to a registry of stores.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Locks of accounts that this process took (claims, in a database)";
        registry.register("locks", help, self.taken.clone());
        let help = "Times that it had to wait for a lock that another process held";
        registry.register("lock_waits", help, self.waits.clone());
        let help = "Time that it waited for them";
        registry.register_with_unit("lock_wait", help, Unit::Seconds, self.waited.clone());
    }
}

/// Somebody who may have to wait for a lock. How long that took is counted when it is dropped: also
/// if the lock was not wanted any more, or not given.
#[derive(Debug)]
pub struct LockWait {
    metrics: LockMetrics,
    since: Option<Instant>,
}

impl LockWait {
    pub(super) fn new(metrics: LockMetrics) -> Self {
        Self { metrics, since: None }
    }

    /// Another process holds the lock, and it will be tried again. Returns for how long that has
    /// been so.
    pub fn goes_on(&mut self) -> Duration {
        if self.since.is_none() {
            self.metrics.waits.inc();
        }
        self.since.get_or_insert_with(Instant::now).elapsed()
    }
}

impl Drop for LockWait {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.metrics.waited.inc_by(since.elapsed().as_secs_f64());
        }
    }
}
