//! What is replaced in a text, collected in any order.

use std::borrow::Cow;
use std::ops::Range;

/// Stands for what was taken out.
pub const MASK: &str = "[redacted]";

/// What takes the place of a part; the stronger one stands last and wins where two overlap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Replacement {
    /// A person's placeholder.
    Placeholder(String),
    /// The mask.
    Mask,
    /// The mask as a JSON string, in place of a whole value.
    QuotedMask,
}

impl Replacement {
    fn push_to(&self, text: &mut String) {
        match self {
            Self::Placeholder(placeholder) => text.push_str(placeholder),
            Self::Mask => text.push_str(MASK),
            Self::QuotedMask => {
                text.push('"');
                text.push_str(MASK);
                text.push('"');
            }
        }
    }
}

/// Parts of one text and what takes their place.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<(Range<usize>, Replacement)>);

impl Edits {
    pub(super) fn replace(&mut self, range: Range<usize>, by: Replacement) {
        if !range.is_empty() {
            self.0.push((range, by));
        }
    }

    pub(super) fn mask(&mut self, range: Range<usize>) {
        self.replace(range, Replacement::Mask);
    }

    /// All parts of both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Sorts the parts and joins those that overlap.
    pub(super) fn joined(mut self) -> Self {
        self.0.sort_by_key(|(range, _)| (range.start, range.end));
        let mut joined: Vec<(Range<usize>, Replacement)> = Vec::with_capacity(self.0.len());
        for (range, by) in self.0 {
            match joined.last_mut() {
                Some((last, with)) if range.start < last.end => {
                    last.end = last.end.max(range.end);
                    *with = by.max(with.clone());
                }
                _ => joined.push((range, by)),
            }
        }
        Self(joined)
    }

    /// Extends parts that begin or end inside one of these ranges, which are sorted.
    pub(super) fn widened(mut self, whole: &[Range<usize>]) -> Self {
        let around = |at: usize| {
            let next = whole.partition_point(|range| range.end <= at);
            whole.get(next).filter(|range| range.start < at)
        };
        for (part, _) in &mut self.0 {
            part.start = around(part.start).map_or(part.start, |range| range.start);
            part.end = around(part.end).map_or(part.end, |range| range.end);
        }
        self
    }

    /// The parts, sorted once they are joined.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Range<usize>> {
        self.0.iter().map(|(range, _)| range)
    }

    /// The text with all parts replaced.
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        let edits = self.joined().0;
        if edits.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut edited = String::with_capacity(text.len());
        let mut kept = 0;
        for (range, by) in edits {
            let start = back_to_character(text, range.start).max(kept);
            edited.push_str(&text[kept..start]);
            by.push_to(&mut edited);
            kept = on_to_character(text, range.end);
        }
        edited.push_str(&text[kept..]);
        Cow::Owned(edited)
    }
}

fn back_to_character(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn on_to_character(text: &str, mut at: usize) -> usize {
    while at < text.len() && !text.is_char_boundary(at) {
        at += 1;
    }
    at.min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_overlap_become_one_and_characters_stay_whole() {
        let mut edits = Edits::default();
        for range in [8..10, 2..5, 4..6, 3..4, 12..13] {
            edits.mask(range);
        }
        edits.replace(5..7, Replacement::Placeholder("[email]".into()));
        assert_eq!(edits.apply("0123456789ab\u{e9}"), "01[redacted]7[redacted]ab[redacted]");
        assert!(matches!(Edits::default().apply("abc"), Cow::Borrowed("abc")));
    }
}
