//! Who may use the admin listener: the key, one-time links, sessions, and pages of other sites.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::time::Duration;

use super::admin::{Headers, ask, bearer, connected, status_of};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use support::{Proxy, Workspace, client, raw, sandbox, text};

/// Routes behind the key; the one that ends the process has tests of its own.
const CLOSED: [(&str, &str); 7] = [
    ("GET", "/metrics"),
    ("GET", "/api/status"),
    ("GET", "/api/why?method=GET&path=/v1/companies&account=acme"),
    ("GET", "/api/report"),
    ("POST", "/api/accounts/acme/refresh"),
    ("POST", "/api/accounts/acme/login"),
    ("POST", "/api/accounts/acme/logout"),
];

const OPEN: [&str; 3] = ["/", "/health", "/ready"];

/// The one-time key of a fresh link.
async fn link_key(proxy: &Proxy) -> String {
    let link: Value = proxy.admin(Method::POST, "/api/session", None).await.json().await.unwrap();
    let url = text(&link["url"]);
    assert!(url.starts_with(&format!("{}/#key=", proxy.admin)), "{url}");
    url.split_once("#key=").unwrap().1.to_owned()
}

async fn trade(proxy: &Proxy, key: &str) -> Response {
    let url = format!("{}/api/session", proxy.admin);
    client()
        .post(url)
        .header("origin", &proxy.admin)
        .json(&json!({"key": key}))
        .send()
        .await
        .unwrap()
}

/// A session cookie, as the browser sends it back.
async fn session(proxy: &Proxy) -> String {
    let response = trade(proxy, &link_key(proxy).await).await;
    assert_eq!(response.status(), 200);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_closed_route_needs_the_key_or_a_session_of_our_own_page() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let (key, cookie) = (bearer(&proxy), session(&proxy).await);
    let own = proxy.admin.clone();
    let cases: [(&str, Headers<'_>, Option<u16>); 13] = [
        ("nothing", &[], Some(401)),
        ("wrong key", &[("authorization", "Bearer wrong")], Some(401)),
        ("prefix of the key", &[("authorization", &key[..key.len() - 1])], Some(401)),
        ("key without its scheme", &[("authorization", &proxy.key)], Some(401)),
        ("basic", &[("authorization", "Basic a2V5")], Some(401)),
        ("cookie of nobody's page", &[("cookie", &cookie)], Some(401)),
        (
            "key as cookie",
            &[("cookie", &format!("pleo_proxy_session={}", proxy.key)), ("origin", &own)],
            Some(401),
        ),
        (
            "cookie of another page",
            &[("cookie", &cookie), ("origin", "http://evil.test")],
            Some(403),
        ),
        (
            "cookie of another port",
            &[("cookie", &cookie), ("origin", "http://127.0.0.1:1")],
            Some(403),
        ),
        (
            "cookie of another site",
            &[("cookie", &cookie), ("sec-fetch-site", "cross-site")],
            Some(403),
        ),
        (
            "key of another page",
            &[("authorization", &key), ("origin", "http://evil.test")],
            Some(403),
        ),
        ("key", &[("authorization", &key)], None),
        (
            "session",
            &[("cookie", &cookie), ("sec-fetch-site", "same-origin"), ("origin", &own)],
            None,
        ),
    ];
    for (who, headers, refused) in cases {
        for (method, path) in
            CLOSED.into_iter().chain([("POST", "/api/session"), ("GET", "/api/nothing")])
        {
            let response = ask(&proxy, method, path, headers).await;
            let status = response.status().as_u16();
            match refused {
                None => {
                    assert!(![401, 403, 405].contains(&status), "{who}: {method} {path}: {status}")
                }
                // Where there is no such route, nobody learns it without the key.
                Some(refused) => assert_eq!(status, refused, "{who}: {method} {path}"),
            }
            if status == 401 {
                assert!(
                    response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer")
                );
                assert_eq!(response.headers()["content-type"], "application/problem+json");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_no_method_of_any_path_does_or_tells_anything() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let before = proxy.account("acme").await;
    let posts = sandbox.counters().token_posts;
    let paths = [
        "/api/status",
        "/api/shutdown",
        "/api/session",
        "/api",
        "/api/",
        "/metrics",
        "/api/accounts/acme/login",
    ];
    let more = [
        "/api/accounts/acme/refresh?force=true",
        "/api/accounts/acme/logout",
        "//api/status",
        "/API/status",
    ];
    for path in paths.into_iter().chain(more) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let response = ask(&proxy, method, path, &[]).await;
            let status = response.status().as_u16();
            assert!([401, 403, 404, 405].contains(&status), "{method} {path}: {status}");
            let body = response.text().await.unwrap();
            assert!(!body.contains("acme"), "{method} {path}: {body}");
        }
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in OPEN.into_iter().chain(["/connect", "/callback"]) {
            assert_eq!(status_of(&proxy, method, path, &[]).await, 405, "{method} {path}");
        }
    }
    for method in ["TRACE", "CONNECT", "FOO"] {
        let request =
            format!("{method} /api/status HTTP/1.1\r\nhost: {}\r\n\r\n", proxy.admin_address());
        let response = raw(proxy.admin_address(), request.as_bytes(), Duration::from_millis(200));
        assert!(response.starts_with("HTTP/1.1 4"), "{method}: {response}");
    }
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("acme").await["generation"], before["generation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_pages_report_only_up_or_down() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox).await;
    let record: Value =
        serde_json::from_slice(&std::fs::read(workspace.record("acme")).unwrap()).unwrap();
    let subject = text(&record["record"]["subject"]);
    for path in OPEN {
        let body = ask(&proxy, "GET", path, &[]).await.text().await.unwrap();
        for private in [
            "acme",
            "companies:read",
            &subject,
            "sandbox-client",
            "20",
            &workspace.path().display().to_string(),
        ] {
            assert!(
                path == "/" && private == "20" || !body.contains(private),
                "{path} tells {private}: {body}"
            );
        }
    }
    assert_eq!(
        ask(&proxy, "GET", "/health", &[]).await.json::<Value>().await.unwrap(),
        json!({"status": "ok"})
    );
    // Without the key there is one page for everybody, whoever is connected.
    let page = ask(&proxy, "GET", "/", &[]).await.text().await.unwrap();
    let key = bearer(&proxy);
    proxy.admin(Method::POST, "/api/accounts/acme/logout", None).await;
    assert_eq!(
        ask(&proxy, "GET", "/", &[("authorization", &key)]).await.text().await.unwrap(),
        page
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_opens_one_session() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let key = link_key(&proxy).await;
    assert_ne!(key, proxy.key);
    assert_eq!(trade(&proxy, &key).await.status(), 200);
    assert_eq!(trade(&proxy, &key).await.status(), 401);
    assert_eq!(trade(&proxy, &proxy.key).await.status(), 401, "the admin key is no link");
    assert_eq!(trade(&proxy, "").await.status(), 401);
    let as_bearer = format!("Bearer {}", link_key(&proxy).await);
    assert_eq!(
        status_of(&proxy, "GET", "/api/status", &[("authorization", &as_bearer)]).await,
        401
    );
    for path in [format!("/api/status?key={}", proxy.key), format!("/?key={key}")] {
        let body = ask(&proxy, "GET", &path, &[]).await.text().await.unwrap();
        assert!(!body.contains("acme"), "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_keys_is_rate_limited_and_blocks_nobody_else() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let cookie = session(&proxy).await;
    let http = client();
    let mut seen = Vec::new();
    for guess in 0..60 {
        let url = format!("{}/api/status", proxy.admin);
        seen.push(
            http.get(url)
                .bearer_auth(format!("guess-{guess}"))
                .send()
                .await
                .unwrap()
                .status()
                .as_u16(),
        );
    }
    assert_eq!((seen[0], seen[59]), (401, 429), "{seen:?}");
    assert_eq!(trade(&proxy, "guess").await.status(), 429);
    assert_eq!(
        status_of(&proxy, "GET", "/api/status", &[("authorization", &bearer(&proxy))]).await,
        200
    );
    let own: Headers<'_> = &[("cookie", &cookie), ("sec-fetch-site", "same-origin")];
    assert_eq!(status_of(&proxy, "GET", "/api/status", own).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_can_post_nothing() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    let form = ("content-type", "application/x-www-form-urlencoded");
    let pages: [Headers<'_>; 5] = [
        &[("origin", "http://evil.test"), form],
        &[("origin", "null"), form],
        &[("origin", &proxy.api), form],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
            form,
        ],
        &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors"), form],
    ];
    let targets = ["refresh", "logout", "login"].map(|verb| format!("/api/accounts/acme/{verb}"));
    for path in targets.iter().map(String::as_str).chain(["/api/shutdown", "/api/session"]) {
        for page in pages {
            // Even with the key in hand.
            let headers: Vec<_> =
                page.iter().copied().chain([("authorization", key.as_str())]).collect();
            let response = ask(&proxy, "POST", path, &headers).await;
            assert_eq!(response.status(), 403, "{path} {page:?}");
            assert_eq!(response.headers()["pleo-proxy-error"], "forbidden_origin");
            assert!(
                response.headers().keys().all(|name| !name.as_str().starts_with("access-control"))
            );
        }
        let rebound =
            ask(&proxy, "POST", path, &[("host", "rebind.test"), ("authorization", &key)]).await;
        assert_eq!(rebound.headers()["pleo-proxy-error"], "forbidden_host", "{path}");
        assert_eq!(rebound.status(), 403);
    }
    assert_eq!(proxy.account("acme").await["state"], "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_may_navigate_to_three_pages_only() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let navigation: Headers<'_> = &[
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    assert_eq!(status_of(&proxy, "GET", "/", navigation).await, 200);
    assert_eq!(status_of(&proxy, "GET", "/connect", navigation).await, 302);
    assert_eq!(status_of(&proxy, "GET", "/callback", navigation).await, 400);
    for path in ["/health", "/ready", "/api/status", "/nothing"] {
        assert_eq!(status_of(&proxy, "GET", path, navigation).await, 403, "{path}");
    }
    for dest in ["iframe", "image", "script", "object", "empty"] {
        let mode = if dest == "iframe" || dest == "object" { "navigate" } else { "no-cors" };
        let headers =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)];
        for path in ["/", "/connect?account=x", "/callback?code=a&state=b"] {
            assert_eq!(status_of(&proxy, "GET", path, &headers).await, 403, "{dest} {path}");
        }
    }
    assert_eq!(proxy.account("x").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_get_changes_anything() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox).await;
    let before = std::fs::read(workspace.record("acme")).unwrap();
    let posts = sandbox.counters().token_posts;
    let key = bearer(&proxy);
    let paths =
        ["refresh?force=true", "logout", "login"].map(|verb| format!("/api/accounts/acme/{verb}"));
    for path in paths.iter().map(String::as_str).chain(["/api/shutdown", "/api/session"]) {
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            let response = ask(&proxy, method, path, &[("authorization", &key)]).await;
            assert_eq!(response.status(), 405, "{method} {path}");
            assert_eq!(response.headers()["allow"], "POST", "{method} {path}");
        }
    }
    for path in ["/", "/health", "/ready", "/api/status", "/connect?account=acme", "/callback"] {
        ask(&proxy, "GET", path, &[("authorization", &key)]).await;
    }
    assert_eq!(std::fs::read(workspace.record("acme")).unwrap(), before);
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(status_of(&proxy, "GET", "/health", &[]).await, 200, "it is still up");
}
