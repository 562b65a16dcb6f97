//! Refresh, expiry, revocation and introspection.

use std::time::Duration;

use super::test_client::*;
use pleo_sandbox::{COMPANY_ID, Faults, Introspection};
use reqwest::StatusCode;
use serde_json::{Value, json};

#[tokio::test]
async fn a_refresh_ends_the_old_access_token_and_a_replay_revokes_the_family() {
    let client = TestClient::new().await;
    let (first, bystander) = (client.login().await, client.login().await);
    let second = tokens_of(client.refresh(&first.refresh).await.unwrap()).await;
    assert_ne!(first.refresh, second.refresh);
    let old = client.get(&first.access, "/v1/introspect").await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED);
    assert!(old.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert_eq!(client.get(&second.access, "/v1/introspect").await.status(), StatusCode::OK);

    assert_eq!(error_code(client.refresh(&first.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(
        client.get(&second.access, "/v1/introspect").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(error_code(client.refresh(&second.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(client.get(&bystander.access, "/v1/introspect").await.status(), StatusCode::OK);
    let counters = client.sandbox.counters();
    assert_eq!(
        (counters.refreshes, counters.refresh_replays, counters.families_revoked),
        (1, 1, 1)
    );
    assert_eq!(counters.api_superseded, 1);
}

#[tokio::test]
async fn tokens_expire() {
    let client = TestClient::new().await;
    let lasting = client.login().await;
    assert_eq!(client.get(&lasting.access, "/v1/introspect").await.status(), StatusCode::OK);
    client.sandbox.set_faults(Faults {
        access_life_ms: Some(20),
        refresh_life_s: Some(0),
        ..Faults::default()
    });
    let tokens = client.login().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late: Value = client.json(&tokens.access, "/v1/introspect").await;
    assert_eq!(late, json!({ "type": "UNAUTHORIZED", "message": "JWT is expired" }));
    assert_eq!(error_code(client.refresh(&tokens.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(client.sandbox.counters().families_revoked, 1);
    assert_eq!(client.sandbox.counters().refresh_replays, 0);
}

#[tokio::test]
async fn introspection_and_its_faults() {
    let client = TestClient::new().await;
    let tokens = client.login().await;
    let access: Value = client.introspect(&tokens.access).await.unwrap().json().await.unwrap();
    assert_eq!(access["active"], true);
    assert_eq!(access["token_type"], "at+JWT");
    assert_eq!(access["exp"].as_i64().unwrap() - access["iat"].as_i64().unwrap(), 600);
    assert_eq!(
        access["urn:pleo:params:oauth:subject_urn"],
        format!("urn:pleo:company:{COMPANY_ID}")
    );
    let next = tokens_of(client.refresh(&tokens.refresh).await.unwrap()).await;
    for dead in [&tokens.access, &tokens.refresh] {
        let response: Value = client.introspect(dead).await.unwrap().json().await.unwrap();
        assert_eq!(response, json!({ "active": false }));
    }
    let set = |introspect| client.sandbox.set_faults(Faults { introspect, ..Faults::default() });
    set(Introspection::InactiveRefresh);
    let hidden: Value = client.introspect(&next.refresh).await.unwrap().json().await.unwrap();
    let shown: Value = client.introspect(&next.access).await.unwrap().json().await.unwrap();
    assert_eq!((hidden["active"].as_bool(), shown["active"].as_bool()), (Some(false), Some(true)));
    set(Introspection::Down);
    assert!(client.introspect(&next.refresh).await.is_err());
    set(Introspection::Status(503));
    assert_eq!(
        client.introspect(&next.refresh).await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let anonymous = client.http.post(client.sandbox.introspect_url()).form(&[("token", "x")]);
    set(Introspection::Normal);
    assert_eq!(anonymous.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_replay_after_a_lost_response_is_counted_apart() {
    let client = TestClient::new().await;
    let counted =
        || (client.sandbox.counters().refresh_replays, client.sandbox.counters().lost_replays);
    let lost = client.login().await;
    tokens_of(client.refresh(&lost.refresh).await.unwrap()).await;
    client.refresh(&lost.refresh).await.unwrap();
    assert_eq!(counted(), (1, 1), "nobody has used the new pair");

    let kept = client.login().await;
    let newer = tokens_of(client.refresh(&kept.refresh).await.unwrap()).await;
    client.get(&newer.access, "/v1/companies").await;
    client.refresh(&kept.refresh).await.unwrap();
    assert_eq!(counted(), (2, 1), "somebody has");

    let older = client.login().await;
    let newer = tokens_of(client.refresh(&older.refresh).await.unwrap()).await;
    tokens_of(client.refresh(&newer.refresh).await.unwrap()).await;
    client.refresh(&older.refresh).await.unwrap();
    assert_eq!(counted(), (3, 1), "two behind is no lost answer");
}

#[tokio::test]
async fn deleting_the_installation_ends_everything() {
    let client = TestClient::new().await;
    let (one, two) = (client.login().await, client.login().await);
    let me = client.json(&one.access, "/v1/installations/me").await;
    assert_eq!(me["resource"], format!("urn:pleo:company:{COMPANY_ID}"));
    let url = client.api("/v1/installations/me");
    let deleted = client.http.delete(&url).bearer_auth(&one.access).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(client.get(&two.access, "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(client.refresh(&two.refresh).await.unwrap()).await, "invalid_grant");
    let counters = client.sandbox.counters();
    assert_eq!((counters.families_revoked, counters.refresh_replays), (2, 0));
}

#[tokio::test]
async fn a_refresh_ends_the_tokens_of_another_login_of_the_company() {
    let client = TestClient::new().await;
    let subject = format!("urn:pleo:company:{}", pleo_sandbox::COMPANY_ID);
    client.sandbox.set_next_subject(Some(subject));
    let (first, second) = (client.login().await, client.login().await);
    client.sandbox.set_next_subject(None);
    let other_company = client.login().await;
    for tokens in [&first, &second] {
        let status = client.get(&tokens.access, "/v1/introspect").await.status();
        assert_eq!(status, StatusCode::OK, "a login ends nothing");
    }
    let newest = tokens_of(client.refresh(&second.refresh).await.unwrap()).await;
    let status = client.get(&first.access, "/v1/introspect").await.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(error_code(client.refresh(&first.refresh).await.unwrap()).await, "invalid_grant");
    let counters = client.sandbox.counters();
    assert_eq!((counters.families_superseded, counters.families_revoked), (1, 0));
    for tokens in [&newest, &other_company] {
        let status = client.get(&tokens.access, "/v1/introspect").await.status();
        assert_eq!(status, StatusCode::OK);
    }
}
