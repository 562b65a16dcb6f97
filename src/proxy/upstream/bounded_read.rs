//! Bounds how much of a response is read at once. hyper makes its read buffer as large as what a
//! read fills, and passes the buffer on: while a caller does not read its response, two of them
//! wait. So pieces are small until the caller has surely read some. This stands above TLS, so that
//! a record is still read from the socket by one call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

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

/// A connection to the API of which no more than a bounded number of bytes are read at once.
#[derive(Debug)]
pub(super) struct BoundedRead<T> {
    io: Take<T>,
    /// Bytes read since the last write, which belong to one response.
    response_bytes: u64,
}

impl<T: AsyncRead> BoundedRead<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io: io.take(0), response_bytes: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BoundedRead<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_read = self.response_bytes >= READS_FROM;
        self.io.set_limit(if is_read { MAX_READ } else { MAX_FIRST_READS });
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.response_bytes += (buffer.filled().len() - before) as u64;
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BoundedRead<T> {
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
