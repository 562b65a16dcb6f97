//! Starts refreshes: one of an account at a time, for everybody to wait for.

use std::sync::Arc;

use tokio::sync::watch;

use super::account::Account;
use super::executor::Executor;
use super::limiter::RefreshLimiter;
use super::outage::Outage;
use super::refresh_job::RefreshJob;
use super::refresh_reason::{RefreshReason, RefreshReport};
use super::registry::Registry;
use super::services::Services;
use super::subject;

/// The refreshes of this process.
#[derive(Debug)]
pub(super) struct Refresher {
    services: Arc<Services>,
    registry: Arc<Registry>,
    pub(super) limiter: RefreshLimiter,
    outage: Arc<Outage>,
}

impl Refresher {
    pub(super) fn new(services: Arc<Services>, registry: Arc<Registry>) -> Self {
        Self { services, registry, limiter: RefreshLimiter::default(), outage: Arc::default() }
    }

    /// Refreshes an account, or joins the refresh that is under way, and waits for its end. A
    /// caller who leaves cancels nothing.
    pub(super) async fn refresh(
        &self,
        account: &Arc<Account>,
        reason: RefreshReason,
        generation: u64,
    ) -> RefreshReport {
        let mut in_flight = self.in_flight(account, reason, generation);
        match in_flight.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or(RefreshReport::Failed),
            // The task panicked: the intent, if one was written, is still open.
            Err(_) => RefreshReport::Failed,
        }
    }

    /// The same without waiting for its end.
    pub(super) fn start(&self, account: &Arc<Account>, reason: RefreshReason, generation: u64) {
        drop(self.in_flight(account, reason, generation));
    }

    /// The refresh under way, or a new one on its own task.
    fn in_flight(
        &self,
        account: &Arc<Account>,
        reason: RefreshReason,
        generation: u64,
    ) -> watch::Receiver<Option<RefreshReport>> {
        let mut slot = account.in_flight.lock();
        let is_running = |it: &&watch::Receiver<Option<RefreshReport>>| {
            it.borrow().is_none() && it.has_changed().is_ok()
        };
        if let Some(running) = slot.as_ref().filter(is_running) {
            // It may wait for its permit among others, and be more urgent now.
            self.limiter.admit_next();
            return running.clone();
        }
        let (done, in_flight) = watch::channel(None);
        *slot = Some(in_flight.clone());
        let job = self.job(account, reason, generation);
        let (services, registry) = (self.services.clone(), self.registry.clone());
        let guard = FinishGuard(account.clone());
        self.services.spawn(async move {
            let report = job.run().await;
            if report == RefreshReport::Refreshed {
                subject::learn(&services, &registry, &guard.0);
            }
            done.send_replace(Some(report));
            drop(guard);
        });
        in_flight
    }

    fn job(&self, account: &Arc<Account>, reason: RefreshReason, generation: u64) -> RefreshJob {
        let (services, account) = (self.services.clone(), account.clone());
        RefreshJob {
            executor: Executor { services, account, reason },
            limiter: self.limiter.clone(),
            outage: self.outage.clone(),
            generation,
        }
    }
}

/// However a refresh ends, by a panic too: the next request for one is heard, and whoever waits
/// looks again.
struct FinishGuard(Arc<Account>);

impl Drop for FinishGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.refresh_panicked();
        }
        self.0.clear_refresh_request();
        self.0.notify();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::super::account::{self, SchedulerCommand};
    use super::super::health::Health;
    use super::super::lease::Lease;
    use super::super::reason::RetryReason;
    use super::super::snapshot::Refusal;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_panics_is_tried_again_after_a_pause_and_nobody_stays_stuck() {
        let (account, mut commands) = account::unconnected();
        account::expire(&account);
        let waiting = account.clone();
        let held = tokio::spawn(async move {
            Lease::acquire(&waiting, Instant::now() + Duration::from_secs(3)).await.map(drop)
        });
        sleep(Duration::from_millis(1)).await;
        let mut requested = move || {
            std::iter::from_fn(|| commands.try_recv().ok())
                .filter(|it| matches!(it, SchedulerCommand::Refresh(..)))
                .count()
        };
        assert_eq!(requested(), 1);
        let lock = account.refresh_lock.clone().lock_owned().await;
        let guard = FinishGuard(account.clone());
        let broken = tokio::spawn(async move {
            let _held = (lock, guard);
            panic!("on purpose");
        });
        assert!(broken.await.unwrap_err().is_panic());
        assert!(account.refresh_lock.try_lock().is_ok(), "the lock is free");
        sleep(Duration::from_millis(1)).await;
        let health = account.snapshot().health.clone();
        assert!(
            matches!(&health, Health::Retrying(retry) if retry.reason == RetryReason::Panicked),
            "{health:?}"
        );
        assert_eq!(requested(), 0, "no storm");
        assert!(matches!(held.await.unwrap(), Err(Refusal::RefreshTimeout { .. })));
        let _ = Lease::acquire(&account, Instant::now()).await.map(drop);
        assert_eq!(requested(), 1, "when the pause is over");
    }
}
