//! The authorize endpoint, the code flow and client authentication.

use super::test_client::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pleo_sandbox::{COMPANY_ID, ORGANISATION_ID, Options};
use reqwest::StatusCode;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

#[tokio::test]
async fn code_flow_with_pkce() {
    let client = TestClient::new().await;
    let back = client.authorize(&[]).await;
    assert_eq!(redirect_parameter(&back, "state").as_deref(), Some("st&te"));
    assert_eq!(redirect_parameter(&back, "iss"), Some(client.sandbox.api_origin()));
    let response = client.exchange(&redirect_parameter(&back, "code").unwrap()).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 600);
    assert_eq!(body["scope"], SCOPES);
    let token = body["access_token"].as_str().unwrap();
    assert!(token.starts_with("sbx-at-"));
    let me = client.json(token, "/v1/introspect").await;
    assert_eq!(me["data"]["subjectURN"], format!("urn:pleo:company:{COMPANY_ID}"));
    assert_eq!(me["data"]["scope"], SCOPES);
    let counters = client.sandbox.counters();
    assert_eq!((counters.codes_issued, counters.code_exchanges, counters.token_posts), (1, 1, 1));
}

#[tokio::test]
async fn wrong_verifier_redirect_and_reuse_are_refused() {
    let client = TestClient::new().await;
    let code = client.code().await;
    let other = "another-verifier-of-at-least-forty-three-characters";
    let base = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", REDIRECT_URI),
    ];
    let response = client.post(&[&base[..], &[("code_verifier", other)]].concat()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error_code(response).await, "invalid_grant");

    let code = client.code().await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", "http://127.0.0.1:9/other"),
    ];
    let response =
        client.post(&[&form[..], &[("code_verifier", VERIFIER)]].concat()).await.unwrap();
    assert_eq!(error_code(response).await, "invalid_grant");

    let code = client.code().await;
    let tokens = tokens_of(client.exchange(&code).await.unwrap()).await;
    assert_eq!(error_code(client.exchange(&code).await.unwrap()).await, "invalid_grant");
    assert_eq!(
        client.get(&tokens.access, "/v1/introspect").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(client.sandbox.counters().families_revoked, 1);
}

#[tokio::test]
async fn authorize_refuses_by_page_or_redirect() {
    let client = TestClient::new().await;
    for bad in
        [("client_id", "other"), ("redirect_uri", "https://evil.example/"), ("redirect_uri", "")]
    {
        let response = client.authorize(&[bad]).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{bad:?}");
    }
    for (name, value, wanted) in [
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge", "short", "invalid_request"),
        ("scope", "", "invalid_scope"),
        ("subject", "urn:pleo:company:none", "invalid_request"),
    ] {
        let response = client.authorize(&[(name, value)]).await;
        assert_eq!(redirect_parameter(&response, "error").as_deref(), Some(wanted), "{name}");
        assert_eq!(redirect_parameter(&response, "state").as_deref(), Some("st&te"));
    }
    let strict =
        Options { redirect_uris: vec!["https://app.example/back".to_owned()], ..options() };
    let strict = TestClient::with(strict).await;
    assert_eq!(strict.authorize(&[]).await.status(), StatusCode::BAD_REQUEST);
    let good = strict.authorize(&[("redirect_uri", "https://app.example/back")]).await;
    assert!(redirect_parameter(&good, "code").is_some());
}

#[tokio::test]
async fn consent_page_allows_denies_and_is_guarded() {
    let client = TestClient::with(Options { auto_consent: false, ..options() }).await;
    let page = client.authorize(&[("scope", "<b>\"x\"</b>")]).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert!(
        page.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'")
    );
    let html = page.text().await.unwrap();
    assert!(!html.contains("<b>\"x\"") && html.contains("&lt;b&gt;"));

    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let subject = format!("urn:pleo:organisation:{ORGANISATION_ID}");
    let form = |decision| {
        vec![
            ("response_type", "code"),
            ("client_id", "sandbox-client"),
            ("redirect_uri", REDIRECT_URI),
            ("scope", "companies:read"),
            ("state", "s"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
            ("subject", subject.as_str()),
            ("decision", decision),
        ]
    };
    let post = |decision| client.http.post(client.sandbox.authorize_url()).form(&form(decision));
    let denied = post("deny").send().await.unwrap();
    assert_eq!(redirect_parameter(&denied, "error").as_deref(), Some("access_denied"));
    assert_eq!(redirect_parameter(&denied, "state").as_deref(), Some("s"));
    let foreign = post("allow").header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let allowed = post("allow").header("origin", client.sandbox.api_origin()).send().await.unwrap();
    let tokens =
        tokens_of(client.exchange(&redirect_parameter(&allowed, "code").unwrap()).await.unwrap())
            .await;
    let companies = client.json(&tokens.access, "/v1/companies").await;
    assert_eq!(companies["pagination"]["total"], 2);
}

#[tokio::test]
async fn client_authentication() {
    let secret = "s+cr t%:ü";
    let client = TestClient::with(Options { client_secret: secret.to_owned(), ..options() }).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", "unknown")];
    let post = || client.http.post(client.sandbox.token_url()).form(&form);
    let wrong = post().basic_auth("sandbox-client", Some("nope")).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    assert_eq!(error_code(wrong).await, "invalid_client");
    // Let in means: refused for the unknown token only.
    let raw = post().basic_auth("sandbox-client", Some(secret)).send().await.unwrap();
    assert_eq!(error_code(raw).await, "invalid_grant");
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let encoded = post().basic_auth("sandbox-client", Some(encoded)).send().await.unwrap();
    assert_eq!(error_code(encoded).await, "invalid_grant");
    let in_body =
        [&form[..], &[("client_id", "sandbox-client"), ("client_secret", secret)]].concat();
    let body = client.http.post(client.sandbox.token_url()).form(&in_body);
    assert_eq!(error_code(body.try_clone().unwrap().send().await.unwrap()).await, "invalid_grant");
    let both = body.basic_auth("sandbox-client", Some(secret)).send().await.unwrap();
    assert_eq!(error_code(both).await, "invalid_request");
    let twice = [&in_body[..], &[("grant_type", "refresh_token")]].concat();
    let twice = client.http.post(client.sandbox.token_url()).form(&twice).send().await.unwrap();
    assert_eq!(error_code(twice).await, "invalid_request");
    let get = client.http.get(client.sandbox.token_url()).send().await.unwrap();
    assert_eq!(get.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(client.sandbox.counters().client_auth_failures, 1);
}
