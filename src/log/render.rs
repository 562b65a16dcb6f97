//! Makes entries of what was noted.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use tokio::time::Instant;

use super::entry::{By, Capture, Entry, Kind, Part};
use super::filter::Filter;
use super::reason::explanation;
use super::ring::Ended;
use crate::accounts::Accounts;
use crate::exchange;
use crate::exchange::record::{Arrival, Record, Responder};
use crate::exchange::recorder::Recorders;
use crate::exchange::target::{self, ShownTarget};
use crate::operations::{self, Operation};
use crate::problem::with_program;
use crate::redaction::{Body, Redactor};

/// Makes entries.
#[derive(Debug)]
pub(super) struct Renderer {
    recorders: Arc<Recorders>,
    accounts: Arc<Accounts>,
    redactor: Redactor,
    environment: String,
    /// The label of all callers.
    label: Option<String>,
    /// The command line in hints that name a command.
    program: String,
}

/// An entry with its texts as they came: they may hold secrets, so it is no [`Entry`] yet.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    entry: Entry,
    arrival: &'a Arrival,
}

impl Draft<'_> {
    /// True if the filter chooses it.
    pub(super) fn matches(&self, filter: &Filter, now: i64) -> bool {
        filter.matches(&self.entry, now)
    }
}

impl Renderer {
    pub(super) fn new(
        recorders: Arc<Recorders>,
        accounts: Arc<Accounts>,
        environment: String,
        label: Option<String>,
        program: String,
    ) -> Self {
        let redactor = Redactor::new(accounts.known_secrets().clone());
        Self { recorders, accounts, redactor, environment, label, program }
    }

    /// A text without secrets.
    pub(super) fn text(&self, text: &str) -> String {
        self.redactor.text(text).into_owned()
    }

    /// The entry of a request that is being answered, with its texts as they came. `now` is in UNIX
    /// milliseconds.
    pub(super) fn running<'a>(&self, arrival: &'a Arrival, now: i64) -> Draft<'a> {
        let (path, query) = target::split(without_account(arrival.target()));
        let program = arrival.client.program();
        let operation = operation(arrival);
        let entry = Entry {
            id: self.recorders.id(arrival.number),
            at: now.saturating_sub(whole_millis(Instant::now().duration_since(arrival.at))),
            running: true,
            account: arrival.account().map(ToString::to_string),
            program: program.map(|program| program.name.clone()),
            pid: program.map(|program| program.pid),
            label: self.label.clone(),
            method: arrival.method.as_ref().map(Method::to_string),
            path: path.to_owned(),
            query: target::names(query).map(str::to_owned).collect(),
            operation: operation.map(ToString::to_string),
            kind: operation.map(|operation| match operation.kind {
                operations::Kind::Read => Kind::Read,
                operations::Kind::Write => Kind::Write,
            }),
            deprecated: operation.is_some_and(|operation| operation.deprecation.is_some()),
            traceparent: arrival.traceparent().map(str::to_owned),
            user_agent: arrival.user_agent().map(str::to_owned),
            ..Entry::default()
        };
        Draft { entry, arrival }
    }

    /// What was captured of an exchange.
    pub(super) fn capture(&self, capture: &exchange::capture::Capture) -> Capture {
        Capture { request: self.part(&capture.request), response: self.part(&capture.response) }
    }

    fn part(&self, part: &exchange::capture::Part) -> Part {
        let (headers, bytes) = (&part.headers, part.body.bytes());
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let header = |(name, value): (&HeaderName, &HeaderValue)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            let value = self.redactor.header(name.as_str(), &value).into_owned();
            (self.text(name.as_str()), value)
        };
        let (body, body_note) = if part.body.total() > part.body.max() {
            (None, Some(format!("left out: longer than {} KiB", part.body.max() / 1024)))
        } else if part.body.is_cut() {
            let total = part.body.total();
            (None, Some(format!("left out: {total} bytes, too many requests ran at a time")))
        } else if let Some(coding) = text("content-encoding").filter(|_| !bytes.is_empty()) {
            (None, Some(format!("left out: {} bytes, {}", bytes.len(), self.text(coding))))
        } else {
            match self.redactor.body(text("content-type"), &bytes) {
                Body::Text(text) => (Some(text).filter(|text| !text.is_empty()), None),
                Body::LeftOut(note) => (None, Some(note)),
            }
        };
        Part { headers: headers.iter().map(header).collect(), body, body_note }
    }

    /// The entry of an exchange that has ended, with its texts as they came.
    pub(super) fn ended<'a>(&self, ended: &'a Ended, now: i64) -> Draft<'a> {
        let record = &ended.record;
        let times = record.times;
        let Draft { entry, arrival } = self.running(&record.arrival, now);
        let entry = Entry {
            seq: Some(ended.seq),
            running: false,
            status: record.status.map(|status| status.as_u16()),
            code: record.problem.map(|code| code.as_str().to_owned()),
            by: Some(match record.responder {
                Responder::Proxy => By::Proxy,
                Responder::Pleo => By::Pleo,
            }),
            error_type: error_type(record),
            complete: record.is_complete,
            bytes_in: record.request_bytes,
            bytes_out: record.response_bytes,
            token_ms: times.token.map(millis),
            connected_ms: times.connected.map(millis),
            head_ms: times.head.map(millis),
            total_ms: Some(millis(times.end)),
            held: record.is_held,
            sent_again: record.sends > 1,
            generation: record.generation,
            captured: record.capture.is_some(),
            ..entry
        };
        Draft { entry, arrival }
    }

    /// Says why Pleo answered as it did.
    pub(super) fn explain(&self, draft: &mut Draft<'_>) {
        let why = explanation(&self.accounts, &draft.entry, &self.environment);
        draft.entry.hint = why.map(|why| with_program(&why.hint(), &self.program));
    }

    /// Takes secrets out of all texts, after saying why Pleo answered as it did: nothing else may
    /// leave.
    pub(super) fn finish(&self, mut draft: Draft<'_>) -> Entry {
        self.explain(&mut draft);
        let Draft { mut entry, arrival } = draft;
        for text in [
            &mut entry.method,
            &mut entry.program,
            &mut entry.label,
            &mut entry.user_agent,
            &mut entry.traceparent,
            &mut entry.error_type,
            &mut entry.hint,
        ] {
            *text = text.as_deref().map(|text| self.text(text));
        }
        let target = self.target(arrival);
        entry.query = target.names().map(str::to_owned).collect();
        entry.path = target.path;
        entry
    }

    /// The query of a request without secrets; none if it had none.
    pub(super) fn query(&self, arrival: &Arrival) -> Option<String> {
        self.target(arrival).query
    }

    fn target(&self, arrival: &Arrival) -> ShownTarget {
        let target = without_account(arrival.target());
        ShownTarget::new(target, arrival.is_target_cut(), &self.redactor)
    }
}

/// The operation that a request asks for, if Pleo lists it.
pub(super) fn operation(arrival: &Arrival) -> Option<&'static Operation> {
    operations::find(arrival.method.as_ref()?, target::split(without_account(arrival.target())).0)
}

/// A target without a prefix that names the account.
pub(super) fn without_account(target: &str) -> &str {
    let rest = target.strip_prefix("/@").unwrap_or_default();
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => &rest[at..],
        _ => target,
    }
}

/// The type of an error of Pleo's: a word in `type`, `code` or `error`.
fn error_type(record: &Record) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&record.excerpt).ok()?;
    let inner = body.get("error").filter(|inner| inner.is_object()).unwrap_or(&body);
    let word = |name| inner.get(name).and_then(serde_json::Value::as_str);
    let is_word = |text: &&str| {
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        !text.is_empty() && text.len() <= 64 && text.bytes().all(is_plain)
    };
    ["type", "code", "error"].into_iter().filter_map(word).find(is_word).map(str::to_owned)
}

fn millis(duration: Duration) -> f64 {
    // Microseconds are exact enough, and short to read.
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

fn whole_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
#[cfg(test)]
mod tests {
    use std::path::Path;

    use http::Request;

    use super::*;
    use crate::exchange::capture::{self, Bodies};
    use crate::log::testing::{record, renderer};
    use crate::secret::AccessToken;

    async fn entry(record: Record) -> Entry {
        let folder = tempfile::tempdir().unwrap();
        let renderer = renderer(folder.path()).await;
        renderer.finish(renderer.ended(&Ended { seq: 7, record: Box::new(record) }, 1_000_000))
    }

    #[tokio::test]
    async fn an_entry_has_the_operation_and_names_but_no_values() {
        let entry = entry(record(17, "/@acme/v1/export-jobs?statuses=secret&page=2&secret")).await;
        assert_eq!((entry.id.as_str(), entry.seq), ("3fa9c1-17", Some(7)));
        assert_eq!(entry.path, "/v1/export-jobs");
        assert_eq!(entry.query, ["statuses", "page", "*"]);
        assert_eq!(entry.operation.as_deref(), Some("GET /v1/export-jobs"));
        assert_eq!((entry.kind, entry.deprecated), (Some(Kind::Read), true));
        assert_eq!((entry.status, entry.running, entry.complete), (Some(200), false, true));
        assert!((999_000..=1_000_000).contains(&entry.at));
    }

    #[tokio::test]
    async fn the_type_of_an_error_is_read_from_the_beginning_of_its_body() {
        for (body, expected) in [
            (r#"{"type":"EXPORT_NOT_FOUND","message":"no"}"#, Some("EXPORT_NOT_FOUND")),
            (r#"{"error":{"code":"FORBIDDEN"}}"#, Some("FORBIDDEN")),
            (r#"{"error":"invalid_token"}"#, Some("invalid_token")),
            (r#"{"type":"about:blank","code":"X"}"#, Some("X")),
            (r#"{"type":"a sentence","message":"no"}"#, None),
            (r#"{"type":"CUT"#, None),
            ("<html>", None),
        ] {
            let mut refused = record(1, "/v1/x");
            refused.excerpt = body.into();
            assert_eq!(entry(refused).await.error_type.as_deref(), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_pleos_is_explained_and_one_of_the_proxys_is_not() {
        let refused = |responder| {
            let mut refused = record(1, "/v1/export-jobs");
            refused.arrival.set_account(&"default".parse().unwrap());
            refused.status = Some(http::StatusCode::TOO_MANY_REQUESTS);
            refused.responder = responder;
            refused
        };
        let hint = entry(refused(Responder::Pleo)).await.hint.unwrap();
        assert!(hint.contains("600"), "{hint}");
        assert_eq!(entry(refused(Responder::Proxy)).await.hint, None);
    }

    async fn rendered(folder: &Path, part: capture::Part) -> Part {
        renderer(folder).await.part(&part)
    }

    fn part(headers: &[(&'static str, &'static str)], body: &[u8]) -> capture::Part {
        let mut part = capture::Part { headers: http::HeaderMap::new(), body: Arc::default() };
        for (name, value) in headers {
            part.headers.append(*name, HeaderValue::from_static(value));
        }
        part.body.push(body);
        part
    }

    #[tokio::test]
    async fn what_was_captured_is_shown_without_secrets_and_what_cannot_be_read_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let json = ("content-type", "application/json");
        let shown = rendered(
            folder.path(),
            part(
                &[json, ("authorization", "Bearer secret-token-123"), ("x-a", "1")],
                br#"{"name":"x","password":"hunter2hunter2"}"#,
            ),
        )
        .await;
        let told = format!("{shown:?}");
        assert!(told.contains("\"1\"") && told.contains("name"), "{told}");
        assert!(!told.contains("secret-token") && !told.contains("hunter2"), "{told}");
        let coded = part(&[json, ("content-encoding", "gzip")], b"\x1f\x8b");
        let note = rendered(folder.path(), coded).await.body_note;
        assert_eq!(note.as_deref(), Some("left out: 2 bytes, gzip"));
        let long =
            rendered(folder.path(), part(&[json], &vec![b' '; Bodies::BEGINNING.max + 1])).await;
        assert_eq!(
            (long.body, long.body_note),
            (None, Some("left out: longer than 64 KiB".into()))
        );
        let none = rendered(folder.path(), part(&[], b"")).await;
        assert_eq!((none.body, none.body_note), (None, None));
    }

    #[tokio::test]
    async fn a_known_secret_shows_in_no_field() {
        let folder = tempfile::tempdir().unwrap();
        let renderer = renderer(folder.path()).await;
        let secret = AccessToken::new("opaque-access-token");
        renderer.accounts.known_secrets().learn(&secret);
        let client =
            Arc::new(exchange::Client::new(exchange::Caller::Unix { user: None, process: None }));
        let request = Request::get("/v1/opaque-access-token?opaque-access-token=1")
            .header("user-agent", "opaque-access-token")
            .header("traceparent", "opaque-access-token");
        let arrival = Arrival::new(1, client, &request.body(()).unwrap());
        let shown = format!("{:?}", renderer.finish(renderer.running(&arrival, 0)));
        assert!(!shown.contains("opaque-access-token"), "{shown}");
    }
}
