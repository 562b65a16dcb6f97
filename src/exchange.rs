//! One request, from its arrival to the last byte of its response.
//!
//! An [`Exchange`] begins when the head of a request was read: before the guard, and also for what
//! the peer check, the connection limit or hyper refuses. The future that answers owns it, then the
//! response body. However it goes, dropping the exchange ends it: `Exchange::end` is the only place
//! where a request is counted and logged and where its connection stops serving.

pub mod activity;
mod caller;
pub mod incoming_body;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tracing::{Level, debug, enabled};

use crate::problem::{Code, Problem};
use crate::store::AccountName;
use activity::{Activity, Phase};
pub use caller::Caller;

/// A request that is being answered.
#[derive(Debug)]
pub struct Exchange {
    activity: Arc<Activity>,
    /// Set if the response is a problem of the proxy's own.
    problem: Option<Code>,
    /// Only while somebody reads it: with debug logs.
    record: Option<Box<Record>>,
}

/// Who made a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Responder {
    Proxy,
    Pleo,
}

/// Everything that is told about an exchange.
#[derive(Clone, Debug)]
struct Record {
    arrived: Instant,
    /// None if the request was malformed.
    method: Option<Method>,
    target: Option<PathAndQuery>,
    user_agent: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    account: Option<AccountName>,
    /// None if the caller left before there was a response.
    status: Option<StatusCode>,
    responder: Responder,
    response_bytes: u64,
    /// The response ended as it should.
    is_complete: bool,
    times: Times,
    is_sent_again: bool,
    /// Generation of the grant whose token was sent.
    generation: Option<u64>,
}

/// When the latest attempt to send got how far, measured from the arrival of the request.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    token: Option<Duration>,
    connected: Option<Duration>,
    head: Option<Duration>,
}

impl Exchange {
    /// A request has arrived.
    pub fn begin<B>(activity: &Arc<Activity>, request: &Request<B>) -> Self {
        activity.enter(Phase::Serving);
        activity.mark_requested();
        let record = is_recorded(activity).then(|| {
            let (headers, mut record) = (request.headers(), Record::new());
            record.method = Some(request.method().clone());
            record.target = request.uri().path_and_query().cloned();
            record.user_agent = headers.get(USER_AGENT).cloned();
            record.traceparent = headers.get("traceparent").cloned();
            Box::new(record)
        });
        Self { activity: activity.clone(), problem: None, record }
    }

    /// Something has arrived that is no valid request.
    pub fn malformed(activity: &Arc<Activity>) -> Self {
        let record = is_recorded(activity).then(|| Box::new(Record::new()));
        Self { activity: activity.clone(), problem: None, record }
    }

    /// The connection it came on.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The request goes to this account.
    pub fn set_account(&mut self, name: &AccountName) {
        self.note(|record| record.account = Some(name.clone()));
    }

    /// A token of this generation is there.
    pub fn token_received(&mut self, generation: u64) {
        self.note(|record| {
            record.generation = Some(generation);
            record.times.token = Some(record.arrived.elapsed());
        });
    }

    /// A connection to the API is there.
    pub fn connected(&mut self) {
        self.note(|record| record.times.connected = Some(record.arrived.elapsed()));
    }

    /// The head of a response of the API is there.
    pub fn head_received(&mut self) {
        self.note(|record| record.times.head = Some(record.arrived.elapsed()));
    }

    /// The request is sent once more.
    pub fn sent_again(&mut self) {
        self.note(|record| record.is_sent_again = true);
    }

    /// The response is the API's.
    pub fn passed_on(&mut self) {
        self.note(|record| record.responder = Responder::Pleo);
    }

    /// The response is a problem of the proxy's own.
    pub fn refuse(&mut self, problem: Problem) -> Response<Bytes> {
        self.problem = Some(problem.code);
        problem.into_response()
    }

    /// The head of a response goes to the caller, and nothing else if it `is_end`.
    pub fn respond(&mut self, status: StatusCode, is_end: bool) {
        self.note(|record| {
            record.status = Some(status);
            record.is_complete = is_end || record.method == Some(Method::HEAD);
        });
    }

    /// Part of the response body goes to the caller; the last one if `is_end`.
    pub fn sent(&mut self, bytes: usize, is_end: impl FnOnce() -> bool) {
        self.note(|record| {
            record.response_bytes += bytes as u64;
            record.is_complete = is_end();
        });
    }

    fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// The one end of every request.
    fn end(&mut self) {
        if self.activity.phase() == Phase::Serving {
            self.activity.enter(Phase::Flushing);
        }
        if let (Some(code), Some(metrics)) = (self.problem, &self.activity.metrics) {
            metrics.refused(code.as_str());
        }
        if let Some(record) = &self.record {
            log(record, self.problem, &self.activity);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

impl Record {
    fn new() -> Self {
        Self {
            arrived: Instant::now(),
            method: None,
            target: None,
            user_agent: None,
            traceparent: None,
            account: None,
            status: None,
            responder: Responder::Proxy,
            response_bytes: 0,
            is_complete: false,
            times: Times::default(),
            is_sent_again: false,
            generation: None,
        }
    }
}

/// Requests of the admin listener are not recorded.
fn is_recorded(activity: &Activity) -> bool {
    activity.metrics.is_some() && enabled!(Level::DEBUG)
}

fn log(record: &Record, problem: Option<Code>, activity: &Activity) {
    let Times { token, connected, head } = record.times;
    debug!(
        method = record.method.as_ref().map(Method::as_str),
        target = record.target.as_ref().map(without_values),
        status = record.status.map(|status| status.as_u16()),
        code = problem.map(Code::as_str),
        by = <&str>::from(record.responder),
        account = record.account.as_ref().map(display),
        generation = record.generation,
        sent_again = record.is_sent_again,
        complete = record.is_complete,
        bytes_in = activity.unread_body.received(),
        bytes_out = record.response_bytes,
        token = token.map(debug),
        connected = connected.map(debug),
        head = head.map(debug),
        total = debug(record.arrived.elapsed()),
        caller = debug(&activity.caller),
        user_agent = record.user_agent.as_ref().map(debug),
        traceparent = record.traceparent.as_ref().map(debug),
        "exchange"
    );
}

/// Path and the names in the query; what stands for a value is left out.
fn without_values(target: &PathAndQuery) -> String {
    let names = target.query().map(|query| {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}=*"),
            // Whether it is a name or a value nobody knows.
            None => "*".to_owned(),
        });
        format!("?{}", names.collect::<Vec<_>>().join("&"))
    });
    format!("{}{}", target.path(), names.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::telemetry::Metrics;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    fn logged(run: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, run);
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn connection(metrics: Option<Arc<Metrics>>) -> Arc<Activity> {
        let caller = Caller::Tcp {
            local: "127.0.0.1:8088".parse().unwrap(),
            peer: "127.0.0.1:50000".parse().unwrap(),
        };
        Activity::new(caller, metrics, Instant::now(), None)
    }

    fn request(target: &str) -> Request<()> {
        Request::get(target)
            .header("user-agent", "curl/8.0")
            .header("traceparent", "00-4bf92f35-01")
            .header("authorization", "Bearer hidden-token")
            .body(())
            .unwrap()
    }

    fn assert_has(line: &str, parts: &[&str]) {
        for part in parts {
            assert!(line.split(' ').any(|field| field == *part), "{part}: {line}");
        }
    }

    #[test]
    fn a_forwarded_request_is_logged_once_with_all_its_facts_and_no_values() {
        let activity = connection(Some(Arc::default()));
        let lines = logged(|| {
            let mut exchange =
                Exchange::begin(&activity, &request("/@acme/v1/x?key=hidden&a=&hidden"));
            exchange.set_account(&"acme".parse().unwrap());
            exchange.token_received(7);
            exchange.connected();
            exchange.sent_again();
            exchange.head_received();
            exchange.passed_on();
            exchange.respond(StatusCode::CREATED, false);
            exchange.sent(10, || false);
            exchange.sent(5, || true);
            assert_eq!(activity.phase(), Phase::Serving);
        });
        assert_eq!(activity.phase(), Phase::Flushing);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert_has(
            line,
            &[
                "DEBUG",
                "exchange",
                "method=\"GET\"",
                "target=\"/@acme/v1/x?key=*&a=*&*\"",
                "status=201",
                "by=\"pleo\"",
                "account=acme",
                "generation=7",
                "sent_again=true",
                "complete=true",
                "bytes_in=0",
                "bytes_out=15",
                "user_agent=\"curl/8.0\"",
                "traceparent=\"00-4bf92f35-01\"",
                "peer:",
                "127.0.0.1:50000",
            ],
        );
        for time in [" token=", " connected=", " head=", " total="] {
            assert!(line.contains(time), "{time}: {line}");
        }
        assert!(!line.contains("hidden") && !line.contains(" code="), "{line}");
    }

    #[test]
    fn a_refusal_is_counted_by_code_and_logged_also_if_the_request_was_malformed() {
        let metrics = Arc::<Metrics>::default();
        let activity = connection(Some(metrics.clone()));
        let lines = logged(|| {
            for mut exchange in
                [Exchange::begin(&activity, &request("/v1/x")), Exchange::malformed(&activity)]
            {
                let problem = Problem::new(Code::BadRequest, "detail", "fix");
                let response = exchange.refuse(problem);
                exchange.respond(response.status(), true);
            }
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert_has(line, &["status=400", "code=\"bad_request\"", "by=\"proxy\""]);
        }
        assert!(!lines[1].contains("method=") && !lines[1].contains("target="), "{}", lines[1]);
        let text = metrics.text(std::iter::empty(), std::iter::empty()).unwrap();
        assert!(text.contains("refused_requests_total{code=\"bad_request\"} 2"), "{text}");
    }

    #[test]
    fn an_exchange_that_is_dropped_half_way_ends_without_a_status() {
        let activity = connection(Some(Arc::default()));
        let lines = logged(|| drop(Exchange::begin(&activity, &request("/v1/x"))));
        assert_eq!(activity.phase(), Phase::Flushing);
        assert!(lines[0].contains("complete=false") && !lines[0].contains("status="), "{lines:?}");
    }

    #[test]
    fn a_malformed_request_leaves_the_phase_alone() {
        let activity = connection(None);
        activity.enter(Phase::ReadingHead);
        drop(Exchange::malformed(&activity));
        assert_eq!(activity.phase(), Phase::ReadingHead);
    }

    #[test]
    fn nothing_is_recorded_unless_debug_logs_are_on_and_never_on_the_admin_listener() {
        let data = connection(Some(Arc::default()));
        assert!(Exchange::begin(&data, &request("/v1/x")).record.is_none());
        let admin = connection(None);
        let lines = logged(|| drop(Exchange::begin(&admin, &request("/callback?code=hidden"))));
        assert!(lines.is_empty(), "{lines:?}");
        // It moves with the request and then with the body: it has to stay small.
        assert!(size_of::<Exchange>() <= 24, "{}", size_of::<Exchange>());
    }
}
