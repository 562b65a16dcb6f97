//! Problems of a configuration as values, displayed like those of a compiler.

use std::fmt::{self, Display};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// One problem. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The kind of problem.
    pub code: Code,
    /// Whether the proxy can start.
    pub severity: Severity,
    /// What is wrong, with the name of the setting, variable, flag or file.
    pub title: String,
    /// The place in the file, if it is about one.
    pub place: Option<Place>,
    /// What to do next; empty if the title says it.
    pub fix: String,
}

/// The kind of problem of a [`Diagnostic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The file is not valid TOML.
    Syntax,
    /// A key, section, variable or flag that does not exist.
    UnknownName,
    /// A value that its setting does not accept.
    InvalidValue,
    /// Settings that conflict.
    Conflict,
    /// Something that a login needs.
    Missing,
    /// A file that cannot be used.
    File,
    /// Works, but is probably not intended.
    Oddity,
}

/// How serious a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The proxy does not start.
    Error,
    /// The proxy works, but this is probably not intended.
    Warning,
}

/// A place in the configuration file, lines and columns counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user would name it.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    pub(super) excerpt: Option<Excerpt>,
}

/// The part of a line that may be shown, and the span of the caret in its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) span: Range<usize>,
}

impl Diagnostic {
    /// An error without a place in the file.
    pub(crate) fn error(code: Code, title: impl Display, fix: impl Display) -> Self {
        let (title, fix) = (one_line(&title.to_string()), one_line(&fix.to_string()));
        Self { code, severity: Severity::Error, title, place: None, fix }
    }

    /// The error of a part, whose text says what to do after `; `.
    pub(crate) fn of(code: Code, error: impl Display) -> Self {
        let text = error.to_string();
        let (title, fix) = text.split_once("; ").unwrap_or((&text, ""));
        Self::error(code, title, fix)
    }

    /// A warning without a place in the file.
    pub(crate) fn warning(title: impl Display, fix: impl Display) -> Self {
        Self { severity: Severity::Warning, ..Self::error(Code::Oddity, title, fix) }
    }

    /// Title and fix in one line.
    pub fn sentence(&self) -> String {
        if self.fix.is_empty() {
            self.title.clone()
        } else {
            format!("{}; {}", self.title, self.fix)
        }
    }
}

/// Without colours, because it also goes to logs.
impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&self.title));
        group = match &self.place {
            Some(Place { file, line, excerpt: Some(excerpt), .. }) => {
                let caret = AnnotationKind::Primary.span(excerpt.span.clone());
                group.element(
                    Snippet::source(&excerpt.text).line_start(*line).path(file).annotation(caret),
                )
            }
            Some(Place { file, line, column, excerpt: None }) => {
                group.element(Origin::path(file).line(*line).char_column(*column))
            }
            None => group,
        };
        if !self.fix.is_empty() {
            group = group.element(Level::HELP.message(&self.fix));
        }
        f.write_str(&Renderer::plain().render(&[group]))
    }
}

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

/// Untrusted text, safe to print on one line of a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
