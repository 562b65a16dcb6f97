//! How a command ends: named exit codes, and the error that goes with one.

use std::fmt::Display;
use std::process::ExitCode;

/// Added to the number of the signal that ended a program, as shells do.
const ENDED_BY_SIGNAL: i32 = 128;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Fine,
    /// The command failed.
    Failed,
    /// Wrong arguments or configuration.
    Usage,
    /// An account needs a login.
    LoginRequired,
    /// No proxy is running.
    NotRunning,
    /// It works, and something needs attention.
    Degraded,
    /// As the program of `exec` ended.
    Program(u8),
    /// By the signal with this number, as the program of `exec` was ended.
    Signal(i32),
}

impl Exit {
    /// The exit code of the process; for a signal the one that shells report.
    pub fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::LoginRequired => 3,
            Self::NotRunning => 4,
            Self::Degraded => 5,
            Self::Program(code) => code,
            Self::Signal(signal) => u8::try_from(ENDED_BY_SIGNAL + signal).unwrap_or(u8::MAX),
        }
    }

    /// What `main` returns. For a signal it does not return: a shell that runs a script ends the
    /// script, too, if Ctrl-C has ended its program, and goes on after any exit code.
    pub(super) fn end(self) -> ExitCode {
        if let Self::Signal(signal) = self {
            // Writes no core: the process was made undumpable at its start. It fails for a signal
            // that it does not know.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        ExitCode::from(self.code())
    }
}

/// An error and the exit code that goes with it.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{error}") }
    }

    pub(super) fn usage(error: impl Display) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// Puts what failed in front of the reason.
    pub(super) fn context(self, what: &'static str) -> Self {
        Self { error: self.error.context(what), ..self }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}
