//! What is wrong with a configuration, as values; their text looks like a compiler's.

use std::fmt::{self, Display};
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::kinds::Shape;
use super::layers::{Layer, Spans};
use super::one_line;
use super::settings::Row;
use super::source::{Excerpt, Source};

/// One finding. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What kind of finding it is.
    pub code: Code,
    /// Whether anything can work in spite of it.
    pub severity: Severity,
    /// What is wrong, naming the setting, variable, flag or file.
    pub title: String,
    /// Where in the file; none if it is not about a place there.
    pub place: Option<Place>,
    /// The one thing to do next; empty if the title says it.
    pub fix: String,
}

/// What kind of finding a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The file is no TOML.
    Syntax,
    /// A key, section, variable or flag that does not exist.
    UnknownName,
    /// A value that its setting does not take.
    InvalidValue,
    /// Settings that do not go together.
    Conflict,
    /// Something without which a login cannot work.
    Missing,
    /// A file that cannot be used.
    File,
    /// Odd, and works.
    Oddity,
}

/// Whether anything can work in spite of a [`Diagnostic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// It works, and is probably not what was meant.
    Warning,
}

/// A place in the configuration file, lines and columns counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the user would name it.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
    excerpt: Option<Excerpt>,
}

impl Diagnostic {
    /// An error that is not about a place in the file.
    pub(super) fn error(code: Code, title: impl Display, fix: impl Display) -> Self {
        let (title, fix) = (one_line(&title.to_string()), one_line(&fix.to_string()));
        Self { code, severity: Severity::Error, title, place: None, fix }
    }

    /// The error of a part, which says what to do itself, or behind `; `.
    pub(super) fn of(code: Code, error: impl Display) -> Self {
        let text = error.to_string();
        let (title, fix) = text.split_once("; ").unwrap_or((&text, ""));
        Self::error(code, title, fix)
    }

    /// Something that is odd and works.
    pub(super) fn warning(title: impl Display, fix: impl Display) -> Self {
        Self { severity: Severity::Warning, ..Self::error(Code::Oddity, title, fix) }
    }

    /// In one line, without the place.
    pub fn sentence(&self) -> String {
        if self.fix.is_empty() {
            self.title.clone()
        } else {
            format!("{}; {}", self.title, self.fix)
        }
    }
}

/// Plain, because it also goes to logs.
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

/// Everything that is wrong with a configuration. Holds no secret.
#[derive(Clone)]
pub struct ConfigError(pub(super) Vec<Diagnostic>);

impl ConfigError {
    /// All findings, in the order of the file.
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

/// Why a value will not do. Never contains the value.
pub(super) struct InvalidValue {
    /// Continues "`listen.api` ...".
    pub(super) problem: String,
    /// What to write instead; the setting's example if there is nothing better.
    fix: Option<String>,
    /// Which item of a list.
    item: Option<usize>,
}

impl InvalidValue {
    /// From the words of a type, which may say behind `; ` what to write.
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

/// Collects findings, so that one run tells all of them.
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

    /// In the order of the file; those without a place come last.
    pub(super) fn into_error(mut self) -> ConfigError {
        let at = |found: &Diagnostic| found.place.as_ref().map(|place| (place.line, place.column));
        self.found.sort_by_key(|found| (at(found).is_none(), at(found)));
        ConfigError(self.found)
    }

    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// A variable or flag that does not exist.
    pub(super) fn unknown(&mut self, title: &str, fix: &str) {
        self.push(Diagnostic::error(Code::UnknownName, title, fix));
    }

    /// A key or section of the file that does not exist; its value is not shown.
    pub(super) fn key(&mut self, span: Range<usize>, title: &str, fix: &str) {
        let place = self.source.map(|source| place(source, span.start, source.key_only(&span)));
        self.push(Diagnostic { place, ..Diagnostic::error(Code::UnknownName, title, fix) });
    }

    /// Text that is not TOML.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let place = self.source.map(|source| place(source, span.start, source.broken(&span)));
        let title =
            format!("this is not valid TOML: {}", message.trim_end_matches(", expected nothing"));
        let fix = "texts stand in double quotes, lists in square brackets; see proxy.toml of the repository";
        self.push(Diagnostic { place, ..Diagnostic::error(Code::Syntax, title, fix) });
    }

    /// A table with a free name that its section does not take.
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

    /// A value that its setting does not take, from any layer.
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
            // An example of a switch would say which way to turn it.
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

/// The place of a value or of one of its items; of its key where the value is not shown.
fn value_place(source: &Source, spans: &Spans, hides: bool, item: Option<usize>) -> Place {
    let value = item.and_then(|item| spans.items.get(item)).unwrap_or(&spans.value);
    let shown = if hides { None } else { source.setting(&spans.key, value) };
    match shown {
        Some(excerpt) => place(source, value.start, Some(excerpt)),
        None => place(source, spans.key.start, source.key_only(&spans.key)),
    }
}
