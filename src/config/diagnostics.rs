//! Problems of a configuration as values, displayed like those of a compiler.

use std::fmt::{self, Display};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::kinds::Shape;
use super::layers::{Layer, Spans};
use super::one_line;
use super::settings::Row;
use super::source::{Excerpt, Source};

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
    excerpt: Option<Excerpt>,
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
    fix: Option<String>,
    /// The index of the item, in a list.
    item: Option<usize>,
}

impl InvalidValue {
    /// From the error of a type, which may say after `; ` what to write.
    pub(super) fn new(error: impl Display) -> Self {
        let text = error.to_string();
        let (problem, fix) = match text.split_once("; ") {
            Some((problem, fix)) => (problem.to_owned(), Some(fix.to_owned())),
            None => (text, None),
        };
        Self { problem, fix, item: None }
    }

    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    pub(super) fn item(self, item: Option<usize>) -> Self {
        Self { item, ..self }
    }
}

/// Collects problems, so that all are reported at once.
pub(super) struct Diagnostics<'a> {
    source: Option<&'a Source>,
    found: Vec<Diagnostic>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(source: Option<&'a Source>) -> Self {
        Self { source, found: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All problems in the order of the file; those without a place come last.
    pub(super) fn into_error(mut self) -> ConfigError {
        let at = |found: &Diagnostic| found.place.as_ref().map(|place| (place.line, place.column));
        self.found.sort_by_key(|found| (at(found).is_none(), at(found)));
        ConfigError(self.found)
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Reports an unknown variable or flag.
    pub(super) fn unknown(&mut self, title: &str, fix: &str) {
        self.push(Diagnostic::error(Code::UnknownName, title, fix));
    }

    /// Reports an unknown key or section of the file; its value is not shown.
    pub(super) fn key(&mut self, span: Range<usize>, title: &str, fix: &str) {
        let place = self.source.map(|source| place(source, span.start, source.key_only(&span)));
        self.push(Diagnostic { place, ..Diagnostic::error(Code::UnknownName, title, fix) });
    }

    /// Reports text that is not valid TOML.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let place = self.source.map(|source| place(source, span.start, source.broken(&span)));
        let title =
            format!("this is not valid TOML: {}", message.trim_end_matches(", expected nothing"));
        let fix = "write strings in double quotes and lists in square brackets; see proxy.toml in the repository";
        self.push(Diagnostic { place, ..Diagnostic::error(Code::Syntax, title, fix) });
    }

    /// Reports a table whose name its section does not accept.
    pub(super) fn table(&mut self, heading: &str, layer: &Layer, error: &impl Display) {
        let error = Diagnostic::of(Code::InvalidValue, format!("`{heading}`: the name {error}"));
        let place = match (layer, self.source) {
            (Layer::File(spans), Some(source)) => {
                Some(place(source, spans.key.start, source.key_only(&spans.key)))
            }
            _ => None,
        };
        self.push(Diagnostic { place, ..error });
    }

    /// Reports a value of any layer that its setting does not accept.
    pub(super) fn invalid(&mut self, name: &str, row: &Row, layer: &Layer, invalid: &InvalidValue) {
        let bare = row.bare_example();
        let (name, example) = match layer {
            Layer::Variable(variable) => (variable.clone(), format!("{variable}={bare}")),
            Layer::Flag("--set") => (format!("--set {name}"), format!("--set {name}={bare}")),
            Layer::Flag(flag) => ((*flag).to_owned(), format!("{flag} {bare}")),
            Layer::Default | Layer::File(_) => {
                (name.to_owned(), format!("{} = {}", row.short(), row.example()))
            }
        };
        let by_example = || match (row.shape)() {
            // The example of a switch would recommend one of its two values.
            Shape::Boolean => format!("write {} or {example}", example.replace("false", "true")),
            _ => format!("write for example: {example}"),
        };
        let fix = invalid.fix.clone().unwrap_or_else(by_example);
        let title = format!("`{name}` {}", invalid.problem);
        let place = match (layer, self.source) {
            (Layer::File(spans), Some(source)) => {
                Some(value_place(source, spans, (row.hides)(), invalid.item))
            }
            _ => None,
        };
        self.push(Diagnostic { place, ..Diagnostic::error(Code::InvalidValue, title, fix) });
    }
}

fn place(source: &Source, offset: usize, excerpt: Option<Excerpt>) -> Place {
    let (line, column) = source.position(offset);
    Place { file: one_line(&source.shown), line, column, excerpt }
}

/// The place of a value or one of its items, or of its key if the value must not be shown.
fn value_place(source: &Source, spans: &Spans, hides: bool, item: Option<usize>) -> Place {
    let value = item.and_then(|item| spans.items.get(item)).unwrap_or(&spans.value);
    let shown = if hides { None } else { source.setting(&spans.key, value) };
    match shown {
        Some(excerpt) => place(source, value.start, Some(excerpt)),
        None => place(source, spans.key.start, source.key_only(&spans.key)),
    }
}
