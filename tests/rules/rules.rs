//! Rules of refreshing that have no other home, and the tables of `tests/README.md`: every test
//! they name exists.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{
    COMPANY_ID, Faults, GrantType, SECOND_COMPANY_ID, Sandbox, TokenFault, TokenFaultKind,
};
use reqwest::Method;
use serde_json::{Value, json};
use support::{
    After, NO_REFRESH_AHEAD, Proxy, TIMEOUT, Upstream, Workspace, sandbox, sandbox_config,
    slow_token_response, text, token_posts, write_private,
};

async fn connected(sandbox: &Sandbox, account: &str) -> (Workspace, Proxy) {
    let workspace = Workspace::for_sandbox(sandbox, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login(account).await;
    (workspace, proxy)
}

/// The same on a task; returns once the token endpoint has it.
async fn force_meanwhile(
    proxy: &Proxy,
    account: &str,
    sandbox: &Sandbox,
) -> tokio::task::JoinHandle<Value> {
    let before = sandbox.counters();
    let request =
        proxy.http.post(format!("{}/api/accounts/{account}/refresh?force=true", proxy.admin));
    let request = request.bearer_auth(&proxy.key);
    let asking = tokio::spawn(async move { request.send().await.unwrap().json().await.unwrap() });
    let started = Instant::now();
    while token_posts(sandbox, &before) == 0 {
        assert!(started.elapsed() < TIMEOUT, "no token request came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    asking
}

// --- R15, R33: the time of a token request.

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_is_counted_from_before_the_request() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, "default").await;
    sandbox.set_faults(slow_token_response(1100));
    let account = proxy.force_refresh("default").await["account"].clone();
    let left = account["access_expires_in"].as_u64().unwrap();
    assert!(left < 599, "{left} s are left of 600, and the answer alone took more than one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_takes_six_seconds_is_awaited() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, "default").await;
    let before = sandbox.counters();
    sandbox.set_faults(slow_token_response(6000));
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    assert_eq!(token_posts(&sandbox, &before), 1);
}

// --- R41, T110, T119: whose answer it is.

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_adopts_what_the_store_holds_by_then() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "default").await;
    proxy.login("other").await;
    proxy.force_refresh("other").await;
    let fault = TokenFault {
        kind: TokenFaultKind::Error,
        only_grant: Some(GrantType::RefreshToken),
        only_family: Some(0),
        ..TokenFault::default()
    };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..slow_token_response(2000) });
    let asking = force_meanwhile(&proxy, "default", &sandbox).await;
    // A record of the same generation and another pair, whoever put it there.
    let newer = fs::read_to_string(workspace.record("other")).unwrap();
    write_private(&workspace.record("default"), &newer);
    assert_eq!(asking.await.unwrap()["outcome"], "adopted");
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_out_of_order_reach_their_own_accounts() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, "first").await;
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    proxy.login("second").await;
    sandbox.set_faults(slow_token_response(2000));
    let slow = force_meanwhile(&proxy, "first", &sandbox).await;
    sandbox.set_faults(Faults::default());
    assert_eq!(proxy.force_refresh("second").await["outcome"], "refreshed");
    assert_eq!(slow.await.unwrap()["outcome"], "refreshed");
    for (account, company) in [("first", COMPANY_ID), ("second", SECOND_COMPANY_ID)] {
        for _ in 0..2 {
            let seen = proxy.get(&format!("/@{account}/v1/companies")).await.text().await.unwrap();
            assert!(seen.contains(company), "{account}: {seen}");
            assert_eq!(proxy.force_refresh(account).await["outcome"], "refreshed");
        }
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

// --- R32, T101: where a token goes.

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_the_token_endpoint_is_not_followed() {
    let sandbox = sandbox().await;
    let elsewhere = Upstream::ok();
    let moved = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}/token\r\nContent-Length: 0\r\n\r\n",
        elsewhere.origin
    );
    let endpoint = Upstream::responding_with(moved, After::Keep);
    let config = sandbox_config(&sandbox, NO_REFRESH_AHEAD);
    let config = config.replace(&sandbox.token_url(), &format!("{}/token", endpoint.origin));
    let workspace =
        Workspace::new(&config.replace(
            &format!("introspect = \"{}\"", sandbox.introspect_url()),
            "introspect = \"\"",
        ));
    let proxy = workspace.serve();
    let imported = json!({ "refresh_token": "a-refresh-token" });
    let response = proxy.admin(Method::POST, "/api/accounts/default/login", Some(imported)).await;
    assert!(!response.status().is_success());
    let account =
        proxy.wait_for_account("default", |account| account["state"] == "uncertain").await;
    assert!(text(&account["why"]).contains("redirect"), "{account}");
    assert_eq!(
        endpoint.requests().iter().filter(|request| request.line().starts_with("POST")).count(),
        1
    );
    assert!(elsewhere.requests().is_empty());
}

// --- R49: what is told of a refresh.

#[tokio::test(flavor = "multi_thread")]
async fn every_refresh_is_logged_with_reason_and_outcome_but_without_tokens() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, "default").await;
    proxy.force_refresh("default").await;
    let denied = TokenFault { kind: TokenFaultKind::Error, ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(denied), ..Faults::default() });
    let account = proxy.force_refresh("default").await["account"].clone();
    let last = &account["last_refresh"];
    assert_eq!(
        (text(&last["reason"]), text(&last["outcome"])),
        ("asked".into(), "login_required".into())
    );
    assert!(last["ms"].is_u64() && last["at"].is_string(), "{last}");
    // Lines are written by a thread of their own.
    proxy.wait_for_log("invalid_grant");
    let log = proxy.log();
    for told in [
        "refresh sent account=default reason=\"asked\" generation=1",
        "drained=",
        "generation=2",
        "invalid_grant",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let metrics = proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    for outcome in ["fresh", "login_required"] {
        assert!(
            metrics.contains(&format!("reason=\"asked\",outcome=\"{outcome}\"}} 1")),
            "{metrics}"
        );
    }
    assert!(!log.contains("sbx-") && !metrics.contains("sbx-"));
}

// --- T132, T139: a process that stood still, a file that changed under it.

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stood_still_past_the_expiry_refreshes_before_it_serves() {
    let sandbox = sandbox().await;
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    let (_place, proxy) = connected(&sandbox, "default").await;
    sandbox.set_faults(Faults::default());
    proxy.signal("STOP");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    proxy.signal("CONT");
    let before = sandbox.counters();
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let counters = sandbox.counters();
    assert_eq!(
        (token_posts(&sandbox, &before), counters.api_unauthorized),
        (1, before.api_unauthorized)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_before_the_restart_which_refuses_it() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "default").await;
    let record = fs::read(workspace.record("default")).unwrap();
    workspace.configure("environment = \"sandbox\"\nlisten = 7\nunheard_of = true\n");
    proxy.signal("HUP");
    while !proxy.log().contains("settings are read only at the start") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    for arguments in [&["config", "check"][..], &["serve"]] {
        let done = workspace.run(arguments);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{told}");
        assert!(told.contains("unheard_of") && told.contains("listen"), "{told}");
    }
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(fs::read(workspace.record("default")).unwrap(), record);
}

// --- T134, T135: what the system shows of the process.

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_process_shows_no_secret_and_leaves_no_core() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, NO_REFRESH_AHEAD);
    let plain = workspace.command(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$0\" --json"]).arg(plain.get_program());
    shell.current_dir(workspace.path()).env_clear();
    shell.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    let proxy = Proxy::launch(shell, &workspace.state());
    proxy.login("default").await;
    let shown =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", proxy.child.id())).unwrap();
    let limits = shown("limits");
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(
        cores.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"],
        "{limits}"
    );
    let arguments = shown("cmdline");
    assert!(!arguments.contains("secret") && !arguments.contains("sbx-"), "{arguments}");
}

// --- The tables.

/// Names of all functions in the sources below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_source =
            path.extension().is_some_and(|extension| extension == "rs" || extension == "py");
        if path.is_dir() {
            functions(&path, found);
        } else if is_source {
            let source = fs::read_to_string(&path).unwrap();
            for line in source.lines() {
                let line =
                    line.trim_start().trim_start_matches("pub ").trim_start_matches("async ");
                let name = line.strip_prefix("fn ").or(line.strip_prefix("def "));
                found.extend(name.and_then(|name| name.split('(').next()).map(str::to_owned));
            }
        }
    }
}

#[test]
fn the_tables_name_tests_that_exist_and_leave_nothing_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for folder in ["src", "crates", "tests"] {
        functions(&root.join(folder), &mut known);
    }
    let readme = fs::read_to_string(root.join("tests/README.md")).unwrap();
    let mut rows = BTreeSet::new();
    for line in readme.lines().filter(|line| line.starts_with("| R") || line.starts_with("| T")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [number, _, shown] = cells[..] else { panic!("{line}") };
        assert!(rows.insert(number.to_owned()), "{number} is there twice");
        let named: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        let excused = shown.contains("not here:");
        assert!(!named.is_empty() || excused, "{number} names no test and no reason");
        for name in named.iter().filter(|name| !name.contains(['/', '.', ' '])) {
            assert!(known.contains(*name), "{number}: there is no {name}");
        }
    }
    let all = (1..=50)
        .map(|number| format!("R{number}"))
        .chain((1..=152).map(|number| format!("T{number}")));
    assert_eq!(rows, all.collect());
    for line in readme.lines().filter(|line| line.starts_with("- T")) {
        let words = line.split(|letter: char| !letter.is_alphanumeric());
        let is_number =
            |word: &&str| word.strip_prefix('T').is_some_and(|rest| rest.parse::<u16>().is_ok());
        assert!(words.filter(is_number).all(|number| rows.contains(number)), "{line}");
    }
}
