//! The file's text as settings.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::key::{self, Key};
use super::problem::{ConfigError, Fault, Problems};
use super::setting::{Place, Setting, Settings, Spans, Value};
use super::source::Source;

/// Reads all keys of the file; unknown ones and wrong types become problems.
///
/// # Errors
/// The text is no TOML, and nothing more can be said about it.
pub(super) fn read(source: &Source, settings: &mut Settings, problems: &mut Problems<'_>) -> Result<(), ConfigError> {
    let table = match DeTable::parse(&source.text) {
        Ok(table) => table,
        Err(error) => {
            let mut problems = Problems::new(Some(source));
            problems.syntax(error.span().unwrap_or(0..0), error.message());
            return Err(problems.into_error());
        }
    };
    for (name, value) in table.get_ref() {
        top(name, value, settings, problems);
    }
    Ok(())
}

type Name<'a> = Spanned<DeString<'a>>;

fn top(name: &Name<'_>, value: &Spanned<DeValue<'_>>, settings: &mut Settings, problems: &mut Problems<'_>) {
    let section = name.get_ref().as_ref();
    match (value.get_ref(), key::sections().any(|known| known == section)) {
        (DeValue::Table(keys), true) => {
            for (name, value) in keys {
                entry(&format!("{section}.{}", name.get_ref()), name.span(), value, settings, problems);
            }
        }
        (_, true) => {
            let title = format!("`{section}` is a section, not a key");
            problems.key(name.span(), &title, &format!("write [{section}] on a line of its own, its keys below"));
        }
        (DeValue::Table(_), false) if key::find(section).is_none() => {
            problems.key(name.span(), &format!("unknown section `{section}`"), &key::advice(section));
        }
        (_, false) => entry(section, name.span(), value, settings, problems),
    }
}

fn entry(
    name: &str,
    span: Range<usize>,
    value: &Spanned<DeValue<'_>>,
    settings: &mut Settings,
    problems: &mut Problems<'_>,
) {
    match key::find(name) {
        Some(key) => known(key, Spans::of(span, value), Value::of(value.get_ref()), settings, problems),
        None => problems.key(span, &format!("unknown key `{name}`"), &key::advice(name)),
    }
}

fn known(key: &'static Key, spans: Spans, value: Value, settings: &mut Settings, problems: &mut Problems<'_>) {
    let place = Place::File(spans);
    if key.shape.accepts(&value) {
        settings.set(key, value, place);
    } else {
        problems.fault(key, &Setting { value, place }, &Fault::new(key.shape.expected()));
    }
}
