//! Pleo's operations: what each reads or writes, the scope it needs, whether it is deprecated.
//!
//! The table is `operations.tsv`; its first line names its source. It is read when the program is
//! compiled, so an invalid line does not compile. A look-up allocates nothing; it is made for every
//! request.

use std::fmt;

use http::Method;

/// A comment, a line of column names, then one operation per line, its columns separated by tabs.
const TABLE: &str = include_str!("operations.tsv");
const LINES_BEFORE: usize = 2;
const COUNT: usize = count(TABLE);
static OPERATIONS: [Operation; COUNT] = read(TABLE);
/// More slashes than in any path of the table.
const MAX_SLASHES: usize = 8;
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
static GROUPS: Groups = Groups::of(&OPERATIONS);

/// All operations, in the order of the table: the first one has the index 0.
pub static ALL: &[Operation] = &OPERATIONS;

/// What an operation does to the data at Pleo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing. Searches and calculations that are sent by POST are reads too.
    Read,
    /// It may change something, as everything that is not known to be a read.
    Write,
}

/// The scope that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This one. [`Operation::scope_source`] says who says so.
    Named(&'static str),
    /// None.
    NotNeeded,
    /// Those of the events that a subscription is for.
    OfSubscribedEvents,
    /// Pleo publishes none.
    Unpublished,
}

/// Why an operation should not be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deprecation {
    /// Pleo calls it deprecated.
    Deprecated,
    /// There is a newer one for the same purpose.
    Superseded,
}

/// One operation of Pleo's API. Its text form is method and path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// HTTP method in upper case.
    pub method: &'static str,
    /// Path template, such as `/v1/vendors/{id}:archive`.
    pub path: &'static str,
    /// Whether it reads or writes.
    pub kind: Kind,
    /// The scope that it needs.
    pub scope: Scope,
    /// Who says so: `docs:PAGE` for a page of Pleo's documentation, else where the scope was taken
    /// from.
    pub scope_source: &'static str,
    /// It takes bearer tokens only, no API key.
    pub bearer_only: bool,
    /// Whether it should not be used any more; also none if that is not known.
    pub deprecation: Option<Deprecation>,
    /// Responses and conditions that Pleo documents, as `STATUS TYPE`, separated by semicolons.
    pub note: &'static str,
    /// The operation that replaces it, as method and path; none if no source names one.
    pub successor: Option<&'static str>,
    index: u8,
    slashes: u8,
    /// Length of the path before its first `{`.
    literal: u8,
}

impl Operation {
    /// Its place in [`ALL`].
    pub fn index(&self) -> usize {
        usize::from(self.index)
    }

    /// True if Pleo's documentation names the scope. Otherwise it is an inference.
    pub fn is_scope_documented(&self) -> bool {
        matches!(self.scope, Scope::Named(_)) && self.scope_source.starts_with("docs:")
    }

    /// The only error type that Pleo documents for a status of this operation.
    pub fn documented_type(&self, status: u16) -> Option<&'static str> {
        let mut types = self.note.split(';').filter_map(|part| {
            let (code, rest) = part.trim().trim_start_matches("v2: ").split_once(' ')?;
            let name = rest.split(' ').next().filter(|name| name.contains('_'))?;
            (code.parse() == Ok(status)).then_some(name)
        });
        types.next().filter(|_| types.next().is_none())
    }

    fn fits(&self, path: &str) -> bool {
        let (literal, template) = self.path.split_at(usize::from(self.literal));
        path.strip_prefix(literal).is_some_and(|rest| fits(template, rest))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The operation of a request; none if it is not in the table. The path is compared literally: no
/// escape is decoded, no empty segment dropped. HEAD counts as GET (RFC 9110 section 9.3.2).
pub fn find(method: &Method, path: &str) -> Option<&'static Operation> {
    let method = match *method {
        Method::GET | Method::HEAD => 0,
        Method::POST => 1,
        Method::PUT => 2,
        Method::DELETE => 3,
        _ => return None,
    };
    GROUPS.group(method, slashes(path)?).find(|operation| operation.fits(path))
}

/// The operations that a path has, one a method.
pub fn on_path(path: &str) -> impl Iterator<Item = &'static Operation> {
    let slashes = slashes(path);
    let in_groups =
        (0..METHODS.len()).filter_map(move |method| Some(GROUPS.group(method, slashes?)));
    in_groups.filter_map(move |mut group| group.find(|operation| operation.fits(path)))
}

/// The operation of this text form.
pub fn named(name: &str) -> Option<&'static Operation> {
    let (method, path) = name.split_once(' ')?;
    OPERATIONS.iter().find(|operation| operation.method == method && operation.path == path)
}

/// Numbers of operations, those with the same method and as many slashes together.
struct Groups {
    order: [u8; COUNT],
    /// Where each begins; it ends where the next begins.
    starts: [u8; METHODS.len() * MAX_SLASHES + 1],
}

impl Groups {
    const fn of(operations: &[Operation; COUNT]) -> Self {
        let mut all = Self { order: [0; COUNT], starts: [0; METHODS.len() * MAX_SLASHES + 1] };
        let (mut group, mut filled) = (0, 0);
        while group < METHODS.len() * MAX_SLASHES {
            all.starts[group] = filled as u8;
            let mut at = 0;
            while at < COUNT {
                let it = &operations[at];
                if method_number(it.method) * MAX_SLASHES + it.slashes as usize == group {
                    all.order[filled] = at as u8;
                    filled += 1;
                }
                at += 1;
            }
            group += 1;
        }
        assert!(filled == COUNT, "every operation is in one group");
        all.starts[group] = filled as u8;
        all
    }

    fn group(&self, method: usize, slashes: usize) -> impl Iterator<Item = &'static Operation> {
        let group = method * MAX_SLASHES + slashes;
        let range = usize::from(self.starts[group])..usize::from(self.starts[group + 1]);
        self.order[range].iter().map(|number| &OPERATIONS[usize::from(*number)])
    }
}

/// How many slashes are in a path; none if there are more than in any of the table.
fn slashes(path: &str) -> Option<usize> {
    let found = memchr::memchr_iter(b'/', path.as_bytes()).take(MAX_SLASHES).count();
    (found < MAX_SLASHES).then_some(found)
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
    occurrences(table, b'\n') - LINES_BEFORE
}

const fn occurrences(text: &str, wanted: u8) -> usize {
    let (bytes, mut at, mut found) = (text.as_bytes(), 0, 0);
    while at < bytes.len() {
        found += (bytes[at] == wanted) as usize;
        at += 1;
    }
    found
}

const fn read(mut table: &'static str) -> [Operation; COUNT] {
    let mut operations = [operation("GET\t/\tread\tnone\t-\tbearer+basic", 0); COUNT];
    let mut at = 0;
    while at < LINES_BEFORE + COUNT {
        let (line, rest) = cut(table, b'\n');
        if at >= LINES_BEFORE {
            operations[at - LINES_BEFORE] = operation(line, at - LINES_BEFORE);
        }
        table = rest;
        at += 1;
    }
    operations
}

const fn operation(line: &'static str, index: usize) -> Operation {
    let (method, rest) = cut(line, b'\t');
    let (path, rest) = cut(rest, b'\t');
    let (kind, rest) = cut(rest, b'\t');
    let (scope, rest) = cut(rest, b'\t');
    let (scope_source, rest) = cut(rest, b'\t');
    let (credentials, rest) = cut(rest, b'\t');
    let (deprecation, rest) = cut(rest, b'\t');
    let (note, successor) = cut(rest, b'\t');
    assert!(!path.is_empty() && path.as_bytes()[0] == b'/', "an operation has a path");
    assert!(occurrences(path, b'/') < MAX_SLASHES, "a path has few segments");
    Operation {
        method,
        path,
        kind: kind_of(kind),
        scope: scope_of(scope),
        scope_source,
        bearer_only: bearer_only_of(credentials),
        deprecation: deprecation_of(deprecation),
        note,
        successor: if successor.is_empty() { None } else { Some(successor) },
        index: index as u8,
        slashes: occurrences(path, b'/') as u8,
        literal: cut(path, b'{').0.len() as u8,
    }
}

const fn method_number(method: &str) -> usize {
    match method.as_bytes() {
        b"GET" => 0,
        b"POST" => 1,
        b"PUT" => 2,
        b"DELETE" => 3,
        _ => panic!("an operation has one of four methods"),
    }
}

const fn kind_of(text: &str) -> Kind {
    match text.as_bytes() {
        b"read" => Kind::Read,
        // The question mark: Pleo does not say, so it is not taken for a read.
        b"write" | b"write?" => Kind::Write,
        _ => panic!("an operation is read, write or write?"),
    }
}

const fn scope_of(text: &'static str) -> Scope {
    match text.as_bytes() {
        b"none" => Scope::NotNeeded,
        b"?" | b"none?" => Scope::Unpublished,
        b"scopes of the subscribed events" => Scope::OfSubscribedEvents,
        _ => {
            assert!(occurrences(text, b':') == 1, "a scope is written resource:permission");
            Scope::Named(text)
        }
    }
}

const fn bearer_only_of(text: &str) -> bool {
    match text.as_bytes() {
        b"bearer+basic" => false,
        b"bearer only" => true,
        _ => panic!("an operation takes bearer+basic or bearer only"),
    }
}

const fn deprecation_of(text: &str) -> Option<Deprecation> {
    match text.as_bytes() {
        // What was not read is not claimed.
        b"" | b"not read" => None,
        [b'd', b'e', b'p', b'r', b'e', b'c', b'a', b't', b'e', b'd', ..] => {
            Some(Deprecation::Deprecated)
        }
        b"superseded" => Some(Deprecation::Superseded),
        [b'o', b'l', b'd', b'e', b'r', b' ', ..] => Some(Deprecation::Superseded),
        _ => panic!("an operation is deprecated, superseded, older than another, or not"),
    }
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

    /// The obvious way to look an operation up, to compare with.
    fn search(method: &str, path: &str) -> Option<&'static Operation> {
        let method = if method == "HEAD" { "GET" } else { method };
        ALL.iter().find(|operation| operation.method == method && fits(operation.path, path))
    }

    #[test]
    fn the_look_up_finds_what_a_search_through_the_table_finds() {
        let mut found = 0;
        for path in ALL.iter().map(|operation| example(operation.path)) {
            let odd = [
                path.clone(),
                format!("{path}/"),
                format!("{path}:search"),
                format!("/{path}"),
                path.replacen("v1", "v2", 1),
                format!("{path}{}", "/x".repeat(9)),
            ];
            for (path, method) in
                odd.iter().flat_map(|path| METHODS.map(|m| (path, m))).chain([(&path, "HEAD")])
            {
                let sought = Method::from_bytes(method.as_bytes()).unwrap();
                assert_eq!(find(&sought, path), search(method, path), "{method} {path}");
                found += usize::from(find(&sought, path).is_some());
            }
            let methods: Vec<_> = on_path(&path).map(|operation| operation.method).collect();
            let expected: Vec<_> =
                METHODS.into_iter().filter(|m| search(m, &path).is_some()).collect();
            assert_eq!(methods, expected, "{path}");
        }
        assert!(found > 200, "{found}");
    }

    #[test]
    fn indices_and_names_lead_back_to_their_operation() {
        for (index, operation) in ALL.iter().enumerate() {
            assert_eq!(operation.index(), index);
            assert_eq!(named(&operation.to_string()), Some(operation));
        }
        assert_eq!((named("GET /v9/x"), named("")), (None, None));
    }

    #[test]
    fn a_successor_is_an_operation_that_is_not_replaced_itself() {
        let replaced: Vec<_> =
            ALL.iter().filter_map(|it| Some((it, named(it.successor?).unwrap()))).collect();
        assert_eq!(replaced.len(), 29);
        for (old, new) in replaced {
            assert_eq!((new.successor, new.deprecation), (None, None), "{old}");
            assert_eq!(old.kind, new.kind, "{old}");
        }
        let without: Vec<_> = ALL
            .iter()
            .filter(|it| it.deprecation.is_some() && it.successor.is_none())
            .map(ToString::to_string)
            .collect();
        assert_eq!(without, ["POST /v3/export-job-items:search", "GET /v0/tags"]);
    }

    #[test]
    fn scopes_key_types_and_deprecations_are_read_from_the_table() {
        let operation = |name| *named(name).unwrap();
        let vendors = operation("POST /v1/vendors");
        assert_eq!((vendors.scope, vendors.bearer_only), (Scope::Named("vendors:write"), false));
        assert!(vendors.is_scope_documented() && vendors.deprecation.is_none());
        let twin = operation("GET /v1-beta/accounts/{accountId}");
        assert_eq!((twin.bearer_only, twin.deprecation), (true, Some(Deprecation::Superseded)));
        assert_eq!(operation("GET /v0/tags").deprecation, Some(Deprecation::Deprecated));
        assert!(!operation("GET /v0/tags").is_scope_documented());
        assert_eq!(operation("GET /v1/export-items").deprecation, None, "it was not read");
        assert_eq!(operation("GET /v1/introspect").scope, Scope::NotNeeded);
        assert_eq!(operation("GET /v1/installations/me").scope, Scope::Unpublished);
        assert_eq!(operation("GET /v1/subscriptions").scope, Scope::OfSubscribedEvents);
        let items = operation("GET /v2/export-items");
        assert_eq!(items.documented_type(400), Some("UNSUPPORTED_API_VERSION"));
        assert_eq!(items.documented_type(422), Some("EXPORT_JOB_STATUS_UNPROCESSABLE"));
        assert_eq!((items.documented_type(409), vendors.documented_type(409)), (None, None));
        let update = operation("PUT /v3/export-jobs/{jobId}/items");
        assert_eq!(update.documented_type(413), Some("EXPORT_JOB_ITEMS_UPDATE_LIMIT"));
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
