//! A login as a browser goes through it.

use reqwest::Method;
use serde_json::Value;
use url::Url;

use super::{Proxy, client, text};

/// Begins a login and returns the address that a person would open.
pub async fn begin_login(proxy: &Proxy, account: &str) -> Url {
    let response = proxy.admin(Method::POST, &format!("/api/accounts/{account}/login"), None).await;
    let status = response.status();
    let login: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{login}");
    text(&login["authorize_url"]).parse().unwrap()
}

/// Consents, and returns the address to which the authorization server redirects the browser.
pub async fn consent(url: &Url) -> Url {
    let response = client().get(url.clone()).send().await.unwrap();
    assert_eq!(response.status(), 302, "{url}");
    response.headers()["location"].to_str().unwrap().parse().unwrap()
}

/// Opens an address; status and content of the page.
pub async fn visit(url: impl reqwest::IntoUrl) -> (u16, String) {
    let page = client().get(url).send().await.unwrap();
    (page.status().as_u16(), page.text().await.unwrap())
}
