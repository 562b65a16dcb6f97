//! Requests that the guard refuses before anything is sent to the upstream.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use support::{Setup, Upstream, assert_problem, setup};

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_forwarded_are_refused_with_an_alternative() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
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
        let mut caller = setup.caller();
        let host = line.strip_prefix("CONNECT ").map_or(own.to_string(), ToOwned::to_owned);
        caller.send(format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n"));
        let response = caller.read_response();
        assert_problem(&response, status, code);
        assert_eq!(response.header("allow").is_some(), status == 405, "{}", response.head);
        assert!(caller.is_closed(), "{line}");
    }
    let mut caller = setup.caller();
    caller.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(!caller.read_rest().contains(" 200 "));
    let mut caller = setup.caller();
    caller.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert!(!caller.read_rest().contains(" 200 "));
    assert!(upstream.requests().is_empty());

    // An offer of h2c is no demand.
    let lines = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"];
    assert_eq!(setup.caller().request("GET", "/v1/x", &lines, b"").status, 200);
    assert_eq!(upstream.last().names(), ["host", "authorization"]);
}

// --- The guard, each refusal before anything is sent.

/// Sends each head on a connection of its own; all are refused, the connections end, and the
/// upstream is not bothered.
pub(super) fn refused(setup: &Setup, upstream: &Upstream, heads: &[(&str, u16, &str)]) {
    let (seen, posts) = (upstream.requests().len(), setup.sandbox.counters().token_posts);
    for (head, status, code) in heads {
        let mut caller = setup.caller();
        let host = setup.proxy.address().to_string();
        let port = setup.proxy.address().port().to_string();
        caller.send(
            head.replace("HOST", &host).replace("PORT", &port).replace('\n', "\r\n") + "\r\n\r\n",
        );
        let response = caller.read_response();
        assert_eq!(
            response.problem(),
            (*status, (*code).to_owned()),
            "{head}\n{}",
            response.text()
        );
        assert!(response.all("access-control-allow-origin").is_empty(), "{head}");
        assert!(caller.is_closed(), "{head}");
    }
    assert_eq!(upstream.requests().len(), seen);
    assert_eq!(setup.sandbox.counters().token_posts, posts);
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_and_rebound_names_are_refused() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
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
    refused(&setup, &upstream, &heads);
    for head in [
        "GET /v1/x HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n",
        "GET /v1/x HTTP/1.1\r\nHost: [::1]:PORT\r\nSec-Fetch-Site: none\r\n\r\n",
    ] {
        let mut caller = setup.caller();
        caller.send(head.replace("PORT", &setup.proxy.address().port().to_string()));
        assert_eq!(caller.read_response().status, 200, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_targets_and_framings_are_refused() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let heads = [
        ("GET /v1/../admin HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/%2e%2E/admin HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /@default/../x HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /\\evil.example/x HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/x?access_token=stolen HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("GET /v1/x?a=1&acces%73_token=stolen HTTP/1.1\nHost: HOST", 400, "bad_request"),
        ("POST /v1/x HTTP/1.1\nHost: HOST\nTransfer-Encoding: gzip, chunked", 400, "bad_request"),
    ];
    refused(&setup, &upstream, &heads);
    assert!(!setup.proxy.log().contains("stolen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_lengths_smuggles_nothing() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let before = upstream.requests().len();
        let mut caller = setup.caller();
        let inner = format!("GET /smuggled HTTP/1.1\r\nHost: {own}\r\n\r\n");
        caller.send(format!(
            "POST /v1/x HTTP/1.1\r\nHost: {own}\r\n{lengths}\r\n\r\n0\r\n\r\n{inner}"
        ));
        let rest = caller.read_rest();
        assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "one answer, then the end: {rest}");
        // Refused, or forwarded by the chunks alone.
        for seen in &upstream.requests()[before..] {
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
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
    assert_eq!(setup.caller().get("/v1/x?a=1#y").problem(), (400, "bad_request".into()));
    let mut caller = setup.caller();
    caller.send("GET /v1/x#");
    std::thread::sleep(std::time::Duration::from_millis(20));
    caller.send(format!("y HTTP/1.1\r\nHost: {own}\r\n\r\n"));
    assert_eq!(caller.read_response().problem(), (400, "bad_request".into()));
    assert!(upstream.requests().is_empty());
    // A header may hold what it likes, and so may the next request.
    let mut caller = setup.caller();
    assert_eq!(caller.request("GET", "/v1/x", &["X-Color: #fff"], b"").status, 200);
    assert_eq!(caller.get("/v1/x").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_a_request_are_refused() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
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
        let mut caller = setup.caller();
        caller.send(&bytes);
        let response = caller.read_response();
        assert_eq!(response.status, 400, "{bytes}");
        assert!(caller.is_closed(), "{bytes}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_of_a_refused_request_is_never_taken_for_a_request() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
    let inner = format!("GET /smuggled HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let mut caller = setup.caller();
    caller.send(format!(
        "POST /v1/x HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    ));
    let rest = caller.read_rest();
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_of_a_connection_is_checked() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let own = setup.proxy.address();
    let mut caller = setup.caller();
    for target in ["/v1/a", "/v1/b"] {
        assert_eq!(caller.get(target).status, 200);
    }
    let fine = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: {own}\r\n\r\n");
    let evil = "GET /v1/evil HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    caller.send(fine("/v1/c") + &fine("/v1/d") + evil + &fine("/v1/e"));
    assert_eq!((caller.read_response().status, caller.read_response().status), (200, 200));
    assert_problem(&caller.read_response(), 403, "forbidden_host");
    assert!(caller.is_closed(), "what follows a refused request is not to be trusted");
    let targets: Vec<_> = upstream.requests().iter().map(|it| it.target().to_owned()).collect();
    assert_eq!(targets, ["/v1/a", "/v1/b", "/v1/c", "/v1/d"]);
    assert_eq!(upstream.connections(), 1, "one upstream connection serves them all");
}
