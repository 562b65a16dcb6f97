//! Names with values beside them in a text of any kind: parameters of URLs and forms, pieces of
//! JSON, lines of headers, settings in a log.

use std::ops::Range;

use super::names::{Place, is_secret};

/// Longest name that is looked at.
const MAX_NAME: usize = 96;
/// Headers that are recognised without quotes before a colon; their values end with the line.
const HEADERS: [&str; 7] = [
    "authorization",
    "cookie",
    "set-cookie",
    "proxy-authorization",
    "x-api-key",
    "pleo-proxy-key",
    "x-amz-security-token",
];

/// Values that their names say are secret. With `is_query` the text is a query or a form.
pub(super) fn find(text: &[u8], is_query: bool, mut found: impl FnMut(Range<usize>)) {
    let mut done = 0;
    for at in memchr::memchr2_iter(b'=', b':', text) {
        if at < done {
            continue;
        }
        let value = match text[at] {
            b'=' => parameter(text, done, at, is_query),
            _ => member(text, done, at).or_else(|| header(text, done, at)),
        };
        if let Some(value) = value {
            done = value.end.max(at + 1);
            found(value);
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.[]".contains(&byte)
}

/// The name that ends at `end`.
fn name_before(text: &[u8], from: usize, end: usize) -> Range<usize> {
    let from = from.max(end.saturating_sub(MAX_NAME));
    let length = text[from..end].iter().rev().take_while(|byte| is_name(**byte)).count();
    end - length..end
}

fn read(text: &[u8], range: &Range<usize>) -> String {
    String::from_utf8_lossy(&text[range.clone()]).into_owned()
}

fn skip_blanks(text: &[u8], at: usize) -> usize {
    let blanks = text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    at + blanks
}

/// The secret of `name=value`.
fn parameter(text: &[u8], done: usize, at: usize, is_query: bool) -> Option<Range<usize>> {
    let name = name_before(text, done, at);
    let before = name.start.checked_sub(1).map(|before| text[before]);
    let is_parameter = match before {
        None => is_query,
        Some(byte) => b"?&#".contains(&byte) || is_query && byte == b';',
    };
    let place = if is_parameter { Place::Parameter } else { Place::Text };
    is_secret(&read(text, &name), place).then(|| {
        let start = at + 1;
        match text.get(start) {
            Some(quote @ (b'"' | b'\'')) if !is_query => quoted(text, start, *quote),
            _ => start..parameter_end(text, start, is_query),
        }
    })
}

fn parameter_end(text: &[u8], start: usize, is_query: bool) -> usize {
    let ends = |byte: &u8| match byte {
        b'&' | b'#' => true,
        b';' => !is_query,
        byte if is_query => *byte == b'\n',
        byte => byte.is_ascii_whitespace() || b"\"'<>\\`".contains(byte),
    };
    text[start..].iter().position(ends).map_or(text.len(), |length| start + length)
}

/// The content of a quoted text, to its end or to the end of all.
fn quoted(text: &[u8], open: usize, quote: u8) -> Range<usize> {
    let start = open + 1;
    let mut at = start;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    start..at.min(text.len())
}

/// The secret of `"name": value`.
fn member(text: &[u8], done: usize, at: usize) -> Option<Range<usize>> {
    let trimmed = text[done..at].trim_ascii_end();
    let (quote, rest) = trimmed.split_last().filter(|(quote, _)| b"\"'".contains(quote))?;
    // Quotes that are escaped once more end with a backslash too.
    let end = done + rest.len() - usize::from(rest.ends_with(b"\\"));
    let name = name_before(text, done, end);
    let opens = name.start.checked_sub(1).map(|before| text[before]) == Some(*quote);
    if !opens || !is_secret(&read(text, &name), Place::Text) {
        return None;
    }
    let start = skip_blanks(text, at + 1);
    match text.get(start)? {
        quote @ (b'"' | b'\'') => Some(quoted(text, start, *quote)),
        b'\\' if text.get(start + 1) == Some(&b'"') => Some(escaped(text, start + 2)),
        b'{' | b'[' => Some(start + 1..closing(text, start)),
        _ => {
            let ends = |byte: &u8| byte.is_ascii_whitespace() || b",}]\\\"".contains(byte);
            let length = text[start..].iter().position(ends).unwrap_or(text.len() - start);
            let word = &text[start..start + length];
            let says_nothing = [b"null".as_slice(), b"true", b"false"].contains(&word);
            (!says_nothing).then_some(start..start + length)
        }
    }
}

/// The content of a text in escaped quotes: `\"...\"`.
fn escaped(text: &[u8], start: usize) -> Range<usize> {
    let end = memchr::memmem::find(&text[start..], b"\\\"");
    start..end.map_or(text.len(), |length| start + length)
}

/// Where the object or list that opens at `open` ends; strings in it may hold brackets.
fn closing(text: &[u8], open: usize) -> usize {
    let (mut at, mut depth) = (open, 0_u32);
    while at < text.len() {
        match text[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 1 => return at,
            b'}' | b']' => depth -= 1,
            b'"' => at = quoted(text, at, b'"').end,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The secret of a line `Name: value`.
fn header(text: &[u8], done: usize, at: usize) -> Option<Range<usize>> {
    let name = name_before(text, done, at);
    let is_listed =
        HEADERS.iter().any(|header| text[name.clone()].eq_ignore_ascii_case(header.as_bytes()));
    if !is_listed {
        return None;
    }
    let start = skip_blanks(text, at + 1);
    let ends = |byte: &u8| b"\r\n\"'".contains(byte);
    let length = text[start..].iter().position(ends).unwrap_or(text.len() - start);
    Some(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str, is_query: bool) -> String {
        let mut masked = text.as_bytes().to_vec();
        find(text.as_bytes(), is_query, |range| masked[range].fill(b'*'));
        String::from_utf8(masked).unwrap()
    }

    #[test]
    fn values_beside_names_of_secrets_are_found_in_text() {
        for (text, expected) in [
            ("GET /x?code=abc&limit=1", "GET /x?code=***&limit=1"),
            (
                "https://s3/x?X-Amz-Signature=12&X-Amz-Date=3#a",
                "https://s3/x?X-Amz-Signature=**&X-Amz-Date=3#a",
            ),
            (
                "state=connected code=misconfigured token=abc ok",
                "state=connected code=misconfigured token=*** ok",
            ),
            (r#"{"password": "a\"b", "n": 1}"#, r#"{"password": "****", "n": 1}"#),
            (r#"{"secret": 123, "token": null}"#, r#"{"secret": ***, "token": null}"#),
            (r#"{"customHeaders":{"a":"}"},"b":1}"#, r#"{"customHeaders":{*******},"b":1}"#),
            (r#"{\"password\":\"abc\",\"n\":1}"#, r#"{\"password\":\"***\",\"n\":1}"#),
            (r#"{"password": "cut o"#, r#"{"password": "*****"#),
            ("curl -H 'Authorization: Basic a' -v", "curl -H 'Authorization: *******' -v"),
            ("Cookie: a=b; c=d\nX: y", "Cookie: ********\nX: y"),
            ("password='a b' x", "password='***' x"),
        ] {
            assert_eq!(masked(text, false), expected);
        }
    }

    #[test]
    fn parameters_of_a_form_are_found_whatever_is_in_them() {
        assert_eq!(masked("code=a b'c\"d&grant_type=x", true), "code=*******&grant_type=x");
        assert_eq!(masked("a=b&client_secret=c=d=e", true), "a=b&client_secret=*****");
        assert_eq!(masked("limit=5&companyId=7", true), "limit=5&companyId=7");
    }
}
