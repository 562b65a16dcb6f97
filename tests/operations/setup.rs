//! Setting up: `init`, completions, manual pages, the version, and what a mistyped name leads to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::interrupted_login::Login;
use serde_json::json;
use support::command::{FAILED, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::terminal::{has_terminals, on_terminal};
use support::{Workspace, problem, sandbox, write_private};

/// A folder without a configuration, and without a secret in the environment.
struct Empty(Workspace);

impl Empty {
    fn new() -> Self {
        let workspace = Workspace::new("");
        fs::remove_file(workspace.path().join("proxy.toml")).unwrap();
        Self(workspace)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.0.command(arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET");
        command
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> std::process::Output {
        use std::io::Write as _;
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // A command that refuses its flags does not read.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.run_with(arguments, "")
    }

    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

const STAGING: [&str; 7] =
    ["init", "--environment", "staging", "--client-id", "our-client", "--for", "export,vendors"];

#[test]
fn init_writes_what_was_chosen_and_what_pleo_must_know() {
    let empty = Empty::new();
    let done = empty.run_with(&STAGING, "hush-hush\n");
    assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
    assert_eq!(empty.files(), ["client-secret", "proxy.toml"]);
    assert_eq!(empty.read("client-secret"), "hush-hush\n");
    for file in empty.files() {
        assert_eq!(mode(&empty.0.path().join(&file)), 0o600, "{file}");
    }
    let written = empty.read("proxy.toml");
    let settings: Vec<_> =
        written.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(
        settings,
        [
            "environment = \"staging\"",
            "[client]",
            "id = \"our-client\"",
            "secret_file = \"client-secret\"",
            "scopes = [\"export-jobs:read\", \"export-items:read\", \"export-jobs:write\", \
             \"vendors:read\", \"vendors:write\"]",
        ]
    );
    for row in pleo_proxy::config::rows().filter(|row| {
        ["environment", "client.id", "client.secret_file", "client.scopes"].contains(&row.name)
    }) {
        let comments: String = written
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .collect::<Vec<_>>()
            .join(" ");
        assert!(comments.contains(row.doc), "{} is not explained:\n{written}", row.name);
    }
    let checked = empty.run(&["config", "check"]);
    assert_eq!(code(&checked), SUCCESS, "{}", stderr(&checked));
    for told in [
        "Environment:    staging",
        "Redirect URI:   http://127.0.0.1:8089/callback",
        "Initiation URI: http://127.0.0.1:8089/connect",
        "Settings URI:   http://127.0.0.1:8089/\n",
        "Scopes:         export-jobs:read export-items:read",
    ] {
        assert!(stdout(&done).contains(told), "{told}: {}", stdout(&done));
    }
    assert!(stderr(&done).contains("pleo-proxy login"), "{}", stderr(&done));
    assert!(!stdout(&done).contains("hush") && !stderr(&done).contains("hush"));
}

#[test]
fn a_sandbox_with_endpoints_of_its_own_gets_its_client_and_its_secret() {
    let empty = Empty::new();
    let origin = "http://127.0.0.1:8090";
    let mut arguments = vec!["init", "--environment", "sandbox"];
    let sets = [
        format!("endpoints.authorize={origin}/oauth/authorize"),
        format!("endpoints.token={origin}/oauth/token"),
        format!("endpoints.api={origin}"),
    ];
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    let lacking = empty.run_with(&arguments, "hush-hush\n");
    assert_eq!(code(&lacking), USAGE);
    assert!(stderr(&lacking).contains("--client-id ID"), "{}", stderr(&lacking));
    arguments.extend(["--client-id", "sandbox-client", "--for", "companies, vendors"]);
    let done = empty.run_with(&arguments, "hush-hush\n");
    assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
    assert_eq!(empty.read("client-secret"), "hush-hush\n");
    assert_eq!(code(&empty.run(&["config", "check"])), SUCCESS);
    assert!(stderr(&done).contains("pleo-proxy login"), "{}", stderr(&done));
    assert_eq!(stdout(&done), "", "Pleo need not know this client");
}

#[test]
fn init_replaces_nothing_unless_told_to_and_writes_both_files_or_none() {
    let empty = Empty::new();
    let config = empty.0.path().join("proxy.toml");
    write_private(&config, "# mine\n");
    let refused = empty.run_with(&STAGING, "hush-hush\n");
    assert_eq!(code(&refused), FAILED);
    assert!(stderr(&refused).contains("--force"), "{}", stderr(&refused));
    assert_eq!(
        (empty.files(), empty.read("proxy.toml")),
        (vec!["proxy.toml".into()], "# mine\n".into())
    );

    fs::remove_file(&config).unwrap();
    write_private(&empty.0.path().join("client-secret"), "older\n");
    let refused = empty.run_with(&STAGING, "hush-hush\n");
    assert_eq!(code(&refused), FAILED);
    assert!(stderr(&refused).contains("client-secret exists"), "{}", stderr(&refused));
    assert_eq!(
        (empty.files(), empty.read("client-secret")),
        (vec!["client-secret".into()], "older\n".into())
    );

    // A folder in the place of the configuration cannot be replaced by a file.
    fs::create_dir(&config).unwrap();
    let failed = empty.run_with(&[&STAGING[..], &["--force"]].concat(), "newer\n");
    assert_eq!(code(&failed), FAILED, "{}", stderr(&failed));
    assert_eq!(empty.read("client-secret"), "older\n", "as it was");
    fs::remove_dir(&config).unwrap();
    let forced = empty.run_with(&[&STAGING[..], &["--force"]].concat(), "newer\n");
    assert_eq!(code(&forced), SUCCESS, "{}", stderr(&forced));
    assert_eq!(empty.read("client-secret"), "newer\n");
}

#[test]
fn init_in_a_pipe_names_the_flags_that_are_missing() {
    let empty = Empty::new();
    let refused = empty.run(&["init", "--json"]);
    assert_eq!(code(&refused), USAGE);
    for flag in ["--environment", "--client-id", "--for", "--secret-file", "--no-secret"] {
        assert!(stderr(&refused).contains(flag), "{flag}: {}", stderr(&refused));
    }
    assert_eq!(json_output(&refused)["exit"], USAGE);
    let production = ["init", "--environment", "production", "--client-id", "x", "--for", "tags"];
    let refused = empty.run(&production);
    assert_eq!(code(&refused), USAGE);
    assert!(
        stderr(&refused).contains("--redirect-uri") && !stderr(&refused).contains("--client-id")
    );
    let no_secret = empty.run(&STAGING);
    assert_eq!(code(&no_secret), USAGE);
    assert!(stderr(&no_secret).contains("client secret"), "{}", stderr(&no_secret));
    for (wrong, hint) in [
        (["--for", "vendor"], "did you mean vendors?"),
        (["--redirect-uri", "pleo.test/callback"], "http"),
        (["--port", "65535"], "65534"),
        (["--client-id", " x"], "printable"),
    ] {
        let refused = empty.run(&[&["init", "--environment", "staging"], &wrong[..]].concat());
        assert_eq!(code(&refused), USAGE, "{wrong:?}");
        assert!(stderr(&refused).contains(hint), "{wrong:?}: {}", stderr(&refused));
    }
    assert_eq!(empty.files(), [""; 0]);
}

#[test]
fn init_writes_a_production_file_with_all_that_flags_can_say() {
    let empty = Empty::new();
    write_private(&empty.0.path().join("secret"), "hush-hush\n");
    let done = empty.run(&[
        "init",
        "--config",
        "etc/acme.toml",
        "--environment",
        "production",
        "--client-id",
        "our-client",
        "--for",
        "export,employees",
        "--read-only",
        "--redirect-uri",
        "https://pleo.acme.test/callback",
        "--port",
        "9000",
        "--secret-file",
        "secret",
        "--set",
        "tokens.hold=20s",
        "--json",
    ]);
    assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
    assert!(!stderr(&done).contains("needs https"), "{}", stderr(&done));
    let told = json_output(&done);
    assert_eq!(told["scopes"], json!(["export-jobs:read", "export-items:read", "users:read"]));
    assert_eq!(told["redirect_uri"], "https://pleo.acme.test/callback");
    assert_eq!(told["next"][1], "pleo-proxy --config etc/acme.toml login --paste");
    assert!(
        told["secret_file"].is_null() && told["for_pleo"].as_str().unwrap().contains("/connect")
    );
    let written = empty.read("etc/acme.toml");
    for line in [
        "api = \"127.0.0.1:9000\"",
        "admin = \"127.0.0.1:9001\"",
        "hold = \"20s\"",
        "read_only = true",
    ] {
        assert!(written.lines().any(|it| it == line), "{line}: {written}");
    }
    let checked = empty.run(&["config", "check", "--config", "etc/acme.toml"]);
    assert_eq!(code(&checked), SUCCESS, "{}", stderr(&checked));

    let sandbox = empty.run(&["init", "--environment", "sandbox"]);
    assert_eq!(
        (code(&sandbox), stdout(&sandbox)),
        (SUCCESS, String::new()),
        "{}",
        stderr(&sandbox)
    );
    assert_eq!(code(&empty.run(&["config", "check"])), SUCCESS);
}

#[test]
fn what_pleo_will_not_take_is_pointed_out() {
    let empty = Empty::new();
    let local = ["init", "--environment", "production", "--client-id", "x", "--for", "tags"];
    let local = [&local[..], &["--no-secret", "--redirect-uri", "http://127.0.0.1:8089/callback"]];
    let done = empty.run(&local.concat());
    assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
    assert!(stderr(&done).contains("needs https"), "{}", stderr(&done));
    fs::remove_file(empty.0.path().join("proxy.toml")).unwrap();
    let scopes =
        ["init", "--environment", "staging", "--client-id", "x", "--no-secret", "--scopes"];
    let done = empty.run(&[&scopes[..], &["user:read,vendors:read"]].concat());
    assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
    assert!(stderr(&done).contains("as users:read is"), "{}", stderr(&done));
}

#[test]
fn init_asks_on_a_terminal_and_shows_no_secret() {
    if !has_terminals("the questions of init") {
        return;
    }
    let empty = Empty::new();
    let done = on_terminal(
        &empty.command(&["init"]),
        "xterm",
        &[
            ("expect", "Which Pleo"),
            ("send", "stagign\n"),
            ("expect", "did you mean staging?"),
            ("send", "\n"),
            ("expect", "Client id"),
            ("send", "our-client\n"),
            ("expect", "commas between?"),
            ("send", "1,vendors,users:read\n"),
            ("expect", "change data"),
            ("send", "n\n"),
            ("expect", "Redirect URI?"),
            ("send", "\n"),
            ("expect", "Port"),
            ("send", "9000\n"),
            ("expect", "not shown"),
            ("send", "hush-hush\n"),
            ("expect", "pleo-proxy login"),
        ],
    );
    assert_eq!((done.exit, done.echo), (0, true), "{}", done.said);
    assert!(!done.said.contains("hush-hush"), "{}", done.said);
    assert!(done.said.contains("http://127.0.0.1:9001/callback"), "{}", done.said);
    assert_eq!(empty.read("client-secret"), "hush-hush\n");
    let written = empty.read("proxy.toml");
    for line in [
        "scopes = [\"export-jobs:read\", \"export-items:read\", \"vendors:read\", \"users:read\"]",
        "read_only = true",
    ] {
        assert!(written.lines().any(|it| it == line), "{line}: {written}");
    }
    assert_eq!(code(&empty.run(&["config", "check"])), SUCCESS);
}

#[test]
fn init_that_is_interrupted_writes_nothing_and_leaves_the_terminal_as_it_was() {
    if !has_terminals("an interrupted init") {
        return;
    }
    let empty = Empty::new();
    let command = empty.command(&STAGING);
    let steps = [
        ("expect", "Redirect URI?"),
        ("send", "\n"),
        ("expect", "Port"),
        ("send", "\n"),
        ("expect", "not shown"),
        ("send", "hus\u{3}"),
        ("expect", "cancelled"),
    ];
    let done = on_terminal(&command, "xterm", &steps);
    assert_eq!((done.exit, done.echo), (i64::from(FAILED), true), "{}", done.said);
    assert!(empty.files().is_empty() && !done.said.contains("hus"), "{}", done.said);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_waits_shows_how_long_and_leaves_the_terminal_clean() {
    if !has_terminals("what a waiting login shows") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for with_proxy in [true, false] {
        let proxy = with_proxy.then(|| workspace.serve());
        let login = workspace.command(&["login", "--no-browser"]);
        let steps = [("expect", " left; Ctrl-C"), ("send", "\u{3}"), ("expect", "cancelled")];
        let done = on_terminal(&login, "xterm", &steps);
        assert_eq!((done.exit, done.echo), (i64::from(FAILED), true), "{}", done.said);
        let (before, after) = done.said.rsplit_once("\r\u{1b}[K").unwrap();
        assert!(before.contains("9:5") || before.contains("10:00"), "{before:?}");
        assert!(!after.contains(" left;") && !after.contains('\u{1b}'), "{after:?}");

        for (name, value) in [("TERM", "dumb"), ("NO_COLOR", "1")] {
            let mut login = workspace.command(&["login", "--no-browser"]);
            login.env(name, value);
            let terminal = if name == "TERM" { value } else { "xterm" };
            let steps = [("expect", "Waiting for the browser"), ("send", "\u{3}")];
            let done = on_terminal(&login, terminal, &steps);
            assert!(!done.said.contains('\u{1b}'), "{name}: {:?}", done.said);
        }
        drop(proxy);
    }
    let piped = Login::begin(&workspace, &["--no-browser"]);
    piped.signal("INT");
    let (code, said) = piped.end();
    assert_eq!(code, Some(FAILED));
    assert!(said.contains("cancelled") && !said.contains('\u{1b}'), "{said:?}");
}

/// What a shell prints; none if it is not there.
fn shell(name: &str, script: &str) -> Option<String> {
    let output = Command::new(name).arg("-c").arg(script).stdin(Stdio::null()).output().ok()?;
    assert!(output.status.success(), "{name}: {}", stderr(&output));
    Some(stdout(&output))
}

fn skipped(what: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(format!("\nSKIPPED: {what}\n").as_bytes());
}

#[test]
fn completions_complete_in_the_shells_that_are_here() {
    let empty = Empty::new();
    let script = |shell: &str| {
        let done = empty.run(&["completions", shell]);
        assert_eq!(code(&done), SUCCESS, "{}", stderr(&done));
        let file = empty.0.path().join(format!("completions.{shell}"));
        fs::write(&file, stdout(&done)).unwrap();
        file.display().to_string()
    };
    let bash = script("bash");
    let complete = |words: &str| {
        let typed: Vec<_> = words.split(' ').collect();
        let (last, before) = (typed[typed.len() - 1], typed[typed.len() - 2]);
        let quoted: Vec<_> = typed.iter().map(|word| format!("'{word}'")).collect();
        let lines = format!(
            "source {bash}; COMP_WORDS=({}); COMP_CWORD={}; COMPREPLY=(); \
             $(complete -p pleo-proxy | sed 's/.* -F \\([^ ]*\\).*/\\1/') pleo-proxy '{last}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            quoted.join(" "),
            typed.len() - 1
        );
        shell("bash", &lines)
    };
    match complete("pleo-proxy lo") {
        Some(offered) => {
            let offered: Vec<_> = offered.lines().map(str::to_owned).collect();
            assert_eq!(offered, ["login", "logout", "logs"]);
            for (words, expected) in [
                ("pleo-proxy login --past", "--paste"),
                ("pleo-proxy config sh", "show"),
                ("pleo-proxy --environment sta", "staging"),
                ("pleo-proxy completions fi", "fish"),
            ] {
                assert_eq!(complete(words).unwrap().trim(), expected, "{words}");
            }
        }
        None => skipped("completions in bash; install bash to check them"),
    }
    let zsh = script("zsh");
    if shell("zsh", &format!("autoload -U compinit; compinit -u -D; source {zsh}")).is_none() {
        skipped("completions in zsh; install zsh to check them");
    }
    let fish = script("fish");
    match shell("fish", &format!("source {fish}; complete -C 'pleo-proxy logo'")) {
        Some(offered) => assert!(offered.starts_with("logout"), "{offered}"),
        None => skipped("completions in fish; install fish to check them"),
    }
    for other in ["elvish", "powershell"] {
        assert!(fs::read_to_string(script(other)).unwrap().contains("logout"), "{other}");
    }
    let told = json_output(&empty.run(&["completions", "bash", "--json"]));
    assert!(told["shell"] == "bash" && told["script"].as_str().unwrap().contains("logout"));
    assert_eq!(code(&empty.run(&["completions", "bahs"])), USAGE);
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let empty = Empty::new();
    let page = stdout(&empty.run(&["man"]));
    assert!(page.contains(".TH pleo-proxy 1") && page.contains("EXIT STATUS"), "{page}");
    let written = empty.run(&["man", "--out", "share/man1"]);
    assert_eq!(code(&written), SUCCESS, "{}", stderr(&written));
    for name in ["pleo-proxy.1", "pleo-proxy-login.1", "pleo-proxy-config-show.1"] {
        let page = empty.read(&format!("share/man1/{name}"));
        assert!(page.contains(".SH EXAMPLES\n.nf\n"), "{name}: {page}");
        assert_eq!(mode(&empty.0.path().join("share/man1").join(name)), 0o644, "{name}");
    }
    fs::write(empty.0.path().join("file"), "").unwrap();
    assert_eq!(code(&empty.run(&["man", "--out", "file/below"])), FAILED);
    assert!(json_output(&empty.run(&["man", "--json"]))["page"].is_string());
}

#[test]
fn the_version_says_how_the_program_was_built() {
    let empty = Empty::new();
    let version = stdout(&empty.run(&["--version"]));
    let release = env!("CARGO_PKG_VERSION");
    assert_eq!(version.lines().next(), Some(format!("pleo-proxy {release}").as_str()));
    for told in ["commit: ", "target: ", "rustc 1."] {
        assert!(version.contains(told), "{told}: {version}");
    }
    let home = std::env::var("HOME").unwrap_or_default();
    assert!(!version.contains(env!("CARGO_MANIFEST_DIR")) && !version.contains(&home), "{version}");
    let told = json_output(&empty.run(&["--version", "--json"]));
    assert_eq!((&told["name"], &told["release"]), (&json!("pleo-proxy"), &json!(release)));
    assert!(
        told["profile_guided"].is_boolean()
            && told["rustc"].as_str().unwrap().starts_with("rustc ")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_name_leads_to_the_nearest_one() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("harbour").await;
    for with_proxy in [true, false] {
        for command in [
            &["refresh", "harbuor"][..],
            &["logout", "harbuor"],
            &["report", "harbuor"],
            &["why", "GET", "/v1/companies", "--account", "harbuor"],
            &["why", "GET", "/v1/companies", "--account", "Harbour"],
        ] {
            let refused = workspace.run(command);
            let said = stderr(&refused);
            assert_eq!(code(&refused), USAGE, "{with_proxy} {command:?}: {said}");
            assert!(said.contains("did you mean harbour?"), "{with_proxy} {command:?}: {said}");
        }
        let login = Login::begin(&workspace, &["--no-browser", "harbuor"]);
        login.signal("INT");
        login.end();
        let asked = workspace.command(&["login", "harbuor", "--paste"]).output().unwrap();
        assert!(stderr(&asked).contains("Did you mean harbour?"), "{}", stderr(&asked));
        if with_proxy {
            for command in [["logs", "--account", "harbuor"], ["capture", "--account", "harbuor"]] {
                let noted = workspace.run(&command);
                assert_eq!(code(&noted), SUCCESS, "{command:?}");
                assert!(stderr(&noted).contains("did you mean harbour?"), "{}", stderr(&noted));
            }
            let (status, code_) = problem(proxy.get("/@harbuor/v1/companies").await).await;
            assert_eq!((status, code_.as_str()), (404, "account_unknown"));
            let told = proxy.get("/@harbuor/v1/companies").await.text().await.unwrap();
            assert!(told.contains("did you mean harbour?"), "{told}");
            assert_eq!(code(&workspace.run(&["stop"])), SUCCESS);
        }
    }
    for (wrong, near) in [
        (&["stauts"][..], "status"),
        (&["--enviroment", "staging"], "--environment"),
        (&["--environment", "stagin"], "staging"),
        (&["login", "--past"], "--paste"),
        (&["config", "check", "--set", "tokens.hodl=1s"], "tokens.hold"),
        (&["completions", "bsh"], "bash"),
    ] {
        let refused = workspace.run(wrong);
        assert_eq!(code(&refused), USAGE, "{wrong:?}");
        assert!(stderr(&refused).contains(near), "{wrong:?}: {}", stderr(&refused));
    }
}
