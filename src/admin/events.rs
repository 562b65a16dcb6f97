//! What the page is told as it happens: exchanges, the state of accounts, rate, capture, charts.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::convert::Infallible;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::Event;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::api;
use super::figures::{capture_state, current_rate, stats_since};
use super::key::Access;
use super::protocol::{CaptureState, Hello, Lost, Rate, Status, Versioned};
use super::state::Admin;
use crate::log::filter::Filter;
use crate::log::stats::SLICE;

/// How often state, rate and charts are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The same for the state of more accounts than [`MANY`].
const SLOW_TICK: Duration = Duration::from_secs(5);
/// More accounts than this are looked at less often.
const MANY: usize = 500;
/// Exchanges in one event.
const MAX_ENTRIES: usize = 200;

/// How far a reader has got: the `id` of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Position {
    run: String,
    seq: u64,
}

impl Position {
    /// Reads `RUN.SEQ`; none if it is something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (run, seq) = text.split_once('.')?;
        Some(Self { run: run.to_owned(), seq: seq.parse().ok()? })
    }
}

/// The events for one reader.
pub(super) struct Feed {
    admin: Arc<Admin>,
    /// Of its request: a session ends while it reads.
    headers: HeaderMap,
    filter: Filter,
    /// The last exchange that was looked at.
    seq: u64,
    news: watch::Receiver<u64>,
    tick: Interval,
    pending: VecDeque<Event>,
    /// Of the status that was sent last.
    status: Option<u64>,
    status_due: Instant,
    rate: Option<Rate>,
    capture: Option<CaptureState>,
    /// Beginning of the last slice that was sent, in UNIX milliseconds.
    slice: i64,
    /// What the last charts were made from.
    stats: u64,
    is_ended: bool,
}

impl Feed {
    /// Exchanges after `position`, or from now on; the rest from the beginning.
    pub(super) fn new(
        admin: Arc<Admin>,
        filter: Filter,
        position: Option<&Position>,
        headers: HeaderMap,
    ) -> Self {
        let (run, last) = (admin.log.run(), admin.log.last_seq());
        let seq = match position {
            Some(position) if position.run == run => position.seq.min(last),
            // It knows another run: all of this one is new to it.
            Some(_) => 0,
            None => last,
        };
        let mut news = admin.log.news();
        news.mark_changed();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let id = format!("{run}.{seq}");
        let hello = event("hello", &Hello { run, last_seq: last }).map(|hello| hello.id(id));
        Self {
            headers,
            filter,
            seq,
            news,
            tick,
            pending: hello.into_iter().collect(),
            status: None,
            status_due: Instant::now(),
            rate: None,
            capture: None,
            slice: 0,
            stats: 0,
            is_ended: false,
            admin,
        }
    }

    /// The next event; none once the process ends, or the reader may not read any more.
    pub(super) async fn next(&mut self) -> Option<Result<Event, Infallible>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            if self.is_ended {
                return None;
            }
            tokio::select! {
                biased;
                // First, as there may be more exchanges than are read.
                _ = self.tick.tick() => {
                    if !self.may_read() {
                        return None;
                    }
                    self.add_status();
                    self.add_rate();
                    self.add_capture();
                    self.add_stats();
                }
                changed = self.news.changed() => {
                    changed.ok()?;
                    self.add_exchanges();
                }
                () = self.admin.log.closed.cancelled() => self.is_ended = true,
            }
        }
    }

    fn may_read(&self) -> bool {
        let origins = self.admin.guard.own_origins();
        self.admin.keys.identify(&self.headers, origins) == Access::Granted
    }

    fn add_exchanges(&mut self) {
        let log = &self.admin.log;
        let batch = log.after(&self.filter, self.seq, MAX_ENTRIES);
        if let Some((from, to)) = batch.lost {
            self.pending.extend(event("lost", &Lost { from, to }));
        }
        let id = format!("{}.{}", log.run(), batch.seq);
        if !batch.entries.is_empty() {
            self.pending.extend(event("entries", &batch.entries).map(|event| event.id(id)));
        } else if batch.seq > self.seq {
            // The filter has chosen none. The reader has got this far all the same.
            self.pending.push_back(Event::default().id(id));
        }
        self.seq = batch.seq;
        if self.seq < log.last_seq() {
            self.news.mark_changed();
        }
    }

    fn add_status(&mut self) {
        if Instant::now() < self.status_due {
            return;
        }
        let status = api::current_status(&self.admin);
        let pause = if status.accounts.len() > MANY { SLOW_TICK } else { TICK };
        self.status_due = Instant::now() + pause - TICK / 2;
        let print = fingerprint(&status);
        if self.status.replace(print) != Some(print) {
            self.pending.extend(event("status", &Versioned::from(status)));
        }
    }

    fn add_rate(&mut self) {
        let rate = current_rate(&self.admin);
        if self.rate.as_ref() != Some(&rate) {
            self.pending.extend(event("rate", &Versioned::from(&rate)));
            self.rate = Some(rate);
        }
    }

    fn add_capture(&mut self) {
        let capture = capture_state(&self.admin);
        if self.capture.as_ref() != Some(&capture) {
            self.pending.extend(event("capture", &Versioned::from(&capture)));
            self.capture = Some(capture);
        }
    }

    /// The slices from the last one on that was sent, which may have grown.
    fn add_stats(&mut self) {
        let from = if self.slice == 0 { self.admin.log.now() - 180 * SLICE } else { self.slice };
        let stats = stats_since(&self.admin, from);
        let requests: u64 = stats.slices.iter().map(|slice| u64::from(slice.requests)).sum();
        let newest = stats.slices.last().map_or(from, |slice| slice.at);
        let print = hash(&(newest, requests, stats.refreshes.len()));
        if print != self.stats {
            (self.stats, self.slice) = (print, newest.max(from));
            self.pending.extend(event("stats", &Versioned::from(stats)));
        }
    }
}

/// An event with data; none if the data has no JSON form, which does not happen with our types.
fn event(name: &str, data: &impl Serialize) -> Option<Event> {
    Event::default().event(name).json_data(data).ok()
}

/// What of a status is worth an event: all but the times that pass by themselves.
fn fingerprint(status: &Status) -> u64 {
    let mut hasher = DefaultHasher::new();
    (status.ending, &status.stopped_tasks, &status.about.notes).hash(&mut hasher);
    status.default_account.hash(&mut hasher);
    for account in &status.accounts {
        let last = account.last_refresh.as_ref().map(|last| (&last.at, &last.outcome));
        (&account.account, account.state.to_string(), &account.why, account.generation)
            .hash(&mut hasher);
        (&account.scope, &account.next_try, account.resends, last).hash(&mut hasher);
        (&account.subject, &account.company).hash(&mut hasher);
        (&account.last_login, &account.last_login_error).hash(&mut hasher);
    }
    hasher.finish()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_run_and_a_number() {
        let known = Position { run: "3fa9c1".into(), seq: 17 };
        assert_eq!(Position::parse("3fa9c1.17"), Some(known));
        for bad in ["", "17", "a.b", "a.", "a.-1"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
