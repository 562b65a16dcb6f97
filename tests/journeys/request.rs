//! The first journey: a plain request reaches Pleo with a fresh token. Who is let in, for which
//! account, and what becomes of a 401.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;

use pleo_proxy::sandbox::{ApiFault, Faults, TokenFault, TokenFaultKind};
use reqwest::Method;
use support::upstream::{
    After, Answer, Caller, DENIED, FINE, Stage, Upstream, Visit, config_before, eventually, stage,
    unconnected,
};
use support::{PATIENCE, Place, Proxy, raw, sandbox, write_private};

fn is(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.problem(), (status, code.to_owned()), "{}", answer.text());
}

/// The nonsecret part of what the sandbox and the store know of an account.
async fn generation(proxy: &Proxy, account: &str) -> u64 {
    proxy.account(account).await["generation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_gets_a_token() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let answer = proxy.get("/v1/companies").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(proxy.terminate().0.code(), Some(0));
}

// --- Which account.

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_named_by_header_or_prefix() {
    let upstream = Upstream::fine();
    let stage = unconnected(&upstream, "").await;
    stage.proxy.login("acme").await;
    stage.proxy.login("other").await;
    let mut caller = stage.caller();

    assert_eq!(caller.ask("GET", "/v1/x", &["Pleo-Account: acme"], b"").status, 200);
    let acme = upstream.last().token();
    assert_eq!(upstream.last().target(), "/v1/x");
    assert!(!upstream.last().names().contains(&"pleo-account".to_owned()));

    assert_eq!(caller.get("/@other/v1/y?z=%2F").status, 200);
    let other = upstream.last().token();
    assert_eq!(upstream.last().target(), "/v1/y?z=%2F");
    assert_ne!(acme, other);

    assert_eq!(caller.ask("GET", "/@acme/v1/x", &["pleo-account: acme"], b"").status, 200);
    assert_eq!(upstream.last().token(), acme);
    for (target, expected) in [("/@other", "/"), ("/@other?q", "/?q"), ("/@other//v1", "//v1")] {
        assert_eq!(caller.get(target).status, 200);
        assert_eq!((upstream.last().target(), upstream.last().token()), (expected, other.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_choice_of_account_is_refused_and_nothing_is_sent() {
    let upstream = Upstream::fine();
    let stage = unconnected(&upstream, "").await;
    stage.proxy.login("acme").await;
    stage.proxy.login("other").await;
    let ask = |target: &str, lines: &[&str]| stage.caller().ask("GET", target, lines, b"");

    is(&ask("/@acme/v1/x", &["Pleo-Account: other"]), 400, "bad_request");
    is(&ask("/v1/x", &["Pleo-Account: acme", "Pleo-Account: acme"]), 400, "bad_request");
    is(&ask("/v1/x", &["Pleo-Account: nobody"]), 404, "account_unknown");
    is(&ask("/@nobody/v1/x", &[]), 404, "account_unknown");
    is(&ask("/@ACME/v1/x", &[]), 404, "account_unknown");
    is(&ask("/@../v1/x", &[]), 404, "account_unknown");
    let unnamed = ask("/v1/x", &[]);
    is(&unnamed, 409, "account_required");
    assert!(unnamed.told("detail").contains("acme") && unnamed.told("detail").contains("other"));
    let fix = unnamed.told("fix");
    assert!(fix.contains("`Pleo-Account: acme`") && fix.contains("/@acme/"), "{fix}");
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn unnamed_requests_go_to_the_only_account_then_to_default_then_to_the_configured_one() {
    let upstream = Upstream::fine();
    let stage = unconnected(&upstream, "").await;
    let token = |target: &str| {
        assert_eq!(stage.caller().get(target).status, 200, "{target}");
        upstream.last().token()
    };
    stage.proxy.login("acme").await;
    assert_eq!(token("/v1/x"), token("/@acme/v1/x"));

    stage.proxy.login("other").await;
    is(&stage.caller().get("/v1/x"), 409, "account_required");

    stage.proxy.login("default").await;
    assert_eq!(token("/v1/x"), token("/@default/v1/x"));

    let configured = config_before(&stage.sandbox, &upstream.origin, "");
    stage.place.configure(&format!("default_account = \"other\"\n{configured}"));
    let second = stage.place.serve();
    assert_eq!(Caller::of(&second).get("/v1/x").status, 200);
    let unnamed = upstream.last().token();
    assert_eq!(Caller::of(&second).get("/@other/v1/x").status, 200);
    assert_eq!(unnamed, upstream.last().token());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_the_answer_says_how_to_get_one() {
    let upstream = Upstream::fine();
    let stage = unconnected(&upstream, "").await;
    for (target, lines) in
        [("/v1/x", &[][..]), ("/@default/v1/x", &[]), ("/v1/x", &["Pleo-Account: default"])]
    {
        let answer = stage.caller().ask("GET", target, lines, b"");
        is(&answer, 503, "login_required");
        assert!(answer.told("fix").contains("pleo-proxy login"), "{}", answer.text());
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(stage.sandbox.counters().token_posts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_another_process_connects_is_found() {
    let upstream = Upstream::fine();
    let stage = unconnected(&upstream, "").await;
    is(&stage.caller().get("/v1/x"), 503, "login_required");
    is(&stage.caller().get("/@acme/v1/x"), 404, "account_unknown");
    let second = stage.place.serve();
    second.login("acme").await;
    second.kill();
    assert_eq!(
        stage.caller().get("/@acme/v1/x").status,
        200,
        "a named account is looked for at once"
    );
    eventually("an unnamed request finds the new account", || {
        stage.caller().get("/v1/x").status == 200
    });
}

// --- Both shapes, and the shapes that are refused.

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_may_use_it_as_its_http_proxy() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let (host, whole) = (upstream.address.ip().to_string(), upstream.address.to_string());
    let plain = format!("{host}:80");
    for (authority, named) in
        [(&host, &host), (&whole, &whole), (&plain, &plain), (&plain, &host), (&host, &plain)]
    {
        let mut caller = stage.caller();
        caller.send(format!(
            "GET http://{authority}/v1/x:search?a=%2F HTTP/1.1\r\nHost: {named}\r\n\r\n"
        ));
        assert_eq!(caller.answer().status, 200, "{authority} {named}");
        assert_eq!(upstream.last().line(), "GET /v1/x:search?a=%2F HTTP/1.1");
        assert_eq!(upstream.last().all("host"), [whole.as_str()]);
    }
    let mut caller = stage.caller();
    caller.send(format!(
        "GET http://{host} HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\n\r\n"
    ));
    assert_eq!(caller.answer().status, 200);
    assert_eq!(upstream.last().target(), "/");
    assert!(!upstream.last().names().contains(&"proxy-connection".to_owned()));

    let seen = upstream.seen().len();
    let own = stage.proxy.address();
    for (target, host, code) in [
        ("http://evil.example/v1/x", "evil.example", (403, "forbidden_host")),
        (&*format!("http://{own}/v1/x"), &*own.to_string(), (403, "forbidden_host")),
        (&*format!("http://{whole}/v1/x"), "evil.example", (400, "bad_request")),
        (&*format!("http://{whole}/v1/x"), &*own.to_string(), (400, "bad_request")),
        (&*format!("http://u:p@{whole}/v1/x"), &*whole, (400, "bad_request")),
        (&*format!("http://{whole}/v1/../x"), &*whole, (400, "bad_request")),
    ] {
        let mut caller = stage.caller();
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        is(&caller.answer(), code.0, code.1);
    }
    assert_eq!(upstream.seen().len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_forwarded_is_refused_with_a_way_out() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    for (line, more, status, code) in [
        ("CONNECT external.pleo.io:443", "", 405, "method_not_allowed"),
        ("TRACE /v1/x", "", 405, "method_not_allowed"),
        ("OPTIONS *", "", 405, "method_not_allowed"),
        ("PROPFIND /v1/x", "", 405, "method_not_allowed"),
        ("get /v1/x", "", 405, "method_not_allowed"),
        ("GET *", "", 400, "bad_request"),
        ("GET foo", "", 400, "bad_request"),
        (
            "GET /ws",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n",
            400,
            "bad_request",
        ),
        ("GET /v1/x", "Expect: 200-ok\r\n", 417, "expectation_failed"),
    ] {
        let mut caller = stage.caller();
        let host = line.strip_prefix("CONNECT ").map_or(own.to_string(), ToOwned::to_owned);
        caller.send(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
        let answer = caller.answer();
        is(&answer, status, code);
        assert_eq!(answer.header("allow").is_some(), status == 405, "{}", answer.head);
        assert!(caller.is_closed(), "{line}");
    }
    let mut caller = stage.caller();
    caller.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(!caller.rest().contains(" 200 "));
    let mut caller = stage.caller();
    caller.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert!(!caller.rest().contains(" 200 "));
    assert!(upstream.seen().is_empty());

    // An offer of h2c is no demand.
    let lines = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
    assert_eq!(stage.caller().ask("GET", "/v1/x", &lines, b"").status, 200);
    assert_eq!(upstream.last().names(), ["host", "authorization"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_port_has_no_admin_route() {
    let upstream =
        Upstream::saying("HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\ntheir", After::Keep);
    let stage = stage(&upstream, "").await;
    let key = format!("Authorization: Bearer {}", stage.proxy.key);
    for target in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/connect",
        "/callback?code=a&state=b",
        "/api/status",
    ] {
        let answer = stage.caller().ask("GET", target, &[&key], b"");
        assert_eq!((answer.status, answer.text().as_str()), (404, "their"), "{target}");
        assert_eq!(upstream.last().target(), target);
        assert!(!upstream.last().head.contains(&stage.proxy.key));
    }
    let answer = stage.caller().ask("POST", "/api/shutdown", &[&key], b"{}");
    assert_eq!((answer.status, answer.text().as_str()), (404, "their"));
}

// --- The guard, each refusal before anything is sent.

/// Sends each head on a connection of its own; all are refused, the connections end, and the
/// upstream is not bothered.
fn refused(stage: &Stage, upstream: &Upstream, heads: &[(&str, u16, &str)]) {
    let (seen, posts) = (upstream.seen().len(), stage.sandbox.counters().token_posts);
    for (head, status, code) in heads {
        let mut caller = stage.caller();
        let host = stage.proxy.address().to_string();
        let port = stage.proxy.address().port().to_string();
        caller.send(
            head.replace("HOST", &host).replace("PORT", &port).replace('\n', "\r\n") + "\r\n\r\n",
        );
        let answer = caller.answer();
        assert_eq!(answer.problem(), (*status, (*code).to_owned()), "{head}\n{}", answer.text());
        assert!(answer.all("access-control-allow-origin").is_empty(), "{head}");
        assert!(caller.is_closed(), "{head}");
    }
    assert_eq!(upstream.seen().len(), seen);
    assert_eq!(stage.sandbox.counters().token_posts, posts);
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_and_rebound_names_are_refused() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let heads = [
        ("GET /v1/x HTTP/1.1\nHost: evil.example", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nHost: evil.example:PORT", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nHost: localhost", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nHost: localhost.evil.example:PORT", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nHost: 0.0.0.0:PORT", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nAccept: a", 400, "bad_request"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nHost: HOST", 400, "bad_request"),
        ("GET /v1/x HTTP/1.1\nHost: HOST@evil.example", 400, "bad_request"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: http://evil.example", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: null", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: http://HOST", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nSec-Fetch-Site: cross-site", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nSec-Fetch-Site: same-site", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nSec-Fetch-Site: same-origin", 403, "forbidden_origin"),
        (
            "POST /v1/x HTTP/1.1\nHost: HOST\nSec-Fetch-Site: none\nContent-Length: 0",
            403,
            "forbidden_origin",
        ),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nService-Worker: script", 403, "forbidden_origin"),
        (
            "OPTIONS /v1/x HTTP/1.1\nHost: HOST\nOrigin: http://evil.example\nAccess-Control-Request-Method: GET",
            403,
            "forbidden_origin",
        ),
    ];
    refused(&stage, &upstream, &heads);
    for head in [
        "GET /v1/x HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nHost: [::1]:PORT\r\nSec-Fetch-Site: none\r\n\r\n",
    ] {
        let mut caller = stage.caller();
        caller.send(head.replace("PORT", &stage.proxy.address().port().to_string()));
        assert_eq!(caller.answer().status, 200, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_targets_and_framings_are_refused() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let heads = [
        ("GET /v1/../admin HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/%2e%2E/admin HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /@default/../x HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /\\evil.example/x HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/x?access_token=stolen HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/x?a=1&acces%73_token=stolen HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("POST /v1/x HTTP/1.1\nHost: HOST\nTransfer-Encoding: gzip, chunked", 400, "bad_request"),
    ];
    refused(&stage, &upstream, &heads);
    assert!(!stage.proxy.log().contains("stolen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_lengths_smuggles_nothing() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let before = upstream.seen().len();
        let mut caller = stage.caller();
        let inner = format!("GET /smuggled HTTP/1.1\r\nHost: {own}\r\n\r\n");
        caller.send(format!(
            "POST /v1/x HTTP/1.1\r\nHost: {own}\r\n{lengths}\r\n\r\n0\r\n\r\n{inner}"
        ));
        let rest = caller.rest();
        assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "one answer, then the end: {rest}");
        // Refused, or forwarded by the chunks alone.
        for seen in &upstream.seen()[before..] {
            assert_eq!((seen.target(), seen.body.len()), ("/v1/x", 0));
            assert!(
                seen.all("transfer-encoding").len() + seen.all("content-length").len() <= 1,
                "{}",
                seen.head
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_is_refused_also_when_the_line_comes_in_pieces() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    assert_eq!(stage.caller().get("/v1/x?a=1#y").problem(), (400, "bad_request".into()));
    let mut caller = stage.caller();
    caller.send("GET /v1/x#");
    std::thread::sleep(std::time::Duration::from_millis(20));
    caller.send(format!("y HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert_eq!(caller.answer().problem(), (400, "bad_request".into()));
    assert!(upstream.seen().is_empty());
    // A header may hold what it likes, and so may the next request.
    let mut caller = stage.caller();
    assert_eq!(caller.ask("GET", "/v1/x", &["X-Color: #fff"], b"").status, 200);
    assert_eq!(caller.get("/v1/x").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_are_turned_away() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    for bytes in [
        format!("GET /v1/x HTTP/1.1\r\nHost: {own}\r\nX-A: b\r\n folded\r\n\r\n"),
        format!("GET /v1/x HTTP/1.1\r\nHost: {own}\r\nX A: b\r\n\r\n"),
        format!("GET /v1/x HTTP/1.1\r\nHost: {own}\r\nX-A: a\0b\r\n\r\n"),
        format!("POST /v1/x HTTP/1.1\r\nHost: {own}\r\nContent-Length: +3\r\n\r\nabc"),
        format!(
            "POST /v1/x HTTP/1.1\r\nHost: {own}\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"
        ),
        format!(
            "POST /v1/x HTTP/1.0\r\nHost: {own}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        format!("G@T /v1/x y HTTP/1.1\r\nHost: {own}\r\n\r\n"),
    ] {
        let mut caller = stage.caller();
        caller.send(&bytes);
        let answer = caller.answer();
        assert_eq!(answer.status, 400, "{bytes}");
        assert!(caller.is_closed(), "{bytes}");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_never_taken_for_a_request() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    let inner = format!("GET /smuggled HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let mut caller = stage.caller();
    caller.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    ));
    let rest = caller.rest();
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_connection_is_judged() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let own = stage.proxy.address();
    let mut caller = stage.caller();
    for target in ["/v1/a", "/v1/b"] {
        assert_eq!(caller.get(target).status, 200);
    }
    let fine = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let evil = "GET /v1/evil HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    caller.send(fine("/v1/c") + &fine("/v1/d") + evil + &fine("/v1/e"));
    assert_eq!((caller.answer().status, caller.answer().status), (200, 200));
    is(&caller.answer(), 403, "forbidden_host");
    assert!(caller.is_closed(), "what follows a refused request is not to be trusted");
    let targets: Vec<_> = upstream.seen().iter().map(|it| it.target().to_owned()).collect();
    assert_eq!(targets, ["/v1/a", "/v1/b", "/v1/c", "/v1/d"]);
    assert_eq!(upstream.connections(), 1, "one upstream connection serves them all");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_lets_reads_and_searches_through() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "[guard]\nread_only = true\n").await;
    let heads = [
        ("POST /v1/vendors HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        ("POST /v1/vendors%3Asearch HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        ("POST /v1/vendors?x=:search HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        ("POST /v1/vendors;:search HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        (
            "POST /@default/v1/vendors/17;x:search HTTP/1.1\nHost: HOST\nContent-Length: 0",
            403,
            "read_only",
        ),
        ("POST /v1/vendors/17:archive HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        ("PUT /@default/v1/x HTTP/1.1\nHost: HOST\nContent-Length: 0", 403, "read_only"),
        ("DELETE /v1/x HTTP/1.1\nHost: HOST", 403, "read_only"),
        ("OPTIONS /v1/x HTTP/1.1\nHost: HOST", 403, "read_only"),
    ];
    refused(&stage, &upstream, &heads);
    let lines = ["X-HTTP-Method-Override: DELETE"];
    assert_eq!(stage.caller().ask("GET", "/v1/x", &lines, b"").status, 200);
    assert!(!upstream.last().head.contains("DELETE"));
    assert_eq!(stage.caller().ask("HEAD", "/v1/x", &[], b"").status, 200);
    for target in [
        "/@default/v1/vendors:search?limit=1",
        "/v0/aggregations/tags",
        "/v0/tax-codes:calculate-tax-amounts",
    ] {
        assert_eq!(stage.caller().ask("POST", target, &[], b"{}").status, 200, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_needs_a_setting_and_is_a_logout() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let heads = [
        ("DELETE /v1/installations/me HTTP/1.1\nHost: HOST", 403, "protected_operation"),
        ("DELETE /@default/v1/installations/me HTTP/1.1\nHost: HOST", 403, "protected_operation"),
        ("DELETE /v1//Installations%2f%6de/?x HTTP/1.1\nHost: HOST", 403, "protected_operation"),
    ];
    refused(&stage, &upstream, &heads);
    drop(stage);

    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "[guard]\nallow_disconnect = true\n");
    let proxy = place.serve();
    proxy.login("default").await;
    let answer = Caller::of(&proxy).ask("DELETE", "/v1/installations/me", &[], b"");
    assert!((200..300).contains(&answer.status), "{}", answer.head);
    is(&Caller::of(&proxy).get("/v1/companies"), 503, "login_required");
    assert_eq!(sandbox.counters().token_posts, 1, "no refresh of a revoked grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_key_is_asked_for_and_stays_here() {
    let upstream = Upstream::fine();
    let sandbox = sandbox().await;
    let place = Place::new(&config_before(
        &sandbox,
        &upstream.origin,
        "[guard]\nlocal_key_file = \"local-key\"\n",
    ));
    write_private(&place.path().join("local-key"), "the-local-key-of-this-test-0123456789\n");
    let proxy = place.serve();
    proxy.login("default").await;
    let stage = Stage { proxy, place, sandbox };
    let heads = [
        ("GET /v1/x HTTP/1.1\nHost: HOST", 403, "local_key_required"),
        (
            "GET /v1/x HTTP/1.1\nHost: HOST\nPleo-Proxy-Key: the-local-key",
            403,
            "local_key_required",
        ),
        (
            "GET /v1/x HTTP/1.1\nHost: HOST\nPleo-Proxy-Key: the-local-key-of-this-test-0123456789\nX-Forwarded-For: 1.2.3.4",
            403,
            "local_key_required",
        ),
    ];
    refused(&stage, &upstream, &heads);
    let key = "Pleo-Proxy-Key: the-local-key-of-this-test-0123456789";
    assert_eq!(stage.caller().ask("GET", "/v1/x", &[key], b"").status, 200);
    assert!(!upstream.last().head.contains("the-local-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_listed_page_gets_its_exact_origin_and_nobody_elses() {
    let answer = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
                  Vary: Accept\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::saying(answer, After::Keep);
    let stage = stage(&upstream, "[guard]\nallow_origins = [\"http://localhost:3000\"]\n").await;
    let page = "Origin: http://localhost:3000";

    let asked = [
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: pleo-account",
        page,
    ];
    let mut caller = stage.caller();
    let preflight = caller.ask("OPTIONS", "/v1/x", &asked, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.all("access-control-allow-origin"), ["http://localhost:3000"]);
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(preflight.all("access-control-allow-headers"), ["pleo-account"]);
    assert!(preflight.header("access-control-allow-credentials").is_none());
    assert!(upstream.seen().is_empty(), "a preflight is answered here");

    let answer = caller.ask("PUT", "/v1/x", &[page, "Sec-Fetch-Site: same-site"], b"{}");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.all("access-control-allow-origin"), ["http://localhost:3000"]);
    assert!(answer.header("access-control-allow-credentials").is_none());
    assert!(answer.all("vary").iter().any(|vary| vary.contains("Origin")));
    assert!(answer.all("vary").contains(&"Accept"));
    assert!(!upstream.last().names().contains(&"origin".to_owned()));

    let ours = caller.ask("GET", "/@nobody/v1/x", &[page], b"");
    is(&ours, 404, "account_unknown");
    assert_eq!(
        ours.all("access-control-allow-origin"),
        ["http://localhost:3000"],
        "the page may read why"
    );

    let heads = [
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: http://localhost:30001", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: https://localhost:3000", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: HOST\nOrigin: null", 403, "forbidden_origin"),
    ];
    refused(&stage, &upstream, &heads);
    assert!(stage.caller().get("/v1/x").all("access-control-allow-origin").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_server_may_pass_on_what_a_listed_page_reads() {
    let upstream = Upstream::fine();
    let guard = "[guard]\nallow_origins = [\"http://localhost:5173\"]\nallow_hosts = [\"localhost:5173\"]\n";
    let stage = stage(&upstream, guard).await;
    let own = stage.proxy.address().to_string();
    for (host, referer, status) in [
        (own.as_str(), "Referer: http://localhost:5173/\r\n", 200),
        ("localhost:5173", "", 200),
        (&own, "Referer: http://evil.test/\r\n", 403),
        ("localhost:5173", "Referer: http://evil.test/\r\n", 403),
        (&own, "", 403),
    ] {
        let mut caller = stage.caller();
        caller.send(format!(
            "GET /v1/x HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: same-origin\r\n{referer}\r\n"
        ));
        assert_eq!(caller.answer().status, status, "{host} {referer}");
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| !seen.names().contains(&"referer".to_owned())), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_is_listened_on_is_a_host_of_both_listeners() {
    let upstream = Upstream::fine();
    let sandbox = sandbox().await;
    let config = config_before(&sandbox, &upstream.origin, "");
    let place = Place::new(&config.replace("api = \"127.0.0.1:0\"", "api = \"127.0.0.2:0\""));
    let proxy = place.serve();
    proxy.login("default").await;
    assert!(proxy.api.starts_with("http://127.0.0.2:"), "{}", proxy.api);
    assert_eq!(Caller::of(&proxy).get("/v1/x").status, 200);

    let place = Place::new(&config.replace("admin = \"127.0.0.1:0\"", "admin = \"127.0.0.2:0\""));
    let proxy = place.serve();
    assert!(proxy.admin.starts_with("http://127.0.0.2:"), "{}", proxy.admin);
    assert_eq!(proxy.status().await["running"], true);
}

// --- What becomes of a 401.

#[tokio::test(flavor = "multi_thread")]
async fn a_401_is_answered_by_one_refresh_and_a_second_try() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    let answer = Caller::of(&proxy).ask("POST", "/v1/echo/x?a=1", &["X-A: b"], b"the body");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("\"length\":8"), "{}", answer.text());
    let counters = sandbox.counters();
    assert_eq!((counters.refreshes, counters.api_unauthorized), (1, 1));
    assert_eq!(counters.last_authorization_header_ok, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_401_is_the_callers() {
    let upstream = Upstream::saying(DENIED, After::Keep);
    let stage = stage(&upstream, "").await;
    let answer = stage.caller().ask("POST", "/v1/x", &[], b"body");
    assert_eq!((answer.status, answer.text().as_str()), (401, "denied"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert!(answer.header("pleo-proxy-error").is_none());
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].token(), seen[1].token());
    assert_eq!((&seen[0].body[..], &seen[1].body[..]), (&b"body"[..], &b"body"[..]));
    assert_eq!(stage.sandbox.counters().refreshes, 1);

    // An upstream that goes on like this costs no refresh a request.
    assert_eq!(stage.caller().get("/v1/x").status, 401);
    assert_eq!(stage.sandbox.counters().refreshes, 1);
    assert_eq!(upstream.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_is_the_upstreams_word() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let denied = ApiFault { status: Some(403), ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(denied), ..Faults::default() });
    let before = sandbox.counters().api_requests;
    assert_eq!(proxy.get("/v1/companies").await.status(), 403);
    assert_eq!((sandbox.counters().api_requests, sandbox.counters().refreshes), (before + 1, 0));
}

/// Answers the first request 401, but not before it is told to; all others at once.
fn holding_first() -> (Upstream, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((arrived, waiting), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
    let upstream = Upstream::start(move |visit| {
        if visit.number > 0 {
            return visit.fine();
        }
        let _ = visit.body();
        arrived.lock().unwrap().send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        visit.say(DENIED);
        After::Keep
    });
    (upstream, waiting, go)
}

async fn refresh(proxy: &Proxy) {
    let before = generation(proxy, "default").await;
    let forced = proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
    assert!(forced.status().is_success(), "{}", forced.text().await.unwrap());
    proxy.until("default", |it| it["generation"].as_u64() > Some(before)).await;
}

const SHORT_DRAIN: &str = "[tokens]\ndrain = \"50ms\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_refresh_overtook_goes_again_without_another_refresh() {
    let (upstream, waiting, go) = holding_first();
    let stage = stage(&upstream, SHORT_DRAIN).await;
    let mut caller = stage.caller();
    caller.begin("POST", "/v1/x", &["Content-Length: 4"]);
    caller.send("body");
    waiting.recv().unwrap();
    refresh(&stage.proxy).await;
    go.send(()).unwrap();
    assert_eq!(caller.answer().text(), "fine");
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].token(), seen[1].token());
    assert_eq!((&seen[1].body[..], seen[1].target()), (&b"body"[..], "/v1/x"));
    assert_eq!(stage.sandbox.counters().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_a_refresh_overtook_is_our_doing_not_pleos_verdict() {
    let (upstream, waiting, go) = holding_first();
    let stage = stage(&upstream, &format!("{SHORT_DRAIN}[upstream]\nreplay_limit = 10\n")).await;
    let mut caller = stage.caller();
    caller.begin("POST", "/v1/x", &["Content-Length: 11"]);
    caller.send("eleven byte");
    waiting.recv().unwrap();
    refresh(&stage.proxy).await;
    go.send(()).unwrap();
    let answer = caller.answer();
    is(&answer, 503, "token_rotated");
    assert_eq!(answer.header("retry-after"), Some("0"));
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(stage.sandbox.counters().refreshes, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_is_not_repeated_but_later_requests_fare_better() {
    for (framing, body) in [
        ("Content-Length: 11", "eleven byte"),
        ("Transfer-Encoding: chunked", "6\r\neleven\r\n5\r\n byte\r\n0\r\n\r\n"),
    ] {
        let upstream = Upstream::start(|visit| match visit.number {
            0 => {
                let _ = visit.body();
                visit.say(DENIED);
                After::Keep
            }
            _ => visit.fine(),
        });
        let stage = stage(&upstream, "[upstream]\nreplay_limit = 10\n").await;
        let before = generation(&stage.proxy, "default").await;
        let mut caller = stage.caller();
        caller.begin("POST", "/v1/x", &[framing]);
        caller.send(body);
        let answer = caller.answer();
        assert_eq!((answer.status, answer.text().as_str()), (401, "denied"), "{framing}");
        assert_eq!(upstream.last().body, b"eleven byte");
        stage.proxy.until("default", |it| it["generation"].as_u64() > Some(before)).await;
        assert_eq!(stage.caller().get("/v1/x").status, 200);
        assert_eq!((upstream.seen().len(), stage.sandbox.counters().refreshes), (2, 1));
        assert_ne!(upstream.seen()[0].token(), upstream.seen()[1].token());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_before_the_body_was_read_loses_nothing_of_it() {
    for (after, framing) in [
        (After::Close, "Content-Length: 2000"),
        (After::Keep, "Content-Length: 2000"),
        (After::Close, "Transfer-Encoding: chunked"),
        (After::Keep, "Transfer-Encoding: chunked"),
    ] {
        let (arrived, waiting) = mpsc::channel();
        let arrived = Mutex::new(arrived);
        let upstream = Upstream::start(move |visit| {
            if visit.number > 0 {
                return visit.fine();
            }
            visit.say(DENIED);
            arrived.lock().unwrap().send(()).unwrap();
            if after == After::Keep {
                let _ = visit.body();
            }
            after
        });
        let stage = stage(&upstream, "").await;
        let mut caller = stage.caller();
        caller.begin("PUT", "/v1/x", &[framing]);
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
        let answer = caller.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{after:?} {framing}");
        assert_eq!(upstream.last().body, "h".repeat(2000).into_bytes(), "{after:?} {framing}");
        assert_eq!((upstream.seen().len(), stage.sandbox.counters().refreshes), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_401s_at_once_cost_one_refresh() {
    const CALLERS: usize = 200;
    let (all_here, stale) = (Barrier::new(CALLERS), Mutex::new(None::<String>));
    let upstream = Upstream::start(move |visit: &mut Visit| {
        if visit.body().is_err() {
            return After::Close;
        }
        let token = visit.token();
        let is_stale = *stale.lock().unwrap().get_or_insert_with(|| token.clone()) == token;
        if is_stale {
            all_here.wait();
        }
        visit.say(if is_stale { DENIED } else { FINE });
        After::Keep
    });
    let stage = stage(&upstream, "").await;
    let address = stage.proxy.address();
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            thread::spawn(move || {
                Caller::to(address).ask("POST", "/v1/x", &[], format!("{n}").as_bytes())
            })
        })
        .collect();
    for caller in callers {
        let answer = caller.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(stage.sandbox.counters().refreshes, 1);
    let seen = upstream.seen();
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
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    sandbox.revoke_all();
    let answer = Caller::of(&proxy).get("/v1/companies");
    is(&answer, 503, "login_required");
    let posts = sandbox.counters().token_posts;
    is(&Caller::of(&proxy).get("/v1/companies"), 503, "login_required");
    assert_eq!(sandbox.counters().token_posts, posts, "a dead refresh token is not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_that_no_refresh_can_mend_says_why() {
    let upstream = Upstream::saying(DENIED, After::Keep);
    let stage = stage(&upstream, "[tokens]\ndrain = \"50ms\"\nhold = \"500ms\"\n").await;
    stage.sandbox.set_faults(Faults { token_latency_after_ms: 5_000, ..Faults::default() });
    is(&stage.caller().get("/v1/x"), 503, "refresh_timeout");
    assert_eq!(upstream.seen().len(), 1);

    let upstream = Upstream::saying(DENIED, After::Keep);
    let stage = support::upstream::stage(&upstream, "").await;
    let busy =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    stage.sandbox.set_faults(Faults { token_answer: Some(busy), ..Faults::default() });
    let answer = stage.caller().get("/v1/x");
    is(&answer, 503, "auth_unreachable");
    assert!(
        answer.header("retry-after").is_some_and(|wait| wait.parse::<u32>().unwrap() >= 1),
        "{}",
        answer.head
    );
    assert_eq!((upstream.seen().len(), stage.sandbox.counters().token_posts), (1, 2));
}

// --- Limits, and the end.

#[tokio::test(flavor = "multi_thread")]
async fn both_loopback_families_lead_to_it() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let address = std::net::SocketAddr::from((
            std::net::Ipv6Addr::LOCALHOST,
            stage.proxy.address().port(),
        ));
        assert_eq!(Caller::to(address).get("/v1/x").status, 200);
    }
    assert_eq!(stage.caller().get("/v1/x").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_cap_with_all_busy_the_caller_is_told() {
    let ((arrived, waiting), (go, gone)) = (mpsc::channel(), mpsc::channel());
    let (arrived, gone) = (Mutex::new(arrived), Mutex::new(gone));
    let upstream = Upstream::start(move |visit| {
        if visit.target() == "/busy" {
            arrived.lock().unwrap().send(()).unwrap();
            gone.lock().unwrap().recv().unwrap();
        }
        visit.fine()
    });
    let sandbox = sandbox().await;
    let config = config_before(&sandbox, &upstream.origin, "");
    let place = Place::new(&config.replace("[listen]\n", "[listen]\nmax_connections = 2\n"));
    let proxy = place.serve();
    proxy.login("default").await;
    let stage = Stage { proxy, place, sandbox };
    let mut busy = Vec::new();
    for _ in 0..2 {
        // The admin connection of the login is at rest and makes room for one of them.
        let mut caller = stage.caller();
        caller.begin("GET", "/busy", &[]);
        waiting.recv_timeout(support::PATIENCE).unwrap();
        busy.push(caller);
    }
    let mut caller = stage.caller();
    let answer = caller.get("/v1/x");
    is(&answer, 503, "overloaded");
    assert!(answer.header("retry-after").is_some() && caller.is_closed());
    for mut caller in busy {
        go.send(()).unwrap();
        assert_eq!(caller.answer().status, 200);
    }
    eventually("there is room again", || stage.caller().get("/v1/x").status == 200);
    assert_eq!(upstream.seen().iter().filter(|it| it.target() == "/busy").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_limited_in_fields_and_bytes() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let fields = |count: usize| (1..count).map(|n| format!("X-{n}: {n}")).collect::<Vec<_>>();
    let ask = |lines: &[String]| {
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        stage.caller().ask("GET", "/v1/x", &lines, b"")
    };
    assert_eq!(ask(&fields(100)).status, 200, "Host and 99 more");
    assert_eq!(upstream.last().all("x-99"), ["99"]);
    assert_eq!(ask(&fields(101)).status, 431);
    assert_eq!(ask(&[format!("X-Long: {}", "a".repeat(60 << 10))]).status, 200);
    assert_eq!(upstream.last().all("x-long")[0].len(), 60 << 10);
    let seen = upstream.seen().len();
    assert_eq!(ask(&[format!("X-Long: {}", "a".repeat(65 << 10))]).status, 431);
    let long = stage.caller().get(&format!("/{}", "a".repeat(70 << 10)));
    assert!(matches!(long.status, 414 | 431), "{}", long.head);
    assert_eq!(upstream.seen().len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_in_is_given_up() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.send(format!("GET /v1/x HTTP/1.1\r\nHost: {}\r\n", stage.proxy.address()));
    let sent = (0..support::PATIENCE.as_millis() / 250).take_while(|_| {
        thread::sleep(std::time::Duration::from_millis(250));
        caller.try_send("X-A: b\r\n").is_ok()
    });
    assert!(sent.count() < 100, "still open");
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_cap_the_one_at_rest_makes_room_and_busy_ones_do_not() {
    let (upstream, waiting, go) = holding_first();
    let sandbox = sandbox().await;
    let config = config_before(&sandbox, &upstream.origin, "");
    let place = Place::new(&config.replace("[listen]\n", "[listen]\nmax_connections = 3\n"));
    let proxy = place.serve();
    proxy.login("default").await;
    let stage = Stage { proxy, place, sandbox };
    let mut busy = stage.caller();
    busy.begin("GET", "/v1/busy", &[]);
    waiting.recv().unwrap();
    let mut resting = Vec::new();
    for n in 0..20 {
        let mut caller = stage.caller();
        assert_eq!(caller.get("/v1/x").status, 200, "connection {n}");
        resting.push(caller);
    }
    go.send(()).unwrap();
    assert_eq!(busy.answer().text(), "fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_lets_a_download_finish() {
    let ((half, started), (go, gone)) = (mpsc::channel(), mpsc::channel::<()>());
    let (half, gone) = (Mutex::new(half), Mutex::new(gone));
    let upstream = Upstream::start(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        half.lock().unwrap().send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        visit.say(" half");
        After::Close
    });
    let mut stage = stage(&upstream, "").await;
    let mut caller = stage.caller();
    caller.begin("GET", "/v1/x", &[]);
    started.recv().unwrap();
    let head = caller.head();
    assert_eq!((head.status, caller.some(5)), (200, b"first".to_vec()));
    stage.proxy.signal("TERM");
    let address = stage.proxy.address();
    eventually("no new connection is taken", || match std::net::TcpStream::connect(address) {
        Err(_) => true,
        Ok(stream) => {
            drop(stream);
            false
        }
    });
    assert!(stage.proxy.child.try_wait().unwrap().is_none(), "it waits for the download");
    go.send(()).unwrap();
    assert_eq!(caller.some(5), b" half");
    assert_eq!(stage.proxy.child.wait().unwrap().code(), Some(0));
}

/// The worker that drives a connection may have nobody of its own to wait for.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_runs_over_another_workers_connection() {
    // Which worker gets a caller is the kernel's choice: of six pairs, some are not on the same.
    for round in 0..6 {
        let (started, half) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let (started, wait) = (Mutex::new(started), Mutex::new(wait));
        let upstream = Upstream::start(move |visit| {
            if visit.target() == "/first" {
                return visit.fine();
            }
            visit.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            started.lock().unwrap().send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            visit.say(" half");
            After::Close
        });
        let mut stage = stage(&upstream, "").await;
        assert_eq!(stage.caller().get("/first").status, 200);
        let mut caller = stage.caller();
        caller.begin("GET", "/v1/x", &[]);
        half.recv().unwrap();
        assert_eq!((caller.head().status, caller.some(5)), (200, b"first".to_vec()));
        assert_eq!(upstream.connections(), 1, "it was used again");
        stage.proxy.signal("TERM");
        let address = stage.proxy.address();
        eventually("no new connection is taken", || std::net::TcpStream::connect(address).is_err());
        // Time for a worker that believes to be alone to end.
        std::thread::sleep(std::time::Duration::from_millis(100));
        go.send(()).unwrap();
        assert_eq!(caller.some(5), b" half", "round {round}");
        assert_eq!(stage.proxy.child.wait().unwrap().code(), Some(0));
    }
}

/// Counts, so that a lost request is not mistaken for one that was never sent.
#[tokio::test(flavor = "multi_thread")]
async fn mixed_parallel_requests_never_mix_their_accounts() {
    let answered = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(|visit| {
        if visit.body().is_err() {
            return After::Close;
        }
        let token = visit.token();
        visit.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{token}", token.len()));
        After::Keep
    });
    let stage = unconnected(&upstream, "").await;
    stage.proxy.login("acme").await;
    stage.proxy.login("other").await;
    let [acme, other] =
        ["acme", "other"].map(|name| stage.caller().get(&format!("/@{name}/v1/x")).text());
    let address = stage.proxy.address();
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (answered, tokens) = (answered.clone(), [acme.clone(), other.clone()]);
            thread::spawn(move || {
                let mut caller = Caller::to(address);
                for n in 0..50 {
                    let which = (n + worker) % 2;
                    let named = ["Pleo-Account: acme", "Pleo-Account: other"][which];
                    assert_eq!(caller.ask("GET", "/v1/x", &[named], b"").text(), tokens[which]);
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
    let place = support::Place::toward(&sandbox, "");
    let (first, second) = (place.serve(), place.serve());
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

#[tokio::test(flavor = "multi_thread")]
async fn debug_logs_have_one_line_for_each_request_however_it_ends() {
    let upstream = Upstream::fine();
    let stage = stage(&upstream, "").await;
    assert_eq!(stage.caller().get("/v1/x?key=hidden-value").status, 200);
    assert_eq!(stage.caller().ask("POST", "/v1/y", &[], b"12345").status, 200);
    assert_eq!(stage.caller().ask("GET", "/v1/z", &["Origin: http://a.test"], b"").status, 403);
    let malformed = raw(stage.proxy.address(), b"G@T / HTTP/1.1\r\n\r\n", PATIENCE);
    assert!(malformed.starts_with("HTTP/1.1 400"), "{malformed}");
    let metrics = stage.proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("refused_requests_total{code=\"bad_request\"} 1"), "{metrics}");

    let (_, log) = stage.proxy.terminate();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("DEBUG exchange ")).collect();
    let expected: [&[&str]; 4] = [
        &[
            "method=\"GET\"",
            "target=\"/v1/x?key=*\"",
            "status=200",
            "by=\"pleo\"",
            "account=default",
        ],
        &["method=\"POST\"", "status=200", "bytes_in=5", "complete=true", "generation="],
        &["target=\"/v1/z\"", "status=403", "code=\"forbidden_origin\"", "by=\"proxy\""],
        &["status=400", "code=\"bad_request\"", "by=\"proxy\"", "complete=true"],
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, parts) in lines.iter().zip(expected) {
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
    }
    assert!(!log.contains("hidden-value"));
}
