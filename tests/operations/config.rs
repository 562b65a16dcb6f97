//! Configuration: files, variables and flags in, one checked value or one readable error out.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use pleo_proxy::config::{
    Config, ConfigError, Environment, Flags, Origin, SecretSource, check, load, show,
};
use pleo_proxy::outbound::ProxyChoice;
use pleo_proxy::proxy::peer::PeerCheck;

type Variables = BTreeMap<String, String>;

/// A folder to run in, with a home of its own.
pub(super) struct Workspace {
    pub(super) folder: TempDir,
}

impl Workspace {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn with(text: &str) -> Self {
        let workspace = Self::new();
        workspace.write("proxy.toml", text, 0o600);
        workspace
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(super) fn flags(&self, set: &[&str]) -> Flags {
        let set = set.iter().map(ToString::to_string).collect();
        Flags { set, working_dir: self.path().into(), ..Flags::default() }
    }

    pub(super) fn variables(&self, more: &[(&str, &str)]) -> Variables {
        let home = ("HOME", self.path().to_str().unwrap());
        [home]
            .iter()
            .chain(more)
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    pub(super) fn load(
        &self,
        set: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        load(&self.flags(set), &self.variables(variables))
    }
}

pub(super) fn load_file(path: &Path) -> Result<Config, ConfigError> {
    // A checkout may be group-writable; what the files say is the point here, not their mode.
    let copy = Workspace::new();
    let name = path.file_name().unwrap().to_str().unwrap();
    copy.write(name, &fs::read_to_string(path).unwrap(), 0o600);
    load(&Flags { config: Some(name.into()), ..copy.flags(&[]) }, &copy.variables(&[]))
}

pub(super) fn examples(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

/// Without what tells where values came from, which differs by design.
fn meaning(config: &Config) -> String {
    let mut config = config.clone();
    config.file = None;
    config.origins.clear();
    format!("{config:?}")
}

#[test]
fn valid_files_load() {
    let paths = examples("valid");
    assert!(paths.len() >= 5, "{paths:?}");
    for path in paths {
        let config = load_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(show(&config).contains("environment = "), "{}", path.display());
    }
}

#[test]
fn without_a_file_the_defaults_are_the_sandbox() {
    let workspace = Workspace::new();
    let config = workspace.load(&[], &[]).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.environment(), Environment::Sandbox);
    assert_eq!(config.listen.api.to_string(), "127.0.0.1:8088");
    assert_eq!(config.listen.admin.unwrap().to_string(), "127.0.0.1:8089");
    assert!(config.embedded_sandbox);
    assert_eq!(config.oauth.token.url().as_str(), "http://127.0.0.1:8090/oauth/token");
    assert_eq!(config.tokens.idle_refresh, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.upstream.replay_limit, 256 * 1024);
    assert_eq!(config.upstream.idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.state_root, Some(workspace.path().join(".local/state/pleo-proxy")));
    assert!(
        matches!(config.oauth.client_secret, SecretSource::None)
            && config.oauth.client_id.is_none()
    );
}

#[test]
fn environments_stand_for_endpoints() {
    for (name, auth, api) in [
        ("staging", "https://auth.staging.pleo.io", "https://external.staging.pleo.io"),
        ("production", "https://auth.pleo.io", "https://external.pleo.io"),
    ] {
        let config = Workspace::new().load(&[&format!("environment={name}")], &[]).unwrap();
        assert_eq!(config.environment().as_str(), name);
        assert_eq!(config.oauth.authorize.url().as_str(), format!("{auth}/oauth/authorize"));
        assert_eq!(config.oauth.token.url().as_str(), format!("{auth}/oauth/token"));
        assert_eq!(
            config.oauth.introspect.unwrap().url().as_str(),
            format!("{auth}/oauth/token/introspect")
        );
        assert_eq!(config.oauth.api.to_string(), api);
        assert!(!config.embedded_sandbox);
    }
}

#[test]
fn a_sandbox_of_ones_own_is_not_embedded_and_has_no_introspection() {
    let path =
        examples("valid").into_iter().find(|path| path.ends_with("own_sandbox.toml")).unwrap();
    let config = load_file(&path).unwrap();
    assert!(!config.embedded_sandbox);
    assert!(config.oauth.introspect.is_none());
}

#[test]
fn flags_beat_variables_beat_the_file_beats_defaults() {
    let workspace = Workspace::with(
        "environment = \"staging\"\n[tokens]\ndrain = \"1s\"\nhold = \"3s\"\nkeep_warm = \"5m\"\n",
    );
    let variables = [("PLEO_PROXY_TOKENS_DRAIN", "100ms"), ("PLEO_PROXY_TOKENS_HOLD", "4s")];
    let config = workspace.load(&["tokens.drain=50ms"], &variables).unwrap();
    let path = workspace.path().join("proxy.toml");
    assert_eq!(config.tokens.drain, Duration::from_millis(50));
    assert_eq!(config.origins["tokens.drain"], Origin::Flag);
    assert_eq!(config.tokens.hold, Duration::from_secs(4));
    assert_eq!(config.origins["tokens.hold"], Origin::Variable("PLEO_PROXY_TOKENS_HOLD".into()));
    assert_eq!(config.tokens.keep_warm, Duration::from_secs(300));
    assert_eq!(config.origins["tokens.keep_warm"], Origin::File { path, line: 5 });
    assert_eq!(config.origins["tokens.idle_refresh"], Origin::Default);

    let chosen = Flags {
        environment: Some("sandbox".into()),
        ..workspace.flags(&["environment=production"])
    };
    let variables = workspace.variables(&[("PLEO_PROXY_ENVIRONMENT", "production")]);
    assert_eq!(load(&chosen, &variables).unwrap().environment(), Environment::Sandbox);
    assert_eq!(
        load(&workspace.flags(&[]), &variables).unwrap().environment(),
        Environment::Production
    );
}

#[test]
fn one_file_is_read_and_never_merged() {
    let workspace = Workspace::new();
    workspace.write(".config/pleo-proxy/proxy.toml", "default_account = \"home\"\n", 0o600);
    workspace.write("xdg/pleo-proxy/proxy.toml", "default_account = \"xdg\"\n", 0o600);
    let xdg = workspace.path().join("xdg");
    let xdg = [("XDG_CONFIG_HOME", xdg.to_str().unwrap())];
    let account = |config: Config| config.tokens.default_account.unwrap().to_string();
    assert_eq!(account(workspace.load(&[], &[]).unwrap()), "home");
    assert_eq!(account(workspace.load(&[], &xdg).unwrap()), "xdg");
    assert_eq!(account(workspace.load(&[], &[("XDG_CONFIG_HOME", "relative")]).unwrap()), "home");

    workspace.write("proxy.toml", "environment = \"sandbox\"\n", 0o600);
    assert_eq!(workspace.load(&[], &xdg).unwrap().tokens.default_account, None);

    workspace.write("other.toml", "default_account = \"other\"\n", 0o600);
    workspace.write("third.toml", "default_account = \"third\"\n", 0o600);
    assert_eq!(
        account(workspace.load(&[], &[("PLEO_PROXY_CONFIG", "third.toml")]).unwrap()),
        "third"
    );
    let named = Flags { config: Some("other.toml".into()), ..workspace.flags(&[]) };
    let config =
        load(&named, &workspace.variables(&[("PLEO_PROXY_CONFIG", "third.toml")])).unwrap();
    assert_eq!(config.file, Some(workspace.path().join("other.toml")));
    assert_eq!(account(config), "other");
}

#[test]
fn a_named_file_must_exist_and_be_text_of_a_sane_size() {
    let workspace = Workspace::new();
    let error = |name: &str| {
        let flags = Flags { config: Some(name.into()), ..workspace.flags(&[]) };
        load(&flags, &workspace.variables(&[])).unwrap_err().to_string()
    };
    assert!(error("none.toml").contains("none.toml does not exist"), "{}", error("none.toml"));
    fs::create_dir(workspace.path().join("folder")).unwrap();
    assert!(error("folder").contains("not a regular file"), "{}", error("folder"));
    workspace.write("large.toml", &"#\n".repeat(600_000), 0o600);
    assert!(error("large.toml").contains("larger than 1 MiB"), "{}", error("large.toml"));
    let path = workspace.write("latin1.toml", "", 0o600);
    fs::write(&path, b"# caf\xe9\n").unwrap();
    assert!(error("latin1.toml").contains("not UTF-8"), "{}", error("latin1.toml"));
    for utf_16 in [&b"\xff\xfea\0=\0"[..], b"\xfe\xff\0a\0=", b"a\0=\x001\0"] {
        fs::write(&path, utf_16).unwrap();
        let said = error("latin1.toml");
        assert!(
            said.contains("latin1.toml is UTF-16") && said.contains("save it as UTF-8"),
            "{said}"
        );
    }
}

#[test]
fn a_byte_order_mark_is_no_problem() {
    let config = Workspace::with("\u{feff}default_account = \"acme\"\n").load(&[], &[]).unwrap();
    assert_eq!(config.tokens.default_account.unwrap().as_str(), "acme");
    // Nor does it move what an error points at.
    let told = |mark: &str| {
        let workspace = Workspace::with(&format!(
            "{mark}default_account = \"-\"\r\n[tokens]\r\ndrian = \"2s\"\r\n"
        ));
        workspace.load(&[], &[]).unwrap_err().to_string()
    };
    assert_eq!(told("\u{feff}"), told(""));
    assert!(
        told("").contains("proxy.toml:1:19") && told("").contains("proxy.toml:3:1"),
        "{}",
        told("")
    );
}

#[test]
fn relative_paths_start_where_they_were_written() {
    let workspace = Workspace::new();
    let text = "[client]\nsecret_file = \"s\"\n[store]\npath = \"state\"\n[endpoints]\nca_file = \"/abs.pem\"\n";
    workspace.write("sub/proxy.toml", text, 0o600);
    let flags = Flags {
        config: Some("sub/proxy.toml".into()),
        ..workspace.flags(&["guard.local_key_file=key"])
    };
    let config = load(&flags, &workspace.variables(&[])).unwrap();
    assert!(
        matches!(&config.oauth.client_secret, SecretSource::File(path) if *path == workspace.path().join("sub/s"))
    );
    assert_eq!(config.store.path, Some(workspace.path().join("sub/state")));
    assert_eq!(config.state_root, config.store.path);
    assert_eq!(config.outbound.ca_file, Some("/abs.pem".into()));
    assert_eq!(config.callers.local_key_file, Some(workspace.path().join("key")));
}

#[test]
fn variables_carry_lists_and_every_other_shape() {
    let workspace = Workspace::new();
    let config = workspace
        .load(
            &[],
            &[
                ("PLEO_PROXY_CLIENT_SCOPES", "export-jobs:read, users:read,"),
                ("PLEO_PROXY_GUARD_PEER_CHECK", "1000,1001"),
                ("PLEO_PROXY_GUARD_ALLOW_ORIGINS", ""),
                ("PLEO_PROXY_GUARD_READ_ONLY", "true"),
                ("PLEO_PROXY_LISTEN_MAX_CONNECTIONS", "7"),
                ("PLEO_PROXY_UPSTREAM_REPLAY_LIMIT", "1024"),
                ("PLEO_PROXY_DEFAULT_ACCOUNT", "acme"),
                ("PLEO_PROXYISH", "not ours"),
            ],
        )
        .unwrap();
    assert_eq!(config.oauth.scopes, ["export-jobs:read", "users:read"]);
    assert_eq!(config.callers.peer_check, PeerCheck::Users(vec![1000, 1001]));
    assert!(config.guard().unwrap().allow_origins.is_empty() && config.guard().unwrap().read_only);
    assert_eq!((config.listen.max_connections, config.upstream.replay_limit), (7, 1024));
    assert_eq!(config.tokens.default_account.unwrap().as_str(), "acme");
}

#[test]
fn set_takes_toml_and_bare_text() {
    let workspace = Workspace::new();
    let config = workspace
        .load(
            &[
                "listen.api=\"127.0.0.1:0\"",
                "listen.admin = 127.0.0.1:0",
                "client.scopes=[\"a\", \"b\"]",
                "guard.allow_hosts=x:1,y:2",
                "guard.peer_check=[5]",
                "client.id=12345",
                "upstream.replay_limit=0",
            ],
            &[],
        )
        .unwrap();
    assert_eq!(config.listen.api.named().port(), 0);
    assert_eq!(config.oauth.scopes, ["a", "b"]);
    assert_eq!(config.guard().unwrap().allow_hosts, ["x:1", "y:2"]);
    assert_eq!(config.callers.peer_check, PeerCheck::Users(vec![5]));
    assert_eq!(config.oauth.client_id.unwrap(), "12345");
    assert_eq!(config.upstream.replay_limit, 0);
}

#[test]
fn the_secret_comes_from_a_flag_a_variable_the_file_or_a_credential() {
    let workspace = Workspace::with("[client]\nsecret_file = \"from-file\"\n");
    let path = |config: Config| match config.oauth.client_secret {
        SecretSource::File(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
        other => format!("{other:?}"),
    };
    let variable = ("PLEO_PROXY_CLIENT_SECRET", "hunter2");
    assert_eq!(path(workspace.load(&[], &[]).unwrap()), "from-file");
    assert_eq!(path(workspace.load(&[], &[("PLEO_PROXY_CLIENT_SECRET_FILE", "v")]).unwrap()), "v");
    assert_eq!(
        path(workspace.load(&["client.secret_file=from-flag"], &[variable]).unwrap()),
        "from-flag"
    );
    let SecretSource::Value(secret) = workspace.load(&[], &[variable]).unwrap().oauth.client_secret
    else {
        panic!()
    };
    assert_eq!(secret.expose(), "hunter2");
    let saved = [("PLEO_PROXY_CLIENT_SECRET", "\u{feff}hunter2\r\n")];
    let SecretSource::Value(secret) = workspace.load(&[], &saved).unwrap().oauth.client_secret
    else {
        panic!()
    };
    assert_eq!(secret.expose(), "hunter2", "as `$(cat FILE)` brings it");
    let both = [variable, ("PLEO_PROXY_CLIENT_SECRET_FILE", "v")];
    let error = workspace.load(&[], &both).unwrap_err().to_string();
    assert!(error.contains("both set") && !error.contains("hunter2"), "{error}");

    let workspace = Workspace::new();
    let credentials = workspace.path().to_str().unwrap().to_owned();
    let credentials = [("CREDENTIALS_DIRECTORY", credentials.as_str())];
    assert!(matches!(
        workspace.load(&[], &credentials).unwrap().oauth.client_secret,
        SecretSource::None
    ));
    workspace.write("client-secret", "hunter2", 0o600);
    let config = workspace.load(&[], &credentials).unwrap();
    assert_eq!(config.origins["client.secret"], Origin::Variable("CREDENTIALS_DIRECTORY".into()));
    assert!(show(&config).contains("CREDENTIALS_DIRECTORY"), "{}", show(&config));
    assert_eq!(path(config), "client-secret");
}

#[test]
fn no_secret_is_ever_printed() {
    let workspace =
        Workspace::with("[upstream]\nproxy = \"http://user:canary-p@proxy.example:3128\"\n");
    let variables = [
        ("PLEO_PROXY_CLIENT_SECRET", "canary-s"),
        ("HTTPS_PROXY", "http://u:canary-v@p:1"),
        ("all_proxy", "canary-a@h"),
    ];
    let config = workspace.load(&[], &variables).unwrap();
    for shown in [format!("{config:?}"), format!("{config:#?}"), show(&config)] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(
        matches!(&config.outbound.proxy, ProxyChoice::Url(url) if url.password() == Some("canary-p"))
    );
    assert_eq!(config.outbound.variables.get("HTTPS_PROXY"), "http://u:canary-v@p:1");
    assert_eq!(config.outbound.variables.get("ALL_PROXY"), "canary-a@h");
    assert!(show(&config).contains("HTTPS_PROXY = http://p:1"), "{}", show(&config));
    assert!(
        show(&config).contains("the client secret is set by variable PLEO_PROXY_CLIENT_SECRET")
    );

    for (set, variable) in [
        ("client.secret=canary", ("HOME", "/")),
        ("client.secret", ("HOME", "/")),
        ("client.secert=canary", ("HOME", "/")),
        ("listen.api=canary", ("HOME", "/")),
        ("upstream.proxy=socks5://canary@h", ("HOME", "/")),
        ("listen.api=127.0.0.1:0", ("PLEO_PROXY_CLIENT_SECRET", "canary\nmore")),
        ("listen.api=127.0.0.1:0", ("PLEO_PROXY_UPSTREAM_PROXY", "https://canary@h/x")),
        ("listen.api=127.0.0.1:0", ("PLEO_PROXY_ENDPOINTS_API", "https://canary@h")),
    ] {
        let error = workspace.load(&[set], &[variable]).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("canary"), "{error}");
    }
}

#[test]
fn a_store_needs_a_place_outside_the_sandbox() {
    let workspace = Workspace::new();
    let load = |environment: &str| {
        load(&workspace.flags(&[&format!("environment={environment}")]), &Variables::new())
    };
    assert_eq!(load("sandbox").unwrap().state_root, None);
    let error = load("staging").unwrap_err().to_string();
    assert!(error.contains("store.path"), "{error}");
}

#[test]
fn the_named_files_are_opened_on_demand_only() {
    let workspace = Workspace::with("[client]\nsecret_file = \"secret\"\n");
    let config = workspace.load(&[], &[]).unwrap();
    let error = check(&config).unwrap_err().to_string();
    assert!(error.contains("client.secret_file") && error.contains("does not exist"), "{error}");
    workspace.write("secret", "hunter2\n", 0o644);
    assert!(check(&config).unwrap_err().to_string().contains("chmod 600"));
    for (content, fault) in
        [("\r\n", "is empty"), ("hunter2\nhunter3\n", "one line"), ("h\0u\0", "UTF-16")]
    {
        workspace.write("secret", content, 0o600);
        let error = check(&config).unwrap_err().to_string();
        assert!(error.contains("client.secret_file") && error.contains(fault), "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    workspace.write("secret", "hunter2\n", 0o600);
    assert_eq!(check(&config).unwrap(), []);
    workspace.write("secret", "hunter2 \r\n", 0o600);
    let [space] = &check(&config).unwrap()[..] else { panic!() };
    assert!(
        space.title.contains("ends with a space") && !space.to_string().contains("hunter"),
        "{space}"
    );
    for (key, fault) in [("\u{feff}\r\n", "is empty"), ("k\0e\0y\0", "UTF-16")] {
        workspace.write("key", key, 0o600);
        let error = workspace.load(&["guard.local_key_file=key"], &[]).unwrap();
        assert!(check(&error).unwrap_err().to_string().contains(fault));
        assert!(
            error.guard().unwrap_err().to_string().contains(fault),
            "no key would let everybody in"
        );
    }
}

#[test]
fn show_can_be_used_as_a_file() {
    for name in ["staging.toml", "one_override.toml", "own_sandbox.toml", "empty.toml"] {
        let path = examples("valid").into_iter().find(|path| path.ends_with(name)).unwrap();
        let workspace = Workspace::with(&fs::read_to_string(path).unwrap());
        let config = workspace.load(&[], &[]).unwrap();
        let store = format!("store.path={}", config.state_root.as_ref().unwrap().display());
        let config = workspace.load(&[&store], &[]).unwrap();
        workspace.write("proxy.toml", &show(&config), 0o600);
        let again =
            workspace.load(&[], &[]).unwrap_or_else(|error| panic!("{error}\n{}", show(&config)));
        assert_eq!(meaning(&config), meaning(&again), "{name}");
    }
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

/// `#key = value` as `key = value`.
fn uncommented(text: &str, examples: bool) -> String {
    let is_key = |line: &str| {
        let is_code = |first: char| first.is_ascii_lowercase() || first == '[';
        line.starts_with('#') && line[1..].starts_with(is_code)
    };
    let wanted = |line: &str| is_key(line) && (examples || !line.contains("# example"));
    let lines = text.lines().map(|line| if wanted(line) { &line[1..] } else { line });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_shipped_file_shows_the_real_defaults_and_every_key() {
    let defaults = Workspace::new().load(&[], &[("HOME", "/home/x")]).unwrap();
    for text in [shipped(), uncommented(&shipped(), false)] {
        let config = Workspace::with(&text).load(&[], &[("HOME", "/home/x")]).unwrap();
        assert_eq!(meaning(&config), meaning(&defaults));
    }
    let whole = uncommented(&shipped(), true);
    let config = Workspace::with(&whole).load(&["environment=staging"], &[]).unwrap();
    let missing: Vec<_> =
        config.origins.iter().filter(|(_, origin)| **origin == Origin::Default).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    #[test]
    fn any_text_loads_or_fails_in_words(text in r#"([a-z_.]{0,8}|[\[\]={}"'#,\\\n@ \t\r]|listen|client|secret|api|"[^"]{0,6}"|"""|'''|é|[0-9]{1,3}|\PC){0,40}"#) {
        if let Err(error) = Workspace::with(&text).load(&[], &[]) {
            prop_assert!(error.to_string().contains("help: "), "{error}");
        }
    }

    #[test]
    fn any_value_of_any_key_loads_or_fails_in_words(key in 0_usize..33, value in r#"\PC{0,20}|[a-z]{1,5}://[a-z@:/?#\[\]%.0-9-]{0,20}|[0-9]{1,20}[a-zA-Z]{0,3}"#) {
        let names: Vec<String> = Workspace::new().load(&[], &[]).unwrap().origins.into_keys().collect();
        let name = &names[key % names.len()];
        let text = format!("{name} = {}\n", toml::Value::from(value.clone()));
        for outcome in [Workspace::with(&text).load(&[], &[]), Workspace::new().load(&[&format!("{name}={value}")], &[])] {
            if let Err(error) = outcome {
                prop_assert!(error.to_string().contains("help: "), "{error}");
            }
        }
    }
}
