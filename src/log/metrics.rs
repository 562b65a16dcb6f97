//! What `/metrics` tells of requests. Exchanges are added up a batch at a time, so that a request
//! costs no look-up of labels.

use std::collections::HashMap;
use std::hash::Hash;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::exchange::record::{Record, Responder};
use crate::operations::{self, Operation};
use crate::problem::Code;
use crate::store::AccountName;

/// Accounts that are told apart; requests of others count as those of `other`.
const MAX_ACCOUNTS: usize = 100;
/// Upper bounds of the buckets, in seconds. The waits of callers and a timeout of two minutes fit.
const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 120.0];

/// Methods as labels.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "other"];
const OTHER: usize = METHODS.len() - 1;
/// Ends of an exchange, as labels.
const CLASSES: [&str; 7] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx", "broken"];

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    /// `GET`, or `other` for a method that Pleo's operations do not have.
    method: &'static str,
    /// Method and path template; `other` if Pleo does not list it.
    operation: &'static str,
    class: &'static str,
    /// The code of the proxy's own response; empty = it is Pleo's.
    code: &'static str,
}

/// Labels of the requests of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAccount {
    account: String,
    class: &'static str,
}

/// Which counter a request belongs to.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    method: usize,
    operation: Option<usize>,
    class: usize,
    problem: Option<Code>,
}

/// Counts by key. One that comes many times in a row is looked up once.
struct Tally<K> {
    latest: Option<(K, u64)>,
    earlier: HashMap<K, u64>,
}

/// An exchange, and the operation that it asked for.
pub(super) type Asked<'a> = (&'a Record, Option<&'static Operation>);

/// The counters.
#[derive(Debug)]
pub(super) struct RequestMetrics {
    requests: Family<Request, Counter>,
    of_accounts: Family<OfAccount, Counter>,
    accounts: Vec<AccountName>,
    durations: Histogram,
    waits: Histogram,
    heads: Histogram,
    limited: Counter,
}

impl RequestMetrics {
    /// Counters that are part of a registry.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let histogram = || Histogram::new(BOUNDS);
        let metrics = Self {
            requests: Family::default(),
            of_accounts: Family::default(),
            accounts: Vec::new(),
            durations: histogram(),
            waits: histogram(),
            heads: histogram(),
            limited: Counter::default(),
        };
        metrics.register(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let help =
            "Requests that have ended, by method, operation, class of status and code of the proxy";
        registry.register("requests", help, self.requests.clone());
        let help = "The same by account, of the first 100 accounts";
        registry.register("account_requests", help, self.of_accounts.clone());
        let mut seconds = |name, help, histogram: &Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        };
        let help = "From the head of a request to the last byte of its response";
        seconds("request_duration", help, &self.durations);
        let help = "From the head of a request until it had a token";
        seconds("request_token_wait", help, &self.waits);
        let help = "From the head of a request to the head of Pleo's response";
        seconds("request_upstream_head", help, &self.heads);
        let help = "Responses of Pleo's with status 429";
        registry.register("rate_limited_requests", help, self.limited.clone());
    }

    /// Counts exchanges that have ended.
    pub(super) fn add(&mut self, records: &[Asked<'_>]) {
        let (mut counts, mut of_accounts) = (Tally::default(), Tally::default());
        for (record, operation) in records {
            let key = Key::of(record, *operation);
            of_accounts.add((record.arrival.account(), key.class));
            counts.add(key);
            self.add_times(record);
        }
        for (key, count) in counts.finish() {
            self.requests.get_or_create(&key.labels()).inc_by(count);
        }
        for ((account, class), count) in of_accounts.finish() {
            let account = self.label(account);
            self.of_accounts
                .get_or_create(&OfAccount { account, class: CLASSES[class] })
                .inc_by(count);
        }
    }

    fn add_times(&self, record: &Record) {
        let times = record.times;
        self.durations.observe(times.end.as_secs_f64());
        if let Some(token) = times.token {
            self.waits.observe(token.as_secs_f64());
        }
        if let Some(head) = times.head {
            self.heads.observe(head.as_secs_f64());
        }
        if record.responder == Responder::Pleo
            && record.status == Some(http::StatusCode::TOO_MANY_REQUESTS)
        {
            self.limited.inc();
        }
    }

    /// The name of an account, if it is one of the first.
    fn label(&mut self, account: Option<&AccountName>) -> String {
        let Some(name) = account else { return String::new() };
        if !self.accounts.contains(name) {
            if self.accounts.len() >= MAX_ACCOUNTS {
                return "other".to_owned();
            }
            self.accounts.push(name.clone());
        }
        name.to_string()
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self { latest: None, earlier: HashMap::new() }
    }
}

impl<K: Eq + Hash> Tally<K> {
    fn add(&mut self, key: K) {
        match &mut self.latest {
            Some((latest, count)) if *latest == key => *count += 1,
            _ => {
                self.keep_latest();
                self.latest = Some((key, 1));
            }
        }
    }

    fn keep_latest(&mut self) {
        if let Some((key, count)) = self.latest.take() {
            *self.earlier.entry(key).or_insert(0) += count;
        }
    }

    fn finish(mut self) -> HashMap<K, u64> {
        self.keep_latest();
        self.earlier
    }
}

impl Key {
    fn of(record: &Record, operation: Option<&Operation>) -> Self {
        Self {
            method: record.arrival.method.as_ref().map_or(OTHER, index),
            operation: operation.map(Operation::index),
            class: class(record),
            problem: record.problem,
        }
    }

    fn labels(&self) -> Request {
        Request {
            method: METHODS[self.method],
            operation: self.operation.map_or("other", |index| operations::ALL[index].path),
            class: CLASSES[self.class],
            code: self.problem.map_or("", Code::as_str),
        }
    }
}

/// The place of a method in [`METHODS`]: callers make methods up.
fn index(method: &Method) -> usize {
    METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(OTHER)
}

/// The class of the status, as its place in [`CLASSES`]; `none` if the caller left before there was a response, and `broken` for
/// a response that did not end as it should.
fn class(record: &Record) -> usize {
    match record.status.map(|status| usize::from(status.as_u16() / 100)) {
        None => 0,
        Some(_) if !record.is_complete => 6,
        Some(class) => class.clamp(1, 5),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::log::render::operation;
    use crate::log::testing::record;

    fn asked(records: &[Record]) -> Vec<Asked<'_>> {
        records.iter().map(|record| (record, operation(&record.arrival))).collect()
    }

    fn text(records: &[Record]) -> String {
        let mut registry = Registry::with_prefix("pleo_proxy");
        RequestMetrics::new(&mut registry).add(&asked(records));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn assert_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn requests_are_counted_by_operation_class_and_code() {
        let mut limited = record(3, "/v3/export-jobs");
        limited.responder = Responder::Pleo;
        limited.status = Some(StatusCode::TOO_MANY_REQUESTS);
        let mut refused = record(4, "/x?token=1");
        refused.problem = Some(Code::ReadOnly);
        refused.status = Some(StatusCode::FORBIDDEN);
        let mut cut = record(5, "/v3/export-jobs");
        cut.is_complete = false;
        let jobs = || record(1, "/@acme/v3/export-jobs?statuses=x");
        // One that comes again after others counts on.
        let text = text(&[jobs(), jobs(), limited, refused, cut, jobs()]);
        let of = "pleo_proxy_requests_total{method=\"GET\",operation=";
        assert_has(
            &text,
            &[
                &format!("{of}\"/v3/export-jobs\",class=\"2xx\",code=\"\"}} 3"),
                &format!("{of}\"/v3/export-jobs\",class=\"4xx\",code=\"\"}} 1"),
                &format!("{of}\"/v3/export-jobs\",class=\"broken\",code=\"\"}} 1"),
                &format!("{of}\"other\",class=\"4xx\",code=\"read_only\"}} 1"),
                "pleo_proxy_rate_limited_requests_total 1",
            ],
        );
        assert!(!text.contains("token=1"), "{text}");
    }

    #[test]
    fn times_are_counted_once_they_were_reached() {
        let mut answered = record(1, "/v1/x");
        answered.times.end = Duration::from_millis(30);
        answered.times.token = Some(Duration::from_millis(2));
        let text = text(&[answered, record(2, "/v1/x")]);
        assert_has(
            &text,
            &[
                "pleo_proxy_request_duration_seconds_bucket{le=\"0.05\"} 2",
                "pleo_proxy_request_duration_seconds_bucket{le=\"0.025\"} 1",
                "pleo_proxy_request_token_wait_seconds_count 1",
                "pleo_proxy_request_upstream_head_seconds_count 0",
            ],
        );
    }

    #[test]
    fn accounts_beyond_the_first_are_counted_together() {
        let records: Vec<_> = (0..150)
            .map(|number| {
                let record = record(number, "/v1/x");
                record.arrival.set_account(&format!("a{number}").parse().unwrap());
                record
            })
            .collect();
        let mut registry = Registry::default();
        let mut metrics = RequestMetrics::new(&mut registry);
        records.chunks(1).for_each(|one| metrics.add(&asked(one)));
        metrics.add(&asked(&records[..1]));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_has(
            &text,
            &[
                "account_requests_total{account=\"a0\",class=\"2xx\"} 2",
                "account_requests_total{account=\"a99\",class=\"2xx\"} 1",
                "account_requests_total{account=\"other\",class=\"2xx\"} 50",
            ],
        );
        assert!(!text.contains("a100"), "{text}");
    }
}
