//! Values in JSON that are replaced because of their keys. The text stays as it is otherwise: the
//! order of its members, its numbers, its blanks.

use std::ops::Range;

use super::names::{self, Personal, Place};
use super::shape;

/// What is replaced for its key.
pub(super) enum Found {
    /// A whole value, which holds a secret.
    Secret,
    /// The content of a string that says something about a person.
    Personal(Personal, String),
    /// The content of a string that is not examined for random text: it says where a list goes on.
    Position,
}

/// Walks through one JSON text that is known to be valid.
pub(super) struct Walk<'a, F> {
    text: &'a str,
    at: usize,
    /// The keys of the objects and lists around the place; empty for what has none.
    within: Vec<String>,
    found: F,
    whole: Whole,
}

/// What is replaced as a whole or not at all; in the order of the text.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Values that are not strings.
    pub(super) scalars: Vec<Range<usize>>,
    /// Escapes in strings.
    pub(super) escapes: Vec<Range<usize>>,
}

/// Calls `found` for every value that its key gives away.
pub(super) fn walk(text: &str, found: impl FnMut(Range<usize>, Found)) -> Whole {
    let mut walk = Walk { text, at: 0, within: Vec::new(), found, whole: Whole::default() };
    while walk.at < text.len() {
        walk.value("");
        // What follows a valid text is white space.
        walk.at += 1;
    }
    walk.whole
}

impl<F: FnMut(Range<usize>, Found)> Walk<'_, F> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    /// A value and its key. The depth is bounded: the text has been read by a reader that bounds it.
    fn value(&mut self, key: &str) {
        self.skip_blanks();
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                let content = self.string();
                self.judge_string(key, content);
            }
            Some(b'{') => self.members(key, start),
            Some(b'[') => self.members(key, start),
            Some(_) => {
                let is_end = |byte: u8| byte.is_ascii_whitespace() || b",]}".contains(&byte);
                while self.peek().is_some_and(|byte| !is_end(byte)) {
                    self.at += 1;
                }
                let is_number = self.text.as_bytes()[start] != b'n'
                    && !matches!(&self.text[start..self.at], "true" | "false");
                if is_number && names::is_secret(key, Place::Json) {
                    (self.found)(start..self.at, Found::Secret);
                }
                self.whole.scalars.push(start..self.at);
            }
            None => {}
        }
    }

    /// Members of an object or items of a list. Items have the key of their list.
    fn members(&mut self, key: &str, start: usize) {
        let is_object = self.peek() == Some(b'{');
        self.within.push(key.to_owned());
        self.at += 1;
        let mut is_empty = true;
        loop {
            self.skip_blanks();
            match self.peek() {
                None => break,
                Some(b'}' | b']') => {
                    self.at += 1;
                    break;
                }
                Some(b',' | b':') => self.at += 1,
                Some(b'"') if is_object => {
                    is_empty = false;
                    let name = self.string();
                    let name = decoded(&self.text[name.start - 1..name.end + 1]);
                    self.skip_blanks();
                    // The colon.
                    self.at += 1;
                    self.value(&name);
                }
                Some(_) => {
                    is_empty = false;
                    self.value(key);
                }
            }
        }
        self.within.pop();
        if !is_empty && names::is_secret(key, Place::Json) {
            (self.found)(start..self.at, Found::Secret);
        }
    }

    /// The content of the string that begins here.
    fn string(&mut self) -> Range<usize> {
        let start = self.at + 1;
        self.at = start;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => break,
                b'\\' => {
                    let escape = &self.text.as_bytes()[self.at..];
                    let length = if escape.get(1) == Some(&b'u') { 6 } else { 2 };
                    self.whole.escapes.push(self.at..self.at + length);
                    self.at += length;
                }
                _ => self.at += 1,
            }
        }
        let end = self.at.min(self.text.len());
        self.at = end + 1;
        start..end
    }

    fn judge_string(&mut self, key: &str, content: Range<usize>) {
        if content.is_empty() {
            return;
        }
        let value = decoded(&self.text[content.start - 1..content.end + 1]);
        let is_secret = names::is_secret(key, Place::Json)
            || names::is_secret_if_opaque(key) && shape::is_opaque(&value);
        if is_secret {
            (self.found)(content.start - 1..content.end + 1, Found::Secret);
        } else if let Some(personal) = names::personal(key, &self.within) {
            (self.found)(content, Found::Personal(personal, value));
        } else if names::is_position(key) {
            (self.found)(content, Found::Position);
        }
    }
}

fn decoded(literal: &str) -> String {
    serde_json::from_str(literal).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_keys_at_any_depth() {
        let text = r#" {"a": [1, {"pass\u0077ord": "x", "b": -1.5e3}], "token": 12, "secret": null,
            "customHeaders": {"k": ["v"]}, "code": "1000", "user": {"name": "Ada"}, "next": {"cursor": "c"}} "#;
        let mut found = Vec::new();
        let whole = walk(text, |range, what| {
            let kind = match what {
                Found::Secret => "secret",
                Found::Personal(..) => "personal",
                Found::Position => "position",
            };
            found.push((kind, &text[range]));
        });
        let expected = [
            ("secret", "\"x\""),
            ("secret", "12"),
            ("secret", "{\"k\": [\"v\"]}"),
            ("personal", "Ada"),
            ("position", "c"),
        ];
        assert_eq!(found, expected);
        let bare: Vec<_> = whole.scalars.into_iter().map(|range| &text[range]).collect();
        assert_eq!(bare, ["1", "-1.5e3", "12", "null"]);
    }
}
