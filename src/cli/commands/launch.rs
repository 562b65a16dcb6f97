//! `launch`: becomes the program of `exec`, with what that would have got from a shell. `exec` starts
//! it; it is not for people.
//!
//! A process of its own, since only it can give itself a signal for the death of `exec`, and limits
//! and a file mode mask that are not those of the proxy.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use clap::Args;
use rustix::fs::RawMode;

use crate::cli::exit::Exit;
use crate::hardening::{self, Inherited};
use crate::platform::dies_with;

/// What shells report for a program that cannot be run, and for one that is not there.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Where this program is, also after its file was replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// How `exec` calls it.
const EXAMPLES: &str = "Examples:
  pleo-proxy launch --parent 4711 --umask 18 --files 1024 -- python3 month-end.py";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Launch {
    /// Process id of the `exec`
    #[arg(long)]
    parent: u32,
    /// Mask of file modes
    #[arg(long)]
    umask: RawMode,
    /// Soft limit of open files
    #[arg(long)]
    files: Option<u64>,
    /// Soft limit of core dumps
    #[arg(long)]
    core: Option<u64>,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Launch {
    /// The command that becomes `program`.
    pub(super) fn command(program: &[OsString], inherited: Inherited) -> std::io::Result<Command> {
        let mut command = own_program()?;
        command.arg("launch");
        command.args(["--parent", &std::process::id().to_string()]);
        command.args(["--umask", &inherited.umask.to_string()]);
        for (name, limit) in [("--files", inherited.files), ("--core", inherited.core)] {
            command.args(limit.iter().flat_map(|limit| [name.to_owned(), limit.to_string()]));
        }
        command.arg("--").args(program);
        Ok(command)
    }

    /// Becomes the program. Returns only if that fails.
    pub(in crate::cli) fn run(self) -> Exit {
        if !dies_with(self.parent) {
            return Exit::Failed;
        }
        hardening::undo(Inherited { umask: self.umask, files: self.files, core: self.core });
        let Some((program, arguments)) = self.command.split_first() else { return Exit::Usage };
        let error = Command::new(program).args(arguments).exec();
        let shown = Path::new(program).display();
        match error.kind() {
            ErrorKind::NotFound if program.as_encoded_bytes().contains(&b'/') => {
                status!("pleo-proxy: {shown}: no such file");
                Exit::Program(NOT_FOUND)
            }
            ErrorKind::NotFound => {
                status!("pleo-proxy: {shown}: command not found");
                Exit::Program(NOT_FOUND)
            }
            _ => {
                status!("pleo-proxy: {shown} cannot be run: {error}");
                Exit::Program(NOT_EXECUTABLE)
            }
        }
    }
}

/// This program, to be run again.
pub(super) fn own_program() -> std::io::Result<Command> {
    let own =
        if Path::new(OWN_PROGRAM).exists() { OWN_PROGRAM.into() } else { std::env::current_exe()? };
    let mut command = Command::new(own);
    command.arg0("pleo-proxy");
    Ok(command)
}
