//! Waiting for at most so long: a disk or a server that hangs is a finding, not a reason to hang.

use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time limit for reading files.
pub(super) const FILES: Duration = Duration::from_secs(4);
/// Time limit for the answer of a running proxy.
pub(super) const PROXY: Duration = Duration::from_secs(4);
/// Time limit for everything that is asked of servers. All of them are asked at the same time.
pub(super) const NETWORK: Duration = Duration::from_secs(4);

/// Runs work on files on a thread of its own; none if it does not end in time. Its thread may then
/// hang on, and the end of the process does not wait for it.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    within(FILES, work).await
}

async fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    timeout(limit, spawn_blocking(work)).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let hung = within(Duration::from_millis(20), move || held.recv().is_err()).await;
        assert_eq!(hung, None);
        // The runtime of a test waits for its threads.
        drop(hold);
        assert_eq!(on_thread(|| 7).await, Some(7));
        assert_eq!(on_thread(|| panic!("on purpose")).await, None::<()>);
    }
}
