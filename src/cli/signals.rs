//! The signals that end a process.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Signals that come within this time are one.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// SIGTERM and Ctrl-C, from the moment this is made. SIGHUP is one of them where a terminal was
/// closed; a service that gets one keeps running, and reads no settings anew.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    /// Waits for one more after the first. What comes in the same moment is that one still:
    /// `timeout` and shells tell both the process and its group.
    pub(super) async fn another(&mut self) {
        let first = Instant::now();
        loop {
            self.next().await;
            if first.elapsed() >= SAME_SIGNAL {
                return;
            }
        }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let has_terminal = std::io::stderr().is_terminal();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if has_terminal {
                        return;
                    }
                    info!("SIGHUP changes nothing: settings are read at the start");
                }
            }
        }
    }
}
