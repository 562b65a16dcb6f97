//! What the checks of the guard share when they refuse.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::problem::{Code, Problem};

/// The value of a header that may be sent only once.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        Some(_) => Err(bad(format!("the header {name} came more than once"))),
        None => Ok(value),
    }
}

pub(super) fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, detail, "Correct the request.")
}

/// A list with one more entry, as it is written in the configuration.
pub(super) fn list(known: &[String], more: &str) -> String {
    let all: Vec<_> = known
        .iter()
        .map(String::as_str)
        .chain([more])
        .map(|entry| format!("\"{entry}\""))
        .collect();
    format!("[{}]", all.join(", "))
}
