//! `kill -9` at system calls: of a refresh, a login and a logout on the command line, and of a
//! proxy under load.
//!
//! Whatever the moment, the store loads, holds the old or the new pair, and the account works again
//! by itself; only where the sandbox itself calls the stored refresh token spent is
//! `login_required` the right answer.
//!
//! Usually a few moments are tried. `tests/heavy/crash.sh` tries all of them and prints a table.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fs;
use std::time::{Duration, Instant};

use super::crash_case::{AFTERMATH, Case, Deed, Fate, Moment, Room, Tally, deadly, is_heavy, run};
use pleo_proxy::sandbox::Faults;
use support::{Proxy, TIMEOUT, problem};
use tokio::task::{JoinSet, block_in_place};

/// Cases that are killed or judged at a time; those that wait for an intent to settle do not count.
pub(super) const AT_WORK: usize = 4;

/// Cases that exist at a time.
pub(super) const UNDER_WAY: usize = 300;

/// System calls before a process reaches its store, the same for every deed.
const PREAMBLE: usize = 150;

/// Further system calls than the counted ones: no two runs make quite the same.
const SLACK: usize = 25;

/// Calls that touch store, lock, intent and socket, and how often each thread makes them, as far as
/// the quick run goes.
const QUICK: [(&str, usize); 12] = [
    ("openat", 4),
    ("write", 6),
    ("fsync", 3),
    ("/^rename", 2),
    ("flock", 1),
    ("ftruncate", 3),
    ("lseek", 2),
    ("connect", 1),
    ("writev", 2),
    ("recvfrom", 3),
    ("shutdown", 1),
    ("exit_group", 1),
];

/// The system calls that a deed makes if nobody disturbs it.
async fn length(deed: Deed) -> usize {
    let case = Case::new(deed, Room::new()).await;
    let report = case.workspace.path().join("calls");
    let arguments: &[&str] = match deed {
        Deed::Refresh | Deed::BlindRefresh => &["refresh", "--force"],
        Deed::Login => &["login", "--paste"],
        Deed::Logout => &["logout"],
    };
    let mut command = deadly(&case.workspace.command(arguments), &Moment::Nth(0));
    command.env("KILL_AT_REPORT", &report);
    let output = match deed {
        Deed::Login => case.login(command).await,
        _ => run(command),
    };
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(report).unwrap().parse().unwrap()
}

async fn all(deed: Deed, moments: impl Iterator<Item = Moment>) -> Tally {
    let (room, mut tasks) = (Room::new(), JoinSet::new());
    for moment in moments {
        let room = room.clone();
        tasks.spawn(async move {
            let _exists = room.under_way.clone().acquire_owned().await.unwrap();
            let case = {
                let _working = room.at_work.clone().acquire_owned().await.unwrap();
                Case::new(deed, room.clone()).await
            };
            case.run(moment).await
        });
    }
    Tally::of(tasks).await
}

/// All moments of a heavy run; of a quick one those of calls that matter.
async fn moments(
    deed: Deed,
    quick: impl Iterator<Item = Moment>,
) -> Box<dyn Iterator<Item = Moment>> {
    match is_heavy() {
        true if deed == Deed::Refresh => {
            Box::new((1..=length(deed).await + SLACK).map(Moment::Nth))
        }
        true => Box::new((PREAMBLE..=length(deed).await + SLACK).map(Moment::Nth)),
        false => Box::new(quick.collect::<Vec<_>>().into_iter()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_refresh_killed_at_any_system_call_recovers_or_reports_login_required() {
    if !strace::may_trace("kills during a refresh") {
        return;
    }
    let quick =
        QUICK.into_iter().flat_map(|(call, most)| (1..=most).map(move |n| Moment::Call(call, n)));
    let tally = all(Deed::Refresh, moments(Deed::Refresh, quick).await).await;
    tally.judge("refresh");
    if is_heavy() {
        let socket = (PREAMBLE..length(Deed::BlindRefresh).await).step_by(4).map(Moment::Nth);
        all(Deed::BlindRefresh, socket).await.judge("refresh, no introspection");
    }
    // The moments that matter were among them: before the new pair was there, and after.
    assert!(
        tally.count(|fate| fate.new_pair) > 0 && tally.count(|fate| fate.honest_login) > 0,
        "{tally}"
    );
    assert!(tally.count(|fate| !fate.new_pair && !fate.honest_login) > 0, "{tally}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_killed_login_or_logout_leaves_the_old_grant_or_the_new_state() {
    if !strace::may_trace("kills during a login and a logout") {
        return;
    }
    for deed in [Deed::Login, Deed::Logout] {
        let calls = [("/^rename", 1), ("fsync", 1), ("fsync", 2), ("ftruncate", 2), ("flock", 1)];
        let quick = calls.into_iter().map(|(call, n)| Moment::Call(call, n));
        let tally = all(deed, moments(deed, quick).await).await;
        tally.judge(if deed == Deed::Login { "login" } else { "logout" });
        assert!(tally.count(|fate| fate.new_pair || fate.logged_out) > 0, "{deed:?}: {tally}");
        assert!(tally.count(|fate| !fate.new_pair && !fate.logged_out) > 0, "{deed:?}: {tally}");
    }
}

/// A proxy under load, with one refresh after the other, is killed; its successor serves, or says
/// honestly why not.
async fn killed_under_load(room: Room) -> Result<Fate, String> {
    let working = room.at_work.clone().acquire_owned().await.unwrap();
    let case = Case::new(Deed::Refresh, room.clone()).await;
    case.sandbox.set_faults(Faults {
        token_latency_before_ms: 4,
        token_latency_after_ms: 12,
        ..Faults::default()
    });
    let proxy = block_in_place(|| case.workspace.serve());
    let mut load = JoinSet::new();
    for _ in 0..4 {
        load.spawn(requests(room.http.clone(), format!("{}/v1/companies", proxy.api)));
    }
    load.spawn(refreshes(room.http.clone(), proxy.admin.clone(), proxy.key.clone()));
    let start = Instant::now();
    while case.sandbox.counters().refreshes < 3 {
        assert!(start.elapsed() < TIMEOUT, "no refresh\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(random() % 200)).await;
    proxy.kill();
    let odd: Vec<_> = load.join_all().await.into_iter().flatten().collect();
    tokio::time::sleep(AFTERMATH).await;
    case.sandbox.set_faults(Faults::default());
    let before = case.sandbox.counters();
    if !odd.is_empty() || before.refresh_replays > 0 {
        return Err(format!("before the kill: {odd:?}, {before:?}"));
    }
    let stored = case.refresh_token()?.ok_or("the grant is gone")?;
    let (spent, was_noted) = (!case.is_good(&stored).await, case.intent_sent_at().is_some());
    let again = block_in_place(|| case.workspace.serve());
    drop(working);
    let served = first_answer(&again).await?;
    // An intent that nobody knows the outcome of is resolved without anybody's help.
    let wanted = if spent { "login_required" } else { "connected" };
    again.wait_for_account("default", |account| account["state"] == wanted).await;
    let after = case.sandbox.counters();
    if served == spent || after.refresh_replays > 0 || spent && !was_noted {
        return Err(format!(
            "served: {served}, spent: {spent}, noted: {was_noted}, {after:?}\n{}",
            again.log()
        ));
    }
    let why = again.account("default").await["why"].as_str().unwrap_or_default().to_owned();
    if spent && !why.contains("was interrupted") {
        return Err(format!("the reason is not an honest one: {why}"));
    }
    Ok(Fate { killed: true, honest_login: spent, new_pair: !was_noted, ..Fate::default() })
}

/// Asks until the proxy is gone; what came back that should not.
async fn requests(http: reqwest::Client, url: String) -> Vec<String> {
    let mut odd = Vec::new();
    while let Ok(response) = http.get(&url).send().await {
        if response.status() != 200 {
            odd.push(format!(
                "{} {}",
                response.status(),
                response.text().await.unwrap_or_default()
            ));
        }
    }
    odd
}

/// Forces refreshes until the proxy is gone.
async fn refreshes(http: reqwest::Client, admin: String, key: String) -> Vec<String> {
    let forced =
        || http.post(format!("{admin}/api/accounts/default/refresh?force=true")).bearer_auth(&key);
    while forced().send().await.is_ok() {}
    Vec::new()
}

/// True if a request is served in the end, false if it needs a login; until then it may be told to
/// come back.
async fn first_answer(proxy: &Proxy) -> Result<bool, String> {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        let response = proxy.get("/v1/companies").await;
        let comes_back = response.headers().contains_key("retry-after");
        match response.status().as_u16() {
            200 => return Ok(true),
            _ => match problem(response).await {
                (503, code) if code == "login_required" => return Ok(false),
                (503, code) if code == "auth_unreachable" && comes_back => {}
                other => return Err(format!("{other:?}\n{}", proxy.log())),
            },
        }
        tokio::time::sleep(AFTERMATH).await;
    }
    Err(format!("no answer\n{}", proxy.log()))
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_proxy_killed_under_load_recovers_or_reports_login_required() {
    let (room, mut tasks) = (Room::new(), JoinSet::new());
    for _ in 0..if is_heavy() { 100 } else { 4 } {
        tasks.spawn(killed_under_load(room.clone()));
    }
    Tally::of(tasks).await.judge("serve, under load");
}
