//! Lines that others can cause as often as they like: the first few are written, the rest is
//! counted.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
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
    /// Somebody waits to tell the count.
    is_awaited: bool,
}

/// Tells how many lines were left out when it is dropped: at the end of their window, or with the
/// runtime that waits for it, if that ends before.
struct Teller(Repeats);

impl Repeats {
    /// Lines about `what`, as it is called in "... and 7 more ".
    pub fn new(what: &'static str) -> Self {
        Self { what, window: Arc::default() }
    }

    /// True if such a line may be written now. One that may not is counted, and the count is told
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
        if window.written < WRITTEN {
            window.written += 1;
            if window.written == 1 && !window.is_awaited {
                self.tell(&mut window);
            }
            return true;
        }
        window.left_out += 1;
        if !window.is_awaited
            && let Ok(runtime) = Handle::try_current()
        {
            window.is_awaited = true;
            let teller = Teller(self.clone());
            // A runtime that is ending drops the task at once, and the teller needs the window.
            drop(window);
            runtime.spawn(async move {
                sleep_until(began + WINDOW).await;
                drop(teller);
            });
        }
        false
    }

    fn tell(&self, window: &mut Window) {
        let left_out = std::mem::take(&mut window.left_out);
        if left_out > 0 {
            warn!("... and {left_out} more {} within {WINDOW:?}", self.what);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock()
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let mut window = self.0.lock();
        window.is_awaited = false;
        self.0.tell(&mut window);
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
    fn a_runtime_that_ends_tells_what_it_was_to_tell_and_the_next_one_goes_on() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lines = Repeats::new("tests");
        for round in 0..2 {
            let runtime = runtime();
            let written =
                runtime.block_on(async { (0..10).filter(|_| lines.admits()).count() as u32 });
            assert_eq!(written, if round == 0 { WRITTEN } else { 0 }, "it is the same window");
            assert_eq!(lines.lock().left_out, 10 - u64::from(written));
            drop(runtime);
            assert_eq!(lines.lock().left_out, 0, "round {round}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn outside_a_runtime_they_are_counted_and_told_later() {
        let lines = Repeats::new("tests");
        let alone = lines.clone();
        let admitted =
            std::thread::spawn(move || (0..10).filter(|_| alone.admits()).count() as u32);
        assert_eq!(admitted.join().unwrap(), WRITTEN);
        assert!(!lines.admits(), "somebody who can wait comes along");
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!(lines.lock().left_out, 0);
    }
}
