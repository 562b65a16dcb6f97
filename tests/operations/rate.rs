//! How near an account is to Pleo's rate limit, who brought it there, and `upstream.pace`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{ApiFault, Faults, Options};
use serde_json::{Value, json};
use support::{
    Caller, Proxy, Upstream, Workspace, assert_problem, sandbox_with, setup, write_private,
};

async fn account_rate(proxy: &Proxy) -> Value {
    proxy.admin_json("/api/rate").await["accounts"][0].clone()
}

/// Waits until the rate is as wanted.
async fn wait_for_rate(proxy: &Proxy, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let rate = account_rate(proxy).await;
        if wanted(&rate) {
            return rate;
        }
        assert!(start.elapsed() < support::TIMEOUT, "still {rate}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn of_program(rate: &Value, program: &str) -> u64 {
    let programs = rate["programs"].as_array().unwrap().iter();
    let own = programs.filter(|it| it["program"] == program);
    own.map(|it| it["last_minute"].as_u64().unwrap()).sum()
}

/// This process as the kernel calls it.
fn own_name() -> String {
    let pid = std::process::id();
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim_end().to_owned()
}

/// curl, with so many requests over one connection.
fn curl(workspace: &Workspace, proxy: &Proxy, count: usize) -> Command {
    let line = format!("url = \"{}/v1/companies\"\noutput = /dev/null\n", proxy.api);
    write_private(&workspace.path().join("urls"), &line.repeat(count));
    let mut command = Command::new("curl");
    command.current_dir(workspace.path()).args(["-sS", "--noproxy", "*", "--config", "urls"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_is_exact_and_names_the_programs() {
    let sandbox = sandbox_with(Options { rate_limit: Some(0), ..Options::default() }).await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = sandbox.counters().api_requests;
    let mut child = curl(&workspace, &proxy, 400).spawn().unwrap();
    let mut caller = Caller::of(&proxy);
    for _ in 0..300 {
        assert_eq!(caller.get("/v1/companies").status, 200);
    }
    assert!(child.wait().unwrap().success());
    let sent = sandbox.counters().api_requests - before;
    assert_eq!(sent, 700);
    let rate = wait_for_rate(&proxy, |rate| {
        of_program(rate, "curl") >= 392 && of_program(rate, &own_name()) >= 294
    });
    let rate = rate.await;
    let counted = rate["last_minute"].as_u64().unwrap();
    assert!((686..=714).contains(&counted), "{rate}");
    assert!(of_program(&rate, "curl") <= 408 && of_program(&rate, &own_name()) <= 306, "{rate}");
    assert_eq!(rate["programs"][0]["program"], "curl", "the busiest first: {rate}");
    let all = proxy.admin_json("/api/rate").await;
    assert_eq!((&all["limit"], &all["recommended"]), (&json!(600), &json!(500)));
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_send_one_request_and_leave_are_counted_by_name() {
    let sandbox = sandbox_with(Options { rate_limit: Some(0), ..Options::default() }).await;
    sandbox.set_faults(Faults { latency_ms: 100, ..Faults::default() });
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    for _ in 0..10 {
        assert!(curl(&workspace, &proxy, 1).status().unwrap().success());
    }
    let rate = wait_for_rate(&proxy, |rate| of_program(rate, "curl") >= 8).await;
    assert_eq!(rate["last_minute"], 10, "{rate}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_429_the_clock_runs_and_whoever_does_not_wait_is_named() {
    let sandbox = sandbox_with(Options::default()).await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let limited = ApiFault {
        status: Some(429),
        retry_after: Some("30".into()),
        count: Some(1),
        ..ApiFault::default()
    };
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.get("/v1/companies").status, 200);
    sandbox.set_faults(Faults { api_answer: Some(limited), ..Faults::default() });
    let refused = caller.get("/v1/companies");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("30")));
    let rate = account_rate(&proxy).await;
    let left = rate["retry_after_s"].as_u64().unwrap();
    assert!((1..=30).contains(&left), "{rate}");
    assert_eq!(rate["retried_inside"], json!([]), "who met the limit has not retried: {rate}");
    for _ in 0..3 {
        assert_eq!(caller.get("/v1/companies").status, 200);
    }
    // The program has no name before it was looked up.
    let expected = json!([{"program": own_name(), "requests": 3}]);
    wait_for_rate(&proxy, |rate| rate["retried_inside"] == expected).await;
    let metrics = proxy.admin(reqwest::Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("pleo_proxy_rate_limited_requests_total 1"), "{metrics}");
}

/// A burst of 20 reads at once, then one each half second, for which a read waits a second.
const PACED: &str = "[tokens]\ndrain = \"500ms\"\nhold = \"1s\"\n[upstream]\npace = \"120/min\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn reads_above_the_pace_wait_or_are_told_to_and_writes_are_not_held() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, PACED).await;
    assert_eq!(setup.proxy.admin_json("/api/rate").await["pace"], 120);
    let send = || {
        let mut caller = setup.caller();
        (0..10).map(|_| caller.get("/v1/x")).collect::<Vec<_>>()
    };
    let responses: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let mut refused = 0;
    for response in responses.iter().filter(|response| response.status != 200) {
        refused += 1;
        assert_problem(response, 503, "overloaded");
        let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert!(response.problem_field("detail").contains("upstream.pace"));
    }
    assert!(refused > 0);
    let mut waited = Vec::new();
    for response in responses.iter().filter(|response| response.status == 200) {
        let entry = setup.proxy.exchange(response.header("pleo-proxy-request").unwrap()).await;
        waited.push(entry["token_ms"].as_f64().unwrap());
    }
    assert!(waited.len() > 20, "{waited:?}");
    assert!(waited.iter().any(|wait| *wait > 100.0), "the last ones waited: {waited:?}");
    let before = upstream.requests().len();
    assert_eq!(before, waited.len());
    let mut caller = setup.caller();
    for _ in 0..5 {
        assert_eq!(caller.request("POST", "/v1/vendors", &[], b"{}").status, 200);
    }
    let read = caller.request("POST", "/v1/vendors:search", &[], b"{}");
    assert!(matches!(read.status, 200 | 503), "{}", read.head);
    assert!(
        account_rate(&setup.proxy).await["last_minute"].as_u64().unwrap() as usize >= before + 5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_the_same_moment_do_not_get_past_the_pace() {
    let sandbox = sandbox_with(Options { rate_limit: Some(60), ..Options::default() }).await;
    let workspace = Workspace::for_sandbox(&sandbox, PACED);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let start = Instant::now();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let send = || {
            let mut caller = Caller::of(&proxy);
            (0..20).map(|_| caller.get("/v1/companies").status).collect::<Vec<_>>()
        };
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    // The burst, what came since, and those that wait for a second.
    let most = 21 + 2 * (start.elapsed() + Duration::from_secs(1)).as_secs_f64().ceil() as usize;
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(429), count(200) + count(503)), (0, 160));
    assert!((20..=most).contains(&count(200)), "{} of at most {most}", count(200));
}
