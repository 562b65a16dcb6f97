//! Settings: what each key is set to, and by which layer.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::key::{self, KEYS, Key};

/// A value of a key before it means anything. No `Debug`: a proxy URL may carry a password.
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Absent,
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Value>),
    /// A float, a date, a table: fits no key.
    Foreign,
}

impl Value {
    pub(super) fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or(Self::Foreign, Self::Integer)
            }
            DeValue::Boolean(value) => Self::Boolean(*value),
            DeValue::Array(items) => Self::List(items.iter().map(|item| Self::of(item.get_ref())).collect()),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => Self::Foreign,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        DeValue::parse(text).ok().map(|value| Self::of(value.get_ref()))
    }

    /// The text; empty for what is not set.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    /// The texts of a list.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::List(items) => items.iter().map(Self::text).collect(),
            _ => Vec::new(),
        }
    }
}

/// Where in the file a setting is.
#[derive(Clone)]
pub(super) struct Spans {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) items: Vec<Range<usize>>,
}

impl Spans {
    pub(super) fn of(key: Range<usize>, value: &Spanned<DeValue<'_>>) -> Self {
        let items = value.get_ref().as_array().map(|items| items.iter().map(Spanned::span).collect());
        Self { key, value: value.span(), items: items.unwrap_or_default() }
    }
}

/// Which layer set a value.
#[derive(Clone)]
pub(super) enum Place {
    Default,
    File(Spans),
    Variable(String),
    Flag(&'static str),
}

/// A value and its layer.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// The settings of all keys; a later layer replaces an earlier one.
pub(super) struct Settings {
    defaults: BTreeMap<&'static str, Setting>,
    given: BTreeMap<&'static str, Setting>,
}

impl Settings {
    pub(super) fn new() -> Self {
        let default = |key: &Key| key.default.and_then(Value::parse).unwrap_or(Value::Absent);
        let setting = |key: &'static Key| (key.name, Setting { value: default(key), place: Place::Default });
        Self { defaults: KEYS.iter().map(setting).collect(), given: BTreeMap::new() }
    }

    pub(super) fn set(&mut self, key: &'static Key, value: Value, place: Place) {
        self.given.insert(key.name, Setting { value, place });
    }

    /// Replaces a default, for those that depend on the environment.
    pub(super) fn set_default(&mut self, name: &str, text: &str) {
        if let Some(key) = key::find(name) {
            let value = if text.is_empty() { Value::Absent } else { Value::Text(text.to_owned()) };
            self.defaults.insert(key.name, Setting { value, place: Place::Default });
        }
    }

    pub(super) fn default(&self, name: &str) -> &Setting {
        self.defaults.get(name).expect("only names from the table of keys are asked for")
    }

    pub(super) fn get(&self, name: &str) -> &Setting {
        self.given.get(name).unwrap_or_else(|| self.default(name))
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }
}
