//! One client connection: HTTP/1.1 with limits, and the clocks that end it. hyper's own head timer would also run
//! while a kept-alive connection rests, so the time of a head is measured here.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::alarm::Alarm;
use crate::proxy::guard::Fragment;

/// Time for a request head from its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// Time a connection may rest between requests.
const REST: Duration = Duration::from_secs(75);
/// Largest request head, in bytes.
const LARGEST_HEAD: usize = 64 * 1024;

/// What a connection is doing: two bits, and since when it rests or its head began.
#[derive(Debug)]
pub(super) struct Activity {
    word: AtomicU64,
    /// Since when the caller takes no bytes: milliseconds since `start` plus one; 0 = it does.
    stalled: AtomicU64,
    /// How long that may last; none = for ever.
    patience: Option<Duration>,
    /// The request line that came last holds a `#`, which hyper would cut off silently.
    fragment: AtomicBool,
    /// Tells the connection to end to make room.
    evicted: Notify,
    start: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Resting,
    Head,
    Serving,
}

impl Activity {
    pub(super) fn new(start: Instant, patience: Option<Duration>) -> Arc<Self> {
        let activity = Self {
            word: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            patience,
            fragment: AtomicBool::new(false),
            evicted: Notify::new(),
            start,
        };
        activity.set(Doing::Resting);
        Arc::new(activity)
    }

    /// Milliseconds since the server's start at which it came to rest or its head began; none if it is at work. A head
    /// that trickles in makes room like silence: else slow callers could keep everybody else out.
    pub(super) fn resting_since(&self) -> Option<u64> {
        let (doing, since) = self.get();
        (doing != Doing::Serving).then_some(since)
    }

    pub(super) fn evict(&self) {
        self.evicted.notify_one();
    }

    fn set(&self, doing: Doing) {
        // Since when it is at work, nobody asks.
        let since = if doing == Doing::Serving { 0 } else { self.elapsed() };
        self.word.store(since << 2 | doing as u64, Ordering::Relaxed);
    }

    /// Milliseconds since `start`.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX >> 3)
    }

    fn get(&self) -> (Doing, u64) {
        let word = self.word.load(Ordering::Relaxed);
        let doing = match word & 3 {
            0 => Doing::Resting,
            1 => Doing::Head,
            _ => Doing::Serving,
        };
        (doing, word >> 2)
    }

    /// True if a head begins with what was just read.
    fn begin_head(&self) -> bool {
        let begins = self.get().0 == Doing::Resting;
        if begins {
            self.set(Doing::Head);
        }
        begins
    }

    fn wrote(&self, is_pending: bool) {
        let stalled = self.stalled.load(Ordering::Relaxed) != 0;
        if stalled != is_pending {
            self.stalled.store(if is_pending { self.elapsed() + 1 } else { 0 }, Ordering::Relaxed);
        }
    }

    /// When it has lasted long enough; while a request is served its own limits count, and the caller's patience to
    /// read.
    fn deadline(&self) -> Option<Instant> {
        let (doing, since) = self.get();
        let at = |since| self.start + Duration::from_millis(since);
        match (doing, self.stalled.load(Ordering::Relaxed)) {
            (Doing::Resting, _) => Some(at(since) + REST),
            (Doing::Head, _) => Some(at(since) + HEAD),
            (Doing::Serving, 0) => None,
            (Doing::Serving, stalled) => self.patience.map(|patience| at(stalled) + patience),
        }
    }
}

/// A connection's bytes, from a port or a unix socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// Serves a connection until it ends, is evicted, lasts too long, or the server drains and its request is answered.
pub(super) async fn serve<T, S, B>(stream: T, service: S, activity: Arc<Activity>, draining: CancellationToken)
where
    T: Stream,
    S: Service<Request<Incoming>, Response = Response<B>, Error = std::convert::Infallible>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let io = TokioIo::new(Watched { stream, activity: activity.clone(), in_request_line: false });
    let service = Marked { service, activity: activity.clone() };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    // At most 100 fields, as hyper has it: saying so again makes it fill its tables twice a request.
    // The buffer's limit alone lets a head pass that arrives faster than it is looked at.
    builder.max_header_size(LARGEST_HEAD);
    let connection = builder.half_close(false).serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut drain = pin!(draining.cancelled());
    let mut evicted = pin!(activity.evicted.notified());
    let mut alarm = Alarm::new(Instant::now() + HEAD);
    let mut is_ending = false;
    // The connection's errors are the client's: nobody is left to be told.
    poll_fn(|cx| {
        if !is_ending && drain.as_mut().poll(cx).is_ready() {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !is_ending && evicted.as_mut().poll(cx).is_ready() {
            if activity.resting_since().is_some() {
                return Poll::Ready(());
            }
            // A request came in the same moment: it is answered first.
            is_ending = true;
            connection.as_mut().graceful_shutdown();
        }
        // A head that has begun is due sooner than whatever the alarm was set for.
        if let Some(deadline) = activity.deadline() {
            alarm.by(deadline);
        }
        alarm.poll(|| activity.deadline(), cx)
    })
    .await;
}

/// Notices the first byte of a head, a fragment in its first line, and a caller that takes no bytes.
struct Watched<T> {
    stream: T,
    activity: Arc<Activity>,
    in_request_line: bool,
}

impl<T> Watched<T> {
    /// Looks at what was just read. A head behind another in one read is not looked into: its fragment is cut off.
    fn look(&mut self, bytes: &[u8]) {
        self.in_request_line |= self.activity.begin_head();
        if !self.in_request_line {
            return;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        self.in_request_line = end.is_none();
        if bytes[..end.unwrap_or(bytes.len())].contains(&b'#') {
            self.activity.fragment.store(true, Ordering::Relaxed);
        }
    }
}

impl<T: Stream> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.look(&buf.filled()[before..]);
        }
        read
    }
}

impl<T: Stream> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.wrote(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.wrote(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Marks a connection as serving from the head of a request to the end of its answer.
struct Marked<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<Serving<B>>;
    type Error = S::Error;
    type Future = MarkedFuture<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.set(Doing::Serving);
        if self.activity.fragment.swap(false, Ordering::Relaxed) {
            request.extensions_mut().insert(Fragment);
        }
        let served = Served(self.activity.clone());
        MarkedFuture { answer: Box::pin(self.service.call(request)), served: Some(served) }
    }
}

struct MarkedFuture<F> {
    answer: Pin<Box<F>>,
    served: Option<Served>,
}

impl<F, B, E> Future for MarkedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Serving<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(self.answer.as_mut().poll(cx));
        let served = self.served.take();
        Poll::Ready(answer.map(|answer| answer.map(|body| Serving { body, _served: served })))
    }
}

/// A request is being served until this is dropped.
struct Served(Arc<Activity>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.set(Doing::Resting);
    }
}

/// An answer's body that knows when it has ended.
struct Serving<B> {
    body: B,
    _served: Option<Served>,
}

impl<B: Body + Unpin> Body for Serving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
