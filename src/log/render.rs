//! Makes entries of what was noted.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::entry::{By, Entry, Kind};
use super::ring::Ended;
use crate::exchange::record::{Arrival, Record, Responder};
use crate::exchange::recorder::Recorders;
use crate::operations;

/// Makes entries.
#[derive(Debug)]
pub(super) struct Renderer {
    recorders: Arc<Recorders>,
}

impl Renderer {
    pub(super) fn new(recorders: Arc<Recorders>) -> Self {
        Self { recorders }
    }

    /// The entry of a request that is being answered. `now` is in UNIX milliseconds.
    pub(super) fn running(&self, arrival: &Arrival, now: i64) -> Entry {
        let (path, query) = split(arrival.target());
        let program = arrival.client.program();
        let operation = arrival.method.as_ref().and_then(|method| operations::find(method, path));
        Entry {
            id: self.recorders.id(arrival.number),
            at: now.saturating_sub(whole_millis(Instant::now().duration_since(arrival.at))),
            running: true,
            account: arrival.account().map(ToString::to_string),
            program: program.map(|program| program.name.clone()),
            pid: program.map(|program| program.pid),
            method: arrival.method.as_ref().map(Method::to_string),
            path: path.to_owned(),
            query: names(query),
            operation: operation.map(ToString::to_string),
            kind: operation.map(|operation| match operation.kind {
                operations::Kind::Read => Kind::Read,
                operations::Kind::Write => Kind::Write,
            }),
            deprecated: operation.is_some_and(|operation| operation.deprecation.is_some()),
            traceparent: arrival.traceparent().map(str::to_owned),
            user_agent: arrival.user_agent().map(str::to_owned),
            ..Entry::default()
        }
    }

    /// The entry of an exchange that has ended.
    pub(super) fn ended(&self, ended: &Ended, now: i64) -> Entry {
        let record = &ended.record;
        let times = record.times;
        Entry {
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
            ..self.running(&record.arrival, now)
        }
    }
}

/// Path and query of a target, without a prefix that names the account.
pub(super) fn split(target: &str) -> (&str, Option<&str>) {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let prefixed = path.strip_prefix("/@").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    (prefixed.unwrap_or(path), query)
}

/// The names in a query; what stands without a name may be a value, and is masked.
fn names(query: Option<&str>) -> Vec<String> {
    let name = |pair: &str| match pair.split_once('=') {
        Some((name, _)) => name.to_owned(),
        None => "*".to_owned(),
    };
    query.map(|query| query.split('&').map(name).collect()).unwrap_or_default()
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
    use super::*;
    use crate::log::testing::record;

    fn entry(record: Record) -> Entry {
        let renderer = Renderer::new(Recorders::new(0x3f_a9c1, true, Arc::default()));
        renderer.ended(&Ended { seq: 7, record }, 1_000_000)
    }

    #[test]
    fn an_entry_has_the_operation_and_names_but_no_values() {
        let entry = entry(record(17, "/@acme/v1/export-jobs?statuses=secret&page=2&secret"));
        assert_eq!((entry.id.as_str(), entry.seq), ("3fa9c1-17", Some(7)));
        assert_eq!(entry.path, "/v1/export-jobs");
        assert_eq!(entry.query, ["statuses", "page", "*"]);
        assert_eq!(entry.operation.as_deref(), Some("GET /v1/export-jobs"));
        assert_eq!((entry.kind, entry.deprecated), (Some(Kind::Read), true));
        assert_eq!((entry.status, entry.running, entry.complete), (Some(200), false, true));
        assert!((999_000..=1_000_000).contains(&entry.at));
    }

    #[test]
    fn the_type_of_an_error_is_read_from_the_beginning_of_its_body() {
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
            assert_eq!(entry(refused).error_type.as_deref(), expected, "{body}");
        }
    }
}
