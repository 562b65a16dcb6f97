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
    Code, Config, ConfigError, Environment, Flags, Origin, SecretSource, Severity, load,
};
use pleo_proxy::outbound::ProxyChoice;
use pleo_proxy::proxy::peer::PeerCheck;

type Variables = BTreeMap<String, String>;

/// A folder to run in, with a home of its own.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn with(text: &str) -> Self {
        let place = Self::new();
        place.write("proxy.toml", text, 0o600);
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn flags(&self, set: &[&str]) -> Flags {
        let set = set.iter().map(ToString::to_string).collect();
        Flags { set, working_dir: self.path().into(), ..Flags::default() }
    }

    fn variables(&self, more: &[(&str, &str)]) -> Variables {
        let home = ("HOME", self.path().to_str().unwrap());
        [home]
            .iter()
            .chain(more)
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect()
    }

    fn load(&self, set: &[&str], variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(&self.flags(set), &self.variables(variables))
    }
}

fn load_file(path: &Path) -> Result<Config, ConfigError> {
    // A checkout may be group-writable; what the files say is the point here, not their mode.
    let copy = Place::new();
    let name = path.file_name().unwrap().to_str().unwrap();
    copy.write(name, &fs::read_to_string(path).unwrap(), 0o600);
    load(&Flags { config: Some(name.into()), ..copy.flags(&[]) }, &copy.variables(&[]))
}

fn examples(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

fn marks<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix(mark))
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
        assert!(config.show().contains("environment = "), "{}", path.display());
    }
}

#[test]
fn invalid_files_tell_what_is_wrong_where_and_how_to_fix_it() {
    let paths = examples("invalid");
    assert!(paths.len() >= 50, "{}", paths.len());
    for path in paths {
        let (text, name) =
            (fs::read_to_string(&path).unwrap(), path.file_name().unwrap().to_str().unwrap());
        let error = match load_file(&path) {
            Ok(_) => panic!("{name} loads"),
            Err(error) => error.to_string(),
        };
        assert!(marks(&text, "# expect: ").next().is_some(), "{name} expects nothing");
        for words in marks(&text, "# expect: ") {
            assert!(error.contains(words), "{name} lacks {words:?}:\n{error}");
        }
        for words in marks(&text, "# refuse: ") {
            assert!(!error.contains(words), "{name} shows {words:?}:\n{error}");
        }
        let position = error
            .split(&format!("--> {name}:"))
            .nth(1)
            .unwrap_or_else(|| panic!("{name}:\n{error}"));
        let line: usize = position.split(':').next().unwrap().parse().unwrap();
        // A text that never ends is an error behind the last line.
        assert!(line <= text.lines().count() + 1, "{name} has no line {line}");
        let at = text.lines().nth(line - 1).unwrap_or_default();
        assert!(!at.starts_with("# "), "{name} points at a comment:\n{error}");
        assert!(error.contains("help: "), "{name}:\n{error}");
    }
}

#[test]
fn an_error_looks_like_a_compilers() {
    let place = Place::with("[listen]\napi = \"localhost:8088\"  # here\n");
    let error = place.load(&[], &[]).unwrap_err().to_string();
    let expected = "\
error: `listen.api` must be an IP address and a port
 --> proxy.toml:2:7
  |
2 | api = \"localhost:8088\"
  |       ^^^^^^^^^^^^^^^^
  |
  = help: write for example: api = \"127.0.0.1:8088\"";
    assert_eq!(error, expected, "\n{error}");
}

#[test]
fn a_diagnostic_is_a_value_with_code_severity_title_place_and_fix() {
    let place = Place::with("[listen]\napi = \"localhost:8088\"\nnope = 1\n");
    let error = place.load(&[], &[]).unwrap_err();
    let [value, name] = error.diagnostics() else { panic!("{error}") };
    assert_eq!((value.code, value.severity), (Code::InvalidValue, Severity::Error));
    assert_eq!(value.title, "`listen.api` must be an IP address and a port");
    assert_eq!(value.fix, "write for example: api = \"127.0.0.1:8088\"");
    let at = value.place.as_ref().unwrap();
    assert_eq!((at.file.as_str(), at.line, at.column), ("proxy.toml", 2, 7));
    assert_eq!((name.code, name.place.as_ref().unwrap().line), (Code::UnknownName, 3));
}

#[test]
fn a_renamed_key_and_its_variable_lead_to_the_new_name() {
    let place = Place::with("[tokens]\nkeep_alive = \"7d\"\n");
    let variables = [("PLEO_PROXY_TOKENS_KEEP_ALIVE", "7d")];
    let error = place.load(&["tokens.keep_alive=7d"], &variables).unwrap_err().to_string();
    assert!(error.contains("unknown key `tokens.keep_alive`"), "{error}");
    assert_eq!(
        error.matches("`tokens.keep_alive` is called `tokens.idle_refresh` now").count(),
        2,
        "{error}"
    );
    assert!(error.contains("is called `PLEO_PROXY_TOKENS_IDLE_REFRESH` now"), "{error}");
}

#[test]
fn the_item_of_a_list_is_pointed_at() {
    let place = Place::with("[client]\nscopes = [\n  \"users:read\",\n  \"a b\",\n]\n");
    let error = place.load(&[], &[]).unwrap_err().to_string();
    assert!(error.contains("proxy.toml:4:3") && error.contains("\"a b\""), "{error}");
}

#[test]
fn all_problems_are_told_at_once() {
    let place = Place::with("[guard]\nread_olny = true\n[listen]\napi = 1\nadmin = \"x\"\n");
    let error = place.load(&["nope=1"], &[("PLEO_PROXY_NOPE", "1")]).unwrap_err().to_string();
    assert_eq!(error.matches("error: ").count(), 5, "{error}");
}

#[test]
fn without_a_file_the_defaults_are_the_sandbox() {
    let place = Place::new();
    let config = place.load(&[], &[]).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(config.environment(), Environment::Sandbox);
    assert_eq!(config.listen.api.to_string(), "127.0.0.1:8088");
    assert_eq!(config.listen.admin.unwrap().to_string(), "127.0.0.1:8089");
    assert!(config.embedded_sandbox);
    assert_eq!(config.oauth.token.url().as_str(), "http://127.0.0.1:8090/oauth/token");
    assert_eq!(config.tokens.idle_refresh, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.upstream.replay_limit, 256 * 1024);
    assert_eq!(config.upstream.idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.state_root, Some(place.path().join(".local/state/pleo-proxy")));
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
        let config = Place::new().load(&[&format!("environment={name}")], &[]).unwrap();
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
    let place = Place::with(
        "environment = \"staging\"\n[tokens]\ndrain = \"1s\"\nhold = \"3s\"\nkeep_warm = \"5m\"\n",
    );
    let variables = [("PLEO_PROXY_TOKENS_DRAIN", "100ms"), ("PLEO_PROXY_TOKENS_HOLD", "4s")];
    let config = place.load(&["tokens.drain=50ms"], &variables).unwrap();
    let path = place.path().join("proxy.toml");
    assert_eq!(config.tokens.drain, Duration::from_millis(50));
    assert_eq!(config.origins["tokens.drain"], Origin::Flag);
    assert_eq!(config.tokens.hold, Duration::from_secs(4));
    assert_eq!(config.origins["tokens.hold"], Origin::Variable("PLEO_PROXY_TOKENS_HOLD".into()));
    assert_eq!(config.tokens.keep_warm, Duration::from_secs(300));
    assert_eq!(config.origins["tokens.keep_warm"], Origin::File { path, line: 5 });
    assert_eq!(config.origins["tokens.idle_refresh"], Origin::Default);

    let chosen =
        Flags { environment: Some("sandbox".into()), ..place.flags(&["environment=production"]) };
    let variables = place.variables(&[("PLEO_PROXY_ENVIRONMENT", "production")]);
    assert_eq!(load(&chosen, &variables).unwrap().environment(), Environment::Sandbox);
    assert_eq!(load(&place.flags(&[]), &variables).unwrap().environment(), Environment::Production);
}

#[test]
fn a_bad_value_is_told_by_the_name_of_its_layer() {
    let place = Place::with("[listen]\napi = \"127.0.0.1:1\"\n");
    let error = place.load(&[], &[("PLEO_PROXY_LISTEN_API", "nowhere")]).unwrap_err().to_string();
    assert!(
        error.contains("PLEO_PROXY_LISTEN_API=127.0.0.1:8088") && !error.contains("proxy.toml"),
        "{error}"
    );
    let error = place.load(&["guard.read_only=maybe"], &[]).unwrap_err().to_string();
    assert!(error.contains("--set guard.read_only=false"), "{error}");
}

#[test]
fn one_file_is_read_and_never_merged() {
    let place = Place::new();
    place.write(".config/pleo-proxy/proxy.toml", "default_account = \"home\"\n", 0o600);
    place.write("xdg/pleo-proxy/proxy.toml", "default_account = \"xdg\"\n", 0o600);
    let xdg = place.path().join("xdg");
    let xdg = [("XDG_CONFIG_HOME", xdg.to_str().unwrap())];
    let account = |config: Config| config.tokens.default_account.unwrap().to_string();
    assert_eq!(account(place.load(&[], &[]).unwrap()), "home");
    assert_eq!(account(place.load(&[], &xdg).unwrap()), "xdg");
    assert_eq!(account(place.load(&[], &[("XDG_CONFIG_HOME", "relative")]).unwrap()), "home");

    place.write("proxy.toml", "environment = \"sandbox\"\n", 0o600);
    assert_eq!(place.load(&[], &xdg).unwrap().tokens.default_account, None);

    place.write("other.toml", "default_account = \"other\"\n", 0o600);
    place.write("third.toml", "default_account = \"third\"\n", 0o600);
    assert_eq!(account(place.load(&[], &[("PLEO_PROXY_CONFIG", "third.toml")]).unwrap()), "third");
    let named = Flags { config: Some("other.toml".into()), ..place.flags(&[]) };
    let config = load(&named, &place.variables(&[("PLEO_PROXY_CONFIG", "third.toml")])).unwrap();
    assert_eq!(config.file, Some(place.path().join("other.toml")));
    assert_eq!(account(config), "other");
}

#[test]
fn a_named_file_must_exist_and_be_text_of_a_sane_size() {
    let place = Place::new();
    let error = |name: &str| {
        let flags = Flags { config: Some(name.into()), ..place.flags(&[]) };
        load(&flags, &place.variables(&[])).unwrap_err().to_string()
    };
    assert!(error("none.toml").contains("none.toml does not exist"), "{}", error("none.toml"));
    fs::create_dir(place.path().join("folder")).unwrap();
    assert!(error("folder").contains("not a regular file"), "{}", error("folder"));
    place.write("large.toml", &"#\n".repeat(600_000), 0o600);
    assert!(error("large.toml").contains("larger than 1 MiB"), "{}", error("large.toml"));
    let path = place.write("latin1.toml", "", 0o600);
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
    let config = Place::with("\u{feff}default_account = \"acme\"\n").load(&[], &[]).unwrap();
    assert_eq!(config.tokens.default_account.unwrap().as_str(), "acme");
    // Nor does it move what an error points at.
    let told = |mark: &str| {
        let place = Place::with(&format!(
            "{mark}default_account = \"-\"\r\n[tokens]\r\ndrian = \"2s\"\r\n"
        ));
        place.load(&[], &[]).unwrap_err().to_string()
    };
    assert_eq!(told("\u{feff}"), told(""));
    assert!(
        told("").contains("proxy.toml:1:19") && told("").contains("proxy.toml:3:1"),
        "{}",
        told("")
    );
}

#[test]
fn a_file_that_others_can_change_is_refused_with_the_fix() {
    let place = Place::with("environment = \"sandbox\"\n");
    place.write("proxy.toml", "environment = \"sandbox\"\n", 0o664);
    place.load(&[], &[]).unwrap();
    let error = place.load(&["environment=staging"], &[]).unwrap_err().to_string();
    assert!(error.contains("chmod go-w") && error.contains("0664"), "{error}");
    place.write("proxy.toml", "environment = \"sandbox\"\n", 0o646);
    let error = place.load(&[], &[]).unwrap_err().to_string();
    assert!(error.contains("chmod go-w") && error.contains("0646"), "{error}");
}

#[test]
fn relative_paths_start_where_they_were_written() {
    let place = Place::new();
    let text = "[client]\nsecret_file = \"s\"\n[store]\npath = \"state\"\n[endpoints]\nca_file = \"/abs.pem\"\n";
    place.write("sub/proxy.toml", text, 0o600);
    let flags = Flags {
        config: Some("sub/proxy.toml".into()),
        ..place.flags(&["guard.local_key_file=key"])
    };
    let config = load(&flags, &place.variables(&[])).unwrap();
    assert!(
        matches!(&config.oauth.client_secret, SecretSource::File(path) if *path == place.path().join("sub/s"))
    );
    assert_eq!(config.store.path, Some(place.path().join("sub/state")));
    assert_eq!(config.state_root, config.store.path);
    assert_eq!(config.outbound.ca_file, Some("/abs.pem".into()));
    assert_eq!(config.callers.local_key_file, Some(place.path().join("key")));
}

#[test]
fn variables_carry_lists_and_every_other_shape() {
    let place = Place::new();
    let config = place
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
fn unknown_variables_are_errors_with_a_suggestion() {
    let error =
        Place::new().load(&[], &[("PLEO_PROXY_LISTEN_APY", "hunter2")]).unwrap_err().to_string();
    assert!(
        error.contains("did you mean `PLEO_PROXY_LISTEN_API`?") && !error.contains("hunter2"),
        "{error}"
    );
}

#[test]
fn variables_of_a_clusters_service_are_ignored_and_said() {
    let links = [
        ("PLEO_PROXY_PORT", "tcp://10.0.0.7:8088"),
        ("PLEO_PROXY_PORT_8088_TCP_ADDR", "10.0.0.7"),
        ("PLEO_PROXY_SERVICE_HOST", "10.0.0.7"),
        ("PLEO_PROXY_SERVICE_PORT_HTTP", "8088"),
        // Of a service with a longer name.
        ("PLEO_PROXY_ADMIN_PORT", "udp://10.0.0.8:53"),
        ("PLEO_PROXY_ADMIN_PORT_53_UDP_PROTO", "udp"),
        ("PLEO_PROXY_ADMIN_SERVICE_HOST", "fd00::8"),
        ("PLEO_PROXY_ADMIN_SERVICE_PORT_DNS", "53"),
    ];
    let config = Place::new().load(&[], &links).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    for (name, _) in links {
        assert!(warning.title.contains(name), "{name}: {warning:?}");
    }
    for (mistyped, value) in
        [("PLEO_PROXY_LISTEN_PORT", "8088"), ("PLEO_PROXY_PORTS", "1"), ("PLEO_PROXY_SERVICE", "x")]
    {
        let error = Place::new().load(&[], &[(mistyped, value)]).unwrap_err().to_string();
        assert!(error.contains(mistyped), "{error}");
    }
}

#[test]
fn set_takes_toml_and_bare_text() {
    let place = Place::new();
    let config = place
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
    let place = Place::with("[client]\nsecret_file = \"from-file\"\n");
    let path = |config: Config| match config.oauth.client_secret {
        SecretSource::File(path) => path.file_name().unwrap().to_str().unwrap().to_owned(),
        other => format!("{other:?}"),
    };
    let variable = ("PLEO_PROXY_CLIENT_SECRET", "hunter2");
    assert_eq!(path(place.load(&[], &[]).unwrap()), "from-file");
    assert_eq!(path(place.load(&[], &[("PLEO_PROXY_CLIENT_SECRET_FILE", "v")]).unwrap()), "v");
    assert_eq!(
        path(place.load(&["client.secret_file=from-flag"], &[variable]).unwrap()),
        "from-flag"
    );
    let SecretSource::Value(secret) = place.load(&[], &[variable]).unwrap().oauth.client_secret
    else {
        panic!()
    };
    assert_eq!(secret.expose(), "hunter2");
    let saved = [("PLEO_PROXY_CLIENT_SECRET", "\u{feff}hunter2\r\n")];
    let SecretSource::Value(secret) = place.load(&[], &saved).unwrap().oauth.client_secret else {
        panic!()
    };
    assert_eq!(secret.expose(), "hunter2", "as `$(cat FILE)` brings it");
    let both = [variable, ("PLEO_PROXY_CLIENT_SECRET_FILE", "v")];
    let error = place.load(&[], &both).unwrap_err().to_string();
    assert!(error.contains("both set") && !error.contains("hunter2"), "{error}");

    let place = Place::new();
    let credentials = place.path().to_str().unwrap().to_owned();
    let credentials = [("CREDENTIALS_DIRECTORY", credentials.as_str())];
    assert!(matches!(
        place.load(&[], &credentials).unwrap().oauth.client_secret,
        SecretSource::None
    ));
    place.write("client-secret", "hunter2", 0o600);
    let config = place.load(&[], &credentials).unwrap();
    assert_eq!(config.origins["client.secret"], Origin::Variable("CREDENTIALS_DIRECTORY".into()));
    assert!(config.show().contains("CREDENTIALS_DIRECTORY"), "{}", config.show());
    assert_eq!(path(config), "client-secret");
}

#[test]
fn no_secret_is_ever_printed() {
    let place = Place::with("[upstream]\nproxy = \"http://user:canary-p@proxy.example:3128\"\n");
    let variables = [
        ("PLEO_PROXY_CLIENT_SECRET", "canary-s"),
        ("HTTPS_PROXY", "http://u:canary-v@p:1"),
        ("all_proxy", "canary-a@h"),
    ];
    let config = place.load(&[], &variables).unwrap();
    for shown in [format!("{config:?}"), format!("{config:#?}"), config.show()] {
        assert!(!shown.contains("canary"), "{shown}");
    }
    assert!(
        matches!(&config.outbound.proxy, ProxyChoice::Url(url) if url.password() == Some("canary-p"))
    );
    assert_eq!(config.outbound.variables.get("HTTPS_PROXY"), "http://u:canary-v@p:1");
    assert_eq!(config.outbound.variables.get("ALL_PROXY"), "canary-a@h");
    assert!(config.show().contains("HTTPS_PROXY = http://p:1"), "{}", config.show());
    assert!(
        config.show().contains("the client secret is set by variable PLEO_PROXY_CLIENT_SECRET")
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
        let error = place.load(&[set], &[variable]).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("canary"), "{error}");
    }
}

#[test]
fn a_store_needs_a_place_outside_the_sandbox() {
    let place = Place::new();
    let load = |environment: &str| {
        load(&place.flags(&[&format!("environment={environment}")]), &Variables::new())
    };
    assert_eq!(load("sandbox").unwrap().state_root, None);
    let error = load("staging").unwrap_err().to_string();
    assert!(error.contains("store.path"), "{error}");
}

#[test]
fn the_named_files_are_opened_on_demand_only() {
    let place = Place::with("[client]\nsecret_file = \"secret\"\n");
    let config = place.load(&[], &[]).unwrap();
    let error = config.check().unwrap_err().to_string();
    assert!(error.contains("client.secret_file") && error.contains("does not exist"), "{error}");
    place.write("secret", "hunter2\n", 0o644);
    assert!(config.check().unwrap_err().to_string().contains("chmod 600"));
    for (content, fault) in
        [("\r\n", "is empty"), ("hunter2\nhunter3\n", "one line"), ("h\0u\0", "UTF-16")]
    {
        place.write("secret", content, 0o600);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("client.secret_file") && error.contains(fault), "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    place.write("secret", "hunter2\n", 0o600);
    assert_eq!(config.check().unwrap(), []);
    place.write("secret", "hunter2 \r\n", 0o600);
    let [space] = &config.check().unwrap()[..] else { panic!() };
    assert!(
        space.title.contains("ends with a space") && !space.to_string().contains("hunter"),
        "{space}"
    );
    for (key, fault) in [("\u{feff}\r\n", "is empty"), ("k\0e\0y\0", "UTF-16")] {
        place.write("key", key, 0o600);
        let error = place.load(&["guard.local_key_file=key"], &[]).unwrap();
        assert!(error.check().unwrap_err().to_string().contains(fault));
        assert!(
            error.guard().unwrap_err().to_string().contains(fault),
            "no key would let everybody in"
        );
    }
}

#[test]
fn a_check_tells_all_that_a_login_would_miss() {
    let missing = |text: &str| {
        Place::with(text).load(&[], &[]).unwrap().check().err().map(|error| error.to_string())
    };
    assert_eq!(
        missing("environment = \"sandbox\"\n"),
        None,
        "the embedded sandbox brings everything"
    );
    let own = "[endpoints]\nauthorize = \"http://127.0.0.1:1/a\"\ntoken = \"http://127.0.0.1:1/t\"\n\
               api = \"http://127.0.0.1:1\"\n";
    for text in ["environment = \"staging\"\n", "environment = \"production\"\n", own] {
        let told = missing(text).unwrap();
        for wanted in
            ["`client.id` is not set", "client secret is not set", "`client.scopes` is empty"]
        {
            assert!(told.contains(wanted), "{text}: {told}");
        }
    }
    for example in ["staging", "production"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{example}.toml"));
        let told = missing(&fs::read_to_string(file).unwrap()).unwrap();
        assert!(
            told.contains("`client.id` still has the value") && told.contains("client-secret"),
            "{told}"
        );
        assert_eq!(
            told.contains("`client.redirect_uri` still has"),
            example == "production",
            "{told}"
        );
    }
}

#[test]
fn show_can_be_used_as_a_file() {
    for name in ["staging.toml", "one_override.toml", "own_sandbox.toml", "empty.toml"] {
        let path = examples("valid").into_iter().find(|path| path.ends_with(name)).unwrap();
        let place = Place::with(&fs::read_to_string(path).unwrap());
        let config = place.load(&[], &[]).unwrap();
        let store = format!("store.path={}", config.state_root.as_ref().unwrap().display());
        let config = place.load(&[&store], &[]).unwrap();
        place.write("proxy.toml", &config.show(), 0o600);
        let again =
            place.load(&[], &[]).unwrap_or_else(|error| panic!("{error}\n{}", config.show()));
        assert_eq!(meaning(&config), meaning(&again), "{name}");
    }
}

fn shipped() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml")).unwrap()
}

/// `#key = value` as `key = value`.
fn uncommented(text: &str, examples: bool) -> String {
    let is_key = |line: &str| {
        line.starts_with('#') && line[1..].starts_with(|first: char| first.is_ascii_lowercase())
    };
    let wanted = |line: &str| is_key(line) && (examples || !line.contains("# example"));
    let lines = text.lines().map(|line| if wanted(line) { &line[1..] } else { line });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_shipped_file_shows_the_real_defaults_and_every_key() {
    let defaults = Place::new().load(&[], &[("HOME", "/home/x")]).unwrap();
    for text in [shipped(), uncommented(&shipped(), false)] {
        let config = Place::with(&text).load(&[], &[("HOME", "/home/x")]).unwrap();
        assert_eq!(meaning(&config), meaning(&defaults));
    }
    let whole = uncommented(&shipped(), true);
    let config = Place::with(&whole).load(&["environment=staging"], &[]).unwrap();
    let missing: Vec<_> =
        config.origins.iter().filter(|(_, origin)| **origin == Origin::Default).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

proptest! {
    #[test]
    fn any_text_loads_or_fails_in_words(text in r#"([a-z_.]{0,8}|[\[\]={}"'#,\\\n@ \t\r]|listen|client|secret|api|"[^"]{0,6}"|"""|'''|é|[0-9]{1,3}|\PC){0,40}"#) {
        if let Err(error) = Place::with(&text).load(&[], &[]) {
            prop_assert!(error.to_string().contains("help: "), "{error}");
        }
    }

    #[test]
    fn any_value_of_any_key_loads_or_fails_in_words(key in 0_usize..33, value in r#"\PC{0,20}|[a-z]{1,5}://[a-z@:/?#\[\]%.0-9-]{0,20}|[0-9]{1,20}[a-zA-Z]{0,3}"#) {
        let names: Vec<String> = Place::new().load(&[], &[]).unwrap().origins.into_keys().collect();
        let name = &names[key % names.len()];
        let text = format!("{name} = {}\n", toml::Value::from(value.clone()));
        for outcome in [Place::with(&text).load(&[], &[]), Place::new().load(&[&format!("{name}={value}")], &[])] {
            if let Err(error) = outcome {
                prop_assert!(error.to_string().contains("help: "), "{error}");
            }
        }
    }
}
