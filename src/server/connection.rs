//! One client connection: HTTP/1.1, and the timeouts that end it. hyper's own timer for a head
//! would also run while a kept-alive connection is idle, so the time of a head is measured here.
//!
//! A caller that is answered before its body was read gets the response: if the rest of the body is
//! known to be small it is read and discarded, and the connection goes on. Else the response says
//! that the connection closes, and it closes in order: our side first, then reading on for a moment
//! (RFC 9112 section 9.6).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf as _;
use http::header::EXPECT;
use http::{Method, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::client_stream::{ClientStream, Stream};
use super::framing::MAX_HEAD;
use crate::exchange::Exchange;
use crate::exchange::activity::{Activity, HEAD_TIMEOUT, Phase};
use crate::exchange::incoming_body::IncomingBody;
use crate::lazy_timer::LazyTimer;
use crate::proxy::guard::{Fragment, Tunnelled};

/// Time for the first request of a caller that connected right before the server drains: it cannot
/// know, and would have to send the request again.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Why a connection is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// hyper has finished with it.
    Done,
    /// It was idle: nothing is lost.
    Idle,
    /// It was evicted or a phase lasted too long.
    Aborted,
}

/// Serves a connection until it ends, is evicted, a phase lasts too long, or the server drains and
/// the current request is answered.
pub(super) async fn serve<T, H, F, B>(
    stream: T,
    handler: H,
    activity: Arc<Activity>,
    draining: CancellationToken,
) where
    T: Stream,
    H: Fn(Request<IncomingBody>, Exchange) -> F,
    F: Future<Output = (Response<B>, Exchange)>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let mut io = TokioIo::new(ClientStream::new(stream, activity.clone()));
    let (handler, shared) = (&handler, &activity);
    let mut service = service_fn(move |request| {
        // Not in the future: before hyper polls that, it may go on reading.
        let exchange = Exchange::begin(shared, &request);
        // Boxed: hyper keeps space for one as long as the connection lives.
        Box::pin(answer(handler, request, exchange, shared))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD);
    // At most 100 fields, which is hyper's default: to set it again makes hyper fill its tables
    // twice a request. The size of the buffer alone does not limit a head that arrives at once.
    builder.max_header_size(MAX_HEAD);
    // The stream reads ahead, and tells a caller that only shut its sending half from one that is
    // gone.
    builder.half_close(true);
    let mut is_evicted = false;
    loop {
        let mut connection = builder.serve_connection(io, service);
        if run(Pin::new(&mut connection), &activity, &draining, &mut is_evicted).await != End::Done
        {
            return;
        }
        let parts = connection.into_parts();
        // hyper is done with a connection once it has granted a tunnel; the stream has kept what
        // came behind the request.
        if !activity.enter_tunnel() {
            // hyper's result does not matter: callers' errors are theirs.
            return parts.io.into_inner().end(&draining).await;
        }
        (io, service) = (parts.io, parts.service);
    }
}

async fn run<T, S, B>(
    mut connection: Pin<&mut http1::Connection<TokioIo<ClientStream<T>>, S>>,
    activity: &Activity,
    draining: &CancellationToken,
    is_evicted: &mut bool,
) -> End
where
    T: Stream,
    S: Service<Request<Incoming>, Response = Response<TrackedBody<B>>, Error = Infallible>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let mut drain = pin!(draining.cancelled());
    let mut evicted = pin!(activity.evicted.notified());
    // The runtime polls its sockets before it goes on with a task that yields: a request may have
    // arrived by then.
    let mut sockets_polled = pin!(yield_now());
    // Boxed: few connections ever need it.
    let mut first_request: Option<Pin<Box<Sleep>>> = None;
    let mut body_changed = pin!(activity.unread_body.changed.notified());
    let mut timer = LazyTimer::new(Instant::now() + HEAD_TIMEOUT);
    let mut unread_rest = None;
    let (mut is_draining, mut is_ending) = (false, false);
    poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        *is_evicted = *is_evicted || evicted.as_mut().poll(cx).is_ready();
        is_draining = is_draining || drain.as_mut().poll(cx).is_ready();
        // While a tunnel is being granted, hyper would drop the part of the response that it has
        // not written yet.
        if (is_draining || *is_evicted) && !is_ending && !activity.is_granting_tunnel() {
            let phase = activity.phase();
            if matches!(phase, Phase::Serving | Phase::Flushing)
                || phase == Phase::DiscardingBody && !*is_evicted
            {
                // A request that arrived in the same moment is answered first.
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            } else if (phase == Phase::Idle || *is_evicted)
                && (*is_evicted || activity.has_requested() || is_over(&mut first_request, cx))
                && sockets_polled.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(End::Idle);
            }
        }
        while activity.unread_body.is_open() && body_changed.as_mut().poll(cx).is_ready() {
            body_changed.set(activity.unread_body.changed.notified());
        }
        if activity.poll_discard(&mut unread_rest, cx) {
            // hyper should look for the next request, which may be here already.
            cx.waker().wake_by_ref();
        }
        // The deadline of a head that has begun is sooner than what the timer was set for.
        if let Some(deadline) = activity.deadline() {
            timer.bring_forward(deadline);
        }
        timer.poll(|| activity.deadline(), cx).map(|()| match activity.phase() {
            Phase::DiscardingBody => End::Done,
            _ => End::Aborted,
        })
    })
    .await
}

/// True if no first request has come in time; the time begins with the first call.
fn is_over(first_request: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    let wait = first_request.get_or_insert_with(|| Box::pin(sleep(FIRST_REQUEST)));
    wait.is_elapsed() || wait.as_mut().poll(cx).is_ready()
}

/// Answers a request: from its head to the head of the response, and then the body goes on with the
/// exchange.
async fn answer<H, F, B>(
    handler: &H,
    request: Request<Incoming>,
    exchange: Exchange,
    activity: &Activity,
) -> Result<Response<TrackedBody<B>>, Infallible>
where
    H: Fn(Request<IncomingBody>, Exchange) -> F,
    F: Future<Output = (Response<B>, Exchange)>,
    B: Body,
{
    let has_body = !request.body().is_end_stream();
    let expects_continue = has_body && request.headers().contains_key(EXPECT);
    // HTTP/1.0 has no chunks: a response of unknown length ends with the connection.
    let is_http10 = request.version() == Version::HTTP_10 && request.method() != Method::HEAD;
    let captured = exchange.captured_body();
    let mut request = request.map(|body| IncomingBody::new(body, &activity.unread_body, captured));
    if activity.take_fragment() {
        request.extensions_mut().insert(Fragment);
    }
    if activity.is_tunnelled() {
        request.extensions_mut().insert(Tunnelled);
    }
    let (mut response, mut exchange) = handler(request, exchange).await;
    if has_body {
        activity.announce_close(&mut response, expects_continue);
    }
    if response.extensions().get::<Tunnelled>().is_some() {
        activity.grant_tunnel();
    }
    let body = response.body();
    if is_http10 && !body.is_end_stream() && body.size_hint().exact().is_none() {
        activity.begin_unframed();
    }
    let (status, is_end) = (response.status(), response.body().is_end_stream());
    exchange.respond(status, response.headers_mut(), is_end);
    Ok(response.map(|body| TrackedBody { body, exchange }))
}

/// A response body; the exchange ends with it.
struct TrackedBody<B> {
    body: B,
    exchange: Exchange,
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if this.exchange.activity().is_stalled() {
            // The stream wakes this task once the caller reads on. Else hyper would buffer 64 KiB
            // and more.
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let (bytes, data) =
                    frame.data_ref().map_or((0, &[][..]), |data| (data.remaining(), data.chunk()));
                this.exchange.sent(bytes, data, || this.body.is_end_stream());
            }
            Some(Err(_)) => {}
            None => {
                this.exchange.sent(0, &[], || true);
                if this.exchange.activity().is_unframed() {
                    // Nothing is written at this end, and hyper may wait for a write before it
                    // notices that it is done.
                    cx.waker().wake_by_ref();
                }
            }
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
    use std::io;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::exchange::Caller;

    impl Stream for DuplexStream {
        fn is_gone(&self) -> bool {
            false
        }

        fn reset(&self) {}
    }

    type Step = Poll<Option<Result<&'static str, io::ErrorKind>>>;

    /// A body of unknown length that returns one of these at each poll, and wakes nobody.
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

    /// A connection that is being served.
    struct Connection {
        activity: Arc<Activity>,
        draining: CancellationToken,
        serving: JoinHandle<()>,
    }

    fn served(stream: impl Stream, stall_limit: Duration) -> Connection {
        let caller = Caller::Unix { user: None, process: None };
        let activity = Activity::new(caller, Instant::now(), Some(stall_limit));
        let draining = CancellationToken::new();
        let handler = |request: Request<IncomingBody>, exchange| async move {
            if request.method() != Method::CONNECT {
                return (Response::new(steps(request.uri().path())), exchange);
            }
            let mut response = Response::new(Steps(Vec::new().into_iter()));
            response.extensions_mut().insert(Tunnelled);
            (response, exchange)
        };
        let serving = tokio::spawn(serve(stream, handler, activity.clone(), draining.clone()));
        Connection { activity, draining, serving }
    }

    /// The same with the caller's end of it, which buffers so many bytes.
    fn pair(buffer: usize) -> (DuplexStream, Connection) {
        let (caller, stream) = duplex(buffer);
        (caller, served(stream, Duration::from_secs(60)))
    }

    async fn rest(caller: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, io::Result<usize>) {
        let mut got = Vec::new();
        let end =
            timeout(Duration::from_secs(100), caller.read_to_end(&mut got)).await.expect("it ends");
        (String::from_utf8(got).unwrap(), end)
    }

    /// Lets the other tasks run as far as they can.
    async fn run_other_tasks() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    const CONNECT: &[u8] = b"CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n";

    #[tokio::test]
    async fn a_response_that_ends_with_the_connection_is_complete_or_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (head, is_whole) in [
            ("GET /whole HTTP/1.0", true),
            ("GET /cut HTTP/1.0", false),
            // The last chunk shows where it ends.
            ("GET /cut HTTP/1.1", true),
            // The caller does not read, until the connection is aborted.
            ("GET /long HTTP/1.0", false),
        ] {
            let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let served = served(listener.accept().await.unwrap().0, Duration::from_millis(20));
            caller.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
            if head.contains("/long") {
                timeout(Duration::from_secs(10), served.serving)
                    .await
                    .expect("it is aborted")
                    .unwrap();
            }
            let (got, end) = rest(&mut caller).await;
            assert!(got.starts_with("HTTP/1.") && got.contains(" 200 OK"), "{head}: {got:.200}");
            assert_eq!(end.is_ok(), is_whole, "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_ends_with_the_connection_ends_with_its_body() {
        let (mut caller, _served) = pair(4096);
        let start = Instant::now();
        caller.write_all(b"GET /late HTTP/1.0\r\n\r\n").await.unwrap();
        assert!(rest(&mut caller).await.0.ends_with("\r\n\r\nwhole"));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_grants_a_tunnel_is_complete_before_the_connection_closes() {
        for drains in [true, false] {
            let (mut caller, served) = pair(16);
            let start = Instant::now();
            caller.write_all(CONNECT).await.unwrap();
            run_other_tasks().await;
            match drains {
                true => served.draining.cancel(),
                false => served.activity.evict(),
            }
            run_other_tasks().await;
            let got = rest(&mut caller).await.0;
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\n"), "{got:?}");
            assert_eq!(start.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_the_moment_of_an_eviction_or_of_the_drain_is_answered() {
        for (drains, connect) in [(true, &b""[..]), (false, b""), (true, CONNECT), (false, CONNECT)]
        {
            let (mut caller, served) = pair(4096);
            run_other_tasks().await;
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
    async fn the_first_request_of_a_new_connection_is_waited_for_at_the_drain() {
        for (patience, answers) in [(FIRST_REQUEST / 2, 1), (2 * FIRST_REQUEST, 0)] {
            let (mut caller, served) = pair(4096);
            run_other_tasks().await;
            served.draining.cancel();
            sleep(patience).await;
            let _ = caller.write_all(b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let got = rest(&mut caller).await.0;
            assert_eq!(got.matches("HTTP/1.1 200 OK").count(), answers, "{got}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_began_before_the_drain_is_waited_for() {
        let (mut caller, served) = pair(4096);
        let request = b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n";
        caller.write_all(request).await.unwrap();
        run_other_tasks().await;
        caller.write_all(&request[..10]).await.unwrap();
        run_other_tasks().await;
        served.draining.cancel();
        run_other_tasks().await;
        caller.write_all(&request[10..]).await.unwrap();
        let got = rest(&mut caller).await.0;
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_empty_lines_between_requests_are_idle_time_and_many_are_a_head() {
        let (mut caller, _served) = pair(4096);
        let request = b"POST /whole HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
        caller.write_all(&[request, &b"\r\n"[..]].concat()).await.unwrap();
        sleep(2 * HEAD_TIMEOUT).await;
        caller.write_all(request).await.unwrap();
        run_other_tasks().await;
        let start = Instant::now();
        caller.write_all(&b"\r\n".repeat(50)).await.unwrap();
        let got = rest(&mut caller).await.0;
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
        assert_eq!(start.elapsed().as_secs(), HEAD_TIMEOUT.as_secs());
    }
}
