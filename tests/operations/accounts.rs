//! `accounts`, labels, and `logout --all`, with a running proxy and without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::process::Stdio;

use super::cli::connect;
use pleo_proxy::sandbox::SECOND_COMPANY_ID;
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{FAILED, LOGIN_REQUIRED, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Proxy, Workspace, problem, sandbox, strace};

fn names(list: &Value) -> Vec<(String, String)> {
    let accounts = list["accounts"].as_array().unwrap().iter();
    accounts.map(|it| (support::text(&it["account"]), support::text(&it["state"]))).collect()
}

fn list(workspace: &Workspace) -> Vec<(String, String)> {
    names(&json_output(&workspace.run(&["accounts", "list", "--json"])))
}

fn pair(name: &str, state: &str) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

/// A proxy for one half of a test that runs with and without one.
fn serve_if(workspace: &Workspace, with_proxy: bool) -> Option<Proxy> {
    with_proxy.then(|| workspace.serve())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_names_accounts_their_states_and_what_they_are_called() {
    let sandbox = sandbox().await;
    let label = "[accounts.beta]\nlabel = \"Beta, the second\"\n";
    let workspace = Workspace::for_sandbox(&sandbox, label);
    let nothing = workspace.run(&["accounts", "list"]);
    assert_eq!((code(&nothing), stdout(&nothing)), (SUCCESS, String::new()));
    assert!(stderr(&nothing).contains("pleo-proxy login"), "{}", stderr(&nothing));
    connect(&workspace, "acme").await;
    connect(&workspace, "beta").await;
    for with_proxy in [false, true] {
        let proxy = serve_if(&workspace, with_proxy);
        let listed = workspace.run(&["accounts", "list"]);
        assert_eq!(
            stdout(&listed),
            "acme  connected       Harbour Coffee ApS\nbeta  connected       Beta, the second\n"
        );
        let json = json_output(&workspace.run(&["accounts", "list", "--json"]));
        assert_eq!(json["running"], with_proxy);
        assert_eq!(json["accounts"][0]["label"], Value::Null);
        assert_eq!(json["accounts"][1]["label"], "Beta, the second");
        assert!(json["accounts"][1]["company"].is_string(), "{json}");
        let status = stdout(&workspace.run(&["status"]));
        assert!(status.contains("beta (Beta, the second): connected"), "{status}");
        assert!(status.contains("\nacme: connected"), "{status}");
        let report = stdout(&workspace.run(&["report"]));
        assert!(report.contains("beta (Beta, the second):"), "{report}");
        assert!(report.contains("acme (Harbour Coffee ApS):"), "{report}");
        if let Some(proxy) = proxy {
            assert_eq!(proxy.account("beta").await["label"], "Beta, the second");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_only_the_settings_name_is_known_and_needs_a_login() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "[accounts.acme]\n");
    let proxy = workspace.serve();
    assert_eq!(
        problem(proxy.get("/@acme/v1/companies").await).await,
        (503, "login_required".into())
    );
    assert_eq!(
        problem(proxy.get("/@beta/v1/companies").await).await,
        (404, "account_unknown".into())
    );
    let wrong = Workspace::for_sandbox(&sandbox, "[accounts.acme]\nlabel = \"two\\nlines\"\n");
    let refused = wrong.run(&["config", "check"]);
    assert_eq!(code(&refused), USAGE);
    assert!(stderr(&refused).contains("`accounts.acme.label` must not"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_moves_tokens_company_and_counters_and_costs_no_token_request() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    for with_proxy in [false, true] {
        let (old, new) = if with_proxy { ("beta", "gamma") } else { ("acme", "beta") };
        let proxy = serve_if(&workspace, with_proxy);
        let before = fs::read(workspace.record(old)).unwrap();
        let posts = sandbox.counters().token_posts;
        let renamed = workspace.run(&["accounts", "rename", old, new, "--json"]);
        assert_eq!(code(&renamed), SUCCESS, "{}", stderr(&renamed));
        assert_eq!(
            json_output(&renamed),
            json!({"version": 1, "outcome": "renamed", "account": new})
        );
        assert_eq!(list(&workspace), [pair(new, "connected")]);
        assert_eq!(fs::read(workspace.record(new)).unwrap(), before, "the same tokens");
        assert!(!workspace.record(old).exists());
        assert_eq!(sandbox.counters().token_posts, posts);
        let proxy = proxy.unwrap_or_else(|| workspace.serve());
        let path = |name| format!("/@{name}/v1/companies");
        assert_eq!(proxy.get(&path(new)).await.status(), 200);
        assert_eq!(problem(proxy.get(&path(old)).await).await, (404, "account_unknown".into()));
        assert_eq!(proxy.force_refresh(new).await["outcome"], "refreshed");
        assert_eq!(proxy.get(&path(new)).await.status(), 200);
        proxy.terminate();
        let report = json_output(&workspace.run(&["report", "--json"]));
        let [account] = &report["accounts"].as_array().unwrap()[..] else { panic!("{report}") };
        assert_eq!(account["account"], new);
        let requests = 2 + if with_proxy { 2 } else { 0 };
        assert_eq!(account["operations"][0]["requests"], requests, "{account}");
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
    let subject = |name: &str| workspace.stored_json(name)["record"]["subject"].clone();
    assert!(subject("gamma").is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_to_a_name_that_is_taken_or_of_nobody_is_refused() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    connect(&workspace, "beta").await;
    for with_proxy in [false, true] {
        let proxy = serve_if(&workspace, with_proxy);
        for (old, new, exit, hint) in [
            ("acme", "beta", FAILED, "account beta already"),
            ("acme", "acme", FAILED, "account acme already"),
            ("nobody", "gamma", USAGE, "nobody"),
            ("default", "gamma", USAGE, "default"),
            ("acme", "UPPER", USAGE, "account's name"),
        ] {
            let refused = workspace.run(&["accounts", "rename", old, new]);
            assert_eq!(code(&refused), exit, "{old} {new}: {}", stderr(&refused));
            assert!(stderr(&refused).contains(hint), "{old} {new}: {}", stderr(&refused));
        }
        let still = [pair("acme", "connected"), pair("beta", "connected")];
        let mut listed = list(&workspace);
        listed.retain(|(name, _)| name != "default");
        assert_eq!(listed, still);
        if let Some(proxy) = proxy {
            assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
            let taken = json!({"to": "beta"});
            let path = "/api/accounts/acme/rename";
            let taken = proxy.admin(Method::POST, path, Some(taken)).await;
            assert_eq!(taken.status(), 409);
            for body in [None, Some(json!({"name": "x"})), Some(json!({"to": "UPPER"}))] {
                assert_eq!(proxy.admin(Method::POST, path, body).await.status(), 400);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_reaches_another_proxy_of_the_store_and_says_what_the_settings_still_name() {
    let sandbox = sandbox().await;
    let settings = "[accounts.acme]\nlabel = \"Acme\"\n";
    let workspace = Workspace::for_sandbox(&sandbox, settings);
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&format!("default_account = \"acme\"\n{config}"));
    connect(&workspace, "acme").await;
    let deaf = workspace.serve_with(&["--set", "listen.admin=off"]);
    assert_eq!(deaf.get("/@acme/v1/companies").await.status(), 200);
    let renamed = workspace.run(&["accounts", "rename", "acme", "beta"]);
    assert_eq!(code(&renamed), SUCCESS, "{}", stderr(&renamed));
    for hint in ["acme as default_account", "[accounts.beta]"] {
        assert!(stderr(&renamed).contains(hint), "{}", stderr(&renamed));
    }
    let start = std::time::Instant::now();
    while deaf.get("/@beta/v1/companies").await.status() != 200
        || deaf.get("/@acme/v1/companies").await.status() != 503
    {
        assert!(start.elapsed() < support::TIMEOUT, "it never looked at the store: {}", deaf.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

/// A proxy whose account `old` has a generation that no new login has.
async fn serve_with_an_old_login(workspace: &Workspace) -> Proxy {
    let proxy = workspace.serve();
    proxy.login("old").await;
    for _ in 0..3 {
        assert_eq!(proxy.force_refresh("old").await["outcome"], "refreshed");
    }
    proxy
}

/// Each of two proxies refreshes and serves both accounts, one after another.
async fn both_serve(first: &Proxy, second: &Proxy, [one, other]: [&str; 2]) {
    for (proxy, account) in [(second, other), (first, one), (first, other), (second, one)] {
        assert_ne!(proxy.force_refresh(account).await["outcome"], "failed", "{account}");
        let path = format!("/@{account}/v1/companies");
        assert_eq!(proxy.get(&path).await.status(), 200, "{}", proxy.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_passes_to_another_account_is_not_taken_for_a_backup_by_another_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let first = serve_with_an_old_login(&workspace).await;
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    first.login("harbour").await;
    let second = workspace.serve();
    assert_eq!(second.get("/@old/v1/companies").await.status(), 200);
    let of = |name: &str| workspace.stored_json(name)["record"]["subject"].clone();
    let (coffee, roastery) = (of("old"), of("harbour"));
    for names in [["old", "coffee"], ["harbour", "old"]] {
        let path = format!("/api/accounts/{}/rename", names[0]);
        let renamed = first.admin(Method::POST, &path, Some(json!({"to": names[1]}))).await;
        assert_eq!(renamed.status(), 200);
    }
    // It knows a later generation of the name than is there now.
    second.force_refresh("old").await;
    assert_eq!((of("old"), of("coffee")), (roastery.clone(), coffee));
    let answer = second.get("/@old/v1/introspect").await.text().await.unwrap();
    assert!(answer.contains(roastery.as_str().unwrap()), "{answer}");
    both_serve(&first, &second, ["coffee", "old"]).await;
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_a_name_that_was_renamed_is_not_overwritten_by_another_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let first = serve_with_an_old_login(&workspace).await;
    let second = workspace.serve();
    assert_eq!(second.get("/@old/v1/companies").await.status(), 200);
    let renamed = first.admin(Method::POST, "/api/accounts/old/rename", Some(json!({"to": "new"})));
    assert_eq!(renamed.await.status(), 200);
    // It learns that the record is gone.
    second.force_refresh("old").await;
    // A process that never knew the name begins its generations anew.
    first.terminate();
    let first = workspace.serve();
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    first.login("old").await;
    let of = |name: &str| workspace.stored_json(name)["record"]["subject"].clone();
    let (old, new) = (of("old"), of("new"));
    assert_ne!(old, new);
    both_serve(&first, &second, ["new", "old"]).await;
    assert_eq!((of("old"), of("new")), (old, new));
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_account_that_is_logged_out_is_removed_and_then_for_good() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for with_proxy in [false, true] {
        connect(&workspace, "acme").await;
        let proxy = serve_if(&workspace, with_proxy);
        let refused = workspace.run(&["accounts", "remove", "acme"]);
        assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
        assert!(stderr(&refused).contains("pleo-proxy logout acme"), "{}", stderr(&refused));
        assert_eq!(list(&workspace), [pair("acme", "connected")]);
        assert_eq!(code(&workspace.run(&["logout", "acme"])), SUCCESS);
        let removed = workspace.run(&["accounts", "remove", "acme", "--json"]);
        assert_eq!(code(&removed), SUCCESS, "{}", stderr(&removed));
        assert_eq!(
            json_output(&removed),
            json!({"version": 1, "outcome": "removed", "account": "acme"})
        );
        assert_eq!(list(&workspace), []);
        assert!(!workspace.record("acme").exists());
        for name in ["acme", "nobody"] {
            let again = workspace.run(&["accounts", "remove", name]);
            assert_eq!(code(&again), USAGE, "{}", stderr(&again));
        }
        drop(proxy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_all_logs_out_every_account_and_asks_before() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let nothing = workspace.run(&["logout", "--all"]);
    assert_eq!(code(&nothing), SUCCESS, "{}", stderr(&nothing));
    assert!(stderr(&nothing).contains("No account is connected"), "{}", stderr(&nothing));
    for with_proxy in [false, true] {
        connect(&workspace, "acme").await;
        connect(&workspace, "beta").await;
        let proxy = serve_if(&workspace, with_proxy);
        let alone = workspace.run(&["logout", "--all"]);
        assert_eq!(code(&alone), USAGE, "{}", stderr(&alone));
        assert!(stderr(&alone).contains("--yes"), "{}", stderr(&alone));
        let all = workspace.run(&["logout", "--all", "--yes", "--json"]);
        assert_eq!(code(&all), SUCCESS, "{}", stderr(&all));
        assert_eq!(
            json_output(&all),
            json!({"version": 1, "outcome": "logged_out", "accounts": ["acme", "beta"], "failed": []})
        );
        assert_eq!(
            list(&workspace),
            [pair("acme", "login_required"), pair("beta", "login_required")]
        );
        assert_eq!(code(&workspace.run(&["status"])), if with_proxy { LOGIN_REQUIRED } else { 4 });
        drop(proxy);
    }
    let both = workspace.run(&["logout", "acme", "--all"]);
    assert_eq!(code(&both), USAGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_all_on_a_terminal_takes_no_for_an_answer() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    for (answer, left, exit) in [("n", "connected", FAILED), ("y", "login_required", SUCCESS)] {
        // Python has a terminal for a child in its standard library.
        let script = "import pty, sys, os\n\
            def once(fd):\n    data = os.read(fd, 1024)\n    if b'[y/N]' in data: os.write(fd, sys.argv[1].encode() + b'\\n')\n    return data\n\
            sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2:], once)))";
        let program = env!("CARGO_BIN_EXE_pleo-proxy");
        let mut command = workspace.command(&[]);
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = std::process::Command::new("python3");
        command.current_dir(workspace.path()).env_clear().envs(environment).stdin(Stdio::null());
        command.args(["-c", script, answer, program, "logout", "--all"]);
        let Ok(asked) = command.output() else {
            eprintln!("SKIPPED: a terminal for the command needs python3");
            return;
        };
        let said = stdout(&asked);
        assert!(said.contains("Log out acme?"), "{said}{}", stderr(&asked));
        assert_eq!(code(&asked), exit, "{said}");
        assert_eq!(list(&workspace), [pair("acme", left)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_killed_at_any_moment_leaves_the_tokens_under_one_name() {
    if !strace::may_trace("kills during a rename") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    let tokens = workspace.stored_json("acme")["record"]["grant"].clone();
    // Before and after the step itself, at the folder's fsync, and at the end.
    let moments = [
        "/^rename:when=1",
        "/^unlink:when=1",
        "fsync:when=1",
        "flock:when=1",
        "flock:when=2",
        "exit_group:when=1",
    ];
    let here = strace::kill_renames(&workspace, &moments, |here, moment| {
        assert_eq!(workspace.stored_json(here)["record"]["grant"], tokens, "{moment}");
    });
    let proxy = workspace.serve();
    assert_eq!(proxy.force_refresh(here).await["outcome"], "refreshed");
    assert_eq!(sandbox.counters().refresh_replays, 0);
}
