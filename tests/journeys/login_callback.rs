//! Callbacks that are not the honest answer to a login.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use super::login::parameter;
use pleo_proxy::sandbox::Faults;
use reqwest::Method;
use serde_json::Value;
use support::{Proxy, Workspace, begin_login, client, consent, sandbox, text, visit};
use url::Url;

/// The callback with other parameters.
pub(super) fn callback(proxy: &Proxy, query: &str) -> String {
    format!("{}/callback?{query}", proxy.admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_fits_no_login_changes_nothing() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let back = consent(&begin_login(&proxy, "default").await).await;
    let (code, state) = (parameter(&back, "code"), parameter(&back, "state"));
    for query in [
        format!("code={code}"),
        format!("code={code}&state="),
        format!("code={code}&state=wrong"),
        format!("code={code}&state={}", &state[..42]),
        format!("code={code}&state={state}x"),
        format!("code={code}&state={state}&state={state}"),
        format!("code={code}&code={code}&state={state}"),
        format!("code=&state={state}"),
        format!("state={state}"),
        format!("error=access_denied&error=x&state={state}"),
        "error=access_denied&state=wrong".into(),
        "error=access_denied".into(),
        String::new(),
    ] {
        let (status, page) = visit(callback(&proxy, &query)).await;
        assert_eq!(status, 400, "{query}: {page}");
        assert!(!page.contains(&code) && !page.contains(&state), "{query}: {page}");
    }
    assert_eq!(sandbox.counters().token_posts, 0);
    assert_eq!(visit(back.clone()).await.0, 200, "the login is still under way");
    assert_eq!(sandbox.counters().token_posts, 1);

    let (status, page) = visit(back).await;
    assert_eq!(status, 200, "whoever loads the page again reads the same: {page}");
    assert_eq!(sandbox.counters().token_posts, 1, "a callback is good once");
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_issuer_ends_the_login_before_anything_is_sent() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let back = consent(&begin_login(&proxy, "default").await).await;
    let (code, state) = (parameter(&back, "code"), parameter(&back, "state"));
    let (status, page) =
        visit(callback(&proxy, &format!("code={code}&state={state}&iss=https://evil.test"))).await;
    assert_eq!(status, 400, "{page}");
    assert_eq!(visit(back).await.0, 400, "the login is over");
    assert_eq!(sandbox.counters().token_posts, 0);
    assert!(!workspace.record("default").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_logins_code_is_refused_by_pkce_and_nothing_is_saved() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let stranger = consent(&begin_login(&proxy, "stranger").await).await;
    let own = begin_login(&proxy, "default").await;
    let query = format!("code={}&state={}", parameter(&stranger, "code"), parameter(&own, "state"));
    let (status, page) = visit(callback(&proxy, &query)).await;
    assert_eq!(status, 400);
    assert!(page.contains("invalid_grant"), "{page}");
    assert!(!workspace.record("default").exists() && !workspace.record("stranger").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_consent_ends_the_login_with_its_reason() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let url = begin_login(&proxy, "default").await;
    let denied =
        callback(&proxy, &format!("error=access_denied&state={}", parameter(&url, "state")));
    let (status, page) = visit(&denied).await;
    assert_eq!(status, 400);
    assert!(page.contains("access_denied"), "{page}");
    assert!(text(&proxy.account("default").await["last_login_error"]).contains("access_denied"));
    assert_eq!(visit(consent(&url).await).await.0, 400, "its state is spent");
    assert_eq!(proxy.get("/v1/companies").await.status(), 200, "the login before is untouched");
    proxy.login("default").await;
    assert_eq!(proxy.account("default").await["last_login_error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_the_authorization_server_is_shown_escaped() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let long = "x".repeat(20_000);
    for hostile in [
        "<svg/onload=fetch('//x')>",
        "\"</script><script>x()</script>",
        "a\u{2028}\u{202e}b\r\nc",
        &long,
    ] {
        let state = parameter(&begin_login(&proxy, "default").await, "state");
        let mut url: Url = callback(&proxy, "error=server_error").parse().unwrap();
        url.query_pairs_mut()
            .append_pair("state", &state)
            .append_pair("error_description", hostile);
        let page = client().get(url).send().await.unwrap();
        assert_eq!(page.status(), 400);
        let headers = page.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let html = page.text().await.unwrap();
        assert!(html.contains("server_error") && html.len() < 2000, "{html}");
        assert!(
            !html.contains("<svg") && !html.contains("<script") && !html.contains('\u{202e}'),
            "{html}"
        );
        assert!(!html.contains('\u{2028}') && !html.contains('\r'), "{html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_navigation_with_get_uses_a_callback_up() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let back = consent(&begin_login(&proxy, "default").await).await;
    for method in [Method::HEAD, Method::POST, Method::OPTIONS, Method::PUT, Method::DELETE] {
        let response = client().request(method.clone(), back.clone()).send().await.unwrap();
        assert_eq!(response.status(), 405, "{method}");
    }
    let noise: [&[(&str, &str)]; 8] = [
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "image"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-purpose", "prefetch"),
        ],
        &[
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-purpose", "prefetch;prerender"),
        ],
        &[("sec-purpose", "prefetch")],
        &[("host", "rebind.test")],
        &[("origin", "http://evil.test")],
    ];
    for headers in noise {
        let request = headers
            .iter()
            .fold(client().get(back.clone()), |it, (name, value)| it.header(*name, *value));
        let status = request.send().await.unwrap().status().as_u16();
        assert!((400..500).contains(&status), "{headers:?}: {status}");
    }
    assert_eq!(sandbox.counters().token_posts, 0);
    let real = client()
        .get(back)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate");
    let page = real.header("sec-fetch-dest", "document").send().await.unwrap();
    assert_eq!(page.status(), 200, "{}", page.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_visited_again_tells_how_the_login_ended() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    sandbox.set_faults(Faults { token_latency_before_ms: 400, ..Faults::default() });
    let back = consent(&begin_login(&proxy, "default").await).await;
    let (first, second) = tokio::join!(visit(back.clone()), visit(back.clone()));
    let third = visit(back).await;
    for (status, page) in [first, second, third] {
        assert_eq!(status, 200, "{page}");
        assert!(page.contains("is connected"), "{page}");
    }
    assert_eq!(sandbox.counters().token_posts, 1, "the code was exchanged once");

    let state = parameter(&begin_login(&proxy, "default").await, "state");
    let denied = callback(&proxy, &format!("error=access_denied&state={state}"));
    for _ in 0..2 {
        let (status, page) = visit(&denied).await;
        assert!(status == 400 && page.contains("access_denied"), "{status} {page}");
    }
    // A code that comes with the state of a login that was denied is not exchanged.
    let (status, _) = visit(callback(&proxy, &format!("code=x&state={state}"))).await;
    assert_eq!((status, sandbox.counters().token_posts), (400, 1));
}
