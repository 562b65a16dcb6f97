//! A TCP connection to the API, below TLS. It does three things that the layers above cannot: when
//! a write fails, it still reads a response that is waiting in the receive buffer; it limits what
//! comes before the head of a response; and it does not take a server that reads a large body
//! slowly for a dead one.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::bounded_read::Arrival;
use crate::outbound::{KEEPALIVE_INTERVAL, KEEPALIVE_TIME, UNACKNOWLEDGED};
use crate::platform::limit_unacknowledged;

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
    /// Nothing that is done now needs the task.
    lets_sleep: AtomicBool,
    /// Wakes the task that moves the bytes.
    task: OnceLock<Waker>,
}

impl Signals {
    pub(super) fn await_head(&self, is_awaited: bool) {
        self.awaits_head.store(is_awaited, Ordering::Relaxed);
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// The task of a connection: moves its bytes until it ends. No async function, which would have
    /// room for the connection twice.
    pub(super) fn drive<F: Future + Unpin>(
        self: Arc<Self>,
        mut connection: F,
    ) -> impl Future<Output = F::Output> {
        let waker = Waker::from(self.clone());
        poll_fn(move |cx| {
            self.task.get_or_init(|| cx.waker().clone());
            Pin::new(&mut connection).poll(&mut Context::from_waker(&waker))
        })
    }

    /// Does something that would wake the task for nothing. The socket wakes it all the same.
    pub(super) fn let_sleep<T>(&self, does: impl FnOnce() -> T) -> T {
        self.lets_sleep.store(true, Ordering::Relaxed);
        let done = does();
        self.lets_sleep.store(false, Ordering::Relaxed);
        done
    }

    /// For the socket: wakes the task itself, once there is one.
    fn context<'a>(&'a self, connecting: &'a Waker) -> Context<'a> {
        Context::from_waker(self.task.get().unwrap_or(connecting))
    }
}

/// What hyper wakes.
impl Wake for Signals {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.lets_sleep.load(Ordering::Relaxed) {
            self.task.get().into_iter().for_each(Waker::wake_by_ref);
        }
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
        limit_unacknowledged(&socket.tcp, Some(UNACKNOWLEDGED));
        Ok(socket)
    }

    pub(super) fn signals(&self) -> Arc<Signals> {
        self.signals.clone()
    }

    fn is_flooded(&self) -> bool {
        self.before_head > MAX_BEFORE_HEAD && self.signals.awaits_head.load(Ordering::Relaxed)
    }

    fn has_read(&mut self, bytes: usize) {
        if self.signals.awaits_head.load(Ordering::Relaxed) {
            self.before_head += bytes;
        }
        if self.written > WINDOW {
            limit_unacknowledged(&self.tcp, Some(UNACKNOWLEDGED));
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
                    limit_unacknowledged(&self.tcp, self.stall_limit);
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

impl Arrival for Socket {
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_flooded() {
            return Poll::Ready(());
        }
        self.tcp.poll_read_ready(&mut self.signals.context(cx.waker())).map(drop)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_flooded() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Flood)));
        }
        let before = buffer.filled().len();
        let this = &mut *self;
        let polled =
            Pin::new(&mut this.tcp).poll_read(&mut this.signals.context(cx.waker()), buffer);
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
        let this = &mut *self;
        let polled =
            Pin::new(&mut this.tcp).poll_write(&mut this.signals.context(cx.waker()), bytes);
        self.after_write(bytes.len(), polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [piece] = pieces {
            // `send` costs the kernel less than `writev`.
            return self.poll_write(cx, piece);
        }
        let wanted = || pieces.iter().map(|piece| piece.len()).sum();
        if self.signals.is_lost() {
            return Poll::Ready(Ok(wanted()));
        }
        let this = &mut *self;
        let polled = Pin::new(&mut this.tcp)
            .poll_write_vectored(&mut this.signals.context(cx.waker()), pieces);
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
    use std::sync::atomic::AtomicUsize;

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
    async fn the_task_sleeps_through_what_needs_it_not_and_through_nothing_else() {
        let (signals, waker) = (Arc::<Signals>::default(), Arc::new(OnceLock::<Waker>::new()));
        let polls = Arc::new(AtomicUsize::new(0));
        let (hyper, counted) = (waker.clone(), polls.clone());
        let connection = poll_fn(move |cx| {
            hyper.get_or_init(|| cx.waker().clone());
            counted.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        });
        tokio::spawn(signals.clone().drive(connection));
        let polled = async || {
            tokio::task::yield_now().await;
            polls.load(Ordering::Relaxed)
        };
        assert_eq!(polled().await, 1);
        let wake = || waker.get().unwrap().wake_by_ref();
        signals.let_sleep(wake);
        assert_eq!(polled().await, 1);
        signals.let_sleep(|| signals.context(Waker::noop()).waker().wake_by_ref());
        assert_eq!(polled().await, 2, "the socket wakes it");
        wake();
        assert_eq!(polled().await, 3);
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
