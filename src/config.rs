//! Configuration: the only reader of configuration files and of the environment.
//!
//! [`load`] takes files, a map of variables and flags, so nothing else in the program (and no test)
//! reads the environment of the process. There are four layers, each overriding the ones before:
//! built-in defaults, one file, variables, flags. All settings are rows of one [table](rows), and
//! each part takes its own settings from [`Config`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

mod check;
mod diagnostics;
mod file;
mod kinds;
mod layers;
mod settings;
mod show;
mod source;
mod suggest;

pub use crate::oauth::{ClientAuth, SecretSource};
use crate::outbound::{self, ProxyVariables};
use crate::private_file::{self, PrivateFileError, text};
use crate::proxy::guard;
use crate::proxy::peer::Peers;
use crate::secret::{ClientSecret, LocalKey};
use crate::server;
pub use diagnostics::{Code, ConfigError, Diagnostic, Place, Severity};
use diagnostics::{Diagnostics, InvalidValue};
use file::{ConfigFile, xdg_folder};
use layers::{Layer, Reader};
pub use settings::{Callers, Config, DefaultValue, General, Listen, Login, Row, Store, rows};

/// Holds the client secret, for use without a file.
pub(crate) const SECRET_VARIABLE: &str = "PLEO_PROXY_CLIENT_SECRET";
/// Names the file, like `--config`.
const FILE_VARIABLE: &str = "PLEO_PROXY_CONFIG";
/// The variable that names systemd's folder of credentials, and the name of ours in it.
const CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "client-secret");
/// Our folder below the XDG folders.
const FOLDER: &str = "pleo-proxy";
/// Largest file of a client secret or key, in bytes.
const SECRET_LIMIT: u64 = 16 * 1024;
/// The endpoints that must be set together in the sandbox.
const CORE: [&str; 3] = ["endpoints.authorize", "endpoints.token", "endpoints.api"];

/// The flags that affect the configuration.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--environment NAME`.
    pub environment: Option<String>,
    /// Every `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
    /// Base of relative paths in flags and variables, and the first place to look for `proxy.toml`.
    pub working_dir: PathBuf,
}

/// A set of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Environment {
    /// An imitation of Pleo on this machine.
    Sandbox,
    /// Pleo's own test system.
    Staging,
    /// Pleo itself.
    Production,
}

impl Environment {
    /// The name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The origins of its authorization server and of its API.
    fn origins(self) -> (&'static str, &'static str) {
        match self {
            Self::Sandbox => ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
            Self::Staging => ("https://auth.staging.pleo.io", "https://external.staging.pleo.io"),
            Self::Production => ("https://auth.pleo.io", "https://external.pleo.io"),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in, or set by the environment.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// A variable of this name.
    Variable(String),
    /// `--set` or `--environment`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => {
                write!(f, "{}:{line}", one_line(&path.display().to_string()))
            }
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Reads the file, applies variables and flags, and checks everything.
///
/// # Errors
/// All problems found.
pub fn load(flags: &Flags, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let file = file::find(flags, environment)?;
    let source = file.as_ref().map(|file| &file.source);
    let mut reader = Reader::new(source, environment, flags)?;
    let embedded_sandbox = endpoint_defaults(&mut reader);
    let mut config = Config::read(&mut reader);
    config.file = source.map(|source| source.path.clone());
    config.embedded_sandbox = embedded_sandbox;
    let names = config.settings().into_iter().map(|(name, ..)| name);
    config.origins = names.map(|name| (name.clone(), reader.origin(&name))).collect();
    config.outbound.variables = ProxyVariables::of(environment);
    config.warnings = warnings(environment);
    config.take_secret(environment, &mut reader);
    config.find_state_root(environment, &mut reader);
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
        reader.invalid(first, &InvalidValue::new(problem));
    }
    false
}

fn warnings(environment: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let links = layers::service_links(environment).join(", ");
    let title = format!(
        "{links}: ignored, because a cluster sets such variables for a service of this name"
    );
    (!links.is_empty()).then(|| Diagnostic::warning(title, "")).into_iter().collect()
}

impl Config {
    /// The environment in effect.
    pub fn environment(&self) -> Environment {
        self.general.environment
    }

    /// Takes the secret from a flag's file, the variable, the configured file or a credential, in
    /// that order.
    fn take_secret(&mut self, environment: &BTreeMap<String, String>, reader: &mut Reader<'_>) {
        let layer = reader.layers.get("client.secret_file").layer;
        let is_file = matches!(self.oauth.client_secret, SecretSource::File(_));
        let came_from = match (environment.get(SECRET_VARIABLE), layer) {
            (Some(_), Layer::Flag(_)) if is_file => return,
            (Some(secret), layer) => {
                if let (true, Layer::Variable(name)) = (is_file, layer) {
                    let title = format!("{SECRET_VARIABLE} and {name} are both set");
                    reader.diagnostics.push(Diagnostic::error(
                        Code::Conflict,
                        title,
                        "set one of them",
                    ));
                }
                self.oauth.client_secret = secret_variable(secret, &mut reader.diagnostics);
                SECRET_VARIABLE
            }
            (None, _) => match credential(environment).filter(|_| !is_file) {
                Some(path) => {
                    self.oauth.client_secret = SecretSource::File(path);
                    CREDENTIALS.0
                }
                None => return,
            },
        };
        self.origins.insert("client.secret".to_owned(), Origin::Variable(came_from.to_owned()));
    }

    fn find_state_root(&mut self, environment: &BTreeMap<String, String>, reader: &mut Reader<'_>) {
        let xdg = || xdg_folder(environment, "XDG_STATE_HOME", ".local/state");
        self.state_root = self.store.path.clone().or_else(xdg);
        if self.state_root.is_none() && self.environment() != Environment::Sandbox {
            let title =
                "the store has no folder: `store.path`, XDG_STATE_HOME and HOME are not set";
            let fix = "write for example, below [store]: path = \"/var/lib/pleo-proxy\"";
            reader.diagnostics.push(Diagnostic::error(Code::Missing, title, fix));
        }
    }

    /// Settings of the outbound connections, with the servers they go to.
    pub fn outbound(&self) -> outbound::Settings {
        let oauth = &self.oauth;
        let introspect = oauth.introspect.as_ref().map(|endpoint| endpoint.origin());
        let called: Vec<_> =
            [oauth.token.origin(), oauth.api.clone()].into_iter().chain(introspect).collect();
        outbound::Settings {
            plain_only: called.iter().all(|origin| !origin.tls) && !oauth.authorize.origin().tls,
            destinations: called.into_iter().map(|origin| (origin.host, origin.port)).collect(),
            ..self.outbound.clone()
        }
    }

    /// Settings of the guard, with the local key from its file.
    ///
    /// # Errors
    /// The key's file is not private or cannot be read.
    pub fn guard(&self) -> Result<guard::Settings, PrivateFileError> {
        let path = self.callers.local_key_file.as_deref();
        let key =
            path.map(|path| Ok(LocalKey::new(private_file::read_text(path, SECRET_LIMIT)?.trim())));
        Ok(guard::Settings { local_key: key.transpose()?, ..self.guard.clone() })
    }

    /// Settings of the server.
    pub fn server(&self) -> server::Settings {
        server::Settings {
            api: self.listen.api.clone(),
            admin: self.listen.admin,
            max_connections: self.listen.max_connections,
            peers: Peers::new(self.callers.peer_check.allowed()),
            idle_timeout: self.upstream.idle_timeout,
        }
    }

    /// The environment's state folder: records, `admin.key` and `run/`. `None` if no home is known
    /// (sandbox only).
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_folder_of(self.environment())
    }

    /// The state folder of any environment.
    pub fn state_folder_of(&self, environment: Environment) -> Option<PathBuf> {
        self.state_root.as_ref().map(|root| root.join(environment.as_str()))
    }
}

fn secret_variable(secret: &str, diagnostics: &mut Diagnostics<'_>) -> SecretSource {
    // As from a file: `$(cat client-secret)` keeps a byte order mark and the CR of a CRLF.
    let secret = text::without_mark(secret).trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.chars().any(char::is_control) {
        let title = format!("{SECRET_VARIABLE} is empty or contains control characters");
        let fix = "unset it, or set it to the client secret alone, without a line break";
        diagnostics.push(Diagnostic::error(Code::InvalidValue, title, fix));
    }
    SecretSource::Value(ClientSecret::new(secret))
}

fn credential(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let (variable, name) = CREDENTIALS;
    let folder = environment.get(variable).filter(|folder| !folder.is_empty())?;
    let path = Path::new(folder).join(name);
    fs::symlink_metadata(&path).is_ok().then_some(path)
}

/// Untrusted text, safe to print on one line of a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
