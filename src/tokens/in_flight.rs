//! One refresh of an account at a time, for everybody to wait for.

use std::sync::Arc;

use tokio::sync::watch;

use super::Accounts;
use super::account::Account;
use super::refresh::{Attempt, Reason, Report};

impl Accounts {
    /// Refreshes an account, or joins the refresh that is under way, and waits for its end. A
    /// caller who leaves cancels nothing.
    pub async fn refresh(
        self: &Arc<Self>,
        account: &Arc<Account>,
        reason: Reason,
        generation: u64,
    ) -> Report {
        let mut flight = self.flight(account, reason, generation);
        match flight.wait_for(Option::is_some).await {
            Ok(report) => report.unwrap_or(Report::Failed),
            // The task panicked: the intent, if one was written, is still open.
            Err(_) => Report::Failed,
        }
    }

    pub(super) fn start(self: &Arc<Self>, account: &Arc<Account>, reason: Reason, generation: u64) {
        drop(self.flight(account, reason, generation));
    }

    /// The refresh under way, or a new one on its own task.
    fn flight(
        self: &Arc<Self>,
        account: &Arc<Account>,
        reason: Reason,
        generation: u64,
    ) -> watch::Receiver<Option<Report>> {
        let mut slot = account.flight.lock();
        if let Some(running) =
            slot.as_ref().filter(|flight| flight.borrow().is_none() && flight.has_changed().is_ok())
        {
            // It may wait for its turn among others, and be more urgent now.
            self.limiter.admit_next();
            return running.clone();
        }
        let (landed, flight) = watch::channel(None);
        *slot = Some(flight.clone());
        let attempt =
            Attempt { accounts: self.clone(), account: account.clone(), reason, generation };
        let landing = Landing(account.clone());
        self.tasks.spawn_on(
            async move {
                let report = attempt.run().await;
                landed.send_replace(Some(report));
                drop(landing);
            },
            &self.control,
        );
        flight
    }
}

/// Whatever a refresh comes to, a panic included: the next wish is heard, and whoever waits looks
/// again.
struct Landing(Arc<Account>);

impl Drop for Landing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broke_off();
        }
        self.0.wish_granted();
        self.0.tell();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::super::account::{self, Wish};
    use super::super::snapshot::{Health, Refusal};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_panics_is_tried_again_after_a_pause_and_nobody_stays_stuck() {
        let (account, mut wishes) = account::unconnected();
        account::expire(&account);
        let waiting = account.clone();
        let held = tokio::spawn(async move {
            waiting.lease(Instant::now() + Duration::from_secs(3)).await.map(drop)
        });
        sleep(Duration::from_millis(1)).await;
        let mut wished = move || {
            std::iter::from_fn(|| wishes.try_recv().ok())
                .filter(|it| matches!(it, Wish::Refresh(..)))
                .count()
        };
        assert_eq!(wished(), 1);
        let (turn, landing) = (account.turn.clone().lock_owned().await, Landing(account.clone()));
        let broken = tokio::spawn(async move {
            let _hands = (turn, landing);
            panic!("on purpose");
        });
        assert!(broken.await.unwrap_err().is_panic());
        assert!(account.turn.try_lock().is_ok(), "the turn is free");
        sleep(Duration::from_millis(1)).await;
        let health = account.snapshot().health.clone();
        assert!(
            matches!(&health, Health::Retrying(trouble) if trouble.why.contains("fault of this program")),
            "{health:?}"
        );
        assert_eq!(wished(), 0, "no storm");
        assert!(matches!(held.await.unwrap(), Err(Refusal::RefreshTimeout(_))));
        let _ = account.lease(Instant::now()).await.map(drop);
        assert_eq!(wished(), 1, "when the pause is over");
    }
}
