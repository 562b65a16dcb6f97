//! The TOML values that settings accept, and the same without quotes, as variables have them.

use toml::Value;

/// The TOML values that a setting accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Boolean,
    Integer,
    Texts,
    /// A string or a list of user ids.
    WordOrIds,
    /// A string such as "256KiB" or a number of bytes.
    Size,
}

impl Shape {
    pub(super) fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            // A string of ids is accepted only in variables, which have no lists.
            (Self::WordOrIds, Value::String(text)) => {
                !text.starts_with(|first: char| first.is_ascii_digit())
            }
            (Self::Text | Self::Size, Value::String(_))
            | (Self::Boolean, Value::Boolean(_))
            | (Self::Integer | Self::Size, Value::Integer(_)) => true,
            (Self::Texts, Value::Array(items)) => items.iter().all(Value::is_str),
            (Self::WordOrIds, Value::Array(items)) => items.iter().all(Value::is_integer),
            _ => false,
        }
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "must be a string",
            Self::Boolean => "must be true or false",
            Self::Integer => "must be a whole number",
            Self::Texts => "must be a list of strings",
            Self::WordOrIds => "must be a string or a list of user ids",
            Self::Size => "must be a string such as \"256KiB\" or a number of bytes",
        }
    }

    /// The value of a variable or an unquoted `--set`: no quotes, lists by comma.
    pub(super) fn of_bare(self, raw: &str) -> Option<Value> {
        let parts = || raw.split(',').map(str::trim).filter(|part| !part.is_empty());
        let integer = |text: &str| text.parse().ok().map(Value::Integer);
        match self {
            Self::Boolean => raw.parse().ok().map(Value::Boolean),
            Self::Integer => integer(raw),
            Self::Size => integer(raw).or_else(|| Some(raw.into())),
            Self::Texts => Some(Value::Array(parts().map(Value::from).collect())),
            Self::WordOrIds if raw.starts_with(|first: char| first.is_ascii_digit()) => {
                parts().map(integer).collect::<Option<_>>().map(Value::Array)
            }
            Self::Text | Self::WordOrIds => Some(raw.into()),
        }
    }
}

/// A value as a variable would have it.
pub(super) fn bare(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(bare).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
