//! The table of settings: one row a setting.
//!
//! A row is `"key" field: type = kind, default, "documentation";`. From it come the field of
//! [`Config`], the reading of file, variable and flag, the line of `config show`, and, checked by
//! tests, the line of `proxy.toml` and the row of the table in `docs/settings.md`. A block is one
//! field of `Config`:
//!
//! - `new Struct` declares the struct from its rows;
//! - `of part::Settings` fills a struct that a part declares itself and takes as it is;
//! - `each Struct by Name` is a section of tables with free names, such as `[accounts.acme]`. Its
//!   keys are written `accounts.*.label`, the block is called like the section, and its field is a
//!   `BTreeMap<Name, Struct>`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use toml::Value;
use url::Url;

use super::environment::Environment;
use super::inputs::Origin;
use super::kinds::{
    By, Bytes, DatabaseUrl, Each, FilePath, Hidden, Kind, Listener, NoneAtZero, Or, SecretFile,
    Span, StoreKeys, Word,
};
use super::layers::Reader;
use super::shape::Shape::{Boolean, Integer, Text, WordOrIds};
use super::table::DefaultValue::{ByEnvironment, Is, Like, Unset};
use super::table::{Row, Table};
use crate::accounts;
use crate::diagnostic::Diagnostic;
use crate::hooks::{self, HookCommand};
use crate::log;
use crate::oauth::endpoint::{self, Endpoint};
use crate::oauth::{self, ClientAuth, SecretSource};
use crate::outbound::{self, KeyExchange, ProxyChoice};
use crate::private_file::{self, PrivateFileError};
use crate::proxy::guard::{self, allowed_host, allowed_origin};
use crate::proxy::peer::{PeerCheck, Peers};
use crate::proxy::{replay, upstream};
use crate::secret::LocalKey;
use crate::server::{self, Address};
use crate::store::{self, AccountName, Database, KeyError, KeySource, Sealing, UrlSource};

/// Keys that were renamed.
const RENAMED: [(&str, &str); 1] = [("tokens.keep_alive", "tokens.idle_refresh")];

/// All settings.
pub(super) static TABLE: Table = Table { blocks: BLOCKS, renamed: &RENAMED };

/// All rows, in the order of `proxy.toml`.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.rows()
}

/// Largest file of a client secret or key, in bytes.
const SECRET_LIMIT: u64 = 16 * 1024;

macro_rules! settings {
    ($($(#[$meta:meta])* $vis:vis $part:ident: $how:ident $($path:ident)::+ $(by $key:ty)? {
        $($name:literal $field:ident: $type:ty = $kind:expr, $default:expr, $doc:literal;)+
        $(..$rest:expr)?
    })+) => {
        $($(#[$meta])* settings!(@struct $how $vis $($path)::+ { $($field: $type, $doc;)+ });)+

        /// Everything that can be configured, validated.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(
                #[doc = concat!("`", stringify!($part), "`")]
                $(#[$meta])*
                $vis $part: settings!(@type $how $($path)::+ $(by $key)?),
            )+
            /// The one file that was read.
            pub file: Option<PathBuf>,
            /// True if that file is the one of the user's configuration folder, which the program
            /// finds from anywhere.
            pub is_usual_file: bool,
            /// The command line that reads this configuration from any folder, as
            /// `pleo-proxy --config /etc/pleo.toml`. Whoever knows the flags sets it.
            pub program: String,
            /// The folder of the store. `None`: no `store.path` and no home is known (sandbox only).
            pub state_root: Option<PathBuf>,
            /// The folder of the stores that no `store.path` names, if a home is known.
            pub default_root: Option<PathBuf>,
            /// Nobody configured endpoints: `serve` starts its own sandbox, and these are where it
            /// listens by default.
            pub embedded_sandbox: bool,
            /// Where each setting's value came from, by its full name; also `client.secret` when it
            /// came from a variable or a credential.
            pub origins: BTreeMap<String, Origin>,
            /// Oddities of the environment that do not keep anything from working.
            pub warnings: Vec<Diagnostic>,
        }

        impl Config {
            /// The values of all rows.
            pub(super) fn read(reader: &mut Reader<'_>) -> Self {
                Self {
                    $(
                        $(#[$meta])*
                        $part: settings!(@read $how reader, $part, $($path)::+ {
                            $($name $field $kind;)+ $(..$rest)?
                        }),
                    )+
                    file: None,
                    is_usual_file: false,
                    program: "pleo-proxy".to_owned(),
                    state_root: None,
                    default_root: None,
                    embedded_sandbox: false,
                    origins: BTreeMap::new(),
                    warnings: Vec::new(),
                }
            }

            /// The values in effect by their full names, without secrets, in the order of the rows.
            pub(super) fn values(&self) -> Vec<(String, Value)> {
                let mut values = Vec::new();
                $(
                    $(#[$meta])*
                    {
                        $(values.extend(settings!(@show $how self, $part, $name $field $kind));)+
                    }
                )+
                values
            }
        }

        const BLOCKS: &[&[Row]] = &[$(
            $(#[$meta])*
            &[$(Row {
                name: $name,
                default: $default,
                doc: $doc,
                shape: || Kind::<$type>::shape(&$kind),
                hides: || Kind::<$type>::hides(&$kind),
            },)+],
        )+];
    };
    (@struct of $vis:vis $($path:ident)::+ { $($fields:tt)+ }) => {};
    (@struct $how:ident $vis:vis $struct:ident { $($field:ident: $type:ty, $doc:literal;)+ }) => {
        /// Settings that no part declares itself.
        #[derive(Clone, Debug)]
        $vis struct $struct {
            $(#[doc = $doc] $vis $field: $type,)+
        }
    };
    (@type each $struct:ident by $key:ty) => { BTreeMap<$key, $struct> };
    (@type $how:ident $($path:ident)::+) => { $($path)::+ };
    (@read each $reader:ident, $part:ident, $struct:ident {
        $($name:literal $field:ident $kind:expr;)+
    }) => {{
        let tables = $reader.tables(stringify!($part)).into_iter();
        tables.map(|(table, key)| {
            (key, $struct { $($field: $reader.get(&super::table::in_table($name, &table), &$kind),)+ })
        }).collect()
    }};
    (@read $how:ident $reader:ident, $part:ident, $($path:ident)::+ {
        $($name:literal $field:ident $kind:expr;)+ $(..$rest:expr)?
    }) => {
        $($path)::+ { $($field: $reader.get($name, &$kind),)+ $(..$rest)? }
    };
    (@show each $config:ident, $part:ident, $name:literal $field:ident $kind:expr) => {{
        let tables = $config.$part.iter();
        tables.map(|(table, settings)| {
            (super::table::in_table($name, &table.to_string()), $kind.show(&settings.$field))
        })
    }};
    (@show $how:ident $config:ident, $part:ident, $name:literal $field:ident $kind:expr) => {
        [($name.to_owned(), $kind.show(&$config.$part.$field))]
    };
}

settings! {
    pub general: new General {
        "environment" environment: Environment = Word, Is(r#""sandbox""#),
            "`sandbox`, `staging` or `production`: selects the endpoints and the store";
    }
    pub accounts: each Account by AccountName {
        "accounts.*.label" label: Option<String> = Or("", By(Text, accounts::label)), Unset(r#""Acme, Denmark""#),
            "shown beside the account's name instead of the company's name";
        "accounts.*.api_key_file" api_key_file: Option<PathBuf> = Hidden(Or("", FilePath)), Unset(r#""acme-api-key""#),
            "file with an API key of Pleo's that the account sends in place of a login, mode 600";
    }
    pub listen: new Listen {
        "listen.api" api: Address = Listener, Is(r#""127.0.0.1:8088""#),
            "address for your tools; binds IPv4 and IPv6 loopback; port 0 takes a free port; or a unix socket, `unix:PATH`";
        "listen.admin" admin: Option<SocketAddr> = Or("off", By(Text, admin_listener)), Is(r#""127.0.0.1:8089""#),
            "address for logins and for commands; or `off`";
        "listen.max_connections" max_connections: usize = By(Integer, server::max_connections), Is("0"),
            "maximum number of connections; 0: as many as the hard limit of open files allows, at most 20,000";
    }
    pub oauth: of oauth::Settings {
        "client.id" client_id: Option<String> = Or("", By(Text, oauth::client_id)), Unset(r#""your-client-id""#),
            "your client id; not needed in the sandbox";
        "client.secret_file" client_secret: SecretSource = Hidden(SecretFile), Unset(r#""client-secret""#),
            "file with the client secret, mode 600";
        "client.scopes" scopes: Vec<String> = Each(oauth::scope),
            Unset(r#"["export-jobs:read", "users:read"]"#),
            "scopes that a login requests";
        "client.auth" auth: ClientAuth = Word, Is(r#""basic""#),
            "how the client secret is sent: `basic` (HTTP Basic, form-encoded first, as RFC 6749 says), `basic-raw` (without the encoding), `post` (in the form)";
        "endpoints.authorize" authorize: Endpoint = By(Text, Endpoint::from_str),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/authorize""#),
            "authorization endpoint, opened in the browser";
        "endpoints.token" token: Endpoint = By(Text, endpoint::without_query),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/token""#),
            "token endpoint";
        "endpoints.introspect" introspect: Option<Endpoint> = Or("", By(Text, endpoint::without_query)),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/token/introspect""#),
            "introspection endpoint; `\"\"`: none";
        "endpoints.api" api: endpoint::Origin = By(Text, endpoint::Origin::from_str),
            ByEnvironment(r#""https://external.staging.pleo.io""#),
            "origin of the API";
    }
    pub login: new Login {
        "client.redirect_uri" redirect_uri: Option<Url> = Or("", By(Text, endpoint::redirect_uri)),
            Like(r#""""#, r#""http://127.0.0.1:8089/callback""#),
            "redirect URI registered at Pleo; empty: the admin listener's address and `/callback`";
    }
    // Single accounts are added by `Config::accounts`.
    pub tokens: of accounts::Settings {
        "default_account" default_account: Option<AccountName> = Or("", By(Text, AccountName::from_str)),
            Like(r#""""#, r#""acme""#),
            "the account for requests that name none; empty: the only connected one, else `default`";
        "tokens.drain" drain: Duration = Span("1ms", "60s"), Is(r#""2s""#),
            "how long a refresh waits for requests in progress";
        "tokens.hold" hold: Duration = Span("1ms", "10m"), Is(r#""15s""#),
            "how long a request waits for a refresh";
        "tokens.keep_warm" keep_warm: Duration = Span("1ms", "1d"), Is(r#""10m""#),
            "how long after its last request an account is still refreshed ahead of expiry";
        "tokens.idle_refresh" idle_refresh: Duration = Span("1s", "30d"), Is(r#""7d""#),
            "how often an unused account is refreshed, so that its refresh token does not expire";
        ..accounts::Settings::default()
    }
    pub store: new Store {
        "store.kind" kind: store::Kind = By(Text, store::Kind::from_str), Is(r#""file""#),
            "`file`, or `postgres`: a PostgreSQL database, for replicas that share their accounts";
        "store.path" path: Option<PathBuf> = Or("", FilePath), Like(r#""""#, r#""/var/lib/pleo-proxy""#),
            "folder of the tokens; empty: `~/.local/state/pleo-proxy` (or below `XDG_STATE_HOME`)";
        "store.key_file" keys: KeySource = Hidden(StoreKeys), Unset(r#""store-key""#),
            "file with the keys that seal tokens and API keys, one a line, mode 600: the first one seals, the others only open; make one with `pleo-proxy store key`";
    }
    pub database: of Database {
        "store.url_file" url: UrlSource = Hidden(DatabaseUrl), Unset(r#""database-url""#),
            "file with the URL of the database, mode 600: unix socket, or TLS with a verified certificate";
        "store.ca_file" ca_file: Option<PathBuf> = Or("", FilePath), Unset(r#""database-ca.pem""#),
            "file with additional trust roots (PEM) for the database";
        "store.allow_plain" allow_plain: bool = By(Boolean, bool::from_str), Is("false"),
            "keep tokens in the database without a key that seals them";
    }
    pub callers: new Callers {
        "guard.peer_check" peer_check: PeerCheck = By(WordOrIds, PeerCheck::from_str), Is(r#""same-user""#),
            "users whose programs may call: `same-user`, `off`, or a list of user ids; the proxy's own user is always allowed";
        "guard.local_key_file" local_key_file: Option<PathBuf> = Hidden(Or("", FilePath)), Like(r#""""#, r#""local-key""#),
            "file with a key that callers must send in the header `Pleo-Proxy-Key`; mode 600";
    }
    // Complete only with the key that is read from its file: `Config::guard`.
    pub(super) guard: of guard::Settings {
        "guard.allow_hosts" allow_hosts: Vec<String> = Each(allowed_host), Like("[]", r#"["proxy.internal:8088"]"#),
            "accepted values of the `Host` header, exact `host:port`, in addition to loopback and the listen address";
        "guard.allow_origins" allow_origins: Vec<String> = Each(allowed_origin), Like("[]", r#"["http://localhost:3000"]"#),
            "web pages and apps that may call, such as `\"http://localhost:3000\"` or `\"tauri://localhost\"`";
        "guard.read_only" read_only: bool = By(Boolean, bool::from_str), Is("false"),
            "forward only operations that change nothing: `GET`, `HEAD`, and reads sent by `POST` (`:search` and calculations)";
        "guard.allow_disconnect" allow_disconnect: bool = By(Boolean, bool::from_str), Is("false"),
            "forward `DELETE /v1/installations/me`, which revokes every token of the client";
        ..guard::Settings::default()
    }
    // Complete only with what is called: `Config::outbound`.
    pub outbound: of outbound::Settings {
        "endpoints.ca_file" ca_file: Option<PathBuf> = Or("", FilePath), Unset(r#""private-ca.pem""#),
            "file with additional trust roots (PEM), for networks that inspect TLS; unreadable certificates in it are skipped with a warning";
        "upstream.proxy" proxy: ProxyChoice = Hidden(By(Text, ProxyChoice::from_str)),
            Like(r#""env""#, r#""http://proxy.example:3128""#),
            "outbound proxy: `env` (the usual variables), `off`, or a URL such as `\"http://host:port\"` or `\"https://user:password@host:port\"`";
        "upstream.tls_key_exchange" key_exchange: KeyExchange = Word, Is(r#""hybrid""#),
            "`hybrid`: also safe against future quantum computers; `classic`: for networks whose devices drop a TLS ClientHello of two packets";
        ..outbound::Settings::default()
    }
    pub upstream: of upstream::Settings {
        "upstream.connect_timeout" connect_timeout: Duration = Span("1ms", "1d"), Is(r#""10s""#),
            "time limit to connect to Pleo, TLS included";
        "upstream.response_timeout" response_timeout: Duration = Span("1ms", "1d"), Is(r#""120s""#),
            "time limit from the end of the request to the head of the response";
        "upstream.idle_timeout" idle_timeout: Option<Duration> = NoneAtZero("1d"), Is(r#""60s""#),
            "time limit between two pieces of a body; `\"0s\"`: none";
        "upstream.replay_limit" replay_limit: usize = Bytes(replay::MAX_KEPT), Is(r#""256KiB""#),
            "request bodies up to this size are kept, so that they can be sent again after a 401";
        "upstream.pace" pace: Option<upstream::Pace> = Or("off", By(Text, upstream::Pace::from_str)), Is(r#""off""#),
            "most requests a minute of an account, such as `\"500/min\"`: reads above it wait, up to `tokens.hold`; or `off`";
    }
    pub inspect: of log::Settings {
        "log.requests" file: Option<PathBuf> = Or("", FilePath), Like(r#""""#, r#""requests.jsonl""#),
            "file that gets a line of JSON for each request, mode 600; opened again on SIGHUP";
        "inspect.requests" requests: usize = By(Integer, usize::from_str), Is("1000"),
            "requests that are kept in memory for the page and for `logs`; 0: none";
        "inspect.memory" memory: usize = Bytes(log::MAX_MEMORY), Is(r#""16MiB""#),
            "most memory that they take, captured bodies included";
        "inspect.headers" headers: bool = By(Boolean, bool::from_str), Is("true"),
            "add `Pleo-Proxy-Request` to every response, and `Pleo-Proxy-Hint` to errors of Pleo's";
    }
    pub hooks: of hooks::Settings {
        "hooks.on_login_required" on_login_required: Option<HookCommand> =
            Hidden(Or("", By(Text, HookCommand::from_str))), Like(r#""""#, r#""./tell-somebody.sh""#),
            "command that runs once when an account needs a login, by `sh -c` in this file's folder, for at most 30 s; it gets no secret, but `PLEO_PROXY_ACCOUNT`, `PLEO_PROXY_EVENT`, `PLEO_PROXY_REASON` and `PLEO_PROXY_FIX`";
        "hooks.on_recovered" on_recovered: Option<HookCommand> =
            Hidden(Or("", By(Text, HookCommand::from_str))), Like(r#""""#, r#""./tell-somebody.sh""#),
            "the same, once when that account works again";
        "hooks.on_grant_age" on_grant_age: Option<HookCommand> =
            Hidden(Or("", By(Text, HookCommand::from_str))), Like(r#""""#, r#""./tell-somebody.sh""#),
            "the same, once a day while a refresh token has not been renewed for 50 days (Pleo ends it after 60), or an API key expires within 14 days";
    }
    // Shows that a section may hold tables with free names.
    #[cfg(test)]
    offices: each Office by AccountName {
        "offices.*.floors" floors: usize = By(Integer, usize::from_str), Is("1"), "how many floors";
        "offices.*.key_file" key_file: Option<PathBuf> = Hidden(Or("", FilePath)), Unset(r#""key""#),
            "a file with the key of the front door";
    }
}

fn admin_listener(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, or off")
}

impl Config {
    /// The environment in effect.
    pub fn environment(&self) -> Environment {
        self.general.environment
    }

    /// Settings of all accounts, with those that have a table of their own.
    pub fn accounts(&self) -> accounts::Settings {
        let named = self.accounts.iter().map(|(name, Account { label, api_key_file })| {
            let (label, api_key_file) = (label.clone(), api_key_file.clone());
            (name.clone(), accounts::NamedAccount { label, api_key_file })
        });
        accounts::Settings { named: named.collect(), ..self.tokens.clone() }
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

    /// How the store keeps its records, with the keys from their file.
    ///
    /// # Errors
    /// The keys cannot be read.
    pub fn sealing(&self) -> Result<Sealing, KeyError> {
        Sealing::new(self.environment().as_str(), self.store.keys.clone())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{ConfigError, Flags, show, show_json};
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_known_section() {
        let names: BTreeSet<_> = TABLE.all().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.all().count());
        assert_eq!(rows().count(), TABLE.all().count(), "a row is in no section");
    }

    #[test]
    fn renamed_keys_lead_to_keys_that_exist() {
        assert!(
            RENAMED.iter().all(|(old, new)| TABLE.find(old).is_none() && TABLE.find(new).is_some())
        );
    }

    fn load(file: &str, set: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("proxy.toml"), file).unwrap();
        let set = set.iter().map(ToString::to_string).collect();
        let flags = Flags { set, working_dir: folder.path().into(), ..Flags::default() };
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        super::super::load(&flags, &variables.collect())
    }

    #[test]
    fn tables_with_free_names_are_read_from_every_layer_and_shown() {
        let file =
            "[offices.berlin]\nfloors = 4\n[offices]\nrome.key_file = \"k\"\n[offices.oslo]\n";
        let variables = [("PLEO_PROXY_OFFICES_SAO_PAULO_FLOORS", "9")];
        let config = load(file, &["offices.rome.floors=2"], &variables).unwrap();
        let floors: Vec<_> =
            config.offices.iter().map(|(name, office)| (name.as_str(), office.floors)).collect();
        assert_eq!(floors, [("berlin", 4), ("oslo", 1), ("rome", 2), ("sao-paulo", 9)]);
        let key = config.offices.values().find_map(|office| office.key_file.as_ref());
        assert!(key.unwrap().is_absolute(), "a path starts at the file's folder");
        let shown = show(&config);
        let shown = &shown[shown.find("[offices.berlin]").unwrap()..];
        for line in [
            "floors = 4  # ",
            "[offices.oslo]\nfloors = 1  # default\n# key_file: not set",
            "floors = 2  # flag",
            "[offices.sao-paulo]\nfloors = 9  # variable PLEO_PROXY_OFFICES_SAO_PAULO_FLOORS",
        ] {
            assert!(shown.contains(line), "{line:?} is not in:\n{shown}");
        }
        assert!(show_json(&config)["settings"]["offices.rome.floors"]["value"] == 2);
    }

    #[test]
    fn mistakes_in_tables_with_free_names_are_reported_with_a_caret() {
        let file = "[offices.berlin]\nfloors = \"many\"\nkey_fil = \"hush\"\n[offices.\"No Name\"]\n\
                    [offices]\nparis = 3\n";
        let error = load(file, &["offices.rome.windows=2"], &[]).unwrap_err().to_string();
        for part in [
            "error: `offices.berlin.floors` must be a whole number\n --> proxy.toml:2:10",
            "2 | floors = \"many\"\n  |          ^^^^^^\n",
            "= help: write for example: floors = 1",
            "error: unknown key `offices.berlin.key_fil`\n --> proxy.toml:3:1",
            "= help: did you mean `offices.berlin.key_file`?",
            "error: `offices.No Name`: the name must",
            "--> proxy.toml:4:10",
            "error: `offices.paris` is a table, not a key\n --> proxy.toml:6:1",
            "= help: write [offices.paris] on a line of its own, its keys below",
            "error: `--set offices.rome.windows`: unknown key",
            "= help: the keys of [offices.rome] are: floors, key_file",
        ] {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
        assert!(!error.contains("hush"), "{error}");
    }
}
