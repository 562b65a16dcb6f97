//! One client connection: HTTP/1.1 with limits, and the clocks that end it. hyper's own head timer
//! would also run while a kept-alive connection rests, so the time of a head is measured here.
//!
//! Whoever is answered before its body was read gets that answer: what is left of the body is read
//! and thrown away, if it is known to be small, and the connection goes on; else the answer says
//! that the connection ends, and it ends in order: with the end of our side first, then reading on
//! for a moment (RFC 9112 section 9.6).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::EXPECT;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::yield_now;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Doing, HEAD, LARGEST_HEAD};
use super::wire::{Stream, Wire};
use crate::lazy_timer::LazyTimer;
use crate::proxy::guard::{Fragment, Tunnelled};
use crate::proxy::upload::Upload;

/// Why a connection is served no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// hyper is done with it, in whatever way.
    Done,
    /// Nothing was under way that could be lost.
    Idle,
    /// It makes room, or has lasted too long.
    GivenUp,
}

/// Serves a connection until it ends, is evicted, lasts too long, or the server drains and its
/// request is answered.
pub(super) async fn serve<T, S, B>(
    stream: T,
    service: S,
    activity: Arc<Activity>,
    draining: CancellationToken,
) where
    T: Stream,
    S: Service<Request<Upload>, Response = Response<B>, Error = std::convert::Infallible>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let mut io = TokioIo::new(Wire::new(stream, activity.clone()));
    let mut service = Marked { service, activity: activity.clone() };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    // At most 100 fields, as hyper has it: saying so again makes it fill its tables twice a
    // request. The buffer's limit alone lets a head pass that arrives faster than it is looked at.
    builder.max_header_size(LARGEST_HEAD);
    // Who shuts the sending half is told from who is gone by the wire.
    builder.half_close(false);
    let mut must_go = false;
    loop {
        let mut connection = builder.serve_connection(io, service);
        if run(Pin::new(&mut connection), &activity, &draining, &mut must_go).await != End::Done {
            return;
        }
        let parts = connection.into_parts();
        // hyper is done with a connection once it has granted a tunnel; the wire has kept what came
        // behind the request.
        if !activity.enter_tunnel() {
            // What hyper made of its last bytes does not matter any more: the client's errors are
            // its own.
            return parts.io.into_inner().end(&draining).await;
        }
        (io, service) = (parts.io, parts.service);
    }
}

async fn run<T, S, B>(
    mut connection: Pin<&mut http1::Connection<TokioIo<Wire<T>>, Marked<S>>>,
    activity: &Activity,
    draining: &CancellationToken,
    must_go: &mut bool,
) -> End
where
    T: Stream,
    S: Service<Request<Upload>, Response = Response<B>, Error = std::convert::Infallible>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let mut drain = pin!(draining.cancelled());
    let mut evicted = pin!(activity.evicted.notified());
    // The runtime looks at its sockets before it goes on with a task that yields: a request may
    // have come by now.
    let mut sockets_seen = pin!(yield_now());
    let mut news = pin!(activity.leftover.news.notified());
    let mut alarm = LazyTimer::new(Instant::now() + HEAD);
    let mut left = None;
    let (mut is_draining, mut is_ending) = (false, false);
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        *must_go = *must_go || evicted.as_mut().poll(cx).is_ready();
        is_draining = is_draining || drain.as_mut().poll(cx).is_ready();
        // hyper would drop what it has not written yet of the answer that grants a tunnel.
        if (is_draining || *must_go) && !is_ending && !activity.is_granting() {
            let doing = activity.doing();
            if matches!(doing, Doing::Serving | Doing::Sent)
                || doing == Doing::Draining && !*must_go
            {
                // A request that came in the same moment is answered first.
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            } else if (doing == Doing::Resting || *must_go)
                && sockets_seen.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(End::Idle);
            }
        }
        while activity.leftover.is_open() && news.as_mut().poll(cx).is_ready() {
            news.set(activity.leftover.news.notified());
        }
        if activity.poll_rest(&mut left, cx) {
            // hyper looks for the next request, which may be here.
            cx.waker().wake_by_ref();
        }
        // A head that has begun is due sooner than whatever the alarm was set for.
        if let Some(deadline) = activity.deadline() {
            alarm.bring_forward(deadline);
        }
        alarm.poll(|| activity.deadline(), cx).map(|()| match activity.doing() {
            Doing::Draining => End::Done,
            _ => End::GivenUp,
        })
    })
    .await
}

/// Marks a connection as serving from the head of a request to the end of its answer.
struct Marked<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S, B: Body> Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Upload>, Response = Response<B>>,
{
    type Response = Response<Serving<B>>;
    type Error = S::Error;
    type Future = MarkedFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.set(Doing::Serving);
        let has_body = !request.body().is_end_stream();
        let is_old = request.version() == Version::HTTP_10 && request.method() != Method::HEAD;
        let expects = has_body && request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| Upload::new(body, &self.activity.leftover));
        if self.activity.take_fragment() {
            request.extensions_mut().insert(Fragment);
        }
        if self.activity.is_tunnelled() {
            request.extensions_mut().insert(Tunnelled);
        }
        let served = Served(self.activity.clone());
        MarkedFuture {
            answer: Box::pin(self.service.call(request)),
            served: Some(served),
            has_body,
            expects,
            is_old,
        }
    }
}

struct MarkedFuture<F> {
    answer: Pin<Box<F>>,
    served: Option<Served>,
    has_body: bool,
    expects: bool,
    /// HTTP/1.0 has no chunks: an answer of unknown length ends with the connection.
    is_old: bool,
}

impl<F, B: Body, E> Future for MarkedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Serving<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = std::task::ready!(self.answer.as_mut().poll(cx));
        let served = self.served.take();
        if let (Some(Served(activity)), Ok(answer)) = (&served, &mut answer) {
            if self.has_body {
                activity.announce(answer, self.expects);
            }
            if answer.extensions().get::<Tunnelled>().is_some() {
                activity.grant_tunnel();
            }
            if self.is_old
                && !answer.body().is_end_stream()
                && answer.body().size_hint().exact().is_none()
            {
                activity.begin_unframed();
            }
        }
        Poll::Ready(answer.map(|answer| answer.map(|body| Serving { body, served })))
    }
}

/// A request is being served until this is dropped.
struct Served(Arc<Activity>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.set(Doing::Sent);
    }
}

/// An answer's body that knows when it has ended.
struct Serving<B> {
    body: B,
    served: Option<Served>,
}

impl<B: Body + Unpin> Body for Serving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.served.as_ref().is_some_and(|served| served.0.is_stalled()) {
            // The wire wakes this task once the caller reads on. hyper would collect 64 KiB and more.
            return Poll::Pending;
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() && self.served.as_ref().is_some_and(|served| served.0.is_unframed()) {
            // Nothing is written to end it, and hyper may wait for a write before it looks whether
            // it is done.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;
    use std::time::Duration;

    use bytes::Bytes;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::{sleep, timeout};

    use super::*;

    impl Stream for DuplexStream {
        fn has_left(&self) -> bool {
            false
        }

        fn reset(&self) {}
    }

    type Step = Poll<Option<Result<&'static str, io::ErrorKind>>>;

    /// A body of unknown length that gives one of these each time it is polled, and wakes nobody.
    struct Steps(std::vec::IntoIter<Step>);

    impl Body for Steps {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let step = self.0.next().unwrap_or(Poll::Pending);
            step.map(|step| {
                let frame = |data: &'static str| Frame::data(Bytes::from_static(data.as_bytes()));
                step.map(|data| data.map(frame).map_err(io::Error::from))
            })
        }

        fn is_end_stream(&self) -> bool {
            self.0.len() == 0
        }
    }

    fn data(text: &'static str) -> Step {
        Poll::Ready(Some(Ok(text)))
    }

    fn steps(target: &str) -> Steps {
        let steps = match target {
            "/cut" => vec![
                data("part"),
                Poll::Pending,
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof))),
            ],
            "/late" => vec![data("whole"), Poll::Pending, Poll::Ready(None)],
            "/long" => vec![data("x".repeat(1 << 20).leak()); 64],
            _ => vec![data("whole"), Poll::Ready(None)],
        };
        Steps(steps.into_iter())
    }

    /// A connection that is served, and what the server knows of it.
    struct Connection {
        activity: Arc<Activity>,
        draining: CancellationToken,
        serving: JoinHandle<()>,
    }

    fn served(stream: impl Stream, patience: Duration) -> Connection {
        let (activity, draining) =
            (Activity::new(Instant::now(), Some(patience)), CancellationToken::new());
        let service = service_fn(async |request: Request<Upload>| {
            if request.method() != Method::CONNECT {
                return Ok::<_, Infallible>(Response::new(steps(request.uri().path())));
            }
            let mut answer = Response::new(Steps(Vec::new().into_iter()));
            answer.extensions_mut().insert(Tunnelled);
            Ok(answer)
        });
        let serving = tokio::spawn(serve(stream, service, activity.clone(), draining.clone()));
        Connection { activity, draining, serving }
    }

    /// The same with the caller's end of it, which has room for so many bytes.
    fn pair(room: usize) -> (DuplexStream, Connection) {
        let (caller, stream) = duplex(room);
        (caller, served(stream, Duration::from_secs(60)))
    }

    async fn rest(caller: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, io::Result<usize>) {
        let mut got = Vec::new();
        let end =
            timeout(Duration::from_secs(100), caller.read_to_end(&mut got)).await.expect("it ends");
        (String::from_utf8(got).unwrap(), end)
    }

    /// Lets the other tasks do what they can.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    const CONNECT: &[u8] = b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n";

    #[tokio::test]
    async fn an_answer_that_ends_with_the_connection_is_whole_or_ends_in_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (head, is_whole) in [
            ("GET /whole HTTP/1.0", true),
            ("GET /cut HTTP/1.0", false),
            // Its end shows in the chunks.
            ("GET /cut HTTP/1.1", true),
            // The caller does not read, until it is given up.
            ("GET /long HTTP/1.0", false),
        ] {
            let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let served = served(listener.accept().await.unwrap().0, Duration::from_millis(20));
            caller.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
            if head.contains("/long") {
                timeout(Duration::from_secs(10), served.serving)
                    .await
                    .expect("it is given up")
                    .unwrap();
            }
            let (got, end) = rest(&mut caller).await;
            assert!(got.starts_with("HTTP/1.") && got.contains(" 200 OK"), "{head}: {got:.200}");
            assert_eq!(end.is_ok(), is_whole, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_ends_with_the_connection_ends_when_its_body_does() {
        let (mut caller, _served) = pair(4096);
        let start = Instant::now();
        caller.write_all(b"GET /late HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(rest(&mut caller).await.0.ends_with("\r\n\r\nwhole"));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_granted_whole_before_the_connection_ends_and_it_ends() {
        for drains in [true, false] {
            let (mut caller, served) = pair(16);
            let start = Instant::now();
            caller.write_all(CONNECT).await.unwrap();
            settle().await;
            match drains {
                true => served.draining.cancel(),
                false => served.activity.evict(),
            }
            settle().await;
            let got = rest(&mut caller).await.0;
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\n"), "{got:?}");
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_in_the_moment_of_an_eviction_or_of_the_drain_is_answered() {
        for (drains, connect) in [(true, &b""[..]), (false, b""), (true, CONNECT), (false, CONNECT)]
        {
            let (mut caller, served) = pair(4096);
            settle().await;
            let sent = [connect, b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n"].concat();
            caller.write_all(&sent).await.unwrap();
            match drains {
                true => served.draining.cancel(),
                false => served.activity.evict(),
            }
            let start = Instant::now();
            let got = rest(&mut caller).await.0;
            assert_eq!(
                got.matches("HTTP/1.1 200 OK").count(),
                if connect.is_empty() { 1 } else { 2 },
                "{got}"
            );
            assert!(got.ends_with("whole\r\n0\r\n\r\n"), "{got}");
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_began_before_the_drain_is_waited_for() {
        let (mut caller, served) = pair(4096);
        let request = b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n";
        caller.write_all(request).await.unwrap();
        settle().await;
        caller.write_all(&request[..10]).await.unwrap();
        settle().await;
        served.draining.cancel();
        settle().await;
        caller.write_all(&request[10..]).await.unwrap();
        let got = rest(&mut caller).await.0;
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_empty_lines_between_requests_are_rest_and_many_are_a_head() {
        let (mut caller, _served) = pair(4096);
        let request = b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
        caller.write_all(&[request, &b"\r\n"[..]].concat()).await.unwrap();
        sleep(2 * HEAD).await;
        caller.write_all(request).await.unwrap();
        settle().await;
        let start = Instant::now();
        caller.write_all(&b"\r\n".repeat(50)).await.unwrap();
        let got = rest(&mut caller).await.0;
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
        assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
    }
}
