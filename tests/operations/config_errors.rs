//! What is said about a configuration with mistakes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::Path;

use super::config::{Workspace, examples, load_file};
use pleo_proxy::config::{Code, Severity, check};

fn marks<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix(mark))
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
    let workspace = Workspace::with("[listen]\napi = \"localhost:8088\"  # here\n");
    let error = workspace.load(&[], &[]).unwrap_err().to_string();
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
    let workspace = Workspace::with("[listen]\napi = \"localhost:8088\"\nnope = 1\n");
    let error = workspace.load(&[], &[]).unwrap_err();
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
    let workspace = Workspace::with("[tokens]\nkeep_alive = \"7d\"\n");
    let variables = [("PLEO_PROXY_TOKENS_KEEP_ALIVE", "7d")];
    let error = workspace.load(&["tokens.keep_alive=7d"], &variables).unwrap_err().to_string();
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
    let workspace = Workspace::with("[client]\nscopes = [\n  \"users:read\",\n  \"a b\",\n]\n");
    let error = workspace.load(&[], &[]).unwrap_err().to_string();
    assert!(error.contains("proxy.toml:4:3") && error.contains("\"a b\""), "{error}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let workspace =
        Workspace::with("[guard]\nread_olny = true\n[listen]\napi = 1\nadmin = \"x\"\n");
    let error = workspace.load(&["nope=1"], &[("PLEO_PROXY_NOPE", "1")]).unwrap_err().to_string();
    assert_eq!(error.matches("error: ").count(), 5, "{error}");
}

#[test]
fn an_invalid_value_is_reported_with_its_source() {
    let workspace = Workspace::with("[listen]\napi = \"127.0.0.1:1\"\n");
    let error =
        workspace.load(&[], &[("PLEO_PROXY_LISTEN_API", "nowhere")]).unwrap_err().to_string();
    assert!(
        error.contains("PLEO_PROXY_LISTEN_API=127.0.0.1:8088") && !error.contains("proxy.toml"),
        "{error}"
    );
    let error = workspace.load(&["guard.read_only=maybe"], &[]).unwrap_err().to_string();
    assert!(error.contains("--set guard.read_only=false"), "{error}");
}

#[test]
fn a_file_that_others_can_change_is_refused_with_the_fix() {
    let workspace = Workspace::with("environment = \"sandbox\"\n");
    workspace.write("proxy.toml", "environment = \"sandbox\"\n", 0o664);
    workspace.load(&[], &[]).unwrap();
    let error = workspace.load(&["environment=staging"], &[]).unwrap_err().to_string();
    assert!(error.contains("chmod go-w") && error.contains("0664"), "{error}");
    workspace.write("proxy.toml", "environment = \"sandbox\"\n", 0o646);
    let error = workspace.load(&[], &[]).unwrap_err().to_string();
    assert!(error.contains("chmod go-w") && error.contains("0646"), "{error}");
}

#[test]
fn unknown_variables_are_errors_with_a_suggestion() {
    let error = Workspace::new()
        .load(&[], &[("PLEO_PROXY_LISTEN_APY", "hunter2")])
        .unwrap_err()
        .to_string();
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
    let config = Workspace::new().load(&[], &links).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    for (name, _) in links {
        assert!(warning.title.contains(name), "{name}: {warning:?}");
    }
    for (mistyped, value) in
        [("PLEO_PROXY_LISTEN_PORT", "8088"), ("PLEO_PROXY_PORTS", "1"), ("PLEO_PROXY_SERVICE", "x")]
    {
        let error = Workspace::new().load(&[], &[(mistyped, value)]).unwrap_err().to_string();
        assert!(error.contains(mistyped), "{error}");
    }
}

#[test]
fn config_check_reports_everything_a_login_would_need() {
    let missing = |text: &str| {
        check(&Workspace::with(text).load(&[], &[]).unwrap()).err().map(|error| error.to_string())
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
