//! API keys: user name and empty password, wherever Pleo takes them.

use super::test_client::*;
use pleo_sandbox::{COMPANY_ID, StaticKey};
use reqwest::StatusCode;
use serde_json::{Value, json};

const TABLE: &str = include_str!("../../../../src/operations.tsv");

fn key(scope: &str) -> StaticKey {
    StaticKey { scope: scope.into(), ..StaticKey::default() }
}

async fn status(client: &TestClient, user: &str, password: Option<&str>, path: &str) -> StatusCode {
    client.http.get(client.api(path)).basic_auth(user, password).send().await.unwrap().status()
}

#[tokio::test]
async fn a_key_is_a_user_name_without_a_password_and_has_scopes_and_a_company() {
    let client = TestClient::new().await;
    let key = key("companies:read");
    client.sandbox.set_api_keys(vec![key.clone()]);
    assert_eq!(status(&client, &key.key, Some(""), "/v1/companies").await, StatusCode::OK);
    assert_eq!(status(&client, &key.key, None, "/v1/companies").await, StatusCode::OK);
    assert_eq!(status(&client, &key.key, None, "/v2/employees").await, StatusCode::FORBIDDEN);
    for (user, password) in [(&*key.key, Some("x")), ("", Some(&*key.key)), ("another", None)] {
        let refused = status(&client, user, password, "/v1/companies").await;
        assert_eq!(refused, StatusCode::UNAUTHORIZED, "{user} {password:?}");
    }
    let as_bearer = client.get(&key.key, "/v1/companies").await;
    assert_eq!(as_bearer.status(), StatusCode::UNAUTHORIZED);
    let request = client.http.get(client.api("/v1/introspect")).basic_auth(&key.key, Some(""));
    let identity: Value = request.send().await.unwrap().json().await.unwrap();
    let subject = format!("urn:pleo:company:{COMPANY_ID}");
    let expected =
        json!({ "authMethod": "API_KEY", "scope": "companies:read", "subjectURN": subject });
    assert_eq!(identity["data"], expected);
    client.sandbox.set_api_keys(Vec::new());
    assert_eq!(status(&client, &key.key, None, "/v1/companies").await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_key_is_refused_where_the_table_says_bearer_only_and_nowhere_else() {
    let client = TestClient::new().await;
    let key = key(SCOPES);
    client.sandbox.set_api_keys(vec![key.clone()]);
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    let mut refused = 0;
    for cells in lines.map(|line| line.split('\t').collect::<Vec<_>>()) {
        let path = cells[1].replace(['{', '}'], "");
        let request = client.http.request(cells[0].parse().unwrap(), client.api(&path));
        let answer = request.basic_auth(&key.key, Some("")).send().await.unwrap();
        let is_refused = answer.status() == StatusCode::UNAUTHORIZED;
        assert_eq!(is_refused, cells[5] == "bearer only", "{} {path}", cells[0]);
        refused += u32::from(is_refused);
    }
    assert!(refused >= 5, "{refused}");
}
