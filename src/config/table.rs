//! The form of the table of settings: what a row says, and which names lead to it.

use std::fmt;

use super::inputs::VARIABLE_PREFIX;
use super::shape::Shape;

/// All settings.
pub(super) struct Table {
    /// In blocks, which are fields of the configuration.
    pub(super) blocks: &'static [&'static [Row]],
    /// Keys that were renamed, with their new names.
    pub(super) renamed: &'static [(&'static str, &'static str)],
}

impl Table {
    /// All rows, in the order of `proxy.toml`.
    pub(super) fn rows(&self) -> impl Iterator<Item = &'static Row> {
        let sections = [None].into_iter().chain(self.sections().into_iter().map(Some));
        sections.flat_map(|section| self.all().filter(move |row| row.section() == section))
    }

    /// All rows, block by block.
    pub(super) fn all(&self) -> impl Iterator<Item = &'static Row> {
        self.blocks.iter().copied().flatten()
    }

    /// The sections in the order of `proxy.toml`, which is that of their first rows.
    pub(super) fn sections(&self) -> Vec<&'static str> {
        let mut sections = Vec::new();
        for section in self.all().filter_map(Row::section) {
            if !sections.contains(&section) {
                sections.push(section);
            }
        }
        sections
    }

    /// The row of the setting of that name.
    pub(super) fn find(&self, name: &str) -> Option<&'static Row> {
        self.all().find(|row| row.is_row_of(name))
    }

    /// The same, of a setting that exists.
    pub(super) fn row(&self, name: &str) -> &'static Row {
        self.find(name).expect("only names from the table of settings are asked for")
    }

    /// True if a section holds tables with free names and no keys.
    pub(super) fn has_tables(&self, section: &str) -> bool {
        self.all().any(|row| row.section() == Some(section) && row.name.contains('*'))
    }
}

/// One setting.
pub struct Row {
    /// `section.key`, `section.*.key` in tables with free names, or `key` at the top.
    pub name: &'static str,
    /// The default and an example, as TOML.
    pub default: DefaultValue,
    /// What it does; the same text is in `docs/settings.md`.
    pub doc: &'static str,
    pub(super) shape: fn() -> Shape,
    /// True if a wrong value may be a secret: it is then never part of an error.
    pub(super) hides: fn() -> bool,
}

/// The value of a setting that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, which is its own example.
    Is(&'static str),
    /// This value; the second one is the example.
    Like(&'static str, &'static str),
    /// Nothing; the value is an example.
    Unset(&'static str),
    /// Set by the environment; the value is an example.
    ByEnvironment(&'static str),
}

use DefaultValue::{ByEnvironment, Is, Like, Unset};

impl Row {
    /// The section, none at the top.
    pub fn section(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(section, _)| section)
    }

    /// The name without its section.
    pub fn short(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The heading of its table, with NAME for a free name; none at the top.
    pub(super) fn heading(&self) -> Option<String> {
        self.name.rsplit_once('.').map(|(heading, _)| heading.replace('*', "NAME"))
    }

    /// True if this is the row of the setting `name`: `*` stands for one name.
    fn is_row_of(&self, name: &str) -> bool {
        let Some((start, end)) = self.name.split_once('*') else { return self.name == name };
        let table = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        table.is_some_and(|table| !table.is_empty() && !table.contains('.'))
    }

    /// The full name of this setting below a heading, if it belongs there.
    pub(super) fn below(&self, heading: &str) -> Option<String> {
        let name = match heading {
            "" => self.short().to_owned(),
            _ => format!("{heading}.{}", self.short()),
        };
        self.is_row_of(&name).then_some(name)
    }

    /// The full name of the setting that a variable sets, if it is one of this row. Names of tables
    /// are in lower case, with hyphens.
    pub(super) fn set_by(&self, variable: &str) -> Option<String> {
        let own = self.variable();
        let Some((start, end)) = own.split_once('*') else {
            return (own == variable).then(|| self.name.to_owned());
        };
        let table = variable.strip_prefix(start)?.strip_suffix(end)?;
        let table = table.to_ascii_lowercase().replace('_', "-");
        (!table.is_empty()).then(|| in_table(self.name, &table))
    }

    /// The default as TOML, if it is a fixed one.
    pub fn fixed_default(&self) -> Option<&'static str> {
        match self.default {
            Is(value) | Like(value, _) => Some(value),
            Unset(_) | ByEnvironment(_) => None,
        }
    }

    /// A value as TOML.
    pub fn example(&self) -> &'static str {
        match self.default {
            Is(example) | Like(_, example) | Unset(example) | ByEnvironment(example) => example,
        }
    }

    /// The variable that sets it; `*` stands for the name of a table.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The example as a variable would have it.
    pub(super) fn bare_example(&self) -> String {
        self.example().trim_matches(['[', ']']).replace('"', "").replace(", ", ",")
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The full name of a setting in one of the tables of its section.
pub(super) fn in_table(name: &str, table: &str) -> String {
    name.replacen('*', table, 1)
}
