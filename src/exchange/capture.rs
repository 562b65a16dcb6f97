//! Headers and bodies of an exchange, kept only while somebody has asked for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::AccountName;

/// How much of a body is kept, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Whether exchanges are captured at present.
#[derive(Debug, Default)]
pub struct Capturing {
    /// Spares requests the look at the window.
    is_on: AtomicBool,
    window: ArcSwapOption<Window>,
    bodies: AtomicUsize,
    bytes: AtomicUsize,
}

/// What is captured, and how long.
#[derive(Clone, Debug)]
pub struct Window {
    /// When capturing ends by itself.
    pub until: Instant,
    /// Only exchanges of this account; none = all.
    pub account: Option<AccountName>,
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
#[derive(Debug, Default)]
pub struct CapturedBody {
    kept: Mutex<Vec<u8>>,
    total: AtomicUsize,
}

impl CapturedBody {
    /// More of the body.
    pub fn push(&self, data: &[u8]) {
        self.total.fetch_add(data.len(), Ordering::Relaxed);
        let mut kept = self.kept.lock();
        let room = MAX_BODY.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
    }

    /// The bytes that were kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.kept.lock().clone()
    }

    /// Bytes that were kept.
    pub fn len(&self) -> usize {
        self.kept.lock().len()
    }

    /// True if nothing came.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if the body is longer than what was kept.
    pub fn is_cut(&self) -> bool {
        self.total.load(Ordering::Relaxed) > self.len()
    }
}

impl Part {
    fn new(headers: HeaderMap) -> Self {
        Self { headers, body: Arc::default() }
    }

    fn size(&self) -> usize {
        let fields = self.headers.iter();
        let fields: usize =
            fields.map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        fields + self.body.kept.lock().capacity()
    }
}

impl Capture {
    /// A request with these headers has arrived.
    pub(super) fn new(request: &HeaderMap) -> Self {
        Self { request: Part::new(compact(request)), response: Part::new(HeaderMap::new()) }
    }

    /// The response has these headers.
    pub(super) fn respond(&mut self, headers: &HeaderMap) {
        self.response = Part::new(compact(headers));
    }

    /// What it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.request.size() + self.response.size()
    }
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
