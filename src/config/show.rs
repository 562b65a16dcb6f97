//! `config show`: the configuration in effect, as TOML.

use std::collections::BTreeMap;

use serde_json::json;
use toml::Value;

use super::inputs::{CREDENTIALS_FOLDER, Origin, STORE_KEY_VARIABLE, STORE_URL_VARIABLE};
use super::settings::{Config, TABLE};
use super::table::{DefaultValue, Row};
use crate::diagnostic::{Diagnostic, one_line};
use crate::oauth::SecretSource;
use crate::outbound::ProxyChoice;
use crate::redaction::Redactor;
use crate::store::{KeySource, UrlSource};

/// How a setting is shown.
enum Shown {
    /// The value in effect, which could be read again.
    Value(Value),
    /// A comment: not set, or not to be written in a file.
    Comment(String),
}

/// `config show`: the configuration as a valid `proxy.toml` with the origin of each value,
/// without secrets.
pub fn show(config: &Config) -> String {
    let mut text = match &config.file {
        Some(file) => format!("# from {}\n", one_line(&file.display().to_string())),
        None => "# no configuration file found\n".to_owned(),
    };
    let mut heading = None;
    for (name, row, value) in settings(config) {
        let own = name.rsplit_once('.').map(|(heading, _)| heading.to_owned());
        if own != heading {
            text += &own.as_ref().map(|name| format!("\n[{name}]\n")).unwrap_or_default();
            heading = own;
        }
        text += &line(config, &name, row, value);
    }
    text + &outside(config)
}

/// `config show --json`: each setting with its value and origin, or with a remark if it is shown
/// as a comment, without secrets.
pub fn show_json(config: &Config) -> serde_json::Value {
    let setting = |(name, row, value): (String, &Row, Value)| {
        let origin = origin(config, &name);
        let shown = match shown(config, &name, row, value) {
            Shown::Value(value) => json!({"value": value, "origin": origin}),
            Shown::Comment(remark) => json!({"value": null, "remark": remark, "origin": origin}),
        };
        (name, shown)
    };
    let settings: serde_json::Map<_, _> = settings(config).into_iter().map(setting).collect();
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let warnings: Vec<_> = config.warnings.iter().map(Diagnostic::sentence).collect();
    json!({"version": 1, "file": file, "settings": settings, "warnings": warnings})
}

/// The settings that the file and the defaults have set, as they are shown. Whoever reads the same
/// file again can tell what has changed in it since.
pub fn of_file(config: &Config) -> BTreeMap<String, String> {
    let has_file_secret = !config.origins.contains_key("client.secret");
    let is_of_file = |(name, ..): &(String, &Row, Value)| match config.origins.get(name) {
        _ if name == "client.secret_file" => has_file_secret,
        Some(Origin::Default | Origin::File { .. }) => true,
        Some(Origin::Variable(_) | Origin::Flag) | None => false,
    };
    let shown = |(name, row, value): (String, &Row, Value)| {
        let text = match shown(config, &name, row, value) {
            Shown::Value(value) => value.to_string(),
            Shown::Comment(text) => text,
        };
        (name, text)
    };
    settings(config).into_iter().filter(is_of_file).map(shown).collect()
}

/// All settings by their full names, in the order of `proxy.toml`.
pub(super) fn settings(config: &Config) -> Vec<(String, &'static Row, Value)> {
    let with_row = |(name, value): (String, Value)| (name.clone(), TABLE.row(&name), value);
    let mut settings: Vec<_> = config.values().into_iter().map(with_row).collect();
    let sections = TABLE.sections();
    // Table by table, where a section has several.
    settings.sort_by_key(|(name, row, _)| {
        let section = sections.iter().position(|section| row.section() == Some(section));
        (section, name.rsplit_once('.').map(|(heading, _)| heading.to_owned()))
    });
    settings
}

fn origin(config: &Config, name: &str) -> String {
    config.origins.get(name).map(ToString::to_string).unwrap_or_default()
}

fn line(config: &Config, name: &str, row: &Row, value: Value) -> String {
    let is_cut = name == "upstream.proxy" && config.outbound.proxy.has_password();
    let remark = if is_cut { "user and password are not shown; " } else { "" };
    match shown(config, name, row, value) {
        Shown::Value(value) => {
            format!("{} = {value}  # {remark}{}\n", row.short(), origin(config, name))
        }
        Shown::Comment(comment) => format!("# {}: {comment}\n", row.short()),
    }
}

fn shown(config: &Config, name: &str, row: &Row, value: Value) -> Shown {
    let is_by_default = config.origins.get(name) == Some(&Origin::Default);
    let is_unset = value.as_str() == Some("");
    match row.default {
        _ if name == "client.secret_file" => shown_secret(config, value),
        _ if name == "store.key_file" => shown_store_keys(config, value),
        _ if name == "store.url_file" => shown_store_url(config, value),
        _ if name == "store.path" => {
            let folder = config.state_root.as_ref().map(|folder| folder.display().to_string());
            Shown::Value(folder.unwrap_or_default().into())
        }
        // In a file, they would mean an external sandbox.
        DefaultValue::ByEnvironment(_) if config.embedded_sandbox && is_by_default => {
            Shown::Comment(format!("{} (embedded sandbox)", value.as_str().unwrap_or_default()))
        }
        DefaultValue::Unset(_) if is_unset => Shown::Comment("not set".to_owned()),
        _ if row.section() == Some("hooks") => Shown::Value(without_secrets(value)),
        _ => Shown::Value(value),
    }
}

/// A command as it is shown: somebody may have written a secret into it.
fn without_secrets(command: Value) -> Value {
    let shown = command.as_str().map(|text| Redactor::default().text(text).into_owned());
    shown.map_or(command, Value::from)
}

fn shown_secret(config: &Config, file: Value) -> Shown {
    let origin = config.origins.get("client.secret");
    Shown::Comment(match (&config.oauth.client_secret, origin) {
        (SecretSource::None, _) => "the client secret is not set".to_owned(),
        (SecretSource::Value(_), Some(origin)) => format!("the client secret is set by {origin}"),
        (SecretSource::Value(_), None) => "the client secret is set".to_owned(),
        (SecretSource::File(path), Some(origin)) => {
            let path = one_line(&path.display().to_string());
            format!("the client secret is set by the credential {path} ({origin})")
        }
        (SecretSource::File(_), None) => return Shown::Value(file),
    })
}

/// What the keys of the store come from: a setting or a variable.
pub fn store_key_origin(config: &Config) -> &'static str {
    match config.store.keys {
        KeySource::Value(_) => STORE_KEY_VARIABLE,
        KeySource::File(_) | KeySource::Credential(_) | KeySource::None => "store.key_file",
    }
}

fn shown_store_keys(config: &Config, file: Value) -> Shown {
    match &config.store.keys {
        KeySource::None => Shown::Comment("not set".to_owned()),
        KeySource::Credential(path) => {
            let path = one_line(&path.display().to_string());
            Shown::Comment(format!(
                "the keys are set by the credential {path} ({CREDENTIALS_FOLDER})"
            ))
        }
        KeySource::File(_) => Shown::Value(file),
        KeySource::Value(_) => {
            Shown::Comment(format!("the keys are set by variable {STORE_KEY_VARIABLE}"))
        }
    }
}

fn shown_store_url(config: &Config, file: Value) -> Shown {
    match (&config.database.url, config.origins.get("store.url")) {
        (UrlSource::None, _) => Shown::Comment("not set".to_owned()),
        (UrlSource::Value(_), _) => {
            Shown::Comment(format!("the URL is set by variable {STORE_URL_VARIABLE}"))
        }
        (UrlSource::File(path), Some(origin)) => {
            let path = one_line(&path.display().to_string());
            Shown::Comment(format!("the URL is set by the credential {path} ({origin})"))
        }
        (UrlSource::File(_), None) => Shown::Value(file),
    }
}

/// Settings outside the file that affect where credentials go.
fn outside(config: &Config) -> String {
    let mut text = "\n# Outbound proxy variables".to_owned();
    text += match config.outbound.proxy {
        ProxyChoice::Env => {
            ", in effect (user and password are not shown; never used for loopback):\n"
        }
        ProxyChoice::Off | ProxyChoice::Url(_) => ", not used:\n",
    };
    let mut variables = config.outbound.variables.shown().peekable();
    if variables.peek().is_none() {
        text += "#   none is set\n";
    }
    variables.for_each(|(name, value)| text += &format!("#   {name} = {}\n", one_line(&value)));
    let ca_file =
        config.outbound.ca_file.as_ref().map(|path| one_line(&path.display().to_string()));
    text + &format!("# Extra trust root: {}\n", ca_file.as_deref().unwrap_or("none"))
}
