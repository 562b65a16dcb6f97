//! How many requests of an account went to Pleo within the last minute, and how long Pleo has asked
//! to wait.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Length of a slot, in milliseconds.
const SLOT: u64 = 250;
/// Slots of a minute.
const SLOTS: u64 = 240;
/// Bits of a slot's count; above them stands the slot's number.
const COUNT_BITS: u32 = 24;

/// What Pleo allows, requests a minute (pleo.md 0a).
pub const LIMIT: u32 = 600;
/// What Pleo recommends to stay below, requests a minute (pleo.md 0a).
pub const RECOMMENDED: u32 = 500;

/// Requests of the last minute. All times are of the boot clock, in milliseconds.
#[derive(Debug, Default)]
pub struct Rate {
    /// Made at the first request: most accounts are idle.
    slots: OnceLock<Box<[AtomicU64]>>,
    /// The requests in the slots before the current one, and the number of the current one.
    earlier: AtomicU64,
    latest: AtomicU32,
    limited_until: AtomicU64,
}

fn pack(slot: u64, count: u64) -> u64 {
    (slot << COUNT_BITS) | count
}

fn unpack(packed: u64) -> (u64, u64) {
    (packed >> COUNT_BITS, packed & ((1 << COUNT_BITS) - 1))
}

impl Rate {
    /// Counts a request, and says how many there were within the last minute, with this one.
    pub fn count(&self, now: u64) -> u32 {
        let slot = now / SLOT;
        let place = self.place(slot);
        let mut packed = place.load(Ordering::Relaxed);
        loop {
            let count = match unpack(packed) {
                (number, count) if number == slot => count + 1,
                _ => 1,
            };
            let next = pack(slot, count);
            match place.compare_exchange_weak(packed, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let sent = narrow(self.earlier(slot) + count);
                    self.latest.store(sent, Ordering::Relaxed);
                    return sent;
                }
                Err(other) => packed = other,
            }
        }
    }

    /// Takes back a request that was counted at `counted` and turned out not to have been sent.
    pub fn uncount(&self, counted: u64) {
        let slot = counted / SLOT;
        let taken = |packed| match unpack(packed) {
            (number, count) if number == slot && count > 0 => Some(pack(slot, count - 1)),
            // Its minute is over.
            _ => None,
        };
        let _ = self.place(slot).fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
    }

    /// What the latest request was told: how many there were within the minute before it.
    pub fn latest(&self) -> u32 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Requests within the last minute.
    pub fn last_minute(&self, now: u64) -> u32 {
        if self.slots.get().is_none() {
            return 0;
        }
        let slot = now / SLOT;
        let current = unpack(self.place(slot).load(Ordering::Relaxed));
        narrow(self.earlier(slot) + if current.0 == slot { current.1 } else { 0 })
    }

    /// Pleo has asked to wait until then (`Retry-After` of a 429).
    pub fn limit_until(&self, until: u64) {
        self.limited_until.fetch_max(until, Ordering::Relaxed);
    }

    /// How long Pleo has asked to wait; none if it has not, or the time is over.
    pub fn wait(&self, now: u64) -> Option<Duration> {
        let left = self.limited_until.load(Ordering::Relaxed).saturating_sub(now);
        (left > 0).then(|| Duration::from_millis(left))
    }

    fn place(&self, slot: u64) -> &AtomicU64 {
        let new = || (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        &self.slots.get_or_init(new)[(slot % SLOTS) as usize]
    }

    /// Requests of the last minute before this slot. Added up once a slot.
    fn earlier(&self, slot: u64) -> u64 {
        let (number, sum) = unpack(self.earlier.load(Ordering::Relaxed));
        if number == slot {
            return sum;
        }
        let slots = self.slots.get().into_iter().flatten();
        let counts = slots.map(|packed| unpack(packed.load(Ordering::Relaxed)));
        let is_earlier = |number: u64| number != slot && is_recent(number, slot);
        let sum = counts.filter(|(number, _)| is_earlier(*number)).map(|(_, count)| count).sum();
        self.earlier.store(pack(slot, sum), Ordering::Relaxed);
        sum
    }
}

/// True for the slots of the minute that ends with `slot`. Number 0 is a slot that was never used.
fn is_recent(number: u64, slot: u64) -> bool {
    number > 0 && number <= slot && number + SLOTS > slot
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 5_000_000;

    #[test]
    fn requests_leave_the_count_after_a_minute() {
        let rate = Rate::default();
        assert_eq!(rate.last_minute(START), 0);
        for at in 0..700 {
            rate.count(START + at * 50);
        }
        assert_eq!(rate.last_minute(START + 35_000), 700);
        assert_eq!(rate.last_minute(START + 60_000), 695);
        assert_eq!(rate.last_minute(START + 95_000), 0);
        assert_eq!(rate.count(START + 200_000), 1);
    }

    #[test]
    fn a_request_that_was_not_sent_is_not_counted() {
        let rate = Rate::default();
        for _ in 0..3 {
            rate.count(START);
        }
        rate.uncount(START);
        assert_eq!(rate.last_minute(START), 2);
        assert_eq!(rate.last_minute(START + 30_000), 2);
        rate.uncount(START - 60_000);
        assert_eq!(rate.last_minute(START), 2, "that minute is over");
        for _ in 0..5 {
            rate.uncount(START);
        }
        assert_eq!(rate.last_minute(START), 0);
    }

    #[test]
    fn the_longest_wait_that_was_asked_for_counts() {
        let rate = Rate::default();
        assert_eq!(rate.wait(START), None);
        rate.limit_until(START + 3000);
        rate.limit_until(START + 1000);
        assert_eq!(rate.wait(START + 1000), Some(Duration::from_secs(2)));
        assert_eq!(rate.wait(START + 3000), None);
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_the_last_minute_to_a_slot(gaps in proptest::collection::vec(0_u64..3000, 1..300)) {
            let rate = Rate::default();
            let mut at = START;
            let mut sent = Vec::new();
            for gap in gaps {
                at += gap;
                sent.push(at);
                let counted = rate.count(at);
                let within = |span: u64| sent.iter().filter(|sent| **sent + span > at).count() as u32;
                prop_assert!(within(60_000 - SLOT) <= counted && counted <= within(60_000 + SLOT));
                prop_assert_eq!((rate.last_minute(at), rate.latest()), (counted, counted));
            }
        }
    }
}
