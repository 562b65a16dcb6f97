//! One exchange of the request log, as the admin API gives it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One exchange. A reader takes a field that is missing as unknown.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Entry {
    /// `Pleo-Proxy-Request` of the response: the id of the run and the number of the arrival.
    pub id: String,
    /// The order in which exchanges ended, rising by one within a run; none while it runs.
    pub seq: Option<u64>,
    /// When the request arrived, in UNIX milliseconds.
    pub at: i64,
    /// True while the exchange runs.
    pub running: bool,
    /// The account that it was sent for; none if none was determined.
    pub account: Option<String>,
    /// Name of the caller's program, from the kernel.
    pub program: Option<String>,
    /// Process id of the caller, from the kernel.
    pub pid: Option<u32>,
    /// Label that the caller was started with.
    pub label: Option<String>,
    /// The method; none for a malformed request.
    pub method: Option<String>,
    /// The raw path without its query, redacted.
    pub path: String,
    /// Names of the query's parameters; values are not kept.
    pub query: Vec<String>,
    /// The operation of Pleo's API, such as `GET /v3/export-jobs/{jobId}`.
    pub operation: Option<String>,
    /// What the operation does.
    pub kind: Option<Kind>,
    /// True if Pleo has deprecated the operation.
    pub deprecated: bool,
    /// Status of the response; none if the caller left before there was one.
    pub status: Option<u16>,
    /// The code of a problem that the proxy reported itself.
    pub code: Option<String>,
    /// Who wrote the response.
    pub by: Option<By>,
    /// `type` or `code` in the body of an error of Pleo's.
    pub error_type: Option<String>,
    /// True if the response ended as it should.
    pub complete: bool,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// From the arrival until there was a token, in milliseconds.
    pub token_ms: Option<f64>,
    /// From the arrival until there was a connection to Pleo, in milliseconds.
    pub connected_ms: Option<f64>,
    /// From the arrival until the head of the response, in milliseconds.
    pub head_ms: Option<f64>,
    /// From the arrival until the end, in milliseconds.
    pub total_ms: Option<f64>,
    /// True if it waited for a token.
    pub held: bool,
    /// True if it was sent a second time.
    pub sent_again: bool,
    /// Generation of the grant whose token it carried.
    pub generation: Option<u64>,
    /// The caller's `traceparent`.
    pub traceparent: Option<String>,
    /// The caller's `User-Agent`.
    pub user_agent: Option<String>,
    /// Why it failed and what to do, in short.
    pub hint: Option<String>,
    /// True if headers and bodies were kept.
    pub captured: bool,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It changes nothing.
    Read,
    /// It may change something.
    Write,
    /// A value that this release does not know.
    #[serde(untagged)]
    Other(String),
}

/// Who wrote a response.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Pleo.
    Pleo,
    /// The proxy itself.
    Proxy,
    /// A value that this release does not know.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pleo => "pleo",
            Self::Proxy => "proxy",
            Self::Other(word) => word,
        })
    }
}

/// What was kept of both messages of an exchange, redacted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Capture {
    /// The request.
    pub request: Part,
    /// The response.
    pub response: Part,
}

/// Headers and body of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Part {
    /// Names and redacted values, in the order of the message.
    pub headers: Vec<(String, String)>,
    /// The redacted body; none if there was none, or if the note says why.
    pub body: Option<String>,
    /// Why the body was left out.
    pub body_note: Option<String>,
}

impl Part {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn entry() -> Value {
        json!({
            "id": "3fa9c1-17", "seq": 17, "at": 1_790_000_000_123_i64, "running": false, "account": "acme",
            "program": "curl", "pid": 4711, "label": null, "method": "GET", "path": "/v3/export-jobs/8a",
            "query": ["statuses", "limit"], "operation": "GET /v3/export-jobs/{jobId}", "kind": "read",
            "deprecated": false, "status": 403, "code": null, "by": "pleo", "error_type": "FORBIDDEN",
            "complete": true, "bytes_in": 0, "bytes_out": 512, "token_ms": 0.1, "connected_ms": 0.2,
            "head_ms": 30.5, "total_ms": 31.0, "held": false, "sent_again": false, "generation": 5,
            "traceparent": null, "user_agent": "curl/8.5.0", "hint": "needs vendors:write", "captured": false,
        })
    }

    #[test]
    fn an_entry_is_read_and_written_as_it_is_on_the_wire() {
        let read: Entry = serde_json::from_value(entry()).unwrap();
        assert_eq!((read.kind.clone(), read.by.clone()), (Some(Kind::Read), Some(By::Pleo)));
        assert_eq!(serde_json::to_value(&read).unwrap(), entry());
        let part = json!({"headers": [["a", "b"]], "body": null, "body_note": "left out: 5 bytes"});
        let capture = json!({"request": part, "response": part});
        let read: Capture = serde_json::from_value(capture.clone()).unwrap();
        assert_eq!(read.request.header("a"), Some("b"));
        assert_eq!(serde_json::to_value(&read).unwrap(), capture);
    }

    #[test]
    fn fields_and_values_of_other_releases_are_accepted() {
        let mut newer = entry();
        newer["by"] = json!("gateway");
        newer["newer"] = json!({"a": 1});
        let read: Entry = serde_json::from_value(newer).unwrap();
        assert_eq!(read.by, Some(By::Other("gateway".into())));
        let read: Entry = serde_json::from_value(json!({"id": "x-1"})).unwrap();
        assert_eq!((read.id.as_str(), read.status), ("x-1", None));
    }
}
