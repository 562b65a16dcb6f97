//! All problems of a configuration as one error, and the reason why one value is not accepted.

use std::fmt::{self, Display};

use crate::diagnostic::Diagnostic;

/// All problems of a configuration. Holds no secret.
#[derive(Clone)]
pub struct ConfigError(pub(super) Vec<Diagnostic>);

impl ConfigError {
    /// All problems, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl From<Diagnostic> for ConfigError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

/// Why a value is not accepted. Never contains the value.
pub(super) struct InvalidValue {
    /// Continues "`listen.api` ...".
    pub(super) problem: String,
    /// What to write instead; `None`: the setting's example.
    pub(super) fix: Option<String>,
    /// The index of the item, in a list.
    pub(super) item: Option<usize>,
}

/// From the error of a type, which may say after `; ` what to write.
impl<E: Display> From<E> for InvalidValue {
    fn from(error: E) -> Self {
        let text = error.to_string();
        let (problem, fix) = match text.split_once("; ") {
            Some((problem, fix)) => (problem.to_owned(), Some(fix.to_owned())),
            None => (text, None),
        };
        Self { problem, fix, item: None }
    }
}
