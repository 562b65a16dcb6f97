//! The way of exchanges from the workers to the request log. Each worker has a recorder of its own,
//! so that no two wait for each other; whoever reads them is woken once a batch, not once a
//! request. Nobody ever waits for the reader: what it does not take in time is dropped, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderValue, Request};
use parking_lot::Mutex;
use slab::Slab;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::caller::Client;
use super::capture::Capturing;
use super::record::{Arrival, Record};
use crate::redaction::Redactor;
use crate::telemetry::Metrics;

/// Ended exchanges of one worker that wait to be read, at most. At 100 ms between two readings it
/// is enough for 160,000 a second.
const MAX_ENDED: usize = 16 * 1024;
/// The same in bytes, with what was captured: 16 MiB.
const MAX_ENDED_BYTES: usize = 16 * 1024 * 1024;
/// Room for an id: six digits, a hyphen, and the longest number. In bytes.
const MAX_ID: usize = 32;
/// Callers of one worker whose programs are to be looked up, at most. Programs of more are unknown.
const MAX_CLIENTS: usize = 256;

/// Records as they go on to the log, by value: a box that one thread allocates and another frees
/// costs both of them more than the copy.
pub type Records = Vec<Record>;

/// The recorders of all workers.
#[derive(Debug)]
pub struct Recorders {
    /// Tells the runs of the process apart in the ids of requests.
    pub run: u32,
    /// The beginning of ids.
    prefix: String,
    /// Adds the id of the request, and hints, to responses.
    adds_headers: bool,
    next: AtomicU64,
    dropped: AtomicU64,
    all: Mutex<Vec<Arc<Recorder>>>,
    /// Notified when there is something to read where there was nothing.
    pub ended: Notify,
    /// Notified when there are callers whose programs are not known.
    pub connected: Notify,
    /// Whether headers and bodies are kept.
    pub capturing: Capturing,
    pub(super) metrics: Arc<Metrics>,
    /// For what the process's own log shows of requests.
    redactor: Redactor,
}

/// Where the exchanges of one worker are noted.
#[derive(Debug)]
pub struct Recorder {
    /// All recorders.
    shared: Arc<Recorders>,
    ended: Mutex<Ended>,
    running: Mutex<Slab<Arc<Arrival>>>,
    clients: Mutex<Vec<Arc<Client>>>,
}

/// Exchanges that wait to be read.
#[derive(Debug, Default)]
struct Ended {
    records: Records,
    /// What they take in memory.
    bytes: usize,
}

impl Recorders {
    /// For a run of the process that is told apart by `run` (24 bits are used).
    pub fn new(
        run: u32,
        adds_headers: bool,
        metrics: Arc<Metrics>,
        redactor: Redactor,
    ) -> Arc<Self> {
        let run = run & 0x00ff_ffff;
        Arc::new(Self {
            run,
            prefix: format!("{run:06x}-"),
            adds_headers,
            next: AtomicU64::new(1),
            dropped: AtomicU64::new(0),
            all: Mutex::default(),
            ended: Notify::new(),
            connected: Notify::new(),
            capturing: Capturing::default(),
            metrics,
            redactor,
        })
    }

    /// A recorder for one more worker.
    pub fn recorder(self: &Arc<Self>) -> Arc<Recorder> {
        let recorder = Arc::new(Recorder {
            shared: self.clone(),
            ended: Mutex::default(),
            running: Mutex::default(),
            clients: Mutex::default(),
        });
        self.all.lock().push(recorder.clone());
        recorder
    }

    /// Moves what has ended since the last call to `into`, in no particular order between workers.
    pub fn take_ended(&self, into: &mut Records) {
        for recorder in self.all.lock().iter() {
            let mut ended = recorder.ended.lock();
            into.append(&mut ended.records);
            ended.bytes = 0;
        }
    }

    /// The callers whose programs are to be looked up.
    pub fn take_clients(&self) -> Vec<Arc<Client>> {
        self.all
            .lock()
            .iter()
            .flat_map(|recorder| std::mem::take(&mut *recorder.clients.lock()))
            .collect()
    }

    /// The requests that are being answered, oldest first.
    pub fn running(&self) -> Vec<Arc<Arrival>> {
        let all = self.all.lock();
        let running = |recorder: &Arc<Recorder>| {
            let running = recorder.running.lock();
            running.iter().map(|(_, arrival)| arrival.clone()).collect::<Vec<_>>()
        };
        let mut running: Vec<_> = all.iter().flat_map(running).collect();
        running.sort_unstable_by_key(|arrival| arrival.number);
        running
    }

    /// Exchanges that nobody read in time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The id of a request: six hexadecimal digits for the run, and its number.
    pub fn id(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }
}

/// A request that is being answered: its record, and its place in the list of those that run.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) record: Box<Record>,
    key: usize,
}

impl Recorder {
    /// A request has arrived.
    pub(super) fn begin<B>(&self, client: &Arc<Client>, request: &Request<B>) -> Recording {
        let arrival = Arrival::new(self.number(), client.clone(), request);
        let mut recording = self.record(arrival);
        recording.record.capture = self.shared.capturing.begin(request.headers());
        recording
    }

    /// Something has arrived that is no valid request.
    pub(super) fn begin_malformed(&self, client: &Arc<Client>) -> Recording {
        self.record(Arrival::malformed(self.number(), client.clone()))
    }

    fn record(&self, arrival: Arrival) -> Recording {
        let arrival = Arc::new(arrival);
        let key = self.running.lock().insert(arrival.clone());
        Recording { record: Box::new(Record::new(arrival)), key }
    }

    fn number(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The request has ended.
    pub(super) fn end(&self, Recording { mut record, key }: Recording) {
        self.running.lock().try_remove(key);
        if let Some(capture) = &mut record.capture {
            self.shared.capturing.count(capture);
            capture.end();
        }
        let size = record.size();
        let mut ended = self.ended.lock();
        if ended.records.len() >= MAX_ENDED || ended.bytes + size > MAX_ENDED_BYTES {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_first = ended.records.is_empty();
        ended.bytes += size;
        ended.records.push(*record);
        drop(ended);
        if is_first {
            self.shared.ended.notify_one();
        }
    }

    /// The counters of the proxy.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Takes secrets out of what the process's own log shows.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.shared.redactor
    }

    /// The program of this caller is to be looked up, while it is still there.
    pub(super) fn identify(&self, client: &Arc<Client>) {
        let mut clients = self.clients.lock();
        if clients.len() < MAX_CLIENTS {
            clients.push(client.clone());
            self.shared.connected.notify_one();
        }
    }

    /// True if responses tell about their exchange in headers.
    pub(super) fn adds_headers(&self) -> bool {
        self.shared.adds_headers
    }

    /// The value of `Pleo-Proxy-Request`.
    pub(super) fn id_header(&self, recording: &Recording) -> Option<HeaderValue> {
        if !self.shared.adds_headers {
            return None;
        }
        // Not by `format!`, which takes ten times as long.
        let (mut number, mut id) = (itoa::Buffer::new(), SmallVec::<[u8; MAX_ID]>::new());
        id.extend_from_slice(self.shared.prefix.as_bytes());
        id.extend_from_slice(number.format(recording.record.arrival.number).as_bytes());
        HeaderValue::from_bytes(&id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Caller;
    use crate::exchange::capture::{Bodies, Window};

    const MAX_BODY: usize = Bodies::BEGINNING.max;

    fn client() -> Arc<Client> {
        Arc::new(Client::new(Caller::Unix { user: None, process: None }))
    }

    fn request() -> Request<()> {
        Request::get("/v1/x").body(()).unwrap()
    }

    #[test]
    fn requests_are_listed_while_they_run_and_read_once_when_they_have_ended() {
        let recorders = Recorders::new(0xab_cdef, true, Arc::default(), Redactor::default());
        let workers = [recorders.recorder(), recorders.recorder()];
        let first = workers[0].begin(&client(), &request());
        let second = workers[1].begin_malformed(&client());
        assert_eq!(workers[1].id_header(&second).unwrap(), "abcdef-2");
        let running = recorders.running();
        assert_eq!(running.iter().map(|it| it.number).collect::<Vec<_>>(), [1, 2]);
        workers[0].end(first);
        workers[1].end(second);
        assert!(recorders.running().is_empty());
        let mut ended = Vec::new();
        recorders.take_ended(&mut ended);
        assert_eq!(ended.len(), 2);
        recorders.take_ended(&mut ended);
        assert_eq!(ended.len(), 2);
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted() {
        let recorders = Recorders::new(1, false, Arc::default(), Redactor::default());
        let worker = recorders.recorder();
        for _ in 0..MAX_ENDED + 3 {
            let recording = worker.begin(&client(), &request());
            worker.end(recording);
        }
        assert_eq!(recorders.dropped(), 3);
        let mut ended = Vec::new();
        recorders.take_ended(&mut ended);
        assert_eq!(ended.len(), MAX_ENDED);
        for _ in 0..MAX_CLIENTS + 3 {
            worker.identify(&client());
        }
        assert_eq!(recorders.take_clients().len(), MAX_CLIENTS);
        assert!(recorders.take_clients().is_empty());
    }

    #[test]
    fn what_waits_to_be_read_is_bounded_in_bytes_too() {
        let recorders = Recorders::new(1, false, Arc::default(), Redactor::default());
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        recorders.capturing.start(Window {
            until,
            until_wall: 0,
            account: None,
            bodies: Bodies::BEGINNING,
        });
        let worker = recorders.recorder();
        let end = || {
            let recording = worker.begin(&client(), &request());
            recording.record.capture.as_ref().unwrap().request.body.push(&[0; MAX_BODY]);
            worker.end(recording);
        };
        (0..400).for_each(|_| end());
        let dropped = recorders.dropped();
        assert!(dropped > 400 - (MAX_ENDED_BYTES / MAX_BODY) as u64, "{dropped}");
        recorders.take_ended(&mut Vec::new());
        end();
        assert_eq!(recorders.dropped(), dropped, "there is room again");
    }
}
