//! The table of settings: one row a setting.
//!
//! A row is `"key" field: type = kind, default, "documentation";`. From it come the field of
//! [`Config`], the reading of file, variable and flag, the line of `config show`, and, checked by
//! tests, the line of `proxy.toml` and the row of the README's table. A block is one value of
//! `Config`: `new` makes the struct out of its rows, `of` fills the settings that a part has
//! already, so that the part gets them as they are.
//!
//! There is no table with free names yet. One such as `[accounts.acme]` would be a block of a third
//! sort, `each`, whose field is a `BTreeMap<AccountName, Account>` and whose keys are written
//! `accounts.*.label`: the layers keep settings by their full names already, so [`find`] would let
//! `*` stand for one name, the reader of the file go one table deeper, and the block read its rows
//! for each name that was given.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use toml::Value;
use url::Url;

use super::diagnostics::Diagnostic;
use super::kinds::Shape::{self, Boolean, Integer, Size, Text, WordOrIds};
use super::kinds::{
    By, Each, FilePath, Hidden, Kind, Listener, NoneAtZero, Or, SecretFile, Span, Word,
};
use super::layers::Reader;
use super::{Environment, Origin};
use crate::oauth::endpoint::{self, Endpoint};
use crate::oauth::{self, ClientAuth, SecretSource};
use crate::outbound::{self, KeyExchange, ProxyChoice};
use crate::proxy::guard::{self, allowed_host, allowed_origin};
use crate::proxy::peer::PeerCheck;
use crate::proxy::{body, upstream};
use crate::server::{self, Address};
use crate::store::{self, AccountName};
use crate::tokens;

/// One setting, without the type of its value.
pub struct Row {
    /// `section.key`, or `key` at the top.
    pub name: &'static str,
    /// What it is without being set, and what it may look like; both as TOML.
    pub default: DefaultValue,
    /// What it does, as the README says it.
    pub doc: &'static str,
    pub(super) shape: fn() -> Shape,
    /// Whether a value in the wrong place here may be a secret: it is then never part of an error.
    pub(super) hides: fn() -> bool,
    /// The value in effect, without secrets.
    pub(super) show: fn(&Config) -> Value,
}

/// What a setting is when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// This value, which is its own example.
    Is(&'static str),
    /// This value; the second one is the example.
    Like(&'static str, &'static str),
    /// Nothing; the value is an example.
    Unset(&'static str),
    /// What the environment stands for; the value is an example.
    ByEnvironment(&'static str),
}

use DefaultValue::{ByEnvironment, Is, Like, Unset};

impl Row {
    /// The section, none at the top.
    pub fn section(&self) -> Option<&'static str> {
        self.name.split_once('.').map(|(section, _)| section)
    }

    /// The name without its section.
    pub fn short(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The default as TOML, if it is a fixed one.
    pub fn fixed_default(&self) -> Option<&'static str> {
        match self.default {
            Is(value) | Like(value, _) => Some(value),
            Unset(_) | ByEnvironment(_) => None,
        }
    }

    /// A value as TOML.
    pub fn example(&self) -> &'static str {
        match self.default {
            Is(example) | Like(_, example) | Unset(example) | ByEnvironment(example) => example,
        }
    }

    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// The example as a variable would carry it.
    pub(super) fn bare_example(&self) -> String {
        self.example().trim_matches(['[', ']']).replace('"', "").replace(", ", ",")
    }
}

/// What every variable of ours begins with.
pub(super) const VARIABLE_PREFIX: &str = "PLEO_PROXY_";

/// The sections in the order of `proxy.toml`.
pub(super) const SECTIONS: [&str; 7] =
    ["listen", "client", "endpoints", "tokens", "store", "guard", "upstream"];

/// Keys that have another name now.
pub(super) const RENAMED: [(&str, &str); 1] = [("tokens.keep_alive", "tokens.idle_refresh")];

macro_rules! settings {
    ($($vis:vis $part:ident: $how:ident $($path:ident)::+ {
        $($name:literal $field:ident: $type:ty = $kind:expr, $default:expr, $doc:literal;)+
        $(..$rest:expr)?
    })+) => {
        $(settings!(@$how $($path)::+ { $($field: $type, $doc;)+ });)+

        /// Everything that can be configured, validated.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(#[doc = concat!("`", stringify!($part), "`")] $vis $part: $($path)::+,)+
            /// The one file that was read.
            pub file: Option<PathBuf>,
            /// The folder of the store in effect. `None` only in the sandbox, when neither
            /// `store.path` nor a home is known.
            pub state_root: Option<PathBuf>,
            /// Nobody configured endpoints: `serve` starts its own sandbox, and these are where it
            /// goes by default.
            pub embedded_sandbox: bool,
            /// Where each key's value came from; also `client.secret` when it came from a variable
            /// or a credential.
            pub origins: BTreeMap<&'static str, Origin>,
            /// What is odd and works, from the environment.
            pub warnings: Vec<Diagnostic>,
        }

        impl Config {
            /// The values of all rows.
            pub(super) fn read(reader: &mut Reader<'_>) -> Self {
                Self {
                    $($part: $($path)::+ {
                        $($field: reader.get($name, &$kind),)+
                        $(..$rest)?
                    },)+
                    file: None,
                    state_root: None,
                    embedded_sandbox: false,
                    origins: BTreeMap::new(),
                    warnings: Vec::new(),
                }
            }
        }

        static ROWS: &[Row] = &[$($(Row {
            name: $name,
            default: $default,
            doc: $doc,
            shape: || Kind::<$type>::shape(&$kind),
            hides: || Kind::<$type>::hides(&$kind),
            show: |config| $kind.show(&config.$part.$field),
        },)+)+];
    };
    (@new $struct:ident { $($field:ident: $type:ty, $doc:literal;)+ }) => {
        /// Settings that no part takes as they are.
        #[derive(Clone, Debug)]
        pub struct $struct {
            $(#[doc = $doc] pub $field: $type,)+
        }
    };
    (@of $($path:ident)::+ { $($fields:tt)+ }) => {};
}

settings! {
    pub general: new General {
        "environment" environment: Environment = Word, Is(r#""sandbox""#),
            "`sandbox`, `staging` or `production`: which endpoints, and which store";
    }
    pub listen: new Listen {
        "listen.api" api: Address = Listener, Is(r#""127.0.0.1:8088""#),
            "where your tools call; binds IPv4 and IPv6 loopback; port 0 takes a free one; or a unix socket, `unix:PATH`";
        "listen.admin" admin: Option<SocketAddr> = Or("off", By(Text, admin_listener)), Is(r#""127.0.0.1:8089""#),
            "where people log in and commands talk to the proxy; or `off`";
        "listen.max_connections" max_connections: usize = By(Integer, server::max_connections), Is("0"),
            "connections at once; 0: as many as the limit of open files allows (the hard one), at most 20,000";
    }
    pub oauth: of oauth::Settings {
        "client.id" client_id: Option<String> = Or("", By(Text, oauth::client_id)), Unset(r#""your-client-id""#),
            "your client id; the sandbox needs none";
        "client.secret_file" client_secret: SecretSource = Hidden(SecretFile), Unset(r#""client-secret""#),
            "a file with the client secret, mode 600";
        "client.scopes" scopes: Vec<String> = Each(oauth::scope),
            Unset(r#"["export-jobs:read", "users:read"]"#),
            "what a login asks for";
        "client.auth" auth: ClientAuth = Word, Is(r#""basic""#),
            "how the secret is sent: `basic` (form-encoded first, as the standard says), `basic-raw`, `post`";
        "endpoints.authorize" authorize: Endpoint = By(Text, Endpoint::from_str),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/authorize""#),
            "where the browser goes";
        "endpoints.token" token: Endpoint = By(Text, endpoint::without_query),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/token""#),
            "where codes and refresh tokens are exchanged";
        "endpoints.introspect" introspect: Option<Endpoint> = Or("", By(Text, endpoint::without_query)),
            ByEnvironment(r#""https://auth.staging.pleo.io/oauth/token/introspect""#),
            "where tokens are checked; `\"\"`: nowhere";
        "endpoints.api" api: endpoint::Origin = By(Text, endpoint::Origin::from_str),
            ByEnvironment(r#""https://external.staging.pleo.io""#),
            "the API's origin";
    }
    pub login: new Login {
        "client.redirect_uri" redirect_uri: Option<Url> = Or("", By(Text, endpoint::redirect_uri)),
            Like(r#""""#, r#""http://127.0.0.1:8089/callback""#),
            "as registered at Pleo; empty: the admin listener's address and `/callback`";
    }
    pub tokens: of tokens::Settings {
        "default_account" default_account: Option<AccountName> = Or("", By(Text, AccountName::from_str)),
            Like(r#""""#, r#""acme""#),
            "the account of requests that name none; empty: the only connected one, else `default`";
        "tokens.drain" drain: Duration = Span("1ms", "60s"), Is(r#""2s""#),
            "how long a refresh waits for requests under way";
        "tokens.hold" hold: Duration = Span("1ms", "10m"), Is(r#""15s""#),
            "how long a request waits for a refresh";
        "tokens.keep_warm" keep_warm: Duration = Span("1ms", "1d"), Is(r#""10m""#),
            "how long after the last request tokens are refreshed ahead of time";
        "tokens.idle_refresh" idle_refresh: Duration = Span("1s", "30d"), Is(r#""7d""#),
            "how often an unused login is refreshed so that its refresh token does not expire";
    }
    pub store: new Store {
        "store.kind" kind: store::Kind = By(Text, store::Kind::from_str), Is(r#""file""#),
            "the only kind";
        "store.path" path: Option<PathBuf> = Or("", FilePath), Like(r#""""#, r#""/var/lib/pleo-proxy""#),
            "the folder of the tokens; empty: `~/.local/state/pleo-proxy` (below `XDG_STATE_HOME`)";
    }
    pub callers: new Callers {
        "guard.peer_check" peer_check: PeerCheck = By(WordOrIds, PeerCheck::from_str), Is(r#""same-user""#),
            "whose programs may call: `same-user`, `off`, or a list of user ids, to which the proxy's own always belongs";
        "guard.local_key_file" local_key_file: Option<PathBuf> = Hidden(Or("", FilePath)), Like(r#""""#, r#""local-key""#),
            "callers must send this file's content as `Pleo-Proxy-Key`; mode 600";
    }
    // Complete only with the key that is read from its file: `Config::guard`.
    pub(super) guard: of guard::Settings {
        "guard.allow_hosts" allow_hosts: Vec<String> = Each(allowed_host), Like("[]", r#"["proxy.internal:8088"]"#),
            "values of the `Host` header that are accepted, exact `host:port`, beside loopback and the address that is listened on";
        "guard.allow_origins" allow_origins: Vec<String> = Each(allowed_origin), Like("[]", r#"["http://localhost:3000"]"#),
            "web pages and apps that may call, such as `\"http://localhost:3000\"` or `\"tauri://localhost\"`";
        "guard.read_only" read_only: bool = By(Boolean, bool::from_str), Is("false"),
            "forward only operations of Pleo's API that change nothing: `GET`, `HEAD`, and reads that are sent by `POST` (`:search` and calculations)";
        "guard.allow_disconnect" allow_disconnect: bool = By(Boolean, bool::from_str), Is("false"),
            "forward `DELETE /v1/installations/me`, which ends every login of the client";
        ..guard::Settings::default()
    }
    // Complete only with what is called: `Config::outbound`.
    pub outbound: of outbound::Settings {
        "endpoints.ca_file" ca_file: Option<PathBuf> = Or("", FilePath), Unset(r#""private-ca.pem""#),
            "further trust roots (PEM), for networks that inspect TLS; certificates that cannot be read are left out with a warning";
        "upstream.proxy" proxy: ProxyChoice = Hidden(By(Text, ProxyChoice::from_str)),
            Like(r#""env""#, r#""http://proxy.example:3128""#),
            "outbound proxy: `env` (the usual variables), `off`, or a URL such as `\"http://host:port\"` or `\"https://user:password@host:port\"`";
        "upstream.tls_key_exchange" key_exchange: KeyExchange = Word, Is(r#""hybrid""#),
            "`hybrid`: safe against future quantum computers too; `classic`: for networks whose devices drop a TLS greeting of two packets";
        ..outbound::Settings::default()
    }
    pub upstream: of upstream::Settings {
        "upstream.connect_timeout" connect_timeout: Duration = Span("1ms", "1d"), Is(r#""10s""#),
            "time to reach Pleo, TLS included";
        "upstream.response_timeout" response_timeout: Duration = Span("1ms", "1d"), Is(r#""120s""#),
            "from the end of the request to the head of the answer";
        "upstream.idle_timeout" idle_timeout: Option<Duration> = NoneAtZero("1d"), Is(r#""60s""#),
            "between two pieces of a body; `\"0s\"`: no limit";
        "upstream.replay_limit" replay_limit: usize = By(Size, body::replay_limit), Is(r#""256KiB""#),
            "bodies up to this size are kept and can be sent again after a 401";
    }
}

fn admin_listener(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, or off")
}

/// All rows, in the order of `proxy.toml`.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    let sections = [None].into_iter().chain(SECTIONS.into_iter().map(Some));
    sections.flat_map(|section| ROWS.iter().filter(move |row| row.section() == section))
}

/// The row of that name.
pub(super) fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_known_section() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
        assert_eq!(rows().count(), ROWS.len(), "a section is missing in SECTIONS");
    }

    #[test]
    fn renamed_keys_lead_to_keys_that_exist() {
        assert!(RENAMED.iter().all(|(old, new)| find(old).is_none() && find(new).is_some()));
    }
}
