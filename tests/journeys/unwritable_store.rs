//! A store that is read-only, gone or full: no token is spent that could not be recorded.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::time::{Duration, Instant};

use super::disk_faults::{
    SHORT_WAITS, Small, forced, mode, ready, record, serve_bound_by_modes, slow_answer, until,
};
use pleo_proxy::sandbox::{Faults, Sandbox};
use reqwest::Method;
use serde_json::Value;
use support::{Proxy, Workspace, problem, sandbox, text, token_posts};

/// The disk breaks before a refresh: the old token serves while it lives, then requests are told
/// why not; no token request is sent. Mended, everything goes on by itself.
async fn breaks_before_a_refresh(
    sandbox: &Sandbox,
    proxy: &Proxy,
    broken: impl FnOnce(),
    mended: impl FnOnce(),
) {
    let long = Duration::from_millis(4000);
    sandbox.set_faults(Faults { access_life_ms: Some(4000), ..Faults::default() });
    proxy.login("default").await;
    let (before, issued) = (sandbox.counters(), Instant::now());
    broken();
    assert_eq!(
        proxy.force_refresh("default").await["account"]["state"],
        "store_unwritable",
        "{}",
        proxy.log()
    );
    // Longer than the records are looked at: what is seen there takes no token out of use.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        proxy.get("/v1/companies").await.status(),
        200,
        "the old token lives\n{}",
        proxy.log()
    );
    assert_eq!(ready(proxy).await, (200, "degraded".into()));
    tokio::time::sleep(long.saturating_sub(issued.elapsed())).await;
    let refused = proxy.get("/v1/companies").await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await, (503, "store_unwritable".into()), "{}", proxy.log());
    assert_eq!(ready(proxy).await, (503, "unavailable".into()));
    assert_eq!(token_posts(sandbox, &before), 0, "what cannot be noted is not sent");
    sandbox.set_faults(Faults::default());
    mended();
    proxy
        .wait_for_account("default", |account| {
            account["state"] == "connected" && account["generation"] == 2
        })
        .await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!((token_posts(sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refresh_token_is_sent_while_the_store_is_read_only() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(proxy) = serve_bound_by_modes(&workspace) else { return };
    let state = workspace.state();
    breaks_before_a_refresh(&sandbox, &proxy, || mode(&state, 0o500), || mode(&state, 0o700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refresh_token_is_sent_and_no_account_logged_out_while_the_store_is_missing() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let proxy = workspace.serve();
    let (here, away) = (workspace.state(), workspace.path().join("away"));
    let (gone, back) = (|| fs::rename(&here, &away).unwrap(), || fs::rename(&away, &here).unwrap());
    breaks_before_a_refresh(&sandbox, &proxy, gone, back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refresh_token_is_sent_while_the_disk_is_full() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(small) = Small::mount(&workspace) else { return };
    let proxy = workspace.serve();
    breaks_before_a_refresh(&sandbox, &proxy, || small.fill(), || small.free()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_after_the_intent_still_has_room_for_the_new_tokens() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(small) = Small::mount(&workspace) else { return };
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = sandbox.counters();
    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || token_posts(&sandbox, &before) == 1).await;
    small.fill();
    asking.await.unwrap();
    assert_eq!(proxy.account("default").await["state"], "connected", "{}", proxy.log());
    assert_eq!(record(&workspace).generation, 2);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

/// A proxy whose refresh was answered while its folder was read-only.
async fn unsaved(sandbox: &Sandbox, workspace: &Workspace) -> Option<Proxy> {
    let proxy = serve_bound_by_modes(workspace)?;
    proxy.login("default").await;
    let before = sandbox.counters();
    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || token_posts(sandbox, &before) == 1).await;
    mode(&workspace.state(), 0o500);
    asking.await.unwrap();
    proxy.wait_for_account("default", |account| account["state"] == "unsaved").await;
    sandbox.set_faults(Faults::default());
    Some(proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn unsaved_tokens_are_used_reported_and_locked_until_they_are_saved() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let sibling = workspace.serve();
    let Some(proxy) = unsaved(&sandbox, &workspace).await else { return };
    let before = sandbox.counters();
    assert_eq!(
        proxy.get("/v1/companies").await.status(),
        200,
        "the old token is dead, so this is the new one"
    );
    assert_eq!(proxy.account("default").await["generation"], 2);
    assert_eq!(ready(&proxy).await, (200, "degraded".into()));
    let metrics = proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("pleo_proxy_accounts{state=\"unsaved\"} 1"), "{metrics}");
    assert_eq!(record(&workspace).generation, 1);

    // Who reads the record now would send a spent token, so nobody gets the lock.
    assert_eq!(sibling.force_refresh("default").await["outcome"], "failed");
    let why = text(&sibling.account("default").await["why"]);
    assert!(why.contains(&format!("process {} holds the lock", proxy.child.id())), "{why}");
    proxy.wait_for_log("the new pair is in memory only");
    proxy.wait_for_log("still unsaved");

    mode(&workspace.state(), 0o700);
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(record(&workspace).generation, 2);
    sibling
        .wait_for_account("default", |account| {
            account["state"] == "connected" && account["generation"] == 2
        })
        .await;
    assert_eq!(sibling.get("/v1/companies").await.status(), 200);
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_with_unsaved_tokens_is_reported_and_the_next_start_requires_a_login() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(proxy) = unsaved(&sandbox, &workspace).await else { return };
    let (status, log) = proxy.terminate();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("the newest tokens of account default could not be saved"), "{log}");
    mode(&workspace.state(), 0o700);
    let again = workspace.serve();
    let account =
        again.wait_for_account("default", |account| account["state"] == "login_required").await;
    assert!(text(&account["why"]).contains("was interrupted"), "{account}");
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unsaved_tokens_are_saved_at_shutdown_if_the_disk_works_again() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(proxy) = unsaved(&sandbox, &workspace).await else { return };
    // By now the next try is seconds away.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    mode(&workspace.state(), 0o700);
    let (status, log) = proxy.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(record(&workspace).generation, 2);
    assert_eq!(workspace.serve().get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_saved_fails_and_keeps_the_old_grant() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(proxy) = serve_bound_by_modes(&workspace) else { return };
    proxy.login("default").await;
    let bytes = fs::read(workspace.record("default")).unwrap();
    mode(&workspace.state(), 0o500);
    for name in ["default", "another"] {
        let begun = proxy.admin(Method::POST, &format!("/api/accounts/{name}/login"), None).await;
        let begun: Value = begun.json().await.unwrap();
        let response = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
        let page =
            proxy.http.get(response.headers()["location"].to_str().unwrap()).send().await.unwrap();
        let (status, page) = (page.status(), page.text().await.unwrap());
        assert_eq!(status, 400, "{page}");
        assert!(page.contains("The login failed") && page.contains("Permission denied"), "{page}");
    }
    mode(&workspace.state(), 0o700);
    assert_eq!(fs::read(workspace.record("default")).unwrap(), bytes);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    assert!(!workspace.record("another").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_on_a_full_disk_fails_and_keeps_the_old_grant() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let Some(small) = Small::mount(&workspace) else { return };
    let proxy = workspace.serve();
    proxy.login("default").await;
    small.fill();
    let begun = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
    let begun: Value = begun.json().await.unwrap();
    let response = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
    let page =
        proxy.http.get(response.headers()["location"].to_str().unwrap()).send().await.unwrap();
    let (status, page) = (page.status(), page.text().await.unwrap());
    assert_eq!(status, 400, "{page}");
    assert!(page.contains("The login failed") && page.contains("No space left"), "{page}");
    small.free();
    proxy.kill();
    let again = workspace.serve();
    assert_eq!(again.account("default").await["generation"], 1);
    assert_eq!(again.force_refresh("default").await["outcome"], "refreshed");
    assert_eq!(again.get("/v1/companies").await.status(), 200);
}
