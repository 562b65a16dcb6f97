//! Text as editors save it: with a byte order mark, with CRLF, or in another encoding than UTF-8.

/// Why bytes are not UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotText {
    /// With its byte order mark, or with the zero bytes that it gives to Latin letters.
    #[error("is UTF-16 text, as some Windows programs write it; save it as UTF-8")]
    Utf16,
    /// In another encoding, or not text at all.
    #[error("is not UTF-8 text (byte {0}); save it as UTF-8")]
    NotUtf8(usize),
}

/// The text, without the byte order mark that it may begin with.
///
/// # Errors
/// [`NotText`] continues a sentence that begins with what the bytes are.
pub fn decode(bytes: &[u8]) -> Result<&str, NotText> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(NotText::Utf16);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| NotText::NotUtf8(error.valid_up_to()))?;
    Ok(without_mark(text))
}

/// Text without the byte order mark that it may begin with.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_removed_and_other_encodings_are_named() {
        assert_eq!(decode(b"\xef\xbb\xbfa\r\n"), Ok("a\r\n"));
        assert_eq!(decode("ä".as_bytes()), Ok("ä"));
        assert_eq!(decode(b""), Ok(""));
        assert_eq!(decode(b"ab\xe9"), Err(NotText::NotUtf8(2)));
        for utf_16 in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"a\0b\0", b"\xff\xfe"] {
            assert_eq!(decode(utf_16), Err(NotText::Utf16), "{utf_16:?}");
        }
    }
}
