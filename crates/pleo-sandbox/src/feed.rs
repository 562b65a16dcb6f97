//! A response body that a task feeds piece by piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::Frame;
use tokio::sync::mpsc;

/// Where the task puts the pieces; sending fails once the caller has left. An error closes the
/// connection.
pub(crate) type Feeder = mpsc::Sender<io::Result<Bytes>>;

struct Feed(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// A body and its feeder; the body ends when the feeder is dropped.
pub(crate) fn feed() -> (Feeder, Body) {
    let (feeder, pieces) = mpsc::channel(1);
    (feeder, Body::new(Feed(pieces)))
}
