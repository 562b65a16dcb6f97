//! The bounded copy of a request body.

use std::collections::VecDeque;

use bytes::Bytes;

/// Smallest and largest block, unless more arrives at once.
const MIN_BLOCK: usize = 512;
const MAX_BLOCK: usize = 16 * 1024;

/// A copy of a body in blocks that grow: it takes about as much memory as it has bytes, in however
/// small pieces they arrive.
#[derive(Debug, Default)]
pub(super) struct ReplayBuffer {
    full: VecDeque<Bytes>,
    /// The block that is being filled.
    last: Vec<u8>,
    pub(super) bytes: usize,
    /// Memory of all blocks.
    pub(super) memory: usize,
}

impl ReplayBuffer {
    /// Memory to allocate for so many more bytes, if `remaining` are known to follow them; none if
    /// that exceeds `limit`.
    pub(super) fn memory_for(&self, bytes: usize, limit: usize, remaining: u64) -> Option<usize> {
        let missing = bytes.saturating_sub(self.last.capacity() - self.last.len());
        if missing == 0 {
            return Some(0);
        }
        let room = limit.checked_sub(self.memory).filter(|room| *room >= missing)?;
        // Each block doubles the memory, so that there are few; but no more than is known to come.
        let wanted = self.memory.clamp(MIN_BLOCK, MAX_BLOCK);
        let known = missing.saturating_add(usize::try_from(remaining).unwrap_or(usize::MAX));
        Some(wanted.min(known).max(missing).min(room))
    }

    /// Adds bytes; `memory` is what [`memory_for`](Self::memory_for) returned for them.
    pub(super) fn add(&mut self, data: &[u8], memory: usize) {
        let fitting = data.len().min(self.last.capacity() - self.last.len());
        self.last.extend_from_slice(&data[..fitting]);
        if memory > 0 {
            let full = std::mem::replace(&mut self.last, Vec::with_capacity(memory));
            if !full.is_empty() {
                self.full.push_back(full.into());
            }
            self.last.extend_from_slice(&data[fitting..]);
        }
        self.bytes += data.len();
        self.memory += memory;
    }

    /// The whole copy, to be sent again.
    pub(super) fn copy(&mut self) -> VecDeque<Bytes> {
        if !self.last.is_empty() {
            self.full.push_back(std::mem::take(&mut self.last).into());
        }
        self.full.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The copy of a body that arrives in pieces; none once it is too long.
    fn keep(pieces: &[&[u8]], limit: usize, length: Option<u64>) -> Option<ReplayBuffer> {
        let (mut kept, mut remaining) = (ReplayBuffer::default(), length);
        for piece in pieces {
            remaining = remaining.map(|remaining| remaining - piece.len() as u64);
            let memory = kept.memory_for(piece.len(), limit, remaining.unwrap_or(u64::MAX))?;
            kept.add(piece, memory);
        }
        Some(kept)
    }

    #[test]
    fn a_body_in_small_pieces_takes_no_more_memory_than_its_limit() {
        let body = [b'x'; 250 * 1024];
        let pieces: Vec<_> = body.chunks(1).collect();
        let mut kept = keep(&pieces, 256 * 1024, None).unwrap();
        assert!(kept.memory <= 256 * 1024 && kept.bytes == body.len(), "{}", kept.memory);
        assert!(kept.copy().len() < 30, "{} blocks", kept.full.len());
        let pieces: Vec<_> = body.chunks(1000).collect();
        assert_eq!(keep(&pieces, 256 * 1024, Some(body.len() as u64)).unwrap().memory, body.len());
        // A body that arrives at once is one block of its size.
        let mut kept = keep(&[&body], body.len(), None).unwrap();
        assert_eq!((kept.memory, kept.copy().len()), (body.len(), 1));
        assert!(keep(&[&body, b"x"], body.len(), None).is_none());
        assert!(keep(&[b"x"], 0, None).is_none());
    }

    proptest! {
        #[test]
        fn the_copy_equals_the_body(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..700), 0..60),
            limit in 0_usize..40_000,
            is_known: bool,
        ) {
            let whole = pieces.concat();
            let parts: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
            let kept = keep(&parts, limit, is_known.then_some(whole.len() as u64));
            prop_assert_eq!(kept.is_some(), whole.len() <= limit);
            if let Some(mut kept) = kept {
                prop_assert!(kept.memory <= limit && kept.bytes == whole.len());
                let memory: usize = kept.full.iter().map(Bytes::len).sum::<usize>() + kept.last.capacity();
                prop_assert!(memory <= kept.memory);
                prop_assert_eq!(kept.copy().iter().flatten().copied().collect::<Vec<_>>(), whole);
            }
        }
    }
}
