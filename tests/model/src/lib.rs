//! The proxy's gate, its source unchanged, compiled against loom.
//!
//! In this crate the names `std` and `tokio` mean the crate itself, so that the gate's imports find
//! loom's atomics and the stand-ins below. Loom runs every order of their operations, and every
//! value the memory model lets a load see.
#![no_std]
#![allow(
    clippy::unwrap_used,
    reason = "loom's locks are poisoned only by a scenario that has failed"
)]

extern crate alloc;
extern crate self as std;
extern crate self as tokio;

#[path = "../../../src/accounts/gate.rs"]
pub mod gate;

/// What the gate takes from `std::sync` and `tokio::sync`.
pub mod sync {
    pub use loom::sync::atomic;

    pub use crate::notify::Notify;

    /// As in tokio.
    pub mod futures {
        pub use crate::notify::Notified;
    }
}

/// What the gate takes from `std::time` and `tokio::time`.
pub mod time {
    pub use core::time::Duration;

    pub use crate::timeout::{Instant, timeout_at};
}

mod notify;
mod timeout;
