//! The copy of a request body that is kept, so that it can be sent once more.

use std::collections::VecDeque;

use bytes::Bytes;

/// Least and most memory for a part of a kept body, unless more comes at once.
const SMALLEST_BLOCK: usize = 512;
const LARGEST_BLOCK: usize = 16 * 1024;

/// The copy of a body, in blocks that grow: what it takes of memory is its bytes, in however small
/// pieces they came.
#[derive(Debug, Default)]
pub(super) struct Kept {
    full: VecDeque<Bytes>,
    /// The block that is being filled.
    last: Vec<u8>,
    pub(super) bytes: usize,
    /// Of all blocks.
    pub(super) memory: usize,
}

impl Kept {
    /// Memory that is needed for so many bytes more, with `left` known to come behind them; none if
    /// that is too much.
    pub(super) fn more(&self, bytes: usize, limit: usize, left: u64) -> Option<usize> {
        let missing = bytes.saturating_sub(self.last.capacity() - self.last.len());
        if missing == 0 {
            return Some(0);
        }
        let room = limit.checked_sub(self.memory).filter(|room| *room >= missing)?;
        // As much again as there is, so that there are few blocks; no more than is known to come.
        let wanted = self.memory.clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
        let known = missing.saturating_add(usize::try_from(left).unwrap_or(usize::MAX));
        Some(wanted.min(known).max(missing).min(room))
    }

    /// Adds bytes; `more` is the memory that [`more`](Self::more) asked for.
    pub(super) fn add(&mut self, data: &[u8], more: usize) {
        let fitting = data.len().min(self.last.capacity() - self.last.len());
        self.last.extend_from_slice(&data[..fitting]);
        if more > 0 {
            let full = std::mem::replace(&mut self.last, Vec::with_capacity(more));
            if !full.is_empty() {
                self.full.push_back(full.into());
            }
            self.last.extend_from_slice(&data[fitting..]);
        }
        self.bytes += data.len();
        self.memory += more;
    }

    /// All of it, to be sent once more.
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

    /// What is kept of pieces, and the memory for it; none once it is too much.
    fn keep(pieces: &[&[u8]], limit: usize, length: Option<u64>) -> Option<Kept> {
        let (mut kept, mut left) = (Kept::default(), length);
        for piece in pieces {
            left = left.map(|left| left - piece.len() as u64);
            let more = kept.more(piece.len(), limit, left.unwrap_or(u64::MAX))?;
            kept.add(piece, more);
        }
        Some(kept)
    }

    #[test]
    fn a_body_in_small_pieces_takes_no_more_than_its_limit() {
        let body = [b'x'; 250 * 1024];
        let pieces: Vec<_> = body.chunks(1).collect();
        let mut kept = keep(&pieces, 256 * 1024, None).unwrap();
        assert!(kept.memory <= 256 * 1024 && kept.bytes == body.len(), "{}", kept.memory);
        assert!(kept.copy().len() < 30, "{} blocks", kept.full.len());
        let pieces: Vec<_> = body.chunks(1000).collect();
        assert_eq!(keep(&pieces, 256 * 1024, Some(body.len() as u64)).unwrap().memory, body.len());
        // What comes at once is one block of its size.
        let mut kept = keep(&[&body], body.len(), None).unwrap();
        assert_eq!((kept.memory, kept.copy().len()), (body.len(), 1));
        assert!(keep(&[&body, b"x"], body.len(), None).is_none());
        assert!(keep(&[b"x"], 0, None).is_none());
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_came(
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
