//! The second journey: a refresh, under load, faults, crashes and siblings. The sandbox's counters
//! are the judge: how many token requests there were, and whether a spent refresh token was ever
//! sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{
    Counters, ExpiresIn, Faults, GrantType, Introspection, Sandbox, TokenFault, TokenFaultKind,
};
use serde_json::Value;
use support::{Place, Proxy, client, problem, sandbox, text};
use tokio::task::JoinSet;

/// Nothing is refreshed ahead of need, so that a test decides when a refresh begins.
const COLD: &str = "[tokens]\nkeep_warm = \"1ms\"\n";

fn life(milliseconds: u64) -> Faults {
    Faults { access_life_ms: Some(milliseconds), ..Faults::default() }
}

fn refresh_fault(kind: TokenFaultKind, work: bool, count: Option<u32>) -> TokenFault {
    TokenFault {
        kind,
        work,
        count,
        only_grant: Some(GrantType::RefreshToken),
        ..TokenFault::default()
    }
}

async fn connected(sandbox: &Sandbox, more: &str) -> (Place, Proxy) {
    let place = Place::toward(sandbox, more);
    let proxy = place.serve();
    proxy.login("default").await;
    (place, proxy)
}

/// Refreshes posted since the counters were read, whatever came of them.
fn posts(sandbox: &Sandbox, before: &Counters) -> u64 {
    sandbox.counters().token_posts - before.token_posts
}

async fn force(proxy: &Proxy) -> Value {
    let answer =
        proxy.admin(reqwest::Method::POST, "/api/accounts/default/refresh?force=true", None).await;
    answer.json().await.unwrap()
}

async fn expire(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds + 20)).await;
}

/// Requests in parallel, all of which are answered by the upstream.
async fn fine_burst(proxy: &Proxy, count: usize) {
    let statuses = burst(std::slice::from_ref(&proxy.api), count).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}\n{}", proxy.log());
}

/// Requests in parallel; the statuses that came back.
async fn burst(addresses: &[String], count: usize) -> Vec<u16> {
    let (http, mut tasks) = (client(), JoinSet::new());
    for number in 0..count {
        let request = http.get(format!("{}/v1/companies", addresses[number % addresses.len()]));
        tasks.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    tasks.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn steady_load_sees_nothing_of_the_refreshes() {
    let sandbox = sandbox().await;
    sandbox.set_faults(life(1000));
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
    sandbox.set_faults(life(1500));
    let (place, first) = connected(&sandbox, COLD).await;
    let second = place.serve();
    let both = [first.api.clone(), second.api.clone()];
    assert_eq!(burst(&both, 2).await, [200, 200]);
    let before = sandbox.counters();
    expire(1500).await;
    sandbox.set_faults(life(600_000));
    let statuses = burst(&both, 1000).await;
    assert!(statuses.iter().all(|status| *status == 200), "{}\n{}", first.log(), second.log());
    assert_eq!(posts(&sandbox, &before), 1);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_cancels_only_itself() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 400, ..life(600_000) });
    let forced =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let gone = forced.bearer_auth(&proxy.key).timeout(Duration::from_millis(150)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    proxy.until("default", |account| account["generation"] == 2).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    proxy.kill();
    assert_eq!(place.serve().get("/v1/companies").await.status(), 200, "it was saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_waits_for_a_token_request() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..life(600_000) });
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
    sandbox.set_faults(life(600_000));
    let again = place.serve();
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(again.account("default").await["generation"], 2);
    assert_eq!(posts(&sandbox, &before), 1, "neither lost nor repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_needs_neither_login_nor_token_request() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, "").await;
    let before = sandbox.counters();
    proxy.kill();
    let again = place.serve();
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(posts(&sandbox, &before), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_ends_in_an_honest_login_required() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
    sandbox.set_faults(Faults {
        token_answer: Some(refresh_fault(TokenFaultKind::Lost, true, Some(1))),
        ..Faults::default()
    });
    let before = sandbox.counters();
    force(&proxy).await;
    let account = proxy.until("default", |account| account["state"] == "login_required").await;
    assert!(text(&account["why"]).contains("was interrupted"), "{account}");
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    proxy.kill();
    let again = place.serve();
    assert_eq!(problem(again.get("/v1/companies").await).await, (503, "login_required".into()));
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
    again.login("default").await;
    assert_eq!(again.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_processed_nothing_logs_nobody_out() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    for kind in [TokenFaultKind::Html, TokenFaultKind::Status, TokenFaultKind::ErrorIn200] {
        let fault = TokenFault { status: Some(502), ..refresh_fault(kind, false, Some(2)) };
        let fault =
            TokenFault { status: fault.status.filter(|_| kind == TokenFaultKind::Status), ..fault };
        sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
        let generation = proxy.account("default").await["generation"].as_u64().unwrap();
        force(&proxy).await;
        let well = |account: &Value| {
            account["state"] == "connected" && account["generation"] == generation + 1
        };
        proxy.until("default", well).await;
        assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_verdict_the_same_token_is_sent_again() {
    let sandbox = sandbox().await;
    sandbox.set_faults(Faults { introspect: Introspection::InactiveRefresh, ..Faults::default() });
    let (_place, proxy) = connected(&sandbox, COLD).await;
    let fault =
        TokenFault { status: Some(500), ..refresh_fault(TokenFaultKind::Status, false, Some(1)) };
    sandbox.set_faults(Faults {
        token_answer: Some(fault),
        introspect: Introspection::InactiveRefresh,
        ..Faults::default()
    });
    let before = sandbox.counters();
    force(&proxy).await;
    proxy
        .until("default", |account| account["state"] == "connected" && account["generation"] == 2)
        .await;
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_grant_is_never_sent_again() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
    sandbox.revoke_all();
    let before = sandbox.counters();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    for _ in 0..5 {
        assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    }
    force(&proxy).await;
    proxy.kill();
    let again = place.serve();
    assert_eq!(problem(again.get("/v1/companies").await).await, (503, "login_required".into()));
    force(&again).await;
    assert_eq!(posts(&sandbox, &before), 1);
    assert!(place.record("default").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_keeps_its_tokens_and_a_new_secret_heals() {
    let sandbox = sandbox().await;
    sandbox.set_faults(life(600_000));
    let config = support::config_toward(&sandbox, COLD)
        .replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let place = Place::new(&config);
    support::write_private(&place.path().join("secret"), "sandbox-secret\n");
    let mut command = place.command(&["--json", "--set", "tokens.hold=\"3s\""]);
    command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    let proxy = Proxy::launch(command, &place.state());
    sandbox.set_faults(life(1000));
    proxy.login("default").await;
    support::write_private(&place.path().join("secret"), "wrong\n");
    expire(1000).await;
    let answer = proxy.get("/v1/companies").await;
    assert_eq!(problem(answer).await, (500, "misconfigured".into()));
    let why = text(&proxy.account("default").await["why"]);
    assert!(why.contains("client.id") && why.contains("secret"), "{why}");
    sandbox.set_faults(life(600_000));
    support::write_private(&place.path().join("secret"), "sandbox-secret\n");
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_not_about_the_grant_never_stops_an_account() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    let plain = |status| TokenFault {
        status: Some(status),
        ..refresh_fault(TokenFaultKind::Status, false, Some(1))
    };
    let html = |status| TokenFault { kind: TokenFaultKind::Html, ..plain(status) };
    let coded = |status, code: &str| TokenFault {
        kind: TokenFaultKind::Error,
        error: Some(code.into()),
        ..plain(status)
    };
    let passing = [
        (plain(400), "retrying"),
        (html(403), "retrying"),
        (plain(404), "retrying"),
        (html(408), "retrying"),
        (plain(421), "retrying"),
        (coded(400, "something_new"), "retrying"),
        (coded(400, "invalid_request"), "retrying"),
        (coded(401, "access_denied"), "retrying"),
        (coded(401, "invalid_client"), "misconfigured"),
        (coded(400, "unsupported_grant_type"), "misconfigured"),
    ];
    for (number, (fault, state)) in passing.into_iter().enumerate() {
        sandbox.set_faults(Faults { token_answer: Some(fault.clone()), ..Faults::default() });
        let account = force(&proxy).await["account"].clone();
        assert_eq!(account["state"], state, "{fault:?}: {account}");
        assert!(account["next_try"].is_string(), "it is tried again by itself: {account}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "the old token serves");
        // A person need not wait for the next try.
        assert_eq!(force(&proxy).await["account"]["generation"], number as u64 + 2, "{fault:?}");
    }
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

/// Whatever the token endpoint answers for ever, and however much is asked meanwhile: about one
/// token request a second at most, and that only at first.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_makes_a_storm_of_token_requests() {
    let fault = |kind, status| TokenFault { status, ..refresh_fault(kind, false, None) };
    let answering = |fault| Faults { token_answer: Some(fault), ..life(1) };
    let kinds = [
        Faults { token_type: Some("mac".into()), ..life(1) },
        Faults { omit_refresh_token: true, token_type: Some("mac".into()), ..life(1) },
        answering(fault(TokenFaultKind::Error, Some(403))),
        answering(TokenFault {
            error: Some("invalid_client".into()),
            ..fault(TokenFaultKind::Error, None)
        }),
        answering(fault(TokenFaultKind::Html, Some(404))),
        answering(fault(TokenFaultKind::Status, Some(500))),
        answering(fault(TokenFaultKind::ErrorIn200, None)),
        answering(fault(TokenFaultKind::Lost, None)),
        answering(fault(TokenFaultKind::Huge, None)),
    ];
    let storms = kinds.map(|faults| tokio::spawn(posts_in_four_seconds(faults)));
    for storm in storms {
        let (faults, posts) = storm.await.unwrap();
        assert!((1..=6).contains(&posts), "{posts} token requests: {faults:?}");
    }
}

/// Requests and a secret file that changes all the time, for four seconds.
async fn posts_in_four_seconds(faults: Faults) -> (Faults, u64) {
    let sandbox = sandbox().await;
    sandbox.set_faults(life(1));
    let config = support::config_toward(&sandbox, COLD)
        .replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let place = Place::new(&config);
    let secret = place.path().join("secret");
    support::write_private(&secret, "sandbox-secret\n");
    let mut command = place.command(&[
        "--json",
        "--set",
        "tokens.hold=\"200ms\"",
        "--set",
        "tokens.drain=\"50ms\"",
    ]);
    command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    let proxy = Proxy::launch(command, &place.state());
    proxy.login("default").await;
    sandbox.set_faults(faults.clone());
    let before = sandbox.counters();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        support::write_private(&secret, "sandbox-secret\n");
        burst(std::slice::from_ref(&proxy.api), 4).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (faults, posts(&sandbox, &before))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_token_endpoint_is_obeyed_while_the_old_token_serves() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    let fault = TokenFault {
        status: Some(429),
        retry_after: Some("120".into()),
        ..refresh_fault(TokenFaultKind::Status, false, None)
    };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    let before = sandbox.counters();
    assert_eq!(force(&proxy).await["account"]["state"], "retrying");
    fine_burst(&proxy, 20).await;
    assert_eq!(posts(&sandbox, &before), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_token_endpoint_is_said_so_and_waited_for() {
    let sandbox = sandbox().await;
    sandbox.set_faults(life(1000));
    let api = sandbox.api_origin();
    let place = Place::toward(&sandbox, &format!("{COLD}hold = \"300ms\"\ndrain = \"100ms\"\n"));
    let proxy = place.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    expire(1000).await;
    drop(sandbox);
    let answer = proxy.get("/v1/companies").await;
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(problem(answer).await, (503, "auth_unreachable".into()));
    let why = text(&proxy.account("default").await["why"]);
    assert!(why.contains("cannot be reached") && !api.is_empty(), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_answers_are_saved_first_and_used_if_they_can_be() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    let odd = [
        Faults { expires_in: ExpiresIn::Milliseconds, ..Faults::default() },
        Faults { expires_in: ExpiresIn::String, scope_plus: true, ..Faults::default() },
        Faults {
            expires_in: ExpiresIn::Missing,
            token_type: Some(String::new()),
            ..Faults::default()
        },
        Faults { expires_in: ExpiresIn::Negative, omit_refresh_token: true, ..Faults::default() },
    ];
    for (number, faults) in odd.into_iter().enumerate() {
        sandbox.set_faults(faults);
        let answer = force(&proxy).await;
        assert_eq!(answer["outcome"], "refreshed", "{answer}");
        assert_eq!(answer["account"]["generation"], number as u64 + 2);
        assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_pair_in_a_damaged_answer_is_saved_and_used() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    use TokenFaultKind::{Bom, Form, Junk, NotUtf8, TooShort, Unended};
    for (number, kind) in [Bom, NotUtf8, Junk, Unended, TooShort, Form].into_iter().enumerate() {
        // A damaged answer to a refresh, then one to a login's code.
        sandbox.set_faults(Faults {
            token_answer: Some(refresh_fault(kind, true, None)),
            ..Faults::default()
        });
        let answer = force(&proxy).await;
        assert_eq!(answer["outcome"], "refreshed", "{kind:?}: {answer}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{kind:?}");
        let fault = TokenFault { only_grant: None, ..refresh_fault(kind, true, None) };
        sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
        proxy.login("default").await;
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{kind:?}");
        assert_eq!(proxy.account("default").await["generation"], 2 * number as u64 + 3);
    }
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

/// Stopped before the server works and continued after it has answered.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_came_while_the_process_was_stopped_is_used() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    sandbox.set_faults(Faults { token_latency_after_ms: 600, ..Faults::default() });
    let before = sandbox.counters();
    let asking =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let asking = tokio::spawn(asking.bearer_auth(&proxy.key).send());
    while sandbox.counters().token_posts == before.token_posts {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.signal("STOP");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    proxy.signal("CONT");
    let answer: Value = asking.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(answer["outcome"], "refreshed", "{answer}\n{}", proxy.log());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_no_bearer_is_saved_asked_for_once_more_then_misconfigured() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, COLD).await;
    sandbox.set_faults(Faults { token_type: Some("mac".into()), ..Faults::default() });
    let before = sandbox.counters();
    force(&proxy).await;
    proxy.until("default", |account| account["state"] == "misconfigured").await;
    assert_eq!(posts(&sandbox, &before), 2);
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (500, "misconfigured".into()));
    sandbox.set_faults(Faults::default());
    force(&proxy).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siblings_refresh_is_adopted_without_a_token_request() {
    let sandbox = sandbox().await;
    let (place, first) = connected(&sandbox, COLD).await;
    let second = place.serve();
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    let before = sandbox.counters();
    assert_eq!(force(&first).await["outcome"], "refreshed");
    // At once: the sibling learns of it by the 401, later by looking at the record.
    assert_eq!(second.get("/v1/companies").await.status(), 200);
    assert_eq!(second.account("default").await["generation"], 2);
    assert_eq!(posts(&sandbox, &before), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_store_is_waited_for_and_named() {
    let sandbox = sandbox().await;
    let (place, proxy) =
        connected(&sandbox, &format!("{COLD}hold = \"400ms\"\ndrain = \"100ms\"\n")).await;
    sandbox.set_faults(life(300));
    force(&proxy).await;
    expire(300).await;
    let lock = fs::OpenOptions::new().write(true).open(place.state().join("default.lock")).unwrap();
    lock.lock().unwrap();
    let before = sandbox.counters();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "refresh_timeout".into()));
    assert_eq!(posts(&sandbox, &before), 0, "no lock, no refresh");
    sandbox.set_faults(life(600_000));
    drop(lock);
    proxy.until("default", |account| account["generation"] == 3).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_record_that_is_put_back_is_not_used() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
    let backup = fs::read(place.record("default")).unwrap();
    force(&proxy).await;
    fs::write(place.record("default"), backup).unwrap();
    force(&proxy).await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(proxy.account("default").await["generation"], 3);
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_leaves_an_intent_that_its_successor_resolves() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
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
    let noted = || fs::read_to_string(place.record("default")).unwrap().contains("\"sent_at\"");
    while !noted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.kill();
    let _ = asking.wait();
    sandbox.set_faults(Faults::default());
    let again = place.serve();
    // The old token is still good: the server never saw the request.
    assert_eq!(again.get("/v1/companies").await.status(), 200);
    assert_eq!(again.account("default").await["state"], "uncertain");
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_during_a_refresh_wins() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, COLD).await;
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
    while posts(&sandbox, &before) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = proxy.admin(reqwest::Method::POST, "/api/accounts/default/logout", None).await;
    assert_eq!(answer.status(), 200);
    drop(asking.await);
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    let record = fs::read_to_string(place.record("default")).unwrap();
    assert!(!record.contains("sbx-"), "no token is left: {record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_that_fails_leaves_the_account_as_it_was() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox, "").await;
    let whole = fs::read(place.record("default")).unwrap();
    fs::write(place.record("default"), &whole[..20]).unwrap();
    let answer = proxy.admin(reqwest::Method::POST, "/api/accounts/default/logout", None).await;
    assert_eq!(answer.status(), 503, "a damaged record is not replaced by a logout");
    fs::write(place.record("default"), &whole).unwrap();
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}
