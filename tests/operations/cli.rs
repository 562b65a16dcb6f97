//! The command line: what each command says where, how it ends, and how it finds the proxy that
//! runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::io::Write as _;

use super::interrupted_login::Login;
use super::start_and_stop::{modes, set_mode};
use pleo_proxy::sandbox::Faults;
use serde_json::json;
use support::command::{FAILED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{
    Proxy, Workspace, client, problem, sandbox, sandbox_config, text, wait_until, write_private,
};

/// Connects an account and ends the proxy again.
pub(super) async fn connect(workspace: &Workspace, account: &str) {
    let proxy = workspace.serve();
    proxy.login(account).await;
    assert_eq!(proxy.terminate().0.code(), Some(SUCCESS));
}

#[test]
fn commands_about_requests_name_the_next_step_if_no_proxy_runs_or_the_account_is_unknown() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    for command in [&["logs"][..], &["capture"], &["har", "-o", "x.har"], &["why", "3fa9c1-1"]] {
        let refused = workspace.run(command);
        assert_eq!(code(&refused), NOT_RUNNING, "{command:?}");
        let said = stderr(&refused);
        assert!(said.contains("start it with: pleo-proxy"), "{command:?}: {said}");
    }
    let report = workspace.run(&["report"]);
    assert!(stdout(&report).contains("pleo-proxy login"), "{}", stdout(&report));
    let unknown = stderr(&workspace.run(&["report", "nobody"]));
    assert!(unknown.contains("pleo-proxy status"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_takes_terms_with_a_minus_before_and_after_its_flags() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    for path in ["/v1/companies", "/v1/companies", "/v1/vendors", "/@nobody/v1/vendors"] {
        proxy.get(path).await.bytes().await.unwrap();
    }
    let lines = |arguments: &[&str]| {
        let shown = workspace.run(&[&["logs"], arguments].concat());
        assert_eq!(code(&shown), SUCCESS, "{arguments:?}: {}", stderr(&shown));
        stdout(&shown).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = lines(&[]);
    assert!(
        all.len() == 4
            && all.iter().all(|line| line.contains(" ms default ")
                || line.contains(" ms -  ")
                || line.contains(" ms nobody ")),
        "{all:#?}"
    );
    assert_eq!(lines(&["-is:error"]).len(), 2);
    assert_eq!(lines(&["-is:error", "-n", "1"]).len(), 1);
    assert_eq!(lines(&["-n", "5", "-by:proxy", "vendors"]).len(), 1);
    let json = lines(&["-by:proxy", "companies", "--json", "-n1"]);
    assert!(json.len() == 1 && json[0].contains("\"/v1/companies\""), "{json:#?}");
    assert_eq!(lines(&["is:running"]), [""; 0]);
    let nothing = stderr(&workspace.run(&["logs", "status:418"]));
    assert!(nothing.contains("No request matches."), "{nothing}");
    assert_eq!(code(&workspace.run(&["logs", "colour:red"])), USAGE);

    sandbox.set_faults(Faults { latency_ms: 3_600_000, ..Faults::default() });
    let address = format!("{}/v1/tags", proxy.api);
    let waiting = tokio::spawn(async move { client().get(address).send().await });
    wait_until("the request that runs", || {
        lines(&["is:running"])
            .iter()
            .any(|line| line.contains(" ... GET ") && line.contains("/v1/tags"))
    });
    let last = lines(&["-n", "2"]).pop().unwrap();
    assert!(last.contains(" ... GET "), "{last}");
    waiting.abort();

    let fresh = stderr(&workspace.run(&["refresh"]));
    assert!(fresh.contains("not due for a refresh (valid until 2"), "{fresh}");
}

#[test]
fn help_names_the_commands_and_the_exit_codes() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    let help = workspace.run(&["--help"]);
    assert_eq!(code(&help), SUCCESS);
    for said in
        ["Exit codes: 0 fine, 1 failed, 2 usage", "3 login required", "4 not running", "5 degraded"]
    {
        assert!(stdout(&help).replace('\n', " ").contains(said), "{said}: {}", stdout(&help));
    }
    for command in
        ["serve", "login", "logout", "status", "refresh", "open", "stop", "sandbox", "config"]
    {
        assert!(stdout(&help).contains(command), "{command}");
    }
    assert_eq!(code(&workspace.run(&["--version"])), SUCCESS);
    for wrong in
        [&["nonsense"][..], &["--nonsense"], &["status", "extra"], &["--log", "loud"], &["config"]]
    {
        let refused = workspace.run(wrong);
        assert_eq!(code(&refused), USAGE, "{wrong:?}");
        assert_eq!(stdout(&refused), "", "{wrong:?}");
        assert!(!stderr(&refused).is_empty(), "{wrong:?}");
    }
    let both = workspace.run(&["login", "--import-refresh-token", "--paste"]);
    assert_eq!(code(&both), USAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_key_is_pointed_at_without_color() {
    let sandbox = sandbox().await;
    let workspace = Workspace::new(&sandbox_config(&sandbox, "[tokens]\ndrian = \"2s\"\n"));
    for arguments in [&["config", "check"][..], &["serve"], &["status"], &["login"], &["stop"]] {
        let refused = workspace.command(arguments).env("NO_COLOR", "1").output().unwrap();
        let said = stderr(&refused);
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {said}");
        assert!(
            said.contains("drian") && said.contains("drain") && said.contains("proxy.toml:"),
            "{said}"
        );
        assert!(!said.contains('\u{1b}'), "{said:?}");
        assert_eq!(stdout(&refused), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_checked_and_shown_without_its_secret() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let checked = workspace.run(&["config", "check"]);
    assert_eq!(code(&checked), SUCCESS, "{}", stderr(&checked));
    let shown = workspace.run(&["config", "show"]);
    assert_eq!(code(&shown), SUCCESS);
    assert!(stdout(&shown).contains("sandbox-client"));
    assert!(stdout(&shown).contains("PLEO_PROXY_CLIENT_SECRET"), "{}", stdout(&shown));
    for output in [&checked, &shown] {
        assert!(!stdout(output).contains("sandbox-s") && !stderr(output).contains("sandbox-s"));
    }
    let lax = workspace.path().join("secret");
    fs::write(&lax, "hush-hush-hush").unwrap();
    set_mode(&lax, 0o644);
    let refused = workspace.run(&["config", "check", "--set", "client.secret_file=secret"]);
    assert_eq!(code(&refused), USAGE);
    assert!(
        stderr(&refused).contains("chmod 600") && !stderr(&refused).contains("hush"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_client_secret_the_setting_is_named() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let without = |arguments: &[&str]| {
        workspace.command(arguments).env_remove("PLEO_PROXY_CLIENT_SECRET").output().unwrap()
    };
    for arguments in [&["login", "--no-browser"][..], &["login", "--paste"]] {
        let refused = without(arguments);
        assert_eq!(code(&refused), USAGE, "{}", stderr(&refused));
        assert!(stderr(&refused).contains("client.secret_file"), "{}", stderr(&refused));
        assert!(!stderr(&refused).contains("/oauth/authorize"), "nobody is sent off in vain");
    }
    connect(&workspace, "default").await;
    let refused = without(&["refresh", "--force"]);
    assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("client.secret_file"), "{}", stderr(&refused));
    assert_eq!(code(&without(&["status"])), NOT_RUNNING, "looking needs no secret");
    assert!(workspace.stored_json("default")["record"]["grant"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_went_away_changes_nothing_but_what_is_read() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for (command, code) in [(["status"].as_slice(), 4), (&["config", "show"], 0), (&["stop"], 4)] {
        let nobody = || std::io::pipe().unwrap().1;
        let status = workspace.command(command).stdout(nobody()).stderr(nobody()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_cannot_be_written_is_an_error() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let telling: [&[&str]; 11] = [
        &["status"],
        &["status", "--json"],
        &["config", "show"],
        &["config", "check"],
        &["config", "show", "--json"],
        &["config", "check", "--json"],
        &["open"],
        &["refresh", "--json"],
        &["sandbox", "--listen", "127.0.0.1:0", "--files", "127.0.0.1:0", "--json"],
        &["--help"],
        &["--version"],
    ];
    for command in telling {
        let ended = workspace.command(command).env("PATH", "").stdout(full()).output().unwrap();
        assert_eq!(code(&ended), FAILED, "{command:?}: {}", stderr(&ended));
        let said = stderr(&ended);
        assert!(
            command[0].starts_with("--") || said.contains("stdout cannot be written"),
            "{command:?}: {said}"
        );
    }
    drop(proxy);
    let unheard = workspace.command(&["--json"]).stdout(full()).output().unwrap();
    assert_eq!(code(&unheard), FAILED, "nobody would learn where it listens: {}", stderr(&unheard));
    assert!(modes(&workspace.state().join("run")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_json() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let failing: [(&[&str], i32); 7] = [
        (&["stop", "--json"], NOT_RUNNING),
        (&["open", "--json"], NOT_RUNNING),
        (&["refresh", "nobody", "--json"], USAGE),
        (&["logout", "nobody", "--json"], USAGE),
        (&["login", "NOBODY", "--json"], USAGE),
        (&["login", "--import-refresh-token", "--json"], FAILED),
        (&["status", "--json", "--set", "nonsense=1"], USAGE),
    ];
    // What serves prints one line, when it is ready.
    let not_ready: [(&[&str], i32); 2] = [
        (
            &[
                "serve",
                "--json",
                "--set",
                "listen.api=192.0.2.1:1",
                "--set",
                "guard.local_key_file=none",
            ],
            USAGE,
        ),
        (&["sandbox", "--json", "--listen", "192.0.2.1:1"], USAGE),
    ];
    for (command, exit) in not_ready {
        let failed = workspace.run(command);
        assert_eq!((code(&failed), failed.stdout.is_empty()), (exit, true), "{command:?}");
    }
    for (command, exit) in failing {
        let failed = workspace.run(command);
        let told = json_output(&failed);
        assert_eq!(
            (code(&failed), &told["outcome"], &told["exit"]),
            (exit, &json!("failed"), &json!(exit)),
            "{told}"
        );
        assert!(stderr(&failed).contains(&text(&told["why"])), "{command:?}: {told}");
    }
    let check = json_output(&workspace.run(&["config", "check", "--json"]));
    assert_eq!(check["outcome"], "fine");
    assert!(text(&check["file"]).ends_with("proxy.toml"));
    let show =
        json_output(&workspace.run(&["config", "show", "--json", "--set", "tokens.hold=20s"]));
    assert_eq!(show["settings"]["tokens.hold"], json!({"value": "20s", "origin": "flag"}));
    assert!(text(&show["settings"]["client.scopes"]["origin"]).contains("proxy.toml:"));
    assert!(!show.to_string().contains("sandbox-secret"), "{show}");
    let faulty = workspace.run(&[
        "config",
        "check",
        "--json",
        "--set",
        "client.id=",
        "--set",
        "client.scopes=",
    ]);
    assert_eq!((code(&faulty), &json_output(&faulty)["outcome"]), (USAGE, &json!("faulty")));
    assert_eq!(json_output(&faulty)["problems"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_windows_editors_are_read_as_they_are_meant() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    let config = config.replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let config =
        format!("\u{feff}{config}[guard]\nlocal_key_file = \"key\"\n").replace('\n', "\r\n");
    write_private(&workspace.path().join("proxy.toml"), &config);
    write_private(&workspace.path().join("secret"), "\u{feff}sandbox-secret\r\n");
    write_private(&workspace.path().join("key"), "\u{feff}a-long-local-key\r\n");
    let without = |arguments: &[&str]| {
        let mut command = workspace.command(arguments);
        command.env_remove("PLEO_PROXY_CLIENT_SECRET");
        command
    };
    let proxy = Proxy::launch(without(&["--json"]), &workspace.state());
    proxy.login("default").await;
    let get = |key: &'static str| {
        client().get(format!("{}/v1/companies", proxy.api)).header("pleo-proxy-key", key).send()
    };
    assert_eq!(get("a-long-local-key").await.unwrap().status(), 200);
    assert_eq!(problem(get("").await.unwrap()).await, (403, "local_key_required".into()));
    let admin_key = workspace.state().join("admin.key");
    let key = fs::read_to_string(&admin_key).unwrap();
    write_private(&admin_key, &format!("\u{feff}{}\r\n", key.trim()));
    assert_eq!(code(&without(&["status"]).output().unwrap()), SUCCESS);

    // What is pasted or piped in: the address at the end of a login, and a token.
    let mut paste = Login::begin(&workspace, &["--paste", "pasted"]);
    let consent = client().get(&paste.address).send().await.unwrap();
    let back = consent.headers()["location"].to_str().unwrap().to_owned();
    paste
        .child
        .0
        .stdin
        .take()
        .unwrap()
        .write_all(format!("\u{feff}{back}\r\n").as_bytes())
        .unwrap();
    let (exit, said) = paste.end();
    assert_eq!(exit, Some(SUCCESS), "{said}");
    let token = text(&workspace.stored_json("pasted")["record"]["grant"]["refresh_token"]);
    assert_eq!(code(&workspace.run(&["logout", "pasted"])), SUCCESS);
    let import = workspace.run_with(
        &["login", "imported", "--import-refresh-token"],
        &format!("\u{feff}{token}\r\n"),
    );
    assert_eq!(code(&import), SUCCESS, "{}", stderr(&import));
    let utf_16 =
        workspace.run_with(&["login", "imported", "--import-refresh-token"], "t\0o\0k\0e\0n\0");
    assert!(code(&utf_16) == FAILED && stderr(&utf_16).contains("UTF-16"), "{}", stderr(&utf_16));
}
