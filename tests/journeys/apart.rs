//! Two hundred accounts in one proxy, some of them in trouble: nobody else's requests wait or fail.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Faults, GrantType, Sandbox, TokenFault, TokenFaultKind};
use reqwest::Method;
use support::{Proxy, TIMEOUT, Workspace, client, problem, sandbox};
use tokio::task::JoinSet;

const HEALTHY: usize = 195;
/// Their families follow those of the healthy, in this order.
const SICK: [&str; 5] = ["hangs", "dead", "misconfigured", "locked", "lax"];
/// Life of the tokens of the sick: over when their trouble begins.
const SHORT: u64 = 1000;

fn healthy(number: usize) -> String {
    format!("healthy-{number}")
}

/// A fault of the token endpoint that one account suffers.
fn fault_of(sick: &str, fault: TokenFault) -> Faults {
    let at = SICK.iter().position(|name| *name == sick).unwrap();
    let (only_family, only_grant) = (Some(HEALTHY + at), Some(GrantType::RefreshToken));
    Faults {
        token_answer: Some(TokenFault { only_family, only_grant, ..fault }),
        ..Faults::default()
    }
}

fn error(code: &str) -> TokenFault {
    TokenFault { kind: TokenFaultKind::Error, error: Some(code.into()), ..TokenFault::default() }
}

async fn ask(proxy: &Proxy, account: &str) -> (u16, String) {
    problem(proxy.get(&format!("/@{account}/v1/companies")).await).await
}

/// Requests of all healthy accounts, sixteen at a time; how long each took, sorted.
async fn round(api: &str) -> Vec<Duration> {
    let (http, next, mut tasks) = (client(), Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..16 {
        let (http, api, next) = (http.clone(), api.to_owned(), next.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                if number >= 5 * HEALTHY {
                    return times;
                }
                let started = Instant::now();
                let response =
                    http.get(format!("{api}/@{}/v1/companies", healthy(number % HEALTHY)));
                let response = response.send().await.unwrap();
                let (status, text) = (response.status(), response.text().await.unwrap());
                assert_eq!(status, 200, "{}: {text}", healthy(number % HEALTHY));
                times.push(started.elapsed());
            }
        });
    }
    let mut times: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    times.sort();
    times
}

fn say(what: &str, times: &[Duration]) {
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    eprintln!(
        "{} requests of healthy accounts {what}: p50 {:?}, p99 {:?}",
        times.len(),
        at(50),
        at(99)
    );
}

/// Requests of one sick account, one after another until told to end; how many there were.
fn pester(api: &str, sick: &str, over: &Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let (request, over) = (client().get(format!("{api}/@{sick}/v1/companies")), over.clone());
    tokio::spawn(async move {
        let mut sent = 0;
        while !over.load(Ordering::Relaxed) {
            let status = request.try_clone().unwrap().send().await.unwrap().status();
            assert!(status.is_server_error(), "{status}");
            sent += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sent
    })
}

async fn until_served(proxy: &Proxy, account: &str) {
    let started = Instant::now();
    while proxy.get(&format!("/@{account}/v1/companies")).await.status() != 200 {
        assert!(started.elapsed() < TIMEOUT, "{}\n{}", proxy.account(account).await, proxy.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let metrics = proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("{name}: {metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn connect_all(sandbox: &Sandbox, proxy: &Arc<Proxy>) {
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for first in 0..8 {
        let proxy = proxy.clone();
        tasks.spawn(async move {
            for number in (first..HEALTHY).step_by(8) {
                proxy.login(&healthy(number)).await;
            }
        });
    }
    tasks.join_all().await;
    sandbox.set_faults(Faults { access_life_ms: Some(SHORT), ..Faults::default() });
    for sick in SICK {
        proxy.login(sick).await;
    }
    eprintln!("{} accounts connected in {:?}", HEALTHY + SICK.len(), started.elapsed());
}

/// Brings each sick account into its state; the lock is held for as long as the file lives.
async fn sicken(sandbox: &Sandbox, workspace: &Workspace, proxy: &Proxy) -> fs::File {
    tokio::time::sleep(Duration::from_millis(SHORT)).await;
    sandbox.set_faults(fault_of("dead", error("invalid_grant")));
    assert_eq!(ask(proxy, "dead").await, (503, "login_required".into()));
    sandbox.set_faults(fault_of("misconfigured", error("invalid_client")));
    assert_eq!(ask(proxy, "misconfigured").await, (500, "misconfigured".into()));
    fs::set_permissions(workspace.record("lax"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(ask(proxy, "lax").await, (503, "store_error".into()));
    let lock =
        fs::OpenOptions::new().write(true).open(workspace.state().join("locked.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(ask(proxy, "locked").await, (503, "refresh_timeout".into()));
    sandbox.set_faults(fault_of(
        "hangs",
        TokenFault { kind: TokenFaultKind::Hang, ..TokenFault::default() },
    ));
    assert_eq!(ask(proxy, "hangs").await, (503, "refresh_timeout".into()));
    lock
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_with_failing_refreshes_do_not_delay_other_accounts() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(
        &sandbox,
        "[tokens]\nkeep_warm = \"1ms\"\nhold = \"500ms\"\ndrain = \"100ms\"\n",
    );
    let proxy = Arc::new(Proxy::launch(
        workspace.command(&["--json", "--log", "warn"]),
        &workspace.state(),
    ));
    connect_all(&sandbox, &proxy).await;
    say("beside healthy ones", &round(&proxy.api).await);
    let lock = sicken(&sandbox, &workspace, &proxy).await;

    let (held_before, over) =
        (metric(&proxy, "pleo_proxy_held_requests_total").await, Arc::default());
    let pests: Vec<_> = SICK.iter().map(|sick| pester(&proxy.api, sick, &over)).collect();
    say("beside sick ones", &round(&proxy.api).await);
    over.store(true, Ordering::Relaxed);
    let mut of_the_sick = 0;
    for pest in pests {
        of_the_sick += pest.await.unwrap();
    }
    let held = metric(&proxy, "pleo_proxy_held_requests_total").await - held_before;
    assert!(of_the_sick >= SICK.len() as u64);
    assert!(held <= of_the_sick, "{held} waited, and only {of_the_sick} were of sick accounts");

    // Their refreshes go on too.
    for number in 0..20 {
        let path = format!("/api/accounts/{}/refresh?force=true", healthy(number));
        assert_eq!(proxy.admin(Method::POST, &path, None).await.status(), 200);
    }
    drop(lock);
    until_served(&proxy, "locked").await;
    fs::set_permissions(workspace.record("lax"), fs::Permissions::from_mode(0o600)).unwrap();
    until_served(&proxy, "lax").await;
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}
