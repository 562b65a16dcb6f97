//! `revive`: wakes an `exec` that was stopped with its program, once the program goes on. `exec`
//! starts it before it stops; it is not for people.
//!
//! A process of its own, since one that is stopped notices nothing: a program that somebody else
//! lets go on would wait for a listener that does not answer.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, getpid, kill_process};

use super::launch::own_program;
use crate::cli::exit::Exit;
use crate::cli::run_file;
use crate::platform::dies_with;

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How `exec` calls it.
const EXAMPLES: &str = "Examples:
  pleo-proxy revive --parent 4711 --program 4712";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Revive {
    /// Process id of the `exec`
    #[arg(long)]
    parent: i32,
    /// Process id of its program
    #[arg(long)]
    program: i32,
}

impl Revive {
    /// Starts it for this process. It must be called on the main thread, with whose end it ends. In
    /// a process group of its own, so that what is sent to the job does not reach it.
    pub(super) fn start(program: Pid) -> std::io::Result<Child> {
        let mut command = own_program()?;
        command.arg("revive");
        for (name, pid) in [("--parent", getpid()), ("--program", program)] {
            command.args([name, &pid.as_raw_nonzero().to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.process_group(0).spawn()
    }

    /// Waits until the program goes on or is gone while its `exec` is stopped.
    pub(in crate::cli) fn run(self) -> Exit {
        let Some(parent) = Pid::from_raw(self.parent) else { return Exit::Usage };
        if !dies_with(self.parent.unsigned_abs()) {
            return Exit::Failed;
        }
        let is_stopped = |pid: i32| run_file::is_stopped(pid.unsigned_abs()) == Some(true);
        while !is_stopped(self.parent) || is_stopped(self.program) {
            sleep(POLL_INTERVAL);
        }
        match kill_process(parent, Signal::CONT) {
            Ok(()) => Exit::Fine,
            Err(_) => Exit::Failed,
        }
    }
}
