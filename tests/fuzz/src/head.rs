//! Message heads as text, so that seeds can be written and findings read by hand: `METHOD TARGET`,
//! then a field a line.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use pleo_proxy::proxy::guard::Fragment;

/// A request as the server hands it over, and its target as it was sent. `None`: no server would.
pub(crate) fn request(text: &[u8]) -> Option<(Parts, Vec<u8>)> {
    let (line, fields) = cut(text, b'\n');
    let mut words = line.trim_ascii_end().splitn(3, |byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    *request.headers_mut() = self::fields(fields);
    if words.next() == Some(b"HTTP/1.0") {
        *request.version_mut() = Version::HTTP_10;
    }
    if target.contains(&b'#') {
        request.extensions_mut().insert(Fragment);
    }
    Some((request.into_parts().0, target.to_vec()))
}

/// The fields of a head; lines that no parser lets through are left out.
pub(crate) fn fields(text: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(90) {
        let (name, value) = cut(line, b':');
        let (name, value) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii()));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

/// What stands before and behind the first `at`.
pub(crate) fn cut(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == at) {
        Some(found) => (&text[..found], &text[found + 1..]),
        None => (text, b""),
    }
}

/// The values of a field.
pub(crate) fn all<'a>(fields: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    fields.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}
