//! What differs by system. No other file asks on which system it runs: it asks here for what it
//! needs, and gets nothing, or an error, where a system does not offer it.

mod figures;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use other as system;

use rustix::time::clock_gettime;

pub use figures::Figures;
pub use system::{
    abstract_address, dies_with, disable_pacing, figures, is_on_network, is_reader_gone,
    limit_unacknowledged, limit_unacknowledged_of, processes, refuse_debuggers, sockets,
};

/// Milliseconds since boot. Time asleep is included on Linux and macOS; elsewhere the wall clock
/// alone notices a sleep.
pub fn boot_millis() -> u64 {
    let time = clock_gettime(system::BOOT_CLOCK);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
