//! A TCP connection to the API, below TLS. It does three things that the layers above cannot: when
//! a write fails, it still reads a response that is waiting in the receive buffer; it limits what
//! comes before the head of a response; and it does not take a server that reads a large body
//! slowly for a dead one.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::outbound::{KEEPALIVE_INTERVAL, KEEPALIVE_TIME, UNACKNOWLEDGED};

/// Bytes that may come before the end of a response head: interim responses (1xx) and the head.
/// More than hyper's read buffer, so that no body is ever counted.
const MAX_BEFORE_HEAD: usize = 1024 * 1024;
/// A longer request may fill the server's receive window. To the kernel a window that stays closed
/// looks like bytes that nobody acknowledges, so the limit for those is then the one for a body
/// that stalls.
const WINDOW: usize = 64 * 1024;

/// Too much came before a response head.
#[derive(Debug, thiserror::Error)]
#[error("more than 1 MiB came before the response head")]
pub(super) struct Flood;

/// Shared by a connection's user and its socket.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// A request was sent, and the head of its response has not arrived.
    awaits_head: AtomicBool,
    /// A write failed.
    lost: AtomicBool,
}

impl Signals {
    pub(super) fn await_head(&self, is_awaited: bool) {
        self.awaits_head.store(is_awaited, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The socket.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    signals: Arc<Signals>,
    /// Bytes read since the last write, while a head was awaited.
    before_head: usize,
    /// Bytes written since the last read.
    written: usize,
    /// Limit for unacknowledged bytes while a large body is sent; none = the system's own.
    stall_limit: Option<Duration>,
}

impl Socket {
    /// Connects.
    pub(super) async fn connect(
        address: SocketAddr,
        stall_limit: Option<Duration>,
    ) -> io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let socket = Self { tcp, signals: Arc::default(), before_head: 0, written: 0, stall_limit };
        // Without these options dead connections are noticed later.
        let _ = sockopt::set_socket_keepalive(&socket.tcp, true);
        let _ = sockopt::set_tcp_keepidle(&socket.tcp, KEEPALIVE_TIME);
        let _ = sockopt::set_tcp_keepintvl(&socket.tcp, KEEPALIVE_INTERVAL);
        socket.limit_unacknowledged(Some(UNACKNOWLEDGED));
        Ok(socket)
    }

    pub(super) fn signals(&self) -> Arc<Signals> {
        self.signals.clone()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn limit_unacknowledged(&self, limit: Option<Duration>) {
        let millis = limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX));
        let _ = sockopt::set_tcp_user_timeout(&self.tcp, millis);
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn limit_unacknowledged(&self, _limit: Option<Duration>) {}

    fn has_read(&mut self, bytes: usize) {
        if self.signals.awaits_head.load(Ordering::Relaxed) {
            self.before_head += bytes;
        }
        if self.written > WINDOW {
            self.limit_unacknowledged(Some(UNACKNOWLEDGED));
        }
        self.written = 0;
    }

    /// Hides a failed write: what arrived before can still be read, and then the end or the error.
    /// The sender goes on until it reads that.
    fn after_write(
        &mut self,
        wanted: usize,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(written)) => {
                self.before_head = 0;
                let before = self.written;
                self.written = before.saturating_add(written);
                if before <= WINDOW && self.written > WINDOW {
                    self.limit_unacknowledged(self.stall_limit);
                }
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(_)) => {
                self.signals.lost.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(wanted))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before_head > MAX_BEFORE_HEAD && self.signals.awaits_head.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Flood)));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        if polled.is_ready() {
            self.has_read(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.signals.is_lost() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.after_write(bytes.len(), polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = || pieces.iter().map(|piece| piece.len()).sum();
        if self.signals.is_lost() {
            return Poll::Ready(Ok(wanted()));
        }
        let polled = Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces);
        self.after_write(wanted(), polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = Socket::connect(listener.local_addr().unwrap(), Some(Duration::from_secs(60)))
            .await
            .unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_arrived_before_a_reset_is_read_whole_and_then_the_end() {
        let (mut ours, mut theirs) = pair().await;
        theirs.write_all(b"the answer").await.unwrap();
        // Bytes that were never read make a reset of the close.
        ours.write_all(&[b'x'; 1000]).await.unwrap();
        theirs.readable().await.unwrap();
        drop(theirs);
        for _ in 0..10_000 {
            ours.write_all(&[b'x'; 1000]).await.unwrap();
            if ours.signals.is_lost() {
                break;
            }
        }
        assert!(ours.signals.is_lost());
        let mut answer = [0; 10];
        ours.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"the answer");
        assert!(matches!(ours.read(&mut answer).await, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn bytes_before_a_head_are_limited_and_those_of_a_body_are_not() {
        let (mut ours, mut theirs) = pair().await;
        let flood = vec![b'1'; MAX_BEFORE_HEAD + 4096];
        let mut got = vec![0; flood.len()];
        let body = flood.clone();
        tokio::spawn(async move {
            theirs.write_all(&body).await.unwrap();
            theirs.write_all(&body).await.unwrap();
            std::future::pending::<()>().await;
        });
        ours.read_exact(&mut got).await.unwrap();
        ours.signals.await_head(true);
        let flooded = async {
            loop {
                if let Err(error) = ours.read(&mut got[..4096]).await {
                    break error;
                }
            }
        };
        let error =
            tokio::time::timeout(Duration::from_secs(10), flooded).await.expect("it is bounded");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Flood>()), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_server_that_reads_a_large_body_slowly_is_not_taken_for_dead() {
        let (mut ours, mut theirs) = pair().await;
        let limit = |socket: &Socket| sockopt::tcp_user_timeout(&socket.tcp).unwrap();
        assert_eq!(limit(&ours), 20_000);
        ours.write_all(&[b'x'; WINDOW]).await.unwrap();
        assert_eq!(limit(&ours), 20_000);
        ours.write_all(b"x").await.unwrap();
        assert_eq!(limit(&ours), 60_000);
        theirs.write_all(b"ok").await.unwrap();
        ours.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(limit(&ours), 20_000);
    }
}
