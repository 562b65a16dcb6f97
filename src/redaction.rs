//! Takes secrets out of everything that leaves as evidence: log, page, HAR, curl line, report.
//!
//! A secret is found in three ways: by its value, in any encoding ([`KnownSecrets`]); by the name
//! beside it; and by its form. The text is searched as it is and as it reads once percent-encoding,
//! JSON escapes, character references, base64 and hexadecimal digits are taken away, three deep.
//! What cannot be read is left out, and its length is given.

mod edits;
mod json;
mod known;
mod names;
mod pairs;
mod pseudonym;
mod shape;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::ops::Range;

use serde::de::IgnoredAny;
use serde_json::Value;

pub use edits::MASK;
use edits::{Edits, Replacement};
use json::Found;
pub use known::{KnownSecrets, MIN_LENGTH};
use names::{Personal, Place};
pub use pseudonym::Pseudonyms;

/// Longest text that is searched, in bytes; a longer one is left out.
const MAX_TEXT: usize = 64 * 1024 * 1024;

/// Takes secrets out of what leaves.
#[derive(Clone, Debug, Default)]
pub struct Redactor {
    known: KnownSecrets,
    pseudonyms: Option<Pseudonyms>,
}

/// What is left of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The body without its secrets.
    Text(String),
    /// Why it is left out, as in "left out: 5120 bytes of application/pdf".
    LeftOut(String),
}

impl Redactor {
    /// Takes out the known secrets, and what name or form give away.
    pub fn new(known: KnownSecrets) -> Self {
        Self { known, pseudonyms: None }
    }

    /// Replaces personal data too, each value by its placeholder.
    pub fn with_pseudonyms(self, pseudonyms: Pseudonyms) -> Self {
        Self { pseudonyms: Some(pseudonyms), ..self }
    }

    /// A text of any kind.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if text.len() > MAX_TEXT {
            return Cow::Owned(format!("[left out: {} bytes]", text.len()));
        }
        self.search(text, false, &[]).apply(text)
    }

    /// The value of a header.
    pub fn header<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str> {
        match value {
            "" => Cow::Borrowed(value),
            _ if names::is_secret(name, Place::Header) => Cow::Borrowed(MASK),
            _ => self.text(value),
        }
    }

    /// A query without its `?`, or a form.
    pub fn query<'a>(&self, query: &'a str) -> Cow<'a, str> {
        if query.len() > MAX_TEXT {
            return Cow::Owned(format!("[left out: {} bytes]", query.len()));
        }
        self.search(query, true, &[]).apply(query)
    }

    /// A value of JSON.
    pub fn json(&self, value: &Value) -> Value {
        let redacted = self.json_text(&value.to_string());
        redacted.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_else(|| MASK.into())
    }

    /// A complete body, by what its `Content-Type` says; without one it is JSON if it reads as
    /// such. What is cut off, compressed or binary is left out.
    pub fn body(&self, content_type: Option<&str>, body: &[u8]) -> Body {
        let kind = media_type(content_type);
        let text = std::str::from_utf8(body).ok().filter(|text| {
            text.len() <= MAX_TEXT && !text.contains(|c: char| c.is_control() && !c.is_whitespace())
        });
        let redacted = text.and_then(|text| match kind.as_str() {
            _ if text.is_empty() => Some(String::new()),
            "application/json" => self.json_text(text),
            kind if kind.ends_with("+json") => self.json_text(text),
            "application/x-www-form-urlencoded" => Some(self.query(text).into_owned()),
            "application/xml" | "application/javascript" => Some(self.text(text).into_owned()),
            kind if kind.ends_with("+xml") || kind.starts_with("text/") => {
                Some(self.text(text).into_owned())
            }
            "" => self.json_text(text).or_else(|| {
                let looks_like_json = text.trim_start().starts_with(['{', '[']);
                (!looks_like_json).then(|| self.query(text).into_owned())
            }),
            _ => None,
        });
        redacted.map_or_else(
            || {
                let shown = content_type.map(|kind| self.text(kind));
                left_out(&media_type(shown.as_deref()), body.len())
            },
            Body::Text,
        )
    }

    /// None for what is no valid JSON.
    fn json_text(&self, text: &str) -> Option<String> {
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let (mut by_key, mut positions) = (Edits::default(), Vec::new());
        let whole = json::walk(text, |range, found| match found {
            Found::Secret => by_key.replace(range, Replacement::QuotedMask),
            Found::Personal(what, value) => {
                if let Some(pseudonyms) = &self.pseudonyms {
                    by_key.replace(range, Replacement::Placeholder(pseudonyms.of(what, &value)));
                }
            }
            Found::Position => positions.push(range),
        });
        let found = self.search(text, false, &positions).widened(&whole.escapes).joined();
        // A known secret may be a number: its whole value is replaced, by a string.
        for number in overlapping(&whole.scalars, found.parts()) {
            by_key.replace(number, Replacement::QuotedMask);
        }
        let redacted = by_key.and(found).apply(text).into_owned();
        serde_json::from_str::<IgnoredAny>(&redacted).is_ok().then_some(redacted)
    }

    /// Everything that is to be replaced. Parts in `positions` are not judged by how random they
    /// look.
    fn search(&self, text: &str, is_query: bool, positions: &[Range<usize>]) -> Edits {
        let mut edits = Edits::default();
        let mut seen = Vec::new();
        view::each(text, |view| {
            self.known.find(&view.bytes, |range| edits.mask(view.source(&range)));
            shape::find(&view.bytes, |range| edits.mask(view.source(&range)));
            shape::webhook_secrets(&view.bytes, |range| {
                if seen.len() < known::MAX_SEEN {
                    seen.push(String::from_utf8_lossy(&view.bytes[range]).into_owned());
                }
            });
            pairs::find(&view.bytes, is_query, |range| edits.mask(view.source(&range)));
            if view.is_noise {
                return;
            }
            shape::opaque(&view.bytes, |range| {
                let source = view.source(&range);
                let next = positions.partition_point(|position| position.end < source.end);
                if positions.get(next).is_none_or(|position| source.start < position.start) {
                    edits.mask(source);
                }
            });
            if let Some(pseudonyms) = &self.pseudonyms {
                shape::emails(&view.bytes, |range| {
                    let email = String::from_utf8_lossy(&view.bytes[range.clone()]);
                    let placeholder = pseudonyms.of(Personal::Email, &email);
                    edits.replace(view.source(&range), Replacement::Placeholder(placeholder));
                });
            }
        });
        for secret in seen {
            self.known.learn_seen(&secret);
        }
        edits
    }
}

/// `text/csv` of `Text/CSV; charset=utf-8`.
fn media_type(content_type: Option<&str>) -> String {
    let kind = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

fn left_out(kind: &str, length: usize) -> Body {
    // The type is a header of somebody else's: only a plain one is repeated.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/+-.".contains(&byte);
    let is_short = !kind.is_empty() && kind.len() <= 64 && kind.bytes().all(is_plain);
    let of = if is_short { format!(" of {kind}") } else { String::new() };
    Body::LeftOut(format!("left out: {length} bytes{of}"))
}

/// The scalars that a part overlaps. Both are sorted.
fn overlapping<'a>(
    scalars: &[Range<usize>],
    parts: impl Iterator<Item = &'a Range<usize>>,
) -> Vec<Range<usize>> {
    let mut overlapping = Vec::new();
    for part in parts {
        let first = scalars.partition_point(|scalar| scalar.end <= part.start);
        let inside = scalars[first..].iter().take_while(|scalar| scalar.start < part.end);
        overlapping.extend(inside.cloned());
    }
    overlapping
}
