//! Log lines that callers can cause without limit: the first few are written, the others counted.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Lines within this time are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of a window that are written.
const MAX_WRITTEN: u32 = 3;

/// Counts lines of one kind within a window. Clones share the count.
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
    /// A task waits for the end of the window to report the count.
    has_reporter: bool,
}

/// Reports how many lines were left out when it is dropped: at the end of the window, or when the
/// runtime ends before.
struct Reporter(Repeats);

impl Repeats {
    /// Lines about `what`, as it is called in "... and 7 more ".
    pub fn new(what: &'static str) -> Self {
        Self { what, window: Arc::default() }
    }

    /// True if such a line may be written now. Otherwise it is counted, and the count is reported
    /// within ten seconds; outside a runtime, with the first line after that.
    pub fn admits(&self) -> bool {
        let (mut window, now) = (self.lock(), Instant::now());
        let began =
            match window.began.filter(|began| now.saturating_duration_since(*began) < WINDOW) {
                Some(began) => began,
                None => {
                    (window.began, window.written) = (Some(now), 0);
                    now
                }
            };
        if window.written < MAX_WRITTEN {
            window.written += 1;
            if window.written == 1 && !window.has_reporter {
                self.report(&mut window);
            }
            return true;
        }
        window.left_out += 1;
        if !window.has_reporter
            && let Ok(runtime) = Handle::try_current()
        {
            window.has_reporter = true;
            let reporter = Reporter(self.clone());
            // A runtime that is ending drops the task at once, and then the reporter locks the
            // window.
            drop(window);
            runtime.spawn(async move {
                sleep_until(began + WINDOW).await;
                drop(reporter);
            });
        }
        false
    }

    fn report(&self, window: &mut Window) {
        let left_out = std::mem::take(&mut window.left_out);
        if left_out > 0 {
            warn!("... and {left_out} more {} within {WINDOW:?}", self.what);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock()
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut window = self.0.lock();
        window.has_reporter = false;
        self.0.report(&mut window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_lines_of_a_window_are_written_and_the_others_counted_and_reported() {
        let lines = Repeats::new("tests");
        let written = || (0..1000).filter(|_| lines.admits()).count() as u32;
        assert_eq!(written(), MAX_WRITTEN);
        assert_eq!((written(), lines.lock().left_out), (0, 2000 - u64::from(MAX_WRITTEN)));
        tokio::time::sleep(WINDOW + Duration::from_millis(1)).await;
        assert_eq!(lines.lock().left_out, 0, "reported, though no line came after them");
        assert_eq!(written(), MAX_WRITTEN);
    }

    #[test]
    fn a_runtime_that_ends_reports_its_count_and_the_next_one_goes_on() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lines = Repeats::new("tests");
        for round in 0..2 {
            let runtime = runtime();
            let written =
                runtime.block_on(async { (0..10).filter(|_| lines.admits()).count() as u32 });
            assert_eq!(written, if round == 0 { MAX_WRITTEN } else { 0 }, "it is the same window");
            assert_eq!(lines.lock().left_out, 10 - u64::from(written));
            drop(runtime);
            assert_eq!(lines.lock().left_out, 0, "round {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn outside_a_runtime_lines_are_counted_and_reported_later() {
        let lines = Repeats::new("tests");
        let alone = lines.clone();
        let admitted =
            std::thread::spawn(move || (0..10).filter(|_| alone.admits()).count() as u32);
        assert_eq!(admitted.join().unwrap(), MAX_WRITTEN);
        assert!(!lines.admits(), "this one can start a reporter");
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!(lines.lock().left_out, 0);
    }
}
