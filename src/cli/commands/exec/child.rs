//! The program of `exec`, from its start to its end, as a shell runs it: in the same process group,
//! with the same terminal; what only this process is told, it is told too.

use std::io::{self, IsTerminal as _};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, waitpid};
use tokio::time::sleep;

use super::signals::{Received, Signals};

/// Added to the number of the signal that ended a program, as shells do.
pub(super) const ENDED_BY_SIGNAL: i32 = 128;
/// How often the program is looked at if no signals can be received.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A program that runs.
pub(super) struct Child {
    pid: Pid,
    /// This process was asked to stop, so it stops when the program has.
    is_to_stop: bool,
}

/// What has become of the program.
enum Change {
    Ended(u8),
    Stopped,
    None,
}

impl Child {
    /// Starts it. It must be called on the main thread: the program is told when the thread that
    /// started it ends.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the system gave no process id"))?;
        Ok(Self { pid, is_to_stop: false })
    }

    /// Waits for its end; returns its exit code.
    pub(super) async fn wait(mut self, signals: &mut Signals) -> u8 {
        loop {
            match self.change() {
                Change::Ended(code) => return code,
                Change::Stopped => self.follow(),
                Change::None => {}
            }
            match signals.next().await {
                Some(received) => self.hand_on(received),
                None => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// What has become of it since the last look; only the latest counts.
    fn change(&self) -> Change {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
        let mut latest = Change::None;
        while let Ok(Some((_, status))) = waitpid(Some(self.pid), options) {
            latest = match exit_code(status) {
                Some(code) => return Change::Ended(code),
                None if status.stopped() => Change::Stopped,
                None => Change::None,
            };
        }
        latest
    }

    /// Hands on what this process alone was told.
    fn hand_on(&mut self, received: Received) {
        let is_from_program = received.sender == Some(self.pid.as_raw_nonzero().get());
        if received.signal == Signal::CHILD || received.is_of_terminal() || is_from_program {
            return;
        }
        self.is_to_stop |= received.signal == Signal::TSTP;
        let _ = kill_process(self.pid, received.signal);
    }

    /// The program has stopped: so does this process, for the shell to take the terminal back. Where
    /// there is none, nobody would let this process go on.
    fn follow(&mut self) {
        let has_terminal =
            io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
        if std::mem::take(&mut self.is_to_stop) || has_terminal {
            let _ = kill_process(getpid(), Signal::STOP);
        }
    }
}

/// The exit code of a program that has ended.
fn exit_code(status: WaitStatus) -> Option<u8> {
    let code = match status.terminating_signal() {
        Some(signal) => ENDED_BY_SIGNAL + signal,
        None => status.exit_status()?,
    };
    u8::try_from(code).ok()
}
