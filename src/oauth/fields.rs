//! The members of a response's JSON object, as far as they can be read: new tokens are read
//! whatever is wrong with the other parts of the response.
//!
//! Strict JSON is tried first. Where that fails, a scan in linear time and constant depth takes the
//! members of the first object that has one of the wanted names, and only complete values: a string
//! with its closing quote, a number with the character after it. Form encoding is tried last;
//! servers older than RFC 6749 use it.

use serde_json::{Map, Value};
use url::form_urlencoded;
use zeroize::Zeroizing;

/// Members of an object, and whether these are all of them.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: Map<String, Value>,
    /// The end of the object was seen and nothing in it was skipped: a member that is missing here
    /// was not sent.
    pub(super) whole: bool,
}

impl Fields {
    /// Reads a body that holds an object with one of the `wanted` names; `ended` if the body is
    /// complete.
    pub(super) fn read(body: &[u8], ended: bool, wanted: &[&str]) -> Option<Self> {
        // What looks like UTF-16 may be junk in front of an object.
        let decoded = from_utf16(body);
        let from_decoded = decoded.and_then(|decoded| Self::read_text(&decoded, ended, wanted));
        match from_decoded {
            Some(fields) if fields.has_any(wanted) => Some(fields),
            other => Self::read_text(body, ended, wanted).or(other),
        }
    }

    fn read_text(body: &[u8], ended: bool, wanted: &[&str]) -> Option<Self> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(values)) => return Some(Self { values, whole: true }),
            // JSON within a JSON string.
            Ok(Value::String(inner)) => return scan(inner.as_bytes(), wanted),
            _ => {}
        }
        scan(body, wanted).or_else(|| form(body, ended, wanted))
    }

    /// A member's value; of two with the same name, the last one.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.values.contains_key(*name))
    }
}

/// Stands for a value that cannot be read: not a string, not a number, neither true nor false.
fn unreadable() -> Value {
    Value::Object(Map::new())
}

/// UTF-16 with a byte order mark, or that begins with a brace, as UTF-8.
fn from_utf16(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let pair: fn([u8; 2]) -> u16 = match body {
        [0xff, 0xfe, ..] | [b'{', 0, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] | [0, b'{', ..] => u16::from_be_bytes,
        _ => return None,
    };
    let units = body.chunks_exact(2).map(|bytes| pair([bytes[0], bytes[1]]));
    let text = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
    let text: Zeroizing<String> = Zeroizing::new(text.filter(|unit| *unit != '\u{feff}').collect());
    Some(Zeroizing::new(text.as_bytes().to_vec()))
}

/// The first object that has one of the wanted members, whatever is around it.
fn scan(body: &[u8], wanted: &[&str]) -> Option<Fields> {
    let mut scanner = Scanner { bytes: body, at: 0 };
    while let Some(brace) = scanner.rest().iter().position(|byte| *byte == b'{') {
        scanner.at += brace;
        if !scanner.begins_object() {
            scanner.at += 1;
            continue;
        }
        let fields = scanner.object(true);
        if fields.has_any(wanted) {
            return Some(fields);
        }
    }
    None
}

/// `name=value&name=value`. In an incomplete body the last value may be cut short, so it does not
/// count.
fn form(body: &[u8], ended: bool, wanted: &[&str]) -> Option<Fields> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let start = body.iter().position(|byte| !is_blank(byte))?;
    let end = body.iter().rposition(|byte| !is_blank(byte))? + 1;
    let last_separator = || body.iter().rposition(|byte| *byte == b'&').filter(|it| *it >= start);
    let body = if ended { &body[start..end] } else { &body[start..last_separator()?] };
    if body.iter().any(|byte| byte.is_ascii_control() || b"<>{}\"".contains(byte)) {
        return None;
    }
    let values = form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::String(value.into())));
    let fields = Fields { values: values.collect(), whole: ended };
    fields.has_any(wanted).then_some(fields)
}

/// A position in a text that looks like JSON. It only moves forward, so the scan takes linear time.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a [u8] {
        // After an escape at the very end the position is one past the end.
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace() || byte == 0) {
            self.at += 1;
        }
    }

    /// True if a name and a colon follow the brace at this position.
    fn begins_object(&self) -> bool {
        let mut ahead = Scanner { bytes: self.bytes, at: self.at + 1 };
        ahead.skip_blanks();
        ahead.name().is_some()
    }

    /// The object that begins here, to its end or to the end of the text. With `within`, objects in
    /// it are read too, but not the objects in those.
    fn object(&mut self, within: bool) -> Fields {
        let mut fields = Fields::default();
        let mut sound = true;
        self.at += 1;
        loop {
            self.skip_blanks();
            match self.peek() {
                None => return fields,
                Some(b'}') => {
                    self.at += 1;
                    fields.whole = sound;
                    return fields;
                }
                Some(b',') => self.at += 1,
                Some(_) => match self.name() {
                    Some(name) => match self.value(within) {
                        Some(value) => drop(fields.values.insert(name, value)),
                        None => return fields,
                    },
                    None => {
                        sound = false;
                        self.skip_junk();
                    }
                },
            }
        }
    }

    /// A name and its colon, if they are next; otherwise the position does not change.
    fn name(&mut self) -> Option<String> {
        let start = self.at;
        let name = self.text();
        self.skip_blanks();
        if name.is_some() && self.peek() == Some(b':') {
            self.at += 1;
            self.skip_blanks();
            return name;
        }
        self.at = start;
        None
    }

    /// A value; none if it is incomplete.
    fn value(&mut self, within: bool) -> Option<Value> {
        let start = self.at;
        match self.peek()? {
            b'"' => self.text().map(Value::String),
            b'{' if within && self.begins_object() => {
                let inner = self.object(false);
                Some(Value::Object(inner.values))
            }
            b'{' | b'[' => {
                let closed = self.skip_nested();
                closed.then(|| {
                    serde_json::from_slice(&self.bytes[start..self.at])
                        .unwrap_or_else(|_| unreadable())
                })
            }
            _ => {
                let ends = |byte: &u8| b",}] \t\r\n\0".contains(byte);
                self.at += self.rest().iter().position(ends)?;
                Some(
                    serde_json::from_slice(&self.bytes[start..self.at])
                        .unwrap_or_else(|_| unreadable()),
                )
            }
        }
    }

    /// A string; none without its closing quote. Invalid UTF-8 and invalid escapes become U+FFFD,
    /// which is in no token.
    fn text(&mut self) -> Option<String> {
        if self.peek() != Some(b'"') {
            return None;
        }
        let start = self.at;
        self.at += 1;
        while self.peek()? != b'"' {
            self.at += if self.peek() == Some(b'\\') { 2 } else { 1 };
        }
        self.at += 1;
        let quoted = String::from_utf8_lossy(&self.bytes[start..self.at]);
        let readable = serde_json::from_str(&quoted);
        Some(readable.unwrap_or_else(|_| {
            format!("{}{}", quoted.trim_matches('"'), char::REPLACEMENT_CHARACTER)
        }))
    }

    /// Skips an array or object of any depth; false if it is incomplete.
    fn skip_nested(&mut self) -> bool {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    if self.text().is_none() {
                        self.at = self.bytes.len();
                        return false;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return true;
            }
        }
        false
    }

    /// Skips what is not a member, to the comma or brace that ends it, nested parts included.
    fn skip_junk(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b'}' if depth == 0 => return,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: [&str; 2] = ["access_token", "refresh_token"];
    const PAIR: &str = r#""access_token":"new-access","refresh_token":"new-refresh""#;

    fn pair(body: &[u8], ended: bool) -> Option<(Option<String>, Option<String>)> {
        let fields = Fields::read(body, ended, &WANTED)?;
        let text = |name| fields.text(name).map(ToOwned::to_owned);
        Some((text("access_token"), text("refresh_token")))
    }

    fn is_read(body: impl AsRef<[u8]>) {
        let whole = Some((Some("new-access".to_owned()), Some("new-refresh".to_owned())));
        assert_eq!(pair(body.as_ref(), true), whole, "{}", String::from_utf8_lossy(body.as_ref()));
        assert_eq!(
            pair(body.as_ref(), false),
            whole,
            "broken off: {}",
            String::from_utf8_lossy(body.as_ref())
        );
    }

    #[test]
    fn a_pair_is_read_whatever_is_wrong_around_it() {
        let deep = "[".repeat(5_000) + &"]".repeat(5_000);
        for other in [
            r#""scope":"\ud800""#,
            "\"scope\":\"a\u{1}b\"",
            r#""scope":"\x""#,
            r#""expires_in":1e999"#,
            r#""expires_in":NaN"#,
            r#""expires_in":06e"#,
            r#""expires_in":"#,
            r#""x":{"y":[{"refresh_token":"old"}],"refresh_token":"older"}"#,
            r#""x":[{"refresh_token":"old"}]"#,
            r#""x":"\"refresh_token\":\"old\"""#,
            &format!(r#""x":{deep}"#),
            &format!(r#""x":{}"#, deep.replace('[', r#"{"y":"#).replace(']', "}")),
        ] {
            is_read(format!("{{{other},{PAIR}}}"));
            is_read(format!("{{{PAIR},{other}}}"));
            is_read(format!("{{{PAIR},{other}"));
        }
        for junk in [r#""x" "y""#, "junk", "", r#""x""#, "}}", "]"] {
            is_read(format!("{{{PAIR},{junk}}}"));
            if junk != "}}" {
                is_read(format!(r#"{{"x":1,{junk},{PAIR}}}"#));
            }
        }
        let bytes = |before: &[u8], after: &[u8]| [before, b"{", PAIR.as_bytes(), after].concat();
        is_read(bytes(b"\xef\xbb\xbf", b"}"));
        is_read(bytes(b"\0\0\n", b"}\0\0"));
        for looks_like_utf16 in [&b"\0"[..], b"\xff\xfe", b"\xfe\xff\0"] {
            is_read(bytes(looks_like_utf16, b"}"));
        }
        is_read(bytes(b")]}',\n", b"}"));
        is_read(bytes(b"Notice: {x} {\"y\":{}}\n", b"}"));
        is_read(bytes(b"", b"}{\"refresh_token\":\"old\"}"));
        is_read(bytes(b"", b",\"scope\":\"\xff\xfe\"}"));
        is_read(bytes(b"[", b"}]"));
        is_read(bytes(b"", b" "));
        is_read(serde_json::to_vec(&format!("{{{PAIR}}}")).unwrap());
        is_read(PAIR.replacen('"', "{\"", 1).replace(r#"","#, "\" ") + "}");
        for (mark, bytes) in
            [("\u{feff}", u16::to_le_bytes as fn(u16) -> [u8; 2]), ("", u16::to_be_bytes)]
        {
            let text = format!("{mark}{{{PAIR}}}");
            is_read(text.encode_utf16().flat_map(bytes).collect::<Vec<_>>());
        }
        is_read("access_token=new-access&refresh_token=new%2Drefresh&expires_in=600\r\n");
    }

    #[test]
    fn what_was_cut_short_is_not_there_and_the_rest_is_not_called_whole() {
        for (body, expected) in [
            (
                r#"{"access_token":"new-access","refresh_token":"new-ref"#,
                Some((true, false, false)),
            ),
            (
                r#"{"access_token":"new-access","refresh_token":"new-refresh\"#,
                Some((true, false, false)),
            ),
            (r#"{"access_token":"new-access","refresh_token""#, Some((true, false, false))),
            (r#"{"access_token":"new-access""#, Some((true, false, false))),
            (r#"{"access_token":"new-access"}"#, Some((true, false, true))),
            (r#"{"access_token":"new-access"}junk"#, Some((true, false, true))),
            (r#"{"access_token":"new-access",junk}"#, Some((true, false, false))),
            (r#"{"access_token":"new-acc"#, None),
            ("access_token=new-access&refresh_token=new-ref", Some((true, false, false))),
            ("access_token=new-acc", None),
            ("<p>access_token=new-access&refresh_token=new-refresh</p>", None),
            ("{", None),
            ("{\"\\", None),
            ("", None),
        ] {
            let seen = Fields::read(body.as_bytes(), false, &WANTED).map(|fields| {
                (fields.get(WANTED[0]).is_some(), fields.get(WANTED[1]).is_some(), fields.whole)
            });
            assert_eq!(seen, expected, "{body}");
        }
        let number =
            Fields::read(r#"{"access_token":"a","expires_in":60"#.as_bytes(), false, &WANTED)
                .unwrap();
        assert_eq!(number.get("expires_in"), None, "it may have been 600");
    }

    proptest! {
        /// Whatever bytes stand in the texts around a pair, and wherever it breaks off: the pair, a
        /// part of it that is known to be a part, or nothing.
        #[test]
        fn cutting_never_makes_another_token(
            before in prop::collection::vec(any::<u8>(), 0..40),
            junk in "[^\"{}\\\\]{0,40}",
            nested in "[\\[\\]{}]{0,20}",
            cut in any::<prop::sample::Index>(),
        ) {
            let start = before.iter().filter(|byte| **byte != b'{');
            let mut body: Vec<u8> = start.copied().collect();
            body.extend(format!(r#"{{"x":"{junk}","y":"{nested}",{PAIR},"z":"{junk}"}}{junk}"#).as_bytes());
            prop_assert_eq!(pair(&body, true), Some((Some("new-access".into()), Some("new-refresh".into()))));
            let body = &body[..cut.index(body.len())];
            if let Some(fields) = Fields::read(body, false, &WANTED) {
                prop_assert!(fields.text("access_token").is_none_or(|token| token == "new-access"));
                prop_assert!(fields.text("refresh_token").is_none_or(|token| token == "new-refresh"));
                prop_assert!(!fields.whole || fields.text("refresh_token").is_some());
            }
        }

        #[test]
        fn no_bytes_panic(body in "[{}\\[\\]\",:\\\\a\u{0} ]{0,200}", ended in any::<bool>()) {
            let _ = Fields::read(body.as_bytes(), ended, &["a"]);
        }
    }
}
