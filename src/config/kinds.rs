//! The kinds of settings: which TOML value each accepts, how it is read and how it is shown.
//! Strings are parsed by the type of the setting or by a function of the part that uses it.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::fmt::friendly::SpanPrinter;
use jiff::{SignedDuration, SpanRelativeTo};
use strum::VariantArray;
use toml::Value;

use super::error::InvalidValue;
use super::shape::{Shape, bare};
use crate::nearest::nearest;
use crate::oauth::SecretSource;
use crate::server::Address;
use crate::store::{KeySource, UrlSource};

/// How a setting of type `T` is read and shown.
pub(super) trait Kind<T> {
    fn shape(&self) -> Shape {
        Shape::Text
    }

    /// True if a wrong value may be a secret: it is then never part of an error.
    fn hides(&self) -> bool {
        false
    }

    /// Reads a value of the right shape; a relative path starts at `base`. The empty string means
    /// "not set".
    fn read(&self, value: &Value, base: &Path) -> Result<T, InvalidValue>;

    /// The value as a file would have it, without secrets.
    fn show(&self, value: &T) -> Value;
}

/// A value that a function parses.
pub(super) struct By<F>(pub(super) Shape, pub(super) F);

impl<T: Display, E: Display, F: Fn(&str) -> Result<T, E>> Kind<T> for By<F> {
    fn shape(&self) -> Shape {
        self.0
    }

    fn read(&self, value: &Value, _: &Path) -> Result<T, InvalidValue> {
        let is_wrong = |item: &Value| (self.1)(&bare(item)).is_err();
        let item = || value.as_array()?.iter().position(is_wrong);
        (self.1)(&bare(value)).map_err(|error| InvalidValue { item: item(), ..error.into() })
    }

    fn show(&self, value: &T) -> Value {
        let text = value.to_string();
        self.0.of_bare(&text).unwrap_or(Value::String(text))
    }
}

/// A list of strings, each parsed by a function.
pub(super) struct Each<F>(pub(super) F);

impl<E: Display, F: Fn(&str) -> Result<String, E>> Kind<Vec<String>> for Each<F> {
    fn shape(&self) -> Shape {
        Shape::Texts
    }

    fn read(&self, value: &Value, _: &Path) -> Result<Vec<String>, InvalidValue> {
        let items = value.as_array().into_iter().flatten().enumerate();
        items
            .map(|(at, item)| {
                (self.0)(&bare(item))
                    .map_err(|error| InvalidValue { item: Some(at), ..error.into() })
            })
            .collect()
    }

    fn show(&self, value: &Vec<String>) -> Value {
        value.clone().into()
    }
}

/// An optional value; the string stands for `None`.
pub(super) struct Or<K>(pub(super) &'static str, pub(super) K);

impl<T, K: Kind<T>> Kind<Option<T>> for Or<K> {
    fn read(&self, value: &Value, base: &Path) -> Result<Option<T>, InvalidValue> {
        if bare(value) == self.0 { Ok(None) } else { self.1.read(value, base).map(Some) }
    }

    fn show(&self, value: &Option<T>) -> Value {
        value.as_ref().map_or(self.0.into(), |value| self.1.show(value))
    }
}

/// A setting whose value is never part of an error.
pub(super) struct Hidden<K>(pub(super) K);

impl<T, K: Kind<T>> Kind<T> for Hidden<K> {
    fn hides(&self) -> bool {
        true
    }

    fn read(&self, value: &Value, base: &Path) -> Result<T, InvalidValue> {
        self.0.read(value, base)
    }

    fn show(&self, value: &T) -> Value {
        self.0.show(value)
    }
}

/// One of the names of an enum's variants.
pub(super) struct Word;

impl<T: Copy + VariantArray + Into<&'static str>> Kind<T> for Word {
    fn read(&self, value: &Value, _: &Path) -> Result<T, InvalidValue> {
        let word = bare(value);
        let names = || T::VARIANTS.iter().map(|variant| (*variant).into());
        if let Some(known) = T::VARIANTS.iter().zip(names()).find(|(_, name)| *name == word) {
            return Ok(*known.0);
        }
        let all = names().collect::<Vec<&str>>().join(" or ");
        let hint = nearest(&word, names()).map(|near| format!("; did you mean \"{near}\"?"));
        Err(format!("must be {all}{}", hint.unwrap_or_default()).into())
    }

    fn show(&self, value: &T) -> Value {
        Value::from(Into::<&str>::into(*value))
    }
}

/// A duration between these two.
pub(super) struct Span(pub(super) &'static str, pub(super) &'static str);

impl Kind<Duration> for Span {
    fn read(&self, value: &Value, _: &Path) -> Result<Duration, InvalidValue> {
        within(value, self.0, self.1, &format!("between {} and {}", self.0, self.1))
    }

    fn show(&self, value: &Duration) -> Value {
        let duration = SignedDuration::try_from(*value).unwrap_or(SignedDuration::MAX);
        SpanPrinter::new().duration_to_string(&duration).into()
    }
}

/// A duration up to this one; zero means no limit.
pub(super) struct NoneAtZero(pub(super) &'static str);

impl Kind<Option<Duration>> for NoneAtZero {
    fn read(&self, value: &Value, _: &Path) -> Result<Option<Duration>, InvalidValue> {
        let length =
            within(value, "0s", self.0, &format!("at most {}, or 0s for no limit", self.0))?;
        Ok((!length.is_zero()).then_some(length))
    }

    fn show(&self, value: &Option<Duration>) -> Value {
        Span("0s", self.0).show(&value.unwrap_or_default())
    }
}

fn within(value: &Value, least: &str, most: &str, range: &str) -> Result<Duration, InvalidValue> {
    let no_duration = || format!("must be a duration such as 500ms, 2s, 10m, 12h or 7d, {range}");
    let length = duration(&bare(value)).ok_or_else(no_duration)?;
    let is_within = duration(least) <= Some(length) && Some(length) <= duration(most);
    if is_within { Ok(length) } else { Err(format!("must be {range}").into()) }
}

/// Reads a duration such as `500ms`, `2s` or `7d`.
pub fn duration(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

/// A size in memory up to this one: bytes, or a number with a binary unit such as `256KiB`.
pub(super) struct Bytes(pub(super) usize);

impl Kind<usize> for Bytes {
    fn shape(&self) -> Shape {
        Shape::Size
    }

    fn read(&self, value: &Value, _: &Path) -> Result<usize, InvalidValue> {
        let most = self.0 / (1024 * 1024);
        let wrong = || format!("must be a size between 0 and {most}MiB in bytes, KiB or MiB");
        Ok(bytes(&bare(value)).filter(|bytes| *bytes <= self.0).ok_or_else(wrong)?)
    }

    fn show(&self, value: &usize) -> Value {
        let text = value.to_string();
        Shape::Size.of_bare(&text).unwrap_or(Value::String(text))
    }
}

fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = text
        .split_at(text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// A path; a relative one starts at the folder of its layer.
pub(super) struct FilePath;

impl Kind<PathBuf> for FilePath {
    fn read(&self, value: &Value, base: &Path) -> Result<PathBuf, InvalidValue> {
        match bare(value) {
            text if text.chars().any(char::is_control) => {
                Err("must not contain control characters".into())
            }
            text if text.starts_with('~') => {
                Err("starts with `~`, which only shells expand; write the absolute path".into())
            }
            text => Ok(base.join(text)),
        }
    }

    fn show(&self, value: &PathBuf) -> Value {
        value.display().to_string().into()
    }
}

/// The file of the client secret. Other sources of the secret are applied when all rows are read.
pub(super) struct SecretFile;

impl Kind<SecretSource> for SecretFile {
    fn read(&self, value: &Value, base: &Path) -> Result<SecretSource, InvalidValue> {
        Ok(Or("", FilePath).read(value, base)?.map_or(SecretSource::None, SecretSource::File))
    }

    fn show(&self, value: &SecretSource) -> Value {
        match value {
            SecretSource::File(path) => FilePath.show(path),
            SecretSource::None | SecretSource::Value(_) => "".into(),
        }
    }
}

/// The file of the keys of the store. Other sources of keys are applied when all rows are read.
pub(super) struct StoreKeys;

impl Kind<KeySource> for StoreKeys {
    fn read(&self, value: &Value, base: &Path) -> Result<KeySource, InvalidValue> {
        Ok(Or("", FilePath).read(value, base)?.map_or(KeySource::None, KeySource::File))
    }

    fn show(&self, value: &KeySource) -> Value {
        match value {
            KeySource::File(path) => FilePath.show(path),
            KeySource::None | KeySource::Value(_) | KeySource::Credential(_) => "".into(),
        }
    }
}

/// The file of the database's URL. Another source of it is applied when all rows are read.
pub(super) struct DatabaseUrl;

impl Kind<UrlSource> for DatabaseUrl {
    fn read(&self, value: &Value, base: &Path) -> Result<UrlSource, InvalidValue> {
        Ok(Or("", FilePath).read(value, base)?.map_or(UrlSource::None, UrlSource::File))
    }

    fn show(&self, value: &UrlSource) -> Value {
        match value {
            UrlSource::File(path) => FilePath.show(path),
            UrlSource::None | UrlSource::Value(_) => "".into(),
        }
    }
}

/// A port, or a unix socket; a relative path starts at the folder of its layer.
pub(super) struct Listener;

impl Kind<Address> for Listener {
    fn read(&self, value: &Value, base: &Path) -> Result<Address, InvalidValue> {
        Ok(bare(value).parse::<Address>()?.below(base)?)
    }

    fn show(&self, value: &Address) -> Value {
        value.to_string().into()
    }
}
