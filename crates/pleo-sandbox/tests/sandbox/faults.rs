//! Every fault that can be set, and the controls.

use std::time::Duration;

use super::test_client::*;
use pleo_sandbox::{
    ApiFault, ApiFaultKind, ExpiresIn, Faults, GrantType, Introspection, TokenFault, TokenFaultKind,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn token_responses_in_other_forms() {
    let client = TestClient::new().await;
    let mut tokens = client.login().await;
    for (expires_in, wanted) in [
        (ExpiresIn::Seconds, json!(600)),
        (ExpiresIn::Milliseconds, json!(600_000)),
        (ExpiresIn::String, json!("600")),
        (ExpiresIn::Float, json!(600.0)),
        (ExpiresIn::Missing, Value::Null),
        (ExpiresIn::Zero, json!(0)),
        (ExpiresIn::Negative, json!(-1)),
    ] {
        client.sandbox.set_faults(Faults { expires_in, ..Faults::default() });
        let body: Value = client.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
        assert_eq!(body["expires_in"], wanted);
        tokens.refresh = body["refresh_token"].as_str().unwrap().to_owned();
    }
    client.sandbox.set_faults(Faults {
        scope_plus: true,
        token_type: Some(String::new()),
        omit_refresh_token: true,
        ..Faults::default()
    });
    for _ in 0..2 {
        let body: Value = client.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
        assert_eq!(body["scope"], SCOPES.replace(' ', "+"));
        assert!(body.get("token_type").is_none() && body.get("refresh_token").is_none());
    }
    client.sandbox.set_faults(Faults {
        scope_missing: true,
        token_type: Some("mac".to_owned()),
        ..Faults::default()
    });
    let body: Value = client.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
    assert!(body.get("scope").is_none());
    assert_eq!(body["token_type"], "mac");
}

#[tokio::test]
async fn responses_lost_before_and_after_the_request_is_handled() {
    let client = TestClient::new().await;
    let tokens = client.login().await;
    let lost = |work| TokenFault {
        kind: TokenFaultKind::Lost,
        work,
        count: Some(1),
        ..TokenFault::default()
    };
    client.token_fault(lost(false));
    assert!(client.refresh(&tokens.refresh).await.is_err());
    let next = tokens_of(client.refresh(&tokens.refresh).await.unwrap()).await;
    client.token_fault(lost(true));
    assert!(client.refresh(&next.refresh).await.is_err());
    assert_eq!(client.sandbox.counters().refreshes, 2);
    assert_eq!(error_code(client.refresh(&next.refresh).await.unwrap()).await, "invalid_grant");
}

#[tokio::test]
async fn other_token_faults() {
    let client = TestClient::new().await;
    let tokens = client.login().await;
    let fault = |kind| TokenFault { kind, ..TokenFault::default() };
    client.token_fault(TokenFault {
        retry_after: Some("5".to_owned()),
        ..fault(TokenFaultKind::Status)
    });
    let response = client.refresh(&tokens.refresh).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    for code in ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_refresh_token"]
    {
        client.token_fault(TokenFault {
            error: Some(code.to_owned()),
            ..fault(TokenFaultKind::Error)
        });
        assert_eq!(error_code(client.refresh(&tokens.refresh).await.unwrap()).await, code);
    }
    client.token_fault(fault(TokenFaultKind::ErrorIn200));
    let response = client.refresh(&tokens.refresh).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(error_code(response).await, "server_error");
    client.token_fault(fault(TokenFaultKind::Html));
    let response = client.refresh(&tokens.refresh).await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    client.token_fault(fault(TokenFaultKind::Huge));
    let huge = client.refresh(&tokens.refresh).await.unwrap().bytes().await.unwrap();
    assert!(huge.len() > 10 << 20);
    client.token_fault(fault(TokenFaultKind::Hang));
    let hung =
        tokio::time::timeout(Duration::from_millis(200), client.refresh(&tokens.refresh)).await;
    assert!(hung.is_err());
    client.token_fault(TokenFault { count: Some(1), ..fault(TokenFaultKind::Truncated) });
    let response = client.refresh(&tokens.refresh).await.unwrap();
    let promised = response.content_length().unwrap();
    assert!(promised > 100 && response.bytes().await.is_err());
    assert_eq!(client.sandbox.counters().refreshes, 1);
    assert_eq!(error_code(client.refresh(&tokens.refresh).await.unwrap()).await, "invalid_grant");
}

#[tokio::test]
async fn a_fault_can_apply_to_one_grant_type_only() {
    let client = TestClient::new().await;
    let only_grant = Some(GrantType::RefreshToken);
    client.token_fault(TokenFault {
        kind: TokenFaultKind::Status,
        only_grant,
        count: Some(2),
        ..TokenFault::default()
    });
    let tokens = client.login().await;
    for _ in 0..2 {
        assert_eq!(
            client.refresh(&tokens.refresh).await.unwrap().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(client.sandbox.faults().token_answer.unwrap().count, Some(0));
    tokens_of(client.refresh(&tokens.refresh).await.unwrap()).await;
}

#[tokio::test]
async fn a_fault_can_apply_to_one_authorization_only() {
    let client = TestClient::new().await;
    let (first, second) = (client.login().await, client.login().await);
    client.token_fault(TokenFault {
        kind: TokenFaultKind::Status,
        only_family: Some(1),
        ..TokenFault::default()
    });
    let first = tokens_of(client.refresh(&first.refresh).await.unwrap()).await;
    assert_eq!(
        client.refresh(&second.refresh).await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    tokens_of(client.refresh(&first.refresh).await.unwrap()).await;
    client.login().await;
    assert_eq!(client.sandbox.counters().token_faults, 1);
}

#[tokio::test]
async fn a_token_request_is_handled_although_the_caller_left() {
    let client = TestClient::new().await;
    let tokens = client.login().await;
    client.sandbox.set_faults(Faults { token_latency_before_ms: 200, ..Faults::default() });
    let gone =
        tokio::time::timeout(Duration::from_millis(80), client.refresh(&tokens.refresh)).await;
    assert!(gone.is_err());
    assert_eq!(client.sandbox.counters().refreshes, 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(client.sandbox.counters().refreshes, 1);
    client.sandbox.set_faults(Faults { token_latency_after_ms: 100, ..Faults::default() });
    let started = std::time::Instant::now();
    client.login().await;
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn api_faults() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    client.sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    assert_eq!(client.get(&token, "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(client.get(&token, "/v1/introspect").await.status(), StatusCode::OK);
    let limited = ApiFault {
        status: Some(429),
        retry_after: Some("1".to_owned()),
        count: Some(1),
        ..ApiFault::default()
    };
    client.api_fault(limited);
    let response = client.get(&token, "/v1/introspect").await;
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert_eq!(client.get(&token, "/v1/introspect").await.status(), StatusCode::OK);
    client.api_fault(ApiFault { status: Some(502), body_html: true, ..ApiFault::default() });
    let response = client.get(&token, "/v1/introspect").await;
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    client.api_fault(ApiFault { kind: ApiFaultKind::Drop, ..ApiFault::default() });
    assert!(
        client.http.get(client.api("/v1/introspect")).bearer_auth(&token).send().await.is_err()
    );
    client.api_fault(ApiFault { kind: ApiFaultKind::ResetMidBody, ..ApiFault::default() });
    let response = client.get(&token, "/v1/companies").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.is_err());
    client.api_fault(ApiFault {
        kind: ApiFaultKind::SlowBody,
        slow_body_ms: 40,
        ..ApiFault::default()
    });
    let started = std::time::Instant::now();
    let body: Value = client.json(&token, "/v1/companies").await;
    assert!(body["data"].is_array() && started.elapsed() >= Duration::from_millis(120));
    client.sandbox.set_faults(Faults { latency_ms: 80, ..Faults::default() });
    let started = std::time::Instant::now();
    client.get(&token, "/v1/introspect").await;
    assert!(started.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn controls_need_their_header() {
    let client = TestClient::new().await;
    let url = client.api("/sandbox/faults");
    assert_eq!(client.http.get(&url).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let post = |url: String, body: Value| {
        client.http.post(url).header("x-sandbox-control", "1").json(&body).send()
    };
    let knobs = json!({
        "access_life_ms": 2000, "expires_in": "milliseconds", "introspect": { "status": 503 },
        "token_answer": { "kind": "error_in_200", "count": 1, "only_grant": "refresh_token" },
        "api_answer": { "kind": "reset_mid_body" },
    });
    assert_eq!(post(url.clone(), knobs).await.unwrap().status(), StatusCode::OK);
    let shown = client.http.get(&url).header("x-sandbox-control", "1").send().await.unwrap();
    let shown: Faults = shown.json().await.unwrap();
    assert_eq!(shown.introspect, Introspection::Status(503));
    assert_eq!(shown, client.sandbox.faults());
    let typo = post(url, json!({ "latency": 5 })).await.unwrap();
    assert_eq!(typo.status(), StatusCode::BAD_REQUEST);
    let odd = post(client.api("/sandbox/subject"), json!({ "subject": "urn:x" })).await.unwrap();
    assert_eq!(odd.status(), StatusCode::BAD_REQUEST);
    let reset = post(client.api("/sandbox/subject"), json!({ "subject": null })).await.unwrap();
    assert_eq!(reset.status(), StatusCode::OK);
    let counters = client
        .http
        .get(client.api("/sandbox/counters"))
        .header("x-sandbox-control", "1")
        .send()
        .await
        .unwrap();
    assert_eq!(counters.json::<Value>().await.unwrap()["api_requests"], 0);
    let revoked = post(client.api("/sandbox/revoke"), json!({})).await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn the_date_of_responses_can_be_wrong() {
    let client = TestClient::new().await;
    let date = async || {
        let response = client.http.head(client.api("/")).send().await.unwrap();
        let date = response.headers()["date"].to_str().unwrap().to_owned();
        jiff::fmt::rfc2822::parse(&date).unwrap().timestamp().as_second()
    };
    let real = date().await;
    client.sandbox.set_faults(Faults { date_offset_s: -86_400, ..Faults::default() });
    let wrong = date().await;
    assert!((real - 86_400..real).contains(&wrong), "{real} {wrong}");
}
