//! A request borrows an account's token, and waits for one where there is none.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::{Instant, timeout_at};

use super::account::Account;
use super::gate::Ticket;
use super::snapshot::{Decision, Refusal};
use super::waiting::WaitingRequest;
use crate::clock::Now;

/// A request's right to use the credential it carries; returned when the response head has arrived.
#[derive(Debug)]
pub struct Lease {
    /// Value of the `Authorization` header, marked sensitive.
    pub credential: HeaderValue,
    /// Generation of the grant it belongs to.
    pub generation: u64,
    /// The request waited for it.
    pub is_held: bool,
    account: Arc<Account>,
    ticket: Ticket,
    /// When it was taken, in boot time.
    since: u64,
}

impl Lease {
    /// Borrows the account's credential, waiting at most until `deadline` for a refresh.
    ///
    /// # Errors
    /// [`Refusal`]: there is no usable credential, and why.
    pub async fn acquire(account: &Arc<Account>, deadline: Instant) -> Result<Self, Refusal> {
        let now = account.now();
        account.touch(now);
        if let Some(lease) = Self::try_acquire(account, now) {
            return Ok(lease);
        }
        let _waiting = wait_in_line(account)?;
        account.context.metrics.held();
        let arrived = now.boot;
        loop {
            let changed = account.gate.changed();
            let now = account.now();
            if let Some(mut lease) = Self::try_acquire(account, now) {
                lease.is_held = true;
                return Ok(lease);
            }
            let patience = deadline.saturating_duration_since(Instant::now());
            match account.peek().decide(now, patience, arrived) {
                Decision::Refuse(refusal) => return Err(refusal),
                Decision::Refresh => account.request_refresh(),
                // It could be served a moment ago, so the gate is closed: wait for it.
                Decision::Serve | Decision::Wait => {}
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(timed_out(account));
            }
        }
    }

    /// A lease if one is to be had at once: the usual path, one look at the gate and one at the
    /// snapshot.
    fn try_acquire(account: &Arc<Account>, now: Now) -> Option<Self> {
        let ticket = account.gate.enter(account.epoch(now))?;
        let snapshot = account.peek();
        let Some(credential) = snapshot.usable(now).map(|credential| credential.header.clone())
        else {
            account.gate.leave(ticket);
            return None;
        };
        let generation = snapshot.generation();
        Some(Self {
            credential,
            generation,
            is_held: false,
            account: account.clone(),
            ticket,
            since: now.boot,
        })
    }

    /// Counts a request that is sent with it. True if Pleo has asked to wait.
    pub fn count_send(&self) -> bool {
        self.account.rate.count(self.since);
        self.account.rate.wait(self.since).is_some()
    }

    /// Takes back what [`Lease::count_send`] counted: nothing was sent.
    pub fn uncount_send(&self) {
        self.account.rate.uncount(self.since);
    }

    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.gate.leave(self.ticket);
    }
}

/// Counts a request among those that wait. The first one may make an attempt due that was not.
pub(super) fn wait_in_line(account: &Account) -> Result<WaitingRequest<'_>, Refusal> {
    let waiting = account.waiting.enter()?;
    if account.waiting.is_one() {
        account.reschedule();
    }
    Ok(waiting)
}

/// A request waited for `hold` and there is still no token.
pub(super) fn timed_out(account: &Account) -> Refusal {
    let reason = account.peek().health.retry().map(|retry| retry.reason.clone());
    Refusal::RefreshTimeout { hold: account.context.settings.hold, reason }
}
