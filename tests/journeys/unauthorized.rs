//! 401 responses of the upstream: refreshed and sent again once, or passed on with the reason.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

use pleo_proxy::sandbox::{ApiFault, Faults, TokenFault, TokenFaultKind};
use reqwest::Method;
use support::{
    After, Caller, IncomingRequest, OK_RESPONSE, Proxy, UNAUTHORIZED_RESPONSE, Upstream, Workspace,
    assert_problem, sandbox, setup,
};

/// The nonsecret part of what the sandbox and the store know of an account.
async fn generation(proxy: &Proxy, account: &str) -> u64 {
    proxy.account(account).await["generation"].as_u64().unwrap()
}

// --- What becomes of a 401.

#[tokio::test(flavor = "multi_thread")]
async fn a_401_causes_one_refresh_and_one_retry() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    let response = Caller::of(&proxy).request("POST", "/v1/echo/x?a=1", &["X-A: b"], b"the body");
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.text().contains("\"length\":8"), "{}", response.text());
    let counters = sandbox.counters();
    assert_eq!((counters.refreshes, counters.api_unauthorized), (1, 1));
    assert_eq!(counters.last_authorization_header_ok, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_401_is_forwarded_to_the_caller() {
    let upstream = Upstream::responding_with(UNAUTHORIZED_RESPONSE, After::Keep);
    let setup = setup(&upstream, "").await;
    let response = setup.caller().request("POST", "/v1/x", &[], b"body");
    assert_eq!((response.status, response.text().as_str()), (401, "denied"));
    assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    assert!(response.header("pleo-proxy-error").is_none());
    let seen = upstream.requests();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].token(), seen[1].token());
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (&b"body"[..], &b"body"[..]));
    assert_eq!(setup.sandbox.counters().refreshes, 1);

    // An upstream that goes on like this costs no refresh a request.
    assert_eq!(setup.caller().get("/v1/x").status, 401);
    assert_eq!(setup.sandbox.counters().refreshes, 1);
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_is_forwarded_unchanged() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let denied = ApiFault { status: Some(403), ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(denied), ..Faults::default() });
    let before = sandbox.counters().api_requests;
    assert_eq!(proxy.get("/v1/companies").await.status(), 403);
    assert_eq!((sandbox.counters().api_requests, sandbox.counters().refreshes), (before + 1, 0));
}

/// Answers the first request 401, but not before it is told to; all others at once.
pub(super) fn holding_first() -> (Upstream, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((arrived, waiting), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
    let upstream = Upstream::start(move |incoming| {
        if incoming.number > 0 {
            return incoming.respond_ok();
        }
        let _ = incoming.body();
        arrived.lock().unwrap().send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        incoming.respond(UNAUTHORIZED_RESPONSE);
        After::Keep
    });
    (upstream, waiting, go)
}

async fn refresh(proxy: &Proxy) {
    let before = generation(proxy, "default").await;
    let forced = proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
    assert!(forced.status().is_success(), "{}", forced.text().await.unwrap());
    proxy.wait_for_account("default", |it| it["generation"].as_u64() > Some(before)).await;
}

const SHORT_DRAIN: &str = "[tokens]\ndrain = \"50ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_overtaken_by_a_refresh_is_retried_without_another_refresh() {
    let (upstream, waiting, go) = holding_first();
    let setup = setup(&upstream, SHORT_DRAIN).await;
    let mut caller = setup.caller();
    caller.send_head("POST", "/v1/x", &["Content-Length: 4"]);
    caller.send("body");
    waiting.recv().unwrap();
    refresh(&setup.proxy).await;
    go.send(()).unwrap();
    assert_eq!(caller.read_response().text(), "fine");
    let seen = upstream.requests();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].token(), seen[1].token());
    assert_eq!((&seen[1].body[..], seen[1].target()), (&b"body"[..], "/v1/x"));
    assert_eq!(setup.sandbox.counters().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_overtaken_by_a_refresh_is_reported_as_a_proxy_error() {
    let (upstream, waiting, go) = holding_first();
    let setup = setup(&upstream, &format!("{SHORT_DRAIN}[upstream]\nreplay_limit = 10\n")).await;
    let mut caller = setup.caller();
    caller.send_head("POST", "/v1/x", &["Content-Length: 11"]);
    caller.send("eleven byte");
    waiting.recv().unwrap();
    refresh(&setup.proxy).await;
    go.send(()).unwrap();
    let response = caller.read_response();
    assert_problem(&response, 503, "token_rotated");
    assert_eq!(response.header("retry-after"), Some("0"));
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(setup.sandbox.counters().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_not_retried_but_later_requests_use_the_new_token() {
    for (framing, body) in [
        ("Content-Length: 11", "eleven byte"),
        ("Transfer-Encoding: chunked", "6\r\neleven\r\n5\r\n byte\r\n0\r\n\r\n"),
    ] {
        let upstream = Upstream::start(|incoming| match incoming.number {
            0 => {
                let _ = incoming.body();
                incoming.respond(UNAUTHORIZED_RESPONSE);
                After::Keep
            }
            _ => incoming.respond_ok(),
        });
        let setup = setup(&upstream, "[upstream]\nreplay_limit = 10\n").await;
        let before = generation(&setup.proxy, "default").await;
        let mut caller = setup.caller();
        caller.send_head("POST", "/v1/x", &[framing]);
        caller.send(body);
        let response = caller.read_response();
        assert_eq!((response.status, response.text().as_str()), (401, "denied"), "{framing}");
        assert_eq!(upstream.last().body, b"eleven byte");
        setup
            .proxy
            .wait_for_account("default", |it| it["generation"].as_u64() > Some(before))
            .await;
        assert_eq!(setup.caller().get("/v1/x").status, 200);
        assert_eq!((upstream.requests().len(), setup.sandbox.counters().refreshes), (2, 1));
        assert_ne!(upstream.requests()[0].token(), upstream.requests()[1].token());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_before_the_body_is_read_loses_no_part_of_it() {
    for (after, framing) in [
        (After::Close, "Content-Length: 2000"),
        (After::Keep, "Content-Length: 2000"),
        (After::Close, "Transfer-Encoding: chunked"),
        (After::Keep, "Transfer-Encoding: chunked"),
    ] {
        let (arrived, waiting) = mpsc::channel();
        let arrived = Mutex::new(arrived);
        let upstream = Upstream::start(move |incoming| {
            if incoming.number > 0 {
                return incoming.respond_ok();
            }
            incoming.respond(UNAUTHORIZED_RESPONSE);
            arrived.lock().unwrap().send(()).unwrap();
            if after == After::Keep {
                let _ = incoming.body();
            }
            after
        });
        let setup = setup(&upstream, "").await;
        let mut caller = setup.caller();
        caller.send_head("PUT", "/v1/x", &[framing]);
        let half = "h".repeat(1000);
        let chunked = framing.starts_with("Transfer");
        let part =
            |text: &str| if chunked { format!("3e8\r\n{text}\r\n") } else { text.to_owned() };
        caller.send(part(&half));
        waiting.recv().unwrap();
        caller.send(part(&half));
        if chunked {
            caller.send("0\r\n\r\n");
        }
        let response = caller.read_response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "fine"),
            "{after:?} {framing}"
        );
        assert_eq!(upstream.last().body, "h".repeat(2000).into_bytes(), "{after:?} {framing}");
        assert_eq!((upstream.requests().len(), setup.sandbox.counters().refreshes), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_concurrent_401s_cause_one_refresh() {
    const CALLERS: usize = 200;
    let (all_here, stale) = (Barrier::new(CALLERS), Mutex::new(None::<String>));
    let upstream = Upstream::start(move |incoming: &mut IncomingRequest| {
        if incoming.body().is_err() {
            return After::Close;
        }
        let token = incoming.token();
        let is_stale = *stale.lock().unwrap().get_or_insert_with(|| token.clone()) == token;
        if is_stale {
            all_here.wait();
        }
        incoming.respond(if is_stale { UNAUTHORIZED_RESPONSE } else { OK_RESPONSE });
        After::Keep
    });
    let setup = setup(&upstream, "").await;
    let address = setup.proxy.address();
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            thread::spawn(move || {
                Caller::to(address).request("POST", "/v1/x", &[], format!("{n}").as_bytes())
            })
        })
        .collect();
    for caller in callers {
        let response = caller.join().unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_eq!(setup.sandbox.counters().refreshes, 1);
    let seen = upstream.requests();
    assert_eq!(seen.len(), 2 * CALLERS);
    let mut again: Vec<_> = seen[CALLERS..].iter().map(|it| it.body.clone()).collect();
    let mut first: Vec<_> = seen[..CALLERS].iter().map(|it| it.body.clone()).collect();
    first.sort();
    again.sort();
    assert_eq!(first, again, "each was sent again with its own body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_after_the_login_ended_asks_for_a_login() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    sandbox.revoke_all();
    let response = Caller::of(&proxy).get("/v1/companies");
    assert_problem(&response, 503, "login_required");
    let posts = sandbox.counters().token_posts;
    assert_problem(&Caller::of(&proxy).get("/v1/companies"), 503, "login_required");
    assert_eq!(sandbox.counters().token_posts, posts, "a dead refresh token is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_that_no_refresh_can_fix_says_why() {
    let upstream = Upstream::responding_with(UNAUTHORIZED_RESPONSE, After::Keep);
    let setup = setup(&upstream, "[tokens]\ndrain = \"50ms\"\nhold = \"500ms\"\n").await;
    setup.sandbox.set_faults(Faults { token_latency_after_ms: 5_000, ..Faults::default() });
    assert_problem(&setup.caller().get("/v1/x"), 503, "refresh_timeout");
    assert_eq!(upstream.requests().len(), 1);

    let upstream = Upstream::responding_with(UNAUTHORIZED_RESPONSE, After::Keep);
    let setup = support::setup(&upstream, "").await;
    let busy =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    setup.sandbox.set_faults(Faults { token_answer: Some(busy), ..Faults::default() });
    let response = setup.caller().get("/v1/x");
    assert_problem(&response, 503, "auth_unreachable");
    assert!(
        response.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() >= 1),
        "{}",
        response.head
    );
    assert_eq!((upstream.requests().len(), setup.sandbox.counters().token_posts), (1, 2));
}
