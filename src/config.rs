//! Configuration: the only reader of configuration files and of the environment.
//!
//! [`load`] takes files, a map of variables and flags, so nothing else in the program (and no test)
//! reads the environment of the process. There are four layers, each overriding the ones before:
//! built-in defaults, one file, variables, flags. All settings are rows of one [table](rows), and
//! each part takes its own settings from [`Config`].

use std::fs;
use std::path::{Path, PathBuf};

mod check;
mod collector;
mod document;
mod environment;
mod error;
mod file;
mod inputs;
mod kinds;
mod layers;
mod settings;
mod shape;
mod show;
mod source;
mod suggest;
mod table;

pub use crate::diagnostic::{Code, Diagnostic, Place, Severity};
use crate::hooks::HookCommand;
pub use crate::oauth::{ClientAuth, SecretSource};
use crate::outbound::ProxyVariables;
use crate::private_file::text;
use crate::secret::{ClientSecret, DatabaseSecret, StoreKey};
use crate::store::{KeySource, UrlSource};
pub use check::{check, oddities};
use collector::Diagnostics;
pub use document::document;
pub use environment::Environment;
pub use error::ConfigError;
use file::{ConfigFile, xdg_folder};
pub(crate) use inputs::{
    ACCOUNT_VARIABLE, BASE_URL_VARIABLE, CREDENTIALS_FOLDER, EXEC_VARIABLE, FILE_VARIABLE,
    KEY_VARIABLE, SECRET_VARIABLE, STORE_KEY_VARIABLE, STORE_URL_VARIABLE, VARIABLE_PREFIX,
};
pub use inputs::{Flags, Origin};
use inputs::{Layer, Variables};
pub use kinds::duration;
use layers::Reader;
use settings::TABLE;
pub use settings::{Account, Callers, Config, General, Listen, Login, Store, rows};
pub use show::{of_file, show, show_json, store_key_origin};
pub use table::{DefaultValue, Row};

/// The names of ours in systemd's folder of credentials.
const SECRET_CREDENTIAL: &str = "client-secret";
const STORE_KEY_CREDENTIAL: &str = "store-key";
const STORE_URL_CREDENTIAL: &str = "store-url";
/// The endpoints that must be set together in the sandbox.
const CORE: [&str; 3] = ["endpoints.authorize", "endpoints.token", "endpoints.api"];

/// Reads the file, applies variables and flags, and checks everything.
///
/// # Errors
/// All problems found.
pub fn load(flags: &Flags, environment: &Variables) -> Result<Config, ConfigError> {
    load_with(file::find(flags, environment)?, flags, environment)
}

/// The same without any file.
///
/// # Errors
/// All problems found.
pub fn load_flags(flags: &Flags, environment: &Variables) -> Result<Config, ConfigError> {
    load_with(None, flags, environment)
}

fn load_with(
    file: Option<ConfigFile>,
    flags: &Flags,
    environment: &Variables,
) -> Result<Config, ConfigError> {
    let source = file.as_ref().map(|file| &file.source);
    let mut reader = Reader::new(&TABLE, source, environment, flags)?;
    let embedded_sandbox = endpoint_defaults(&mut reader);
    let mut config = Config::read(&mut reader);
    config.file = source.map(|source| source.path.clone());
    config.is_usual_file = config.file.is_some() && config.file == file::usual(environment);
    config.embedded_sandbox = embedded_sandbox;
    let names = config.values().into_iter().map(|(name, _)| name);
    config.origins = names.map(|name| (name.clone(), reader.origin(&name))).collect();
    config.outbound.variables = ProxyVariables::of(environment);
    config.warnings = warnings(&reader.service_links);
    config.warnings.extend(hook_warnings(&config, &flags.working_dir, environment));
    take_secrets(&mut config, environment, &mut reader);
    find_state_root(&mut config, environment, &mut reader);
    if reader.diagnostics.is_empty() {
        check::together(&config, &mut reader);
    }
    if !reader.diagnostics.is_empty() {
        return Err(reader.diagnostics.into_error());
    }
    let shared = file.as_ref().filter(|_| config.environment() != Environment::Sandbox);
    match shared.and_then(ConfigFile::group_writable) {
        Some(error) => Err(error.into()),
        None => Ok(config),
    }
}

/// Fills in the endpoints of the environment. True if `serve` starts the sandbox itself.
fn endpoint_defaults(reader: &mut Reader<'_>) -> bool {
    // A bad value is reported when the rows are read.
    let environment = reader.peek("environment", &kinds::Word).unwrap_or(Environment::Sandbox);
    let is_sandbox = environment == Environment::Sandbox;
    let (auth, api) = environment.origins();
    reader.layers.set_default("endpoints.authorize", format!("{auth}/oauth/authorize"));
    reader.layers.set_default("endpoints.token", format!("{auth}/oauth/token"));
    reader.layers.set_default("endpoints.introspect", format!("{auth}/oauth/token/introspect"));
    reader.layers.set_default("endpoints.api", api.to_owned());
    let (given, missing): (Vec<&str>, Vec<&str>) =
        CORE.iter().partition(|name| reader.layers.is_given(name));
    let Some(first) = given.first().filter(|_| is_sandbox) else { return is_sandbox };
    reader.layers.set_default("endpoints.introspect", String::new());
    // With only some of them set, tokens of our sandbox would go to another server.
    if !missing.is_empty() {
        let problem = format!(
            "is not enough: in the sandbox, {} must be set too; set all three of authorize, token and api, or \
             none of them, or choose another environment",
            missing.join(" and ")
        );
        reader.invalid(first, problem);
    }
    false
}

fn warnings(service_links: &[String]) -> Vec<Diagnostic> {
    let links = service_links.join(", ");
    let title = format!(
        "{links}: ignored, because a cluster sets such variables for a service of this name"
    );
    let warning = || Diagnostic::warning(Code::Oddity, title, "");
    (!links.is_empty()).then(warning).into_iter().collect()
}

/// Hooks run long after the start, so a program that is missing is said beforehand.
fn hook_warnings(config: &Config, working_dir: &Path, environment: &Variables) -> Vec<Diagnostic> {
    let folder = config.file.as_deref().and_then(Path::parent).unwrap_or(working_dir);
    let path = environment.get("PATH").map(String::as_str);
    let warning = |(name, hook): (&str, Option<&HookCommand>)| {
        let why = hook?.problem(folder, path)?;
        let fix = "correct the command; it runs by `sh -c` in the folder of the configuration file";
        Some(Diagnostic::warning(Code::Oddity, format!("`{name}` cannot run: {why}"), fix))
    };
    config.hooks.all().into_iter().filter_map(warning).collect()
}

/// A secret that a variable or a service manager gives, in place of the file that a setting names.
struct Given {
    /// What it is, as `config show` names it.
    name: &'static str,
    variable: &'static str,
    credential: &'static str,
    setting: &'static str,
    is_file: bool,
}

enum Found<'a> {
    Variable(&'a str),
    Credential(PathBuf),
}

impl Given {
    /// Puts it in the place of the file, if there is one, and notes where it came from.
    fn take(
        self,
        config: &mut Config,
        environment: &Variables,
        reader: &mut Reader<'_>,
        put: impl FnOnce(&mut Config, Found<'_>, &mut Diagnostics<'_>),
    ) {
        let Some(found) = self.find(environment, reader) else { return };
        let came_from = match &found {
            Found::Variable(_) => self.variable,
            Found::Credential(_) => CREDENTIALS_FOLDER,
        };
        config.origins.insert(self.name.to_owned(), Origin::Variable(came_from.to_owned()));
        put(config, found, &mut reader.diagnostics);
    }

    /// A flag's file comes first, then the variable, the configured file, the credential.
    fn find<'a>(&self, environment: &'a Variables, reader: &mut Reader<'_>) -> Option<Found<'a>> {
        let layer = reader.layers.get(self.setting).layer;
        match (environment.get(self.variable), layer) {
            (Some(_), Layer::Flag(_)) if self.is_file => None,
            (Some(secret), layer) => {
                if let (true, Layer::Variable(name)) = (self.is_file, layer) {
                    let title = format!("{} and {name} are both set", self.variable);
                    reader.diagnostics.error(Code::Conflict, title, "set one of them");
                }
                Some(Found::Variable(secret))
            }
            (None, _) if self.is_file => None,
            (None, _) => credential(environment, self.credential).map(Found::Credential),
        }
    }
}

/// Secrets that do not come from a file which the settings name.
fn take_secrets(config: &mut Config, environment: &Variables, reader: &mut Reader<'_>) {
    let secret = Given {
        name: "client.secret",
        variable: SECRET_VARIABLE,
        credential: SECRET_CREDENTIAL,
        setting: "client.secret_file",
        is_file: matches!(config.oauth.client_secret, SecretSource::File(_)),
    };
    secret.take(config, environment, reader, |config, found, diagnostics| {
        config.oauth.client_secret = match found {
            Found::Variable(secret) => secret_variable(secret, diagnostics),
            Found::Credential(path) => SecretSource::File(path),
        };
    });
    let keys = Given {
        name: "store.key",
        variable: STORE_KEY_VARIABLE,
        credential: STORE_KEY_CREDENTIAL,
        setting: "store.key_file",
        is_file: matches!(config.store.keys, KeySource::File(_)),
    };
    keys.take(config, environment, reader, |config, found, _| {
        config.store.keys = match found {
            Found::Variable(keys) => KeySource::Value(StoreKey::new(text::without_mark(keys))),
            Found::Credential(path) => KeySource::Credential(path),
        };
    });
    let url = Given {
        name: "store.url",
        variable: STORE_URL_VARIABLE,
        credential: STORE_URL_CREDENTIAL,
        setting: "store.url_file",
        is_file: matches!(config.database.url, UrlSource::File(_)),
    };
    url.take(config, environment, reader, |config, found, _| {
        config.database.url = match found {
            Found::Variable(url) => UrlSource::Value(DatabaseSecret::new(text::without_mark(url))),
            Found::Credential(path) => UrlSource::File(path),
        };
    });
}

fn find_state_root(config: &mut Config, environment: &Variables, reader: &mut Reader<'_>) {
    config.default_root = xdg_folder(environment, "XDG_STATE_HOME", ".local/state");
    config.state_root = config.store.path.clone().or_else(|| config.default_root.clone());
    if config.state_root.is_none() && config.environment() != Environment::Sandbox {
        let title = "the store has no folder: `store.path`, XDG_STATE_HOME and HOME are not set";
        let fix = "write for example, below [store]: path = \"/var/lib/pleo-proxy\"";
        reader.diagnostics.error(Code::Missing, title, fix);
    }
}

fn secret_variable(secret: &str, diagnostics: &mut Diagnostics<'_>) -> SecretSource {
    // As from a file: `$(cat client-secret)` keeps a byte order mark and the CR of a CRLF.
    let secret = text::without_mark(secret).trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.chars().any(char::is_control) {
        let title = format!("{SECRET_VARIABLE} is empty or contains control characters");
        let fix = "unset it, or set it to the client secret alone, without a line break";
        diagnostics.error(Code::InvalidValue, title, fix);
    }
    SecretSource::Value(ClientSecret::new(secret))
}

fn credential(environment: &Variables, name: &str) -> Option<PathBuf> {
    let folder = environment.get(CREDENTIALS_FOLDER).filter(|folder| !folder.is_empty())?;
    let path = Path::new(folder).join(name);
    fs::symlink_metadata(&path).is_ok().then_some(path)
}
