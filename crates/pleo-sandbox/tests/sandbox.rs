//! The sandbox from outside: everything a client of Pleo relies on, and every knob.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pleo_sandbox::{
    ApiFault, ApiFaultKind, COMPANY_ID, ExpiresIn, Faults, GrantType, Introspection,
    ORGANISATION_ID, Options, SECOND_COMPANY_ID, Sandbox, TokenFault, TokenFaultKind,
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-~";
const BACK: &str = "http://127.0.0.1:9/callback";

fn client() -> Client {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

fn options() -> Options {
    let any = "127.0.0.1:0".parse().unwrap();
    Options { auth_addr: any, files_addr: any, auto_consent: true, ..Options::default() }
}

/// A sandbox and a client of it.
struct Bench {
    sandbox: Sandbox,
    http: Client,
}

/// The tokens of one answer.
#[derive(Clone)]
struct Pair {
    access: String,
    refresh: String,
}

impl Bench {
    async fn new() -> Self {
        Self::with(options()).await
    }

    async fn with(options: Options) -> Self {
        Self { sandbox: Sandbox::start(options).await.unwrap(), http: client() }
    }

    fn api(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.api_origin())
    }

    async fn authorize(&self, extra: &[(&str, &str)]) -> Response {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let mut url = url::Url::parse(&self.sandbox.authorize_url()).unwrap();
        let base = [
            ("response_type", "code"),
            ("client_id", "sandbox-client"),
            ("redirect_uri", BACK),
            ("scope", "users:read vendors:write"),
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

    async fn code(&self) -> String {
        field(&self.authorize(&[]).await, "code").unwrap()
    }

    async fn post(&self, form: &[(&str, &str)]) -> reqwest::Result<Response> {
        let request = self
            .http
            .post(self.sandbox.token_url())
            .basic_auth("sandbox-client", Some("sandbox-secret"));
        request.form(form).send().await
    }

    async fn exchange(&self, code: &str) -> reqwest::Result<Response> {
        let form = [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", BACK)];
        self.post(&[&form[..], &[("code_verifier", VERIFIER)]].concat()).await
    }

    async fn refresh(&self, token: &str) -> reqwest::Result<Response> {
        self.post(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn login(&self) -> Pair {
        pair(self.exchange(&self.code().await).await.unwrap()).await
    }

    async fn get(&self, token: &str, path: &str) -> Response {
        self.http.get(self.api(path)).bearer_auth(token).send().await.unwrap()
    }

    async fn json(&self, token: &str, path: &str) -> Value {
        self.get(token, path).await.json().await.unwrap()
    }

    async fn search(&self, token: &str, query: &str) -> Value {
        let url = self.api(&format!("/v1/accounting-entries:search?{query}"));
        let request =
            self.http.post(url).bearer_auth(token).json(&json!({ "includeDeleted": false }));
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn introspect(&self, token: &str) -> reqwest::Result<Response> {
        let request = self
            .http
            .post(self.sandbox.introspect_url())
            .basic_auth("sandbox-client", Some("sandbox-secret"));
        request.form(&[("token", token)]).send().await
    }

    fn token_fault(&self, fault: TokenFault) {
        self.sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    }

    fn api_fault(&self, fault: ApiFault) {
        self.sandbox.set_faults(Faults { api_answer: Some(fault), ..Faults::default() });
    }
}

async fn pair(response: Response) -> Pair {
    assert_eq!(response.status(), StatusCode::OK);
    let body: Value = response.json().await.unwrap();
    Pair {
        access: body["access_token"].as_str().unwrap().to_owned(),
        refresh: body["refresh_token"].as_str().unwrap_or_default().to_owned(),
    }
}

/// A field of the URL a redirect leads to.
fn field(response: &Response, name: &str) -> Option<String> {
    assert_eq!(response.status(), StatusCode::FOUND);
    let url = url::Url::parse(response.headers()["location"].to_str().unwrap()).unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

async fn error(response: Response) -> String {
    response.json::<Value>().await.unwrap()["error"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn code_flow_with_pkce() {
    let bench = Bench::new().await;
    let back = bench.authorize(&[]).await;
    assert_eq!(field(&back, "state").as_deref(), Some("st&te"));
    assert_eq!(field(&back, "iss"), Some(bench.sandbox.api_origin()));
    let answer = bench.exchange(&field(&back, "code").unwrap()).await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 600);
    assert_eq!(body["scope"], "users:read vendors:write");
    let token = body["access_token"].as_str().unwrap();
    assert!(token.starts_with("sbx-at-"));
    let me = bench.json(token, "/v1/introspect").await;
    assert_eq!(me["data"]["subjectURN"], format!("urn:pleo:company:{COMPANY_ID}"));
    assert_eq!(me["data"]["scope"], "users:read vendors:write");
    let counters = bench.sandbox.counters();
    assert_eq!((counters.codes_issued, counters.code_exchanges, counters.token_posts), (1, 1, 1));
}

#[tokio::test]
async fn wrong_verifier_redirect_and_reuse_are_refused() {
    let bench = Bench::new().await;
    let code = bench.code().await;
    let other = "another-verifier-of-at-least-forty-three-characters";
    let base =
        [("grant_type", "authorization_code"), ("code", code.as_str()), ("redirect_uri", BACK)];
    let answer = bench.post(&[&base[..], &[("code_verifier", other)]].concat()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(error(answer).await, "invalid_grant");

    let code = bench.code().await;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", "http://127.0.0.1:9/other"),
    ];
    let answer = bench.post(&[&form[..], &[("code_verifier", VERIFIER)]].concat()).await.unwrap();
    assert_eq!(error(answer).await, "invalid_grant");

    let code = bench.code().await;
    let tokens = pair(bench.exchange(&code).await.unwrap()).await;
    assert_eq!(error(bench.exchange(&code).await.unwrap()).await, "invalid_grant");
    assert_eq!(
        bench.get(&tokens.access, "/v1/introspect").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(bench.sandbox.counters().families_revoked, 1);
}

#[tokio::test]
async fn authorize_refuses_by_page_or_redirect() {
    let bench = Bench::new().await;
    for bad in
        [("client_id", "other"), ("redirect_uri", "https://evil.example/"), ("redirect_uri", "")]
    {
        let answer = bench.authorize(&[bad]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{bad:?}");
    }
    for (name, value, wanted) in [
        ("response_type", "token", "unsupported_response_type"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge", "short", "invalid_request"),
        ("scope", "", "invalid_scope"),
        ("subject", "urn:pleo:company:none", "invalid_request"),
    ] {
        let answer = bench.authorize(&[(name, value)]).await;
        assert_eq!(field(&answer, "error").as_deref(), Some(wanted), "{name}");
        assert_eq!(field(&answer, "state").as_deref(), Some("st&te"));
    }
    let strict =
        Options { redirect_uris: vec!["https://app.example/back".to_owned()], ..options() };
    let strict = Bench::with(strict).await;
    assert_eq!(strict.authorize(&[]).await.status(), StatusCode::BAD_REQUEST);
    let good = strict.authorize(&[("redirect_uri", "https://app.example/back")]).await;
    assert!(field(&good, "code").is_some());
}

#[tokio::test]
async fn consent_page_allows_denies_and_is_guarded() {
    let bench = Bench::with(Options { auto_consent: false, ..options() }).await;
    let page = bench.authorize(&[("scope", "<b>\"x\"</b>")]).await;
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
            ("redirect_uri", BACK),
            ("scope", "x"),
            ("state", "s"),
            ("code_challenge", challenge.as_str()),
            ("code_challenge_method", "S256"),
            ("subject", subject.as_str()),
            ("decision", decision),
        ]
    };
    let post = |decision| bench.http.post(bench.sandbox.authorize_url()).form(&form(decision));
    let denied = post("deny").send().await.unwrap();
    assert_eq!(field(&denied, "error").as_deref(), Some("access_denied"));
    assert_eq!(field(&denied, "state").as_deref(), Some("s"));
    let foreign = post("allow").header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let allowed = post("allow").header("origin", bench.sandbox.api_origin()).send().await.unwrap();
    let tokens = pair(bench.exchange(&field(&allowed, "code").unwrap()).await.unwrap()).await;
    let companies = bench.json(&tokens.access, "/v1/companies").await;
    assert_eq!(companies["pagination"]["total"], 2);
}

#[tokio::test]
async fn client_authentication() {
    let secret = "s+cr t%:ü";
    let bench = Bench::with(Options { client_secret: secret.to_owned(), ..options() }).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", "unknown")];
    let post = || bench.http.post(bench.sandbox.token_url()).form(&form);
    let wrong = post().basic_auth("sandbox-client", Some("nope")).send().await.unwrap();
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert!(wrong.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    assert_eq!(error(wrong).await, "invalid_client");
    // Let in means: refused for the unknown token only.
    let raw = post().basic_auth("sandbox-client", Some(secret)).send().await.unwrap();
    assert_eq!(error(raw).await, "invalid_grant");
    let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let encoded = post().basic_auth("sandbox-client", Some(encoded)).send().await.unwrap();
    assert_eq!(error(encoded).await, "invalid_grant");
    let in_body =
        [&form[..], &[("client_id", "sandbox-client"), ("client_secret", secret)]].concat();
    let body = bench.http.post(bench.sandbox.token_url()).form(&in_body);
    assert_eq!(error(body.try_clone().unwrap().send().await.unwrap()).await, "invalid_grant");
    let both = body.basic_auth("sandbox-client", Some(secret)).send().await.unwrap();
    assert_eq!(error(both).await, "invalid_request");
    let twice = [&in_body[..], &[("grant_type", "refresh_token")]].concat();
    let twice = bench.http.post(bench.sandbox.token_url()).form(&twice).send().await.unwrap();
    assert_eq!(error(twice).await, "invalid_request");
    let get = bench.http.get(bench.sandbox.token_url()).send().await.unwrap();
    assert_eq!(get.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(bench.sandbox.counters().client_auth_failures, 1);
}

#[tokio::test]
async fn rotation_kills_the_old_access_token_and_replay_the_family() {
    let bench = Bench::new().await;
    let (first, bystander) = (bench.login().await, bench.login().await);
    let second = pair(bench.refresh(&first.refresh).await.unwrap()).await;
    assert_ne!(first.refresh, second.refresh);
    let old = bench.get(&first.access, "/v1/introspect").await;
    assert_eq!(old.status(), StatusCode::UNAUTHORIZED);
    assert!(old.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    assert_eq!(bench.get(&second.access, "/v1/introspect").await.status(), StatusCode::OK);

    assert_eq!(error(bench.refresh(&first.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(
        bench.get(&second.access, "/v1/introspect").await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(error(bench.refresh(&second.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(bench.get(&bystander.access, "/v1/introspect").await.status(), StatusCode::OK);
    let counters = bench.sandbox.counters();
    assert_eq!(
        (counters.refreshes, counters.refresh_replays, counters.families_revoked),
        (1, 1, 1)
    );
    assert_eq!(counters.api_superseded, 1);
}

#[tokio::test]
async fn tokens_expire() {
    let bench = Bench::new().await;
    bench.sandbox.set_faults(Faults {
        access_life_ms: Some(150),
        refresh_life_s: Some(0),
        ..Faults::default()
    });
    let tokens = bench.login().await;
    assert_eq!(bench.get(&tokens.access, "/v1/introspect").await.status(), StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late: Value = bench.json(&tokens.access, "/v1/introspect").await;
    assert_eq!(late, json!({ "type": "UNAUTHORIZED", "message": "JWT is expired" }));
    assert_eq!(error(bench.refresh(&tokens.refresh).await.unwrap()).await, "invalid_grant");
    assert_eq!(bench.sandbox.counters().families_revoked, 1);
    assert_eq!(bench.sandbox.counters().refresh_replays, 0);
}

#[tokio::test]
async fn introspection_and_its_faults() {
    let bench = Bench::new().await;
    let tokens = bench.login().await;
    let access: Value = bench.introspect(&tokens.access).await.unwrap().json().await.unwrap();
    assert_eq!(access["active"], true);
    assert_eq!(access["token_type"], "at+JWT");
    assert_eq!(access["exp"].as_i64().unwrap() - access["iat"].as_i64().unwrap(), 600);
    assert_eq!(
        access["urn:pleo:params:oauth:subject_urn"],
        format!("urn:pleo:company:{COMPANY_ID}")
    );
    let next = pair(bench.refresh(&tokens.refresh).await.unwrap()).await;
    for dead in [&tokens.access, &tokens.refresh] {
        let answer: Value = bench.introspect(dead).await.unwrap().json().await.unwrap();
        assert_eq!(answer, json!({ "active": false }));
    }
    let set = |introspect| bench.sandbox.set_faults(Faults { introspect, ..Faults::default() });
    set(Introspection::InactiveRefresh);
    let hidden: Value = bench.introspect(&next.refresh).await.unwrap().json().await.unwrap();
    let shown: Value = bench.introspect(&next.access).await.unwrap().json().await.unwrap();
    assert_eq!((hidden["active"].as_bool(), shown["active"].as_bool()), (Some(false), Some(true)));
    set(Introspection::Down);
    assert!(bench.introspect(&next.refresh).await.is_err());
    set(Introspection::Status(503));
    assert_eq!(
        bench.introspect(&next.refresh).await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    let anonymous = bench.http.post(bench.sandbox.introspect_url()).form(&[("token", "x")]);
    set(Introspection::Normal);
    assert_eq!(anonymous.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn token_answers_in_other_shapes() {
    let bench = Bench::new().await;
    let mut tokens = bench.login().await;
    for (expires_in, wanted) in [
        (ExpiresIn::Seconds, json!(600)),
        (ExpiresIn::Milliseconds, json!(600_000)),
        (ExpiresIn::String, json!("600")),
        (ExpiresIn::Float, json!(600.0)),
        (ExpiresIn::Missing, Value::Null),
        (ExpiresIn::Zero, json!(0)),
        (ExpiresIn::Negative, json!(-1)),
    ] {
        bench.sandbox.set_faults(Faults { expires_in, ..Faults::default() });
        let body: Value = bench.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
        assert_eq!(body["expires_in"], wanted);
        tokens.refresh = body["refresh_token"].as_str().unwrap().to_owned();
    }
    bench.sandbox.set_faults(Faults {
        scope_plus: true,
        token_type: Some(String::new()),
        omit_refresh_token: true,
        ..Faults::default()
    });
    for _ in 0..2 {
        let body: Value = bench.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
        assert_eq!(body["scope"], "users:read+vendors:write");
        assert!(body.get("token_type").is_none() && body.get("refresh_token").is_none());
    }
    bench.sandbox.set_faults(Faults {
        scope_missing: true,
        token_type: Some("mac".to_owned()),
        ..Faults::default()
    });
    let body: Value = bench.refresh(&tokens.refresh).await.unwrap().json().await.unwrap();
    assert!(body.get("scope").is_none());
    assert_eq!(body["token_type"], "mac");
}

#[tokio::test]
async fn lost_answers_before_and_after_the_work() {
    let bench = Bench::new().await;
    let tokens = bench.login().await;
    let lost = |work| TokenFault {
        kind: TokenFaultKind::Lost,
        work,
        count: Some(1),
        ..TokenFault::default()
    };
    bench.token_fault(lost(false));
    assert!(bench.refresh(&tokens.refresh).await.is_err());
    let next = pair(bench.refresh(&tokens.refresh).await.unwrap()).await;
    bench.token_fault(lost(true));
    assert!(bench.refresh(&next.refresh).await.is_err());
    assert_eq!(bench.sandbox.counters().refreshes, 2);
    assert_eq!(error(bench.refresh(&next.refresh).await.unwrap()).await, "invalid_grant");
}

#[tokio::test]
async fn other_token_faults() {
    let bench = Bench::new().await;
    let tokens = bench.login().await;
    let fault = |kind| TokenFault { kind, ..TokenFault::default() };
    bench.token_fault(TokenFault {
        retry_after: Some("5".to_owned()),
        ..fault(TokenFaultKind::Status)
    });
    let answer = bench.refresh(&tokens.refresh).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "5");
    for code in ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_refresh_token"]
    {
        bench.token_fault(TokenFault {
            error: Some(code.to_owned()),
            ..fault(TokenFaultKind::Error)
        });
        assert_eq!(error(bench.refresh(&tokens.refresh).await.unwrap()).await, code);
    }
    bench.token_fault(fault(TokenFaultKind::ErrorIn200));
    let answer = bench.refresh(&tokens.refresh).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(error(answer).await, "server_error");
    bench.token_fault(fault(TokenFaultKind::Html));
    let answer = bench.refresh(&tokens.refresh).await.unwrap();
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    bench.token_fault(fault(TokenFaultKind::Huge));
    let huge = bench.refresh(&tokens.refresh).await.unwrap().bytes().await.unwrap();
    assert!(huge.len() > 10 << 20);
    bench.token_fault(fault(TokenFaultKind::Hang));
    let hung =
        tokio::time::timeout(Duration::from_millis(200), bench.refresh(&tokens.refresh)).await;
    assert!(hung.is_err());
    bench.token_fault(TokenFault { count: Some(1), ..fault(TokenFaultKind::Truncated) });
    let answer = bench.refresh(&tokens.refresh).await.unwrap();
    let promised = answer.content_length().unwrap();
    assert!(promised > 100 && answer.bytes().await.is_err());
    assert_eq!(bench.sandbox.counters().refreshes, 1);
    assert_eq!(error(bench.refresh(&tokens.refresh).await.unwrap()).await, "invalid_grant");
}

#[tokio::test]
async fn a_fault_may_mean_one_grant_type_only() {
    let bench = Bench::new().await;
    let only_grant = Some(GrantType::RefreshToken);
    bench.token_fault(TokenFault {
        kind: TokenFaultKind::Status,
        only_grant,
        count: Some(2),
        ..TokenFault::default()
    });
    let tokens = bench.login().await;
    for _ in 0..2 {
        assert_eq!(
            bench.refresh(&tokens.refresh).await.unwrap().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(bench.sandbox.faults().token_answer.unwrap().count, Some(0));
    pair(bench.refresh(&tokens.refresh).await.unwrap()).await;
}

#[tokio::test]
async fn a_fault_may_mean_one_authorization_only() {
    let bench = Bench::new().await;
    let (first, second) = (bench.login().await, bench.login().await);
    bench.token_fault(TokenFault {
        kind: TokenFaultKind::Status,
        only_family: Some(1),
        ..TokenFault::default()
    });
    let first = pair(bench.refresh(&first.refresh).await.unwrap()).await;
    assert_eq!(
        bench.refresh(&second.refresh).await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    pair(bench.refresh(&first.refresh).await.unwrap()).await;
    bench.login().await;
    assert_eq!(bench.sandbox.counters().token_faults, 1);
}

#[tokio::test]
async fn a_replay_after_a_lost_answer_is_told_from_others() {
    let bench = Bench::new().await;
    let counted =
        || (bench.sandbox.counters().refresh_replays, bench.sandbox.counters().lost_replays);
    let lost = bench.login().await;
    pair(bench.refresh(&lost.refresh).await.unwrap()).await;
    bench.refresh(&lost.refresh).await.unwrap();
    assert_eq!(counted(), (1, 1), "nobody has used the new pair");

    let kept = bench.login().await;
    let newer = pair(bench.refresh(&kept.refresh).await.unwrap()).await;
    bench.get(&newer.access, "/v1/companies").await;
    bench.refresh(&kept.refresh).await.unwrap();
    assert_eq!(counted(), (2, 1), "somebody has");

    let older = bench.login().await;
    let newer = pair(bench.refresh(&older.refresh).await.unwrap()).await;
    pair(bench.refresh(&newer.refresh).await.unwrap()).await;
    bench.refresh(&older.refresh).await.unwrap();
    assert_eq!(counted(), (3, 1), "two behind is no lost answer");
}

#[tokio::test]
async fn the_work_is_done_although_the_caller_left() {
    let bench = Bench::new().await;
    let tokens = bench.login().await;
    bench.sandbox.set_faults(Faults { token_latency_before_ms: 200, ..Faults::default() });
    let gone =
        tokio::time::timeout(Duration::from_millis(80), bench.refresh(&tokens.refresh)).await;
    assert!(gone.is_err());
    assert_eq!(bench.sandbox.counters().refreshes, 0);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.sandbox.counters().refreshes, 1);
    bench.sandbox.set_faults(Faults { token_latency_after_ms: 100, ..Faults::default() });
    let started = std::time::Instant::now();
    bench.login().await;
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn api_faults() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    bench.sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    assert_eq!(bench.get(&token, "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bench.get(&token, "/v1/introspect").await.status(), StatusCode::OK);
    let limited = ApiFault {
        status: Some(429),
        retry_after: Some("1".to_owned()),
        count: Some(1),
        ..ApiFault::default()
    };
    bench.api_fault(limited);
    let answer = bench.get(&token, "/v1/introspect").await;
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert_eq!(bench.get(&token, "/v1/introspect").await.status(), StatusCode::OK);
    bench.api_fault(ApiFault { status: Some(502), body_html: true, ..ApiFault::default() });
    let answer = bench.get(&token, "/v1/introspect").await;
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    bench.api_fault(ApiFault { kind: ApiFaultKind::Drop, ..ApiFault::default() });
    assert!(bench.http.get(bench.api("/v1/introspect")).bearer_auth(&token).send().await.is_err());
    bench.api_fault(ApiFault { kind: ApiFaultKind::ResetMidBody, ..ApiFault::default() });
    let answer = bench.get(&token, "/v1/companies").await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.bytes().await.is_err());
    bench.api_fault(ApiFault {
        kind: ApiFaultKind::SlowBody,
        slow_body_ms: 40,
        ..ApiFault::default()
    });
    let started = std::time::Instant::now();
    let body: Value = bench.json(&token, "/v1/companies").await;
    assert!(body["data"].is_array() && started.elapsed() >= Duration::from_millis(120));
    bench.sandbox.set_faults(Faults { latency_ms: 80, ..Faults::default() });
    let started = std::time::Instant::now();
    bench.get(&token, "/v1/introspect").await;
    assert!(started.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn bearer_is_required_and_only_one() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let url = bench.api("/v1/introspect");
    assert_eq!(bench.http.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let twice = bench
        .http
        .get(&url)
        .bearer_auth(&token)
        .header("authorization", "Bearer x")
        .send()
        .await
        .unwrap();
    assert_eq!(twice.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(bench.get("guess", "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    let counters = bench.sandbox.counters();
    assert_eq!(
        (counters.api_requests, counters.api_unauthorized, counters.api_double_authorization),
        (3, 3, 1)
    );
    assert_eq!(counters.last_authorization_header_ok, Some(false));
    let unknown = bench.get(&token, "/v1/expenses").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(unknown.json::<Value>().await.unwrap()["type"], "NOT_FOUND");
    let method =
        bench.http.delete(bench.api("/v1/companies")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(method.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn entries_page_to_the_end_and_back() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let base =
        format!("company_id={COMPANY_ID}&limit=10&sorting_keys=performedAt&sorting_order=DESC");
    let (mut seen, mut query) = (Vec::new(), base.clone());
    let last = loop {
        let page = bench.search(&token, &query).await;
        let rows = page["data"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row["performedAt"].as_str().unwrap().to_owned()));
        let info = page["pagination"].clone();
        assert_eq!(info["total"], 45);
        let cursor = info["endCursor"].as_str().unwrap();
        assert!(
            cursor.ends_with('=')
                && cursor.bytes().all(|b| b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=".contains(&b))
        );
        if info["hasNextPage"] == false {
            break info;
        }
        query = format!("{base}&after={cursor}");
    };
    assert_eq!(seen.len(), 45);
    assert!(seen.is_sorted_by(|a, b| a > b));
    let before = last["startCursor"].as_str().unwrap().replace('=', "%3D");
    let back = bench.search(&token, &format!("{base}&before={before}")).await;
    assert_eq!(back["data"][0]["performedAt"], seen[30]);
    assert_eq!(
        back["pagination"]["currentRequestPagination"]["parameters"]["company_id"][0],
        COMPANY_ID
    );
    for bad in
        ["limit=0", "limit=101", "after=AAAA====", "sorting_keys=nonsense", "after=A&before=B"]
    {
        let answer = bench.search(&token, &format!("company_id={COMPANY_ID}&{bad}")).await;
        assert_eq!(answer["type"], "PARAMETER_VALIDATION_FAILED", "{bad}");
    }
}

#[tokio::test]
async fn search_needs_company_and_include_deleted() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    assert_eq!(bench.search(&token, "").await["type"], "VALIDATION_FAILED");
    assert_eq!(
        bench.search(&token, &format!("company_id={SECOND_COMPANY_ID}")).await["type"],
        "ACCESS_DENIED"
    );
    let url = bench.api(&format!("/v1/accounting-entries:search?company_id={COMPANY_ID}"));
    let post = |body: Value| bench.http.post(&url).bearer_auth(&token).json(&body).send();
    assert_eq!(post(json!({})).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let all: Value = post(json!({ "includeDeleted": true })).await.unwrap().json().await.unwrap();
    assert_eq!(all["pagination"]["total"], 47);
    assert_eq!(all["data"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn another_subject_sees_other_data() {
    let bench = Bench::new().await;
    let urn = format!("urn:pleo:company:{SECOND_COMPANY_ID}");
    let code = field(&bench.authorize(&[("subject", &urn)]).await, "code").unwrap();
    let second = pair(bench.exchange(&code).await.unwrap()).await.access;
    assert_eq!(bench.json(&second, "/v1/companies").await["data"][0]["id"], SECOND_COMPANY_ID);
    assert_eq!(
        bench.get(&second, &format!("/v1/companies/{COMPANY_ID}")).await.status(),
        StatusCode::NOT_FOUND
    );
    bench.sandbox.set_next_subject(Some(format!("urn:pleo:organisation:{ORGANISATION_ID}")));
    let both = bench.login().await.access;
    assert_eq!(
        bench.search(&both, &format!("organization_id={ORGANISATION_ID}")).await["pagination"]["total"],
        57
    );
    assert_eq!(bench.json(&both, "/v2/employees").await["pagination"]["total"], 5);
    let mine =
        bench.json(&both, &format!("/v2/employees?companyId={SECOND_COMPANY_ID}&limit=1")).await;
    assert_eq!(
        (&mine["pagination"]["total"], &mine["pagination"]["hasNextPage"]),
        (&json!(2), &json!(true))
    );
}

#[tokio::test]
async fn receipts_are_presigned_files_elsewhere() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let page = bench.search(&token, &format!("company_id={COMPANY_ID}&limit=100")).await;
    let with_receipt = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["receiptIds"][1].is_string())
        .unwrap();
    let entry = with_receipt["id"].as_str().unwrap();
    assert_eq!(
        bench.json(&token, &format!("/v1/accounting-entries/{entry}")).await["data"],
        *with_receipt
    );
    let receipts = bench.json(&token, &format!("/v1/accounting-entries/{entry}/receipts")).await;
    let receipt = &receipts["data"][0];
    let url = receipt["url"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("http://{}/", bench.sandbox.files))
            && url.contains("X-Signature=")
    );
    let file = bench.http.get(url).send().await.unwrap();
    assert_eq!(file.status(), StatusCode::OK);
    assert_eq!(file.bytes().await.unwrap().len() as u64, receipt["sizeInBytes"].as_u64().unwrap());
    let with_token = bench.http.get(url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(with_token.status(), StatusCode::BAD_REQUEST);
    let forged = url.replace("X-Expires=", "X-Expires=1");
    assert_eq!(bench.http.get(forged).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(bench.sandbox.counters().files_with_authorization, 1);
}

#[tokio::test]
async fn export_jobs() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let entries = bench.search(&token, &format!("company_id={COMPANY_ID}&limit=2")).await;
    let ids = [&entries["data"][0]["id"], &entries["data"][1]["id"]];
    let url = bench.api("/v3/export-jobs");
    let body = json!({ "companyId": COMPANY_ID, "accountingEntryIds": ids });
    let made = bench.http.post(&url).bearer_auth(&token).json(&body).send().await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let job = made.json::<Value>().await.unwrap()["data"]["id"].as_str().unwrap().to_owned();
    assert_eq!(bench.json(&token, "/v3/export-jobs").await["pagination"]["total"], 2);
    let items = format!("{url}/{job}/items");
    let changes =
        json!([{ "accountingEntryId": ids[0], "status": "successful" }, { "status": "odd" }]);
    let put: Value = bench
        .http
        .put(&items)
        .bearer_auth(&token)
        .json(&changes)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(put["data"][0]["status"], "successful");
    assert_eq!(put["errors"].as_array().unwrap().len(), 1);
    assert_eq!(
        bench.json(&token, &format!("/v3/export-jobs/{job}/items")).await["pagination"]["total"],
        2
    );
    assert_eq!(
        bench.json(&token, &format!("/v3/export-jobs/{job}")).await["data"]["numberOfItems"],
        2
    );
}

#[tokio::test]
async fn vendors() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let post = |path: String, body: Value| {
        bench.http.post(bench.api(&path)).bearer_auth(&token).json(&body).send()
    };
    let made = post("/v1/vendors".to_owned(), json!({ "name": "Mill" })).await.unwrap();
    assert_eq!(made.status(), StatusCode::CREATED);
    let id = made.json::<Value>().await.unwrap()["data"]["id"].as_str().unwrap().to_owned();
    let again = post("/v1/vendors".to_owned(), json!({ "name": "Mill" })).await.unwrap();
    assert_eq!(again.status(), StatusCode::CONFLICT);
    for (action, status) in [("archive", "ARCHIVED"), ("activate", "ACTIVE")] {
        let answer = post(format!("/v1/vendors/{id}:{action}"), json!({})).await.unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["data"]["status"], status);
    }
    let unknown = post(format!("/v1/vendors/{id}:explode"), json!({})).await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    let found =
        post(format!("/v1/vendors:search?company_id={COMPANY_ID}"), json!({ "name": "Mill" }))
            .await
            .unwrap();
    assert_eq!(found.json::<Value>().await.unwrap()["pagination"]["total"], 1);
    assert_eq!(bench.json(&token, &format!("/v1/vendors/{id}")).await["data"]["name"], "Mill");
}

#[tokio::test]
async fn deleting_the_installation_ends_everything() {
    let bench = Bench::new().await;
    let (one, two) = (bench.login().await, bench.login().await);
    let me = bench.json(&one.access, "/v1/installations/me").await;
    assert_eq!(me["resource"], format!("urn:pleo:company:{COMPANY_ID}"));
    let url = bench.api("/v1/installations/me");
    let deleted = bench.http.delete(&url).bearer_auth(&one.access).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(bench.get(&two.access, "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(error(bench.refresh(&two.refresh).await.unwrap()).await, "invalid_grant");
    let counters = bench.sandbox.counters();
    assert_eq!((counters.families_revoked, counters.refresh_replays), (2, 0));
}

#[tokio::test]
async fn controls_need_their_header() {
    let bench = Bench::new().await;
    let url = bench.api("/sandbox/faults");
    assert_eq!(bench.http.get(&url).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let post = |url: String, body: Value| {
        bench.http.post(url).header("x-sandbox-control", "1").json(&body).send()
    };
    let knobs = json!({
        "access_life_ms": 2000, "expires_in": "milliseconds", "introspect": { "status": 503 },
        "token_answer": { "kind": "error_in_200", "count": 1, "only_grant": "refresh_token" },
        "api_answer": { "kind": "reset_mid_body" },
    });
    assert_eq!(post(url.clone(), knobs).await.unwrap().status(), StatusCode::OK);
    let shown = bench.http.get(&url).header("x-sandbox-control", "1").send().await.unwrap();
    let shown: Faults = shown.json().await.unwrap();
    assert_eq!(shown.introspect, Introspection::Status(503));
    assert_eq!(shown, bench.sandbox.faults());
    let typo = post(url, json!({ "latency": 5 })).await.unwrap();
    assert_eq!(typo.status(), StatusCode::BAD_REQUEST);
    let odd = post(bench.api("/sandbox/subject"), json!({ "subject": "urn:x" })).await.unwrap();
    assert_eq!(odd.status(), StatusCode::BAD_REQUEST);
    let reset = post(bench.api("/sandbox/subject"), json!({ "subject": null })).await.unwrap();
    assert_eq!(reset.status(), StatusCode::OK);
    let counters = bench
        .http
        .get(bench.api("/sandbox/counters"))
        .header("x-sandbox-control", "1")
        .send()
        .await
        .unwrap();
    assert_eq!(counters.json::<Value>().await.unwrap()["api_requests"], 0);
    let revoked = post(bench.api("/sandbox/revoke"), json!({})).await.unwrap();
    assert_eq!(revoked.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn only_loopback_hosts() {
    let bench = Bench::new().await;
    let root = bench.http.get(bench.api("/")).send().await.unwrap();
    assert!(root.text().await.unwrap().contains("sandbox"));
    for origin in [bench.sandbox.auth, bench.sandbox.files] {
        let url = format!("http://{origin}/");
        let foreign = bench.http.get(&url).header("host", "rebound.example").send().await.unwrap();
        assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
        let other =
            bench.http.get(&url).header("host", "localhost.evil.example").send().await.unwrap();
        assert_eq!(other.status(), StatusCode::FORBIDDEN);
    }
    let local = bench.http.get(bench.api("/")).header("host", "localhost:1").send().await.unwrap();
    assert_eq!(local.status(), StatusCode::OK);
}

#[tokio::test]
async fn aids_echo_and_sink() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let url = bench.api("/v1/echo/a%2Fb/c:search?x=1&x=2&cursor=AB%3D%3D");
    let echo = bench
        .http
        .patch(url)
        .bearer_auth(&token)
        .header("x-one", "1")
        .body("hello")
        .send()
        .await
        .unwrap();
    let echo = echo.text().await.unwrap();
    assert!(!echo.contains(&token));
    let echo: Value = serde_json::from_str(&echo).unwrap();
    assert_eq!(
        (&echo["method"], &echo["path"]),
        (&json!("PATCH"), &json!("/v1/echo/a%2Fb/c:search"))
    );
    assert_eq!(echo["query"], "x=1&x=2&cursor=AB%3D%3D");
    assert_eq!(echo["body"]["length"], 5);
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["authorization", "ok"])));
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-one", "1"])));
    let body = vec![7; 5 << 20];
    let wanted: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let sunk =
        bench.http.put(bench.api("/v1/sink")).bearer_auth(&token).body(body).send().await.unwrap();
    assert_eq!(sunk.json::<Value>().await.unwrap(), json!({ "length": 5 << 20, "sha256": wanted }));
}

#[tokio::test]
async fn aids_stream_and_bytes() {
    let bench = Bench::new().await;
    let token = bench.login().await.access;
    let mut stream = bench.get(&token, "/v1/stream?events=3&gap_ms=60").await;
    let started = std::time::Instant::now();
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"id: 0\n") && started.elapsed() < Duration::from_millis(60));
    let mut rest = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        rest.push(chunk);
    }
    assert!(rest.len() == 2 && started.elapsed() >= Duration::from_millis(110));
    let bytes = bench.get(&token, "/v1/bytes?n=200000").await;
    assert_eq!(bytes.content_length(), Some(200_000));
    assert_eq!(bytes.bytes().await.unwrap()[65_536 + 252], 1);
    assert_eq!(bench.get(&token, "/v1/bytes?n=0").await.content_length(), Some(0));
    assert_eq!(bench.get(&token, "/v1/bytes?n=2147483649").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn taken_ports_fall_back_and_a_dropped_sandbox_is_gone() {
    let bench = Bench::new().await;
    let taken =
        Options { auth_addr: bench.sandbox.auth, files_addr: bench.sandbox.files, ..options() };
    let second = Sandbox::start(taken.clone()).await.unwrap();
    assert_ne!(second.auth, bench.sandbox.auth);
    assert!(Sandbox::start(Options { fallback: false, ..taken }).await.is_err());
    let token = bench.login().await.access;
    let mut stream = bench.get(&token, "/v1/stream?events=1000&gap_ms=20").await;
    stream.chunk().await.unwrap();
    let (origin, http) = (bench.sandbox.api_origin(), bench.http.clone());
    drop(bench);
    let rest = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(2), rest).await.expect("the open stream ends");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(http.get(origin).send().await.is_err());
}
