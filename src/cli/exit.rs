//! How a command ends: named exit codes, and the error that goes with one.

use std::fmt::Display;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Success.
    Fine = 0,
    /// The command failed.
    Failed = 1,
    /// Wrong arguments or configuration.
    Usage = 2,
    /// An account needs a login.
    LoginRequired = 3,
    /// No proxy is running.
    NotRunning = 4,
    /// It works, and something needs attention.
    Degraded = 5,
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
