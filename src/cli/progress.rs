//! What a terminal shows while a command waits for a person: a line that moves, with the time left.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

const FRAMES: [char; 4] = ['|', '/', '-', '\\'];
const FRAME: Duration = Duration::from_millis(200);
/// Returns to the start of the line and erases it.
const ERASE: &str = "\r\u{1b}[K";

/// Waits for `work`, and shows how much of `limit` is left. Shows nothing if stderr is no terminal,
/// or one that should get no escape codes.
pub(super) async fn while_waiting<T>(
    limit: Duration,
    hint: &str,
    work: impl Future<Output = T>,
) -> T {
    let Some(mut line) = Line::on_terminal() else { return work.await };
    let deadline = Instant::now() + limit;
    let mut work = pin!(work);
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = frames.tick() => line.draw(deadline.saturating_duration_since(Instant::now()), hint),
        }
    }
}

/// The line of a terminal. It is erased when dropped, so that a command that is interrupted leaves
/// nothing behind.
struct Line {
    frame: usize,
}

impl Line {
    fn on_terminal() -> Option<Self> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        let is_wanted = stderr().is_terminal() && !is_dumb && !is_set("NO_COLOR");
        is_wanted.then(|| Self { frame: 0 })
    }

    fn draw(&mut self, left: Duration, hint: &str) {
        let frame = FRAMES[self.frame % FRAMES.len()];
        self.frame += 1;
        let (minutes, seconds) = (left.as_secs() / 60, left.as_secs() % 60);
        let text = format!("{frame} {minutes}:{seconds:02} left; {hint}");
        // A line that wraps cannot be erased as one. The cursor goes back, so that whatever else is
        // printed replaces the line.
        let width = rustix::termios::tcgetwinsize(stderr()).map_or(80, |size| size.ws_col);
        let text: String = text.chars().take(usize::from(width.max(2)) - 1).collect();
        let _ = write!(stderr(), "{ERASE}{text}\r");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(stderr(), "{ERASE}");
    }
}
