//! Headers and bodies of an exchange, kept only while somebody has asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::AccountName;

/// What is kept of bodies.
#[derive(Clone, Copy, Debug)]
pub struct Bodies {
    /// How much of each, in bytes.
    pub max: usize,
    /// Pleo is asked not to compress responses, so that they can be read.
    pub is_plain: bool,
}

impl Bodies {
    /// The beginning, as it goes over the connection.
    pub const BEGINNING: Self = Self { max: 64 * 1024, is_plain: false };
    /// As much as can be replayed.
    pub const REPLAYABLE: Self = Self { max: 2 * 1024 * 1024, is_plain: true };
}

/// What is captured of all requests that run may take so much memory: 32 MiB. What has ended is in
/// the request log, which has a bound of its own.
const MAX_RUNNING: usize = 32 * 1024 * 1024;

/// Memory of what is captured of requests that run.
#[derive(Clone, Debug, Default)]
struct Budget(Arc<AtomicUsize>);

/// A part of the budget; given back when it is dropped.
#[derive(Debug, Default)]
struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Takes so many bytes more; false if there is no room.
    fn grow(&mut self, bytes: usize) -> bool {
        let used = self.budget.0.fetch_add(bytes, Ordering::Relaxed);
        if used + bytes > MAX_RUNNING {
            self.budget.0.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    fn give_back(&mut self) {
        self.budget.0.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether exchanges are captured at present.
#[derive(Debug, Default)]
pub struct Capturing {
    /// Spares requests the look at the window.
    is_on: AtomicBool,
    window: ArcSwapOption<Window>,
    bodies: AtomicUsize,
    bytes: AtomicUsize,
    running: Budget,
}

/// What is captured, and how long.
#[derive(Clone, Debug)]
pub struct Window {
    /// When capturing ends by itself.
    pub until: Instant,
    /// The same in UNIX milliseconds, for people.
    pub until_wall: i64,
    /// Only exchanges of this account; none = all.
    pub account: Option<AccountName>,
    /// What is kept of their bodies.
    pub bodies: Bodies,
}

impl Capturing {
    /// Captures from now on, instead of what was captured before.
    pub fn start(&self, window: Window) {
        self.window.store(Some(Arc::new(window)));
        self.bodies.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.is_on.store(true, Ordering::Release);
    }

    /// Captures nothing more.
    pub fn stop(&self) {
        self.is_on.store(false, Ordering::Release);
        self.window.store(None);
    }

    /// What is captured now, if anything.
    pub fn window(&self) -> Option<Arc<Window>> {
        if !self.is_on.load(Ordering::Acquire) {
            return None;
        }
        let window = self.window.load_full().filter(|window| Instant::now() < window.until);
        if window.is_none() {
            self.stop();
        }
        window
    }

    /// Captures a request with these headers that has arrived, if anything is captured now and there
    /// is room.
    pub(super) fn begin(&self, headers: &HeaderMap) -> Option<Box<Capture>> {
        let window = self.window()?;
        let mut share = Share { budget: self.running.clone(), bytes: 0 };
        share.grow(size(headers)).then(|| {
            let part = |headers| Part {
                headers,
                body: Arc::new(CapturedBody::new(&self.running, window.bodies.max)),
            };
            Box::new(Capture {
                request: part(compact(headers)),
                response: part(HeaderMap::new()),
                account: window.account.clone(),
                is_plain: window.bodies.is_plain,
                headers: share,
            })
        })
    }

    /// How many bodies were captured since the start, and their bytes.
    pub fn captured(&self) -> (usize, usize) {
        (self.bodies.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn count(&self, capture: &Capture) {
        for body in [capture.request.body.len(), capture.response.body.len()] {
            if body > 0 {
                self.bodies.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(body, Ordering::Relaxed);
            }
        }
    }
}

/// What is captured of one exchange. It may hold secrets: it leaves through the redactor only.
#[derive(Debug)]
pub struct Capture {
    /// The request as the caller sent it.
    pub request: Part,
    /// The response as the caller got it.
    pub response: Part,
    /// It is kept only if the request goes to this account; none = in any case.
    account: Option<AccountName>,
    /// Its response is to be readable.
    pub(super) is_plain: bool,
    headers: Share,
}

/// Headers and body of a request or response.
#[derive(Debug)]
pub struct Part {
    /// The headers.
    pub headers: HeaderMap,
    /// The beginning of the body.
    pub body: Arc<CapturedBody>,
}

/// The beginning of a body.
#[derive(Debug)]
pub struct CapturedBody {
    kept: Mutex<Kept>,
    total: AtomicUsize,
    max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: Vec<u8>,
    share: Share,
}

impl CapturedBody {
    fn new(budget: &Budget, max: usize) -> Self {
        let share = Share { budget: budget.clone(), bytes: 0 };
        let kept = Mutex::new(Kept { bytes: Vec::new(), share });
        Self { kept, total: AtomicUsize::new(0), max }
    }

    /// More of the body. What there is no room for is left out, and with it the rest.
    pub fn push(&self, data: &[u8]) {
        let before = self.total.fetch_add(data.len(), Ordering::Relaxed);
        let mut kept = self.kept.lock();
        let data = &data[..data.len().min(self.max.saturating_sub(kept.bytes.len()))];
        if before == kept.bytes.len() && kept.share.grow(data.len()) {
            kept.bytes.extend_from_slice(data);
        }
    }

    /// The bytes that were kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.lock().bytes.clone()
    }

    /// Length of the whole body, in bytes.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes that were kept.
    pub fn len(&self) -> usize {
        self.kept.lock().bytes.len()
    }

    /// True if nothing came.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much of it would be kept, in bytes.
    pub fn max(&self) -> usize {
        self.max
    }

    /// True if the body is longer than what was kept.
    pub fn is_cut(&self) -> bool {
        self.total() > self.len()
    }
}

impl Default for CapturedBody {
    fn default() -> Self {
        Self::new(&Budget::default(), Bodies::BEGINNING.max)
    }
}

impl Part {
    fn size(&self) -> usize {
        size(&self.headers) + self.body.kept.lock().bytes.capacity()
    }
}

impl Capture {
    /// The response has these headers; they are left out if there is no room.
    pub(super) fn respond(&mut self, headers: &HeaderMap) {
        if self.headers.grow(size(headers)) {
            self.response.headers = compact(headers);
        }
    }

    /// True if what goes to this account is to be kept.
    pub(super) fn is_of(&self, account: Option<&AccountName>) -> bool {
        self.account.is_none() || self.account.as_ref() == account
    }

    /// The exchange has ended: from here on it counts as part of the request log.
    pub(super) fn end(&mut self) {
        self.headers.give_back();
        for part in [&self.request, &self.response] {
            part.body.kept.lock().share.give_back();
        }
    }

    /// What it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.request.size() + self.response.size()
    }
}

/// What headers take in memory, in bytes.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum()
}

/// A copy that shares no memory with the buffer that the head was read into.
fn compact(headers: &HeaderMap) -> HeaderMap {
    let mut copy = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let own = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        copy.append(name.clone(), own);
    }
    copy
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MAX_BODY: usize = Bodies::BEGINNING.max;

    fn capturing() -> Capturing {
        let capturing = Capturing::default();
        let until = Instant::now() + Duration::from_secs(60);
        capturing.start(Window { until, until_wall: 0, account: None, bodies: Bodies::BEGINNING });
        capturing
    }

    #[test]
    fn what_is_captured_of_running_requests_is_bounded_and_given_back_when_they_end() {
        let capturing = capturing();
        let body = vec![b'x'; MAX_BODY];
        let mut captures = Vec::new();
        for _ in 0..MAX_RUNNING / MAX_BODY + 9 {
            let capture = capturing.begin(&HeaderMap::new()).unwrap();
            capture.request.body.push(&body);
            captures.push(capture);
        }
        let is_whole = |capture: &Capture| !capture.request.body.is_cut();
        let whole = captures.iter().filter(|capture| is_whole(capture)).count();
        assert_eq!(whole, MAX_RUNNING / MAX_BODY);
        assert_eq!(capturing.running.0.load(Ordering::Relaxed), MAX_RUNNING);
        // One ends, of another the caller has left.
        captures[0].end();
        captures.swap_remove(1);
        assert_eq!(captures[0].request.body.len(), MAX_BODY, "the log has it");
        let capture = capturing.begin(&HeaderMap::new()).unwrap();
        capture.request.body.push(&body);
        assert!(is_whole(&capture));
        drop((captures, capture));
        assert_eq!(capturing.running.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_body_with_a_gap_is_not_continued_and_headers_count_too() {
        let capturing = capturing();
        let mut others = Share { budget: capturing.running.clone(), bytes: 0 };
        assert!(others.grow(MAX_RUNNING - 10));
        let capture = capturing.begin(&HeaderMap::new()).unwrap();
        capture.request.body.push(b"begins");
        capture.request.body.push(b"no room for this");
        others.give_back();
        capture.request.body.push(b"end");
        assert_eq!(capture.request.body.bytes(), b"begins");
        assert!(capture.request.body.is_cut() && capture.request.body.total() == 25);
        assert!(others.grow(MAX_RUNNING - 10));
        let headers = HeaderMap::from_iter([(http::header::HOST, HeaderValue::from_static("x"))]);
        assert!(capturing.begin(&headers).is_none());
    }
}
