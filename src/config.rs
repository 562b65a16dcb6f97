//! Configuration: the only reader of configuration files and of the environment.
//!
//! [`load`] is a function of files, an environment map and flags, so nothing else in the program (and no test) needs
//! the environment of the process. Four layers, the later wins: built-in defaults, one file, variables, flags.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

mod address;
mod build;
mod check;
mod cross_check;
mod document;
mod file;
mod key;
mod overlay;
mod parse;
mod parts;
mod problem;
mod setting;
mod show;
mod source;

pub use crate::oauth::{ClientAuth, SecretSource};
pub use crate::outbound::KeyExchange;
pub(crate) use key::SECRET_VARIABLE;
pub use problem::ConfigError;

/// The folder that is ours below the XDG folders.
const FOLDER: &str = "pleo-proxy";
/// Larger than any client secret or key in a file.
const SECRET_LIMIT: u64 = 16 * 1024;

/// What the command line contributes.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--environment NAME`.
    pub environment: Option<String>,
    /// Every `--set KEY=VALUE`, in order.
    pub set: Vec<String>,
    /// What relative paths in flags and variables start at, and where `proxy.toml` is looked for.
    pub working_dir: PathBuf,
}

/// Everything that can be configured, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one file that was read.
    pub file: Option<PathBuf>,
    /// Which set of endpoints and stores.
    pub environment: Environment,
    /// The account of requests that name none.
    pub default_account: Option<String>,
    /// Where we listen.
    pub listen: Listen,
    /// Who we are to the authorization server.
    pub client: Client,
    /// Whom we talk to.
    pub endpoints: Endpoints,
    /// When tokens are exchanged.
    pub tokens: Tokens,
    /// Where grants are kept.
    pub store: Store,
    /// Who may call, and what.
    pub guard: Guard,
    /// How we talk to the API.
    pub upstream: Upstream,
    /// Where each key's value came from; also `client.secret` when it came from a variable or a credential.
    pub origins: BTreeMap<&'static str, Origin>,
    /// What is odd and works, from the environment.
    pub warnings: Vec<String>,
}

/// A set of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// The imitation of Pleo on this machine.
    Sandbox,
    /// Pleo's own test system.
    Staging,
    /// The real one.
    Production,
}

impl Environment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sandbox, Self::Staging, Self::Production];

    /// The name as written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// `[listen]`.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The data listener.
    pub api: crate::server::Address,
    /// The admin listener; `None` is "off".
    pub admin: Option<SocketAddr>,
    /// Connections at once; 0 = what the file limit allows.
    pub max_connections: usize,
}

/// `[client]`.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client id from Pleo's onboarding. The parts that need it complain when it is missing.
    pub id: Option<String>,
    /// Where the client secret is.
    pub secret: SecretSource,
    /// What is registered at Pleo; `None` = the admin listener's address + `/callback`.
    pub redirect_uri: Option<Url>,
    /// What a login asks for.
    pub scopes: Vec<String>,
    /// How the client proves itself at the token endpoint.
    pub auth: ClientAuth,
}

/// `[endpoints]`, or what the environment says.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// Where the browser goes.
    pub authorize: Url,
    /// Where codes and refresh tokens are exchanged.
    pub token: Url,
    /// Where a token can be asked about (RFC 7662).
    pub introspect: Option<Url>,
    /// The API's origin.
    pub api: Url,
    /// An extra trust root.
    pub ca_file: Option<PathBuf>,
    /// Nobody configured endpoints: `serve` starts its own sandbox, and these are where it goes by default.
    pub embedded_sandbox: bool,
}

/// `[tokens]`.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// How long an exchange waits for leases.
    pub drain: Duration,
    /// How long a request waits at a closed gate.
    pub hold: Duration,
    /// How long after the last request tokens are still refreshed ahead of time.
    pub keep_warm: Duration,
    /// How often an unused grant is refreshed so that it does not die.
    pub keep_alive: Duration,
}

/// `[store]`.
#[derive(Clone, Debug)]
pub struct Store {
    /// `store.path`; `None` = the XDG state folder.
    pub path: Option<PathBuf>,
    /// The folder in effect. `None` only in the sandbox, when neither `store.path` nor a home is known.
    pub state_root: Option<PathBuf>,
}

/// `[guard]`.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Exact `host:port`, lower-case, beside the loopback names.
    pub allow_hosts: Vec<String>,
    /// Exact origins that browsers may call from.
    pub allow_origins: Vec<String>,
    /// Whose processes may call.
    pub peer_check: PeerCheck,
    /// The key that callers must send.
    pub local_key_file: Option<PathBuf>,
    /// Only reading requests pass.
    pub read_only: bool,
    /// The request that revokes every token passes.
    pub allow_disconnect: bool,
}

/// Whose processes may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCheck {
    /// The user we run as.
    SameUser,
    /// Anyone's.
    Off,
    /// These user ids.
    Users(Vec<u32>),
}

/// `[upstream]`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The outbound proxy.
    pub proxy: OutboundProxy,
    /// The proxy variables as they were at the start, for `proxy = "env"`.
    pub variables: ProxyVariables,
    /// Time for a connection, TLS included.
    pub connect_timeout: Duration,
    /// From the end of the request body to the response head.
    pub response_timeout: Duration,
    /// Between bytes of a body; `None` = no limit.
    pub idle_timeout: Option<Duration>,
    /// Bodies up to this many bytes are kept to be sent again.
    pub replay_limit: usize,
    /// How TLS keys are exchanged.
    pub tls_key_exchange: KeyExchange,
}

/// The outbound proxy of the data path and the token calls.
#[derive(Clone, PartialEq, Eq)]
pub enum OutboundProxy {
    /// What [`Upstream::variables`] says.
    Env,
    /// None.
    Off,
    /// This one; may carry a user and a password.
    Url(Url),
}

impl fmt::Debug for OutboundProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env => f.write_str("Env"),
            Self::Off => f.write_str("Off"),
            Self::Url(url) => write!(f, "Url({})", address::without_userinfo(url.as_str())),
        }
    }
}

/// Outbound proxy variables and their values, which may carry passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables(BTreeMap<String, String>);

impl ProxyVariables {
    /// The names.
    pub const NAMES: [&str; 8] =
        ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"];

    /// The value of a proxy variable by its upper-case name (`HTTPS_PROXY`, ...); its lower-case twin goes first, as for
    /// curl.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_ascii_lowercase()).or_else(|| self.0.get(name)).map(String::as_str)
    }

    fn of(environment: &BTreeMap<String, String>) -> Self {
        let set = |name: &&str| environment.get(*name).filter(|value| !value.is_empty());
        Self(Self::NAMES.iter().filter_map(|name| Some(((*name).to_owned(), set(name)?.clone()))).collect())
    }

    /// Names and values with user and password taken out: fit to be shown.
    pub fn shown(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| (name.as_str(), address::without_userinfo(value)))
    }
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in, or what the environment's name stands for.
    Default,
    /// A line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
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
            Self::File { path, line } => write!(f, "{}:{line}", one_line(&path.display().to_string())),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// Reads the one file that applies, lays variables and flags over it, and checks everything.
///
/// # Errors
/// All problems found, as text for a person.
pub fn load(flags: &Flags, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let file = file::find(flags, environment)?;
    let mut problems = problem::Problems::new(file.as_ref().map(|file| &file.source));
    let mut settings = setting::Settings::new();
    if let Some(file) = &file {
        document::read(&file.source, &mut settings, &mut problems)?;
    }
    overlay::variables(environment, &mut settings, &mut problems);
    overlay::flags(flags, &mut settings, &mut problems);
    let surroundings = build::Surroundings { file: file.as_ref(), flags, environment };
    build::config(&surroundings, &mut settings, problems)
}

impl Config {
    /// `config show`: TOML that could be a `proxy.toml`, each line with the origin of its value; no secret in it.
    pub fn show(&self) -> String {
        show::config(self)
    }

    /// `config show --json`: every key with its value in effect and where it came from; no secret in it.
    pub fn show_json(&self) -> serde_json::Value {
        show::json(self)
    }
}

/// Text that may come from anywhere, fit for one line of a terminal.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}
