//! The layers of settings: defaults, the file, variables, flags. A later one replaces what an
//! earlier one said.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::diagnostics::{ConfigError, Diagnostics, InvalidValue};
use super::kinds::Kind;
use super::settings::{self, Row, SECTIONS, VARIABLE_PREFIX, find};
use super::source::Source;
use super::{FILE_VARIABLE, Flags, Origin, SECRET_VARIABLE, suggest};

/// Where in the file a setting is.
#[derive(Clone)]
pub(super) struct Spans {
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) items: Vec<Range<usize>>,
}

/// Who set a value.
#[derive(Clone)]
pub(super) enum Layer {
    Default,
    File(Spans),
    Variable(String),
    Flag(&'static str),
}

/// A value before it means anything, and its layer. No `Debug`: a proxy URL may carry a password.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) layer: Layer,
}

/// All settings by their full names.
pub(super) struct Layers {
    defaults: BTreeMap<String, Value>,
    given: BTreeMap<String, Setting>,
}

impl Layers {
    fn new() -> Self {
        let default = |row: &Row| {
            (row.name.to_owned(), row.fixed_default().and_then(parse).unwrap_or_else(nothing))
        };
        Self { defaults: settings::rows().map(default).collect(), given: BTreeMap::new() }
    }

    /// Reads all layers; what is unknown or of the wrong type becomes a diagnostic.
    ///
    /// # Errors
    /// The file is no TOML, and nothing more can be said about it.
    pub(super) fn read(
        source: Option<&Source>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
        diagnostics: &mut Diagnostics<'_>,
    ) -> Result<Self, ConfigError> {
        let mut builder = Builder { layers: Self::new(), diagnostics };
        if let Some(source) = source {
            builder.file(source)?;
        }
        builder.variables(environment);
        builder.flags(flags);
        Ok(builder.layers)
    }

    /// Replaces a default, for those that depend on the environment.
    pub(super) fn set_default(&mut self, name: &str, text: String) {
        self.defaults.insert(name.to_owned(), text.into());
    }

    fn default(&self, name: &str) -> &Value {
        self.defaults.get(name).expect("only names from the table of settings are asked for")
    }

    pub(super) fn get(&self, name: &str) -> Setting {
        let default = || Setting { value: self.default(name).clone(), layer: Layer::Default };
        self.given.get(name).cloned().unwrap_or_else(default)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }
}

/// What a setting holds that is not set.
fn nothing() -> Value {
    Value::String(String::new())
}

fn parse(text: &str) -> Option<Value> {
    DeValue::parse(text).ok().map(|value| plain(value.get_ref()))
}

/// A value without its places; one that no setting takes is told by its type alone.
fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Float(f64::MAX), Value::Integer),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| plain(item.get_ref())).collect())
        }
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Float(0.0),
        DeValue::Table(_) => Value::Table(toml::Table::new()),
    }
}

struct Builder<'a, 'd> {
    layers: Layers,
    diagnostics: &'a mut Diagnostics<'d>,
}

impl Builder<'_, '_> {
    /// Takes a value of the right shape over; none could not even be read.
    fn set(&mut self, row: &'static Row, value: Option<Value>, layer: Layer) {
        let shape = (row.shape)();
        match value.filter(|value| shape.accepts(value)) {
            Some(value) => {
                drop(self.layers.given.insert(row.name.to_owned(), Setting { value, layer }))
            }
            None => self.diagnostics.invalid(row, &layer, &InvalidValue::new(shape.expected())),
        }
    }

    fn file(&mut self, source: &Source) -> Result<(), ConfigError> {
        let table = DeTable::parse(&source.text).map_err(|error| {
            let mut diagnostics = Diagnostics::new(Some(source));
            diagnostics.syntax(error.span().unwrap_or(0..0), error.message());
            diagnostics.into_error()
        })?;
        for (name, value) in table.get_ref() {
            self.top(name.get_ref(), name.span(), value);
        }
        Ok(())
    }

    fn top(&mut self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        match (value.get_ref(), SECTIONS.contains(&name)) {
            (DeValue::Table(keys), true) => {
                for (key, value) in keys {
                    self.entry(&format!("{name}.{}", key.get_ref()), key.span(), value);
                }
            }
            (_, true) => {
                let fix = format!("write [{name}] on a line of its own, its keys below");
                self.diagnostics.key(span, &format!("`{name}` is a section, not a key"), &fix);
            }
            (DeValue::Table(_), false) if find(name).is_none() => {
                self.diagnostics.key(
                    span,
                    &format!("unknown section `{name}`"),
                    &suggest::key(name),
                );
            }
            (_, false) => self.entry(name, span, value),
        }
    }

    fn entry(&mut self, name: &str, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let Some(row) = find(name) else {
            return self.diagnostics.key(
                key,
                &format!("unknown key `{name}`"),
                &suggest::key(name),
            );
        };
        let items = value
            .get_ref()
            .as_array()
            .into_iter()
            .flat_map(|items| items.iter().map(Spanned::span))
            .collect();
        self.set(
            row,
            Some(plain(value.get_ref())),
            Layer::File(Spans { key, value: value.span(), items }),
        );
    }

    fn variables(&mut self, environment: &BTreeMap<String, String>) {
        let ours = |name: &str| {
            name.starts_with(VARIABLE_PREFIX) && name != SECRET_VARIABLE && name != FILE_VARIABLE
        };
        for (name, raw) in environment.iter().filter(|(name, _)| ours(name)) {
            match settings::rows().find(|row| row.variable() == *name) {
                Some(row) => {
                    self.set(row, (row.shape)().of_bare(raw), Layer::Variable(name.clone()))
                }
                None if is_service_link(name, raw) => {}
                None => self
                    .diagnostics
                    .unknown(&format!("unknown variable `{name}`"), &suggest::variable(name)),
            }
        }
    }

    /// `--set` and `--environment`.
    fn flags(&mut self, flags: &Flags) {
        for set in &flags.set {
            self.assignment(set);
        }
        if let (Some(name), Some(row)) = (&flags.environment, find("environment")) {
            self.set(row, Some(name.as_str().into()), Layer::Flag("--environment"));
        }
    }

    /// One `--set KEY=VALUE`. Errors name the key only: the value may be a secret in the wrong
    /// place.
    fn assignment(&mut self, text: &str) {
        let Some((name, raw)) = text.split_once('=') else {
            return self.diagnostics.unknown(
                "`--set` needs KEY=VALUE",
                "write for example: --set listen.api=127.0.0.1:0",
            );
        };
        let (name, raw) = (name.trim(), raw.trim());
        match find(name) {
            Some(row) => {
                let shape = (row.shape)();
                // As TOML if that fits the key, else as bare text: shells eat quotes.
                let value =
                    parse(raw).filter(|value| shape.accepts(value)).or_else(|| shape.of_bare(raw));
                self.set(row, value, Layer::Flag("--set"));
            }
            None => self
                .diagnostics
                .unknown(&format!("`--set {name}`: unknown key"), &suggest::key(name)),
        }
    }
}

/// The variables that a cluster sets in every container for a service called `pleo-proxy` (or
/// `pleo-proxy-...`), and that are none of ours.
pub(super) fn service_links(environment: &BTreeMap<String, String>) -> Vec<String> {
    let unknown = |name: &str| !settings::rows().any(|row| row.variable() == name);
    let links =
        environment.iter().filter(|(name, value)| unknown(name) && is_service_link(name, value));
    links.map(|(name, _)| name.clone()).collect()
}

/// The forms of the Kubernetes documentation ("Service environment variables") and of Docker's
/// links before them.
fn is_service_link(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return false };
    let is_own = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    // A service with a longer name. What looks like a mistyped key stays an error.
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |after: &str| after.starts_with(|first: char| first.is_ascii_digit());
    let is_longer = rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.split_once("_PORT_").is_some_and(|(_, after)| is_port(after));
    is_own || is_longer || (rest.ends_with("_PORT") && is_address)
}

/// Reads settings as what they mean; a bad one becomes a diagnostic, and its default is used to go
/// on.
pub(super) struct Reader<'a> {
    pub(super) layers: Layers,
    pub(super) source: Option<&'a Source>,
    pub(super) working_dir: &'a Path,
    pub(super) diagnostics: Diagnostics<'a>,
}

impl Reader<'_> {
    pub(super) fn get<T>(&mut self, name: &str, kind: &impl Kind<T>) -> T {
        let Setting { value, layer } = self.layers.get(name);
        kind.read(&value, &self.base(&layer)).unwrap_or_else(|invalid| {
            self.invalid(name, &invalid);
            let default = kind.read(self.layers.default(name), self.working_dir);
            default.map_err(|invalid| invalid.problem).expect("built-in defaults are valid")
        })
    }

    /// The same without saying what is wrong with it.
    pub(super) fn peek<T>(&self, name: &str, kind: &impl Kind<T>) -> Option<T> {
        kind.read(&self.layers.get(name).value, self.working_dir).ok()
    }

    /// Says what is wrong with the value of a setting.
    pub(super) fn invalid(&mut self, name: &str, invalid: &InvalidValue) {
        let row = find(name).expect("only names from the table of settings are asked for");
        self.diagnostics.invalid(row, &self.layers.get(name).layer, invalid);
    }

    /// What a relative path starts at.
    fn base(&self, layer: &Layer) -> PathBuf {
        match (layer, self.source) {
            (Layer::File(_), Some(source)) => {
                source.path.parent().unwrap_or(Path::new("")).to_owned()
            }
            _ => self.working_dir.to_owned(),
        }
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        match (self.layers.get(name).layer, self.source) {
            (Layer::File(spans), Some(source)) => {
                Origin::File { path: source.path.clone(), line: source.position(spans.key.start).0 }
            }
            (Layer::Variable(name), _) => Origin::Variable(name),
            (Layer::Flag(_), _) => Origin::Flag,
            (Layer::Default | Layer::File(_), _) => Origin::Default,
        }
    }
}
