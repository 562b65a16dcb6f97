//! Other unix systems: most of what Linux offers is missing, and nothing depends on it alone.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::time::ClockId;

use super::figures::Figures;

/// Counts time asleep on macOS.
pub(super) const BOOT_CLOCK: ClockId = ClockId::Monotonic;

/// Nothing is known that does it.
pub fn refuse_debuggers() {}

/// True: whether the parent lives is not watched.
pub fn dies_with(_: u32) -> bool {
    true
}

/// Nothing is paced on loopback.
pub fn disable_pacing(_: &TcpListener) {}

/// True if nobody reads any more what is sent to the other end of a unix socket. Sends nothing: the
/// kernel only checks whether it could. Rust ignores SIGPIPE from the start.
pub fn is_reader_gone(socket: impl AsFd) -> bool {
    rustix::net::send(socket, &[], SendFlags::DONTWAIT) == Err(Errno::PIPE)
}

/// Left to the system.
pub fn limit_unacknowledged(_: impl AsFd, _: Option<Duration>) {}

/// Left to the system.
pub fn limit_unacknowledged_of(
    client: reqwest::ClientBuilder,
    _: Duration,
) -> reqwest::ClientBuilder {
    client
}

/// A name without a file is Linux's alone.
///
/// # Errors
/// Always.
pub fn abstract_address(_: &str) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not known.
pub fn is_on_network(_: &Path) -> bool {
    false
}

/// Not known.
pub fn figures() -> Option<Figures> {
    None
}

/// Processes are not looked at.
pub mod processes {
    use std::path::Path;

    /// The process that holds a lock on a file: not known.
    pub fn lock_holder(_: &Path) -> Option<u32> {
        None
    }

    /// The name of a process's program: not known.
    pub fn name(_: u32) -> Option<String> {
        None
    }

    /// The ids of all processes: not known.
    pub fn newest_first() -> Vec<u32> {
        Vec::new()
    }

    /// The process that started a process: not known.
    pub fn parent(_: u32) -> Option<u32> {
        None
    }

    /// The sockets that a process holds: not known.
    pub fn sockets(_: u32) -> Vec<u32> {
        Vec::new()
    }
}

/// The system is not asked whose sockets are.
pub mod sockets {
    use std::io;
    use std::net::SocketAddr;

    /// True where the system says whose a socket is.
    pub const ARE_KNOWN: bool = false;

    /// The user that owns a socket.
    ///
    /// # Errors
    /// Never: it is not known.
    pub fn owner(_: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
        Ok(None)
    }

    /// The inode of a socket: not known.
    pub fn inode(_: SocketAddr, _: SocketAddr) -> Option<u32> {
        None
    }

    /// Whether a listener of ours is known: nothing is asked.
    ///
    /// # Errors
    /// Never.
    pub fn is_known(_: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    /// User and inode of the socket that listens at an address.
    ///
    /// # Errors
    /// Always: it is not known.
    pub fn listener(_: SocketAddr) -> io::Result<Option<(u32, u32)>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
