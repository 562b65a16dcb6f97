//! The latest exchanges, bounded by count and by memory.

use std::collections::VecDeque;

use crate::exchange::record::Record;

/// An exchange in the ring.
#[derive(Debug)]
pub(super) struct Ended {
    /// The order in which exchanges ended, from 1.
    pub(super) seq: u64,
    pub(super) record: Box<Record>,
}

/// The latest exchanges.
#[derive(Debug)]
pub(super) struct Ring {
    max_count: usize,
    max_bytes: usize,
    bytes: usize,
    last: u64,
    kept: VecDeque<Ended>,
}

impl Ring {
    /// Keeps at most so many exchanges, and so many bytes.
    pub(super) fn new(max_count: usize, max_bytes: usize) -> Self {
        Self { max_count, max_bytes, bytes: 0, last: 0, kept: VecDeque::new() }
    }

    /// Gives an exchange its number.
    pub(super) fn number(&mut self, record: Box<Record>) -> Ended {
        self.last += 1;
        Ended { seq: self.last, record }
    }

    /// Keeps an exchange; the oldest ones make room.
    pub(super) fn push(&mut self, ended: Ended) {
        self.bytes += ended.record.size();
        self.kept.push_back(ended);
        while self.kept.len() > self.max_count || self.bytes > self.max_bytes {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.record.size();
        }
    }

    /// The number of the newest exchange; 0 = there was none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The number of the oldest one that is kept; the next one's if none is.
    pub(super) fn first(&self) -> u64 {
        self.kept.front().map_or(self.last + 1, |oldest| oldest.seq)
    }

    /// Those after `seq`, oldest first.
    pub(super) fn after(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Ended> {
        let skipped = usize::try_from(seq.saturating_add(1).saturating_sub(self.first()))
            .unwrap_or(usize::MAX);
        self.kept.range(skipped.min(self.kept.len())..)
    }

    /// Those before `seq`, newest first.
    pub(super) fn before(&self, seq: u64) -> impl Iterator<Item = &Ended> {
        let taken = usize::try_from(seq.saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.kept.range(..taken.min(self.kept.len())).rev()
    }

    /// The exchange with this number.
    pub(super) fn at(&self, seq: u64) -> Option<&Ended> {
        self.after(seq.checked_sub(1)?).next().filter(|ended| ended.seq == seq)
    }

    /// The exchange with this number of arrival.
    pub(super) fn find(&self, number: u64) -> Option<&Ended> {
        self.kept.iter().rev().find(|ended| ended.record.arrival.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::record;

    fn add(ring: &mut Ring, record: Record) {
        let ended = ring.number(Box::new(record));
        ring.push(ended);
    }

    fn seqs<'a>(ended: impl Iterator<Item = &'a Ended>) -> Vec<u64> {
        ended.map(|ended| ended.seq).collect()
    }

    #[test]
    fn the_oldest_make_room_by_count() {
        let mut ring = Ring::new(3, usize::MAX);
        assert_eq!((ring.first(), ring.last()), (1, 0));
        for number in 1..=5 {
            add(&mut ring, record(number, "/v1/x"));
        }
        assert_eq!((ring.first(), ring.last()), (3, 5));
        assert_eq!(seqs(ring.after(0)), [3, 4, 5]);
        assert_eq!(seqs(ring.after(4)), [5]);
        assert_eq!(seqs(ring.after(9)), [0_u64; 0]);
        assert_eq!(seqs(ring.before(5)), [4, 3]);
        assert_eq!(seqs(ring.before(u64::MAX)), [5, 4, 3]);
        assert_eq!(seqs(ring.before(1)), [0_u64; 0]);
        assert_eq!(ring.find(4).unwrap().seq, 4);
        assert!(ring.find(1).is_none());
        assert_eq!(ring.at(4).unwrap().seq, 4);
        assert!(ring.at(0).is_none() && ring.at(2).is_none() && ring.at(6).is_none());
    }

    #[test]
    fn the_oldest_make_room_by_memory_and_one_that_is_too_large_is_not_kept() {
        let size = record(1, "/v1/x").size();
        let mut ring = Ring::new(100, 3 * size);
        for number in 1..=5 {
            add(&mut ring, record(number, "/v1/x"));
        }
        assert_eq!(seqs(ring.after(0)), [3, 4, 5]);
        add(&mut ring, record(6, &format!("/v1/{}", "x".repeat(3 * size))));
        assert_eq!((ring.bytes, ring.kept.len(), ring.last()), (0, 0, 6));
        let mut none = Ring::new(0, 1 << 20);
        add(&mut none, record(1, "/v1/x"));
        assert_eq!((none.bytes, none.kept.len(), none.last()), (0, 0, 1));
    }
}
