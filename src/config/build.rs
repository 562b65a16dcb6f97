//! Settings into a [`Config`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::file::{ConfigFile, xdg_folder};
use super::key::{self, KEYS, SECRET_VARIABLE};
use super::problem::{ConfigError, Fault, Problems};
use super::setting::{Place, Setting, Settings, Value};
use super::{
    Client, Config, Endpoints, Environment, Flags, Guard, Listen, Origin, OutboundProxy, ProxyVariables, SecretSource,
    Store, Tokens, Upstream, address, cross_check, overlay, parse,
};
use crate::private_file::text;
use crate::secret::ClientSecret;

/// The endpoints of which one without the others makes no sense in the sandbox.
const CORE: [&str; 3] = ["endpoints.authorize", "endpoints.token", "endpoints.api"];
/// Where systemd hands credentials over, and what ours is called.
const CREDENTIALS: (&str, &str) = ("CREDENTIALS_DIRECTORY", "client-secret");

/// What the settings came from.
pub(super) struct Surroundings<'a> {
    pub(super) file: Option<&'a ConfigFile>,
    pub(super) flags: &'a Flags,
    pub(super) environment: &'a BTreeMap<String, String>,
}

impl Surroundings<'_> {
    /// What a relative path starts at.
    fn base(&self, place: &Place) -> PathBuf {
        let folder = self.file.and_then(|file| file.source.path.parent());
        match place {
            Place::File(_) => folder.unwrap_or(Path::new("")).to_owned(),
            Place::Default | Place::Variable(_) | Place::Flag(_) => self.flags.working_dir.clone(),
        }
    }

    fn origin(&self, place: &Place) -> Origin {
        match (place, self.file) {
            (Place::File(spans), Some(file)) => {
                let line = file.source.position(spans.key.start).0;
                Origin::File { path: file.source.path.clone(), line }
            }
            (Place::Variable(name), _) => Origin::Variable(name.clone()),
            (Place::Flag(_), _) => Origin::Flag,
            (Place::Default | Place::File(_), _) => Origin::Default,
        }
    }
}

/// Reads settings as what they mean; a bad one becomes a problem and its default is used to go on.
struct Reader<'a, 'p> {
    surroundings: &'a Surroundings<'a>,
    settings: &'a mut Settings,
    problems: Problems<'p>,
}

/// Builds the configuration, or tells all problems.
pub(super) fn config(
    surroundings: &Surroundings<'_>,
    settings: &mut Settings,
    problems: Problems<'_>,
) -> Result<Config, ConfigError> {
    let mut reader = Reader { surroundings, settings, problems };
    let environment = reader.get("environment", parse::environment);
    let embedded_sandbox = reader.endpoint_defaults(environment);
    let mut config = Config {
        file: surroundings.file.map(|file| file.source.path.clone()),
        environment,
        default_account: reader.get("default_account", parse::account),
        listen: reader.listen(),
        client: reader.client(),
        endpoints: reader.endpoints(embedded_sandbox),
        tokens: reader.tokens(environment),
        store: reader.store(environment),
        guard: reader.guard(),
        upstream: reader.upstream(),
        origins: BTreeMap::new(),
        warnings: warnings(surroundings.environment),
    };
    config.origins = reader.origins(&config.client.secret);
    if reader.problems.is_empty() {
        cross_check::all(&config, reader.settings, &mut reader.problems);
    }
    if !reader.problems.is_empty() {
        return Err(reader.problems.into_error());
    }
    let shared = surroundings.file.filter(|_| environment != Environment::Sandbox);
    match shared.and_then(ConfigFile::group_writable) {
        Some(error) => Err(error),
        None => Ok(config),
    }
}

fn warnings(environment: &BTreeMap<String, String>) -> Vec<String> {
    let links = overlay::service_links(environment);
    let warning = |links: String| format!("{links}: ignored; a cluster sets these for a service of this name");
    (!links.is_empty()).then(|| warning(links.join(", "))).into_iter().collect()
}

impl Reader<'_, '_> {
    fn get<T>(&mut self, name: &str, parse: impl Fn(&Value) -> Result<T, Fault>) -> T {
        let setting = self.settings.get(name);
        match parse(&setting.value) {
            Ok(value) => value,
            Err(fault) => {
                let key = key::find(name).expect("only names from the table of keys are asked for");
                self.problems.fault(key, setting, &fault);
                let default = parse(&self.settings.default(name).value);
                default.map_err(|fault| fault.problem).expect("built-in defaults are valid")
            }
        }
    }

    fn path(&mut self, name: &str) -> Option<PathBuf> {
        let base = self.surroundings.base(&self.settings.get(name).place);
        self.get(name, |value| parse::path(value, &base))
    }

    fn listen(&mut self) -> Listen {
        let base = self.surroundings.base(&self.settings.get("listen.api").place);
        Listen {
            api: self.get("listen.api", |value| address::api_listener(value, &base)),
            admin: self.get("listen.admin", address::admin),
            max_connections: self.get("listen.max_connections", parse::max_connections),
        }
    }

    fn client(&mut self) -> Client {
        Client {
            id: self.get("client.id", parse::client_id),
            secret: self.secret(),
            redirect_uri: self.get("client.redirect_uri", address::redirect_uri),
            scopes: self.get("client.scopes", parse::scopes),
            auth: self.get("client.auth", parse::auth),
        }
    }

    /// A flag's file, a variable, the file's file, a credential, in that order.
    fn secret(&mut self) -> SecretSource {
        let path = self.path("client.secret_file");
        let place = self.settings.get("client.secret_file").place.clone();
        match (self.surroundings.environment.get(SECRET_VARIABLE), path) {
            (Some(_), Some(path)) if matches!(place, Place::Flag(_)) => SecretSource::File(path),
            (Some(secret), path) => {
                if let (Some(_), Place::Variable(name)) = (path, place) {
                    let title = format!("{SECRET_VARIABLE} and {name} are both set");
                    self.problems.plain(&title, "set one of them");
                }
                self.secret_variable(secret)
            }
            (None, Some(path)) => SecretSource::File(path),
            (None, None) => self.credential().map_or(SecretSource::None, SecretSource::File),
        }
    }

    fn secret_variable(&mut self, secret: &str) -> SecretSource {
        // As from a file: `$(cat client-secret)` keeps the mark, and the carriage return of a CRLF.
        let secret = text::without_mark(secret).trim_end_matches(['\r', '\n']);
        if secret.is_empty() || secret.chars().any(char::is_control) {
            let title = format!("{SECRET_VARIABLE} is empty or contains control characters");
            self.problems.plain(&title, "unset it, or set it to the client secret alone, without a line break");
        }
        SecretSource::Value(ClientSecret::new(secret))
    }

    fn credential(&self) -> Option<PathBuf> {
        let (variable, name) = CREDENTIALS;
        let folder = self.surroundings.environment.get(variable).filter(|folder| !folder.is_empty())?;
        let path = Path::new(folder).join(name);
        fs::symlink_metadata(&path).is_ok().then_some(path)
    }

    /// Fills in the endpoints that the environment stands for. True if the sandbox is to be started by `serve` itself.
    fn endpoint_defaults(&mut self, environment: Environment) -> bool {
        let own = CORE.iter().any(|name| self.settings.is_given(name));
        let (auth, api) = match environment {
            Environment::Sandbox => ("http://127.0.0.1:8090", "http://127.0.0.1:8090"),
            Environment::Staging => ("https://auth.staging.pleo.io", "https://external.staging.pleo.io"),
            Environment::Production => ("https://auth.pleo.io", "https://external.pleo.io"),
        };
        let embedded = environment == Environment::Sandbox && !own;
        let introspect = if own && environment == Environment::Sandbox {
            String::new()
        } else {
            format!("{auth}/oauth/token/introspect")
        };
        self.settings.set_default("endpoints.authorize", &format!("{auth}/oauth/authorize"));
        self.settings.set_default("endpoints.token", &format!("{auth}/oauth/token"));
        self.settings.set_default("endpoints.introspect", &introspect);
        self.settings.set_default("endpoints.api", api);
        if own && environment == Environment::Sandbox {
            self.demand_all_endpoints();
        }
        embedded
    }

    /// Half a sandbox would mix ours with somebody else's: the token of the one would go to the other.
    fn demand_all_endpoints(&mut self) {
        let (given, missing): (Vec<&str>, Vec<&str>) = CORE.iter().partition(|name| self.settings.is_given(name));
        if let (Some(name), false) = (given.first(), missing.is_empty()) {
            let key = key::find(name).expect("the core endpoints are keys");
            let fault = Fault::new(format!("stands alone: in the sandbox, {} must be set too", missing.join(" and ")));
            let help = "set all three of authorize, token and api, or none of them, or choose another environment";
            self.problems.fault(key, self.settings.get(name), &fault.help(help));
        }
    }

    fn endpoints(&mut self, embedded_sandbox: bool) -> Endpoints {
        Endpoints {
            authorize: self.get("endpoints.authorize", address::authorize),
            token: self.get("endpoints.token", address::token),
            introspect: self.get("endpoints.introspect", address::introspect),
            api: self.get("endpoints.api", address::api),
            ca_file: self.path("endpoints.ca_file"),
            embedded_sandbox,
        }
    }

    fn tokens(&mut self, environment: Environment) -> Tokens {
        Tokens {
            drain: self.get("tokens.drain", parse::drain),
            hold: self.get("tokens.hold", parse::hold),
            keep_warm: self.get("tokens.keep_warm", parse::keep_warm),
            keep_alive: self.get("tokens.keep_alive", |value| parse::keep_alive(value, environment)),
        }
    }

    fn store(&mut self, environment: Environment) -> Store {
        self.get("store.kind", parse::store_kind);
        let path = self.path("store.path");
        let xdg = || xdg_folder(self.surroundings.environment, "XDG_STATE_HOME", ".local/state");
        let state_root = path.clone().or_else(xdg);
        if state_root.is_none() && environment != Environment::Sandbox {
            let title = "no place for the store: `store.path`, XDG_STATE_HOME and HOME are all not set";
            self.problems.plain(title, "write for example, below [store]: path = \"/var/lib/pleo-proxy\"");
        }
        Store { path, state_root }
    }

    fn guard(&mut self) -> Guard {
        Guard {
            allow_hosts: self.get("guard.allow_hosts", parse::allow_hosts),
            allow_origins: self.get("guard.allow_origins", parse::allow_origins),
            peer_check: self.get("guard.peer_check", parse::peer_check),
            local_key_file: self.path("guard.local_key_file"),
            read_only: self.get("guard.read_only", parse::flag),
            allow_disconnect: self.get("guard.allow_disconnect", parse::flag),
        }
    }

    fn upstream(&mut self) -> Upstream {
        let proxy: OutboundProxy = self.get("upstream.proxy", parse::outbound_proxy);
        Upstream {
            proxy,
            variables: ProxyVariables::of(self.surroundings.environment),
            connect_timeout: self.get("upstream.connect_timeout", parse::timeout),
            response_timeout: self.get("upstream.response_timeout", parse::timeout),
            idle_timeout: self.get("upstream.idle_timeout", parse::idle_timeout),
            replay_limit: self.get("upstream.replay_limit", parse::replay_limit),
            tls_key_exchange: self.get("upstream.tls_key_exchange", parse::key_exchange),
        }
    }

    fn origins(&self, secret: &SecretSource) -> BTreeMap<&'static str, Origin> {
        let of = |setting: &Setting| self.surroundings.origin(&setting.place);
        let mut origins: BTreeMap<_, _> = KEYS.iter().map(|key| (key.name, of(self.settings.get(key.name)))).collect();
        let variable = match secret {
            SecretSource::Value(_) => Some(SECRET_VARIABLE),
            SecretSource::File(_) if self.settings.get("client.secret_file").value.text().is_empty() => {
                Some(CREDENTIALS.0)
            }
            SecretSource::File(_) | SecretSource::None => None,
        };
        if let Some(variable) = variable {
            origins.insert("client.secret", Origin::Variable(variable.to_owned()));
        }
        origins
    }
}
