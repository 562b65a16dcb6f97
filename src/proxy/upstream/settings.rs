//! Settings of the connections to the API.

use std::time::Duration;

use super::pace::Pace;

/// Settings of the connections to the API.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Time from the end of the request body to the response head.
    pub response_timeout: Duration,
    /// Time between two bytes of a body, in either direction; none = no limit.
    pub idle_timeout: Option<Duration>,
    /// Request bodies of up to this many bytes are kept to be sent again.
    pub replay_limit: usize,
    /// Reads above this rate wait; none = they do not.
    pub pace: Option<Pace>,
}
