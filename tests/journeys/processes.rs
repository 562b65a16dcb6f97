//! One store, several processes: proxies that serve it side by side, commands beside them, and one
//! that stands still with the lock in its hand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Counters, Faults, GrantType, Sandbox, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::Value;
use support::{
    NO_REFRESH_AHEAD, Proxy, TIMEOUT, Workspace, access_lifetime, begin_login, client, consent,
    problem, sandbox, text, token_posts, visit,
};
use tokio::task::JoinSet;

/// How long a test under load lasts; a minute where the machine has time.
fn load() -> Duration {
    let is_heavy = std::env::var_os("PLEO_PROXY_HEAVY").is_some_and(|value| value == "1");
    Duration::from_secs(if is_heavy { 60 } else { 8 })
}

/// Two proxies on one store whose account is connected.
async fn two(sandbox: &Sandbox) -> (Workspace, Proxy, Proxy) {
    let workspace = Workspace::for_sandbox(sandbox, "");
    let first = workspace.serve();
    first.login("default").await;
    let second = workspace.serve();
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    (workspace, first, second)
}

/// The record on disk.
fn stored(workspace: &Workspace) -> Value {
    let envelope: Value =
        serde_json::from_slice(&fs::read(workspace.record("default")).unwrap()).unwrap();
    envelope["record"].clone()
}

/// No superseded token was ever sent, and the server revoked nothing.
fn assert_unharmed(sandbox: &Sandbox) {
    let counters = sandbox.counters();
    assert_eq!((counters.refresh_replays, counters.families_revoked), (0, 0), "{counters:?}");
}

async fn logout(proxy: &Proxy) -> u16 {
    proxy.admin(Method::POST, "/api/accounts/default/logout", None).await.status().as_u16()
}

/// The same call on a task, for something else to happen meanwhile.
fn force_meanwhile(proxy: &Proxy) -> tokio::task::JoinHandle<u16> {
    let request =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let request = request.bearer_auth(&proxy.key);
    tokio::spawn(async move { request.send().await.unwrap().status().as_u16() })
}

async fn until_posted(sandbox: &Sandbox, before: &Counters) {
    let start = Instant::now();
    while token_posts(sandbox, before) == 0 {
        assert!(start.elapsed() < TIMEOUT, "no token request came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a plain request is answered with a status.
async fn until_status(proxy: &Proxy, status: u16) {
    let start = Instant::now();
    loop {
        let now = proxy.get("/v1/companies").await.status();
        if now == status {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "still {now}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// While this lives no command finds a running proxy, so that each works on the store itself, as
/// one process more.
struct Alone(PathBuf);

impl Alone {
    fn new(workspace: &Workspace) -> Self {
        let run = workspace.state().join("run");
        fs::rename(&run, run.with_extension("hidden")).unwrap();
        Self(run)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = fs::rename(self.0.with_extension("hidden"), &self.0);
    }
}

fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill")
        .arg(format!("-{name}"))
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(sent.success());
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Requests with small bodies one after another until the end; what was not a 200.
async fn callers(addresses: &[String], until: Instant, sent: &Arc<AtomicU64>) -> Vec<String> {
    let (http, mut tasks) = (client(), JoinSet::new());
    for number in 0..16 {
        let (http, api, sent) =
            (http.clone(), addresses[number % addresses.len()].clone(), sent.clone());
        tasks.spawn(async move {
            let mut odd = Vec::new();
            while Instant::now() < until {
                let request = match number % 4 {
                    0 => http.post(format!("{api}/v1/echo/small")).body("a small body"),
                    _ => http.get(format!("{api}/v1/companies")),
                };
                let response = request.send().await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                if response.status() != 200 {
                    odd.push(format!(
                        "{} {}",
                        response.status(),
                        response.text().await.unwrap_or_default()
                    ));
                }
            }
            odd
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// Commands one after another, half of them as processes of their own on the store; how many
/// refreshes they forced.
fn commands(workspace: &Workspace, until: Instant) -> u64 {
    let mut forced = 0;
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let arguments: &[&str] = match number % 4 {
            0 => &["refresh"],
            1 => &["status", "--json"],
            2 => &["refresh", "--force"],
            _ => &["refresh", "--json"],
        };
        let alone = (number % 8 < 4).then(|| Alone::new(workspace));
        let done = workspace.run(arguments);
        // Without a proxy, status says so.
        let fine = done.status.success() || (arguments[0] == "status" && alone.is_some());
        assert!(fine, "{arguments:?}: {}", told(&done));
        forced += u64::from(arguments.contains(&"--force"));
        std::thread::sleep(Duration::from_millis(150));
    }
    forced
}

#[tokio::test(flavor = "multi_thread")]
async fn two_proxies_and_commands_redeem_each_token_once_and_no_caller_notices() {
    const LIFE: u64 = 2000;
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(LIFE));
    let (workspace, first, second) = two(&sandbox).await;
    let (before, started, sent) = (sandbox.counters(), Instant::now(), Arc::default());
    let until = started + load();
    let workspace = Arc::new(workspace);
    let beside = workspace.clone();
    let commands = tokio::task::spawn_blocking(move || commands(&beside, until));
    let odd = callers(&[first.api.clone(), second.api.clone()], until, &sent).await;
    let forced = commands.await.unwrap();
    assert!(odd.is_empty(), "{odd:?}\n{}\n{}", first.log(), second.log());
    let (counters, lasted) = (sandbox.counters(), started.elapsed().as_millis() as u64);
    let refreshes = counters.refreshes - before.refreshes;
    // Nobody asks before two margins (of a fifth each) before expiry, and a token that lives cannot
    // be avoided for ever.
    let most = lasted / (LIFE * 3 / 5) + forced + 2;
    let least = load().as_millis() as u64 / (4 * LIFE);
    assert!((least..=most).contains(&refreshes), "{refreshes} of {least}..={most}");
    assert_eq!(
        counters.token_posts - before.token_posts,
        refreshes,
        "every token request was good for something"
    );
    assert!(sent.load(Ordering::Relaxed) > 100 && forced > 0);
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_and_logouts_in_one_process_reach_the_other() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let (first, second) = (workspace.serve(), workspace.serve());
    assert_eq!(
        problem(second.get("/@default/v1/companies").await).await,
        (503, "login_required".into())
    );
    first.login("default").await;
    until_status(&second, 200).await;
    assert_eq!(logout(&second).await, 200);
    until_status(&first, 503).await;
    assert_eq!(problem(first.get("/v1/companies").await).await, (503, "login_required".into()));
    first.login("default").await;
    until_status(&second, 200).await;
    let alone = Alone::new(&workspace);
    let done = workspace.run(&["logout"]);
    drop(alone);
    assert!(done.status.success(), "{}", told(&done));
    for proxy in [&first, &second] {
        until_status(proxy, 503).await;
        assert_eq!(proxy.account("default").await["generation"], 4);
    }
    assert!(
        !fs::read_to_string(workspace.record("default")).unwrap().contains("sbx-"),
        "no token is left"
    );
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_put_back_under_two_proxies_harms_neither() {
    let sandbox = sandbox().await;
    let (workspace, first, second) = two(&sandbox).await;
    let backup = fs::read(workspace.record("default")).unwrap();
    assert_eq!(first.force_refresh("default").await["outcome"], "refreshed");
    until_status(&second, 200).await;
    second.wait_for_account("default", |account| account["generation"] == 2).await;
    support::write_private(&workspace.record("default"), std::str::from_utf8(&backup).unwrap());
    // Each still has the newer pair in memory, and saves what it makes of it over the older record.
    assert_eq!(second.force_refresh("default").await["account"]["generation"], 3);
    first.wait_for_account("default", |account| account["generation"] == 3).await;
    assert_eq!(first.force_refresh("default").await["account"]["generation"], 4);
    until_status(&second, 200).await;
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_a_spent_token_ends_in_login_required_and_stays() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, NO_REFRESH_AHEAD);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let backup = fs::read_to_string(workspace.record("default")).unwrap();
    proxy.force_refresh("default").await;
    proxy.kill();
    support::write_private(&workspace.record("default"), &backup);
    let before = sandbox.counters();
    let proxy = workspace.serve();
    for _ in 0..3 {
        assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    }
    assert_eq!(
        token_posts(&sandbox, &before),
        1,
        "nobody can know before it is tried, and then it is known for good"
    );
    let why = text(&proxy.account("default").await["why"]);
    assert!(why.contains("pleo-proxy login default"), "{why}");
    assert!(workspace.record("default").exists());
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_that_goes_on_loses_nothing() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(
        &sandbox,
        &format!("{NO_REFRESH_AHEAD}hold = \"300ms\"\ndrain = \"100ms\"\n"),
    );
    let proxy = workspace.serve();
    sandbox.set_faults(access_lifetime(1000));
    proxy.login("default").await;
    let before = sandbox.counters();
    sandbox.set_faults(Faults { token_latency_before_ms: 1000, ..access_lifetime(600_000) });
    let _alone = Alone::new(&workspace);
    let holder = workspace.command(&["refresh", "--force"]).spawn().unwrap();
    until_posted(&sandbox, &before).await;
    signal(&holder, "STOP");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waited = proxy.get("/v1/companies").await;
    assert_eq!(problem(waited).await, (503, "refresh_timeout".into()));
    assert_eq!(token_posts(&sandbox, &before), 1, "no lock, no refresh");
    signal(&holder, "CONT");
    let done = holder.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", told(&done));
    until_status(&proxy, 200).await;
    assert_eq!(proxy.account("default").await["generation"], 2);
    assert_eq!(
        token_posts(&sandbox, &before),
        1,
        "its answer was waiting for it, and the other adopts it"
    );
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_is_named_and_its_death_frees_the_lock() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(
        &sandbox,
        &format!("{NO_REFRESH_AHEAD}hold = \"300ms\"\ndrain = \"100ms\"\n"),
    );
    let proxy = workspace.serve();
    sandbox.set_faults(access_lifetime(1000));
    proxy.login("default").await;
    let before = sandbox.counters();
    let only_grant = Some(GrantType::RefreshToken);
    let hang = TokenFault {
        kind: TokenFaultKind::Hang,
        count: Some(1),
        only_grant,
        ..TokenFault::default()
    };
    sandbox.set_faults(Faults { token_answer: Some(hang), ..access_lifetime(600_000) });
    let alone = Alone::new(&workspace);
    let mut holder = workspace.command(&["refresh", "--force"]).spawn().unwrap();
    until_posted(&sandbox, &before).await;
    signal(&holder, "STOP");
    // Somebody has to want a token: the account is idle otherwise, and nothing is wrong with it.
    until_status(&proxy, 503).await;
    let account =
        proxy.wait_for_account("default", |account| account["state"] == "locked_elsewhere").await;
    let why = text(&account["why"]);
    assert!(why.contains(&format!("process {} holds the lock", holder.id())), "{why}");
    let refused = proxy.get("/v1/companies").await;
    assert_eq!(problem(refused).await, (503, "refresh_timeout".into()));
    drop(alone);
    let status = workspace.run(&["status"]);
    let page = String::from_utf8_lossy(&status.stdout).into_owned() + &told(&status);
    assert!(page.contains(&holder.id().to_string()), "{page}");
    assert_eq!(token_posts(&sandbox, &before), 1, "no lock, no refresh");
    holder.kill().unwrap();
    holder.wait().unwrap();
    // The server never looked at the token, introspection says so, and it is sent once more.
    proxy
        .wait_for_account("default", |account| {
            account["state"] == "connected" && account["generation"] == 2
        })
        .await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(token_posts(&sandbox, &before), 2);
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_during_a_refresh_wins_in_its_own_process_and_in_another() {
    let sandbox = sandbox().await;
    let (workspace, first, second) = two(&sandbox).await;
    for (round, asked) in [(1, &first), (2, &second)] {
        let earlier = stored(&workspace)["grant"]["logged_in_at"].clone();
        sandbox.set_faults(Faults { token_latency_after_ms: 300, ..Faults::default() });
        let before = sandbox.counters();
        let refreshing = force_meanwhile(&first);
        until_posted(&sandbox, &before).await;
        asked.login("default").await;
        refreshing.await.unwrap();
        sandbox.set_faults(Faults::default());
        let generation = asked.account("default").await["generation"].clone();
        for proxy in [&first, &second] {
            let account = proxy
                .wait_for_account("default", |account| account["generation"] == generation)
                .await;
            assert_eq!(account["state"], "connected", "round {round}: {account}");
            assert_eq!(proxy.get("/v1/companies").await.status(), 200);
        }
        assert_ne!(stored(&workspace)["grant"]["logged_in_at"], earlier, "round {round}");
        // What is on disk is the login's: it can be refreshed, and the other takes that over.
        assert_eq!(second.force_refresh("default").await["outcome"], "refreshed");
        until_status(&first, 200).await;
        first
            .wait_for_account("default", |account| {
                account["generation"].as_u64() > generation.as_u64()
            })
            .await;
    }
    assert_unharmed(&sandbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_during_another_processes_refresh_wins() {
    let sandbox = sandbox().await;
    let (workspace, first, second) = two(&sandbox).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 300, ..Faults::default() });
    let before = sandbox.counters();
    let refreshing = force_meanwhile(&first);
    until_posted(&sandbox, &before).await;
    assert_eq!(logout(&second).await, 200);
    refreshing.await.unwrap();
    for proxy in [&first, &second] {
        proxy
            .wait_for_account("default", |account| {
                account["state"] == "login_required" && account["generation"] == 3
            })
            .await;
        assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    }
    assert!(
        !fs::read_to_string(workspace.record("default")).unwrap().contains("sbx-"),
        "no token is left"
    );
    assert_eq!(token_posts(&sandbox, &before), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_login_and_logout_last_one_wins() {
    let sandbox = sandbox().await;
    let (workspace, first, second) = two(&sandbox).await;
    let mut newest = 1;
    for round in 0..6 {
        let (logs_in, logs_out) =
            if round % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let login = async {
            let authorize_url = begin_login(logs_in, "default").await;
            visit(consent(&authorize_url).await).await
        };
        let ((entered, page), left) = tokio::join!(login, logout(logs_out));
        assert_eq!(left, 200);
        // The disk decides, and both come to see it.
        let record = stored(&workspace);
        let (generation, granted) = (&record["generation"], record["grant"].is_object());
        if entered == 200 {
            assert_eq!(
                generation.as_u64(),
                Some(newest + 2),
                "both were done, one after the other"
            );
        } else {
            // The logout was asked for when the code was on its way.
            assert!(page.contains("took its place"), "{page}");
            assert_eq!((generation.as_u64(), granted), (Some(newest + 1), false));
        }
        newest = generation.as_u64().unwrap();
        let state = if granted { "connected" } else { "login_required" };
        for proxy in [&first, &second] {
            proxy
                .wait_for_account("default", |account| {
                    account["generation"] == *generation && account["state"] == state
                })
                .await;
            assert_eq!(proxy.get("/v1/companies").await.status(), if granted { 200 } else { 503 });
        }
    }
    // The last to be asked wins: here there is no doubt about who that was.
    first.login("default").await;
    assert_eq!(logout(&second).await, 200);
    until_status(&first, 503).await;
    second.login("default").await;
    until_status(&first, 200).await;
    assert_unharmed(&sandbox);
}
