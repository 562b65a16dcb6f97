//! Secrets that are recognised by their form alone. Every search is linear in the text.

use std::ops::Range;

use memchr::memmem;

/// Shortest run of letters and digits that can be a token of an unknown issuer.
const MIN_OPAQUE: usize = 32;
/// Shortest run of hexadecimal digits that is taken for a secret: trace ids have 32, and commits 40.
const MIN_OPAQUE_HEX: usize = 48;
/// Shortest credential after `Bearer` that consists of lower-case letters; shorter ones are words.
const MIN_WORDLESS: usize = 20;
/// Longest user and password in a URL.
const MAX_USERINFO: usize = 4096;

/// Characters of a token (RFC 6750 section 2.1 without `/`, which separates parts of a path).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~+=".contains(&byte)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn run(text: &[u8], from: usize, of: impl Fn(u8) -> bool) -> usize {
    text[from..].iter().position(|byte| !of(*byte)).map_or(text.len(), |length| from + length)
}

/// Everything that has the form of a secret.
pub(super) fn find(text: &[u8], mut found: impl FnMut(Range<usize>)) {
    webhook_secrets(text, &mut found);
    json_web_tokens(text, &mut found);
    credentials(text, &mut found);
    userinfo(text, &mut found);
}

/// `whsec_` and what follows (Standard Webhooks).
pub(super) fn webhook_secrets(text: &[u8], mut found: impl FnMut(Range<usize>)) {
    let is_part = |byte: u8| is_token(byte) || byte == b'/';
    let mut done = 0;
    for at in memmem::find_iter(text, b"whsec_") {
        if at >= done {
            done = run(text, at, is_part);
            found(at..done);
        }
    }
}

/// `eyJ...`, a JSON object in base64url, and at least one more part (RFC 7519 section 3).
fn json_web_tokens(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let mut done = 0;
    for at in memmem::find_iter(text, b"eyJ") {
        if at < done {
            continue;
        }
        let head = run(text, at, is_base64url);
        done = run(text, at, |byte| is_base64url(byte) || byte == b'.');
        if text.get(head) == Some(&b'.') && done > head + 1 {
            found(at..done);
        }
    }
}

/// What follows `Bearer` and `Basic`.
fn credentials(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    // Without the first letter, which may be of either case.
    for bearer in [b"earer".as_slice(), b"EARER"] {
        after(text, bearer, is_bearer_token, found);
    }
    for basic in [b"asic".as_slice(), b"ASIC"] {
        after(text, basic, is_basic_pair, found);
    }
}

fn after(
    text: &[u8],
    scheme: &[u8],
    is_credential: fn(&[u8]) -> bool,
    found: &mut impl FnMut(Range<usize>),
) {
    let is_part = |byte: u8| is_token(byte) || byte == b'/';
    let mut done = 0;
    for at in memmem::find_iter(text, scheme) {
        let start = run(text, at + scheme.len(), |byte| byte == b' ' || byte == b'\t');
        if at < done || start == at + scheme.len() {
            continue;
        }
        done = run(text, start, is_part);
        if is_credential(&text[start..done]) {
            found(start..done);
        }
    }
}

/// False for a word, as in "Bearer token".
fn is_bearer_token(text: &[u8]) -> bool {
    let text = text.trim_ascii_end().strip_suffix(b".").unwrap_or(text);
    text.len() >= MIN_WORDLESS || text.iter().skip(1).any(|byte| !byte.is_ascii_lowercase())
}

/// True for base64 of `user:password`, and false for a word.
fn is_basic_pair(text: &[u8]) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    let digits = text.split(|byte| *byte == b'=').next().unwrap_or_default();
    let decoded = STANDARD_NO_PAD.decode(digits).or_else(|_| URL_SAFE_NO_PAD.decode(digits));
    let is_pair = |pair: Vec<u8>| pair.contains(&b':') && std::str::from_utf8(&pair).is_ok();
    // Unusual padding bits do not make a secret harmless.
    decoded.map_or(text.len() >= MIN_WORDLESS, is_pair)
}

/// User and password before the `@` of a URL.
fn userinfo(text: &[u8], found: &mut impl FnMut(Range<usize>)) {
    let ends = |byte: u8| byte.is_ascii_whitespace() || b"/?#\"'<>\\`".contains(&byte);
    for at in memmem::find_iter(text, b"://") {
        let start = at + 3;
        let authority = &text[start..text.len().min(start + MAX_USERINFO)];
        let end = authority.iter().position(|byte| ends(*byte)).unwrap_or(authority.len());
        if let Some(at) = memchr::memrchr(b'@', &authority[..end]) {
            found(start..start + at);
        }
    }
}

/// Long runs that look random: tokens of unknown issuers, and known ones that were forgotten.
pub(super) fn opaque(text: &[u8], mut found: impl FnMut(Range<usize>)) {
    let is_part = |byte: u8| is_base64url(byte) || byte == b'+';
    let mut at = 0;
    while at < text.len() {
        if !is_part(text[at]) {
            at += 1;
            continue;
        }
        let end = run(text, at, is_part);
        if is_random(&text[at..end]) {
            found(at..end);
        }
        at = end;
    }
}

/// True if a value looks like a key: no words, no number, no UUID.
pub(super) fn is_opaque(value: &str) -> bool {
    let bytes = value.as_bytes();
    let has = |is: fn(&u8) -> bool| bytes.iter().any(is);
    let is_mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic);
    bytes.len() >= MIN_WORDLESS
        && bytes.iter().all(|byte| is_token(*byte) || *byte == b'/')
        && is_mixed
        && !is_uuid(bytes)
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A random run changes between capitals, small letters and digits all the time; words, names of
/// types and identifiers with hyphens do not.
fn is_random(run: &[u8]) -> bool {
    if run.len() < MIN_OPAQUE {
        return false;
    }
    let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
    if run.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-') {
        let hyphens = run.iter().filter(|byte| **byte == b'-').count();
        return hyphens == 0 && run.len() >= MIN_OPAQUE_HEX && digits < run.len();
    }
    let kind = |byte: &u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        _ => 2,
    };
    // Hyphens between words are no change.
    let run: Vec<u8> = run.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
    let changes = run.windows(2).filter(|pair| kind(&pair[0]) != kind(&pair[1])).count();
    // Random text of 64 characters changes at two of three places, words with capitals at one of
    // three; of random characters one of six is a digit.
    let is_changing = changes * 20 >= run.len() * 8 || digits > 0 && changes * 20 >= run.len() * 7;
    let count = |is: fn(&u8) -> bool| run.iter().filter(|byte| is(byte)).count();
    // Nor has a name as many capitals as small letters.
    let is_balanced =
        count(u8::is_ascii_uppercase).min(count(u8::is_ascii_lowercase)) * 4 >= run.len();
    is_changing || is_balanced
}

/// E-mail addresses.
pub(super) fn emails(text: &[u8], mut found: impl FnMut(Range<usize>)) {
    let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&*+-_~".contains(&byte);
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let mut done = 0;
    for at in memchr::memchr_iter(b'@', text) {
        let local =
            text[done..at].iter().rev().take(64).take_while(|byte| is_local(**byte)).count();
        let end = run(text, at + 1, is_host);
        let host = text[at + 1..end].trim_ascii_end();
        let host = host.strip_suffix(b".").unwrap_or(host);
        if local > 0 && memchr::memchr(b'.', host).is_some() {
            found(at - local..at + 1 + host.len());
            done = at + 1 + host.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let mut ranges = Vec::new();
        find(text.as_bytes(), |range| ranges.push(range));
        opaque(text.as_bytes(), |range| ranges.push(range));
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn secrets_are_recognised_by_their_form() {
        let cases = [
            ("a whsec_MfKQ9r8/GKYqrTwjU+P= b", "whsec_MfKQ9r8/GKYqrTwjU+P="),
            ("x eyJhbGciOi.eyJzdWIi.c2ln y", "eyJhbGciOi.eyJzdWIi.c2ln"),
            ("Authorization: Bearer abc1", "abc1"),
            ("bearer abcdefghijklmnopqrstu", "abcdefghijklmnopqrstu"),
            ("AUTHORIZATION: BEARER abc1", "abc1"),
            ("Basic aWQ6c2VjcmV0", "aWQ6c2VjcmV0"),
            ("see https://ada:pw@host/x", "ada:pw"),
            (
                "t=gX3_bq0Zr4kLw9-Tn2sVd7YhPc1EuMfJ8aQoR5iKxWz,",
                "gX3_bq0Zr4kLw9-Tn2sVd7YhPc1EuMfJ8aQoR5iKxWz",
            ),
            (
                "hash 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
                "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822c",
            ),
        ];
        for (text, secret) in cases {
            assert_eq!(found(text), [secret], "{text}");
        }
    }

    #[test]
    fn ordinary_text_is_not() {
        for text in [
            "Bearer token missing",
            "Basic Fit GmbH",
            "a basic plan",
            "https://host/a@b",
            "6c84fb90-12c4-11e1-840d-7b25c5ee775a",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "AccountingEntriesSearchRequestBodyParameters",
            "v3/export-jobs/{jobId}/accounting-entries",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "eyJpZCI6MX0",
            "1234567890123456789012345678901234567890",
            "this-is-a-long-name-of-a-thing-with-hyphens-2026",
            "2026-11-26T08:53:05.123456789Z",
        ] {
            assert_eq!(found(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn random_secrets_of_256_bits_are_practically_never_missed() {
        let missed =
            (0..5000).filter(|_| !is_random(crate::secret::random().unwrap().as_bytes())).count();
        assert!(missed <= 5, "{missed} of 5000");
    }

    #[test]
    fn emails_are_found_whole() {
        let text = b"Ada <ada.l+x@example.co.uk>, a@b, @x.y, bob@pleo.io.";
        let mut all = Vec::new();
        emails(text, |range| all.push(std::str::from_utf8(&text[range]).unwrap()));
        assert_eq!(all, ["ada.l+x@example.co.uk", "bob@pleo.io"]);
    }
}
