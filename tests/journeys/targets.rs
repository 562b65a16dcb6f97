//! Request targets that could leave the API or reach an admin route, and requests that follow
//! another on one connection.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use super::both_listeners::{BOTH, Door, GET, Scene, each};

// --- Where it shall go: T40 to T50, T82, T149.

#[tokio::test(flavor = "multi_thread")]
async fn targets_that_are_not_api_paths_are_never_forwarded() {
    let scene = Scene::set("").await;
    let line = "VALUE HTTP/1.1\nHost: HOST\nConnection: close\n\n";
    let refused = [
        "GET foo",
        "GET *",
        "GET HOST",
        "GET @evil.test",
        "GET evil.test:80",
        "GET PATH/../admin",
        "GET PATH/%2e%2E/admin",
        "GET PATH/.%2e",
        "GET PATH/./x",
        "GET PATH/..",
        "GET /..\\admin",
        "GET /\\evil.test/x",
        "GET PATH#fragment",
        "GET PATH?#",
        "GET PATH?\u{c3}\u{a9}",
        "GET PATH\u{c3}\u{a9}",
        "GET PATH?access_token=stolen",
        "GET http://evil.test/x",
        "GET http://HOST@evil.test/x",
        "GET http://OTHER/x",
        "GET http://API/x",
    ];
    each(&scene, &BOTH, line, &refused, "400 bad_request");
    let unreadable =
        ["GET @evil.test/", "GET @HOST/", "GET HOST/v1/x", "GET ?x", "GET http:///x", "GET //"];
    each(&scene, &BOTH, line, &unreadable[..5], "400 bad_request");
    let methods = [
        "CONNECT evil.test:443",
        "TRACE PATH",
        "OPTIONS *",
        "FOO PATH",
        "get PATH",
        "GeT PATH",
        "PRI *",
    ];
    each(&scene, &BOTH, line, &methods, "405 method_not_allowed");
    let whole = "GET VALUE HTTP/1.1\nHost: AUTHORITY\nConnection: close\n\n";
    for authority in [
        "evil.test",
        "evil.test:443",
        "HOST",
        "OTHER",
        "localhost:PORT",
        "API.evil.test",
        "127.0.0.1",
    ] {
        for target in ["http://AUTHORITY/x", "https://AUTHORITY/x", "http://AUTHORITY"] {
            let text = whole.replace("VALUE", target).replace("AUTHORITY", authority);
            // The upstream of the tests has an address with a port, which may be left out.
            let doors = if authority == "127.0.0.1" { &BOTH[1..] } else { &BOTH[..] };
            scene.attack_all(doors, &[(authority, &text, "403 forbidden_host")]);
        }
    }
    let control = whole.replace("VALUE", "http://AUTHORITY/v1/x").replace("AUTHORITY", "API");
    scene.attack(Door::Data, ("the API", &control, "200"));
    assert_eq!(scene.upstream.last().target(), "/v1/x");
    scene.attack(Door::Admin, ("the API", &control, "403 forbidden_host"));
    assert!(!scene.setup.proxy.log().contains("stolen"));
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_an_admin_route_is_served_by_the_data_listener() {
    let scene = Scene::set("").await;
    let key = format!("Authorization: Bearer {}\n", scene.setup.proxy.key);
    for target in [
        "/_admin",
        "/%5Fadmin",
        "/%5fadmin/api/status",
        "//_admin",
        "/_admin/",
        "/_ADMIN",
        "/_admin;a=b",
        "/_admin?x",
        "/v1/..%2f_admin",
        "/api/status",
        "/%61pi/status",
        "//api/status",
        "/api//status",
        "/metrics",
        "/health",
        "/callback?code=a&state=b",
        "/connect?account=default",
        "/@default/api/status",
    ] {
        scene.attack(
            Door::Data,
            (
                target,
                &format!("GET {target} HTTP/1.1\nHost: HOST\nConnection: close\n{key}\n"),
                "200",
            ),
        );
        assert_eq!(scene.upstream.last().target(), target.trim_start_matches("/@default"));
    }
    let refused =
        ["GET /v1/../_admin", "GET /%2e%2e/_admin", "GET /_admin/.", "GET /\\_admin", "GET _admin"];
    let line = format!("VALUE HTTP/1.1\nHost: HOST\n{key}\n");
    each(&scene, &[Door::Data], &line, &refused, "400 bad_request");
    let whole = format!("GET http://OTHER/api/status HTTP/1.1\nHost: OTHER\n{key}\n");
    scene.attack(Door::Data, ("in absolute form", &whole, "403 forbidden_host"));
    assert!(
        scene.upstream.requests().iter().all(|seen| !seen.head.contains(&scene.setup.proxy.key))
    );
    // Nor is one of the data listener by the admin listener.
    for target in ["/v1/x", "/@default/v1/x", "/v1/introspect"] {
        let text = format!("GET {target} HTTP/1.1\nHost: HOST\nConnection: close\n\n");
        scene.attack(Door::Admin, (target, &text, "404 not_found"));
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_is_decided_by_the_method_in_the_request_line() {
    let scene = Scene::set("[guard]\nread_only = true\n").await;
    let attacks = [
        (
            "POST with _method",
            "POST PATH?_method=GET HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        (
            "a form with _method",
            "POST PATH HTTP/1.1\nHost: HOST\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 11\n\n\
             _method=GET",
            "403 read_only",
        ),
        (
            "an override",
            "POST PATH HTTP/1.1\nHost: HOST\nX-HTTP-Method-Override: GET\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        ("in lower case", "delete PATH HTTP/1.1\nHost: HOST\n\n", "405 method_not_allowed"),
        (
            "search in the query",
            "POST PATH?:search HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        (
            "disconnect",
            "DELETE /v1/installations/me HTTP/1.1\nHost: HOST\n\n",
            "403 protected_operation",
        ),
        (
            "disconnect by _method",
            "POST /v1/installations/me?_method=DELETE HTTP/1.1\nHost: HOST\nContent-Length: 0\n\n",
            "403 read_only",
        ),
        ("GET with a body", &format!("{GET}Content-Length: 14\n\n_method=DELETE"), "200"),
        (
            "GET with overrides",
            &format!(
                "{GET}X-HTTP-Method-Override: DELETE\nX_HTTP_Method: DELETE\nX.Method.Override: DELETE\n\n"
            ),
            "200",
        ),
    ];
    scene.attack_all(&[Door::Data], &attacks);
    assert!(!scene.upstream.last().head.contains("DELETE"), "{}", scene.upstream.last().head);
    let all = scene.upstream.requests();
    assert!(all.iter().all(|seen| seen.line().starts_with("GET ")), "{all:#?}");
    scene.unharmed().await;
}

// --- One request behind another: T57, T81.

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_checked_one_by_one() {
    let scene = Scene::set("").await;
    let good = "GET PATH HTTP/1.1\nHost: HOST\n\n";
    for (name, second, response) in [
        ("a foreign Host", "GET /smuggled HTTP/1.1\nHost: evil.test\n\n", "403 forbidden_host"),
        (
            "a page",
            "GET /smuggled HTTP/1.1\nHost: HOST\nOrigin: http://evil.test\n\n",
            "403 forbidden_origin",
        ),
        ("a dot segment", "GET /smuggled/.. HTTP/1.1\nHost: HOST\n\n", "400 bad_request"),
        ("no Host", "GET /smuggled HTTP/1.1\n\n", "400 bad_request"),
        (
            "a tunnel",
            "CONNECT evil.test:443 HTTP/1.1\nHost: evil.test:443\n\n",
            "405 method_not_allowed",
        ),
        (
            "two lengths",
            "POST /smuggled HTTP/1.1\nHost: HOST\nContent-Length: 3\nContent-Length: 4\n\n",
            "400 bad_request",
        ),
        ("no HTTP", "\u{16}\u{3}\u{1}\n\n", "400 bad_request"),
    ] {
        let text = format!("{good}{good}{second}GET /smuggled HTTP/1.1\nHost: HOST\n\n");
        scene.attack_all(&BOTH, &[(name, &text, &format!("200, 200, {response}"))]);
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_an_upgrade_offer_are_not_forwarded_raw() {
    let scene = Scene::set("").await;
    let h2c =
        "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\n";
    let socket =
        "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
    for (name, behind, response) in [
        ("a request", "GET /smuggled HTTP/1.1\nHost: evil.test\n\n", "200, 403 forbidden_host"),
        ("frames", "PRI * HTTP/2.0\n\nSM\n\n\0\0\0\u{4}\0\0\0\0\0", "200, 400 bad_request"),
        ("bytes", "\u{81}\u{5}smuggled\n\n", "200, 400 bad_request"),
    ] {
        let offer = format!("GET PATH HTTP/1.1\nHost: HOST\n{h2c}\n{behind}");
        scene.attack_all(&BOTH, &[(name, &offer, response)]);
        let demand = format!("GET PATH HTTP/1.1\nHost: HOST\n{socket}\n{behind}");
        scene.attack_all(&BOTH, &[(name, &demand, "400 bad_request")]);
        let body = format!("POST PATH HTTP/1.1\nHost: HOST\n{socket}Content-Length: 5\n\n{behind}");
        scene.attack_all(&BOTH, &[(name, &body, "400 bad_request")]);
    }
    scene.unharmed().await;
}
