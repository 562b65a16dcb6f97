//! Pleo's operations: which request reads and which writes, by method and path template.
//!
//! The table is `operations.tsv`; its first line names its source. It is read when the program is
//! compiled, so an invalid line does not compile. A look-up allocates nothing.

use http::Method;

/// A comment, a line of column names, then one operation per line, its columns separated by tabs.
const TABLE: &str = include_str!("operations.tsv");
const LINES_BEFORE: usize = 2;
static OPERATIONS: [Operation; count(TABLE)] = read(TABLE);

/// What an operation does to the data at Pleo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing. Searches and calculations that are sent by POST are reads too.
    Read,
    /// It may change something, as everything that is not known to be a read.
    Write,
}

/// One operation of Pleo's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// HTTP method in upper case.
    pub method: &'static str,
    /// Path template, such as `/v1/vendors/{id}:archive`.
    pub path: &'static str,
    /// Whether it reads or writes.
    pub kind: Kind,
}

/// The operation of a request; none if it is not in the table. The path is compared literally: no
/// escape is decoded, no empty segment dropped. HEAD counts as GET (RFC 9110 section 9.3.2).
pub fn find(method: &Method, path: &str) -> Option<&'static Operation> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    OPERATIONS.iter().find(|operation| operation.method == method && fits(operation.path, path))
}

fn fits(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let is_alike = |part| segments.next().is_some_and(|segment| segment_fits(part, segment));
    template.split('/').all(is_alike) && segments.next().is_none()
}

/// `{id}` stands for one or more characters. A colon begins a custom verb (`{id}:archive`), so it
/// is not part of an id.
fn segment_fits(template: &str, segment: &str) -> bool {
    let Some((_, verb)) = template.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return template == segment;
    };
    segment.strip_suffix(verb).is_some_and(|id| !id.is_empty() && !id.contains(':'))
}

const fn count(table: &str) -> usize {
    let (bytes, mut at, mut lines) = (table.as_bytes(), 0, 0);
    while at < bytes.len() {
        lines += (bytes[at] == b'\n') as usize;
        at += 1;
    }
    lines - LINES_BEFORE
}

const fn read<const COUNT: usize>(mut table: &'static str) -> [Operation; COUNT] {
    let mut operations = [Operation { method: "", path: "", kind: Kind::Write }; COUNT];
    let mut at = 0;
    while at < LINES_BEFORE + COUNT {
        let (line, rest) = cut(table, b'\n');
        if at >= LINES_BEFORE {
            operations[at - LINES_BEFORE] = operation(line);
        }
        table = rest;
        at += 1;
    }
    operations
}

const fn operation(line: &'static str) -> Operation {
    let (method, rest) = cut(line, b'\t');
    let (path, rest) = cut(rest, b'\t');
    let kind = match cut(rest, b'\t').0.as_bytes() {
        b"read" => Kind::Read,
        // The question mark: Pleo does not say, so it is not taken for a read.
        b"write" | b"write?" => Kind::Write,
        _ => panic!("an operation is read, write or write?"),
    };
    assert!(!path.is_empty() && path.as_bytes()[0] == b'/', "an operation has a path");
    Operation { method, path, kind }
}

/// The parts before and after the first `end`.
const fn cut(text: &str, end: u8) -> (&str, &str) {
    let mut at = 0;
    while at < text.len() && text.as_bytes()[at] != end {
        at += 1;
    }
    let (head, rest) = text.split_at(at);
    if rest.is_empty() { (head, rest) } else { (head, rest.split_at(1).1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &str, path: &str) -> Option<Kind> {
        find(&Method::from_bytes(method.as_bytes()).unwrap(), path).map(|operation| operation.kind)
    }

    /// An example of a path that matches a template.
    fn example(template: &str) -> String {
        let segment =
            |part: &str| match part.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                Some((_, verb)) => format!("c0a1e5ce-0000-4000-8000-000000000002{verb}"),
                None => part.to_owned(),
            };
        template.split('/').map(segment).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn every_line_of_the_table_is_an_operation_and_found_by_its_own_path() {
        assert_eq!(OPERATIONS.len(), TABLE.lines().count() - LINES_BEFORE);
        for operation in &OPERATIONS {
            assert!(["GET", "POST", "PUT", "DELETE"].contains(&operation.method), "{operation:?}");
            let method = Method::from_bytes(operation.method.as_bytes()).unwrap();
            assert_eq!(find(&method, &example(operation.path)), Some(operation));
        }
    }

    #[test]
    fn reads_by_post_and_writes_are_told_apart_by_the_table() {
        for (method, path, expected) in [
            ("POST", "/v1/vendors:search", Some(Kind::Read)),
            ("POST", "/v0/aggregations/tags", Some(Kind::Read)),
            ("POST", "/v0/tax-codes:calculate-tax-amounts", Some(Kind::Read)),
            ("POST", "/v2/accounting-entries:enrich", Some(Kind::Write)),
            ("POST", "/v1/vendors", Some(Kind::Write)),
            ("POST", "/v1/vendors/17:archive", Some(Kind::Write)),
            ("DELETE", "/v1/installations/me", Some(Kind::Write)),
            ("GET", "/v1/vendors/17", Some(Kind::Read)),
            ("HEAD", "/v1/vendors/17", Some(Kind::Read)),
        ] {
            assert_eq!(kind(method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_similar_request_is_not_in_the_table() {
        for (method, path) in [
            ("PATCH", "/v1/vendors/17"),
            ("GET", "/v1/vendors/"),
            ("GET", "/v1/vendors/17/"),
            ("GET", "/v1/vendors/17/18"),
            ("GET", "//v1/vendors/17"),
            ("GET", "/V1/vendors/17"),
            ("POST", "/v1/vendors/:archive"),
            ("POST", "/v1/vendors/17:archive:search"),
            ("POST", "/v1/vendors:search/"),
            ("POST", "/v1/vendors%3Asearch"),
            ("POST", "/v0/aggregations/tags;a=b"),
            ("POST", ""),
            ("GET", "/"),
        ] {
            assert_eq!(kind(method, path), None, "{method} {path}");
        }
    }
}
