//! `why` and `/api/why`: the reason of a refusal before the request is sent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use reqwest::Method;
use serde_json::{Value, json};
use support::command::{NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Workspace, sandbox};

fn missing_scope() -> Value {
    json!({
        "version": 1,
        "verdict": "refused",
        "operation": "POST /v1/chart-of-accounts",
        "reason": "needs accounts:write; this login has companies:read",
        "next": "add accounts:write to client.scopes, restart the proxy, then: pleo-proxy login acme",
        "certain": true,
        "source": "docs:chart-of-accounts-api-scopes",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn why_tells_the_same_with_a_running_proxy_and_without_one() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let nobody = workspace.run(&["why", "post", "/v1/chart-of-accounts"]);
    assert_eq!(code(&nobody), SUCCESS, "{}", stderr(&nobody));
    let text = stdout(&nobody);
    assert!(text.starts_with("unknown: needs accounts:write; this account is not"), "{text}");

    let proxy = workspace.serve();
    proxy.login("acme").await;
    let arguments = ["why", "POST", "/v1/chart-of-accounts", "--account", "acme", "--json"];
    assert_eq!(json_output(&workspace.run(&arguments)), missing_scope());
    let by_prefix = workspace.run(&["why", "POST", "/@acme/v1/chart-of-accounts", "--json"]);
    assert_eq!(json_output(&by_prefix), missing_scope());
    let text = stdout(&workspace.run(&["why", "GET", "/v1/companies?page=1"]));
    assert!(text.starts_with("allowed: probably needs companies:read, which"), "{text}");
    assert!(text.contains("(a possibility, not a published fact)"), "{text}");
    assert!(text.contains("\noperation: GET /v1/companies\n"), "{text}");
    let old = stdout(&workspace.run(&["why", "GET", "https://openapi.pleo.io/v1/expenses"]));
    assert!(old.contains("Pleo's old API"), "{old}");

    drop(proxy);
    assert_eq!(json_output(&workspace.run(&arguments)), missing_scope());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_or_for_no_account_is_refused_with_the_reason() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let without_proxy = |arguments: &[&str], part: &str| {
        let refused = workspace.run(&[&["why"], arguments].concat());
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(part), "{arguments:?}: {}", stderr(&refused));
    };
    without_proxy(&["GET", "v1/vendors"], "does not begin with /");
    without_proxy(&["G T", "/v1/chart-of-accounts"], "not a method");
    without_proxy(&["GET", "/v1/chart-of-accounts", "--account", "nobody"], "no account nobody");
    without_proxy(&["GET", "/@acme/v1/x", "--account", "other"], "names another account");

    let proxy = workspace.serve();
    proxy.login("acme").await;
    sandbox.set_next_subject(Some(format!(
        "urn:pleo:company:{}",
        pleo_proxy::sandbox::SECOND_COMPANY_ID
    )));
    proxy.login("second").await;
    for (query, status, code) in [
        ("", 400, "bad_request"),
        ("?method=GET&path=v1", 400, "bad_request"),
        ("?method=GET&path=/v1/x&account=UPPER", 404, "account_unknown"),
        ("?method=GET&path=/v1/x&account=nobody", 404, "account_unknown"),
        ("?method=GET&path=/v1/x", 409, "account_required"),
    ] {
        let response = proxy.admin(Method::GET, &format!("/api/why{query}"), None).await;
        assert_eq!(response.status(), status, "{query}");
        assert_eq!(response.headers()["pleo-proxy-error"], code, "{query}");
    }
    for wrong in [["why", "GET", "v1/companies"], ["why", "G T", "/v1/companies"]] {
        let refused = workspace.run(&wrong);
        assert_eq!(code(&refused), USAGE, "{wrong:?}: {}", stderr(&refused));
    }
    let refused = workspace.run(&["why", "GET", "/v1/x"]);
    assert!(stderr(&refused).contains("(acme, second); name one"), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn why_of_a_request_that_was_answered_tells_what_happened() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "[guard]\nread_only = true\n");
    let proxy = workspace.serve();
    proxy.login("acme").await;
    let why = async |path: &str| {
        let response = proxy.get(path).await;
        let id = response.headers()["pleo-proxy-request"].to_str().unwrap().to_owned();
        let hint = response.headers().get("pleo-proxy-hint").cloned();
        response.bytes().await.unwrap();
        (json_output(&workspace.run(&["why", &id, "--json"])), hint)
    };
    let (told, hint) = why("/v1/export-jobs").await;
    assert_eq!(told["verdict"], "refused");
    assert_eq!(told["operation"], "GET /v1/export-jobs");
    let reason = "needs export-jobs:read; this login has companies:read; deprecated";
    assert_eq!(told["reason"], reason);
    assert!(hint.unwrap().to_str().unwrap().starts_with(reason));
    let (told, hint) = why("/v1/companies").await;
    assert_eq!(
        (&told["verdict"], &told["reason"]),
        (&json!("allowed"), &json!("Pleo answered with status 200"))
    );
    assert!(hint.is_none());

    let refused = proxy.http.post(format!("{}/v1/vendors", proxy.api)).send().await.unwrap();
    let id = refused.headers()["pleo-proxy-request"].to_str().unwrap().to_owned();
    refused.bytes().await.unwrap();
    let text = stdout(&workspace.run(&["why", &id]));
    assert!(text.starts_with("refused: the proxy refused it: "), "{text}");
    assert!(text.contains("(read_only)"), "{text}");
    assert!(text.contains("\nnext: turn guard.read_only off"), "{text}");

    let gone = proxy.admin(Method::GET, "/api/why?id=000000-1", None).await;
    assert_eq!(
        (gone.status().as_u16(), &gone.headers()["pleo-proxy-error"]),
        (404, &"not_kept".parse().unwrap())
    );
    let no_id = workspace.run(&["why", "vendors"]);
    assert_eq!(code(&no_id), USAGE);
    assert!(stderr(&no_id).contains("METHOD PATH"), "{}", stderr(&no_id));
    drop(proxy);
    assert_eq!(code(&workspace.run(&["why", &id])), NOT_RUNNING);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_near_the_rate_limit_is_told_with_every_answer() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    for _ in 0..499 {
        let answer = proxy.get("/v1/introspect").await;
        assert!(!answer.headers().contains_key("pleo-proxy-hint"));
    }
    let told = proxy.get("/v1/introspect").await;
    assert_eq!(told.status(), 200);
    let hint = told.headers()["pleo-proxy-hint"].to_str().unwrap();
    assert!(hint.starts_with("500 or more requests within a minute"), "{hint}");
    assert!(hint.contains("600") && hint.contains("upstream.pace"), "{hint}");
}
