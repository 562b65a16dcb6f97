//! Text that is pasted into a shell.

pub(super) use crate::log::curl::quoted;
use crate::problem::with_program;

/// Replaces the commands in a text by ones that read the same configuration as this command.
pub(super) fn with_flags(text: &str, program: &str) -> String {
    with_program(text, program)
}
