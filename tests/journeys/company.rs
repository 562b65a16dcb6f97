//! The right company: an account that is bound to one never serves another's data, and none is
//! connected twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, COMPANY_ID, Faults, SECOND_COMPANY_ID, Sandbox};
use pleo_proxy::store::Record;
use reqwest::Method;
use serde_json::{Value, json};
use support::{Proxy, Workspace, client, sandbox, text};

fn urn(id: &str) -> String {
    format!("urn:pleo:company:{id}")
}

/// The API answers the next questions with 500.
fn break_api(sandbox: &Sandbox, count: Option<u32>) {
    let fault =
        ApiFault { kind: ApiFaultKind::Status, status: Some(500), count, ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(fault), ..Faults::default() });
}

/// A login in which the person picks a company; the page that ends it. `query` belongs to the
/// beginning.
async fn login(proxy: &Proxy, account: &str, company: &str, query: &str) -> (u16, String) {
    let begun =
        proxy.admin(Method::POST, &format!("/api/accounts/{account}/login{query}"), None).await;
    let begun: Value = begun.json().await.unwrap();
    let url = format!("{}&subject={}", text(&begun["authorize_url"]), urn(company));
    let consented = client().get(url).send().await.unwrap();
    let back = consented.headers()["location"].to_str().unwrap().to_owned();
    let page = client().get(back).send().await.unwrap();
    (page.status().as_u16(), page.text().await.unwrap())
}

/// Names of the companies that requests of an account see.
async fn companies(proxy: &Proxy, account: &str) -> Vec<String> {
    let response = proxy.get(&format!("/@{account}/v1/companies")).await;
    assert_eq!(response.status(), 200, "{account}");
    let body: Value = response.json().await.unwrap();
    body["data"].as_array().unwrap().iter().map(|company| text(&company["id"])).collect()
}

fn record(workspace: &Workspace, account: &str) -> Value {
    serde_json::from_slice::<Value>(&std::fs::read(workspace.record(account)).unwrap()).unwrap()["record"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_account_refuses_a_login_whose_company_is_unknown() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    let before = record(&workspace, "default");

    break_api(&sandbox, Some(3));
    for company in [SECOND_COMPANY_ID, COMPANY_ID] {
        break_api(&sandbox, Some(3));
        let (status, page) = login(&proxy, "default", company, "").await;
        assert!(status == 400 && page.contains("cannot be read"), "{status} {page}");
        assert_eq!(record(&workspace, "default"), before, "nothing was saved");
    }
    assert_eq!(companies(&proxy, "default").await, [COMPANY_ID], "the login of before serves");

    // What fails twice is asked a third time.
    break_api(&sandbox, Some(2));
    let (status, page) = login(&proxy, "default", SECOND_COMPANY_ID, "").await;
    assert!(status == 400 && page.contains("login NEWNAME"), "{status} {page}");
    break_api(&sandbox, Some(2));
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    assert_eq!(companies(&proxy, "default").await, [COMPANY_ID]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_login_with_an_unknown_company_serves_and_learns_it_at_a_refresh() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    break_api(&sandbox, Some(4));
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    assert_eq!(record(&workspace, "default")["subject"], Value::Null);
    sandbox.set_faults(Faults::default());
    assert_eq!(companies(&proxy, "default").await, [COMPANY_ID]);
    let refreshed =
        proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
    assert_eq!(refreshed.status(), 200);
    proxy.wait_for_account("default", |account| account["subject"] == urn(COMPANY_ID)).await;
    // From here on it is bound.
    assert_eq!(login(&proxy, "default", SECOND_COMPANY_ID, "").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_company_is_connected_under_one_name_until_it_is_moved() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    let (status, page) = login(&proxy, "acme", COMPANY_ID, "").await;
    assert_eq!(status, 400);
    for told in ["account default", "pleo-proxy login acme --replace", "nothing was saved"] {
        assert!(page.contains(told), "{told}: {page}");
    }
    assert!(!workspace.record("acme").exists());
    assert_eq!(
        login(&proxy, "acme", SECOND_COMPANY_ID, "").await.0,
        200,
        "another company is welcome"
    );
    assert_eq!(
        login(&proxy, "default", COMPANY_ID, "").await.0,
        200,
        "and so is the account's own, again"
    );

    assert_eq!(login(&proxy, "third", COMPANY_ID, "?replace=true").await.0, 200);
    assert_eq!(companies(&proxy, "third").await, [COMPANY_ID]);
    let moved = proxy.account("default").await;
    assert_eq!(moved["state"], "login_required");
    assert!(text(&moved["why"]).contains("moved to account third"), "{moved}");
    assert_eq!(record(&workspace, "default")["subject"], Value::Null, "it is free for any company");
    assert_eq!(companies(&proxy, "acme").await, [SECOND_COMPANY_ID]);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_logins_of_one_company_under_two_names_connect_only_one() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    sandbox.set_faults(Faults { latency_ms: 100, ..Faults::default() });
    let (one, other) =
        tokio::join!(login(&proxy, "one", COMPANY_ID, ""), login(&proxy, "other", COMPANY_ID, ""));
    let mut statuses = [one.0, other.0];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "{} {}", one.1, other.1);
}

/// An account that is bound to the first company and whose grant is over, and a refresh token of
/// another company.
async fn bound_and_token(
    sandbox: &Sandbox,
    workspace: &Workspace,
    company: &str,
) -> (Proxy, String) {
    let proxy = workspace.serve();
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    sandbox.revoke_all();
    assert_eq!(
        proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await.status(),
        503
    );
    let elsewhere = Workspace::for_sandbox(sandbox, "");
    let source = elsewhere.serve();
    assert_eq!(login(&source, "default", company, "").await.0, 200);
    source.kill();
    (proxy, text(&record(&elsewhere, "default")["grant"]["refresh_token"]))
}

async fn import(proxy: &Proxy, token: &str) -> (u16, Value) {
    let body = Some(json!({"refresh_token": token}));
    let response = proxy.admin(Method::POST, "/api/accounts/default/login", body).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_token_of_another_company_is_never_used() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let (proxy, token) = bound_and_token(&sandbox, &workspace, SECOND_COMPANY_ID).await;
    sandbox.set_faults(Faults { latency_ms: 300, ..Faults::default() });
    let asking = async {
        let mut statuses = Vec::new();
        while statuses.len() < 1000
            && !text(&proxy.account("default").await["why"]).contains("belongs to")
        {
            statuses.push(proxy.get("/v1/companies").await.status().as_u16());
        }
        statuses
    };
    let ((status, response), statuses) = tokio::join!(import(&proxy, &token), asking);
    assert_eq!((status, response["code"].as_str()), (409, Some("login_conflict")), "{response}");
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    assert_eq!(proxy.account("default").await["state"], "login_required");
    assert_eq!(record(&workspace, "default")["subject"], urn(COMPANY_ID));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_token_is_used_only_after_its_company_is_confirmed() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "\n[tokens]\nhold = \"1s\"\ndrain = \"1s\"\n");
    for (company, serves) in [(SECOND_COMPANY_ID, false), (COMPANY_ID, true)] {
        let (proxy, token) = bound_and_token(&sandbox, &workspace, company).await;
        break_api(&sandbox, None);
        let (status, response) = import(&proxy, &token).await;
        assert_eq!((status, response["code"].as_str()), (502, Some("login_failed")), "{response}");
        assert_eq!(record(&workspace, "default")["subject_unconfirmed"], true);
        assert_eq!(proxy.get("/v1/companies").await.status(), 503);
        proxy.kill();

        let proxy = workspace.serve();
        assert_eq!(proxy.get("/v1/companies").await.status(), 503, "a restart confirms nothing");
        sandbox.set_faults(Faults::default());
        let settled =
            proxy.wait_for_account("default", |account| account["state"] != "retrying").await;
        match serves {
            true => assert_eq!(companies(&proxy, "default").await, [COMPANY_ID]),
            false => {
                assert_eq!(settled["state"], "login_required", "{settled}");
                assert!(text(&settled["why"]).contains(SECOND_COMPANY_ID), "{settled}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfirmed_token_that_was_revoked_early_is_refreshed() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let (proxy, token) = bound_and_token(&sandbox, &workspace, COMPANY_ID).await;
    break_api(&sandbox, None);
    assert_eq!(import(&proxy, &token).await.0, 502);
    proxy.kill();
    // The pair is two minutes old, and its access token has most of its life before it.
    let path = workspace.record("default");
    let mut record = Record::decode(&std::fs::read(&path).unwrap()).unwrap();
    record.grant.as_mut().unwrap().refreshed_at -= 120_000;
    std::fs::write(&path, record.encode()).unwrap();
    let posts = sandbox.counters().token_posts;
    sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    let proxy = workspace.serve();
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(sandbox.counters().token_posts, posts + 1);
    assert_eq!(companies(&proxy, "default").await, [COMPANY_ID]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_stays_where_it_is_until_a_login_is_saved() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    assert_eq!(login(&proxy, "default", COMPANY_ID, "").await.0, 200);
    let damaged = workspace.record("acme");
    support::write_private(&damaged, "{damaged");
    let (status, page) = login(&proxy, "acme", COMPANY_ID, "").await;
    assert_eq!(status, 400, "the company is connected as default: {page}");
    assert_eq!(std::fs::read_to_string(&damaged).unwrap(), "{damaged");
    assert_eq!(login(&proxy, "acme", SECOND_COMPANY_ID, "").await.0, 200);
    assert_eq!(companies(&proxy, "acme").await, [SECOND_COMPANY_ID]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_companys_name_is_shown_while_it_is_connected_and_after_its_login_has_ended() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let (status, page) = login(&proxy, "acme", COMPANY_ID, "").await;
    assert!(status == 200 && page.contains("<h1>Harbour Coffee"), "{page}");
    assert!(page.contains("May see") && page.contains("companies"), "{page}");
    let named = |account: &Value| text(&account["company"]).starts_with("Harbour Coffee");
    assert!(named(&proxy.account("acme").await));
    proxy.admin(Method::POST, "/api/accounts/acme/refresh?force=true", None).await;
    assert!(named(&proxy.account("acme").await), "a refresh keeps it");
    let fault = pleo_proxy::sandbox::TokenFault {
        kind: pleo_proxy::sandbox::TokenFaultKind::Error,
        ..Default::default()
    };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    proxy.admin(Method::POST, "/api/accounts/acme/refresh?force=true", None).await;
    let account = proxy.account("acme").await;
    assert_eq!(account["state"], "login_required");
    assert!(named(&account), "{account}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_the_scope_for_the_companys_name_works_without_it() {
    let sandbox = sandbox().await;
    let workspace = Workspace::new(
        &support::sandbox_config(&sandbox, "").replace("companies:read", "users:read"),
    );
    let proxy = workspace.serve();
    let (status, page) = login(&proxy, "acme", COMPANY_ID, "").await;
    assert!(status == 200 && page.contains("Account acme is connected"), "{page}");
    let account = proxy.account("acme").await;
    assert_eq!((&account["state"], &account["company"]), (&json!("connected"), &Value::Null));
}
