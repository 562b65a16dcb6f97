//! Why a request to the API got no usable response.

use std::error::Error as _;

use http::Request;
use hyper::client::conn::TrySendError;

use super::socket::Flood;
use crate::proxy::replay::OutgoingBody;

/// Largest response head, in bytes. It has 100 fields at most, which is hyper's default.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Why there is no response.
#[derive(Debug)]
pub enum SendError {
    /// Nothing was written: the request can be sent again, with its whole body.
    Unsent,
    /// It failed after something was written.
    Failed(hyper::Error),
}

impl From<TrySendError<Request<OutgoingBody>>> for SendError {
    fn from(mut error: TrySendError<Request<OutgoingBody>>) -> Self {
        match error.take_message() {
            Some(_request) => Self::Unsent,
            None => Self::Failed(error.into_error()),
        }
    }
}

/// True if there was a response that cannot be passed on: sending again would not help.
pub fn is_invalid_response(error: &hyper::Error) -> bool {
    error.is_parse() || is_flood(error)
}

/// Why there is no usable response.
pub fn describe_failure(error: &hyper::Error) -> String {
    match error {
        error if is_flood(error) => {
            "it sent 1 MiB of interim responses (1xx) and no response".into()
        }
        error if error.is_parse_too_large() => {
            format!(
                "the head of its response has more than {} KiB or more than 100 fields",
                MAX_HEAD / 1024
            )
        }
        error if error.is_incomplete_message() || error.is_closed() => {
            "it closed the connection without a response".into()
        }
        error if error.is_parse() => "its response is not valid HTTP/1.1".into(),
        error if timed_out(error) => "its end of the connection stopped answering".into(),
        _ => "the connection broke before a response came".into(),
    }
}

fn is_flood(error: &hyper::Error) -> bool {
    cause(error).and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<Flood>())
}

/// True if the kernel closed the connection because nobody acknowledged its bytes.
pub(super) fn timed_out(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn cause(error: &hyper::Error) -> Option<&std::io::Error> {
    error.source()?.downcast_ref()
}
