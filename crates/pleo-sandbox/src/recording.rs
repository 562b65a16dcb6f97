//! Answers from a recording (HAR 1.2) in place of the made-up data, for programs that are tested
//! against what Pleo really answered. No credential is needed.
//!
//! A request is looked up by method, path, query in any order, and body, if its body was recorded.
//! Where a value was taken out of the recording (`[redacted]`), any value fits. What was asked more
//! than once is answered in the recorded order, then with the last answer again.

mod archive;
mod asked;

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use url::Url;

use super::response::Problem;
use super::state::SandboxState;
use archive::Exchange;
pub use archive::RecordingError;
use asked::{Asked, fits_mask, fits_path};

const MAX_BODY: usize = 2 << 20;
/// How the API is asked whose a login is, which a proxy does before it serves anything. The
/// sandbox answers itself unless it is in the recording.
const INTROSPECT: &str = "/v1/introspect";
/// What was recorded, and what of it has been answered.
#[derive(Debug)]
pub struct Recording {
    exchanges: Vec<Exchange>,
    /// By the numbers of exchanges that fit a request: how many of them were answered.
    answered: Mutex<HashMap<Vec<usize>, usize>>,
}

impl Recording {
    /// Reads a recording. Exchanges without a response are left out.
    ///
    /// # Errors
    /// [`RecordingError`] names the place.
    pub fn read(har: &[u8]) -> Result<Self, RecordingError> {
        Ok(Self { exchanges: archive::read(har)?, answered: Mutex::default() })
    }

    /// How many requests it answers.
    pub fn len(&self) -> usize {
        self.exchanges.len()
    }

    /// True if it answers nothing.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// How many responses were recorded without their bodies, so that they cannot be given.
    pub fn without_body(&self) -> usize {
        self.exchanges.iter().filter(|exchange| exchange.body.is_err()).count()
    }

    /// The numbers of the exchanges that fit a request. What was recorded exactly comes before what
    /// fits because a value was taken out, and any answer before one that cannot be given: the same
    /// may have been asked before its capture began.
    fn fitting(&self, asked: &Asked) -> Vec<usize> {
        let numbered = || self.exchanges.iter().enumerate();
        let fits = |is_fitting: fn(&str, &str) -> bool, is_whole: bool| -> Vec<usize> {
            numbered()
                .filter(|(_, exchange)| !is_whole || exchange.body.is_ok())
                .filter(|(_, exchange)| exchange.request.fits(asked, is_fitting))
                .map(|(number, _)| number)
                .collect()
        };
        let exactly: fn(&str, &str) -> bool = |recorded, live| recorded == live;
        let ways = [(exactly, true), (fits_mask, true), (exactly, false), (fits_mask, false)];
        let mut found = ways.into_iter().map(|(is_fitting, is_whole)| fits(is_fitting, is_whole));
        found.find(|fitting| !fitting.is_empty()).unwrap_or_default()
    }

    fn answer(&self, asked: &Asked) -> Response {
        let fitting = self.fitting(asked);
        let Some(last) = fitting.last().copied() else { return self.unknown(asked) };
        let mut answered = self.answered.lock();
        let count = answered.entry(fitting.clone()).or_default();
        let number = fitting.get(*count).copied().unwrap_or(last);
        *count = count.saturating_add(1);
        drop(answered);
        self.exchanges[number].response()
    }

    fn unknown(&self, asked: &Asked) -> Response {
        let nearest = self.exchanges.iter().min_by_key(|exchange| exchange.request.distance(asked));
        let message = match nearest {
            Some(nearest) => {
                let recorded = &nearest.request;
                let differs = recorded.difference(asked);
                format!("{asked} is not in the recording; the nearest is {recorded}: {differs}")
            }
            None => format!("{asked} is not in the recording, which is empty"),
        };
        Problem::new(StatusCode::NOT_IMPLEMENTED, "NOT_RECORDED", message).into_response()
    }

    fn knows(&self, method: &Method, path: &str) -> bool {
        let is_known = |asked: &Asked| {
            asked.method == method.as_str() && fits_path(&asked.path, path, fits_mask)
        };
        self.exchanges.iter().any(|exchange| is_known(&exchange.request))
    }
}

/// Answers from the recording, if the sandbox has one.
pub(crate) async fn replay(
    State(sandbox): State<Arc<SandboxState>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(recording) = &sandbox.options.recording else { return next.run(request).await };
    let path = request.uri().path();
    if path == INTROSPECT && !recording.knows(request.method(), path) {
        return next.run(request).await;
    }
    sandbox.live().counters.api_requests += 1;
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let url = Url::parse(&format!("http://localhost{target}"));
    let (Ok(url), Ok(body)) = (url, to_bytes(body, MAX_BODY).await) else {
        return Problem::invalid("the request cannot be read, or its body is longer than 2 MiB")
            .into_response();
    };
    recording.answer(&Asked::new(parts.method.to_string(), &url, Some(body.to_vec())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn exchange(method: &str, url: &str, body: Option<&str>, answer: &str) -> Value {
        let post_data = body.map(|body| json!({"mimeType": "application/json", "text": body}));
        json!({
            "request": {"method": method, "url": url, "postData": post_data},
            "response": {
                "status": 200, "headers": [{"name": "Content-Type", "value": "text/plain"}],
                "content": {"size": answer.len(), "mimeType": "text/plain", "text": answer},
            },
        })
    }

    fn recording(entries: Vec<Value>) -> Recording {
        Recording::read(json!({"log": {"entries": entries}}).to_string().as_bytes()).unwrap()
    }

    async fn ask(recording: &Recording, method: &str, target: &str, body: &str) -> (u16, String) {
        let url = Url::parse(&format!("http://localhost{target}")).unwrap();
        let asked = Asked::new(method.into(), &url, Some(body.into()));
        let response = recording.answer(&asked);
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn repeated_requests_are_answered_in_order_then_with_the_last_again() {
        let url = "https://external.pleo.io/v1/jobs?b=2&a=1";
        let recording = recording(vec![
            exchange("GET", url, None, "first"),
            exchange("POST", url, None, "post"),
            exchange("GET", url, None, "second"),
        ]);
        for expected in ["first", "second", "second"] {
            let answer = ask(&recording, "GET", "/v1/jobs?a=1&b=2", "").await;
            assert_eq!(answer, (200, expected.into()));
        }
        assert_eq!(ask(&recording, "POST", "/v1/jobs?b=2&a=1", "x").await.1, "post");
        assert_eq!(
            (recording.len(), recording.is_empty(), recording.without_body()),
            (3, false, 0)
        );
    }

    #[tokio::test]
    async fn an_answer_without_its_body_is_left_out_if_there_is_one_with_it() {
        let mut bare = exchange("GET", "/v1/x", None, "");
        bare["response"]["content"] = json!({"size": 5, "mimeType": "text/plain"});
        let full = exchange("GET", "/v1/x", None, "full");
        let masked = exchange("GET", "/v1/y?a=[redacted]", None, "masked");
        let mut exact = bare.clone();
        exact["request"]["url"] = json!("/v1/y?a=1");
        let recording = recording(vec![bare.clone(), full, bare, masked, exact]);
        for _ in 0..3 {
            assert_eq!(ask(&recording, "GET", "/v1/x", "").await, (200, "full".into()));
        }
        assert_eq!(ask(&recording, "GET", "/v1/y?a=1", "").await, (200, "masked".into()));
    }

    #[tokio::test]
    async fn pages_whose_cursors_were_taken_out_are_answered_in_the_recorded_order() {
        let recording = recording(vec![
            exchange("GET", "/v1/x?limit=[redacted]", None, "first"),
            exchange("GET", "/v1/x?after=[redacted]&limit=[redacted]", None, "second"),
            exchange("GET", "/v1/x?after=[redacted]&limit=[redacted]", None, "third"),
        ]);
        for (target, answer) in [
            ("/v1/x?limit=2", "first"),
            ("/v1/x?limit=2&after=A", "second"),
            ("/v1/x?after=B&limit=2", "third"),
        ] {
            assert_eq!(ask(&recording, "GET", target, "").await.1, answer);
        }
    }

    #[tokio::test]
    async fn bodies_are_compared_as_json_and_masks_fit_anything() {
        let recording = recording(vec![
            exchange("POST", "/v1/x", Some(r#"{"a": 1, "b": "[redacted]"}"#), "masked"),
            exchange("POST", "/v1/x", Some(r#"{"a":1,"b":"exact"}"#), "exact"),
            exchange("GET", "/v1/y/[redacted]?limit=[redacted]&c=2", None, "masked"),
            exchange("GET", "/v1/z?[redacted]", None, "bare"),
        ]);
        assert_eq!(ask(&recording, "POST", "/v1/x", r#"{"b":"exact","a":1}"#).await.1, "exact");
        assert_eq!(ask(&recording, "POST", "/v1/x", r#"{"b":"other","a":1}"#).await.1, "masked");
        assert_eq!(ask(&recording, "POST", "/v1/x", r#"{"b":7,"a":1}"#).await.1, "masked");
        assert_eq!(ask(&recording, "POST", "/v1/x", r#"{"b":"other","a":2}"#).await.0, 501);
        assert_eq!(ask(&recording, "GET", "/v1/y/8a?c=2&limit=5", "").await.1, "masked");
        assert_eq!(ask(&recording, "GET", "/v1/y/8a?c=3&limit=5", "").await.0, 501);
        assert_eq!(ask(&recording, "GET", "/v1/z?anything", "").await.1, "bare");
        assert_eq!(ask(&recording, "GET", "/v1/z", "").await.0, 501);
    }

    #[tokio::test]
    async fn an_unknown_request_is_refused_with_the_nearest_one() {
        let recording = recording(vec![
            exchange("GET", "/v1/companies", None, ""),
            exchange("GET", "/v1/vendors?limit=10", None, ""),
            exchange("POST", "/v1/vendors", Some("{}"), ""),
        ]);
        for (method, target, body, nearest) in [
            ("GET", "/v1/vendors?limit=5", "", "GET /v1/vendors?limit=10: its query differs"),
            ("GET", "/v1/vendor", "", "GET /v1/companies: its path differs"),
            ("POST", "/v1/vendors", "{\"a\":1}", "POST /v1/vendors: its body differs"),
            ("PUT", "/v1/companies", "", "GET /v1/companies: its method differs"),
        ] {
            let (status, answer) = ask(&recording, method, target, body).await;
            assert_eq!(status, 501);
            assert!(
                answer.contains(&format!("{method} {target} is not in the recording")),
                "{answer}"
            );
            assert!(answer.contains(nearest), "{answer}");
        }
        let empty = Recording::read(b"{\"log\":{\"entries\":[]}}").unwrap();
        assert!(ask(&empty, "GET", "/", "").await.1.contains("which is empty"));
    }

    #[tokio::test]
    async fn status_type_and_body_are_as_recorded() {
        let recording = recording(vec![
            json!({"request": {"method": "GET", "url": "/a"}, "response": {
                "status": 429, "headers": [{"name": "retry-after", "value": "7"}, {"name": "date", "value": "x"}],
                "content": {"mimeType": "application/pdf", "size": 3, "text": "AP8B", "encoding": "base64"}}}),
            json!({"request": {"method": "GET", "url": "/b"}, "response": {
                "status": 200, "content": {"size": 5, "mimeType": "x-unknown", "comment": "left out: 5 bytes"}}}),
            json!({"request": {"method": "GET", "url": "/c"}, "response": {"status": 0}}),
        ]);
        let asked = |path: &str| {
            let url = Url::parse(&format!("http://localhost{path}")).unwrap();
            recording.answer(&Asked::new("GET".into(), &url, None))
        };
        let response = asked("/a");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["content-type"], "application/pdf");
        assert_eq!(response.headers()["retry-after"], "7");
        assert!(!response.headers().contains_key("date"));
        assert_eq!(*to_bytes(response.into_body(), 9).await.unwrap(), *b"\0\xff\x01");
        assert_eq!(ask(&recording, "GET", "/b", "").await.0, 501);
        let refused = ask(&recording, "GET", "/b", "").await.1;
        assert!(refused.contains("left out: 5 bytes"), "{refused}");
        assert!(refused.contains("--filter is:captured"), "{refused}");
        assert!(ask(&recording, "GET", "/c", "").await.1.contains("is not in the recording"));
        assert_eq!(recording.without_body(), 1);
    }

    #[test]
    fn a_bad_archive_is_refused_with_its_place() {
        let entry = |request: Value, response: Value| {
            json!({"log": {"entries": [exchange("GET", "/", None, ""), {"request": request, "response": response}]}})
                .to_string()
        };
        let request = json!({"method": "GET", "url": "/"});
        for (har, place) in [
            ("{\"log\":\n{]".to_owned(), "line 2, column 2: "),
            ("{}".to_owned(), "line 1, column 2: "),
            (entry(json!(null), json!({})), "log.entries[1].request: "),
            (
                entry(json!({"method": "GET"}), json!({})),
                "log.entries[1].request: missing field `url`",
            ),
            (
                entry(json!({"method": "GET", "url": "http://["}), json!({"status": 200})),
                "log.entries[1].request.url: ",
            ),
            (entry(request.clone(), json!({})), "log.entries[1].response: missing field `status`"),
            (
                entry(request.clone(), json!({"status": 20})),
                "log.entries[1].response.status: 20 is no status",
            ),
            (
                entry(
                    request.clone(),
                    json!({"status": 200, "headers": [{"name": "ETag", "value": "a\nb"}]}),
                ),
                "log.entries[1].response.headers[0].value: ",
            ),
            (
                entry(
                    request.clone(),
                    json!({"status": 200, "content": {"text": "?", "encoding": "base64"}}),
                ),
                "log.entries[1].response.content.text: ",
            ),
            (
                entry(
                    request.clone(),
                    json!({"status": 200, "content": {"text": "?", "encoding": "gzip"}}),
                ),
                "log.entries[1].response.content.encoding: ",
            ),
        ] {
            let error = Recording::read(har.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
    }
}
