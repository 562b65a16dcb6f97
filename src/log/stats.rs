//! Requests over time, for the charts: 15 minutes in slices of five seconds.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use crate::exchange::record::{Record, Responder};

/// Length of a slice, in milliseconds.
pub const SLICE: i64 = 5000;
/// Slices that are kept: 15 minutes.
const MAX_SLICES: usize = 180;

/// One slice, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Slice {
    /// Its beginning, in UNIX milliseconds.
    pub at: i64,
    /// Requests that ended in it.
    pub requests: u32,
    /// Those that the proxy refused itself, or that broke off.
    pub errors_proxy: u32,
    /// Those that Pleo answered with 4xx or 5xx.
    pub errors_pleo: u32,
    /// Those that waited for a token.
    pub held: u32,
    /// Those that were sent more than once.
    pub sent_again: u32,
    /// Median of their durations, in milliseconds.
    pub p50_ms: Option<f64>,
    /// What 99 of 100 durations do not exceed, in milliseconds.
    pub p99_ms: Option<f64>,
    /// The same of the waits for a token.
    pub wait_p99_ms: Option<f64>,
}

#[derive(Debug, Default)]
struct Counts {
    shown: Slice,
    durations: Histogram,
    waits: Histogram,
}

/// The slices.
#[derive(Debug, Default)]
pub(super) struct Stats {
    slices: VecDeque<Counts>,
    /// Since the start.
    requests: u64,
    errors: u64,
}

impl Stats {
    /// Counts an exchange that ended at `now`, in UNIX milliseconds.
    pub(super) fn add(&mut self, record: &Record, now: i64) {
        let is_error = record.status.is_none_or(|status| status.as_u16() >= 400);
        self.requests += 1;
        self.errors += u64::from(is_error || !record.is_complete);
        let slice = self.slice(now - now.rem_euclid(SLICE));
        let shown = &mut slice.shown;
        shown.requests += 1;
        match record.responder {
            Responder::Pleo if is_error => shown.errors_pleo += 1,
            _ if is_error || !record.is_complete => shown.errors_proxy += 1,
            _ => {}
        }
        shown.held += u32::from(record.is_held);
        shown.sent_again += u32::from(record.sends > 1);
        slice.durations.add(record.times.end.as_secs_f64() * 1000.0);
        if let Some(token) = record.times.token {
            slice.waits.add(token.as_secs_f64() * 1000.0);
        }
    }

    /// All exchanges, and those of them that failed or broke off.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.requests, self.errors)
    }

    fn slice(&mut self, at: i64) -> &mut Counts {
        // A clock that was set back counts into the newest slice.
        if self.slices.back().is_none_or(|newest| newest.shown.at < at) {
            let shown = Slice { at, ..Slice::default() };
            self.slices.push_back(Counts { shown, ..Counts::default() });
            while self.slices.len() > MAX_SLICES {
                self.slices.pop_front();
            }
        }
        self.slices.back_mut().expect("a slice was added if there was none")
    }

    /// The slices that began at `from` or later, in UNIX milliseconds; those without requests are
    /// left out.
    pub(super) fn since(&self, from: i64) -> Vec<Slice> {
        let shown = |counts: &Counts| Slice {
            p50_ms: counts.durations.quantile(0.5),
            p99_ms: counts.durations.quantile(0.99),
            wait_p99_ms: counts.waits.quantile(0.99),
            ..counts.shown.clone()
        };
        self.slices.iter().filter(|counts| counts.shown.at >= from).map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::log::testing::record;

    #[test]
    fn exchanges_are_counted_in_the_slice_of_their_end() {
        let mut stats = Stats::default();
        let mut answered = record(1, "/v1/x");
        answered.times.end = Duration::from_millis(100);
        answered.times.token = Some(Duration::from_millis(50));
        (answered.is_held, answered.sends) = (true, 2);
        let mut forbidden = record(2, "/v1/x");
        (forbidden.responder, forbidden.status) = (Responder::Pleo, Some(StatusCode::FORBIDDEN));
        let mut refused = record(3, "/v1/x");
        (refused.responder, refused.status) =
            (Responder::Proxy, Some(StatusCode::SERVICE_UNAVAILABLE));
        let mut broken = record(4, "/v1/x");
        broken.is_complete = false;
        for record in [&answered, &forbidden, &refused, &broken] {
            stats.add(record, 12_345);
        }
        stats.add(&answered, 20_000);
        stats.add(&answered, 3);
        let slices = stats.since(0);
        let [first, second] = &slices[..] else { panic!("{slices:?}") };
        assert_eq!((first.at, first.requests, second.at, second.requests), (10_000, 4, 20_000, 2));
        assert_eq!((first.errors_pleo, first.errors_proxy), (1, 2));
        assert_eq!((first.held, first.sent_again), (1, 1));
        let p99 = first.p99_ms.unwrap();
        assert!((100.0..130.0).contains(&p99), "{p99}");
        assert_eq!(stats.since(20_000).len(), 1);
    }

    #[test]
    fn old_slices_are_forgotten() {
        let mut stats = Stats::default();
        for number in 0..1000 {
            stats.add(&record(1, "/v1/x"), number * SLICE);
        }
        assert_eq!(stats.since(0).len(), MAX_SLICES);
    }
}
