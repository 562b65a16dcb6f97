//! What each response of the token endpoint to a refresh leads to.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::time::{Duration, Instant};

use super::refresh::{burst, fine_burst};
use pleo_proxy::sandbox::{
    ExpiresIn, Faults, GrantType, Introspection, TokenFault, TokenFaultKind,
};
use serde_json::Value;
use support::{
    NO_REFRESH_AHEAD, Proxy, Workspace, access_lifetime, connected, expire, problem, sandbox, text,
    token_posts,
};

fn refresh_fault(kind: TokenFaultKind, work: bool, count: Option<u32>) -> TokenFault {
    TokenFault {
        kind,
        work,
        count,
        only_grant: Some(GrantType::RefreshToken),
        ..TokenFault::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_refresh_response_ends_in_login_required() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults {
        token_answer: Some(refresh_fault(TokenFaultKind::Lost, true, Some(1))),
        ..Faults::default()
    });
    let before = sandbox.counters();
    proxy.force_refresh("default").await;
    let account =
        proxy.wait_for_account("default", |account| account["state"] == "login_required").await;
    assert!(text(&account["why"]).contains("was interrupted"), "{account}");
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    proxy.kill();
    let again = workspace.serve();
    assert_eq!(problem(again.get("/v1/companies").await).await, (503, "login_required".into()));
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
    again.login("default").await;
    assert_eq!(again.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_error_before_processing_logs_nobody_out() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    for kind in [TokenFaultKind::Html, TokenFaultKind::Status, TokenFaultKind::ErrorIn200] {
        let fault = TokenFault { status: Some(502), ..refresh_fault(kind, false, Some(2)) };
        let fault =
            TokenFault { status: fault.status.filter(|_| kind == TokenFaultKind::Status), ..fault };
        sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
        let generation = proxy.account("default").await["generation"].as_u64().unwrap();
        proxy.force_refresh("default").await;
        let well = |account: &Value| {
            account["state"] == "connected" && account["generation"] == generation + 1
        };
        proxy.wait_for_account("default", well).await;
        assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trusted_verdict_the_same_token_is_sent_again() {
    let sandbox = sandbox().await;
    sandbox.set_faults(Faults { introspect: Introspection::InactiveRefresh, ..Faults::default() });
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    let fault =
        TokenFault { status: Some(500), ..refresh_fault(TokenFaultKind::Status, false, Some(1)) };
    sandbox.set_faults(Faults {
        token_answer: Some(fault),
        introspect: Introspection::InactiveRefresh,
        ..Faults::default()
    });
    let before = sandbox.counters();
    proxy.force_refresh("default").await;
    proxy
        .wait_for_account("default", |account| {
            account["state"] == "connected" && account["generation"] == 2
        })
        .await;
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_grant_is_never_sent_again() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.revoke_all();
    let before = sandbox.counters();
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    for _ in 0..5 {
        assert_eq!(problem(proxy.get("/v1/companies").await).await, (503, "login_required".into()));
    }
    proxy.force_refresh("default").await;
    proxy.kill();
    let again = workspace.serve();
    assert_eq!(problem(again.get("/v1/companies").await).await, (503, "login_required".into()));
    again.force_refresh("default").await;
    assert_eq!(token_posts(&sandbox, &before), 1);
    assert!(workspace.record("default").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_keeps_its_tokens_and_a_new_secret_heals() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(600_000));
    let config = support::sandbox_config(&sandbox, NO_REFRESH_AHEAD)
        .replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let workspace = Workspace::new(&config);
    support::write_private(&workspace.path().join("secret"), "sandbox-secret\n");
    let mut command = workspace.command(&["--json", "--set", "tokens.hold=\"3s\""]);
    command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    let proxy = Proxy::launch(command, &workspace.state());
    sandbox.set_faults(access_lifetime(1000));
    proxy.login("default").await;
    support::write_private(&workspace.path().join("secret"), "wrong\n");
    expire(1000).await;
    let response = proxy.get("/v1/companies").await;
    assert_eq!(problem(response).await, (500, "misconfigured".into()));
    let why = text(&proxy.account("default").await["why"]);
    assert!(why.contains("client.id") && why.contains("secret"), "{why}");
    sandbox.set_faults(access_lifetime(600_000));
    support::write_private(&workspace.path().join("secret"), "sandbox-secret\n");
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_not_about_the_grant_never_stops_an_account() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
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
        let account = proxy.force_refresh("default").await["account"].clone();
        assert_eq!(account["state"], state, "{fault:?}: {account}");
        assert!(account["next_try"].is_string(), "it is tried again by itself: {account}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "the old token serves");
        // A person need not wait for the next try.
        assert_eq!(
            proxy.force_refresh("default").await["account"]["generation"],
            number as u64 + 2,
            "{fault:?}"
        );
    }
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

/// Whatever the token endpoint answers for ever, and however much is asked meanwhile: about one
/// token request a second at most, and that only at first.
#[tokio::test(flavor = "multi_thread")]
async fn no_response_causes_a_flood_of_token_requests() {
    let fault = |kind, status| TokenFault { status, ..refresh_fault(kind, false, None) };
    let answering = |fault| Faults { token_answer: Some(fault), ..access_lifetime(1) };
    let kinds = [
        Faults { token_type: Some("mac".into()), ..access_lifetime(1) },
        Faults { omit_refresh_token: true, token_type: Some("mac".into()), ..access_lifetime(1) },
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
    sandbox.set_faults(access_lifetime(1));
    let config = support::sandbox_config(&sandbox, NO_REFRESH_AHEAD)
        .replace("[client]\n", "[client]\nsecret_file = \"secret\"\n");
    let workspace = Workspace::new(&config);
    let secret = workspace.path().join("secret");
    support::write_private(&secret, "sandbox-secret\n");
    let mut command = workspace.command(&[
        "--json",
        "--set",
        "tokens.hold=\"200ms\"",
        "--set",
        "tokens.drain=\"50ms\"",
    ]);
    command.env_remove("PLEO_PROXY_CLIENT_SECRET");
    let proxy = Proxy::launch(command, &workspace.state());
    proxy.login("default").await;
    sandbox.set_faults(faults.clone());
    let before = sandbox.counters();
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        support::write_private(&secret, "sandbox-secret\n");
        burst(std::slice::from_ref(&proxy.api), 4).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    (faults, token_posts(&sandbox, &before))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_token_endpoint_is_obeyed_while_the_old_token_serves() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    let fault = TokenFault {
        status: Some(429),
        retry_after: Some("120".into()),
        ..refresh_fault(TokenFaultKind::Status, false, None)
    };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    let before = sandbox.counters();
    assert_eq!(proxy.force_refresh("default").await["account"]["state"], "retrying");
    fine_burst(&proxy, 20).await;
    assert_eq!(token_posts(&sandbox, &before), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_token_endpoint_is_reported_and_retried() {
    let sandbox = sandbox().await;
    sandbox.set_faults(access_lifetime(1000));
    let api = sandbox.api_origin();
    let workspace = Workspace::for_sandbox(
        &sandbox,
        &format!("{NO_REFRESH_AHEAD}hold = \"300ms\"\ndrain = \"100ms\"\n"),
    );
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    expire(1000).await;
    drop(sandbox);
    let response = proxy.get("/v1/companies").await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(problem(response).await, (503, "auth_unreachable".into()));
    let why = text(&proxy.account("default").await["why"]);
    assert!(why.contains("cannot be reached") && !api.is_empty(), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_token_responses_are_saved_first_and_used_if_possible() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
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
        let response = proxy.force_refresh("default").await;
        assert_eq!(response["outcome"], "refreshed", "{response}");
        assert_eq!(response["account"]["generation"], number as u64 + 2);
        assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    }
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn complete_tokens_in_a_damaged_response_are_saved_and_used() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    use TokenFaultKind::{Bom, Form, Junk, NotUtf8, TooShort, Unended};
    for (number, kind) in [Bom, NotUtf8, Junk, Unended, TooShort, Form].into_iter().enumerate() {
        // A damaged answer to a refresh, then one to a login's code.
        sandbox.set_faults(Faults {
            token_answer: Some(refresh_fault(kind, true, None)),
            ..Faults::default()
        });
        let response = proxy.force_refresh("default").await;
        assert_eq!(response["outcome"], "refreshed", "{kind:?}: {response}");
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
async fn a_response_received_while_the_process_was_stopped_is_used() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
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
    let response: Value = asking.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(response["outcome"], "refreshed", "{response}\n{}", proxy.log());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_non_bearer_token_is_saved_retried_once_then_misconfigured() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox, NO_REFRESH_AHEAD).await;
    sandbox.set_faults(Faults { token_type: Some("mac".into()), ..Faults::default() });
    let before = sandbox.counters();
    proxy.force_refresh("default").await;
    proxy.wait_for_account("default", |account| account["state"] == "misconfigured").await;
    assert_eq!(token_posts(&sandbox, &before), 2);
    assert_eq!(problem(proxy.get("/v1/companies").await).await, (500, "misconfigured".into()));
    sandbox.set_faults(Faults::default());
    proxy.force_refresh("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}
