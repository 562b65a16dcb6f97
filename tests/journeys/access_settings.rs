//! Settings that restrict or widen access: read-only, local key, allowed pages, disconnecting.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use super::refused_requests::refused;
use support::{
    After, Caller, Setup, Upstream, Workspace, assert_problem, config_with_api, sandbox, setup,
    write_private,
};

#[tokio::test(flavor = "multi_thread")]
async fn read_only_lets_reads_and_searches_through() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[guard]\nread_only = true\n").await;
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
    refused(&setup, &upstream, &heads);
    let lines = ["X-HTTP-Method-Override: DELETE"];
    assert_eq!(setup.caller().request("GET", "/v1/x", &lines, b"").status, 200);
    assert!(!upstream.last().head.contains("DELETE"));
    assert_eq!(setup.caller().request("HEAD", "/v1/x", &[], b"").status, 200);
    for target in [
        "/@default/v1/vendors:search?limit=1",
        "/v0/aggregations/tags",
        "/v0/tax-codes:calculate-tax-amounts",
    ] {
        assert_eq!(setup.caller().request("POST", target, &[], b"{}").status, 200, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnecting_needs_a_setting_and_is_a_logout() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let heads = [
        ("DELETE /v1/installations/me HTTP/1.1\nHost: HOST", 403, "protected_operation"),
        ("DELETE /@default/v1/installations/me HTTP/1.1\nHost: HOST", 403, "protected_operation"),
        ("DELETE /v1//Installations%2f%6de/?x HTTP/1.1\nHost: HOST", 403, "protected_operation"),
    ];
    refused(&setup, &upstream, &heads);
    drop(setup);

    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "[guard]\nallow_disconnect = true\n");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let response = Caller::of(&proxy).request("DELETE", "/v1/installations/me", &[], b"");
    assert!((200..300).contains(&response.status), "{}", response.head);
    assert_problem(&Caller::of(&proxy).get("/v1/companies"), 503, "login_required");
    assert_eq!(sandbox.counters().token_posts, 1, "no refresh of a revoked grant");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_key_is_asked_for_and_stays_here() {
    let upstream = Upstream::ok();
    let sandbox = sandbox().await;
    let workspace = Workspace::new(&config_with_api(
        &sandbox,
        &upstream.origin,
        "[guard]\nlocal_key_file = \"local-key\"\n",
    ));
    write_private(&workspace.path().join("local-key"), "the-local-key-of-this-test-0123456789\n");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let setup = Setup { proxy, workspace, sandbox };
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
    refused(&setup, &upstream, &heads);
    let key = "Pleo-Proxy-Key: the-local-key-of-this-test-0123456789";
    assert_eq!(setup.caller().request("GET", "/v1/x", &[key], b"").status, 200);
    assert!(!upstream.last().head.contains("the-local-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_listed_page_gets_its_exact_origin_and_nobody_elses() {
    let response = "HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
                  Vary: Accept\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::responding_with(response, After::Keep);
    let setup = setup(&upstream, "[guard]\nallow_origins = [\"http://localhost:3000\"]\n").await;
    let page = "Origin: http://localhost:3000";

    let asked = [
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: pleo-account",
        page,
    ];
    let mut caller = setup.caller();
    let preflight = caller.request("OPTIONS", "/v1/x", &asked, b"");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.all("access-control-allow-origin"), ["http://localhost:3000"]);
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(preflight.all("access-control-allow-headers"), ["pleo-account"]);
    assert!(preflight.header("access-control-allow-credentials").is_none());
    assert!(upstream.requests().is_empty(), "a preflight is answered here");

    let response = caller.request("PUT", "/v1/x", &[page, "Sec-Fetch-Site: same-site"], b"{}");
    assert_eq!(response.status, 200);
    assert_eq!(response.all("access-control-allow-origin"), ["http://localhost:3000"]);
    assert!(response.header("access-control-allow-credentials").is_none());
    assert!(response.all("vary").iter().any(|vary| vary.contains("Origin")));
    assert!(response.all("vary").contains(&"Accept"));
    assert!(!upstream.last().names().contains(&"origin".to_owned()));

    let ours = caller.request("GET", "/@nobody/v1/x", &[page], b"");
    assert_problem(&ours, 404, "account_unknown");
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
    refused(&setup, &upstream, &heads);
    assert!(setup.caller().get("/v1/x").all("access-control-allow-origin").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_server_may_pass_on_what_a_listed_page_reads() {
    let upstream = Upstream::ok();
    let guard = "[guard]\nallow_origins = [\"http://localhost:5173\"]\nallow_hosts = [\"localhost:5173\"]\n";
    let setup = setup(&upstream, guard).await;
    let own = setup.proxy.address().to_string();
    for (host, referer, status) in [
        (own.as_str(), "Referer: http://localhost:5173/\r\n", 200),
        ("localhost:5173", "", 200),
        (&own, "Referer: http://evil.test/\r\n", 403),
        ("localhost:5173", "Referer: http://evil.test/\r\n", 403),
        (&own, "", 403),
    ] {
        let mut caller = setup.caller();
        caller.send(format!(
            "GET /v1/x HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Site: same-origin\r\n{referer}\r\n"
        ));
        assert_eq!(caller.read_response().status, status, "{host} {referer}");
    }
    let seen = upstream.requests();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| !seen.names().contains(&"referer".to_owned())), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_is_listened_on_is_a_host_of_both_listeners() {
    let upstream = Upstream::ok();
    let sandbox = sandbox().await;
    let config = config_with_api(&sandbox, &upstream.origin, "");
    let workspace =
        Workspace::new(&config.replace("api = \"127.0.0.1:0\"", "api = \"127.0.0.2:0\""));
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert!(proxy.api.starts_with("http://127.0.0.2:"), "{}", proxy.api);
    assert_eq!(Caller::of(&proxy).get("/v1/x").status, 200);

    let workspace =
        Workspace::new(&config.replace("admin = \"127.0.0.1:0\"", "admin = \"127.0.0.2:0\""));
    let proxy = workspace.serve();
    assert!(proxy.admin.starts_with("http://127.0.0.2:"), "{}", proxy.admin);
    assert_eq!(proxy.status().await["running"], true);
}
