//! The signals of a process that runs a program in its own place: received here, with their senders.

use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
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
}

impl Received {
    /// True if the program got it too.
    pub(super) fn is_of_terminal(&self) -> bool {
        self.is_of_kernel && OF_TERMINAL.contains(&self.signal)
    }
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
        thread::Builder::new().name("signals".into()).spawn(move || {
            // It ends with the process.
            for origin in &mut signals {
                if received_from(&origin).is_some_and(|it| sender.send(it).is_err()) {
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

    /// Waits for one that ends the process.
    pub(super) async fn ending(&mut self) -> Signal {
        loop {
            match self.next().await {
                Some(Received { signal, .. }) if ENDING.contains(&signal) => return signal,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// The same after the end of the program.
    pub(super) async fn another(&mut self) {
        let ended = Instant::now();
        loop {
            self.ending().await;
            if ended.elapsed() >= LATE {
                return;
            }
        }
    }
}

fn received_from(origin: &Origin) -> Option<Received> {
    let signal = Signal::from_named_raw(origin.signal)?;
    let sender = origin.process.map(|process| process.pid);
    Some(Received { signal, sender, is_of_kernel: origin.cause == Cause::Kernel })
}

/// The signals that this process ignores, as bits: proc_pid_status(5). None where the system does
/// not say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}
