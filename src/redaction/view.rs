//! A text as it reads once its encodings are taken away. Searching these views finds a secret in
//! any encoding, also in an encoding of an encoding, without a list of all of them.

use std::ops::Range;

use super::known::MIN_LENGTH;

/// Encodings inside each other that are taken away.
const MAX_DEPTH: u32 = 3;
/// Digits of base64 that hold the shortest secret, at the worst alignment.
const MIN_BASE64: usize = MIN_LENGTH * 4 / 3;
/// The same for hexadecimal digits.
const MIN_HEX: usize = MIN_LENGTH * 2;
/// Longest character reference, such as `&#x0000002F;`.
const MAX_REFERENCE: usize = 16;
/// Stands between runs that were decoded one by one; no secret contains it.
const SEPARATOR: u8 = b'\n';

/// A text or what a part of it decodes to. Each byte knows the bytes of the text it came from.
#[derive(Default)]
pub(super) struct View {
    pub(super) bytes: Vec<u8>,
    from: Vec<u32>,
    to: Vec<u32>,
    /// True for what binary encodings decode to, which is mostly noise.
    pub(super) is_noise: bool,
}

impl View {
    /// The text itself, of less than 4 GiB.
    fn of(text: &str) -> Self {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let bytes = text.as_bytes()[..length as usize].to_vec();
        Self { bytes, from: (0..length).collect(), to: (1..=length).collect(), is_noise: false }
    }

    /// The part of the original text that a range of this view came from.
    pub(super) fn source(&self, range: &Range<usize>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        self.from[range.start] as usize..self.to[range.end - 1] as usize
    }

    /// Adds a byte that `range` of `parent` stands for.
    fn push(&mut self, byte: u8, parent: &Self, range: Range<usize>) {
        self.bytes.push(byte);
        self.from.push(parent.from[range.start]);
        self.to.push(parent.to[range.end - 1]);
    }

    /// This view with one kind of escape taken away; none if it contains none. `unescape` reads
    /// the escape that a text begins with: what it stands for and its length.
    fn without(&self, begins: u8, unescape: fn(&[u8]) -> Option<(char, usize)>) -> Option<Self> {
        memchr::memchr(begins, &self.bytes)?;
        let mut view = Self { is_noise: self.is_noise, ..Self::default() };
        let (mut at, mut any) = (0, false);
        while at < self.bytes.len() {
            let rest = &self.bytes[at..];
            match (rest[0] == begins).then(|| unescape(rest)).flatten() {
                Some((character, length)) => {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        view.push(byte, self, at..at + length);
                    }
                    (at, any) = (at + length, true);
                }
                None => {
                    view.push(rest[0], self, at..at + 1);
                    at += 1;
                }
            }
        }
        any.then_some(view)
    }

    /// The same for percent-encoding, whose escapes are bytes.
    fn without_percent(&self) -> Option<Self> {
        memchr::memchr(b'%', &self.bytes)?;
        let mut view = Self { is_noise: self.is_noise, ..Self::default() };
        let (mut at, mut any) = (0, false);
        while at < self.bytes.len() {
            let digit = |offset: usize| self.bytes.get(at + offset).copied().and_then(hex_digit);
            match (self.bytes[at], digit(1), digit(2)) {
                (b'%', Some(high), Some(low)) => {
                    view.push(high << 4 | low, self, at..at + 3);
                    (at, any) = (at + 3, true);
                }
                (byte, ..) => {
                    view.push(byte, self, at..at + 1);
                    at += 1;
                }
            }
        }
        any.then_some(view)
    }

    /// What runs of digits decode to, `bits` each, if the first byte begins at the `skip`th digit
    /// of its run. Line breaks inside a run are skipped.
    fn decoded(&self, digits: &Digits, skip: usize) -> Option<Self> {
        let mut view = Self { is_noise: true, ..Self::default() };
        let mut run: Vec<(usize, u8)> = Vec::new();
        for at in 0..=self.bytes.len() {
            match self.bytes.get(at) {
                Some(b'\r' | b'\n') if digits.breaks && !run.is_empty() => continue,
                Some(byte) => {
                    if let Some(value) = (digits.value)(*byte) {
                        run.push((at, value));
                        continue;
                    }
                }
                None => {}
            }
            if run.len() >= digits.shortest {
                self.decode_run(&run[skip..], digits.bits, &mut view);
            }
            run.clear();
        }
        (!view.bytes.is_empty()).then_some(view)
    }

    fn decode_run(&self, run: &[(usize, u8)], bits: u32, view: &mut Self) {
        let (mut buffer, mut filled) = (0_u32, 0);
        // The digit that the first bit in the buffer came from.
        let mut first = 0;
        for (number, (at, value)) in run.iter().enumerate() {
            if filled == 0 {
                first = number;
            }
            buffer = buffer << bits | u32::from(*value);
            filled += bits;
            if filled >= 8 {
                filled -= 8;
                let byte = (buffer >> filled & 0xff) as u8;
                view.push(byte, self, run[first].0..at + 1);
                first = number;
            }
        }
        if let Some((at, _)) = run.last() {
            view.push(SEPARATOR, self, *at..at + 1);
        }
    }

    fn descend(&self, depth: u32, see: &mut impl FnMut(&Self)) {
        see(self);
        if depth == 0 {
            return;
        }
        let escapes = [
            self.without_percent(),
            self.without(b'\\', json_escape),
            self.without(b'&', character_reference),
        ];
        for view in escapes.into_iter().flatten() {
            view.descend(depth - 1, see);
        }
        for digits in [&BASE64, &HEX] {
            for skip in 0..digits.alignments {
                if let Some(view) = self.decoded(digits, skip) {
                    view.descend(depth - 1, see);
                }
            }
        }
    }
}

/// Shows the text and all its views, one after the other.
pub(super) fn each(text: &str, mut see: impl FnMut(&View)) {
    View::of(text).descend(MAX_DEPTH, &mut see);
}

/// An encoding of bytes by digits.
struct Digits {
    bits: u32,
    /// Ways in which bytes and digits can begin together.
    alignments: usize,
    /// Digits that are worth decoding.
    shortest: usize,
    /// True if lines may be broken inside a run.
    breaks: bool,
    value: fn(u8) -> Option<u8>,
}

/// Both alphabets of base64.
const BASE64: Digits =
    Digits { bits: 6, alignments: 4, shortest: MIN_BASE64, breaks: true, value: base64_digit };
const HEX: Digits =
    Digits { bits: 4, alignments: 2, shortest: MIN_HEX, breaks: false, value: hex_digit };

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn base64_digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// An escape in a JSON string (RFC 8259 section 7).
fn json_escape(text: &[u8]) -> Option<(char, usize)> {
    let simple = |character| Some((character, 2));
    match *text.get(1)? {
        character @ (b'"' | b'\\' | b'/') => simple(char::from(character)),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'n' => simple('\n'),
        b'r' => simple('\r'),
        b't' => simple('\t'),
        b'u' => {
            let high = code_unit(text)?;
            if let Some(character) = char::from_u32(high) {
                return Some((character, 6));
            }
            let low = code_unit(text.get(6..)?)?;
            let pair = [u16::try_from(high).ok()?, u16::try_from(low).ok()?];
            Some((char::decode_utf16(pair).next()?.ok()?, 12))
        }
        _ => None,
    }
}

/// The number in `\u002f`.
fn code_unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | u32::from(hex_digit(*digit)?)))
}

/// A character reference of HTML: all numbers, and the names of characters that are escaped.
fn character_reference(text: &[u8]) -> Option<(char, usize)> {
    let end = text.iter().take(MAX_REFERENCE).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(&text[1..end]).ok()?;
    let character = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
        None => match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => ' ',
            "plus" => '+',
            "sol" => '/',
            "equals" => '=',
            "colon" => ':',
            "percnt" => '%',
            _ => return None,
        },
    };
    Some((character, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of the text the first view with this word came from.
    fn source(text: &str, word: &str) -> Option<String> {
        let mut found = None;
        each(text, |view| {
            let at = view.bytes.windows(word.len()).position(|part| part == word.as_bytes());
            if let (None, Some(at)) = (&found, at) {
                found = Some(text[view.source(&(at..at + word.len()))].to_owned());
            }
        });
        found
    }

    #[test]
    fn every_encoding_is_taken_away_and_leads_back_to_its_place() {
        let cases = [
            ("a secret! b", "secret!"),
            ("a %73ecret%21 b", "%73ecret%21"),
            ("a %2573ecret! b", "%2573ecret!"),
            (r"a s\u0065cret\u0021 b", r"s\u0065cret\u0021"),
            ("a secre&#116;&#x21; b", "secre&#116;&#x21;"),
            ("a 73656372657421 hex:7365637265742100 b", "73656372657421"),
        ];
        for (text, expected) in cases {
            assert_eq!(source(text, "secret!").as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn base64_is_read_at_any_alignment_and_over_line_breaks() {
        for (text, expected) in [
            // "a:secret!!b", "ab:secret!!b", "abc:secret!!b"
            ("YTpzZWNyZXQhIWI=", "pzZWNyZXQhIW"),
            ("YWI6c2VjcmV0ISFi", "c2VjcmV0ISF"),
            ("YWJjOnNlY3JldCEhYg==", "nNlY3JldCEh"),
            ("xYWI6c2VjcmV0ISFi", "c2VjcmV0ISF"),
            ("YWI6c2Vj\r\ncmV0ISFi", "c2Vj\r\ncmV0ISF"),
        ] {
            assert_eq!(source(text, "secret!!").as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_an_escape_stays() {
        for text in
            ["100% of", "%4", "%zz", r"\x", r"\u12", r"\ud800-", "&;", "&nope;", "&#x110000;"]
        {
            let mut views = 0;
            each(text, |view| views += usize::from(!view.is_noise));
            assert_eq!(views, 1, "{text}");
        }
    }
}
