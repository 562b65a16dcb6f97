//! Every operation of Pleo is known, and needs the scope that Pleo publishes for it.

use super::test_client::*;
use pleo_sandbox::COMPANY_ID;
use reqwest::StatusCode;
use serde_json::{Value, json};

/// The proxy's table of operations. The sandbox has its own, and both must say the same.
const TABLE: &str = include_str!("../../../../src/operations.tsv");
const NOT_IMITATED: [&str; 2] = ["/v1/vendors/csv-import/", "/v2/accounting-entries:enrich"];

/// Method, path with an id for each placeholder, scope if one is published.
fn operations() -> impl Iterator<Item = (&'static str, String, Option<&'static str>)> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    lines.map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let is_scope = |cell: &&str| cell.ends_with(":read") || cell.ends_with(":write");
        let path = cells[1].split('/').map(|part| match part.split_once('}') {
            Some((_, action)) => format!("00000000-0000-4000-8000-000000000000{action}"),
            None => part.to_owned(),
        });
        let path = path.collect::<Vec<_>>().join("/");
        (cells[0], path, Some(cells[3]).filter(is_scope))
    })
}

#[tokio::test]
async fn an_operation_is_refused_without_its_scope_and_only_then() {
    let client = TestClient::new().await;
    let without = client.login_with("nothing:read").await.access;
    let all = client.login().await.access;
    let mut seen = 0;
    for (method, path, scope) in operations() {
        let (status, refused) = client.send(&without, method, &path, Value::Null).await;
        let expected = json!({ "type": "ACCESS_DENIED", "message": "Access_Denied" });
        assert_eq!(scope.is_some(), (status, &refused) == (403, &expected), "{method} {path}");
        if path != "/v1/installations/me" {
            let (status, _) = client.send(&all, method, &path, Value::Null).await;
            assert!(status != 403 && status != 405, "{method} {path}: {status}");
        }
        seen += 1;
    }
    assert!(seen > 100, "{seen} operations");
}

#[tokio::test]
async fn one_scope_opens_its_operations_and_no_other() {
    let client = TestClient::new().await;
    let token = client.login_with("users:read").await.access;
    assert_eq!(client.get(&token, "/v2/employees").await.status(), StatusCode::OK);
    let vendor = json!({ "companyId": COMPANY_ID, "name": "X", "defaultCurrency": "DKK" });
    assert_eq!(client.send(&token, "POST", "/v1/vendors", vendor.clone()).await.0, 403);
    assert_eq!(client.get(&token, "/v1/companies").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(client.get(&token, "/v1/echo/x").await.status(), StatusCode::OK);
    client.sandbox.set_next_subject(Some(format!("urn:pleo:company:{COMPANY_ID}")));
    let writing = client.login_with("users:read vendors:write").await.access;
    assert_eq!(client.send(&writing, "POST", "/v1/vendors", vendor).await.0, 201);
}

#[tokio::test]
async fn what_is_not_imitated_says_so_and_what_is_unknown_is_not_found() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let mut seen = 0;
    for (method, path, _) in operations() {
        if path == "/v1/installations/me" {
            continue;
        }
        let (status, answer) = client.send(&token, method, &path, Value::Null).await;
        let is_left_out = NOT_IMITATED.iter().any(|start| path.starts_with(start));
        assert_eq!(is_left_out, status == 501, "{method} {path}: {status}");
        if is_left_out {
            assert!(text(&answer["message"]).contains("does not imitate"), "{answer}");
            assert_eq!(answer["type"], "NOT_IMPLEMENTED");
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
    for path in ["/v1/expenses", "/v1/vendors/", "/v3/export-jobs/1/items/2", "/v4/export-jobs"] {
        let (status, answer) = client.send(&token, "GET", path, Value::Null).await;
        assert_eq!((status, &answer["type"]), (404, &json!("NOT_FOUND")), "{path}");
    }
    let (status, answer) = client.send(&token, "PATCH", "/v1/companies", Value::Null).await;
    assert_eq!((status, &answer["type"]), (405, &json!("METHOD_NOT_ALLOWED")));
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let vendor = json!({ "companyId": COMPANY_ID, "name": "x".repeat(2 << 20) });
    let (status, answer) = client.send(&token, "POST", "/v1/vendors", vendor).await;
    assert_eq!((status, &answer["type"]), (413, &json!("PAYLOAD_TOO_LARGE")));
}
