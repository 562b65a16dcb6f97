//! The request log: the latest exchanges, and what can be said from them.
//!
//! Workers leave what has ended in the [`Recorders`]; one task takes it from there ten times a
//! second and puts it into a ring, the charts and the counters; another one writes the file. Text is
//! made only when somebody looks: an [`Entry`] is redacted, and says why a request failed.

pub mod curl;
pub mod entry;
pub mod filter;
mod found;
pub mod har;
mod histogram;
mod lines;
mod metrics;
pub mod programs;
mod rate;
mod reason;
mod render;
pub mod repeat;
mod ring;
pub mod stats;
#[cfg(test)]
mod testing;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::clock::{Clock, millis};
use crate::exchange::capture::{Bodies, Window};
use crate::exchange::record::Record;
use crate::exchange::recorder::{Recorders, Records};
use crate::private_file::PrivateFileError;
use crate::store::AccountName;
use crate::telemetry;
use crate::usage::{Keeper, Usage, Use};
use entry::Entry;
use filter::Filter;
pub use found::{Batch, Detail};
use lines::Lines;
use metrics::{Asked, RequestMetrics};
use rate::Senders;
pub use rate::Sent;
pub use reason::explanation;
use render::Renderer;
use repeat::{NotRepeatable, Repeat};
use ring::{Ended, Ring};
use stats::{Slice, Stats};

/// How long ended exchanges are gathered until they are read: one wake-up a batch.
const BATCH: Duration = Duration::from_millis(100);
/// Entries that are made while the ring is locked; between two such pieces others get it.
const PIECE: usize = 256;

/// Largest `inspect.memory`, in bytes: 1 GiB.
pub const MAX_MEMORY: usize = 1024 * 1024 * 1024;

/// How much of the latest exchanges is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many exchanges are kept in memory; 0 = none.
    pub requests: usize,
    /// How many bytes they take at most, captured bodies included.
    pub memory: usize,
    /// File that gets a line of JSON for each exchange.
    pub file: Option<PathBuf>,
    /// Adds `Pleo-Proxy-Request` and `Pleo-Proxy-Hint` to responses.
    pub headers: bool,
}

/// The request log of this process.
#[derive(Debug)]
pub struct RequestLog {
    recorders: Arc<Recorders>,
    ring: Mutex<Ring>,
    stats: Mutex<Stats>,
    senders: Mutex<Senders>,
    metrics: Mutex<RequestMetrics>,
    registry: Registry,
    renderer: Renderer,
    usage: Arc<Keeper>,
    lines: Option<Arc<Lines>>,
    clock: Clock,
    /// The number of the newest exchange.
    news: watch::Sender<u64>,
    /// Cancelled when the process ends and nothing more is coming.
    pub closed: CancellationToken,
}

impl RequestLog {
    /// An empty log of what the recorders note. `label` stands in every entry; `program` is the
    /// command line in hints that name a command.
    ///
    /// # Errors
    /// The file of `log.requests` cannot be opened.
    pub fn new(
        settings: &Settings,
        recorders: Arc<Recorders>,
        accounts: Arc<Accounts>,
        usage: Arc<Keeper>,
        environment: String,
        label: Option<String>,
        program: String,
    ) -> Result<Self, PrivateFileError> {
        let mut registry = Registry::with_prefix(telemetry::PREFIX);
        let metrics = Mutex::new(RequestMetrics::new(&mut registry));
        Ok(Self {
            metrics,
            registry,
            lines: settings.file.as_deref().map(Lines::open).transpose()?,
            ring: Mutex::new(Ring::new(settings.requests, settings.memory)),
            stats: Mutex::default(),
            senders: Mutex::default(),
            renderer: Renderer::new(recorders.clone(), accounts, environment, label, program),
            recorders,
            usage,
            clock: Clock::system(),
            news: watch::Sender::new(0),
            closed: CancellationToken::new(),
        })
    }

    /// Where workers note their exchanges.
    pub fn recorders(&self) -> &Arc<Recorders> {
        &self.recorders
    }

    /// Reads what has ended; never ends itself.
    pub async fn collect(&self) {
        loop {
            self.recorders.ended.notified().await;
            sleep(BATCH).await;
            self.absorb();
        }
    }

    /// Writes the file of `log.requests`; never ends. A disk that hangs holds up this task alone.
    pub async fn write_file(&self) {
        let Some(lines) = &self.lines else { return pending().await };
        lines.keep_writing().await;
    }

    /// The process ends: writes the last lines, and ends the streams of events.
    pub async fn close(&self) {
        self.absorb();
        if let Some(lines) = &self.lines {
            lines.finish().await;
        }
        self.closed.cancel();
    }

    /// The file of `log.requests` was moved away: the next line goes to a new one.
    pub fn reopen_file(&self) {
        self.lines.iter().for_each(|lines| lines.reopen());
    }

    /// Looks up the programs of callers; never ends.
    pub async fn identify_programs(&self) {
        programs::identify(self.recorders.clone()).await;
    }

    /// Takes what has ended until now.
    pub fn absorb(&self) {
        let mut records = Records::new();
        // Whoever comes second gets later ones: they are numbered in the order of their ends.
        let mut ring = self.ring.lock();
        self.recorders.take_ended(&mut records);
        if records.is_empty() {
            return;
        }
        // Those of each worker are in order already.
        records.sort_by_key(|record| record.arrival.at + record.times.end);
        self.count(&records);
        self.keep(&mut ring, records);
        let last = ring.last();
        drop(ring);
        self.news.send_replace(last);
    }

    /// Puts records into the ring, and their entries where they wait for the file.
    fn keep(&self, ring: &mut Ring, records: Records) {
        let now = self.now();
        for record in records {
            let ended = ring.number(Box::new(record));
            if let Some(lines) = &self.lines {
                lines.add(&self.renderer.finish(self.renderer.ended(&ended, now)));
            }
            ring.push(ended);
        }
    }

    fn count(&self, records: &[Record]) {
        let (now, seconds) = (self.now(), self.seconds());
        let asked = records.iter().map(|record| (record, render::operation(&record.arrival)));
        let asked: Vec<_> = asked.collect();
        self.metrics.lock().add(&asked);
        let (mut stats, mut senders) = (self.stats.lock(), self.senders.lock());
        for record in records {
            stats.add(record, now);
            senders.add(record, seconds);
        }
        drop(stats);
        self.usage.with(|usage| asked.iter().for_each(|asked| use_of(*asked, usage, now)));
    }

    /// The counters by account and operation.
    pub fn usage(&self) -> &Arc<Keeper> {
        &self.usage
    }

    /// Told the number of the newest exchange whenever it changes.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The run of the process, as it stands in ids.
    pub fn run(&self) -> String {
        format!("{:06x}", self.recorders.run)
    }

    /// Exchanges that the log could not take in time.
    pub fn dropped(&self) -> u64 {
        self.recorders.dropped()
    }

    /// The number of the newest exchange; 0 = there was none.
    pub fn last_seq(&self) -> u64 {
        self.ring.lock().last()
    }

    /// The requests that are being answered and are chosen, oldest first.
    pub fn running(&self, filter: &Filter) -> Vec<Entry> {
        let now = self.now();
        let running = self.recorders.running();
        let drafts = running.iter().map(|arrival| self.renderer.running(arrival, now));
        let chosen = drafts.filter(|draft| draft.matches(filter, now));
        chosen.map(|draft| self.renderer.finish(draft)).collect()
    }

    /// The newest exchanges before number `before` that are chosen, newest first.
    pub fn newest(&self, filter: &Filter, before: u64, limit: usize) -> Batch {
        self.absorb();
        let now = self.now();
        let mut batch = Batch { seq: before, ..Batch::default() };
        loop {
            let ring = self.ring.lock();
            let mut looked_at = 0;
            for ended in ring.before(batch.seq).take(PIECE) {
                if batch.entries.len() >= limit {
                    return batch;
                }
                looked_at += 1;
                batch.seq = ended.seq;
                batch.entries.extend(self.chosen(ended, filter, now));
            }
            if looked_at < PIECE {
                return batch;
            }
        }
    }

    /// Up to `limit` exchanges after number `seq` that are chosen, oldest first.
    pub fn after(&self, filter: &Filter, seq: u64, limit: usize) -> Batch {
        self.absorb();
        let now = self.now();
        let ring = self.ring.lock();
        let first = ring.first();
        let lost = (first > seq.saturating_add(1)).then(|| (seq + 1, first - 1));
        let mut batch = Batch { entries: Vec::new(), seq: seq.max(first - 1), lost };
        for ended in ring.after(batch.seq).take(limit) {
            batch.seq = ended.seq;
            batch.entries.extend(self.chosen(ended, filter, now));
        }
        batch
    }

    /// The newest exchanges that are chosen, oldest first, with what was captured of each.
    pub fn exchanges(&self, filter: &Filter, limit: usize) -> Vec<Detail> {
        let newest = self.newest(filter, u64::MAX, limit).entries.into_iter().rev();
        // One by one: others get the ring between them. What is gone by then had no time to stay.
        newest.filter_map(|entry| Some(self.detail(self.ring.lock().at(entry.seq?)?))).collect()
    }

    fn chosen(&self, ended: &Ended, filter: &Filter, now: i64) -> Option<Entry> {
        let mut draft = self.renderer.ended(ended, now);
        if filter.asks_for_hints() {
            self.renderer.explain(&mut draft);
        }
        // Only what is chosen is searched for secrets, which takes longer than all the rest.
        draft.matches(filter, now).then(|| self.renderer.finish(draft))
    }

    /// The exchange with this id as a request that can be sent again.
    ///
    /// # Errors
    /// [`NotRepeatable`]: too little of it is kept.
    pub fn repeat(&self, id: &str) -> Result<Repeat, NotRepeatable> {
        self.absorb();
        let number = self.number(id).ok_or(NotRepeatable::Unknown)?;
        let ring = self.ring.lock();
        Repeat::of(ring.find(number).ok_or(NotRepeatable::Unknown)?)
    }

    /// The number of the arrival in an id of this run.
    fn number(&self, id: &str) -> Option<u64> {
        id.strip_prefix(&self.run())?.strip_prefix('-')?.parse().ok()
    }

    fn detail(&self, ended: &Ended) -> Detail {
        let (record, now) = (&ended.record, self.now());
        Detail {
            entry: self.renderer.finish(self.renderer.ended(ended, now)),
            query: self.renderer.query(&record.arrival),
            capture: record.capture.as_ref().map(|capture| self.renderer.capture(capture)),
        }
    }

    /// The exchange with this id, whether it runs or has ended; none if it is not kept.
    pub fn find(&self, id: &str) -> Option<Detail> {
        self.absorb();
        let now = self.now();
        let number = self.number(id)?;
        let running = self.recorders.running();
        if let Some(arrival) = running.iter().find(|arrival| arrival.number == number) {
            let entry = self.renderer.finish(self.renderer.running(arrival, now));
            return Some(Detail { entry, query: self.renderer.query(arrival), capture: None });
        }
        Some(self.detail(self.ring.lock().find(number)?))
    }

    /// The slices that began at `from` or later, in UNIX milliseconds.
    pub fn slices(&self, from: i64) -> Vec<Slice> {
        self.stats.lock().since(from)
    }

    /// All exchanges that have ended, and those of them that failed.
    pub fn totals(&self) -> (u64, u64) {
        self.stats.lock().totals()
    }

    /// True if some exchange is not kept any more, or never was.
    pub fn is_incomplete(&self) -> bool {
        self.dropped() > 0 || self.ring.lock().first() > 1
    }

    /// The metrics of requests.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What the programs sent for an account within the last minute, busiest first.
    pub fn sent_by_programs(&self, account: &AccountName) -> Vec<Sent> {
        let mut sent = self.senders.lock().of(account, self.seconds());
        sent.iter_mut().for_each(|it| it.program = self.renderer.text(&it.program));
        sent
    }

    /// Keeps headers and bodies from now on, for so long, of this account or of all.
    pub fn start_capture(&self, length: Duration, account: Option<AccountName>, bodies: Bodies) {
        let until = Instant::now() + length;
        let until_wall = self.now().saturating_add_unsigned(millis(length));
        self.recorders.capturing.start(Window { until, until_wall, account, bodies });
    }

    /// Seconds since boot: a minute lasts a minute also while the clock is set.
    fn seconds(&self) -> i64 {
        i64::try_from(self.clock.now().boot / 1000).unwrap_or(i64::MAX)
    }

    /// The time, in UNIX milliseconds.
    pub fn now(&self) -> i64 {
        self.clock.now().wall
    }
}

/// Counts an exchange that Pleo got.
fn use_of((record, operation): Asked<'_>, usage: &mut Usage, now: i64) {
    let arrival = &record.arrival;
    if let (Some(account), Some(method)) = (arrival.account(), &arrival.method)
        && record.sends > 0
    {
        let status = record.status.map(|status| status.as_u16());
        usage.record(account.as_str(), Use::listed(method, operation), status, now);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::exchange::activity::Activity;
    use crate::exchange::{Caller, Exchange};
    use crate::redaction::Redactor;

    async fn log(folder: &std::path::Path) -> RequestLog {
        let settings = Settings { requests: 100, memory: 1 << 20, file: None, headers: true };
        let recorders = Recorders::new(1, true, Arc::default(), Redactor::default());
        let accounts = testing::accounts(folder).await;
        let usage = Arc::new(Keeper::open(folder.join("usage"), &Clock::system()));
        RequestLog::new(
            &settings,
            recorders,
            accounts,
            usage,
            "sandbox".into(),
            None,
            "pleo-proxy".into(),
        )
        .unwrap()
    }

    fn begin(log: &RequestLog) -> Exchange {
        let caller = Caller::Unix { user: None, process: None };
        let activity = Activity::new(caller, Instant::now(), None);
        activity.record_with(&log.recorders().recorder());
        Exchange::begin(&activity, &Request::get("/v1/x").body(()).unwrap())
    }

    #[tokio::test]
    async fn what_has_just_ended_is_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path()).await;
        for expected in 1..=3 {
            drop(begin(&log));
            let read = match expected {
                1 => log.after(&Filter::default(), 0, 9).entries,
                2 => log.newest(&Filter::default(), u64::MAX, 9).entries,
                _ => log.exchanges(&Filter::default(), 9).into_iter().map(|it| it.entry).collect(),
            };
            assert_eq!(read.len(), expected);
        }
    }

    #[tokio::test]
    async fn exchanges_of_all_workers_are_numbered_in_the_order_of_their_ends() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path()).await;
        let mut running: Vec<_> = (0..4).map(|_| begin(&log)).collect();
        for place in [3, 1, 0, 0] {
            drop(running.remove(place));
        }
        let entries = log.newest(&Filter::default(), u64::MAX, 9).entries;
        let ids: Vec<_> = entries.iter().rev().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["000001-4", "000001-2", "000001-1", "000001-3"]);
    }

    #[tokio::test]
    async fn an_exchange_is_found_as_soon_as_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path()).await;
        let running = begin(&log);
        assert!(log.find("000001-1").unwrap().entry.running);
        drop(running);
        assert_eq!(log.find("000001-1").unwrap().entry.seq, Some(1));
        drop(begin(&log));
        assert!(log.repeat("000001-2").unwrap().is_read);
    }
}
