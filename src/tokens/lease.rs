//! A request borrows an account's token, and waits for one where there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use tokio::time::{Instant, timeout_at};

use super::account::{Account, Wish};
use super::gate::Ticket;
use super::snapshot::{Decision, Refusal};
use crate::clock::Now;

/// Requests of one account that may wait at a time.
pub(super) const MAX_HELD: usize = 1024;

/// A request's right to use the token it carries; returned when the response head has arrived.
#[derive(Debug)]
pub struct Lease {
    /// The credential for the `Authorization` header, marked sensitive.
    pub credential: HeaderValue,
    /// Generation of the grant it belongs to.
    pub generation: u64,
    account: Arc<Account>,
    ticket: Ticket,
}

impl Account {
    /// Borrows the token, waiting at most until `deadline` for a refresh.
    ///
    /// # Errors
    /// [`Refusal`]: there is no usable token, and why.
    pub async fn lease(self: &Arc<Self>, deadline: Instant) -> Result<Lease, Refusal> {
        let now = self.shared.clock.now();
        self.touch(now);
        if let Some(lease) = self.try_lease(now) {
            return Ok(lease);
        }
        let _held = self.hold()?;
        self.shared.metrics.held();
        let came = now.boot;
        loop {
            let news = self.gate.news();
            let now = self.shared.clock.now();
            if let Some(lease) = self.try_lease(now) {
                return Ok(lease);
            }
            match self.snapshot.load().decide(
                now,
                deadline.saturating_duration_since(Instant::now()),
                came,
            ) {
                Decision::Refuse(refusal) => return Err(refusal),
                Decision::Refresh => self.wish(),
                // Served a moment ago, so the gate is closed: wait for it.
                Decision::Serve | Decision::Wait => {}
            }
            if timeout_at(deadline, news).await.is_err() {
                return Err(self.timed_out());
            }
        }
    }

    /// A lease if one is to be had at once: the usual path, one look at the gate and one at the
    /// snapshot.
    fn try_lease(self: &Arc<Self>, now: Now) -> Option<Lease> {
        let ticket = self.gate.enter(self.epoch(now))?;
        let snapshot = self.snapshot.load();
        let Some(credential) = snapshot.usable(now).map(|credential| credential.header.clone())
        else {
            self.gate.leave(ticket);
            return None;
        };
        Some(Lease { credential, generation: snapshot.generation, account: self.clone(), ticket })
    }

    fn timed_out(&self) -> Refusal {
        let snapshot = self.snapshot.load();
        let why = snapshot.health.why().unwrap_or("the token endpoint is slow");
        Refusal::RefreshTimeout(format!(
            "no fresh token within {:?}: {why}",
            self.shared.settings.hold
        ))
    }

    /// A place among those who wait. The first one to wait may make a try due that was not.
    pub(super) fn hold(&self) -> Result<Held<'_>, Refusal> {
        let held = Held::new(&self.held)?;
        if self.held.load(Ordering::Acquire) == 1 {
            let _ = self.shared.wishes.send(Wish::Look);
        }
        Ok(held)
    }

    /// True while a request waits for a token.
    pub(super) fn is_waited_for(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }
}

impl Lease {
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

/// One of the requests that wait; counted out on every path.
pub(super) struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicUsize) -> Result<Self, Refusal> {
        if count.fetch_add(1, Ordering::AcqRel) >= MAX_HELD {
            count.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Overloaded);
        }
        Ok(Self(count))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
