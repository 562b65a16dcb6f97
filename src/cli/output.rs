//! Output of commands: data to stdout, messages to stderr.

use std::fmt;
use std::io::{self, ErrorKind, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;

use super::exit::{Exit, Failure};

/// Writes a line of data to stdout, or ends the command: see [`write_line`].
macro_rules! out {
    ($($line:tt)*) => {
        $crate::cli::output::write_line(format_args!($($line)*))
    };
}

/// Writes a message to stderr.
macro_rules! status {
    ($($line:tt)+) => {
        $crate::telemetry::say(format_args!($($line)+))
    };
}

/// Writes a line of data to stdout. A closed pipe (`status | head`) is not a failure; a full disk
/// is.
pub(super) fn write_line(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("stdout cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Whether somebody still reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pipe {
    /// As far as is known.
    Open,
    /// Nobody does (`| head`): a command that would print more can end.
    Closed,
}

/// True if nobody reads stdout any more, which a command that waits for more to print would learn
/// only by its next line.
pub(super) fn is_closed() -> bool {
    let stdout = io::stdout();
    // What a reader that has gone leaves is reported whether it is asked for or not.
    let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = rustix::event::poll(&mut asked, Some(&Timespec::default()));
    polled.is_ok() && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Writes data to stdout as it is.
pub(super) fn bytes(data: &[u8]) -> Result<Pipe, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Pipe::Open),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Pipe::Closed),
        Err(error) => Err(Failure::new(Exit::Failed, format!("stdout cannot be written: {error}"))),
    }
}

/// Writes the output of `--json`.
pub(super) fn json(data: &impl Serialize) -> Result<(), Failure> {
    out!("{}", serde_json::to_string(data)?)
}
