//! Connections to the API: HTTP/1.1 over connections that are made here, wait in a [`Pool`] while
//! they are idle, and carry one request after the other.

mod bounded_read;
mod connection;
mod connector;
mod dial;
mod failure;
mod pace;
mod pool;
mod settings;
mod socket;

pub use connection::Connection;
pub use connector::Connector;
pub use failure::{SendError, describe_failure, is_invalid_response};
pub use pace::{Pace, PaceError};
pub use pool::Pool;
pub use settings::Settings;
