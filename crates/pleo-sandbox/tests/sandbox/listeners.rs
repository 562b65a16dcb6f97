//! The two listeners: hosts, ports, and the end.

use std::time::Duration;

use super::test_client::{TestClient, options};
use pleo_sandbox::{Options, Sandbox};
use reqwest::StatusCode;

#[tokio::test]
async fn only_loopback_hosts() {
    let client = TestClient::new().await;
    let root = client.http.get(client.api("/")).send().await.unwrap();
    assert!(root.text().await.unwrap().contains("sandbox"));
    for origin in [client.sandbox.auth, client.sandbox.files] {
        let url = format!("http://{origin}/");
        let foreign = client.http.get(&url).header("host", "rebound.example").send().await.unwrap();
        assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
        let other =
            client.http.get(&url).header("host", "localhost.evil.example").send().await.unwrap();
        assert_eq!(other.status(), StatusCode::FORBIDDEN);
    }
    let local =
        client.http.get(client.api("/")).header("host", "localhost:1").send().await.unwrap();
    assert_eq!(local.status(), StatusCode::OK);
}

#[tokio::test]
async fn taken_ports_fall_back_and_a_dropped_sandbox_is_gone() {
    let client = TestClient::new().await;
    let taken =
        Options { auth_addr: client.sandbox.auth, files_addr: client.sandbox.files, ..options() };
    let second = Sandbox::start(taken.clone()).await.unwrap();
    assert_ne!(second.auth, client.sandbox.auth);
    assert!(Sandbox::start(Options { fallback: false, ..taken }).await.is_err());
    let token = client.login().await.access;
    let mut stream = client.get(&token, "/v1/stream?events=1000&gap_ms=20").await;
    stream.chunk().await.unwrap();
    let (origin, http) = (client.sandbox.api_origin(), client.http.clone());
    drop(client);
    let rest = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(2), rest).await.expect("the open stream ends");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(http.get(origin).send().await.is_err());
}
