//! `wait` and `health`: whether the proxy is there, for scripts and containers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;

use super::cli::connect;
use super::start_and_stop::set_mode;
use pleo_proxy::sandbox::{Faults, TokenFault, TokenFaultKind};
use serde_json::json;
use support::command::{
    DEGRADED, FAILED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr,
    stdout,
};
use support::{Upstream, Workspace, sandbox};

const AT_ONCE: [&str; 2] = ["--timeout", "0s"];

fn wait(workspace: &Workspace, more: &[&str]) -> std::process::Output {
    workspace.run(&[&["wait"], &AT_ONCE[..], more].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_as_soon_as_the_proxy_can_serve() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "default").await;
    let waiting = workspace.command(&["wait", "--timeout", "2m", "--json"]).spawn().unwrap();
    let proxy = workspace.serve();
    let waited = waiting.wait_with_output().unwrap();
    assert_eq!(code(&waited), SUCCESS, "{}", stderr(&waited));
    assert_eq!(
        json_output(&waited),
        json!({"version": 1, "outcome": "ready", "api": proxy.api, "account": "default"})
    );
    let again = wait(&workspace, &["--account", "default"]);
    assert_eq!(code(&again), SUCCESS, "{}", stderr(&again));
    assert!(stderr(&again).contains(&proxy.api), "{}", stderr(&again));
    proxy.terminate();
    let _off = workspace.serve_with(&["--set", "listen.admin=off"]);
    assert_eq!(code(&wait(&workspace, &[])), SUCCESS, "it cannot be asked, and has a login");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_timeout_wait_says_what_is_missing_and_ends_by_it() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let expect = |more: &[&str], exit: i32, hint: &str| {
        let ended = wait(&workspace, more);
        assert_eq!(code(&ended), exit, "{}", stderr(&ended));
        assert!(stderr(&ended).contains(hint), "{hint}: {}", stderr(&ended));
        assert_eq!(stdout(&ended), "");
    };
    expect(&[], NOT_RUNNING, "start it with: pleo-proxy");
    let failed = wait(&workspace, &["--json"]);
    assert_eq!(json_output(&failed)["exit"], NOT_RUNNING);
    let wrong = workspace.run(&["wait", "--timeout", "soon"]);
    assert_eq!(code(&wrong), USAGE);
    assert!(stderr(&wrong).contains("500ms"), "{}", stderr(&wrong));

    let proxy = workspace.serve();
    expect(&[], LOGIN_REQUIRED, "pleo-proxy login");
    expect(&["--account", "acme"], LOGIN_REQUIRED, "pleo-proxy login acme");
    proxy.login("acme").await;
    proxy.login("beta").await;
    expect(&[], DEGRADED, "acme, beta");
    assert_eq!(code(&wait(&workspace, &["--account", "acme"])), SUCCESS);

    // A token that has expired, and a token endpoint that is down.
    sandbox.set_faults(Faults { access_life_ms: Some(1000), ..Faults::default() });
    proxy.force_refresh("acme").await;
    let down =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(down), ..Faults::default() });
    proxy.force_refresh("acme").await;
    let is_stuck = |account: &serde_json::Value| {
        account["can_serve"] == false && account["state"] == "retrying"
    };
    proxy.wait_for_account("acme", is_stuck).await;
    expect(&["--account", "acme"], DEGRADED, "acme is retrying");
    sandbox.set_faults(Faults::default());
    assert_eq!(code(&workspace.run(&["logout", "acme"])), SUCCESS);
    expect(&["--account", "acme"], LOGIN_REQUIRED, "pleo-proxy login acme");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_up_from_ready_and_needs_no_key() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    assert_eq!(code(&workspace.run(&["health"])), NOT_RUNNING);
    let proxy = workspace.serve();
    fs::remove_file(workspace.state().join("admin.key")).unwrap();
    let up = workspace.run(&["health"]);
    assert_eq!((code(&up), stdout(&up)), (SUCCESS, "ok\n".into()), "{}", stderr(&up));
    let unready = workspace.run(&["health", "--ready", "--json"]);
    assert_eq!(code(&unready), LOGIN_REQUIRED);
    assert_eq!(json_output(&unready), json!({"version": 1, "status": "unavailable"}));
    assert!(stderr(&unready).contains("pleo-proxy login"), "{}", stderr(&unready));
    proxy.login("default").await;
    let ready = workspace.run(&["health", "--ready"]);
    assert_eq!((code(&ready), stdout(&ready)), (SUCCESS, "ok\n".into()), "{}", stderr(&ready));
    proxy.terminate();

    let _off = workspace.serve_with(&["--set", "listen.admin=off"]);
    let up = workspace.run(&["health"]);
    assert_eq!((code(&up), stdout(&up)), (SUCCESS, "ok\n".into()), "{}", stderr(&up));
    let unknown = workspace.run(&["health", "--ready"]);
    assert_eq!(code(&unknown), USAGE);
    assert!(stderr(&unknown).contains("listen.admin"), "{}", stderr(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_configured_address_where_it_may_not_see_the_state_folder() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let elsewhere = Workspace::for_sandbox(&sandbox, "");
    let address = |port: u16| format!("listen.admin=\"127.0.0.1:{port}\"");
    let at = |port: u16| elsewhere.run(&["health", "--set", &address(port)]);
    let up = at(proxy.admin_address().port());
    assert_eq!((code(&up), stdout(&up)), (SUCCESS, "ok\n".into()), "{}", stderr(&up));
    set_mode(&workspace.state(), 0o755);
    assert_eq!(code(&workspace.run(&["health"])), SUCCESS, "the folder is not its business");
    set_mode(&workspace.state(), 0o700);

    // Port 1: nobody listens there.
    let nothing = at(1);
    assert_eq!(code(&nothing), NOT_RUNNING);
    assert!(stderr(&nothing).contains("nothing listens at 127.0.0.1:1"), "{}", stderr(&nothing));
    let web = Upstream::ok();
    let stranger = at(web.origin.rsplit_once(':').unwrap().1.parse().unwrap());
    assert_eq!(code(&stranger), NOT_RUNNING);
    assert!(stderr(&stranger).contains("is no pleo-proxy"), "{}", stderr(&stranger));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_of_a_proxy_that_is_stopped_is_no_health() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.signal("STOP");
    let hung = workspace.run(&["health"]);
    proxy.signal("CONT");
    assert_eq!(code(&hung), FAILED);
    assert!(stderr(&hung).contains("did not answer in time"), "{}", stderr(&hung));
}
