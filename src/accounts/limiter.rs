//! How many refreshes run at a time, and which comes next. However many accounts are due at once,
//! the token endpoint and our own open files see a few.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::account::Account;
use super::refresh_reason::RefreshReason;

/// Refreshes under way.
const MAX_REFRESHES: usize = 32;
/// Of them, retries of what failed: while those hang, other accounts can still refresh.
const MAX_RETRIES: usize = 24;
/// Of them, those that only keep a grant from lapsing.
const MAX_IDLE: usize = 8;

/// Gives out the permits of one process. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshLimiter(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// Permits in use, by kind.
    under_way: [usize; 3],
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    account: Arc<Account>,
    reason: RefreshReason,
    permit: oneshot::Sender<RefreshPermit>,
}

/// What a refresh is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Needed,
    Retry,
    Idle,
}

/// The right to refresh; given back when it is dropped.
#[derive(Debug)]
pub(super) struct RefreshPermit {
    limiter: RefreshLimiter,
    kind: Kind,
}

impl RefreshLimiter {
    /// Waits for a permit; a caller that leaves is forgotten. First come refreshes that a request
    /// or a person waits for, then margins, retries and idle refreshes. One in the queue moves up
    /// when a request begins to wait for it.
    pub(super) async fn admit(
        &self,
        account: &Arc<Account>,
        reason: RefreshReason,
    ) -> RefreshPermit {
        let (permit, admitted) = oneshot::channel();
        self.queue().waiting.push(Waiting { account: account.clone(), reason, permit });
        self.admit_next();
        admitted
            .await
            .expect("an entry leaves the queue only with its permit, or when its receiver is gone")
    }

    /// Admits those for whom there is room. To be called when one in the queue may have become more
    /// urgent.
    pub(super) fn admit_next(&self) {
        while let Some((permit, kind)) = self.next() {
            // If the receiver has left meanwhile, the permit is dropped here, which gives it back.
            drop(permit.send(RefreshPermit { limiter: self.clone(), kind }));
        }
    }

    /// True if an idle refresh would have to wait.
    pub(super) fn is_busy_for_idle(&self) -> bool {
        !self.queue().has_room(Kind::Idle)
    }

    fn next(&self) -> Option<(oneshot::Sender<RefreshPermit>, Kind)> {
        let mut queue = self.queue();
        queue.waiting.retain(|waiting| !waiting.permit.is_closed());
        let ranks = queue.waiting.iter().enumerate().map(|(at, waiting)| (waiting.rank(), at));
        let ((_, kind), at) = ranks
            .filter(|((_, kind), _)| queue.has_room(*kind))
            .min_by_key(|((need, _), at)| (*need, *at))?;
        let next = queue.waiting.remove(at);
        queue.under_way[kind as usize] += 1;
        Some((next.permit, kind))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
    }
}

impl Queue {
    fn has_room(&self, kind: Kind) -> bool {
        let most = match kind {
            Kind::Needed => MAX_REFRESHES,
            Kind::Retry => MAX_RETRIES,
            Kind::Idle => MAX_IDLE,
        };
        self.under_way.iter().sum::<usize>() < MAX_REFRESHES && self.under_way[kind as usize] < most
    }
}

impl Waiting {
    /// Its need (the lowest goes first) and its kind.
    fn rank(&self) -> (u8, Kind) {
        match (self.reason, self.account.waiting.is_any()) {
            (RefreshReason::Retry, true) => (0, Kind::Retry),
            (RefreshReason::Expired | RefreshReason::Rejected | RefreshReason::Asked, _)
            | (_, true) => (0, Kind::Needed),
            (RefreshReason::Margin, _) => (1, Kind::Needed),
            (RefreshReason::Retry, _) => (2, Kind::Retry),
            (RefreshReason::IdleRefresh, _) => (3, Kind::Idle),
        }
    }
}

impl Drop for RefreshPermit {
    fn drop(&mut self) {
        self.limiter.queue().under_way[self.kind as usize] -= 1;
        self.limiter.admit_next();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep};

    use super::super::lease::Lease;
    use super::*;

    fn account() -> Arc<Account> {
        super::super::account::unconnected().0
    }

    async fn permits(
        limiter: &RefreshLimiter,
        reason: RefreshReason,
        count: usize,
    ) -> Vec<RefreshPermit> {
        let mut permits = Vec::new();
        for _ in 0..count {
            permits.push(limiter.admit(&account(), reason).await);
        }
        permits
    }

    /// True if such a refresh would be admitted now; then its place is taken and given back.
    fn is_admitted(limiter: &RefreshLimiter, reason: RefreshReason) -> bool {
        let account = account();
        let mut admitted = std::pin::pin!(limiter.admit(&account, reason));
        admitted.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn accounts_in_trouble_and_idle_ones_leave_room_for_the_others() {
        let limiter = RefreshLimiter::default();
        let idle = permits(&limiter, RefreshReason::IdleRefresh, MAX_IDLE).await;
        assert!(limiter.is_busy_for_idle() && !is_admitted(&limiter, RefreshReason::IdleRefresh));
        drop(idle);
        let retries = permits(&limiter, RefreshReason::Retry, MAX_RETRIES).await;
        assert!(
            !is_admitted(&limiter, RefreshReason::Retry)
                && is_admitted(&limiter, RefreshReason::Margin)
        );
        let needed = permits(&limiter, RefreshReason::Expired, MAX_REFRESHES - MAX_RETRIES).await;
        for reason in [
            RefreshReason::Expired,
            RefreshReason::Rejected,
            RefreshReason::Asked,
            RefreshReason::Margin,
            RefreshReason::IdleRefresh,
        ] {
            assert!(!is_admitted(&limiter, reason), "{reason:?}");
        }
        drop((retries, needed));
        assert_eq!(limiter.queue().under_way, [0; 3]);
        assert!(limiter.queue().waiting.is_empty(), "callers that left are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_refreshes_are_admitted_in_order_of_need() {
        let (limiter, mut tasks) = (RefreshLimiter::default(), JoinSet::new());
        let mut busy = permits(&limiter, RefreshReason::Asked, MAX_REFRESHES).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        for reason in [
            RefreshReason::IdleRefresh,
            RefreshReason::Retry,
            RefreshReason::Margin,
            RefreshReason::Expired,
            RefreshReason::Rejected,
        ] {
            let (limiter, order) = (limiter.clone(), order.clone());
            tasks.spawn(async move {
                let _permit = limiter.admit(&account(), reason).await;
                order.lock().push(reason);
                sleep(Duration::from_secs(1)).await;
            });
            sleep(Duration::from_millis(1)).await;
        }
        drop(busy.pop());
        tasks.join_all().await;
        let wanted = [
            RefreshReason::Expired,
            RefreshReason::Rejected,
            RefreshReason::Margin,
            RefreshReason::Retry,
            RefreshReason::IdleRefresh,
        ];
        assert_eq!(*order.lock(), wanted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_refresh_moves_up_when_a_request_comes() {
        let limiter = RefreshLimiter::default();
        let _idle = permits(&limiter, RefreshReason::IdleRefresh, MAX_IDLE).await;
        let (wanted, _commands) = super::super::account::unconnected();
        super::super::account::expire(&wanted);
        let mut admitted = std::pin::pin!(limiter.admit(&wanted, RefreshReason::IdleRefresh));
        let mut look = Context::from_waker(Waker::noop());
        assert!(admitted.as_mut().poll(&mut look).is_pending());
        let waiting = wanted.clone();
        tokio::spawn(async move {
            Lease::acquire(&waiting, Instant::now() + Duration::from_secs(9)).await.map(drop)
        });
        sleep(Duration::from_millis(1)).await;
        limiter.admit_next();
        assert!(matches!(
            admitted.as_mut().poll(&mut look),
            Poll::Ready(RefreshPermit { kind: Kind::Needed, .. })
        ));
    }
}
