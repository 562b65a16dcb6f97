//! The signals that end a process.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Signals within this time count as one.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// SIGTERM and Ctrl-C from now on. SIGHUP ends the process only if it has a terminal, which was
/// closed; a service keeps running, opens the file of `log.requests` again, and does not reload its
/// settings.
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

    /// Waits for a second signal. Signals right after the first belong to it: `timeout` and shells
    /// send one to the process and one to its group.
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
                    info!("SIGHUP: the file of log.requests is opened again; settings are read only at the start");
                }
            }
        }
    }
}
