//! What Linux offers.

mod locks;
mod own_process;
pub mod processes;
pub mod sockets;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SendFlags, sockopt};
use rustix::process::set_parent_process_death_signal;
use rustix::process::{DumpableBehavior, Signal, getppid, set_dumpable_behavior};
use rustix::time::ClockId;

pub use own_process::figures;

/// File systems whose locks keep two machines apart only where they are set up for it: NFS, SMB and
/// CIFS (statfs(2)).
const OF_NETWORK: [i64; 4] = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42];

/// Counts time asleep.
pub(super) const BOOT_CLOCK: ClockId = ClockId::Boottime;

/// Makes `/proc/PID/{environ,mem,fd}` of this process root's, so that only root can attach a
/// debugger.
pub fn refuse_debuggers() {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Asks for SIGTERM when the parent dies, which takes the listener with it. False if it is dead.
pub fn dies_with(parent: u32) -> bool {
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
    getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent)
}

/// Nothing is congested between two ends on one machine, but a system's BBR would pace responses
/// there, with a timer for each. Accepted connections inherit this.
pub fn disable_pacing(listener: &TcpListener) {
    // Reno is in every kernel and allowed to everybody. Without it responses only cost more.
    let _ = sockopt::set_tcp_congestion(listener, "reno");
}

/// True if nobody reads any more what is sent to the other end of a unix socket. Sends nothing: the
/// kernel only checks whether it could.
pub fn is_reader_gone(socket: impl AsFd) -> bool {
    rustix::net::send(socket, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Err(Errno::PIPE)
}

/// Breaks a connection whose bytes are not acknowledged for this long; none: when the system does.
pub fn limit_unacknowledged(socket: impl AsFd, limit: Option<Duration>) {
    let millis = limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX));
    let _ = sockopt::set_tcp_user_timeout(socket, millis);
}

/// The same for the connections of a client.
pub fn limit_unacknowledged_of(
    client: reqwest::ClientBuilder,
    limit: Duration,
) -> reqwest::ClientBuilder {
    client.tcp_user_timeout(limit)
}

/// The address of a unix socket that has a name and no file.
///
/// # Errors
/// The name is too long.
pub fn abstract_address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// True if the folder is on a file system of the network.
pub fn is_on_network(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|stat| {
        // Its width differs between architectures.
        #[allow(clippy::unnecessary_cast, reason = "not on every architecture")]
        let kind = stat.f_type as i64 & 0xffff_ffff;
        OF_NETWORK.contains(&kind)
    })
}
