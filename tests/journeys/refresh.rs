//! The second journey: a refresh, under load, faults, crashes and siblings. The sandbox's counters
//! are the judge: how many token requests there were, and whether a spent refresh token was ever
//! sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::Faults;
use support::{
    NO_REFRESH_AHEAD, Proxy, access_lifetime, client, connected, expire, problem, sandbox,
    token_posts,
};
use tokio::task::JoinSet;

/// Requests in parallel, all of which are answered by the upstream.
pub(super) async fn fine_burst(proxy: &Proxy, count: usize) {
    let statuses = burst(std::slice::from_ref(&proxy.api), count).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}\n{}", proxy.log());
}

/// Requests in parallel; the statuses that came back.
pub(super) async fn burst(addresses: &[String], count: usize) -> Vec<u16> {
    let (http, mut tasks) = (client(), JoinSet::new());
    for number in 0..count {
        let request = http.get(format!("{}/v1/companies", addresses[number % addresses.len()]));
        tasks.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_load_does_not_notice_refreshes() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(1000));
    let (_place, proxy) = connected(&sandbox, "").await;
    let (until, http) = (Instant::now() + Duration::from_secs(5), client());
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let request = http.get(format!("{}/v1/companies", proxy.api));
        tasks.spawn(async move {
            let mut odd = Vec::new();
            while Instant::now() < until {
                let status = request.try_clone().unwrap().send().await.unwrap().status();
                if status != 200 {
                    odd.push(status);
                }
            }
            odd
        });
    }
    let odd: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(odd.is_empty(), "{odd:?}\n{}", proxy.log());
    let counters = sandbox.counters();
    assert!((3..=10).contains(&counters.refreshes), "{counters:?}");
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_over_two_processes_make_one_token_request() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(1500));
    let (workspace, first) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    let second = workspace.serve();
    let both = [first.api.clone(), second.api.clone()];
    assert_eq!(burst(&both, 2).await, [200, 200]);
    let before = sandbox.counters();
    expire(1500).await;
    sandbox.set_faults(access_lifetime(600_000));
    let statuses = burst(&both, 1000).await;
    assert!(statuses.iter().all(|status| *status == 200), "{}\n{}", first.log(), second.log());
    assert_eq!(token_posts(&sandbox, &before), 1);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_cancels_only_itself() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 400, ..access_lifetime(600_000) });
    let forced =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let gone = forced.bearer_auth(&proxy.key).timeout(Duration::from_millis(150)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    proxy.wait_for_account("default", |account| account["generation"] == 2).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    proxy.kill();
    assert_eq!(workspace.serve().get("/v1/companies").await.status(), 200, "it was saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_waits_for_a_token_request() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..access_lifetime(600_000) });
    let before = sandbox.counters();
    let (admin, key) = (proxy.admin.clone(), proxy.key.clone());
    let asking = tokio::spawn(async move {
        client()
            .post(format!("{admin}/api/accounts/default/refresh?force=true"))
            .bearer_auth(key)
            .send()
            .await
    });
    while sandbox.counters().token_posts == before.token_posts {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, log) = proxy.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    drop(asking.await);
    sandbox.set_faults(access_lifetime(600_000));
    let again = workspace.serve();
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(again.account("default").await["generation"], 2);
    assert_eq!(token_posts(&sandbox, &before), 1, "neither lost nor repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_needs_neither_login_nor_token_request() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    let before = sandbox.counters();
    proxy.kill();
    let again = workspace.serve();
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(token_posts(&sandbox, &before), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siblings_refresh_is_adopted_without_a_token_request() {
    let sandbox = sandbox().await;
    let (workspace, first) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    let second = workspace.serve();
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    let before = sandbox.counters();
    assert_eq!(first.force_refresh("default").await["outcome"], "refreshed");
    // At once: the sibling learns of it by the 401, later by looking at the record.
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    assert_eq!(second.account("default").await["generation"], 2);
    assert_eq!(token_posts(&sandbox, &before), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_store_is_waited_for_and_named() {
    let sandbox = sandbox().await;
    let (workspace, proxy) =
        connected(&sandbox, &format!("{NO_REFRESH_AHEAD}hold = \"400ms\"\ndrain = \"100ms\"\n"))
            .await;
    sandbox.set_faults(access_lifetime(300));
    proxy.force_refresh("default").await;
    expire(300).await;
    let lock =
        fs::OpenOptions::new().write(true).open(workspace.state().join("default.lock")).unwrap();
    lock.lock().unwrap();
    let before = sandbox.counters();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "refresh_timeout".into()));
    assert_eq!(token_posts(&sandbox, &before), 0, "no lock, no refresh");
    sandbox.set_faults(access_lifetime(600_000));
    drop(lock);
    proxy.wait_for_account("default", |account| account["generation"] == 3).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_record_that_is_put_back_is_not_used() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    let backup = fs::read(workspace.record("default")).unwrap();
    proxy.force_refresh("default").await;
    fs::write(workspace.record("default"), backup).unwrap();
    proxy.force_refresh("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(proxy.account("default").await["generation"], 3);
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_an_intent_that_its_successor_resolves() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults { token_latency_before_ms: 60_000, ..Faults::default() });
    let asking = Command::new("curl")
        .args([
            "-s",
            "-m",
            "1",
            "-X",
            "POST",
            "-H",
            &format!("authorization: Bearer {}", proxy.key),
        ])
        .arg(format!("{}/api/accounts/default/refresh?force=true", proxy.admin))
        .stdout(Stdio::null())
        .spawn();
    let mut asking = asking.unwrap();
    let noted = || fs::read_to_string(workspace.record("default")).unwrap().contains("\"sent_at\"");
    while !noted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.kill();
    let _ = asking.wait();
    sandbox.set_faults(Faults::default());
    let again = workspace.serve();
    // The old token is still good: the server never saw the request.
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(again.account("default").await["state"], "uncertain");
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_during_a_refresh_wins() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 500, ..Faults::default() });
    let before = sandbox.counters();
    let (admin, key) = (proxy.admin.clone(), proxy.key.clone());
    let asking = tokio::spawn(async move {
        client()
            .post(format!("{admin}/api/accounts/default/refresh?force=true"))
            .bearer_auth(key)
            .send()
            .await
    });
    while token_posts(&sandbox, &before) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let response = proxy.admin(reqwest::Method::POST, "/api/accounts/default/logout", None).await;
    assert_eq!(response.status(), 200);
    drop(asking.await);
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    let record = fs::read_to_string(workspace.record("default")).unwrap();
    assert!(!record.contains("sbx-"), "no token is left: {record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_fails_leaves_the_account_as_it_was() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    let whole = fs::read(workspace.record("default")).unwrap();
    fs::write(workspace.record("default"), &whole[..20]).unwrap();
    let response = proxy.admin(reqwest::Method::POST, "/api/accounts/default/logout", None).await;
    assert_eq!(response.status(), 503, "a damaged record is not replaced by a logout");
    fs::write(workspace.record("default"), &whole).unwrap();
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}
