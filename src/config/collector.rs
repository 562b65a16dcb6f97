//! The collector of diagnostics, which finds the place of each in the file.

use std::fmt::Display;
use std::ops::Range;

use super::error::{ConfigError, InvalidValue};
use super::inputs::Layer;
use super::shape::Shape;
use super::source::Source;
use super::table::{Row, Table};
use crate::diagnostic::{Code, Diagnostic, Excerpt, Place, one_line};

/// Collects problems, so that all are reported at once.
pub(super) struct Diagnostics<'a> {
    pub(super) source: Option<&'a Source>,
    table: &'static Table,
    found: Vec<Diagnostic>,
}

impl<'a> Diagnostics<'a> {
    pub(super) fn new(source: Option<&'a Source>, table: &'static Table) -> Self {
        Self { source, table, found: Vec::new() }
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

    /// Reports a problem that has no place in the file.
    pub(super) fn error(&mut self, code: Code, title: impl Display, fix: impl Display) {
        self.found.push(Diagnostic::error(code, title, fix));
    }

    /// Reports an unknown variable or flag.
    pub(super) fn unknown(&mut self, title: &str, fix: &str) {
        self.error(Code::UnknownName, title, fix);
    }

    /// Reports an unknown key or section of the file; its value is not shown.
    pub(super) fn key(&mut self, span: Range<usize>, title: &str, fix: &str) {
        let place = self.source.map(|source| place(source, span.start, source.key_only(&span)));
        self.found.push(Diagnostic { place, ..Diagnostic::error(Code::UnknownName, title, fix) });
    }

    /// Reports text that is not valid TOML.
    pub(super) fn syntax(&mut self, span: Range<usize>, message: &str) {
        let place =
            self.source.map(|source| place(source, span.start, source.broken(&span, self.table)));
        let title =
            format!("this is not valid TOML: {}", message.trim_end_matches(", expected nothing"));
        let fix = "write strings in double quotes and lists in square brackets; see proxy.toml in the repository";
        self.found.push(Diagnostic { place, ..Diagnostic::error(Code::Syntax, title, fix) });
    }

    /// Reports a table whose name its section does not accept.
    pub(super) fn table(&mut self, heading: &str, layer: &Layer, error: &impl Display) {
        let error = Diagnostic::of(Code::InvalidValue, format!("`{heading}`: the name {error}"));
        let place = self.place_in(layer, true, None);
        self.found.push(Diagnostic { place, ..error });
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
        let place = self.place_in(layer, (row.hides)(), invalid.item);
        self.found.push(Diagnostic { place, ..Diagnostic::error(Code::InvalidValue, title, fix) });
    }

    /// The place in the file of a value or one of its items, or of its key if the value must not be
    /// shown.
    fn place_in(&self, layer: &Layer, hides: bool, item: Option<usize>) -> Option<Place> {
        let (Layer::File(spans), Some(source)) = (layer, self.source) else { return None };
        let value = item.and_then(|item| spans.items.get(item)).unwrap_or(&spans.value);
        let shown = if hides { None } else { source.setting(&spans.key, value, self.table) };
        Some(match shown {
            Some(excerpt) => place(source, value.start, Some(excerpt)),
            None => place(source, spans.key.start, source.key_only(&spans.key)),
        })
    }
}

fn place(source: &Source, offset: usize, excerpt: Option<Excerpt>) -> Place {
    let (line, column) = source.position(offset);
    Place { file: one_line(&source.shown), line, column, excerpt }
}
