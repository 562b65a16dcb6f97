//! The limit of requests a minute.

use super::test_client::*;
use pleo_sandbox::{Faults, Options, SECOND_COMPANY_ID};
use serde_json::{Value, json};

async fn statuses(client: &TestClient, token: &str, requests: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..requests {
        statuses.push(client.get(token, "/v1/introspect").await.status().as_u16());
    }
    statuses
}

#[tokio::test]
async fn the_limit_counts_a_company_over_its_tokens_and_names_the_wait() {
    let client = TestClient::with(Options { rate_limit: Some(3), ..options() }).await;
    let tokens = client.login().await;
    assert_eq!(statuses(&client, &tokens.access, 2).await, [200, 200]);
    let next = tokens_of(client.refresh(&tokens.refresh).await.unwrap()).await;
    assert_eq!(statuses(&client, &next.access, 2).await, [200, 429]);
    let refused = client.get(&next.access, "/v1/companies").await;
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["type"], "RATE_LIMITED");
    let urn = format!("urn:pleo:company:{SECOND_COMPANY_ID}");
    client.sandbox.set_next_subject(Some(urn));
    let other = client.login().await.access;
    assert_eq!(statuses(&client, &other, 1).await, [200]);
    let counters = client.sandbox.counters();
    assert_eq!((counters.api_rate_limited, counters.api_unauthorized), (2, 0));
}

#[tokio::test]
async fn the_controls_change_the_limit_and_switch_it_off() {
    let client = TestClient::with(Options { rate_limit: Some(1), ..options() }).await;
    let token = client.login().await.access;
    assert_eq!(statuses(&client, &token, 2).await, [200, 429]);
    let control = |body: Value| {
        let url = client.api("/sandbox/faults");
        client.http.post(url).header("x-sandbox-control", "1").json(&body).send()
    };
    control(json!({ "rate_limit": 2 })).await.unwrap();
    assert_eq!(statuses(&client, &token, 2).await, [200, 429]);
    control(json!({ "rate_limit": 0 })).await.unwrap();
    assert_eq!(statuses(&client, &token, 5).await, [200; 5]);
    control(json!({})).await.unwrap();
    assert_eq!(statuses(&client, &token, 1).await, [429]);
    client.sandbox.set_faults(Faults { rate_limit: Some(0), ..Faults::default() });
    assert_eq!(statuses(&client, &token, 1).await, [200]);
}

#[tokio::test]
async fn without_a_limit_any_number_is_admitted() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    assert_eq!(statuses(&client, &token, 650).await, [200; 650]);
}

#[tokio::test]
async fn a_refused_request_uses_up_no_fault() {
    let client = TestClient::with(Options { rate_limit: Some(1), ..options() }).await;
    let token = client.login().await.access;
    client.sandbox.set_faults(Faults { api_401: 1, rate_limit: Some(1), ..Faults::default() });
    assert_eq!(statuses(&client, "guess", 1).await, [401]);
    assert_eq!(client.sandbox.faults().api_401, 1);
    assert_eq!(statuses(&client, &token, 2).await, [401, 429]);
}
