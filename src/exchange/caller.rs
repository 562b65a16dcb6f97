//! Who is at the other end of a client connection.

use std::net::SocketAddr;

/// Who is at the other end of a client connection.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    /// A TCP connection.
    Tcp {
        /// Our end.
        local: SocketAddr,
        /// The caller's end.
        peer: SocketAddr,
    },
    /// A connection to a unix socket; none where the kernel does not say.
    Unix {
        /// The caller's user id.
        user: Option<u32>,
        /// The caller's process id.
        process: Option<i32>,
    },
}
