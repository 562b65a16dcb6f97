//! A client connection's bytes. hyper gets one request at a time, so that what is read and written
//! here is known to belong to the head, the body or the answer of the one under way.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Doing, LEFT};
use super::framing::Framing;
use super::malformed::Malformed;
use crate::proxy::peer;

/// The same as [`LEFT`] when the server ends.
const LEFT_AT_END: Duration = Duration::from_millis(250);
/// Size of the buffer that takes what is thrown away.
const THROWN_AWAY: usize = 16 * 1024;
/// Bytes behind the request under way that are read ahead of it: enough to come to the end of what
/// a caller sent before it left.
const MOST_HELD: usize = 16 * 1024;
/// How soon a caller that shut its half is looked at again; doubled each time, up to a second.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// A connection's bytes, from a port or a unix socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// True if it is certain that whoever sends no more does not read either.
    fn has_left(&self) -> bool;

    /// Makes the close that follows a reset, which nobody takes for the end of an answer.
    fn reset(&self);
}

impl Stream for TcpStream {
    fn has_left(&self) -> bool {
        let ends = |local: io::Result<SocketAddr>, peer: io::Result<SocketAddr>| {
            Some((local.ok()?, peer.ok()?))
        };
        ends(self.local_addr(), self.peer_addr())
            .is_none_or(|(local, peer)| peer::has_left(local, peer))
    }

    fn reset(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl Stream for UnixStream {
    fn has_left(&self) -> bool {
        use rustix::net::SendFlags;
        // Nothing is sent; the kernel looks whether it could be.
        rustix::net::send(self, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            == Err(rustix::io::Errno::PIPE)
    }

    /// Unix sockets have no reset: there, callers with HTTP/1.0 do not learn that an answer without
    /// a length was cut.
    fn reset(&self) {}
}

/// What hyper reads from and writes to.
pub(super) struct Wire<T: Stream> {
    stream: T,
    activity: Arc<Activity>,
    framing: Framing,
    /// What came behind the request under way.
    held: Vec<u8>,
    /// The caller sends no more.
    has_ended: bool,
    /// A read or a write failed.
    is_broken: bool,
    /// When a caller that sends no more is looked at again.
    look: Option<(Pin<Box<Sleep>>, Duration)>,
    /// Our own answer in place of hyper's to what is no request.
    malformed: Option<Malformed>,
}

impl<T: Stream> Wire<T> {
    pub(super) fn new(stream: T, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            framing: Framing::default(),
            held: Vec::new(),
            has_ended: false,
            is_broken: false,
            look: None,
            malformed: None,
        }
    }

    /// Ends the connection in order: what is still to be said, the end of our side, then reading on
    /// until the caller ends its side, for a moment. A close with unread bytes resets the
    /// connection, and the caller loses the answer.
    pub(super) async fn end(mut self, draining: &CancellationToken) {
        if self.has_ended || self.is_broken || self.activity.is_unframed() {
            return;
        }
        let activity = self.activity.clone();
        if activity.doing() == Doing::Head
            && self.malformed.is_none()
            && !self.framing.head().is_empty()
        {
            // hyper has no answer to some of what is no request.
            let answer = Malformed::new(self.framing.head(), b"");
            let _ = timeout(LEFT, self.stream.write_all(answer.left())).await;
        }
        activity.set(Doing::Lingering);
        let read_on = async {
            self.stream.shutdown().await?;
            let mut buffer = vec![0; THROWN_AWAY];
            while self.stream.read(&mut buffer).await? > 0 {}
            io::Result::Ok(())
        };
        let at_end = async {
            draining.cancelled().await;
            sleep(LEFT_AT_END).await;
        };
        tokio::select! {
            biased;
            () = activity.evicted.notified() => {}
            () = at_end => {}
            _ = timeout(LEFT, read_on) => {}
        }
    }

    /// Takes what belongs to the request under way of what came; the rest is held.
    fn pass(&mut self, came: &[u8]) -> usize {
        let taken = self.framing.take(came);
        match self.activity.doing() {
            Doing::Resting | Doing::Head => {
                if self.activity.doing() == Doing::Resting && self.framing.has_begun() {
                    self.activity.set(Doing::Head);
                }
                self.activity.set_fragment(self.framing.has_fragment());
            }
            _ => {}
        }
        self.activity.set_to_come(self.framing.to_come());
        taken
    }

    /// Gives hyper what was held, as far as it belongs to one request.
    fn give_held(&mut self, buf: &mut ReadBuf<'_>) {
        let mut held = std::mem::take(&mut self.held);
        let taken = self.pass(&held[..held.len().min(buf.remaining())]);
        buf.put_slice(&held[..taken]);
        held.drain(..taken);
        if !held.is_empty() {
            self.held = held;
        }
    }

    /// Reads behind the request under way: only to see whether the caller has left.
    fn poll_behind(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.has_ended && self.held.len() < MOST_HELD {
            let before = buf.filled().len();
            ready!(self.poll_stream(cx, buf))?;
            self.held.extend_from_slice(&buf.filled()[before..]);
            buf.set_filled(before);
        }
        match self.activity.doing() {
            Doing::Serving => self.poll_left(cx).map(Ok),
            // It is read again when the answer is out.
            _ => Poll::Pending,
        }
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.is_broken |= read.is_err();
        self.has_ended |= read.is_ok() && buf.filled().len() == before;
        Poll::Ready(read)
    }

    /// Ready once a caller that sends no more, or has sent more than is read, does not read either.
    /// Who has only shut its sending half is served.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some((look, _)) = &mut self.look {
                ready!(look.as_mut().poll(cx));
            }
            if self.stream.has_left() {
                return Poll::Ready(());
            }
            let pause = self
                .look
                .take()
                .map_or(FIRST_LOOK, |(_, pause)| (pause * 2).min(Duration::from_secs(1)));
            self.look = Some((Box::pin(sleep(pause)), pause));
        }
    }

    /// True while no request is under way: what hyper writes now is its refusal of what is none.
    fn is_refusal(&self) -> bool {
        matches!(self.activity.doing(), Doing::Resting | Doing::Head)
    }

    /// Writes our own answer in place of `refusal`.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, refusal: &[u8]) -> Poll<io::Result<()>> {
        let answer =
            self.malformed.get_or_insert_with(|| Malformed::new(self.framing.head(), refusal));
        while !answer.left().is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, answer.left()))?;
            answer.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>, cx: &Context<'_>) {
        self.is_broken |= matches!(written, Poll::Ready(Err(_)));
        if self.activity.wrote(written.is_pending()) {
            // The body was held back, and hyper asks for more of it before it writes.
            cx.waker().wake_by_ref();
        }
    }
}

impl<T: Stream> Drop for Wire<T> {
    fn drop(&mut self) {
        if self.activity.is_unframed() {
            self.stream.reset();
        }
    }
}

impl<T: Stream> AsyncRead for Wire<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.framing.is_over() {
            if this.activity.doing() != Doing::Resting {
                return this.poll_behind(cx, buf);
            }
            this.framing.next();
        }
        if !this.held.is_empty() {
            this.give_held(buf);
            return Poll::Ready(Ok(()));
        }
        if this.has_ended {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(this.poll_stream(cx, buf))?;
        let came = &buf.filled()[before..];
        if !came.is_empty() {
            let taken = this.pass(came);
            this.held.extend_from_slice(&came[taken..]);
            buf.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Stream> AsyncWrite for Wire<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match self.is_refusal() {
            true => self.poll_refuse(cx, buf).map_ok(|()| buf.len()),
            false => Pin::new(&mut self.stream).poll_write(cx, buf),
        };
        self.note(&written, cx);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match self.is_refusal() {
            true => {
                let first = bufs.first().map_or(&[][..], |first| first);
                self.poll_refuse(cx, first).map_ok(|()| bufs.iter().map(|buf| buf.len()).sum())
            }
            false => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.note(&written, cx);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.activity.flushed() && (self.has_ended || !self.held.is_empty()) {
            // No event of the socket tells hyper of what is here already.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
