//! Bounds how much of a response is read at once. hyper makes its read buffer as large as what a
//! read fills, and passes the buffer on: while a caller does not read its response, two of them
//! wait. So pieces are small until the caller has surely read some. This stands above TLS, so that
//! a record is still read from the socket by one call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio_rustls::client::TlsStream;

/// Largest read at first, in bytes. One less than a power of two: hyper would reserve twice as much
/// after a read that fills its buffer.
const MAX_FIRST_READS: u64 = 16 * 1024 - 1;
/// Largest read of a response whose caller reads: fewer and larger ones take less time.
const MAX_READ: u64 = MAX_BUFFERED as u64 - 1;
/// Size of hyper's buffers, in bytes.
pub(super) const MAX_BUFFERED: usize = 128 * 1024;
/// Bytes of a response after which its caller surely reads: more than the kernel buffers for it at
/// both ends (the maximum in `tcp_wmem`, 4 MiB by default, and the window of a new connection).
const READS_FROM: u64 = 5 * 1024 * 1024;

/// A stream that can say whether there is anything to read. hyper tries to read whenever it is
/// polled, mostly in vain, and to ask takes a third of the time of a read through TLS.
pub(super) trait Arrival {
    /// Ready if a read would not wait; otherwise the task is woken for it, as by a read.
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<T: Arrival> Arrival for TlsStream<T> {
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()> {
        let (io, session) = self.get_ref();
        // A session that does not want to read has something for its reader.
        if session.wants_read() { io.poll_arrival(cx) } else { Poll::Ready(()) }
    }
}

/// A connection to the API of which no more than a bounded number of bytes are read at once.
#[derive(Debug)]
pub(super) struct BoundedRead<T> {
    io: Take<T>,
    /// Bytes read since the last write, which belong to one response.
    response_bytes: u64,
    /// A failure that came behind bytes, for the next read.
    failure: Option<io::Error>,
}

impl<T: AsyncRead> BoundedRead<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io: io.take(0), response_bytes: 0, failure: None }
    }
}

impl<T: AsyncRead + Arrival + Unpin> BoundedRead<T> {
    /// Reads as long as there is something to read at once. TLS gives one record at a time, and a
    /// response is often two: its head and its body.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let filled = buffer.filled().len();
            // Behind bytes, TLS may have an error in hand that no arrival tells of.
            if filled == before {
                ready!(self.io.get_ref().poll_arrival(cx));
            }
            let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
            let has_read = buffer.filled().len() > filled;
            match polled {
                Poll::Ready(Ok(())) if has_read && buffer.remaining() > 0 => continue,
                Poll::Ready(Err(failure)) if filled > before => self.failure = Some(failure),
                polled if filled == before => return polled,
                _ => {}
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl<T: AsyncRead + Arrival + Unpin> AsyncRead for BoundedRead<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let is_read = self.response_bytes >= READS_FROM;
        self.io.set_limit(if is_read { MAX_READ } else { MAX_FIRST_READS });
        let before = buffer.filled().len();
        let polled = self.poll_fill(cx, buffer);
        self.response_bytes += (buffer.filled().len() - before) as u64;
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Arrival + Unpin> AsyncWrite for BoundedRead<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.response_bytes = 0;
        Pin::new(self.io.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.response_bytes = 0;
        Pin::new(self.io.get_mut()).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::*;

    /// Gives one piece, failure or pause at each read. As TLS does, it keeps a failure to itself that
    /// came with bytes, and says for a while that nothing has arrived.
    struct Pieces {
        all: VecDeque<Poll<io::Result<&'static [u8]>>>,
        has_read: bool,
        asked: Cell<u8>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let next = self.all.pop_front().unwrap_or(Poll::Ready(Ok(&[])));
            self.has_read = true;
            next.map(|piece| piece.map(|piece| buffer.put_slice(piece)))
        }
    }

    impl Arrival for Pieces {
        fn poll_arrival(&self, _: &mut Context<'_>) -> Poll<()> {
            let has_failure = matches!(self.all.front(), Some(Poll::Ready(Err(_))));
            if !self.has_read || !has_failure || self.asked.get() > 3 {
                return Poll::Ready(());
            }
            self.asked.set(self.asked.get() + 1);
            Poll::Pending
        }
    }

    fn data(text: &'static str) -> Poll<io::Result<&'static [u8]>> {
        Poll::Ready(Ok(text.as_bytes()))
    }

    /// What each read gives, into a buffer of `size`.
    async fn reads(size: usize, pieces: Vec<Poll<io::Result<&'static [u8]>>>) -> Vec<String> {
        let mut reader =
            BoundedRead::new(Pieces { all: pieces.into(), has_read: false, asked: Cell::new(0) });
        let mut all = Vec::new();
        loop {
            let mut space = vec![0; size];
            let mut buffer = ReadBuf::new(&mut space);
            let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut reader).poll_read(cx, &mut buffer)));
            all.push(match read.await {
                Poll::Pending => "...".to_owned(),
                Poll::Ready(Err(error)) => error.kind().to_string(),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return all,
                Poll::Ready(Ok(())) => String::from_utf8(buffer.filled().to_vec()).unwrap(),
            });
        }
    }

    #[tokio::test]
    async fn what_is_there_at_once_is_read_at_once() {
        let read = reads(100, vec![data("head"), data("body"), Poll::Pending, data("more")]).await;
        assert_eq!(read, ["headbody", "more"]);
        assert_eq!(reads(100, vec![Poll::Pending, data("late")]).await, ["...", "late"]);
    }

    #[tokio::test]
    async fn a_failure_behind_bytes_comes_after_them() {
        let reset = || Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        assert_eq!(reads(100, vec![data("a"), reset()]).await, ["a", "connection reset"]);
        assert_eq!(reads(100, vec![reset()]).await, ["connection reset"]);
    }

    #[tokio::test]
    async fn a_full_buffer_and_the_bound_end_a_read() {
        assert_eq!(reads(4, vec![data("full"), data("next")]).await, ["full", "next"]);
        let piece: &'static str = "x".repeat(MAX_FIRST_READS as usize - 1).leak();
        let read = reads(100_000, vec![data(piece), data("y"), data("z")]).await;
        assert_eq!(read.iter().map(String::len).collect::<Vec<_>>(), [piece.len() + 1, 1]);
    }
}
