//! The search for secrets in evidence, whatever they are written in. It shares no code with the
//! redactor: it takes encodings away and looks for every slice of every secret.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::HashMap;

/// So many characters of a secret in a row are a leak.
pub(super) const SLICE: usize = 12;
/// How often escapes are taken away.
const LEVELS: usize = 3;
/// Shortest runs of digits that can hold a slice.
const BASE64_RUN: usize = 16;
const HEX_RUN: usize = 2 * SLICE;

/// Looks for secrets.
pub(super) struct Search {
    slices: HashMap<[u8; SLICE], String>,
    /// The first two bytes of all slices: most places of a text are passed over by them.
    begins: Vec<bool>,
}

impl Search {
    /// For these secrets, each with what it is.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut search = Self { slices: HashMap::new(), begins: vec![false; 1 << 16] };
        for (what, secret) in secrets {
            assert!(secret.len() >= SLICE, "{what} is too short to be looked for: {secret:?}");
            for slice in secret.as_bytes().windows(SLICE) {
                search.begins[begin(slice)] = true;
                search.slices.insert(slice.try_into().unwrap(), what.to_owned());
            }
        }
        search
    }

    /// What is found in a text, in any writing, each with a piece of the text around it.
    pub(super) fn hits(&self, text: &[u8]) -> Vec<String> {
        let mut hits = Vec::new();
        let mut level = text.to_vec();
        for _ in 0..=LEVELS {
            self.look(&level, &mut hits);
            for (digits, bits, alignments, shortest) in
                [(base64_digit as fn(u8) -> _, 6, 4, BASE64_RUN), (hex_digit, 4, 2, HEX_RUN)]
            {
                for run in runs(&level, digits, shortest) {
                    for skip in 0..alignments {
                        let bytes = joined(run.get(skip..).unwrap_or_default(), bits);
                        self.look(&bytes, &mut hits);
                        if bytes.is_ascii() {
                            self.look(&unescaped(&bytes), &mut hits);
                        }
                    }
                }
            }
            let next = unescaped(&level);
            if next == level {
                break;
            }
            level = next;
        }
        hits
    }

    fn look(&self, text: &[u8], hits: &mut Vec<String>) {
        let mut until = 0;
        for (at, slice) in text.windows(SLICE).enumerate() {
            if at < until || !self.begins[begin(slice)] {
                continue;
            }
            if let Some(what) = self.slices.get(slice) {
                until = at + 80;
                let around = &text[at.saturating_sub(90)..(at + 60).min(text.len())];
                hits.push(format!("{what}: ...{}...", String::from_utf8_lossy(around)));
            }
        }
    }
}

fn begin(slice: &[u8]) -> usize {
    usize::from(slice[0]) << 8 | usize::from(slice[1])
}

/// Values of the digits of every long run.
fn runs(text: &[u8], digit: fn(u8) -> Option<u8>, shortest: usize) -> Vec<Vec<u8>> {
    let split = text.split(|byte| digit(*byte).is_none());
    let long = split.filter(|run| run.len() >= shortest);
    long.map(|run| run.iter().filter_map(|byte| digit(*byte)).collect()).collect()
}

/// The bytes that digits of so many bits make.
fn joined(digits: &[u8], bits: usize) -> Vec<u8> {
    let (mut buffer, mut filled, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits {
        buffer = (buffer << bits | u32::from(*digit)) & 0xffff;
        filled += bits;
        if filled >= 8 {
            filled -= 8;
            bytes.push((buffer >> filled & 0xff) as u8);
        }
    }
    bytes
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| digit.try_into().ok())
}

fn base64_digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// The text with one layer of percent-encoding, JSON escapes and character references taken away.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let escape = match rest[0] {
            b'%' => number(rest.get(1..3), 16).map(|code| (code, 3)),
            b'\\' => json_escape(rest),
            b'&' => reference(rest),
            _ => None,
        };
        let (code, length) = escape.unwrap_or((u32::from(rest[0]), 1));
        match (u8::try_from(code), char::from_u32(code)) {
            (Ok(byte), _) => plain.push(byte),
            (_, Some(character)) => plain.extend(character.to_string().bytes()),
            _ => plain.extend(&rest[..length]),
        }
        at += length;
    }
    plain
}

fn number(digits: Option<&[u8]>, radix: u32) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits?).ok()?, radix).ok()
}

fn json_escape(rest: &[u8]) -> Option<(u32, usize)> {
    match rest.get(1)? {
        b'u' => number(rest.get(2..6), 16).map(|code| (code, 6)),
        byte @ (b'"' | b'\\' | b'/' | b'\'') => Some((u32::from(*byte), 2)),
        _ => None,
    }
}

fn reference(rest: &[u8]) -> Option<(u32, usize)> {
    let end = rest.iter().take(10).position(|byte| *byte == b';')?;
    let code = match &rest[1..end] {
        [b'#', b'x' | b'X', digits @ ..] => number(Some(digits), 16)?,
        [b'#', digits @ ..] => number(Some(digits), 10)?,
        b"amp" => 38,
        b"lt" => 60,
        b"gt" => 62,
        b"quot" => 34,
        b"apos" => 39,
        _ => return None,
    };
    Some((code, end + 1))
}
