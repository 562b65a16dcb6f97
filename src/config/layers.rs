//! The layers of settings: defaults, the file, variables, flags. A later layer overrides the ones
//! before.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::collector::Diagnostics;
use super::error::{ConfigError, InvalidValue};
use super::inputs::{
    EXEC_VARIABLE, FILE_VARIABLE, Flags, KEY_VARIABLE, Layer, Origin, SECRET_VARIABLE,
    STORE_KEY_VARIABLE, STORE_URL_VARIABLE, Spans, VARIABLE_PREFIX, Variables,
};
use super::kinds::Kind;
use super::source::Source;
use super::suggest;
use super::table::{Row, Table};
// What a hook was told: it may run this program.
use crate::hooks::VARIABLES;

/// Variables of ours that are no settings.
const OTHER_VARIABLES: [&str; 6] = [
    SECRET_VARIABLE,
    STORE_KEY_VARIABLE,
    STORE_URL_VARIABLE,
    FILE_VARIABLE,
    EXEC_VARIABLE,
    KEY_VARIABLE,
];

/// A raw value and its layer. No `Debug`: a proxy URL may hold a password.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: Value,
    pub(super) layer: Layer,
}

/// All settings by their full names.
pub(super) struct Layers {
    table: &'static Table,
    defaults: BTreeMap<&'static str, Value>,
    given: BTreeMap<String, Setting>,
    /// Tables with free names, such as `accounts.acme`, with or without keys.
    tables: BTreeMap<String, Layer>,
}

impl Layers {
    fn new(table: &'static Table) -> Self {
        // Without a default, it is not set.
        let default = |row: &Row| {
            (row.name, row.fixed_default().and_then(parse).unwrap_or_else(|| "".into()))
        };
        let defaults = table.rows().map(default).collect();
        Self { table, defaults, given: BTreeMap::new(), tables: BTreeMap::new() }
    }

    /// Replaces a default, for those that depend on the environment.
    pub(super) fn set_default(&mut self, name: &'static str, text: String) {
        self.defaults.insert(name, text.into());
    }

    fn default(&self, name: &str) -> &Value {
        self.defaults.get(self.table.row(name).name).expect("each row has a default")
    }

    pub(super) fn get(&self, name: &str) -> Setting {
        let default = || Setting { value: self.default(name).clone(), layer: Layer::Default };
        self.given.get(name).cloned().unwrap_or_else(default)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }
}

fn parse(text: &str) -> Option<Value> {
    DeValue::parse(text).ok().map(|value| plain(value.get_ref()))
}

/// A value without its places in the file. Types that no setting accepts lose their value.
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

/// Collects the layers, then reads each setting as its type. A bad value becomes a diagnostic, and
/// reading goes on with the default.
pub(super) struct Reader<'a> {
    table: &'static Table,
    pub(super) layers: Layers,
    working_dir: &'a Path,
    pub(super) diagnostics: Diagnostics<'a>,
    /// The variables that a cluster sets in every container for a service called `pleo-proxy` or
    /// `pleo-proxy-...`.
    pub(super) service_links: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Reads all layers; unknown names and wrong types become diagnostics.
    ///
    /// # Errors
    /// The file is not TOML, and nothing more can be said about it.
    pub(super) fn new(
        table: &'static Table,
        source: Option<&'a Source>,
        environment: &Variables,
        flags: &'a Flags,
    ) -> Result<Self, ConfigError> {
        let mut reader = Self {
            table,
            layers: Layers::new(table),
            working_dir: &flags.working_dir,
            diagnostics: Diagnostics::new(source, table),
            service_links: Vec::new(),
        };
        if let Some(source) = source {
            reader.file(source)?;
        }
        reader.variables(environment);
        reader.flags(flags);
        Ok(reader)
    }

    /// Stores a value if it has the shape of its setting; `None` could not even be read.
    fn set(&mut self, name: &str, row: &Row, value: Option<Value>, layer: Layer) {
        let shape = (row.shape)();
        match value.filter(|value| shape.accepts(value)) {
            Some(value) => {
                if let Some((table, _)) = name.rsplit_once('.').filter(|_| row.name != name) {
                    self.layers.tables.entry(table.to_owned()).or_insert_with(|| layer.clone());
                }
                self.layers.given.insert(name.to_owned(), Setting { value, layer });
            }
            None => {
                self.diagnostics.invalid(name, row, &layer, &shape.expected().into());
            }
        }
    }

    fn file(&mut self, source: &Source) -> Result<(), ConfigError> {
        let table = DeTable::parse(&source.text).map_err(|error| {
            let mut diagnostics = Diagnostics::new(Some(source), self.table);
            diagnostics.syntax(error.span().unwrap_or(0..0), error.message());
            diagnostics.into_error()
        })?;
        for (name, value) in table.get_ref() {
            self.top(name.get_ref(), name.span(), value);
        }
        Ok(())
    }

    /// A section or key at the top of the file.
    fn top(&mut self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(tables) if self.table.has_tables(name) => {
                for (table, value) in tables {
                    self.named_table(&format!("{name}.{}", table.get_ref()), table.span(), value);
                }
            }
            DeValue::Table(keys) if self.table.sections().contains(&name) => self.keys(name, keys),
            DeValue::Table(_) if self.table.find(name).is_none() => {
                let title = format!("unknown section `{name}`");
                self.diagnostics.key(span, &title, &suggest::key(name, self.table));
            }
            _ if self.table.sections().contains(&name) => {
                let fix = format!("write [{name}] on a line of its own, its keys below");
                self.diagnostics.key(span, &format!("`{name}` is a section, not a key"), &fix);
            }
            _ => self.entry(name, span, value),
        }
    }

    /// A table with a free name, such as `accounts.acme`.
    fn named_table(&mut self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(keys) = value.get_ref() else {
            let fix = format!("write [{name}] on a line of its own, its keys below");
            return self.diagnostics.key(span, &format!("`{name}` is a table, not a key"), &fix);
        };
        let spans = Spans { key: span.clone(), value: span, items: Vec::new() };
        self.layers.tables.insert(name.to_owned(), Layer::File(spans));
        self.keys(name, keys);
    }

    fn keys(&mut self, heading: &str, keys: &DeTable<'_>) {
        for (key, value) in keys {
            self.entry(&format!("{heading}.{}", key.get_ref()), key.span(), value);
        }
    }

    fn entry(&mut self, name: &str, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        let Some(row) = self.table.find(name) else {
            let title = format!("unknown key `{name}`");
            return self.diagnostics.key(key, &title, &suggest::key(name, self.table));
        };
        let items = value.get_ref().as_array().into_iter().flatten();
        let items = items.map(Spanned::span).collect();
        let layer = Layer::File(Spans { key, value: value.span(), items });
        self.set(name, row, Some(plain(value.get_ref())), layer);
    }

    fn variables(&mut self, environment: &Variables) {
        let is_ours = |name: &str| {
            let is_no_setting = OTHER_VARIABLES.contains(&name) || VARIABLES.contains(&name);
            name.starts_with(VARIABLE_PREFIX) && !is_no_setting
        };
        for (variable, raw) in environment.iter().filter(|(name, _)| is_ours(name)) {
            match self.table.rows().find_map(|row| Some((row.set_by(variable)?, row))) {
                Some((name, row)) => {
                    let layer = Layer::Variable(variable.clone());
                    self.set(&name, row, (row.shape)().of_bare(raw), layer);
                }
                None if is_service_link(variable, raw) => self.service_links.push(variable.clone()),
                None => {
                    let title = format!("unknown variable `{variable}`");
                    self.diagnostics.unknown(&title, &suggest::variable(variable, self.table));
                }
            }
        }
    }

    /// `--set` and `--environment`.
    fn flags(&mut self, flags: &Flags) {
        for set in &flags.set {
            self.assignment(set);
        }
        let name = "environment";
        if let (Some(value), Some(row)) = (&flags.environment, self.table.find(name)) {
            self.set(name, row, Some(value.as_str().into()), Layer::Flag("--environment"));
        }
    }

    /// One `--set KEY=VALUE`. Errors name the key only: the value may be a secret in the wrong
    /// place.
    fn assignment(&mut self, text: &str) {
        let Some((name, raw)) = text.split_once('=') else {
            let fix = "write for example: --set listen.api=127.0.0.1:0";
            return self.diagnostics.unknown("`--set` needs KEY=VALUE", fix);
        };
        let (name, raw) = (name.trim(), raw.trim());
        let Some(row) = self.table.find(name) else {
            let title = format!("`--set {name}`: unknown key");
            return self.diagnostics.unknown(&title, &suggest::key(name, self.table));
        };
        // As TOML if that fits the key, else as bare text: shells remove quotes.
        let shape = (row.shape)();
        let value = parse(raw).filter(|value| shape.accepts(value)).or_else(|| shape.of_bare(raw));
        self.set(name, row, value, Layer::Flag("--set"));
    }

    /// The names of the tables of a section, as written and as what they mean.
    pub(super) fn tables<N: FromStr<Err: Display>>(&mut self, section: &str) -> Vec<(String, N)> {
        let mut named = Vec::new();
        for (heading, layer) in &self.layers.tables {
            let Some((_, name)) = heading.split_once('.').filter(|(own, _)| *own == section) else {
                continue;
            };
            match name.parse() {
                Ok(parsed) => named.push((name.to_owned(), parsed)),
                Err(error) => self.diagnostics.table(heading, layer, &error),
            }
        }
        named
    }

    /// The value of a setting.
    pub(super) fn get<T>(&mut self, name: &str, kind: &impl Kind<T>) -> T {
        let Setting { value, layer } = self.layers.get(name);
        kind.read(&value, self.base(&layer)).unwrap_or_else(|invalid| {
            self.invalid(name, invalid);
            let default = kind.read(self.layers.default(name), self.working_dir);
            default.map_err(|invalid| invalid.problem).expect("built-in defaults are valid")
        })
    }

    /// The same; a bad value is reported when it is read by [`get`](Self::get).
    pub(super) fn peek<T>(&self, name: &str, kind: &impl Kind<T>) -> Option<T> {
        kind.read(&self.layers.get(name).value, self.working_dir).ok()
    }

    /// Reports what is wrong with the value of a setting.
    pub(super) fn invalid(&mut self, name: &str, invalid: impl Into<InvalidValue>) {
        let (row, layer) = (self.table.row(name), self.layers.get(name).layer);
        self.diagnostics.invalid(name, row, &layer, &invalid.into());
    }

    /// The folder that relative paths start at.
    fn base(&self, layer: &Layer) -> &'a Path {
        match (layer, self.diagnostics.source) {
            (Layer::File(_), Some(source)) => source.path.parent().unwrap_or(Path::new("")),
            _ => self.working_dir,
        }
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        match (self.layers.get(name).layer, self.diagnostics.source) {
            (Layer::File(spans), Some(source)) => {
                Origin::File { path: source.path.clone(), line: source.position(spans.key.start).0 }
            }
            (Layer::Variable(name), _) => Origin::Variable(name),
            (Layer::Flag(_), _) => Origin::Flag,
            (Layer::Default | Layer::File(_), _) => Origin::Default,
        }
    }
}

/// The forms of the Kubernetes documentation ("Service environment variables") and of Docker's
/// links before them.
fn is_service_link(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { return false };
    let is_own = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
    // A service with a longer name. Other unknown names are probably mistyped keys.
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |after: &str| after.starts_with(|first: char| first.is_ascii_digit());
    let is_longer = rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || rest.split_once("_PORT_").is_some_and(|(_, after)| is_port(after));
    is_own || is_longer || (rest.ends_with("_PORT") && is_address)
}
