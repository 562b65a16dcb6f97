//! The language in which people choose exchanges, in the page, in `logs` and for exports.

use std::time::Duration;

use super::entry::{By, Entry, Kind};

/// What `is:slow` means, in milliseconds.
const SLOW: f64 = 1000.0;

/// A choice of exchanges: all terms must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    is_negated: bool,
    test: Test,
}

/// A term that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{term}` in the filter: {why}")]
pub struct FilterError {
    /// The term.
    pub term: String,
    /// What it should be.
    pub why: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    PathHas(String),
    Path(String),
    /// From and to, both included.
    Status(u16, u16),
    Method(String),
    Account(String),
    Program(String),
    Code(String),
    Operation(String),
    Id(String),
    By(By),
    Kind(Kind),
    Since(Duration),
    Is(Trait),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
enum Trait {
    Error,
    Slow,
    Held,
    Resent,
    Running,
    Captured,
    Deprecated,
    Hinted,
}

impl Filter {
    /// Reads a filter: terms separated by blanks.
    ///
    /// # Errors
    /// A key or a value is unknown.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let terms = text.split_whitespace().map(Term::parse).collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }

    /// True if a term looks at the hint of an exchange.
    pub fn asks_for_hints(&self) -> bool {
        self.terms.iter().any(|term| term.test == Test::Is(Trait::Hinted))
    }

    /// True if the exchange is chosen. `now` is in UNIX milliseconds.
    pub fn matches(&self, entry: &Entry, now: i64) -> bool {
        self.terms.iter().all(|term| term.test.holds(entry, now) != term.is_negated)
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, FilterError> {
        let (is_negated, rest) = match text.strip_prefix('-') {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, text),
        };
        let test = Test::parse(rest).map_err(|why| FilterError { term: text.to_owned(), why })?;
        Ok(Self { is_negated, test })
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((key, value)) = text.split_once(':').filter(|(key, _)| is_key(key)) else {
            return Ok(Self::PathHas(text.to_ascii_lowercase()));
        };
        if value.is_empty() {
            return Err("a value is missing after the colon");
        }
        let lower = value.to_ascii_lowercase();
        Ok(match key {
            "status" => status(&lower).ok_or("a status is 403, 4xx, >=400 or 400-499")?,
            "method" => Self::Method(value.to_ascii_uppercase()),
            "account" => Self::Account(lower),
            "path" => Self::Path(value.to_owned()),
            "program" => Self::Program(lower),
            "by" => Self::By(by(&lower).ok_or("by:pleo or by:proxy")?),
            "code" => Self::Code(lower),
            "op" => Self::Operation(lower),
            "kind" => Self::Kind(kind(&lower).ok_or("kind:read or kind:write")?),
            "id" => Self::Id(lower),
            "since" => Self::Since(duration(&lower).ok_or("a time is 30s, 10m, 2h or 1d")?),
            "is" => Self::Is(lower.parse().map_err(|_| {
                "is:error, is:slow, is:held, is:resent, is:running, is:captured, is:deprecated or is:hinted"
            })?),
            _ => {
                return Err(
                    "known are status, method, account, path, program, by, code, op, kind, is, id and since; a path with a colon begins with /",
                );
            }
        })
    }

    fn holds(&self, entry: &Entry, now: i64) -> bool {
        let is = |field: &Option<String>, value: &String| {
            field.as_ref().is_some_and(|field| field.eq_ignore_ascii_case(value))
        };
        let has = |field: &Option<String>, value: &String| {
            field.as_ref().is_some_and(|field| field.to_ascii_lowercase().contains(value))
        };
        match self {
            Self::PathHas(part) => entry.path.to_ascii_lowercase().contains(part),
            Self::Path(prefix) => entry.path.starts_with(prefix.as_str()),
            Self::Status(from, to) => {
                entry.status.is_some_and(|status| (from..=to).contains(&&status))
            }
            Self::Method(method) => is(&entry.method, method),
            Self::Account(account) => is(&entry.account, account),
            Self::Program(program) => has(&entry.program, program),
            Self::Code(code) => is(&entry.code, code),
            Self::Operation(operation) => has(&entry.operation, operation),
            Self::Id(id) => entry.id.eq_ignore_ascii_case(id),
            Self::By(by) => entry.by.as_ref() == Some(by),
            Self::Kind(kind) => entry.kind.as_ref() == Some(kind),
            Self::Since(age) => {
                i64::try_from(age.as_millis()).is_ok_and(|age| entry.at >= now.saturating_sub(age))
            }
            Self::Is(which) => which.holds(entry),
        }
    }
}

impl Trait {
    fn holds(self, entry: &Entry) -> bool {
        match self {
            Self::Error => {
                !entry.running
                    && (!entry.complete || entry.status.is_none_or(|status| status >= 400))
            }
            Self::Slow => entry.total_ms.is_some_and(|total| total >= SLOW),
            Self::Held => entry.held,
            Self::Resent => entry.sent_again,
            Self::Running => entry.running,
            Self::Captured => entry.captured,
            Self::Deprecated => entry.deprecated,
            Self::Hinted => entry.hint.is_some(),
        }
    }
}

/// True for what may be a misspelt key; `/v1/vendors` in front of a colon is part of a path.
fn is_key(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase())
}

fn status(text: &str) -> Option<Test> {
    if let Some((from, to)) = text.split_once('-') {
        return Some(Test::Status(from.parse().ok()?, to.parse().ok()?));
    }
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok().filter(|class| (1..=9).contains(class))?;
        return Some(Test::Status(class * 100, class * 100 + 99));
    }
    let bound = |prefix| text.strip_prefix(prefix).and_then(|rest: &str| rest.parse::<u16>().ok());
    match (bound(">="), bound("<="), bound(">"), bound("<")) {
        (Some(from), ..) => Some(Test::Status(from, u16::MAX)),
        (_, Some(to), ..) => Some(Test::Status(0, to)),
        (_, _, Some(below), _) => Some(Test::Status(below.checked_add(1)?, u16::MAX)),
        (_, _, _, Some(above)) => Some(Test::Status(0, above.checked_sub(1)?)),
        _ => text.parse().ok().map(|status| Test::Status(status, status)),
    }
}

fn by(text: &str) -> Option<By> {
    match text {
        "pleo" => Some(By::Pleo),
        "proxy" => Some(By::Proxy),
        _ => None,
    }
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "read" => Some(Kind::Read),
        "write" => Some(Kind::Write),
        _ => None,
    }
}

fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back().filter(char::is_ascii)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        Entry {
            id: "3fa9c1-17".into(),
            at: 1_000_000,
            account: Some("acme".into()),
            program: Some("python3".into()),
            method: Some("POST".into()),
            path: "/v1/vendors:search".into(),
            operation: Some("POST /v1/vendors:search".into()),
            kind: Some(Kind::Read),
            status: Some(403),
            by: Some(By::Pleo),
            complete: true,
            total_ms: Some(1500.0),
            hint: Some("needs vendors:read".into()),
            ..Entry::default()
        }
    }

    fn matches(filter: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&entry(), 1_000_000 + 60_000)
    }

    #[test]
    fn every_term_chooses_by_its_field() {
        for filter in [
            "",
            "  ",
            "vendors",
            "/vendors:search",
            "VENDORS",
            "/v1",
            "path:/v1/ven",
            "status:403",
            "status:4xx",
            "status:>=400",
            "status:400-403",
            "status:<404",
            "status:<=403",
            "status:>402",
            "method:post",
            "account:acme",
            "program:python",
            "by:pleo",
            "op:vendors",
            "kind:read",
            "is:error",
            "is:slow",
            "is:hinted",
            "id:3FA9c1-17",
            "since:2m",
            "-by:proxy",
            "-is:held vendors status:4xx",
        ] {
            assert!(matches(filter), "{filter}");
        }
        for filter in [
            "companies",
            "path:vendors",
            "status:404",
            "status:5xx",
            "status:>403",
            "method:GET",
            "account:other",
            "program:curl",
            "by:proxy",
            "code:login_required",
            "op:companies",
            "kind:write",
            "is:held",
            "is:resent",
            "is:running",
            "is:captured",
            "is:deprecated",
            "id:3fa9c1-1",
            "since:30s",
            "-vendors",
            "vendors status:5xx",
        ] {
            assert!(!matches(filter), "{filter}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for bad in [
            "status:abc",
            "status:",
            "foo:bar",
            "by:me",
            "kind:x",
            "is:x",
            "since:1y",
            "-stat:1",
            "since:ä",
        ] {
            let error = Filter::parse(&format!("vendors {bad}")).unwrap_err();
            assert_eq!(error.term, bad);
            assert!(error.to_string().contains(bad));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            if let Ok(filter) = Filter::parse(&text) {
                filter.matches(&entry(), 0);
            }
        }
    }
}
