//! Records for tests.

use std::sync::Arc;

use http::{Request, StatusCode};

use crate::exchange::record::{Arrival, Record};
use crate::exchange::{Caller, Client};

/// A record of a GET that was answered with 200.
pub(super) fn record(number: u64, target: &str) -> Record {
    let client = Arc::new(Client::new(Caller::Unix { user: None, process: None }));
    let request = Request::get(target).body(()).unwrap();
    let arrival = Arc::new(Arrival::new(number, client, &request));
    let mut record = Record::new(arrival);
    record.status = Some(StatusCode::OK);
    record.is_complete = true;
    record
}
