//! How this process stops, as by Ctrl-Z.

use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::store::{LockingPaused, Store};
use crate::timeout::while_running;

/// Longest wait for locks of the store before this process stops: longer than a token request.
const LOCKS_PATIENCE: Duration = Duration::from_secs(40);

/// Waits until this process holds no lock of the store, and takes none until the result is dropped;
/// none if that was waited for in vain.
pub(super) async fn without_locks(store: &Store) -> Option<LockingPaused> {
    while_running(LOCKS_PATIENCE, store.pause_locking()).await
}

/// Stops, until somebody lets this process go on.
pub(super) fn stop() {
    let _ = kill_process(getpid(), Signal::STOP);
}
