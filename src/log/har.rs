//! Exchanges as an HTTP archive (HAR 1.2), which browsers and other tools read.
//!
//! Values of a query are not kept: each is the mask. What the standard has no place for is in
//! `_pleoProxy`.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::entry::{Capture, Entry, Part};
use crate::redaction::{MASK, Redactor};

/// What the archive says of itself.
const COMMENT: &str = "Sanitised by pleo-proxy: tokens, keys and other secrets are replaced by [redacted]. Values of \
                       queries, and bodies that were not captured, are not in it.";
/// A size that is not known.
const UNKNOWN: i64 = -1;

/// Writes archives of requests to one API.
#[derive(Debug)]
pub struct HarWriter<'a> {
    /// Origin of the API, which stands before every path.
    pub api: &'a str,
    /// Takes out what was not taken out before.
    pub redactor: &'a Redactor,
}

impl HarWriter<'_> {
    /// The archive of these exchanges, the oldest first, with what was captured of each.
    pub fn archive(&self, exchanges: impl IntoIterator<Item = (Entry, Option<Capture>)>) -> Value {
        let mut exchanges: Vec<_> = exchanges.into_iter().collect();
        exchanges.sort_by_key(|(entry, _)| (arrival(&entry.id), entry.at));
        let entries: Vec<_> =
            exchanges.into_iter().map(|(entry, capture)| self.entry(&entry, capture)).collect();
        json!({"log": {
            "version": "1.2",
            "creator": {"name": "pleo-proxy", "version": env!("CARGO_PKG_VERSION")},
            "comment": COMMENT,
            "entries": entries,
        }})
    }

    fn entry(&self, entry: &Entry, capture: Option<Capture>) -> Value {
        let capture = capture.unwrap_or_default();
        let timings = Timings::of(entry);
        json!({
            "startedDateTime": Timestamp::from_millisecond(entry.at).unwrap_or_default().to_string(),
            "time": timings.total(),
            "request": self.request(entry, &capture.request),
            "response": self.response(entry, &capture.response),
            "cache": {},
            "timings": timings.json(),
            "_pleoProxy": self.extension(entry),
        })
    }

    fn request(&self, entry: &Entry, part: &Part) -> Value {
        let path = self.redactor.text(&entry.path);
        let pairs: Vec<_> = entry.query.iter().map(|name| self.parameter(name)).collect();
        let query: Vec<_> = pairs
            .iter()
            .map(
                |(name, value)| {
                    if name.is_empty() { (*value).to_owned() } else { format!("{name}={value}") }
                },
            )
            .collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let mut request = json!({
            "method": self.redactor.text(entry.method.as_deref().unwrap_or_default()),
            "url": format!("{}{path}{query}", self.api),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": self.headers(part),
            "queryString":
                pairs.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
            "headersSize": UNKNOWN,
            "bodySize": entry.bytes_in,
        });
        if entry.bytes_in > 0 || part.body.is_some() || part.body_note.is_some() {
            request["postData"] = self.post_data(part);
        }
        request
    }

    /// Name and masked value of a parameter. What stands without a name may be a value.
    fn parameter(&self, name: &str) -> (String, &'static str) {
        let name = if name == "*" { String::new() } else { self.redactor.text(name).into_owned() };
        (name, MASK)
    }

    fn post_data(&self, part: &Part) -> Value {
        let mut data =
            json!({"mimeType": self.media_type(part), "params": [], "text": self.body(part)});
        if part.body.is_none() {
            data["comment"] = self.note(part).into();
        }
        data
    }

    fn response(&self, entry: &Entry, part: &Part) -> Value {
        let status = entry.status.unwrap_or_default();
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let mut content = json!({"size": entry.bytes_out, "mimeType": self.media_type(part)});
        match &part.body {
            Some(_) => content["text"] = self.body(part).into(),
            None if entry.bytes_out > 0 => content["comment"] = self.note(part).into(),
            None => {}
        }
        let location = part.header("location").unwrap_or_default();
        json!({
            "status": status,
            "statusText": reason.unwrap_or_default(),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": self.headers(part),
            "content": content,
            "redirectURL": self.redactor.header("location", location),
            "headersSize": UNKNOWN,
            "bodySize": if entry.complete { i64::try_from(entry.bytes_out).unwrap_or(UNKNOWN) } else { UNKNOWN },
        })
    }

    fn headers(&self, part: &Part) -> Vec<Value> {
        let header = |(name, value): &(String, String)| {
            json!({
                "name": self.redactor.text(name), "value": self.redactor.header(name, value),
            })
        };
        part.headers.iter().map(header).collect()
    }

    fn media_type(&self, part: &Part) -> String {
        self.redactor.text(part.header("content-type").unwrap_or("x-unknown")).into_owned()
    }

    fn note(&self, part: &Part) -> String {
        self.redactor.text(part.body_note.as_deref().unwrap_or("not captured")).into_owned()
    }

    /// What was captured has been redacted as what it is; this finds what has become known since.
    fn body(&self, part: &Part) -> String {
        self.redactor.text(part.body.as_deref().unwrap_or_default()).into_owned()
    }

    /// The whole entry, but for what the standard fields say.
    fn extension(&self, entry: &Entry) -> Value {
        let mut fields = match serde_json::to_value(entry) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        for standard in ["at", "method", "path", "query", "status", "bytes_in", "bytes_out"] {
            fields.remove(standard);
        }
        self.redactor.json(&Value::Object(fields))
    }
}

/// The number of the arrival in an id such as `3fa9c1-17`.
fn arrival(id: &str) -> Option<u64> {
    id.rsplit_once('-')?.1.parse().ok()
}

/// The phases of an exchange in milliseconds; none for what did not happen.
struct Timings {
    /// For a token.
    blocked: Option<f64>,
    connect: Option<f64>,
    wait: f64,
    receive: f64,
}

impl Timings {
    fn of(entry: &Entry) -> Self {
        let token = entry.token_ms.unwrap_or_default();
        let connected = entry.connected_ms.unwrap_or(token).max(token);
        let head = entry.head_ms.unwrap_or(connected).max(connected);
        let end = entry.total_ms.unwrap_or(head).max(head);
        Self {
            blocked: entry.token_ms,
            connect: entry.connected_ms.map(|_| connected - token),
            wait: head - connected,
            receive: end - head,
        }
    }

    fn total(&self) -> f64 {
        let phases = [self.blocked, self.connect, Some(self.wait), Some(self.receive)];
        micros(phases.into_iter().flatten().sum())
    }

    fn json(&self) -> Value {
        let phase = |phase: Option<f64>| phase.map_or(-1.0, micros);
        json!({
            "blocked": phase(self.blocked), "dns": -1, "connect": phase(self.connect), "ssl": -1,
            "send": 0, "wait": micros(self.wait), "receive": micros(self.receive),
        })
    }
}

/// Without the noise of floating point.
fn micros(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redaction::KnownSecrets;
    use crate::secret::AccessToken;

    fn entry() -> Entry {
        Entry {
            id: "3fa9c1-17".into(),
            at: 1_790_000_000_123,
            account: Some("acme".into()),
            method: Some("POST".into()),
            path: "/v1/vendors".into(),
            query: vec!["limit".into(), "*".into()],
            status: Some(403),
            complete: true,
            bytes_in: 20,
            bytes_out: 35,
            token_ms: Some(0.1),
            connected_ms: Some(0.3),
            head_ms: Some(30.5),
            total_ms: Some(31.0),
            ..Entry::default()
        }
    }

    fn capture(secret: &str) -> Capture {
        let json = ("content-type".to_owned(), "application/json".to_owned());
        Capture {
            request: Part {
                headers: vec![json.clone(), ("authorization".into(), format!("Bearer {secret}"))],
                body: Some(format!("{{\"note\":\"{secret}\"}}")),
                body_note: None,
            },
            response: Part {
                headers: vec![json],
                body: None,
                body_note: Some("left out: 35 bytes of application/pdf".into()),
            },
        }
    }

    fn archive(exchanges: Vec<(Entry, Option<Capture>)>, known: &KnownSecrets) -> Value {
        let redactor = Redactor::new(known.clone());
        HarWriter { api: "https://external.pleo.io", redactor: &redactor }.archive(exchanges)
    }

    /// The fields that HAR 1.2 requires, and their types.
    fn assert_valid(har: &Value) {
        let log = &har["log"];
        assert_eq!(log["version"], "1.2");
        assert!(log["creator"]["name"].is_string() && log["creator"]["version"].is_string());
        assert!(log["comment"].as_str().unwrap().contains("Sanitised"));
        for entry in log["entries"].as_array().unwrap() {
            let started = entry["startedDateTime"].as_str().unwrap();
            assert!(started.parse::<Timestamp>().is_ok(), "{started}");
            assert!(entry["time"].as_f64().unwrap() >= 0.0 && entry["cache"].is_object());
            for message in [&entry["request"], &entry["response"]] {
                assert!(message["httpVersion"].is_string() && message["cookies"].is_array());
                assert!(message["headersSize"].is_i64() && message["bodySize"].is_i64());
                for pair in message["headers"].as_array().unwrap() {
                    assert!(pair["name"].is_string() && pair["value"].is_string());
                }
            }
            let request = &entry["request"];
            assert!(request["method"].is_string() && request["queryString"].is_array());
            assert!(request["url"].as_str().unwrap().parse::<url::Url>().is_ok());
            if let Some(data) = request.get("postData") {
                assert!(
                    data["mimeType"].is_string()
                        && data["text"].is_string()
                        && data["params"].is_array()
                );
            }
            let response = &entry["response"];
            assert!(response["status"].is_u64() && response["statusText"].is_string());
            assert!(response["redirectURL"].is_string());
            assert!(
                response["content"]["size"].is_u64() && response["content"]["mimeType"].is_string()
            );
            let timings = &entry["timings"];
            for phase in ["send", "wait", "receive"] {
                assert!(timings[phase].as_f64().unwrap() >= 0.0, "{phase}");
            }
            let phases = timings.as_object().unwrap().values().filter_map(Value::as_f64);
            let sum: f64 = phases.filter(|phase| *phase > 0.0).sum();
            assert!((sum - entry["time"].as_f64().unwrap()).abs() < 0.01);
        }
    }

    #[test]
    fn an_archive_is_valid_and_says_that_it_is_sanitised() {
        let refused = Entry { id: "3fa9c1-18".into(), ..Entry::default() };
        let har =
            archive(vec![(refused, None), (entry(), Some(capture("x")))], &KnownSecrets::default());
        assert_valid(&har);
        let first = &har["log"]["entries"][0];
        assert_eq!(first["startedDateTime"], "2026-09-21T14:13:20.123Z");
        assert_eq!(
            first["request"]["url"],
            "https://external.pleo.io/v1/vendors?limit=[redacted]&[redacted]"
        );
        assert_eq!(first["response"]["statusText"], "Forbidden");
        assert_eq!(
            first["response"]["content"]["comment"],
            "left out: 35 bytes of application/pdf"
        );
        assert_eq!(first["timings"]["wait"], 30.2);
        assert_eq!(first["_pleoProxy"]["id"], "3fa9c1-17");
        assert_eq!(first["_pleoProxy"]["account"], "acme");
        assert_eq!(har["log"]["entries"][1]["response"]["status"], 0);
    }

    #[test]
    fn no_secret_is_left_wherever_it_came_in() {
        let secret = "sbx-access-of-long-ago";
        let known = KnownSecrets::default();
        known.learn(&AccessToken::new(secret));
        let leaky = Entry {
            path: format!("/v1/{secret}"),
            query: vec![secret.into()],
            user_agent: Some(format!("agent {secret}")),
            hint: Some(secret.into()),
            traceparent: Some(secret.into()),
            ..entry()
        };
        let har = archive(vec![(leaky, Some(capture(secret)))], &known);
        assert_valid(&har);
        assert!(!har.to_string().contains(secret), "{har}");
    }
}
