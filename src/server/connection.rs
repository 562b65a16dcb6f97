//! One client connection: HTTP/1.1 with limits, and the clocks that end it. hyper's own head timer would also run
//! while a kept-alive connection rests, so the time of a head is measured here.
//!
//! Whoever is answered before its body was read gets that answer: what is left of the body is read and thrown away, if
//! it is known to be small, and the connection goes on; else the answer says that the connection ends, and it ends in
//! order: with the end of our side first, then reading on for a moment (RFC 9112 section 9.6).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::EXPECT;
use http::{Request, Response};
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
use crate::alarm::Alarm;
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

/// Serves a connection until it ends, is evicted, lasts too long, or the server drains and its request is answered.
pub(super) async fn serve<T, S, B>(stream: T, service: S, activity: Arc<Activity>, draining: CancellationToken)
where
    T: Stream,
    S: Service<Request<Upload>, Response = Response<B>, Error = std::convert::Infallible>,
    B: Body<Error: std::error::Error + Send + Sync + 'static> + Unpin + 'static,
{
    let mut io = TokioIo::new(Wire::new(stream, activity.clone()));
    let mut service = Marked { service, activity: activity.clone() };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(LARGEST_HEAD);
    // At most 100 fields, as hyper has it: saying so again makes it fill its tables twice a request.
    // The buffer's limit alone lets a head pass that arrives faster than it is looked at.
    builder.max_header_size(LARGEST_HEAD);
    // Who shuts the sending half is told from who is gone by the wire.
    builder.half_close(false);
    let (mut is_in_tunnel, mut must_go) = (false, false);
    loop {
        let mut connection = builder.serve_connection(io, service);
        if run(Pin::new(&mut connection), &activity, &draining, &mut must_go).await != End::Done {
            return;
        }
        let parts = connection.into_parts();
        if is_in_tunnel || !activity.is_tunnelled() {
            // What hyper made of its last bytes does not matter any more: the client's errors are its own.
            return parts.io.into_inner().end(&draining).await;
        }
        // hyper is done with a connection once it has granted a tunnel; the wire has kept what came behind the request.
        is_in_tunnel = true;
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
    // The runtime looks at its sockets before it goes on with a task that yields: a request may have come by now.
    let mut sockets_seen = pin!(yield_now());
    let mut news = pin!(activity.leftover.news.notified());
    let mut alarm = Alarm::new(Instant::now() + HEAD);
    let mut left = None;
    let mut is_ending = false;
    poll_fn(|cx| {
        if !is_ending && drain.as_mut().poll(cx).is_ready() {
            is_ending = true;
            if activity.doing() == Doing::Resting {
                return Poll::Ready(End::Idle);
            }
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Done);
        }
        *must_go = *must_go || evicted.as_mut().poll(cx).is_ready();
        if !is_ending && *must_go {
            if activity.resting_since().is_none() {
                // A request came in the same moment: it is answered first.
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            } else if sockets_seen.as_mut().poll(cx).is_ready() {
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
            alarm.by(deadline);
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

impl<S, B> Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Upload>, Response = Response<B>>,
{
    type Response = Response<Serving<B>>;
    type Error = S::Error;
    type Future = MarkedFuture<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.set(Doing::Serving);
        let has_body = !request.body().is_end_stream();
        let expects = has_body && request.headers().contains_key(EXPECT);
        let mut request = request.map(|body| Upload::new(body, &self.activity.leftover));
        if self.activity.take_fragment() {
            request.extensions_mut().insert(Fragment);
        }
        if self.activity.is_tunnelled() {
            request.extensions_mut().insert(Tunnelled);
        }
        let served = Served(self.activity.clone());
        MarkedFuture { answer: Box::pin(self.service.call(request)), served: Some(served), has_body, expects }
    }
}

struct MarkedFuture<F> {
    answer: Pin<Box<F>>,
    served: Option<Served>,
    has_body: bool,
    expects: bool,
}

impl<F, B, E> Future for MarkedFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Serving<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = std::task::ready!(self.answer.as_mut().poll(cx));
        let served = self.served.take();
        if let (true, Some(served), Ok(answer)) = (self.has_body, &served, &mut answer) {
            served.0.announce(answer, self.expects);
        }
        if let (Some(served), Ok(answer)) = (&served, &answer)
            && answer.extensions().get::<Tunnelled>().is_some()
        {
            served.0.begin_tunnel();
        }
        Poll::Ready(answer.map(|answer| answer.map(|body| Serving { body, _served: served })))
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
