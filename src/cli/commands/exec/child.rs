//! The program of `exec`, from its start to its end, as a shell runs it: in the same process group,
//! with the same terminal; what only this process is told, it is told too.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};
use tokio::time::sleep;

use super::signals::{Received, Signals};
use super::stop::{stop, without_locks};
use crate::cli::commands::revive::Revive;
use crate::cli::exit::Exit;
use crate::cli::run_file;
use crate::store::Store;

/// How often the program is looked at if no signals can be received.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Revivers whose signals are still to be told from others': signals are read soon.
const MAX_REVIVERS: usize = 8;
/// A wait of this length is worth a line.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// A program that runs.
pub(super) struct Child {
    pid: Pid,
    /// This process was asked to stop, so it stops when the program has.
    is_to_stop: bool,
    /// This process was stopped, and was told nothing since.
    was_stopped: bool,
    /// The latest processes that were to wake this one if it is stopped and the program is not.
    revivers: VecDeque<i32>,
}

/// What has become of the program.
enum Change {
    Ended(Exit),
    Stopped,
    GoesOn,
    None,
}

impl Child {
    /// Starts it. It must be called on the main thread: the program is told when the thread that
    /// started it ends.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the system gave no process id"))?;
        Ok(Self { pid, is_to_stop: false, was_stopped: false, revivers: VecDeque::new() })
    }

    /// Waits for its end. Before this process stops with it, it returns the locks of the store.
    pub(super) async fn wait(mut self, signals: &mut Signals, store: &Store) -> Exit {
        loop {
            let mut change = self.change();
            // It may have stopped again by the time that this process goes on.
            while matches!(change, Change::Stopped) {
                change = self.follow(signals, store).await;
            }
            if let Change::Ended(exit) = change {
                return exit;
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
            latest = match exit_of(status) {
                Some(exit) => return Change::Ended(exit),
                None if status.stopped() => Change::Stopped,
                None => Change::GoesOn,
            };
        }
        latest
    }

    /// Hands on what this process alone was told.
    fn hand_on(&mut self, received: Received) {
        let is_from = |pid: i32| received.sender == Some(pid);
        if received.signal == Signal::CHILD
            || received.is_shared()
            || is_from(self.pid.as_raw_nonzero().get())
        {
            return;
        }
        // What an earlier one sent may be read only now, when the program has stopped again.
        if received.signal == Signal::CONT && self.revivers.iter().any(|pid| is_from(*pid)) {
            return;
        }
        if received.signal == Signal::CONT
            && std::mem::take(&mut self.was_stopped)
            && self.is_stopped() == Some(false)
        {
            // It goes on already: shells tell the whole job.
            return;
        }
        self.is_to_stop |= received.signal == Signal::TSTP;
        let _ = kill_process(self.pid, received.signal);
    }

    fn is_stopped(&self) -> Option<bool> {
        run_file::is_stopped(self.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// The program has stopped: so does this process, for the shell to take the terminal back. Where
    /// there is none, nobody would let this process go on. It waits for the end of a refresh before,
    /// and what becomes of the program meanwhile is returned.
    async fn follow(&mut self, signals: &mut Signals, store: &Store) -> Change {
        let has_terminal =
            io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
        if !std::mem::take(&mut self.is_to_stop) && !has_terminal {
            return Change::None;
        }
        let mut pausing = pin!(without_locks(store));
        let mut wait = pin!(sleep(TOLD_AFTER));
        let mut is_told = false;
        let paused = loop {
            tokio::select! {
                biased;
                paused = &mut pausing => break paused,
                Some(received) = signals.next() => {
                    self.hand_on(received);
                    match self.change() {
                        Change::Stopped | Change::None => {}
                        change => return change,
                    }
                }
                () = &mut wait, if !is_told => {
                    is_told = true;
                    status!("pleo-proxy: stops once the token request in progress has ended");
                }
            }
        };
        match self.change() {
            Change::Stopped | Change::None => self.stop(),
            change => return change,
        }
        drop(paused);
        self.change()
    }

    /// Stops this process, until somebody lets it or the program go on.
    fn stop(&mut self) {
        let reviver = self.is_stopped().and_then(|_| Revive::start(self.pid).ok());
        self.revivers.extend(reviver.as_ref().and_then(|it| i32::try_from(it.id()).ok()));
        if self.revivers.len() > MAX_REVIVERS {
            // Process ids are used again.
            self.revivers.pop_front();
        }
        self.was_stopped = true;
        stop();
        if let Some(mut reviver) = reviver {
            let _ = reviver.kill();
            let _ = reviver.wait();
        }
    }
}

/// How the program ended, if it has.
fn exit_of(status: WaitStatus) -> Option<Exit> {
    match status.terminating_signal() {
        Some(signal) => Some(Exit::Signal(signal)),
        None => status.exit_status().and_then(|code| u8::try_from(code).ok()).map(Exit::Program),
    }
}
