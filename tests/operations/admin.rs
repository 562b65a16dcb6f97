//! The admin listener: who may ask what, what nobody may, and what no answer ever holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use pleo_proxy::sandbox::Sandbox;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use support::{Proxy, Workspace, client, sandbox, text};

/// A way to ask.
pub(super) type Headers<'a> = &'a [(&'a str, &'a str)];

pub(super) async fn ask(proxy: &Proxy, method: &str, path: &str, headers: Headers<'_>) -> Response {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let request = client().request(method, format!("{}{path}", proxy.admin));
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .send()
        .await
        .unwrap()
}

pub(super) async fn status_of(
    proxy: &Proxy,
    method: &str,
    path: &str,
    headers: Headers<'_>,
) -> u16 {
    ask(proxy, method, path, headers).await.status().as_u16()
}

pub(super) fn bearer(proxy: &Proxy) -> String {
    format!("Bearer {}", proxy.key)
}

/// A proxy whose account `acme` is connected.
pub(super) async fn connected(sandbox: &Sandbox) -> (Workspace, Proxy) {
    let workspace = Workspace::for_sandbox(sandbox, "");
    let proxy = workspace.serve();
    proxy.login("acme").await;
    (workspace, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_tells_ok_degraded_and_unavailable() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let ready = async || {
        let response = ask(&proxy, "GET", "/ready", &[]).await;
        (response.status().as_u16(), text(&response.json::<Value>().await.unwrap()["status"]))
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
async fn missing_resources_are_reported_as_not_found() {
    let sandbox = sandbox().await;
    let (_place, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    for path in [
        "/nothing",
        "/api/metrics",
        "/api/nothing",
        "/api/exchanges",
        "/api/accounts/acme/nothing",
        "/favicon.ico",
    ] {
        let response = ask(&proxy, "GET", path, &[("authorization", &key)]).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.headers()["pleo-proxy-error"], "not_found", "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "not_found", "{path}");
    }
    for name in ["nobody", "%3Cimg%3E", "..%2Facme", "UPPER", "-x"] {
        for verb in ["refresh", "logout"] {
            let path = format!("/api/accounts/{name}/{verb}");
            let response = ask(&proxy, "POST", &path, &[("authorization", &key)]).await;
            assert_eq!(response.status(), 404, "{path}");
            let body = response.text().await.unwrap();
            assert!(body.contains("account_unknown") && !body.contains("<img"), "{path}: {body}");
        }
    }
    let begun = ask(&proxy, "POST", "/api/accounts/UPPER/login", &[("authorization", &key)]).await;
    assert_eq!(begun.status(), 404);
    assert_eq!(status_of(&proxy, "GET", "/connect?account=..%2Fx", &[]).await, 400);
    assert_eq!(status_of(&proxy, "GET", "/connect?account=a&account=b", &[]).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_not_cached_not_framed_and_load_nothing() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    for path in ["/", "/callback?code=a&state=b", "/connect?account=Not-One"] {
        let response = ask(&proxy, "GET", path, &[]).await;
        let headers = response.headers();
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
        let response = ask(&proxy, method, path, &[("authorization", &key)]).await;
        assert!(response.status().is_success());
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_holds_a_token_or_a_secret() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox).await;
    let key = bearer(&proxy);
    let mut secrets = vec!["sandbox-secret".to_owned(), proxy.key.clone()];
    let tokens = || {
        let record: Value =
            serde_json::from_slice(&std::fs::read(workspace.record("acme")).unwrap()).unwrap();
        ["access_token", "refresh_token"].map(|name| text(&record["record"]["grant"][name]))
    };
    secrets.extend(tokens());
    let mut responses = String::new();
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
        let response = ask(&proxy, method, path, &[("authorization", &key)]).await;
        assert!(response.status().is_success(), "{method} {path}");
        responses +=
            &format!("{:?}\n{}\n", response.headers().clone(), response.text().await.unwrap());
    }
    secrets.extend(tokens());
    let out = ask(&proxy, "POST", "/api/accounts/acme/logout", &[("authorization", &key)]).await;
    responses += &out.text().await.unwrap();
    assert!(responses.contains("acme"), "the answers are about the account");
    responses += &proxy.log();
    for secret in &secrets {
        assert!(secret.len() > 12);
        for at in 0..=secret.len() - 12 {
            let Some(slice) = secret.get(at..at + 12) else { continue };
            // "sandbox-client" and "sandbox-secret" begin alike.
            assert!(
                slice.starts_with("sandbox-") || !responses.contains(slice),
                "{slice} of a secret is in {responses}"
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
        let response = client().post(url).bearer_auth(&proxy.key).body(body).send().await.unwrap();
        assert_eq!(response.status(), 400, "{body}");
        assert_eq!(response.json::<Value>().await.unwrap()["code"], "bad_request", "{body}");
    }
    let fine = proxy.admin(Method::POST, "/api/accounts/acme/login", Some(json!({}))).await;
    assert_eq!(fine.status(), 200, "an empty object begins a login too");
    let huge = "x".repeat(4 << 20);
    let url = format!("{}/api/accounts/acme/login", proxy.admin);
    // The listener may close before all of it is sent.
    if let Ok(response) = client().post(url).bearer_auth(&proxy.key).body(huge).send().await {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("acme").await["state"], "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_the_process_cleanly() {
    let sandbox = sandbox().await;
    let (workspace, mut proxy) = connected(&sandbox).await;
    let response = proxy.admin(Method::POST, "/api/shutdown", None).await;
    assert_eq!(response.status(), 202);
    assert_eq!(response.json::<Value>().await.unwrap()["version"], 1);
    assert_eq!(proxy.child.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(workspace.state().join("run")).unwrap().count(), 0);
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
        let response =
            client().get(url).header("authorization", bearer(&proxy)).send().await.unwrap();
        let body = response.text().await.unwrap();
        assert!(!body.contains("acme") && !body.contains("<script"), "{path}: {body}");
        let reached = sandbox.counters().api_requests + u64::from(path == "/");
        assert_eq!(reached, requests + 1, "{path} is Pleo's to answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_process_and_its_accounts() {
    let sandbox = sandbox().await;
    let (workspace, proxy) = connected(&sandbox).await;
    let status = proxy.status().await;
    assert_eq!((&status["version"], &status["running"]), (&json!(1), &json!(true)));
    assert_eq!(status["pid"], proxy.child.id());
    assert_eq!((&status["api"], &status["admin"]), (&json!(proxy.api), &json!(proxy.admin)));
    assert_eq!(status["upstream"], sandbox.api_origin());
    assert_eq!(status["environment"], "sandbox");
    assert_eq!(
        text(&status["store"]),
        workspace.state().canonicalize().unwrap().display().to_string()
    );
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
