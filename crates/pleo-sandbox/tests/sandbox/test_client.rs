//! A sandbox and a client of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pleo_sandbox::{ApiFault, Faults, Options, Sandbox, TokenFault};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-~";

/// All scopes that Pleo publishes.
pub(super) const SCOPES: &str = "companies:read users:read export-jobs:read export-jobs:write \
    export-items:read vendors:read vendors:write accounts:read accounts:write tag-groups:read \
    tag-groups:write tax-codes:read tax-codes:write";

pub(super) const REDIRECT_URI: &str = "http://127.0.0.1:9/callback";

pub(super) fn http_client() -> Client {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

pub(super) fn options() -> Options {
    let any = "127.0.0.1:0".parse().unwrap();
    Options { auth_addr: any, files_addr: any, auto_consent: true, ..Options::default() }
}

/// A sandbox and a client of it.
pub(super) struct TestClient {
    pub(super) sandbox: Sandbox,
    pub(super) http: Client,
}

/// The tokens of one answer.
#[derive(Clone)]
pub(super) struct Tokens {
    pub(super) access: String,
    pub(super) refresh: String,
}

impl TestClient {
    pub(super) async fn new() -> Self {
        Self::with(options()).await
    }

    pub(super) async fn with(options: Options) -> Self {
        Self { sandbox: Sandbox::start(options).await.unwrap(), http: http_client() }
    }

    pub(super) fn api(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.api_origin())
    }

    pub(super) async fn authorize(&self, extra: &[(&str, &str)]) -> Response {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut url = url::Url::parse(&self.sandbox.authorize_url()).unwrap();
        let base = [
            ("response_type", "code"),
            ("client_id", "sandbox-client"),
            ("redirect_uri", REDIRECT_URI),
            ("scope", SCOPES),
            ("state", "st&te"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        for (name, value) in base {
            if !extra.iter().any(|(other, _)| *other == name) {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        url.query_pairs_mut().extend_pairs(extra.iter().filter(|(_, value)| !value.is_empty()));
        self.http.get(url).send().await.unwrap()
    }

    pub(super) async fn code(&self) -> String {
        redirect_parameter(&self.authorize(&[]).await, "code").unwrap()
    }

    pub(super) async fn post(&self, form: &[(&str, &str)]) -> reqwest::Result<Response> {
        let request = self
            .http
            .post(self.sandbox.token_url())
            .basic_auth("sandbox-client", Some("sandbox-secret"));
        request.form(form).send().await
    }

    pub(super) async fn exchange(&self, code: &str) -> reqwest::Result<Response> {
        let form =
            [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", REDIRECT_URI)];
        self.post(&[&form[..], &[("code_verifier", VERIFIER)]].concat()).await
    }

    pub(super) async fn refresh(&self, token: &str) -> reqwest::Result<Response> {
        self.post(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    pub(super) async fn login(&self) -> Tokens {
        tokens_of(self.exchange(&self.code().await).await.unwrap()).await
    }

    /// A login with these scopes only.
    pub(super) async fn login_with(&self, scopes: &str) -> Tokens {
        let response = self.authorize(&[("scope", scopes)]).await;
        let code = redirect_parameter(&response, "code").unwrap();
        tokens_of(self.exchange(&code).await.unwrap()).await
    }

    /// Sends a request, with a JSON body unless it is null; returns the status and the JSON of the
    /// response, null if it is empty.
    pub(super) async fn send(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, self.api(path)).bearer_auth(token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.bytes().await.unwrap();
        let body =
            if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        (status, body)
    }

    pub(super) async fn get(&self, token: &str, path: &str) -> Response {
        self.http.get(self.api(path)).bearer_auth(token).send().await.unwrap()
    }

    pub(super) async fn json(&self, token: &str, path: &str) -> Value {
        self.get(token, path).await.json().await.unwrap()
    }

    pub(super) async fn search(&self, token: &str, query: &str) -> Value {
        let url = self.api(&format!("/v1/accounting-entries:search?{query}"));
        let request =
            self.http.post(url).bearer_auth(token).json(&json!({ "includeDeleted": false }));
        request.send().await.unwrap().json().await.unwrap()
    }

    pub(super) async fn introspect(&self, token: &str) -> reqwest::Result<Response> {
        let request = self
            .http
            .post(self.sandbox.introspect_url())
            .basic_auth("sandbox-client", Some("sandbox-secret"));
        request.form(&[("token", token)]).send().await
    }

    pub(super) fn token_fault(&self, fault: TokenFault) {
        self.sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    }

    pub(super) fn api_fault(&self, fault: ApiFault) {
        self.sandbox.set_faults(Faults { api_answer: Some(fault), ..Faults::default() });
    }
}

pub(super) async fn tokens_of(response: Response) -> Tokens {
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    Tokens {
        access: body["access_token"].as_str().unwrap().to_owned(),
        refresh: body["refresh_token"].as_str().unwrap_or_default().to_owned(),
    }
}

/// A field of the URL a redirect leads to.
pub(super) fn redirect_parameter(response: &Response, name: &str) -> Option<String> {
    assert_eq!(response.status(), StatusCode::FOUND);
    let url = url::Url::parse(response.headers()["location"].to_str().unwrap()).unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

pub(super) async fn error_code(response: Response) -> String {
    response.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_owned()
}

/// A text in a JSON answer.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
