//! The gate of an account: requests that hold its token pass through; a refresh closes it for a
//! moment.
//!
//! A refresh ends the previous access token at once, so a request that has picked its token must
//! have its response head before the token request is sent, and one that comes meanwhile must wait
//! for the new token.
//!
//! All state is one word, so that "count me in" and "closed" cannot be seen in different orders:
//!
//! ```text
//! bit 63   closed
//! 48..60   epoch: time in units of `drain`, modulo 4096
//! 32..48   leases taken in this epoch
//! 16..32   leases taken in the epoch before
//!  0..16   older leases: already authorised by Pleo, or lost; nobody waits for them
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout_at};

const CLOSED: u64 = 1 << 63;
const EPOCHS: u64 = 1 << 12;
const LANE: u64 = 0xffff;
/// Epochs that another thread's reading of the clock may be behind ours; a larger difference is
/// time that has passed.
const BEHIND: u64 = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Gate {
    word: AtomicU64,
    /// Notified when the last young lease is returned to a closed gate.
    drained: Notify,
    /// Notified whenever a waiting request should look again: the gate opened, or a snapshot was
    /// published.
    changed: Notify,
}

/// A request's place inside; returned with [`Gate::leave`].
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    epoch: u64,
}

/// A closed gate; it opens when this is dropped.
#[derive(Debug)]
pub struct Closed<'a>(&'a Gate);

impl Gate {
    /// Enters, unless the gate is closed. `epoch` is the time in units of `drain`.
    pub fn enter(&self, epoch: u64) -> Option<Ticket> {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if word & CLOSED != 0 {
                return None;
            }
            let lanes = Lanes::read(word).advance(epoch);
            let entered = Lanes { current: lanes.current + 1, ..lanes };
            match self.word.compare_exchange_weak(
                word,
                entered.word(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(Ticket { epoch: entered.epoch }),
                Err(seen) => word = seen,
            }
        }
    }

    /// Leaves; true if nobody is left inside.
    pub fn leave(&self, ticket: Ticket) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let left = Lanes::read(word).without(ticket);
            let next = left.word() | (word & CLOSED);
            match self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) if next & CLOSED != 0 && left.young() == 0 => self.drained.notify_waiters(),
                Ok(_) => {}
                Err(seen) => {
                    word = seen;
                    continue;
                }
            }
            return left.total() == 0;
        }
    }

    /// Closes, then waits for the young leases, at most `patience`.
    pub async fn close(&self, epoch: u64, patience: Duration) -> Closed<'_> {
        let deadline = Instant::now() + patience;
        self.shut(epoch);
        let closed = Closed(self);
        loop {
            let drained = self.drained.notified();
            if Lanes::read(self.word.load(Ordering::Acquire)).young() == 0 {
                return closed;
            }
            if timeout_at(deadline, drained).await.is_err() {
                return closed;
            }
        }
    }

    /// Becomes ready at the next [`notify`](Self::notify) after this call, polled or not.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Lets every waiting request look again.
    pub fn notify(&self) {
        self.changed.notify_waiters();
    }

    fn shut(&self, epoch: u64) {
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            let shut = Lanes::read(word).advance(epoch).word() | CLOSED;
            match self.word.compare_exchange_weak(word, shut, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.word.fetch_and(!CLOSED, Ordering::AcqRel);
        self.0.notify();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lanes {
    epoch: u64,
    current: u64,
    before: u64,
    older: u64,
}

impl Lanes {
    fn read(word: u64) -> Self {
        Self {
            epoch: (word >> 48) % EPOCHS,
            current: (word >> 32) & LANE,
            before: (word >> 16) & LANE,
            older: word & LANE,
        }
    }

    fn word(self) -> u64 {
        // A lane holds 65,535 leases, three times the largest number of connections.
        self.epoch << 48
            | self.current.min(LANE) << 32
            | self.before.min(LANE) << 16
            | self.older.min(LANE)
    }

    /// The same leases seen from a later epoch; an earlier one (another thread's older reading)
    /// changes nothing.
    fn advance(self, epoch: u64) -> Self {
        match Self::age(epoch, self.epoch) {
            0 => self,
            1 => Self {
                epoch: epoch % EPOCHS,
                current: 0,
                before: self.current,
                older: self.older + self.before,
            },
            age if age < EPOCHS - BEHIND => Self {
                epoch: epoch % EPOCHS,
                current: 0,
                before: 0,
                older: self.older + self.before + self.current,
            },
            _ => self,
        }
    }

    fn without(self, ticket: Ticket) -> Self {
        match Self::age(self.epoch, ticket.epoch) {
            0 => Self { current: self.current.saturating_sub(1), ..self },
            1 => Self { before: self.before.saturating_sub(1), ..self },
            _ => Self { older: self.older.saturating_sub(1), ..self },
        }
    }

    fn age(now: u64, then: u64) -> u64 {
        now.wrapping_sub(then) % EPOCHS
    }

    fn young(self) -> u64 {
        self.current + self.before
    }

    fn total(self) -> u64 {
        self.young() + self.older
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const SOON: Duration = Duration::from_secs(2);

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_the_young_and_opens_on_drop() {
        let gate = Arc::new(Gate::default());
        let ticket = gate.enter(5).unwrap();
        let closing = tokio::spawn({
            let gate = gate.clone();
            async move {
                let closed = gate.close(5, SOON).await;
                assert!(gate.enter(5).is_none());
                drop(closed);
            }
        });
        tokio::task::yield_now().await;
        assert!(gate.enter(5).is_none(), "closed while it drains");
        let before = Instant::now();
        assert!(gate.leave(ticket));
        closing.await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert!(gate.enter(5).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn closing_waits_at_most_its_patience_and_not_for_old_leases() {
        let gate = Gate::default();
        let young = gate.enter(5).unwrap();
        let before = Instant::now();
        drop(gate.close(5, SOON).await);
        assert_eq!(before.elapsed(), SOON);
        drop(gate.close(7, SOON).await);
        assert_eq!(before.elapsed(), SOON, "two epochs later it is old");
        assert!(gate.leave(young));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_that_was_not_used_for_long_knows_what_is_old() {
        // Epochs are counted modulo 4,096: no time of rest may look like a step back.
        for rest in [3, 64, 2_047, 2_048, 4_000] {
            let gate = Gate::default();
            gate.leave(gate.enter(10).unwrap());
            let old = gate.enter(10 + rest).unwrap();
            let before = Instant::now();
            drop(gate.close(12 + rest, SOON).await);
            assert_eq!(before.elapsed(), Duration::ZERO, "after {rest} epochs");
            assert!(gate.leave(old));
        }
    }

    #[tokio::test]
    async fn a_change_reaches_those_who_asked_before() {
        let gate = Gate::default();
        let changed = gate.changed();
        gate.notify();
        changed.await;
    }

    proptest! {
        /// Whatever the order of coming, going and passing time, the count returns to zero.
        #[test]
        fn leases_always_return(steps in prop::collection::vec((any::<bool>(), 0_u64..3, any::<prop::sample::Index>()), 1..200)) {
            let gate = Gate::default();
            let (mut epoch, mut inside) = (4_000_u64, Vec::new());
            for (come, passed, who) in steps {
                epoch += passed;
                if come {
                    inside.push(gate.enter(epoch).unwrap());
                } else if !inside.is_empty() {
                    let ticket = inside.remove(who.index(inside.len()));
                    prop_assert_eq!(gate.leave(ticket), inside.is_empty());
                }
            }
            for ticket in inside {
                gate.leave(ticket);
            }
            prop_assert_eq!(Lanes::read(gate.word.load(Ordering::Relaxed)).total(), 0);
        }
    }
}
