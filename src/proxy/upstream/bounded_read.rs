//! Bounds how much of a response is read at once. hyper makes its read buffer as large as what a
//! read fills, and passes the buffer on: while a caller does not read its response, several of them
//! wait. This stands above TLS, so that a record is still read from the socket by one call.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

/// Largest read, in bytes. One less than a power of two: hyper would reserve
/// twice as much after a read that fills its buffer.
const MAX_READ: u64 = 16 * 1024 - 1;

/// A connection of which no more than [`MAX_READ`] bytes are read at once.
#[derive(Debug)]
pub(super) struct BoundedRead<T>(Take<T>);

impl<T: AsyncRead> BoundedRead<T> {
    pub(super) fn new(io: T) -> Self {
        Self(io.take(MAX_READ))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for BoundedRead<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.set_limit(MAX_READ);
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BoundedRead<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.get_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.get_mut()).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.get_mut()).poll_shutdown(cx)
    }
}
