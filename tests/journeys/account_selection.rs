//! Which account a request is for: by header, by prefix, or by default.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::{
    After, Caller, Upstream, assert_problem, config_with_api, setup_without_account, wait_until,
};

// --- Which account.

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_named_by_header_or_prefix() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    setup.proxy.login("acme").await;
    setup.proxy.login("other").await;
    let mut caller = setup.caller();

    assert_eq!(caller.request("GET", "/v1/x", &["Pleo-Account: acme"], b"").status, 200);
    let acme = upstream.last().token();
    assert_eq!(upstream.last().target(), "/v1/x");
    assert!(!upstream.last().names().contains(&"pleo-account".to_owned()));

    assert_eq!(caller.get("/@other/v1/y?z=%2F").status, 200);
    let other = upstream.last().token();
    assert_eq!(upstream.last().target(), "/v1/y?z=%2F");
    assert_ne!(acme, other);

    assert_eq!(caller.request("GET", "/@acme/v1/x", &["pleo-account: acme"], b"").status, 200);
    assert_eq!(upstream.last().token(), acme);
    for (target, expected) in [("/@other", "/"), ("/@other?q", "/?q"), ("/@other//v1", "//v1")] {
        assert_eq!(caller.get(target).status, 200);
        assert_eq!((upstream.last().target(), upstream.last().token()), (expected, other.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_account_choice_is_refused_and_nothing_is_sent() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    setup.proxy.login("acme").await;
    setup.proxy.login("other").await;
    let ask = |target: &str, lines: &[&str]| setup.caller().request("GET", target, lines, b"");

    assert_problem(&ask("/@acme/v1/x", &["Pleo-Account: other"]), 400, "bad_request");
    assert_problem(
        &ask("/v1/x", &["Pleo-Account: acme", "Pleo-Account: acme"]),
        400,
        "bad_request",
    );
    assert_problem(&ask("/v1/x", &["Pleo-Account: nobody"]), 404, "account_unknown");
    assert_problem(&ask("/@nobody/v1/x", &[]), 404, "account_unknown");
    assert_problem(&ask("/@ACME/v1/x", &[]), 404, "account_unknown");
    assert_problem(&ask("/@../v1/x", &[]), 404, "account_unknown");
    let unnamed = ask("/v1/x", &[]);
    assert_problem(&unnamed, 409, "account_required");
    assert!(
        unnamed.problem_field("detail").contains("acme")
            && unnamed.problem_field("detail").contains("other")
    );
    let fix = unnamed.problem_field("fix");
    assert!(fix.contains("`Pleo-Account: acme`") && fix.contains("/@acme/"), "{fix}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_requests_go_to_the_only_account_then_to_default_then_to_the_configured_one() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    let token = |target: &str| {
        assert_eq!(setup.caller().get(target).status, 200, "{target}");
        upstream.last().token()
    };
    setup.proxy.login("acme").await;
    assert_eq!(token("/v1/x"), token("/@acme/v1/x"));

    setup.proxy.login("other").await;
    assert_problem(&setup.caller().get("/v1/x"), 409, "account_required");

    setup.proxy.login("default").await;
    assert_eq!(token("/v1/x"), token("/@default/v1/x"));

    let configured = config_with_api(&setup.sandbox, &upstream.origin, "");
    setup.workspace.configure(&format!("default_account = \"other\"\n{configured}"));
    let second = setup.workspace.serve();
    assert_eq!(Caller::of(&second).get("/v1/x").status, 200);
    let unnamed = upstream.last().token();
    assert_eq!(Caller::of(&second).get("/@other/v1/x").status, 200);
    assert_eq!(unnamed, upstream.last().token());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_the_response_says_how_to_log_in() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    for (target, lines) in
        [("/v1/x", &[][..]), ("/@default/v1/x", &[]), ("/v1/x", &["Pleo-Account: default"])]
    {
        let response = setup.caller().request("GET", target, lines, b"");
        assert_problem(&response, 503, "login_required");
        let login = format!("`{} login", setup.workspace.program());
        assert!(response.problem_field("fix").contains(&login), "{}", response.text());
    }
    assert!(upstream.requests().is_empty());
    assert_eq!(setup.sandbox.counters().token_posts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_another_process_connects_is_found() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    assert_problem(&setup.caller().get("/v1/x"), 503, "login_required");
    assert_problem(&setup.caller().get("/@acme/v1/x"), 404, "account_unknown");
    let second = setup.workspace.serve();
    second.login("acme").await;
    second.kill();
    assert_eq!(
        setup.caller().get("/@acme/v1/x").status,
        200,
        "a named account is looked for at once"
    );
    wait_until("an unnamed request finds the new account", || {
        setup.caller().get("/v1/x").status == 200
    });
}

/// Counts, so that a lost request is not mistaken for one that was never sent.
#[tokio::test(flavor = "multi_thread")]
async fn mixed_parallel_requests_never_mix_their_accounts() {
    let answered = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(|incoming| {
        if incoming.body().is_err() {
            return After::Close;
        }
        let token = incoming.token();
        incoming
            .respond(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len()));
        After::Keep
    });
    let setup = setup_without_account(&upstream, "").await;
    setup.proxy.login("acme").await;
    setup.proxy.login("other").await;
    let [acme, other] =
        ["acme", "other"].map(|name| setup.caller().get(&format!("/@{name}/v1/x")).text());
    let address = setup.proxy.address();
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (answered, tokens) = (answered.clone(), [acme.clone(), other.clone()]);
            thread::spawn(move || {
                let mut caller = Caller::to(address);
                for n in 0..50 {
                    let which = (n + worker) % 2;
                    let named = ["Pleo-Account: acme", "Pleo-Account: other"][which];
                    assert_eq!(caller.request("GET", "/v1/x", &[named], b"").text(), tokens[which]);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(answered.load(Ordering::SeqCst), 400);
    assert_ne!(acme, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_login_of_a_sibling_is_noticed_by_callers_who_name_no_account() {
    let sandbox = support::sandbox().await;
    let workspace = support::Workspace::for_sandbox(&sandbox, "");
    let (first, second) = (workspace.serve(), workspace.serve());
    assert_eq!(
        support::problem(first.get("/v1/companies").await).await,
        (503, "login_required".into())
    );
    second.login("acme").await;
    let start = std::time::Instant::now();
    while first.get("/v1/companies").await.status() != 200 {
        // Far below the half minute at which every sleep ends.
        assert!(start.elapsed() < std::time::Duration::from_secs(15), "{}", first.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
