//! `status`, `open`, `refresh` and `logout`, with a running proxy and without one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::time::{Duration, Instant};

use super::cli::connect;
use super::sandbox_command::first_line;
use super::start_and_stop::{modes, set_mode};
use pleo_proxy::sandbox::{Faults, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{
    DEGRADED, FAILED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr,
    stdout,
};
use support::{KilledOnDrop, TIMEOUT, Workspace, client, problem, sandbox, text};

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_running_and_stored_accounts_and_exits_by_the_worst() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let nothing = workspace.run(&["status", "--json"]);
    assert_eq!(code(&nothing), NOT_RUNNING);
    assert_eq!(
        (&json_output(&nothing)["running"], &json_output(&nothing)["accounts"]),
        (&json!(false), &json!([]))
    );

    let mut proxy = workspace.serve();
    assert_eq!(code(&workspace.run(&["status"])), LOGIN_REQUIRED, "nobody is connected");
    proxy.login("default").await;
    let fine = workspace.run(&["status", "--json"]);
    assert_eq!(code(&fine), SUCCESS, "{}", stderr(&fine));
    let status = json_output(&fine);
    assert_eq!((&status["running"], &status["pid"]), (&json!(true), &json!(proxy.child.id())));
    assert_eq!(status["accounts"][0]["state"], "connected");
    let human = stdout(&workspace.run(&["status"]));
    assert!(human.contains("running (sandbox") && human.contains("default: connected"), "{human}");

    // Trouble with one account, then with its login.
    let down =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(down), ..Faults::default() });
    assert_eq!(code(&workspace.run(&["refresh", "--force"])), FAILED);
    assert_eq!(code(&workspace.run(&["status"])), DEGRADED);
    sandbox.set_faults(Faults::default());
    assert_eq!(code(&workspace.run(&["logout"])), SUCCESS);
    assert_eq!(code(&workspace.run(&["status"])), LOGIN_REQUIRED);

    let stopped = workspace.run(&["stop", "--json"]);
    assert_eq!(code(&stopped), SUCCESS, "{}", stderr(&stopped));
    assert_eq!(
        (&json_output(&stopped)["outcome"], &json_output(&stopped)["pid"]),
        (&json!("stopped"), &json!(proxy.child.id()))
    );
    assert_eq!(proxy.child.wait().unwrap().code(), Some(SUCCESS));
    let after = workspace.run(&["status", "--json"]);
    assert_eq!(code(&after), NOT_RUNNING);
    assert_eq!(json_output(&after)["accounts"][0]["state"], "login_required", "the store's view");
    for command in ["stop", "open"] {
        let refused = workspace.run(&[command]);
        assert_eq!(code(&refused), NOT_RUNNING, "{command}");
        assert_eq!(stdout(&refused), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_prints_a_link_that_works_once() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    // No program to open it with.
    let opened = workspace.command(&["open", "--json"]).env("PATH", "").output().unwrap();
    assert_eq!(code(&opened), SUCCESS, "{}", stderr(&opened));
    let url = text(&json_output(&opened)["url"]);
    let (page, key) = url.split_once("#key=").unwrap();
    assert_eq!(page, format!("{}/", proxy.admin));
    let trade = client()
        .post(format!("{}/api/session", proxy.admin))
        .json(&json!({"key": key}))
        .send()
        .await
        .unwrap();
    assert_eq!(trade.status(), 200);
    let human = workspace.command(&["open"]).env("PATH", "").output().unwrap();
    assert!(stdout(&human).starts_with(&proxy.admin));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_works_with_and_without_a_running_proxy() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "default").await;
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| workspace.serve());
        let before = sandbox.counters().refreshes;
        let fresh = workspace.run(&["refresh", "--json"]);
        assert_eq!(
            (code(&fresh), &json_output(&fresh)["outcome"]),
            (SUCCESS, &json!("fresh")),
            "{}",
            stderr(&fresh)
        );
        assert_eq!(sandbox.counters().refreshes, before);
        let forced = workspace.run(&["refresh", "default", "--force", "--json"]);
        assert_eq!(
            (code(&forced), &json_output(&forced)["outcome"]),
            (SUCCESS, &json!("refreshed")),
            "{}",
            stderr(&forced)
        );
        assert_eq!(sandbox.counters().refreshes, before + 1);
        assert_eq!(
            json_output(&forced)["account"]["generation"],
            workspace.stored_json("default")["record"]["generation"]
        );
        drop(proxy);
    }
    sandbox.revoke_all();
    for _ in 0..2 {
        let posts = sandbox.counters().token_posts;
        let over = workspace.run(&["refresh", "--force"]);
        assert_eq!(code(&over), LOGIN_REQUIRED, "{}", stderr(&over));
        assert!(stderr(&over).contains("pleo-proxy login default"), "{}", stderr(&over));
        assert!(sandbox.counters().token_posts <= posts + 1);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_account_is_reported() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| workspace.serve());
        for command in ["refresh", "logout"] {
            let unknown = workspace.run(&[command, "nobody"]);
            assert_eq!(code(&unknown), USAGE, "{command}: {}", stderr(&unknown));
            assert!(stderr(&unknown).contains("nobody"), "{}", stderr(&unknown));
        }
        for name in ["UPPER", "../x", "-x", ""] {
            let bad = workspace.run(&["refresh", "--", name]);
            assert_eq!(code(&bad), USAGE, "{name}");
        }
        let fallback = workspace.run(&["refresh"]);
        assert_eq!(
            code(&fallback),
            LOGIN_REQUIRED,
            "default is always known: {}",
            stderr(&fallback)
        );
        drop(proxy);
    }
    assert!(!workspace.record("nobody").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_reaches_a_proxy_that_runs_later_and_one_that_cannot_be_asked() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "default").await;
    let out = workspace.run(&["logout", "--json"]);
    assert_eq!(
        (code(&out), &json_output(&out)["outcome"]),
        (SUCCESS, &json!("logged_out")),
        "{}",
        stderr(&out)
    );
    let proxy = workspace.serve();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    proxy.terminate();

    connect(&workspace, "default").await;
    let mut deaf =
        KilledOnDrop(workspace.command(&["--json", "--set", "listen.admin=off"]).spawn().unwrap());
    let ready = first_line(&mut deaf.0);
    assert_eq!(ready["admin"], Value::Null);
    let companies = format!("{}/v1/companies", text(&ready["api"]));
    let ask = || client().get(&companies).send();
    assert_eq!(ask().await.unwrap().status(), 200);
    assert_eq!(code(&workspace.run(&["logout"])), SUCCESS);
    let start = Instant::now();
    while ask().await.unwrap().status() != 503 {
        assert!(start.elapsed() < TIMEOUT, "it never looked at the store");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_too_permissive_folder_stops_the_start_and_a_record_only_its_account() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "default").await;
    connect(&workspace, "other").await;
    set_mode(&workspace.state(), 0o755);
    for arguments in [&["serve"][..], &["status"], &["login", "--paste"], &["refresh"]] {
        let refused = workspace.run(arguments);
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("chmod 700"), "{}", stderr(&refused));
    }
    set_mode(&workspace.state(), 0o700);

    set_mode(&workspace.record("default"), 0o644);
    let proxy = workspace.serve();
    assert_eq!(
        problem(proxy.get("/@default/v1/companies").await).await,
        (503, "store_error".into())
    );
    assert_eq!(proxy.get("/@other/v1/companies").await.status(), 200);
    let status = workspace.run(&["status", "--json"]);
    assert_eq!(code(&status), DEGRADED);
    assert!(text(&proxy.account("default").await["why"]).contains("chmod 600"));
    let before = fs::read(workspace.record("default")).unwrap();
    // A record that may be somebody else's doing is not replaced: nobody is asked to consent.
    let login = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
    assert_eq!(login.status(), 503);
    let refused: Value = login.json().await.unwrap();
    assert!(refused["code"] == "store_error" && text(&refused["detail"]).contains("chmod 600"));
    let on_data: Value = proxy.get("/@default/v1/companies").await.json().await.unwrap();
    assert_eq!((&refused["fix"], refused["fix"].is_string()), (&on_data["fix"], true));
    assert_eq!(fs::read(workspace.record("default")).unwrap(), before);
    set_mode(&workspace.record("default"), 0o600);
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_record_stays_until_a_login_puts_it_aside() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "default").await;
    let whole = fs::read(workspace.record("default")).unwrap();
    fs::write(workspace.record("default"), &whole[..whole.len() / 2]).unwrap();
    let stored = workspace.run(&["status", "--json"]);
    assert_eq!(json_output(&stored)["accounts"][0]["state"], "store_error");
    let proxy = workspace.serve();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "store_error".into()));
    assert_eq!(code(&workspace.run(&["refresh", "--force"])), FAILED);
    assert_eq!(
        fs::read(workspace.record("default")).unwrap(),
        whole[..whole.len() / 2],
        "it stays where it is"
    );

    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    let names = modes(&workspace.state()).into_iter().map(|(path, ..)| path);
    let aside: Vec<_> =
        names.filter(|path| path.to_string_lossy().contains("default.json.corrupt-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read(&aside[0]).unwrap(), whole[..whole.len() / 2]);
    let suffix = aside[0].to_str().unwrap().rsplit('-').next().unwrap();
    assert!(suffix.parse::<u64>().is_ok_and(|time| time > 1_700_000_000), "{suffix}");
}
