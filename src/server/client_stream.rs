//! The byte stream of a client connection. hyper gets one request at a time, so every byte that is
//! read or written here is known to belong to the head, the body or the response of the current
//! one.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::framing::Framing;
use super::malformed::Malformed;
use crate::exchange::activity::{Activity, LINGER, Phase};
use crate::platform::is_reader_gone;
use crate::proxy::peer;

/// The same as [`LINGER`] when the server shuts down.
const LINGER_AT_SHUTDOWN: Duration = Duration::from_millis(250);
/// Size of the buffer for bytes that are discarded.
const DISCARD_BUFFER: usize = 16 * 1024;
/// Bytes behind the current request that are read ahead: enough to reach the end of what a caller
/// sent before it left.
const MAX_PIPELINED: usize = 16 * 1024;
/// Size of the buffer for what is read ahead at once, in bytes: hardly ever is there anything.
const READ_AHEAD_BUFFER: usize = 512;
/// Pieces of at most this many bytes in all, a head and a small body, are written as one: `writev`
/// costs the kernel more than the copy.
const MAX_JOINED: usize = 2048;
/// Time until a caller that sends no more is checked again; doubled each time, up to a second.
const FIRST_GONE_CHECK: Duration = Duration::from_millis(10);

/// The stream of a TCP or unix socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// True if the caller, which sends no more, certainly does not read either.
    fn is_gone(&self) -> bool;

    /// Makes the following close a reset, which nobody takes for the end of a response.
    fn reset(&self);
}

impl Stream for TcpStream {
    fn is_gone(&self) -> bool {
        let ends = |local: io::Result<SocketAddr>, peer: io::Result<SocketAddr>| {
            Some((local.ok()?, peer.ok()?))
        };
        ends(self.local_addr(), self.peer_addr())
            .is_none_or(|(local, peer)| peer::is_gone(local, peer))
    }

    fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl Stream for UnixStream {
    fn is_gone(&self) -> bool {
        is_reader_gone(self)
    }

    /// Unix sockets have no reset: callers with HTTP/1.0 do not learn that a response without a
    /// length was cut.
    fn reset(&self) {}
}

/// What hyper reads from and writes to.
pub(super) struct ClientStream<T: Stream> {
    stream: T,
    activity: Arc<Activity>,
    framing: Framing,
    /// Bytes that arrived behind the current request.
    pipelined: Vec<u8>,
    /// The caller sends no more.
    is_eof: bool,
    /// A read or a write failed.
    is_broken: bool,
    /// The next check of a caller that sends no more, and the wait before it.
    gone_check: Option<(Pin<Box<Sleep>>, Duration)>,
    /// Our own response in place of hyper's to a malformed request.
    malformed: Option<Malformed>,
}

impl<T: Stream> ClientStream<T> {
    pub(super) fn new(stream: T, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            framing: Framing::default(),
            pipelined: Vec::new(),
            is_eof: false,
            is_broken: false,
            gone_check: None,
            malformed: None,
        }
    }

    /// Closes the connection in order: writes what is still to be said, ends our side, then reads
    /// on for a moment until the caller ends its side. A close with unread bytes would reset the
    /// connection, and the caller would lose the response.
    pub(super) async fn end(mut self, draining: &CancellationToken) {
        if self.is_eof || self.is_broken || self.activity.is_unframed() {
            return;
        }
        if self.activity.phase() == Phase::ReadingHead
            && self.malformed.is_none()
            && !self.framing.head().is_empty()
        {
            // hyper has no response to some malformed requests.
            let mut response = Malformed::new(&self.activity, self.framing.head(), b"");
            let written = timeout(LINGER, self.stream.write_all(response.unwritten())).await;
            if matches!(written, Ok(Ok(()))) {
                response.advance(response.unwritten().len());
            }
        }
        let activity = self.activity.clone();
        activity.enter(Phase::Lingering);
        let read_on = async {
            self.stream.shutdown().await?;
            let mut buffer = vec![0; DISCARD_BUFFER];
            while self.stream.read(&mut buffer).await? > 0 {}
            io::Result::Ok(())
        };
        let shutdown = async {
            draining.cancelled().await;
            sleep(LINGER_AT_SHUTDOWN).await;
        };
        tokio::select! {
            biased;
            () = activity.evicted.notified() => {}
            () = shutdown => {}
            _ = timeout(LINGER, read_on) => {}
        }
    }

    /// Follows the framing through bytes that arrived, and returns how many belong to the current
    /// request.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let taken = self.framing.take(bytes);
        let phase = self.activity.phase();
        if matches!(phase, Phase::Idle | Phase::ReadingHead) {
            if phase == Phase::Idle && self.framing.has_begun() {
                self.activity.enter(Phase::ReadingHead);
            }
            self.activity.set_fragment(self.framing.has_fragment());
        }
        self.activity.set_remaining(self.framing.remaining());
        taken
    }

    /// Gives hyper the pipelined bytes, as far as they belong to one request.
    fn read_pipelined(&mut self, buf: &mut ReadBuf<'_>) {
        let mut pipelined = std::mem::take(&mut self.pipelined);
        let taken = self.follow(&pipelined[..pipelined.len().min(buf.remaining())]);
        buf.put_slice(&pipelined[..taken]);
        pipelined.drain(..taken);
        if !pipelined.is_empty() {
            self.pipelined = pipelined;
        }
    }

    /// Reads behind the current request, only to notice when the caller leaves. Ready once it has.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); READ_AHEAD_BUFFER];
        while !self.is_eof && self.pipelined.len() < MAX_PIPELINED {
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(self.poll_stream(cx, &mut buf))?;
            self.pipelined.extend_from_slice(buf.filled());
        }
        self.poll_gone(cx).map(Ok)
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.is_broken |= read.is_err();
        self.is_eof |= read.is_ok() && buf.filled().len() == before;
        Poll::Ready(read)
    }

    /// Ready once the caller is gone. A caller that only shut its sending half is still served.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some((check, _)) = &mut self.gone_check {
                ready!(check.as_mut().poll(cx));
            }
            if self.stream.is_gone() {
                return Poll::Ready(());
            }
            let wait = self
                .gone_check
                .take()
                .map_or(FIRST_GONE_CHECK, |(_, wait)| (wait * 2).min(Duration::from_secs(1)));
            self.gone_check = Some((Box::pin(sleep(wait)), wait));
        }
    }

    /// True while there is no valid request: whatever hyper writes now is its refusal of a
    /// malformed one.
    fn is_refusal(&self) -> bool {
        matches!(self.activity.phase(), Phase::Idle | Phase::ReadingHead)
    }

    /// Writes our own response in place of hyper's `refusal`.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, refusal: &[u8]) -> Poll<io::Result<()>> {
        let response = self
            .malformed
            .get_or_insert_with(|| Malformed::new(&self.activity, self.framing.head(), refusal));
        while !response.unwritten().is_empty() {
            let stream = Pin::new(&mut self.stream);
            let written = ready!(stream.poll_write(cx, response.unwritten()))?;
            response.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn note_write(&mut self, written: &Poll<io::Result<usize>>, cx: &Context<'_>) {
        self.is_broken |= matches!(written, Poll::Ready(Err(_)));
        if self.activity.note_write(written.is_pending()) {
            // The body was held back, and hyper asks for more of it before it writes.
            cx.waker().wake_by_ref();
        }
    }
}

impl<T: Stream> Drop for ClientStream<T> {
    fn drop(&mut self) {
        if self.activity.is_unframed() {
            self.stream.reset();
        }
    }
}

impl<T: Stream> AsyncRead for ClientStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.framing.is_over() {
            if this.activity.phase() != Phase::Idle {
                // hyper reads again once the response is written.
                return Poll::Pending;
            }
            this.framing.next();
        }
        if !this.pipelined.is_empty() {
            this.read_pipelined(buf);
            return Poll::Ready(Ok(()));
        }
        if this.is_eof {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(this.poll_stream(cx, buf))?;
        let bytes = &buf.filled()[before..];
        if !bytes.is_empty() {
            let taken = this.follow(bytes);
            this.pipelined.extend_from_slice(&bytes[taken..]);
            buf.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Stream> AsyncWrite for ClientStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = if self.is_refusal() {
            self.poll_refuse(cx, buf).map_ok(|()| buf.len())
        } else {
            Pin::new(&mut self.stream).poll_write(cx, buf)
        };
        self.note_write(&written, cx);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        if length <= MAX_JOINED {
            let mut joined = SmallVec::<[u8; MAX_JOINED]>::new();
            bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
            return self.poll_write(cx, &joined);
        }
        let written = if self.is_refusal() {
            let first = bufs.first().map_or(&[][..], |first| first);
            self.poll_refuse(cx, first).map_ok(|()| length)
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.note_write(&written, cx);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.activity.note_flushed() && (self.is_eof || !self.pipelined.is_empty()) {
            // What has arrived already causes no event of the socket that would wake hyper.
            cx.waker().wake_by_ref();
        }
        // hyper flushes whenever it is polled. It could read ahead itself, but would make a buffer
        // of 8 KiB for it each time.
        if self.activity.phase() == Phase::Serving
            && self.framing.is_over()
            && self.poll_read_ahead(cx)?.is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
