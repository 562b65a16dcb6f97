//! The first journey: a plain request reaches Pleo with a fresh token. Who is let in, for which
//! account, and what becomes of a 401.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use reqwest::Method;
use support::{After, Caller, TIMEOUT, Upstream, Workspace, assert_problem, raw, sandbox, setup};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_request_gets_a_token() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let response = proxy.get("/v1/companies").await;
    assert_eq!(response.status(), 200);
    assert_eq!(proxy.terminate().0.code(), Some(0));
}

// --- Both shapes, and the shapes that are refused.

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_may_use_it_as_its_http_proxy() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let (host, whole) = (upstream.address.ip().to_string(), upstream.address.to_string());
    let plain = format!("{host}:80");
    for (authority, named) in
        [(&host, &host), (&whole, &whole), (&plain, &plain), (&plain, &host), (&host, &plain)]
    {
        let mut caller = setup.caller();
        caller.send(format!(
            "GET http://{authority}/v1/x:search?a=%2F HTTP/1.1\r\nHost: {named}\r\n\r\n"
        ));
        assert_eq!(caller.read_response().status, 200, "{authority} {named}");
        assert_eq!(upstream.last().line(), "GET /v1/x:search?a=%2F HTTP/1.1");
        assert_eq!(upstream.last().all("host"), [whole.as_str()]);
    }
    let mut caller = setup.caller();
    caller.send(format!(
        "GET http://{host} HTTP/1.1\r\nHost: {host}\r\nProxy-Connection: keep-alive\r\n\r\n"
    ));
    assert_eq!(caller.read_response().status, 200);
    assert_eq!(upstream.last().target(), "/");
    assert!(!upstream.last().names().contains(&"proxy-connection".to_owned()));

    let seen = upstream.requests().len();
    let own = setup.proxy.address();
    for (target, host, code) in [
        ("http://evil.example/v1/x", "evil.example", (403, "forbidden_host")),
        (&*format!("http://{own}/v1/x"), &*own.to_string(), (403, "forbidden_host")),
        (&*format!("http://{whole}/v1/x"), "evil.example", (400, "bad_request")),
        (&*format!("http://{whole}/v1/x"), &*own.to_string(), (400, "bad_request")),
        (&*format!("http://u:p@{whole}/v1/x"), &*whole, (400, "bad_request")),
        (&*format!("http://{whole}/v1/../x"), &*whole, (400, "bad_request")),
    ] {
        let mut caller = setup.caller();
        caller.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_problem(&caller.read_response(), code.0, code.1);
    }
    assert_eq!(upstream.requests().len(), seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_port_has_no_admin_route() {
    let upstream = Upstream::responding_with(
        "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\ntheir",
        After::Keep,
    );
    let setup = setup(&upstream, "").await;
    let key = format!("Authorization: Bearer {}", setup.proxy.key);
    for target in [
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/connect",
        "/callback?code=a&state=b",
        "/api/status",
    ] {
        let response = setup.caller().request("GET", target, &[&key], b"");
        assert_eq!((response.status, response.text().as_str()), (404, "their"), "{target}");
        assert_eq!(upstream.last().target(), target);
        assert!(!upstream.last().head.contains(&setup.proxy.key));
    }
    let response = setup.caller().request("POST", "/api/shutdown", &[&key], b"{}");
    assert_eq!((response.status, response.text().as_str()), (404, "their"));
}

// --- Limits, and the end.

#[tokio::test(flavor = "multi_thread")]
async fn both_loopback_families_lead_to_it() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let address = std::net::SocketAddr::from((
            std::net::Ipv6Addr::LOCALHOST,
            setup.proxy.address().port(),
        ));
        assert_eq!(Caller::to(address).get("/v1/x").status, 200);
    }
    assert_eq!(setup.caller().get("/v1/x").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_logs_have_one_line_for_each_request_however_it_ends() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    assert_eq!(setup.caller().get("/v1/x?key=hidden-value").status, 200);
    assert_eq!(setup.caller().request("POST", "/v1/y", &[], b"12345").status, 200);
    assert_eq!(setup.caller().request("GET", "/v1/z", &["Origin: http://a.test"], b"").status, 403);
    let malformed = raw(setup.proxy.address(), b"G@T / HTTP/1.1\r\n\r\n", TIMEOUT);
    assert!(malformed.starts_with("HTTP/1.1 400"), "{malformed}");
    let metrics = setup.proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("refused_requests_total{code=\"bad_request\"} 1"), "{metrics}");

    let (_, log) = setup.proxy.terminate();
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
