//! The signals of a process that runs a program in its own place: received here, with their senders.

use std::fs::{self, File};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};
use tokio::sync::mpsc;

/// What is handed on to the program.
const HANDED_ON: [Signal; 9] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::TSTP,
    Signal::CONT,
];
/// What ends a process that does nothing about it.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];
/// What a terminal sends to all processes in its foreground: the program got it too.
const OF_TERMINAL: [Signal; 4] = [Signal::INT, Signal::QUIT, Signal::TSTP, Signal::WINCH];
/// What the kernel sends when a terminal closes: to the leader of the session alone, and to the
/// process groups that are left behind.
const OF_CLOSED_TERMINAL: [Signal; 2] = [Signal::HUP, Signal::CONT];
/// The terminal of a session, for those that have one.
const TERMINAL: &str = "/dev/tty";
/// Signals within this time after the end of the program were meant for it.
const LATE: Duration = Duration::from_millis(100);

/// A signal that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// The signal.
    pub(super) signal: Signal,
    /// Its sender, if that is a process.
    pub(super) sender: Option<i32>,
    /// The kernel sent it, as for a key of the terminal.
    is_of_kernel: bool,
    /// There was a terminal, and it is closed.
    lost_terminal: bool,
}

impl Received {
    /// True if the program got it too, as far as can be known: nothing says whether a process meant
    /// one process or the group. A shell whose terminal is closed tells all its jobs.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared_below(session_leader())
    }

    fn is_shared_below(&self, leader: Option<i32>) -> bool {
        if self.is_of_kernel {
            let own = getpid().as_raw_nonzero().get();
            return OF_TERMINAL.contains(&self.signal)
                || OF_CLOSED_TERMINAL.contains(&self.signal) && leader != Some(own);
        }
        OF_CLOSED_TERMINAL.contains(&self.signal) && self.lost_terminal && self.sender == leader
    }
}

/// What a signal asks of this process.
#[derive(Clone, Copy, Debug)]
pub(super) enum OwnSignal {
    End(Signal),
    Stop,
    GoOn,
}

/// The signals from now on.
pub(super) struct Signals(mpsc::UnboundedReceiver<Received>);

impl Signals {
    /// Receives signals from now on. Those that the process ignores stay ignored, for the program
    /// too, as after `nohup`.
    pub(super) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let is_ignored = |signal: &Signal| ignored >> (signal.as_raw() - 1) & 1 == 1;
        let handled = HANDED_ON.iter().filter(|signal| !is_ignored(signal)).chain([&Signal::CHILD]);
        let mut signals = SignalsInfo::<WithOrigin>::new(handled.map(|signal| signal.as_raw()))?;
        let (sender, received) = mpsc::unbounded_channel();
        let had_terminal = has_terminal();
        thread::Builder::new().name("signals".into()).spawn(move || {
            // It ends with the process.
            for origin in &mut signals {
                if received_from(&origin, had_terminal).is_some_and(|it| sender.send(it).is_err()) {
                    return;
                }
            }
        })?;
        Ok(Self(received))
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Option<Received> {
        self.0.recv().await
    }

    /// Waits for one that means this process, while there is no other.
    pub(super) async fn own(&mut self) -> OwnSignal {
        loop {
            match self.next().await.map(|received| received.signal) {
                Some(signal) if ENDING.contains(&signal) => return OwnSignal::End(signal),
                Some(Signal::TSTP) => return OwnSignal::Stop,
                Some(Signal::CONT) => return OwnSignal::GoOn,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// The same after the end of the program.
    pub(super) async fn another(&mut self) {
        let ended = Instant::now();
        loop {
            let is_ending = matches!(self.own().await, OwnSignal::End(_));
            if is_ending && ended.elapsed() >= LATE {
                return;
            }
        }
    }
}

fn received_from(origin: &Origin, had_terminal: bool) -> Option<Received> {
    let signal = Signal::from_named_raw(origin.signal)?;
    let sender = origin.process.map(|process| process.pid);
    let lost_terminal = had_terminal && OF_CLOSED_TERMINAL.contains(&signal) && !has_terminal();
    Some(Received { signal, sender, is_of_kernel: origin.cause == Cause::Kernel, lost_terminal })
}

/// True if this session has a terminal.
fn has_terminal() -> bool {
    File::open(TERMINAL).is_ok()
}

/// The process that leads this session, 0 if it is outside the PID namespace of this process, as a
/// sender of signals is, too: proc_pid_stat(5), field 6. None where the system does not say.
/// `rustix::process::getsid` cannot give 0.
fn session_leader() -> Option<i32> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // Field 2, its name in parentheses, may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// The signals that this process ignores, as bits: proc_pid_status(5). None where the system does
/// not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_its_shell_tells_the_whole_job_is_not_handed_on() {
        let own = Some(getpid().as_raw_nonzero().get());
        let (shell, other, outside) = (Some(4711), Some(99), Some(0));
        for (signal, sender, is_of_kernel, lost_terminal, leader, is_shared) in [
            (Signal::INT, None, true, false, shell, true),
            (Signal::INT, shell, false, false, shell, false),
            (Signal::HUP, None, true, true, shell, true),
            // It leads the session, and was told alone.
            (Signal::HUP, None, true, true, own, false),
            (Signal::CONT, None, true, true, own, false),
            // The shell's `kill -HUP PID`, and its end.
            (Signal::HUP, shell, false, false, shell, false),
            (Signal::HUP, shell, false, true, shell, true),
            (Signal::HUP, other, false, true, shell, false),
            (Signal::TERM, shell, false, true, shell, false),
            (Signal::TERM, None, true, false, shell, false),
            (Signal::HUP, outside, false, true, outside, true),
            (Signal::TERM, outside, false, false, outside, false),
            (Signal::HUP, None, true, true, outside, true),
        ] {
            let received = Received { signal, sender, is_of_kernel, lost_terminal };
            assert_eq!(received.is_shared_below(leader), is_shared, "{received:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_leader_of_the_session_is_found() {
        let said = std::process::Command::new("sh").args(["-c", "ps -o sid= -p $PPID"]).output();
        let Some(said) = said.ok().filter(|it| it.status.success()) else { return };
        let said = String::from_utf8_lossy(&said.stdout).trim().parse().ok();
        assert_eq!(session_leader(), said);
    }
}
