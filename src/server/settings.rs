//! Settings of the server.

use std::net::SocketAddr;
use std::time::Duration;

use super::listen::Address;
use crate::proxy::peer::Peers;

/// Where the server listens.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the data listener.
    pub api: Address,
    /// Address of the admin listener; none = off.
    pub admin: Option<SocketAddr>,
    /// Client connections at most; 0 = as many as the file limit allows.
    pub max_connections: usize,
    /// Whose programs may call either listener.
    pub peers: Peers,
    /// How long a caller may accept no bytes; none = no limit.
    pub idle_timeout: Option<Duration>,
}
