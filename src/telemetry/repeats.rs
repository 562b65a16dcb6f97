//! Lines that others can cause as often as they like: the first few are written, the rest is counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// What is counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of it that are written.
const WRITTEN: u32 = 3;

/// How often lines of one kind were wished for lately. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Repeats {
    what: &'static str,
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Repeats {
    /// Lines about `what`, as it is called in "... and 7 more ".
    pub fn new(what: &'static str) -> Self {
        Self { what, window: Arc::default() }
    }

    /// True if such a line may be written now. One that may not is counted, and the count is told within ten seconds.
    pub fn admits(&self) -> bool {
        let mut window = self.lock();
        let now = Instant::now();
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (window.began, window.written) = (Some(now), 0);
        }
        if window.written < WRITTEN {
            window.written += 1;
            return true;
        }
        window.left_out += 1;
        if let (1, Ok(runtime)) = (window.left_out, Handle::try_current()) {
            let end = window.began.unwrap_or(now) + WINDOW;
            runtime.spawn(self.clone().tell(end));
        }
        false
    }

    async fn tell(self, end: Instant) {
        sleep_until(end).await;
        let left_out = std::mem::take(&mut self.lock().left_out);
        warn!("... and {left_out} more {} within {WINDOW:?}", self.what);
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_lines_of_a_window_are_written_and_the_rest_counted_and_told() {
        let lines = Repeats::new("tests");
        let written = || (0..1000).filter(|_| lines.admits()).count() as u32;
        assert_eq!(written(), WRITTEN);
        assert_eq!((written(), lines.lock().left_out), (0, 2000 - u64::from(WRITTEN)));
        tokio::time::sleep(WINDOW + Duration::from_millis(1)).await;
        assert_eq!(lines.lock().left_out, 0, "told, though no line came after them");
        assert_eq!(written(), WRITTEN);
    }

    #[test]
    fn outside_a_runtime_they_are_counted_all_the_same() {
        let lines = Repeats::new("tests");
        assert_eq!((0..10).filter(|_| lines.admits()).count() as u32, WRITTEN);
    }
}
