//! A form with a token that may be sent until a certain time only: whoever stood still for longer
//! may have been replaced by another holder of the account, and the token may be spent.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::clock::TimeLimit;

/// The time was over before the form was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this process stood still for too long before the token request; nothing was sent")]
pub struct HeldUp;

impl HeldUp {
    /// True if it is among the causes of an error.
    pub(super) fn is_cause_of(error: &(dyn std::error::Error + 'static)) -> bool {
        let mut causes = std::iter::successors(Some(error), |error| error.source());
        causes.any(|cause| cause.is::<Self>())
    }
}

/// The form as a body. It is asked for once there is a connection, right before it is written: that
/// is the last moment at which it can be held back.
#[derive(Debug)]
pub(super) struct LimitedForm {
    form: Option<Bytes>,
    limit: TimeLimit,
}

impl LimitedForm {
    pub(super) fn new(form: String, limit: TimeLimit) -> Self {
        Self { form: Some(form.into()), limit }
    }
}

impl Body for LimitedForm {
    type Data = Bytes;
    type Error = HeldUp;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HeldUp>>> {
        let is_over = self.limit.is_over();
        let next = self.form.take();
        Poll::Ready(next.map(|form| if is_over { Err(HeldUp) } else { Ok(Frame::data(form)) }))
    }

    fn is_end_stream(&self) -> bool {
        self.form.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.form.as_ref().map_or(0, |form| form.len() as u64))
    }
}
