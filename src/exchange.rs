//! One request, from its arrival to the last byte of its response.
//!
//! An [`Exchange`] begins when the head of a request was read: before the guard, and also for what
//! the peer check, the connection limit or hyper refuses. The future that answers owns it, then the
//! response body. However it goes, dropping the exchange ends it: `Exchange::end` is the only place
//! where a request is counted and logged and where its connection stops serving.

pub mod activity;
mod caller;
pub mod capture;
pub mod incoming_body;
pub mod record;
pub mod recorder;
pub mod target;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::Instant;
use tracing::{Level, debug, enabled};

use crate::problem::{Code, Problem};
use crate::redaction::Redactor;
use crate::store::AccountName;
use activity::{Activity, Phase};
pub use caller::{Caller, Client, Program};
use capture::CapturedBody;
use record::{Record, Responder, Times};
use recorder::Recording;
use target::ShownTarget;

/// Names the request in the log.
const ID_HEADER: HeaderName = HeaderName::from_static("pleo-proxy-request");

/// A request that is being answered.
#[derive(Debug)]
pub struct Exchange {
    activity: Arc<Activity>,
    /// None for requests of the admin listener, which are not recorded.
    recording: Option<Recording>,
}

impl Exchange {
    /// A request has arrived.
    pub fn begin<B>(activity: &Arc<Activity>, request: &Request<B>) -> Self {
        activity.enter(Phase::Serving);
        activity.mark_requested();
        let recorder = activity.recorder();
        let recording = recorder.map(|recorder| recorder.begin(&activity.client, request));
        Self { activity: activity.clone(), recording }
    }

    /// Something has arrived that is no valid request.
    pub fn malformed(activity: &Arc<Activity>) -> Self {
        let recorder = activity.recorder();
        let recording = recorder.map(|recorder| recorder.begin_malformed(&activity.client));
        Self { activity: activity.clone(), recording }
    }

    /// The connection it came on.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// When the request arrived.
    pub fn arrival(&self) -> Instant {
        self.recording.as_ref().map_or_else(Instant::now, |recording| recording.record.arrival.at)
    }

    /// Where the request body is to be copied to, if it is captured.
    pub fn captured_body(&self) -> Option<Arc<CapturedBody>> {
        Some(self.recording.as_ref()?.record.capture.as_ref()?.request.body.clone())
    }

    /// True if the response is to be readable for those who look at what was captured.
    pub fn wants_plain_body(&self) -> bool {
        let capture = self.recording.as_ref().and_then(|it| it.record.capture.as_ref());
        capture.is_some_and(|capture| capture.is_plain)
    }

    /// The request goes to this account.
    pub fn set_account(&mut self, name: &AccountName) {
        let Some(recording) = &mut self.recording else { return };
        recording.record.arrival.set_account(name);
        recording.record.forget_foreign_capture();
    }

    /// A token of this generation is there; the request waited for it if it `is_held`.
    pub fn token_received(&mut self, generation: u64, is_held: bool) {
        self.note(|record| {
            record.is_held |= is_held;
            record.generation = Some(generation);
            let now = Some(record.arrival.at.elapsed());
            record.times.leased = now;
            // What an attempt before this one has reached says nothing of this one.
            (record.times.connected, record.times.head) = (None, None);
            if is_held || record.times.token.is_none() {
                record.times.token = now;
            }
        });
    }

    /// A connection to the API is there, and the request is sent. `is_impatient`: although Pleo
    /// has asked to wait.
    pub fn sending(&mut self, is_impatient: bool) {
        self.note(|record| {
            record.sends = record.sends.saturating_add(1);
            record.is_impatient |= is_impatient;
            // The token comes last, also where a connection was made before it.
            record.times.connected = record.times.leased;
        });
    }

    /// Nothing of the request was written: the connection had been closed.
    pub fn not_sent(&mut self) {
        self.note(|record| record.sends = record.sends.saturating_sub(1));
    }

    /// The head of a response of the API is there.
    pub fn head_received(&mut self) {
        self.note(|record| record.times.head = Some(record.arrival.at.elapsed()));
    }

    /// The response is the API's.
    pub fn passed_on(&mut self) {
        self.note(|record| record.responder = Responder::Pleo);
    }

    /// The response is a problem of the proxy's own.
    pub fn refuse(&mut self, problem: Problem) -> Response<Bytes> {
        self.note(|record| record.problem = Some(problem.code));
        problem.into_response()
    }

    /// The head of a response goes to the caller, and nothing else if it `is_end`. Adds the id of
    /// the request.
    pub fn respond(&mut self, status: StatusCode, headers: &mut HeaderMap, is_end: bool) {
        if let Some(id) = self.id_header() {
            headers.insert(ID_HEADER, id);
        }
        self.note(|record| {
            record.status = Some(status);
            record.is_complete = is_end || record.arrival.method == Some(Method::HEAD);
            if let Some(capture) = &mut record.capture {
                capture.respond(headers);
            }
        });
    }

    /// True if responses tell about their exchange in headers.
    pub fn adds_headers(&self) -> bool {
        self.activity.recorder().is_some_and(|recorder| recorder.adds_headers())
    }

    fn id_header(&self) -> Option<HeaderValue> {
        self.activity.recorder()?.id_header(self.recording.as_ref()?)
    }

    /// So many bytes of the response body go to the caller, which begin with `data`; the last ones
    /// if `is_end`.
    pub fn sent(&mut self, bytes: usize, data: &[u8], is_end: impl FnOnce() -> bool) {
        self.note(|record| {
            record.response_bytes += bytes as u64;
            record.is_complete = is_end();
            record.note_data(data);
        });
    }

    fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(recording) = &mut self.recording {
            change(&mut recording.record);
        }
    }

    /// The one end of every request.
    fn end(&mut self) {
        if self.activity.phase() == Phase::Serving {
            self.activity.enter(Phase::Flushing);
        }
        let (Some(mut recording), Some(recorder)) =
            (self.recording.take(), self.activity.recorder())
        else {
            return;
        };
        let record = &mut recording.record;
        record.request_bytes = self.activity.unread_body.received();
        record.times.end = record.arrival.at.elapsed();
        record.forget_foreign_capture();
        if let Some(code) = record.problem {
            recorder.metrics().refused(code.as_str());
        }
        if enabled!(Level::DEBUG) {
            log(record, recorder.redactor());
        }
        recorder.end(recording);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end();
    }
}

/// Callers put secrets into what they should not: only what went through the redactor is shown.
fn log(record: &Record, redactor: &Redactor) {
    let (arrival, Times { token, connected, head, end, .. }) = (&record.arrival, record.times);
    let target = || ShownTarget::new(arrival.target(), arrival.is_target_cut(), redactor);
    debug!(
        method = arrival.method.as_ref().map(|method| redactor.text(method.as_str())).as_deref(),
        target = arrival.method.as_ref().map(|_| target().to_string()),
        status = record.status.map(|status| status.as_u16()),
        code = record.problem.map(Code::as_str),
        by = <&str>::from(record.responder),
        account = arrival.account().map(tracing::field::display),
        generation = record.generation,
        sent_again = record.sends > 1,
        complete = record.is_complete,
        bytes_in = record.request_bytes,
        bytes_out = record.response_bytes,
        token = token.map(tracing::field::debug),
        connected = connected.map(tracing::field::debug),
        head = head.map(tracing::field::debug),
        total = tracing::field::debug(end),
        caller = tracing::field::debug(&arrival.client.caller),
        user_agent = arrival.user_agent().map(|it| redactor.text(it)).map(tracing::field::debug),
        traceparent = arrival.traceparent().map(|it| redactor.text(it)).map(tracing::field::debug),
        "exchange"
    );
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::recorder::Recorders;
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
        let recorders =
            metrics.map(|metrics| Recorders::new(0x3f_a9c1, true, metrics, Redactor::default()));
        connection_to(recorders.as_ref())
    }

    fn connection_to(recorders: Option<&Arc<Recorders>>) -> Arc<Activity> {
        let caller = Caller::Tcp {
            local: "127.0.0.1:8088".parse().unwrap(),
            peer: "127.0.0.1:50000".parse().unwrap(),
        };
        let activity = Activity::new(caller, Instant::now(), None);
        if let Some(recorders) = recorders {
            activity.record_with(&recorders.recorder());
        }
        activity
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
            exchange.token_received(7, true);
            exchange.sending(false);
            exchange.sending(false);
            exchange.head_received();
            exchange.passed_on();
            let mut headers = HeaderMap::new();
            exchange.respond(StatusCode::CREATED, &mut headers, false);
            assert_eq!(headers["pleo-proxy-request"], "3fa9c1-1");
            exchange.sent(10, &[0; 10], || false);
            exchange.sent(5, &[0; 5], || true);
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
                let mut response = exchange.refuse(problem);
                exchange.respond(response.status(), response.headers_mut(), true);
                assert!(response.headers().contains_key("pleo-proxy-request"));
            }
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        for line in &lines {
            assert_has(line, &["status=400", "code=\"bad_request\"", "by=\"proxy\""]);
        }
        assert!(!lines[1].contains("method=") && !lines[1].contains("target="), "{}", lines[1]);
        let mut text = String::new();
        metrics.write(&mut text, std::iter::empty(), std::iter::empty()).unwrap();
        assert!(text.contains("refused_requests_total{code=\"bad_request\"} 2"), "{text}");
    }

    #[test]
    fn an_exchange_that_is_dropped_half_way_ends_without_a_status() {
        let activity = connection(Some(Arc::default()));
        let lines = logged(|| drop(Exchange::begin(&activity, &request("/v1/x"))));
        assert_eq!(activity.phase(), Phase::Flushing);
        assert!(lines[0].contains("complete=false") && !lines[0].contains("status="), "{lines:?}");
    }

    fn ended(run: impl FnOnce(&Arc<Activity>, &Arc<Recorders>)) -> recorder::Records {
        let recorders = Recorders::new(1, true, Arc::default(), Redactor::default());
        run(&connection_to(Some(&recorders)), &recorders);
        let mut ended = recorder::Records::new();
        recorders.take_ended(&mut ended);
        ended
    }

    #[test]
    fn the_beginning_of_an_error_of_pleos_is_kept_and_of_nothing_else() {
        let answer = |status: u16, is_pleos: bool| {
            let records = ended(|activity, _| {
                let mut exchange = Exchange::begin(activity, &request("/v1/x"));
                if is_pleos {
                    exchange.passed_on();
                }
                let status = StatusCode::from_u16(status).unwrap();
                exchange.respond(status, &mut HeaderMap::new(), false);
                exchange.sent(5000, &[b'x'; 5000], || false);
                exchange.sent(5000, &[b'x'; 5000], || true);
            });
            records[0].excerpt.len()
        };
        assert_eq!((answer(403, true), answer(403, false)), (4096, 0));
        assert_eq!((answer(200, true), answer(500, true)), (0, 0));
    }

    #[test]
    fn an_attempt_that_wrote_nothing_is_no_sending() {
        let sends = |unsent: bool| {
            let records = ended(|activity, _| {
                let mut exchange = Exchange::begin(activity, &request("/v1/x"));
                exchange.sending(false);
                if unsent {
                    exchange.not_sent();
                }
                exchange.sending(false);
            });
            records[0].sends
        };
        assert_eq!((sends(true), sends(false)), (1, 2));
    }

    #[test]
    fn headers_and_bodies_are_kept_only_within_the_window_and_of_its_account() {
        let captured = |account: &str, window: Option<capture::Window>| {
            let records = ended(|activity, recorders| {
                window.into_iter().for_each(|window| recorders.capturing.start(window));
                let mut exchange = Exchange::begin(activity, &request("/v1/x"));
                let body = exchange.captured_body();
                body.iter().for_each(|body| body.push(b"{}"));
                exchange.set_account(&account.parse().unwrap());
                let mut headers = HeaderMap::new();
                headers.append("x-a", HeaderValue::from_static("1"));
                headers.append("x-a", HeaderValue::from_static("2"));
                exchange.respond(StatusCode::OK, &mut headers, false);
                exchange.sent(4, b"done", || true);
            });
            let capture = records.into_iter().next().unwrap().capture?;
            assert_eq!(capture.request.headers["user-agent"], "curl/8.0");
            assert_eq!(capture.response.headers.get_all("x-a").iter().count(), 2);
            Some((capture.request.body.bytes(), capture.response.body.bytes()))
        };
        let refused = ended(|activity, recorders| {
            let account = Some("acme".parse().unwrap());
            let until = Instant::now() + std::time::Duration::from_secs(60);
            recorders.capturing.start(capture::Window {
                until,
                until_wall: 0,
                account,
                bodies: capture::Bodies::BEGINNING,
            });
            drop(Exchange::begin(activity, &request("/v1/x")));
        });
        assert!(refused[0].capture.is_none(), "it went to no account");
        let window = |ahead: bool, account: Option<&str>| {
            let now = Instant::now();
            let until = if ahead { now + std::time::Duration::from_secs(60) } else { now };
            let account = account.map(|account| account.parse().unwrap());
            Some(capture::Window {
                until,
                until_wall: 0,
                account,
                bodies: capture::Bodies::BEGINNING,
            })
        };
        let whole = Some((b"{}".to_vec(), b"done".to_vec()));
        assert_eq!(captured("acme", window(true, None)), whole);
        assert_eq!(captured("acme", window(true, Some("acme"))), whole);
        assert_eq!(captured("acme", window(true, Some("other"))), None);
        assert_eq!(captured("acme", window(false, None)), None);
        assert_eq!(captured("acme", None), None);
    }

    #[test]
    fn a_malformed_request_leaves_the_phase_alone() {
        let activity = connection(None);
        activity.enter(Phase::ReadingHead);
        drop(Exchange::malformed(&activity));
        assert_eq!(activity.phase(), Phase::ReadingHead);
    }

    #[test]
    fn requests_of_the_admin_listener_are_not_recorded() {
        let admin = connection(None);
        let lines = logged(|| {
            let mut exchange = Exchange::begin(&admin, &request("/callback?code=hidden"));
            let mut headers = HeaderMap::new();
            exchange.respond(StatusCode::OK, &mut headers, true);
            assert!(headers.is_empty());
        });
        assert!(lines.is_empty(), "{lines:?}");
        // It moves with the request and then with the body: it has to stay small.
        assert!(size_of::<Exchange>() <= 24, "{}", size_of::<Exchange>());
    }
}
