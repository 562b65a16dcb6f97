//! Clients that tunnel to their HTTP proxy even for `http://` addresses (Node's): a tunnel to the
//! API ends here, and what comes in it is served and guarded like any other request.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;
use support::{Caller, Setup, Upstream, setup};

/// The API's host and the port of plain HTTP.
fn plain(upstream: &Upstream) -> String {
    format!("{}:80", upstream.address.ip())
}

/// A connection in a tunnel to `target`.
fn tunnel(setup: &Setup, target: &str) -> Caller {
    let mut caller = setup.caller();
    caller.send(format!(
        "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Connection: keep-alive\r\n\r\n"
    ));
    let response = caller.read_head();
    assert_eq!(response.status, 200, "{}", response.head);
    for field in ["content-length", "transfer-encoding"] {
        assert!(response.header(field).is_none(), "{}", response.head);
    }
    caller
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_a_tunnel_to_the_api_are_served_like_any_other() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    for target in [plain(&upstream), upstream.address.to_string()] {
        let host = upstream.address.ip();
        let mut caller = tunnel(&setup, &target);
        caller.send(format!("GET /v1/x:search?a=%2F HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(caller.read_response().status, 200, "{target}");
        assert_eq!(upstream.last().line(), "GET /v1/x:search?a=%2F HTTP/1.1");
        assert_eq!(upstream.last().all("host"), [upstream.address.to_string()]);
        assert!(upstream.last().token().starts_with("Bearer "));
        caller.send(format!(
            "POST /@default/v1/y HTTP/1.1\r\nHost: {target}\r\nContent-Length: 4\r\n\r\nbody"
        ));
        assert_eq!(caller.read_response().status, 200, "{target}");
        assert_eq!(upstream.last().target(), "/v1/y");
        caller.send(format!(
            "GET http://{target}/v1/z HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        ));
        assert_eq!(caller.read_response().status, 200, "in absolute form");
        assert!(caller.is_closed());
    }
    assert_eq!(upstream.requests().len(), 6);
    assert!(upstream.requests().iter().all(|seen| !seen.line().starts_with("CONNECT")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_right_behind_connect_is_the_tunnels_first() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let target = plain(&upstream);
    let mut caller = setup.caller();
    let connect = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    let get = format!(
        "GET /v1/first HTTP/1.1\r\nHost: {target}\r\n\r\nGET /v1/second HTTP/1.1\r\nHost: {target}\r\n\r\n"
    );
    caller.send(connect + &get);
    assert_eq!(caller.read_head().status, 200);
    assert_eq!((caller.read_response().status, caller.read_response().status), (200, 200));
    let targets: Vec<_> = upstream.requests().iter().map(|seen| seen.target().to_owned()).collect();
    assert_eq!(targets, ["/v1/first", "/v1/second"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_a_tunnel_is_guarded() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[guard]\nread_only = true\n").await;
    let target = plain(&upstream);
    for (head, status, code) in [
        ("GET /v1/x HTTP/1.1\nHost: evil.test", 403, "forbidden_host"),
        ("GET /v1/x HTTP/1.1\nHost: API\nOrigin: http://evil.test", 403, "forbidden_origin"),
        ("GET /v1/x HTTP/1.1\nHost: API\nSec-Fetch-Site: cross-site", 403, "forbidden_origin"),
        ("GET / HTTP/1.1\nHost: API\nUpgrade: websocket\nSec-WebSocket-Key: a", 400, "bad_request"),
        ("GET /v1/../x HTTP/1.1\nHost: API", 400, "bad_request"),
        ("GET http://evil.test/x HTTP/1.1\nHost: evil.test", 403, "forbidden_host"),
        ("POST /v1/vendors HTTP/1.1\nHost: API\nContent-Length: 0", 403, "read_only"),
        ("CONNECT API HTTP/1.1\nHost: API", 405, "method_not_allowed"),
    ] {
        let mut caller = tunnel(&setup, &target);
        caller.send(head.replace("API", &target).replace('\n', "\r\n") + "\r\n\r\n");
        let response = caller.read_response();
        assert_eq!(response.problem(), (status, code.to_owned()), "{head}");
        assert!(caller.is_closed(), "{head}");
    }
    // A client that talks TLS in it gets no further than one that talks TLS to the port.
    let mut caller = tunnel(&setup, &target);
    caller.send([0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert!(!caller.read_rest().contains(" 200 "));
    let mut outside = setup.caller();
    outside.send(format!("GET /v1/x HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(
        outside.read_response().problem(),
        (403, "forbidden_host".to_owned()),
        "only in a tunnel"
    );
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tunnels_are_refused_with_what_to_do_instead() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let (api, own) = (plain(&upstream), setup.proxy.address().to_string());
    let tls = format!("{}:443", upstream.address.ip());
    for (target, more, status, code) in [
        (tls.as_str(), "", 405, "method_not_allowed"),
        ("evil.test:80", "", 405, "method_not_allowed"),
        (&own, "", 405, "method_not_allowed"),
        (&api, "Sec-Fetch-Site: cross-site\r\n", 403, "forbidden_origin"),
        (&api, "Origin: http://evil.test\r\n", 403, "forbidden_origin"),
        (&api, "Content-Length: 5\r\n", 400, "bad_request"),
    ] {
        let mut caller = setup.caller();
        caller.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n"));
        let response = caller.read_response();
        assert_eq!(response.problem(), (status, code.to_owned()), "{target} {more}");
        if status == 405 {
            let fix = response.problem_field("fix");
            assert!(
                fix.contains(&format!("Call http://{own}/v1/")) && fix.contains("not https://"),
                "{fix}"
            );
        }
        assert!(caller.is_closed(), "{target} {more}");
    }
    let mut mismatch = setup.caller();
    mismatch.send(format!("CONNECT {api} HTTP/1.1\r\nHost: evil.test\r\n\r\n"));
    assert_eq!(mismatch.read_response().problem(), (400, "bad_request".to_owned()));
    assert!(upstream.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_ends_with_the_process_like_any_connection() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let target = plain(&upstream);
    let mut idle = tunnel(&setup, &target);
    let mut used = tunnel(&setup, &target);
    used.send(format!("GET /v1/x HTTP/1.1\r\nHost: {target}\r\n\r\n"));
    assert_eq!(used.read_response().status, 200);
    let (status, log) = setup.proxy.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(idle.is_closed() && used.is_closed());
}
