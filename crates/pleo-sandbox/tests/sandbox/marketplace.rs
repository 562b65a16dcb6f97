//! Installations and webhook subscriptions: what belongs to the app and the subject that uses it.

use super::test_client::*;
use pleo_sandbox::{COMPANY_ID, SECOND_COMPANY_ID};
use serde_json::{Value, json};

const INSTALLATION: &str = "/v1/installations/me";

#[tokio::test]
async fn an_authorization_makes_an_installation_that_the_app_activates() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let made = client.json(&token, INSTALLATION).await;
    assert_eq!(made["status"], "AUTHORIZED");
    assert_eq!(made["resource"], format!("urn:pleo:company:{COMPANY_ID}"));
    let activate = format!("{INSTALLATION}:activate");
    let (status, active) = client.send(&token, "POST", &activate, Value::Null).await;
    assert_eq!((status, &active["status"]), (200, &json!("ACTIVATED")));
    assert_eq!((&active["id"], &active["createdAt"]), (&made["id"], &made["createdAt"]));
    let change = json!({ "status": "INACTIVE", "metadata": { "ledger": { "id": "7" } } });
    let (status, changed) = client.send(&token, "PUT", INSTALLATION, change).await;
    assert_eq!((status, &changed["metadata"]["ledger"]["id"]), (200, &json!("7")));
    assert_eq!(client.json(&token, INSTALLATION).await, changed);
    let other = client.login().await.access;
    let others = client.json(&other, INSTALLATION).await;
    assert_eq!(others["resource"], format!("urn:pleo:company:{SECOND_COMPANY_ID}"));
    assert_eq!(others["status"], "AUTHORIZED");
}

fn subscription(event: &str) -> Value {
    json!({ "endpointUrl": "https://example.com/hook", "eventTypes": [event] })
}

#[tokio::test]
async fn a_subscription_needs_the_scopes_of_its_events() {
    let client = TestClient::new().await;
    let subject = format!("urn:pleo:company:{COMPANY_ID}");
    client.sandbox.set_next_subject(Some(subject));
    let exporter = client.login_with("export-jobs:read").await.access;
    let create = "/v1/subscriptions";
    let (status, _) =
        client.send(&exporter, "POST", create, subscription("v1.vendor.created")).await;
    assert_eq!(status, 403);
    let events = subscription("v1.export-job.created");
    let (status, made) = client.send(&exporter, "POST", create, events.clone()).await;
    assert_eq!(status, 200);
    let one = format!("{create}/{}", text(&made["data"]["id"]));
    let reader = client.login_with("vendors:read").await.access;
    for (method, path, body) in [
        ("GET", one.clone(), Value::Null),
        ("GET", format!("{one}/secret"), Value::Null),
        ("GET", format!("{one}/activities"), Value::Null),
        ("PUT", one.clone(), events),
        ("PUT", one.clone(), subscription("v1.vendor.created")),
        ("DELETE", one.clone(), Value::Null),
    ] {
        let (status, _) = client.send(&reader, method, &path, body).await;
        assert_eq!(status, 403, "{method} {path}");
    }
    assert_eq!(client.send(&exporter, "DELETE", &one, Value::Null).await.0, 204);
}

#[tokio::test]
async fn a_subscription_belongs_to_its_subject_and_keeps_its_secret() {
    let client = TestClient::new().await;
    let (own, other) = (client.login().await.access, client.login().await.access);
    let create = "/v1/subscriptions";
    let (_, made) = client.send(&own, "POST", create, subscription("v1.vendor.created")).await;
    let one = format!("{create}/{}", text(&made["data"]["id"]));
    let (status, _) = client.send(&other, "GET", &one, Value::Null).await;
    assert_eq!(status, 404);
    assert_eq!(client.json(&other, create).await["pagination"]["total"], 0);
    let secret = client.json(&own, &format!("{one}/secret")).await;
    client.send(&own, "PUT", &one, subscription("v1.export-job.created")).await;
    assert_eq!(client.json(&own, &format!("{one}/secret")).await, secret);
    let activities = client.json(&own, &format!("{one}/activities")).await;
    let kinds: Vec<&str> = activities["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| text(&row["operationType"]))
        .collect();
    assert!(kinds.contains(&"CREATE") && kinds.contains(&"UPDATE"), "{kinds:?}");
    for odd in [
        json!({ "endpointUrl": "http://example.com", "eventTypes": ["v1.vendor.created"] }),
        json!({ "endpointUrl": "https://example.com", "eventTypes": [] }),
        json!({ "endpointUrl": "https://example.com", "eventTypes": ["v9.odd"] }),
        json!({ "eventTypes": ["v1.vendor.created"] }),
    ] {
        assert_eq!(client.send(&own, "POST", create, odd.clone()).await.0, 400, "{odd}");
    }
}
