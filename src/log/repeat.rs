//! A request of the log, complete enough to be sent again.

use http::{HeaderMap, Method};

use super::render::{operation, without_account};
use super::ring::Ended;
use crate::operations::Kind;
use crate::store::AccountName;

/// A request that can be sent again. It may hold secrets of the caller's: it goes to the proxy's own
/// data listener and nowhere else.
#[derive(Debug)]
pub struct Repeat {
    /// The method.
    pub method: Method,
    /// Path and query, without a prefix that names the account.
    pub target: String,
    /// The account it went to.
    pub account: Option<AccountName>,
    /// What the caller sent; none unless it was captured.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// It changes nothing.
    pub is_read: bool,
}

/// Why a request cannot be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRepeatable {
    /// It is not in the log.
    #[error("this exchange is not kept any more")]
    Unknown,
    /// It was malformed, or its target is longer than what is kept.
    #[error("what is kept of this request is not enough to send it again")]
    Incomplete,
    /// Its body is missing.
    #[error("the body of this request was not kept; capture it first: pleo-proxy capture")]
    BodyNotKept,
}

impl Repeat {
    pub(super) fn of(ended: &Ended) -> Result<Self, NotRepeatable> {
        let (record, arrival) = (&ended.record, &ended.record.arrival);
        let method = arrival.method.clone().filter(|_| !arrival.is_target_cut());
        let method = method.ok_or(NotRepeatable::Incomplete)?;
        // Not CONNECT and OPTIONS *, which name no path.
        if !arrival.target().starts_with('/') {
            return Err(NotRepeatable::Incomplete);
        }
        let target = without_account(arrival.target()).to_owned();
        let captured = record.capture.as_ref().map(|capture| &capture.request);
        let body = match captured {
            Some(request) if !request.body.is_cut() => request.body.bytes(),
            _ if record.request_bytes == 0 => Vec::new(),
            _ => return Err(NotRepeatable::BodyNotKept),
        };
        if body.len() as u64 != record.request_bytes {
            return Err(NotRepeatable::BodyNotKept);
        }
        let is_read = match operation(arrival) {
            Some(operation) => operation.kind == Kind::Read,
            None => matches!(method, Method::GET | Method::HEAD),
        };
        let headers = captured.map(|request| request.headers.clone()).unwrap_or_default();
        Ok(Self { method, target, account: arrival.account().cloned(), headers, body, is_read })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::record;

    #[test]
    fn a_request_without_its_body_or_target_is_not_sent_again() {
        let repeat = |record| Repeat::of(&Ended { seq: 1, record: Box::new(record) });
        let read = repeat(record(1, "/@acme/v1/vendors/17?a=1")).unwrap();
        assert_eq!((read.target.as_str(), read.is_read), ("/v1/vendors/17?a=1", true));
        let mut with_body = record(1, "/v1/vendors/17");
        with_body.request_bytes = 5;
        assert_eq!(repeat(with_body).unwrap_err(), NotRepeatable::BodyNotKept);
        assert_eq!(repeat(record(1, "api.example:443")).unwrap_err(), NotRepeatable::Incomplete);
        let long = format!("/v1/{}", "x".repeat(8192));
        assert_eq!(repeat(record(1, &long)).unwrap_err(), NotRepeatable::Incomplete);
    }
}
