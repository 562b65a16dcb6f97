//! The kinds of settings: which TOML value each takes, what that means, and how it is written down again.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::friendly::SpanPrinter;
use jiff::{SignedDuration, Span as JiffSpan, SpanRelativeTo};
use toml::Value;

use super::Environment;
use super::diagnostics::InvalidValue;
use super::suggest::nearest;
use crate::oauth::{ClientAuth, SecretSource};
use crate::outbound::KeyExchange;
use crate::proxy::peer::{PeerCheck, PeerCheckError};
use crate::server::Address;

/// How a setting of type `T` is read and shown.
pub(super) trait Kind<T> {
    fn shape(&self) -> Shape {
        Shape::Text
    }

    /// True if a value in the wrong place here may be a secret.
    fn hides(&self) -> bool {
        false
    }

    /// Reads a value of the right shape; a relative path starts at `base`. Nothing is set if the text is empty.
    fn read(&self, value: &Value, base: &std::path::Path) -> Result<T, InvalidValue>;

    /// What a file would say, without secrets.
    fn show(&self, value: &T) -> Value;
}

/// What TOML value a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Boolean,
    Integer,
    Texts,
    /// A word or a list of user ids.
    WordOrIds,
    /// A text such as "256KiB" or a number of bytes.
    Size,
}

impl Shape {
    pub(super) fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text | Self::WordOrIds | Self::Size, Value::String(_))
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

    /// Reads what a variable or a bare `--set` says: no quotes, lists by comma.
    pub(super) fn read_bare(self, raw: &str) -> Option<Value> {
        let parts = || raw.split(',').map(str::trim).filter(|part| !part.is_empty());
        match self {
            Self::Text | Self::Size => Some(raw.into()),
            Self::Boolean => raw.parse().ok().map(Value::Boolean),
            Self::Integer => raw.parse().ok().map(Value::Integer),
            Self::Texts => Some(Value::Array(parts().map(Value::from).collect())),
            Self::WordOrIds if raw.starts_with(|first: char| first.is_ascii_digit()) => {
                parts().map(|part| part.parse().ok().map(Value::Integer)).collect::<Option<_>>().map(Value::Array)
            }
            Self::WordOrIds => Some(raw.into()),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A text that a function of the domain reads.
pub(super) struct By<F>(pub(super) F);

impl<T: Display, E: Display, F: Fn(&str) -> Result<T, E>> Kind<T> for By<F> {
    fn read(&self, value: &Value, _: &std::path::Path) -> Result<T, InvalidValue> {
        (self.0)(text(value)).map_err(InvalidValue::new)
    }

    fn show(&self, value: &T) -> Value {
        value.to_string().into()
    }
}

/// A list of texts that a function of the domain reads one by one.
pub(super) struct Each<F>(pub(super) F);

impl<E: Display, F: Fn(&str) -> Result<String, E>> Kind<Vec<String>> for Each<F> {
    fn shape(&self) -> Shape {
        Shape::Texts
    }

    fn read(&self, value: &Value, _: &std::path::Path) -> Result<Vec<String>, InvalidValue> {
        let items = value.as_array().into_iter().flatten().enumerate();
        items.map(|(at, item)| (self.0)(text(item)).map_err(|error| InvalidValue::new(error).item(at))).collect()
    }

    fn show(&self, value: &Vec<String>) -> Value {
        value.clone().into()
    }
}

/// A word for "none", or something else.
pub(super) struct Or<K>(pub(super) &'static str, pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Or<K> {
    fn read(&self, value: &Value, base: &std::path::Path) -> Result<Option<T>, InvalidValue> {
        if text(value) == self.0 { Ok(None) } else { self.1.read(value, base).map(Some) }
    }

    fn show(&self, value: &Option<T>) -> Value {
        value.as_ref().map_or(self.0.into(), |value| self.1.show(value))
    }
}

/// Something whose value is never part of an error.
pub(super) struct Hidden<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<T> for Hidden<K> {
    fn hides(&self) -> bool {
        true
    }

    fn read(&self, value: &Value, base: &std::path::Path) -> Result<T, InvalidValue> {
        self.0.read(value, base)
    }

    fn show(&self, value: &T) -> Value {
        self.0.show(value)
    }
}

/// A type whose values have names.
pub(super) trait Named: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
}

macro_rules! named {
    ($($type:ty),+) => {$(
        impl Named for $type {
            const ALL: &'static [Self] = &Self::ALL;

            fn name(self) -> &'static str {
                self.as_str()
            }
        }
    )+};
}

named!(Environment, ClientAuth, KeyExchange);

/// One of several names.
pub(super) struct Word;

impl<T: Named> Kind<T> for Word {
    fn read(&self, value: &Value, _: &std::path::Path) -> Result<T, InvalidValue> {
        let names = || T::ALL.iter().map(|value| value.name());
        let found = T::ALL.iter().find(|known| known.name() == text(value));
        found.copied().ok_or_else(|| {
            let invalid = InvalidValue::new(format!("must be {}", names().collect::<Vec<_>>().join(" or ")));
            match nearest(text(value), names()) {
                Some(near) => invalid.fix(format!("did you mean \"{near}\"?")),
                None => invalid,
            }
        })
    }

    fn show(&self, value: &T) -> Value {
        value.name().into()
    }
}

pub(super) struct Switch;

impl Kind<bool> for Switch {
    fn shape(&self) -> Shape {
        Shape::Boolean
    }

    fn read(&self, value: &Value, _: &std::path::Path) -> Result<bool, InvalidValue> {
        Ok(value.as_bool() == Some(true))
    }

    fn show(&self, value: &bool) -> Value {
        (*value).into()
    }
}

/// A number of things, up to this many; 0 leaves it to us.
pub(super) struct Count(pub(super) usize);

impl Kind<usize> for Count {
    fn shape(&self) -> Shape {
        Shape::Integer
    }

    fn read(&self, value: &Value, _: &std::path::Path) -> Result<usize, InvalidValue> {
        let number = value.as_integer().and_then(|number| usize::try_from(number).ok());
        let invalid = || InvalidValue::new(format!("must be between 0 (automatic) and {}", self.0));
        number.filter(|number| *number <= self.0).ok_or_else(invalid)
    }

    fn show(&self, value: &usize) -> Value {
        number(*value)
    }
}

/// A size, up to this many bytes: a number of bytes, or a text with a binary unit.
pub(super) struct Bytes(pub(super) usize);

impl Kind<usize> for Bytes {
    fn shape(&self) -> Shape {
        Shape::Size
    }

    fn read(&self, value: &Value, _: &std::path::Path) -> Result<usize, InvalidValue> {
        let bytes = match value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            other => size(text(other)),
        };
        let most = self.0 / (1024 * 1024);
        let invalid = || InvalidValue::new(format!("must be a size between 0 and {most}MiB in bytes, KiB or MiB"));
        bytes.filter(|bytes| *bytes <= self.0).ok_or_else(invalid)
    }

    fn show(&self, value: &usize) -> Value {
        number(*value)
    }
}

fn number(number: usize) -> Value {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

fn size(text: &str) -> Option<usize> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// A duration between these two.
pub(super) struct Span(pub(super) &'static str, pub(super) &'static str);

impl Kind<Duration> for Span {
    fn read(&self, value: &Value, _: &std::path::Path) -> Result<Duration, InvalidValue> {
        within(text(value), self.0, self.1, &format!("between {} and {}", self.0, self.1))
    }

    fn show(&self, value: &Duration) -> Value {
        let duration = SignedDuration::try_from(*value).unwrap_or(SignedDuration::MAX);
        SpanPrinter::new().duration_to_string(&duration).into()
    }
}

/// A duration up to this one; zero is none at all.
pub(super) struct NoneAtZero(pub(super) &'static str);

impl Kind<Option<Duration>> for NoneAtZero {
    fn read(&self, value: &Value, _: &std::path::Path) -> Result<Option<Duration>, InvalidValue> {
        let range = format!("at most {}, or 0s for no limit", self.0);
        within(text(value), "0s", self.0, &range).map(|length| (!length.is_zero()).then_some(length))
    }

    fn show(&self, value: &Option<Duration>) -> Value {
        Span("0s", self.0).show(&value.unwrap_or_default())
    }
}

fn within(text: &str, least: &str, most: &str, range: &str) -> Result<Duration, InvalidValue> {
    let no_duration = || format!("must be a duration such as 500ms, 2s, 10m, 12h or 7d, {range}");
    let length = duration(text).ok_or_else(|| InvalidValue::new(no_duration()))?;
    let is_within = duration(least) <= Some(length) && Some(length) <= duration(most);
    is_within.then_some(length).ok_or_else(|| InvalidValue::new(format!("must be {range}")))
}

fn duration(text: &str) -> Option<Duration> {
    let span: JiffSpan = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

/// A path; a relative one starts where it was written.
pub(super) struct Path;

impl Kind<PathBuf> for Path {
    fn read(&self, value: &Value, base: &std::path::Path) -> Result<PathBuf, InvalidValue> {
        match text(value) {
            text if text.chars().any(char::is_control) => Err(InvalidValue::new("must not contain control characters")),
            text if text.starts_with('~') => {
                Err(InvalidValue::new("starts with `~`, which only shells expand").fix("write the whole path"))
            }
            text => Ok(base.join(text)),
        }
    }

    fn show(&self, value: &PathBuf) -> Value {
        value.display().to_string().into()
    }
}

/// The file of the client secret. What else the secret may come from is laid over it when all is read.
pub(super) struct Secret;

impl Kind<SecretSource> for Secret {
    fn read(&self, value: &Value, base: &std::path::Path) -> Result<SecretSource, InvalidValue> {
        Ok(Or("", Path).read(value, base)?.map_or(SecretSource::None, SecretSource::File))
    }

    fn show(&self, value: &SecretSource) -> Value {
        match value {
            SecretSource::File(path) => Path.show(path),
            SecretSource::None | SecretSource::Value(_) => "".into(),
        }
    }
}

/// A port, or a unix socket; a relative path starts where it was written.
pub(super) struct Listener;

impl Kind<Address> for Listener {
    fn read(&self, value: &Value, base: &std::path::Path) -> Result<Address, InvalidValue> {
        let address: Address = text(value).parse().map_err(InvalidValue::new)?;
        address.below(base).map_err(InvalidValue::new)
    }

    fn show(&self, value: &Address) -> Value {
        value.to_string().into()
    }
}

/// Whose programs may call: a word or a list of user ids.
pub(super) struct Peers;

impl Kind<PeerCheck> for Peers {
    fn shape(&self) -> Shape {
        Shape::WordOrIds
    }

    fn read(&self, value: &Value, _: &std::path::Path) -> Result<PeerCheck, InvalidValue> {
        let Value::Array(items) = value else { return text(value).parse().map_err(InvalidValue::new) };
        let invalid = || InvalidValue::new(PeerCheckError);
        let user = |(at, item): (usize, &Value)| {
            let id = item.as_integer().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| invalid().item(at))
        };
        let users: Vec<u32> = items.iter().enumerate().map(user).collect::<Result<_, _>>()?;
        if users.is_empty() { Err(invalid()) } else { Ok(PeerCheck::Users(users)) }
    }

    fn show(&self, value: &PeerCheck) -> Value {
        match value {
            PeerCheck::Users(users) => Value::Array(users.iter().map(|user| i64::from(*user).into()).collect()),
            PeerCheck::SameUser => "same-user".into(),
            PeerCheck::Off => "off".into(),
        }
    }
}
