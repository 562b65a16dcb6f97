//! The text of the file, and the parts of it that an error may show.

use std::ops::Range;
use std::path::PathBuf;

use super::table::{Row, Table};
use crate::diagnostic::Excerpt;

/// The text of the configuration file.
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// The path as errors show it.
    pub(super) shown: String,
    pub(super) text: String,
}

/// Replaces a value that is not shown.
const CUT: &str = " = ...";

impl Source {
    /// Line and column of a byte, both from 1.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let start = self.line_start(offset);
        let before = self.text.as_bytes().get(..start).unwrap_or_default();
        let column = self.text.get(start..offset).map_or(0, |text| text.chars().count());
        (before.iter().filter(|byte| **byte == b'\n').count() + 1, column + 1)
    }

    /// The line of a setting up to the end of its value. `None` if it may hold a secret.
    pub(super) fn setting(
        &self,
        key: &Range<usize>,
        value: &Range<usize>,
        table: &Table,
    ) -> Option<Excerpt> {
        let start = self.line_start(value.start);
        // From the key on, everything belongs to a setting without a secret. Text before it may
        // belong to another one.
        if start <= key.start && !is_key_prefix(self.text.get(start..key.start)?) {
            return None;
        }
        let line = self.text.get(start..value.end.min(self.line_end(value.start)))?;
        (!is_suspicious(line, table)).then(|| excerpt(line.to_owned(), start, value))
    }

    /// The line of a key without its value.
    pub(super) fn key_only(&self, key: &Range<usize>) -> Option<Excerpt> {
        let start = self.line_start(key.start);
        if !is_key_prefix(self.text.get(start..key.start)?) {
            return None;
        }
        let line = self.text.get(start..key.end.min(self.line_end(key.start)))?;
        let is_header = line.trim_start().starts_with('[');
        Some(excerpt(format!("{line}{}", if is_header { "]" } else { CUT }), start, key))
    }

    /// The line of a syntax error: whole only if it starts with a key that holds no secret.
    pub(super) fn broken(&self, span: &Range<usize>, table: &Table) -> Option<Excerpt> {
        // A line of a multi-line string does not show which key it belongs to.
        if self.text.contains(r#"""""#) || self.text.contains("'''") {
            return None;
        }
        let start = self.line_start(span.start);
        let line = self.text.get(start..self.line_end(span.start))?;
        let shown = match line.split_once('=') {
            Some((before, _))
                if is_harmless_key(before.trim(), table) && !is_suspicious(line, table) =>
            {
                line.to_owned()
            }
            Some((before, _)) if is_key_prefix(before) => format!("{}{CUT}", before.trim_end()),
            None if line.trim_start().starts_with('[') && is_key_prefix(line) => line.to_owned(),
            _ => return None,
        };
        Some(excerpt(shown, start, span))
    }

    fn line_start(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self, offset: usize) -> usize {
        let rest = self.text.as_bytes().get(offset..).unwrap_or_default();
        let length =
            rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
        (offset + length).min(self.text.len())
    }
}

fn excerpt(text: String, start: usize, span: &Range<usize>) -> Excerpt {
    let clip = |offset: usize| {
        let mut at = offset.saturating_sub(start).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let span = clip(span.start)..clip(span.end.max(span.start));
    Excerpt { text, span }
}

/// True for names, dots and brackets only, which cannot hold a value.
fn is_key_prefix(text: &str) -> bool {
    text.chars()
        .all(|character| character.is_ascii_alphanumeric() || "_-. \t[]".contains(character))
}

fn is_harmless_key(name: &str, table: &Table) -> bool {
    table.rows().any(|row| !(row.hides)() && (name == row.name || name == row.short()))
}

fn is_suspicious(line: &str, table: &Table) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains('@')
        || line.contains("secret")
        || line.contains("passw")
        || names_hidden_key(&line, table)
}

/// True if a key whose value is never shown is anywhere in the line, as after a lost line break.
fn names_hidden_key(line: &str, table: &Table) -> bool {
    let is_set = |rest: &str| rest.trim_start_matches([' ', '\t', '"', '\'']).starts_with('=');
    let mut hidden = table.rows().filter(|row| (row.hides)()).map(Row::short);
    hidden.any(|name| line.match_indices(name).any(|(at, _)| is_set(&line[at + name.len()..])))
}
