//! The admin listener: who may ask what, what nobody may, and what no answer ever holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::time::Duration;

use pleo_proxy::sandbox::Sandbox;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use support::{Place, Proxy, client, raw, sandbox, text};

/// Routes behind the key; the one that ends the process has tests of its own.
const CLOSED: [(&str, &str); 5] = [
    ("GET", "/metrics"),
    ("GET", "/api/status"),
    ("POST", "/api/accounts/acme/refresh"),
    ("POST", "/api/accounts/acme/login"),
    ("POST", "/api/accounts/acme/logout"),
];
const OPEN: [&str; 3] = ["/", "/health", "/ready"];

/// A way to ask.
type Headers<'a> = &'a [(&'a str, &'a str)];

async fn ask(proxy: &Proxy, method: &str, path: &str, headers: Headers<'_>) -> Response {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = client().request(method, format!("{}{path}", proxy.admin));
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .send()
        .await
        .unwrap()
}

async fn status_of(proxy: &Proxy, method: &str, path: &str, headers: Headers<'_>) -> u16 {
    ask(proxy, method, path, headers).await.status().as_u16()
}

fn bearer(proxy: &Proxy) -> String {
    format!("Bearer {}", proxy.key)
}

/// A proxy whose account `acme` is connected.
async fn connected(sandbox: &Sandbox) -> (Place, Proxy) {
    let place = Place::toward(sandbox, "");
    let proxy = place.serve();
    proxy.login("acme").await;
    (place, proxy)
}

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
    let answer = trade(proxy, &link_key(proxy).await).await;
    assert_eq!(answer.status(), 200);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
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
            let answer = ask(&proxy, method, path, headers).await;
            let status = answer.status().as_u16();
            match refused {
                None => {
                    assert!(![401, 403, 405].contains(&status), "{who}: {method} {path}: {status}")
                }
                // Where there is no such route, nobody learns it without the key.
                Some(refused) => assert_eq!(status, refused, "{who}: {method} {path}"),
            }
            if status == 401 {
                assert!(
                    answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer")
                );
                assert_eq!(answer.headers()["content-type"], "application/problem+json");
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
            let answer = ask(&proxy, method, path, &[]).await;
            let status = answer.status().as_u16();
            assert!([401, 403, 404, 405].contains(&status), "{method} {path}: {status}");
            let body = answer.text().await.unwrap();
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
        let answer = raw(proxy.admin_address(), request.as_bytes(), Duration::from_millis(200));
        assert!(answer.starts_with("HTTP/1.1 4"), "{method}: {answer}");
    }
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("acme").await["generation"], before["generation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_pages_say_up_or_down_and_nothing_else() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox).await;
    let record: Value =
        serde_json::from_slice(&std::fs::read(place.record("acme")).unwrap()).unwrap();
    let subject = text(&record["record"]["subject"]);
    for path in OPEN {
        let body = ask(&proxy, "GET", path, &[]).await.text().await.unwrap();
        for private in [
            "acme",
            "companies:read",
            &subject,
            "sandbox-client",
            "20",
            &place.path().display().to_string(),
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
async fn ready_tells_ok_degraded_and_unavailable() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let ready = async || {
        let answer = ask(&proxy, "GET", "/ready", &[]).await;
        (answer.status().as_u16(), text(&answer.json::<Value>().await.unwrap()["status"]))
    };
    let unavailable = ready().await;
    assert_eq!(unavailable.0, 503);
    proxy.login("default").await;
    assert_eq!(ready().await, (200, "ok".into()));
    proxy.login("second").await;
    proxy.admin(Method::POST, "/api/accounts/second/logout", None).await;
    assert_eq!(ready().await, (200, "degraded".into()));
    proxy.admin(Method::POST, "/api/accounts/default/logout", None).await;
    assert_eq!(ready().await, unavailable);
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
async fn guessing_keys_is_barred_and_bars_nobody_else() {
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
            let answer = ask(&proxy, "POST", path, &headers).await;
            assert_eq!(answer.status(), 403, "{path} {page:?}");
            assert_eq!(answer.headers()["pleo-proxy-error"], "forbidden_origin");
            assert!(
                answer.headers().keys().all(|name| !name.as_str().starts_with("access-control"))
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
async fn other_sites_may_lead_a_person_to_three_pages_only() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
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
    let (place, proxy) = connected(&sandbox).await;
    let before = std::fs::read(place.record("acme")).unwrap();
    let posts = sandbox.counters().token_posts;
    let key = bearer(&proxy);
    let paths =
        ["refresh?force=true", "logout", "login"].map(|verb| format!("/api/accounts/acme/{verb}"));
    for path in paths.iter().map(String::as_str).chain(["/api/shutdown", "/api/session"]) {
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            let answer = ask(&proxy, method, path, &[("authorization", &key)]).await;
            assert_eq!(answer.status(), 405, "{method} {path}");
            assert_eq!(answer.headers()["allow"], "POST", "{method} {path}");
        }
    }
    for path in ["/", "/health", "/ready", "/api/status", "/connect?account=acme", "/callback"] {
        ask(&proxy, "GET", path, &[("authorization", &key)]).await;
    }
    assert_eq!(std::fs::read(place.record("acme")).unwrap(), before);
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(status_of(&proxy, "GET", "/health", &[]).await, 200, "it is still up");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_so() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    for path in [
        "/nothing",
        "/api/metrics",
        "/api/nothing",
        "/api/requests",
        "/api/accounts/acme",
        "/favicon.ico",
    ] {
        let answer = ask(&proxy, "GET", path, &[("authorization", &key)]).await;
        assert_eq!(answer.status(), 404, "{path}");
        assert_eq!(answer.headers()["pleo-proxy-error"], "not_found", "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "not_found", "{path}");
    }
    for name in ["nobody", "%3Cimg%3E", "..%2Facme", "UPPER", "-x"] {
        for verb in ["refresh", "logout"] {
            let path = format!("/api/accounts/{name}/{verb}");
            let answer = ask(&proxy, "POST", &path, &[("authorization", &key)]).await;
            assert_eq!(answer.status(), 404, "{path}");
            let body = answer.text().await.unwrap();
            assert!(body.contains("account_unknown") && !body.contains("<img"), "{path}: {body}");
        }
    }
    let begun = ask(&proxy, "POST", "/api/accounts/UPPER/login", &[("authorization", &key)]).await;
    assert_eq!(begun.status(), 404);
    assert_eq!(status_of(&proxy, "GET", "/connect?account=..%2Fx", &[]).await, 400);
    assert_eq!(status_of(&proxy, "GET", "/connect?account=a&account=b", &[]).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_kept_by_nobody_framed_by_nobody_and_load_nothing() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    for path in ["/", "/callback?code=a&state=b", "/connect?account=Not-One"] {
        let answer = ask(&proxy, "GET", path, &[]).await;
        let headers = answer.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe-") && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(headers["cache-control"], "no-store", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert!(headers["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
        assert!(!headers.contains_key("set-cookie"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_about_accounts_are_kept_by_no_cache() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    for (method, path) in
        [("GET", "/api/status"), ("POST", "/api/session"), ("POST", "/api/accounts/acme/login")]
    {
        let answer = ask(&proxy, method, path, &[("authorization", &key)]).await;
        assert!(answer.status().is_success());
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_holds_a_token_or_a_secret() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    let mut secrets = vec!["sandbox-secret".to_owned(), proxy.key.clone()];
    let tokens = || {
        let record: Value =
            serde_json::from_slice(&std::fs::read(place.record("acme")).unwrap()).unwrap();
        ["access_token", "refresh_token"].map(|name| text(&record["record"]["grant"][name]))
    };
    secrets.extend(tokens());
    let mut answers = String::new();
    let asked = [
        ("GET", "/"),
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/api/status"),
        ("GET", "/metrics"),
        ("POST", "/api/accounts/acme/refresh"),
        ("POST", "/api/accounts/acme/refresh?force=true"),
        ("POST", "/api/accounts/acme/login"),
        ("GET", "/api/status"),
    ];
    for (method, path) in asked {
        let answer = ask(&proxy, method, path, &[("authorization", &key)]).await;
        assert!(answer.status().is_success(), "{method} {path}");
        answers += &format!("{:?}\n{}\n", answer.headers().clone(), answer.text().await.unwrap());
    }
    secrets.extend(tokens());
    let out = ask(&proxy, "POST", "/api/accounts/acme/logout", &[("authorization", &key)]).await;
    answers += &out.text().await.unwrap();
    assert!(answers.contains("acme"), "the answers are about the account");
    answers += &proxy.log();
    for secret in &secrets {
        assert!(secret.len() > 12);
        for at in 0..=secret.len() - 12 {
            let Some(slice) = secret.get(at..at + 12) else { continue };
            // "sandbox-client" and "sandbox-secret" begin alike.
            assert!(
                slice.starts_with("sandbox-") || !answers.contains(slice),
                "{slice} of a secret is in {answers}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_forms_of_bodies_are_refused() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let posts = sandbox.counters().token_posts;
    for body in [
        r#"{"redirect_url": "x"}"#,
        r#"{"redirected_url": "http://x/?code=a&state=b", "more": 1}"#,
        r#"{"redirected_url": "http://x/?code=a&state=b", "refresh_token": "x"}"#,
        r#"{"refresh_token": 5}"#,
        r#"["refresh_token"]"#,
        "refresh_token=x",
        "{",
        "\u{0}",
    ] {
        let url = format!("{}/api/accounts/acme/login", proxy.admin);
        let answer = client().post(url).bearer_auth(&proxy.key).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "bad_request", "{body}");
    }
    let fine = proxy.admin(Method::POST, "/api/accounts/acme/login", Some(json!({}))).await;
    assert_eq!(fine.status(), 200, "an empty object begins a login too");
    let huge = "x".repeat(4 << 20);
    let url = format!("{}/api/accounts/acme/login", proxy.admin);
    // The listener may close before all of it is sent.
    if let Ok(answer) = client().post(url).bearer_auth(&proxy.key).body(huge).send().await {
        assert_eq!(answer.status(), 413);
    }
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("acme").await["state"], "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_the_process_well() {
    let sandbox = sandbox().await;
    let (place, mut proxy) = connected(&sandbox).await;
    let answer = proxy.admin(Method::POST, "/api/shutdown", None).await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json::<Value>().await.unwrap()["version"], 1);
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(place.state().join("run")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_port_has_no_admin_routes() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    for path in [
        "/health",
        "/ready",
        "/",
        "/connect",
        "/callback",
        "/api/status",
        "/metrics",
        "/@acme/api/status",
    ] {
        let requests = sandbox.counters().api_requests;
        let url = format!("{}{path}", proxy.api);
        let answer =
            client().get(url).header("authorization", bearer(&proxy)).send().await.unwrap();
        let body = answer.text().await.unwrap();
        assert!(!body.contains("acme") && !body.contains("<script"), "{path}: {body}");
        let reached = sandbox.counters().api_requests + u64::from(path == "/");
        assert_eq!(reached, requests + 1, "{path} is Pleo's to answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_process_and_its_accounts() {
    let sandbox = sandbox().await;
    let (place, proxy) = connected(&sandbox).await;
    let status = proxy.status().await;
    assert_eq!((&status["version"], &status["running"]), (&json!(1), &json!(true)));
    assert_eq!(status["pid"], proxy.child.id());
    assert_eq!((&status["api"], &status["admin"]), (&json!(proxy.api), &json!(proxy.admin)));
    assert_eq!(status["upstream"], sandbox.api_origin());
    assert_eq!(status["environment"], "sandbox");
    assert_eq!(text(&status["store"]), place.state().canonicalize().unwrap().display().to_string());
    let account = proxy.account("acme").await;
    assert_eq!(account["generation"], 1);
    assert_eq!(account["scope"], json!(["companies:read"]));
    let forced = proxy.admin(Method::POST, "/api/accounts/acme/refresh?force=true", None).await;
    let forced: Value = forced.json().await.unwrap();
    assert_eq!((&forced["version"], &forced["outcome"]), (&json!(1), &json!("refreshed")));
    assert_eq!(proxy.account("acme").await["generation"], 2);
    let fresh = proxy.admin(Method::POST, "/api/accounts/acme/refresh", None).await;
    assert_eq!(fresh.json::<Value>().await.unwrap()["outcome"], "fresh");
}
