//! The login, played by a browser: through the running proxy, through the command line, and
//! everything that may come back instead of an honest code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use pleo_proxy::accounts::{self, Accounts, Background};
use pleo_proxy::clock::{Clock, Now};
use pleo_proxy::login::{LoginError, Logins};
use pleo_proxy::oauth::authorize::Callback;
use pleo_proxy::oauth::{self, ClientAuth, SecretSource};
use pleo_proxy::outbound::{self, Outbound};
use pleo_proxy::sandbox::{
    ApiFault, Faults, GrantType, Options, SECOND_COMPANY_ID, Sandbox, TokenFault, TokenFaultKind,
};
use pleo_proxy::secret::ClientSecret;
use pleo_proxy::store::{AccountName, Store};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Place, Proxy, client, config_toward, sandbox, sandbox_with, text, write_private};
use url::Url;

/// Begins a login and returns the address that a person would open.
async fn begin(proxy: &Proxy, account: &str) -> Url {
    let answer = proxy.admin(Method::POST, &format!("/api/accounts/{account}/login"), None).await;
    let status = answer.status();
    let begun: Value = answer.json().await.unwrap();
    assert_eq!(status, 200, "{begun}");
    text(&begun["authorize_url"]).parse().unwrap()
}

/// Consents, and returns where the authorization server sends the browser.
async fn consent(url: &Url) -> Url {
    let answer = client().get(url.clone()).send().await.unwrap();
    assert_eq!(answer.status(), 302, "{url}");
    answer.headers()["location"].to_str().unwrap().parse().unwrap()
}

async fn visit(url: impl reqwest::IntoUrl) -> (u16, String) {
    let page = client().get(url).send().await.unwrap();
    (page.status().as_u16(), page.text().await.unwrap())
}

fn parameter(url: &Url, name: &str) -> String {
    let mut values =
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let value = values.next().unwrap_or_else(|| panic!("{name} is not in {url}"));
    assert_eq!(values.next(), None, "{name} is in {url} twice");
    value
}

/// The callback with other parameters.
fn callback(proxy: &Proxy, query: &str) -> String {
    format!("{}/callback?{query}", proxy.admin)
}

/// `pleo-proxy login` that waits for its browser.
struct Waiting {
    child: Child,
    talk: BufReader<ChildStderr>,
    url: Url,
}

impl Waiting {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::of(place.command(arguments))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        let url = named_address(&mut talk);
        Self { child, talk, url }
    }

    /// Its exit code, and all it said since.
    fn end(mut self) -> (i32, String) {
        let mut said = String::new();
        self.talk.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn named_address(talk: &mut impl BufRead) -> Url {
    let mut said = String::new();
    loop {
        let start = said.len();
        assert_ne!(talk.read_line(&mut said).unwrap(), 0, "it named no address: {said}");
        if let Ok(url) = said[start..].trim().parse() {
            return url;
        }
    }
}

/// A port that was free in both families a moment ago.
fn free_port() -> u16 {
    loop {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        if TcpListener::bind(("::1", port)).is_ok() {
            return port;
        }
    }
}

/// A configuration with one line more in `[client]`.
fn with_client(config: &str, line: &str) -> String {
    config.replacen("[client]\n", &format!("[client]\n{line}\n"), 1)
}

fn token_fault(kind: TokenFaultKind) -> TokenFault {
    TokenFault { kind, only_grant: Some(GrantType::AuthorizationCode), ..TokenFault::default() }
}

fn record(place: &Place, account: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.record(account)).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorize_address_holds_every_parameter_and_no_secret() {
    let sandbox = sandbox().await;
    let config = config_toward(&sandbox, "")
        .replace("[\"companies:read\"]", "[\"companies:read\", \"users:read\"]");
    let place = Place::new(&config);
    let proxy = place.serve();
    let (one, two) = (begin(&proxy, "default").await, begin(&proxy, "default").await);

    assert!(one.as_str().starts_with(&format!("{}?", sandbox.authorize_url())));
    assert_eq!(parameter(&one, "response_type"), "code");
    assert_eq!(parameter(&one, "client_id"), "sandbox-client");
    assert_eq!(parameter(&one, "redirect_uri"), format!("{}/callback", proxy.admin));
    assert_eq!(parameter(&one, "scope"), "companies:read users:read");
    assert!(one.query().unwrap().contains("companies%3Aread%20users%3Aread"), "{one}");
    assert_eq!(parameter(&one, "code_challenge_method"), "S256");
    for name in ["state", "code_challenge"] {
        assert_eq!(parameter(&one, name).len(), 43, "{name}");
        assert_ne!(parameter(&one, name), parameter(&two, name), "{name}");
    }
    assert_eq!(one.query_pairs().count(), 7, "{one}");
    assert!(!one.as_str().contains("sandbox-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_connects_through_the_initiation_url() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let start =
        proxy.http.get(format!("{}/connect?account=acme", proxy.admin)).send().await.unwrap();
    assert_eq!(start.status(), 302);
    assert_eq!(start.headers()["cache-control"], "no-store");
    let back = consent(&start.headers()["location"].to_str().unwrap().parse().unwrap()).await;
    let (status, page) = visit(back).await;
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("acme") && page.contains("connected"), "{page}");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    assert_eq!(proxy.account("acme").await["state"], "connected");
    let log = proxy.log();
    assert!(!log.contains("sandbox-secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_client_ids_and_secrets_work_every_way() {
    let awkward = [
        ("basic", "id:with space+and%", "s:e c+r%25e/t=\"\\"),
        ("post", "id:with space+and%", "s:e c+r%25e/t=\"\\"),
        // Unencoded, an id cannot hold a colon: RFC 7617 section 2.
        ("basic-raw", "id with space+and%", "s:e c+r%zze/t=\"\\"),
    ];
    for (auth, id, secret) in awkward {
        let options =
            Options { client_id: id.into(), client_secret: secret.into(), ..Options::default() };
        let sandbox = sandbox_with(options).await;
        let config = config_toward(&sandbox, "")
            .replace("id = \"sandbox-client\"", &format!("id = \"{id}\""));
        let place = Place::new(&with_client(&config, &format!("auth = \"{auth}\"")));
        write_private(&place.path().join("secret"), &format!("{secret}\n"));
        let proxy = place.serve_with(&["--set", "client.secret_file=secret"]);
        proxy.login("default").await;
        let refreshed =
            proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
        assert_eq!(refreshed.status(), 200, "{auth}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{auth}");
        assert_eq!(sandbox.counters().client_auth_failures, 0, "{auth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_fits_no_login_changes_nothing() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let back = consent(&begin(&proxy, "default").await).await;
    let (code, state) = (parameter(&back, "code"), parameter(&back, "state"));
    for query in [
        format!("code={code}"),
        format!("code={code}&state="),
        format!("code={code}&state=wrong"),
        format!("code={code}&state={}", &state[..42]),
        format!("code={code}&state={state}x"),
        format!("code={code}&state={state}&state={state}"),
        format!("code={code}&code={code}&state={state}"),
        format!("code=&state={state}"),
        format!("state={state}"),
        format!("error=access_denied&error=x&state={state}"),
        "error=access_denied&state=wrong".into(),
        "error=access_denied".into(),
        String::new(),
    ] {
        let (status, page) = visit(callback(&proxy, &query)).await;
        assert_eq!(status, 400, "{query}: {page}");
        assert!(!page.contains(&code) && !page.contains(&state), "{query}: {page}");
    }
    assert_eq!(sandbox.counters().token_posts, 0);
    assert_eq!(visit(back.clone()).await.0, 200, "the login is still under way");
    assert_eq!(sandbox.counters().token_posts, 1);

    let (status, page) = visit(back).await;
    assert_eq!(status, 200, "whoever loads the page again reads the same: {page}");
    assert_eq!(sandbox.counters().token_posts, 1, "a callback is good once");
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_issuer_ends_the_login_before_anything_is_sent() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let back = consent(&begin(&proxy, "default").await).await;
    let (code, state) = (parameter(&back, "code"), parameter(&back, "state"));
    let (status, page) =
        visit(callback(&proxy, &format!("code={code}&state={state}&iss=https://evil.test"))).await;
    assert_eq!(status, 400, "{page}");
    assert_eq!(visit(back).await.0, 400, "the login is over");
    assert_eq!(sandbox.counters().token_posts, 0);
    assert!(!place.record("default").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_logins_code_is_refused_by_pkce_and_nothing_is_saved() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let stranger = consent(&begin(&proxy, "stranger").await).await;
    let own = begin(&proxy, "default").await;
    let query = format!("code={}&state={}", parameter(&stranger, "code"), parameter(&own, "state"));
    let (status, page) = visit(callback(&proxy, &query)).await;
    assert_eq!(status, 400);
    assert!(page.contains("invalid_grant"), "{page}");
    assert!(!place.record("default").exists() && !place.record("stranger").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_the_login_and_is_told() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let url = begin(&proxy, "default").await;
    let denied =
        callback(&proxy, &format!("error=access_denied&state={}", parameter(&url, "state")));
    let (status, page) = visit(&denied).await;
    assert_eq!(status, 400);
    assert!(page.contains("access_denied"), "{page}");
    assert!(text(&proxy.account("default").await["last_login_error"]).contains("access_denied"));
    assert_eq!(visit(consent(&url).await).await.0, 400, "its state is spent");
    assert_eq!(proxy.get("/v1/companies").await.status(), 200, "the login before is untouched");
    proxy.login("default").await;
    assert_eq!(proxy.account("default").await["last_login_error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_shown_and_never_run() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let long = "x".repeat(20_000);
    for hostile in [
        "<svg/onload=fetch('//x')>",
        "\"</script><script>x()</script>",
        "a\u{2028}\u{202e}b\r\nc",
        &long,
    ] {
        let state = parameter(&begin(&proxy, "default").await, "state");
        let mut url: Url = callback(&proxy, "error=server_error").parse().unwrap();
        url.query_pairs_mut()
            .append_pair("state", &state)
            .append_pair("error_description", hostile);
        let page = client().get(url).send().await.unwrap();
        assert_eq!(page.status(), 400);
        let headers = page.headers().clone();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let html = page.text().await.unwrap();
        assert!(html.contains("server_error") && html.len() < 2000, "{html}");
        assert!(
            !html.contains("<svg") && !html.contains("<script") && !html.contains('\u{202e}'),
            "{html}"
        );
        assert!(!html.contains('\u{2028}') && !html.contains('\r'), "{html}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_navigation_with_get_uses_a_callback_up() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let back = consent(&begin(&proxy, "default").await).await;
    for method in [Method::HEAD, Method::POST, Method::OPTIONS, Method::PUT, Method::DELETE] {
        let answer = client().request(method.clone(), back.clone()).send().await.unwrap();
        assert_eq!(answer.status(), 405, "{method}");
    }
    let noise: [&[(&str, &str)]; 8] = [
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
            ("sec-fetch-dest", "image"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-dest", "empty"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-purpose", "prefetch"),
        ],
        &[
            ("sec-fetch-site", "none"),
            ("sec-fetch-mode", "navigate"),
            ("sec-purpose", "prefetch;prerender"),
        ],
        &[("sec-purpose", "prefetch")],
        &[("host", "rebind.test")],
        &[("origin", "http://evil.test")],
    ];
    for headers in noise {
        let request = headers
            .iter()
            .fold(client().get(back.clone()), |it, (name, value)| it.header(*name, *value));
        let status = request.send().await.unwrap().status().as_u16();
        assert!((400..500).contains(&status), "{headers:?}: {status}");
    }
    assert_eq!(sandbox.counters().token_posts, 0);
    let real = client()
        .get(back)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "navigate");
    let page = real.header("sec-fetch-dest", "document").send().await.unwrap();
    assert_eq!(page.status(), 200, "{}", page.text().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_logins_of_an_account_may_be_pending_and_a_sixth_ends_the_oldest() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let mut begun = Vec::new();
    for _ in 0..6 {
        begun.push(begin(&proxy, "default").await);
    }
    let page = client().get(format!("{}/connect", proxy.admin)).send().await.unwrap();
    assert_eq!(page.status(), 302, "a seventh");
    for (pushed_out, url) in [(true, &begun[0]), (true, &begun[1]), (false, &begun[2])] {
        let status = visit(consent(url).await).await.0;
        assert_eq!(status, if pushed_out { 400 } else { 200 }, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_account_is_not_handed_to_another_company() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let before = record(&place, "default");
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    let (status, page) = visit(consent(&begin(&proxy, "default").await).await).await;
    assert_eq!(status, 400);
    assert!(
        page.contains("pleo-proxy login NEWNAME") && page.contains("nothing was saved"),
        "{page}"
    );
    assert_eq!(record(&place, "default"), before);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);

    // The end of the grant does not unbind it either; a name of its own is fine.
    sandbox.revoke_all();
    assert_eq!(
        proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await.status(),
        503
    );
    assert_eq!(proxy.account("default").await["state"], "login_required");
    assert_eq!(visit(consent(&begin(&proxy, "default").await).await).await.0, 400);
    assert_eq!(visit(consent(&begin(&proxy, "second").await).await).await.0, 200);
    assert_eq!(
        proxy.account("second").await["subject"],
        format!("urn:pleo:company:{SECOND_COMPANY_ID}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_cannot_be_read_is_only_a_warning() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let broken = ApiFault { status: Some(500), ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(broken), ..Faults::default() });
    proxy.login("default").await;
    assert_eq!(proxy.account("default").await["subject"], Value::Null);
    assert!(proxy.log().contains("WARN"), "{}", proxy.log());
    sandbox.set_faults(Faults::default());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    proxy.login("default").await;
    assert!(text(&proxy.account("default").await["subject"]).starts_with("urn:pleo:company:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_token_endpoint_loses_nothing_and_is_told() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    let before = record(&place, "default");
    let invalid_client =
        TokenFault { error: Some("invalid_client".into()), ..token_fault(TokenFaultKind::Error) };
    let missing = TokenFault { status: Some(500), ..token_fault(TokenFaultKind::Status) };
    for (fault, told) in [
        (token_fault(TokenFaultKind::Html), "gave no tokens"),
        (missing, "500"),
        (token_fault(TokenFaultKind::Lost), "gave no tokens"),
        (token_fault(TokenFaultKind::Truncated), "gave no tokens"),
        (token_fault(TokenFaultKind::Huge), "gave no tokens"),
        (token_fault(TokenFaultKind::ErrorIn200), "no tokens"),
        (invalid_client, "invalid_client"),
    ] {
        let kind = fault.kind;
        sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
        let posts = sandbox.counters().token_posts;
        let (status, page) = visit(consent(&begin(&proxy, "default").await).await).await;
        assert_eq!(status, 400, "{kind:?}: {page}");
        assert!(page.contains(told), "{kind:?}: {page}");
        assert_eq!(sandbox.counters().token_posts, posts + 1, "{kind:?}: a code is sent once");
        assert_eq!(record(&place, "default"), before, "{kind:?}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{kind:?}");
    }
    sandbox.set_faults(Faults { omit_refresh_token: true, ..Faults::default() });
    proxy.login("default").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logout_cancels_the_logins_that_are_under_way() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    proxy.login("other").await;
    let back = consent(&begin(&proxy, "default").await).await;
    let others = consent(&begin(&proxy, "other").await).await;
    let posts = sandbox.counters().token_posts;
    assert_eq!(proxy.admin(Method::POST, "/api/accounts/default/logout", None).await.status(), 200);
    assert_eq!(visit(back).await.0, 400);
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(proxy.account("default").await["state"], "login_required");
    assert_eq!(record(&place, "default")["record"]["grant"], Value::Null);
    assert_eq!(visit(others).await.0, 200, "another account's login goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_during_the_exchange_wins() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { token_latency_after_ms: 500, ..Faults::default() });
    let back = consent(&begin(&proxy, "default").await).await;
    let browser = tokio::spawn(visit(back));
    while sandbox.counters().token_posts < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(proxy.admin(Method::POST, "/api/accounts/default/logout", None).await.status(), 200);
    let (status, page) = browser.await.unwrap();
    assert_eq!(status, 400, "{page}");
    assert_eq!(proxy.account("default").await["state"], "login_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_login_that_fails_takes_no_earlier_ones_place() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    let (first, second) = (begin(&proxy, "default").await, begin(&proxy, "default").await);
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..Faults::default() });
    let browser = tokio::spawn(visit(consent(&first).await));
    while sandbox.counters().token_posts < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.set_faults(Faults {
        token_answer: Some(token_fault(TokenFaultKind::Error)),
        ..Faults::default()
    });
    assert_eq!(visit(consent(&second).await).await.0, 400);
    let (status, page) = browser.await.unwrap();
    assert_eq!(status, 200, "{page}");
    assert_eq!(proxy.account("default").await["state"], "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_access_token_cannot_be_used_is_kept_and_refreshed() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    sandbox.set_faults(Faults { token_type: Some("mac".into()), ..Faults::default() });
    let back = consent(&begin(&proxy, "default").await).await;
    let browser = tokio::spawn(visit(back));
    while sandbox.counters().token_posts < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.set_faults(Faults::default());
    assert_eq!(browser.await.unwrap().0, 200);
    proxy
        .until("default", |account| account["state"] == "connected" && account["generation"] != 1)
        .await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_address_finishes_a_login_with_and_without_a_running_proxy() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let config =
        with_client(&config_toward(&sandbox, ""), "redirect_uri = \"http://127.0.0.1:9/callback\"");
    place.configure(&config);
    for account in ["alone", "with-proxy"] {
        let proxy = (account == "with-proxy").then(|| place.serve());
        let (code, said) = paste(&place, account, |back| format!("  <{back}>\n")).await;
        assert_eq!(code, 0, "{account}: {said}");
        assert!(record(&place, account)["record"]["grant"].is_object(), "{account}");
        let (code, said) = paste(&place, account, |_| "https://example.com/\n".into()).await;
        assert_eq!(code, 1, "{account}: {said}");
        assert!(said.contains("no query"), "{account}: {said}");
        let (code, said) = paste(&place, account, |_| "\n".into()).await;
        assert_eq!(code, 1, "{account}: {said}");
        drop(proxy);
    }
}

/// `login --paste`, with what a person pastes made of the address that the browser was sent to.
async fn paste(place: &Place, account: &str, pasted: impl Fn(&Url) -> String) -> (i32, String) {
    let mut command = place.command(&["login", account, "--paste"]);
    command.stdin(Stdio::piped());
    let mut waiting = Waiting::of(command);
    let back = consent(&waiting.url).await;
    waiting.child.stdin.take().unwrap().write_all(pasted(&back).as_bytes()).unwrap();
    waiting.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn pasting_needs_no_port_even_if_somebody_sits_on_it() {
    let sandbox = sandbox().await;
    let squatter = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/callback", squatter.local_addr().unwrap());
    let place = Place::new(&with_client(
        &config_toward(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    let _proxy = place.serve();
    let (code, said) = paste(&place, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_refresh_token_is_saved_refreshed_and_described() {
    let sandbox = sandbox().await;
    let source = Place::toward(&sandbox, "");
    let target = Place::toward(&sandbox, "");
    for with_proxy in [false, true] {
        let account = format!("imported-{with_proxy}");
        let first = source.serve();
        first.login(&account).await;
        first.kill();
        let token = text(&record(&source, &account)["record"]["grant"]["refresh_token"]);
        let proxy = with_proxy.then(|| target.serve());
        let arguments = ["login", account.as_str(), "--import-refresh-token"];
        let done = target.run_with(&arguments, &format!("{token}\n"));
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let saved = record(&target, &account);
        assert_ne!(
            saved["record"]["grant"]["refresh_token"],
            json!(token),
            "it was refreshed once"
        );
        assert!(text(&saved["record"]["subject"]).starts_with("urn:pleo:"), "{account}");
        assert_eq!(saved["record"]["grant"]["introspection_trusted"], true);

        let again = target.run_with(&arguments, "another\n");
        assert_eq!(again.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&again.stderr).contains("log it out"),
            "onto a connected account"
        );
        assert_eq!(record(&target, &account), saved);

        let refused = target
            .run_with(&["login", &format!("no-{account}"), "--import-refresh-token"], "unknown\n");
        assert_eq!(refused.status.code(), Some(1));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("invalid_grant") && !said.contains("unknown\n"), "{said}");
        assert!(
            !target.record(&format!("no-{account}")).exists(),
            "nothing was there before, nothing is left"
        );
        for nothing in [" \n", "\"\"\n", "\u{feff}\n", "two\nlines\n"] {
            let nothing = target.run_with(&["login", "none", "--import-refresh-token"], nothing);
            assert_eq!(
                nothing.status.code(),
                Some(1),
                "{}",
                String::from_utf8_lossy(&nothing.stderr)
            );
        }
        assert!(!target.record("none").exists());
        drop(proxy);
    }
    let proxy = target.serve();
    for account in ["imported-false", "imported-true"] {
        assert_eq!(proxy.get(&format!("/@{account}/v1/companies")).await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_refused_leaves_what_was_there_and_one_in_doubt_is_kept() {
    let sandbox = sandbox().await;
    let (source, place) = (Place::toward(&sandbox, ""), Place::toward(&sandbox, ""));
    let first = source.serve();
    first.login("default").await;
    first.kill();
    let token = text(&record(&source, "default")["record"]["grant"]["refresh_token"]);
    let proxy = place.serve();
    let import = async |account: &str, token: &str| {
        let body = json!({ "refresh_token": token });
        let path = format!("/api/accounts/{account}/login");
        problem_or_ok(proxy.admin(Method::POST, &path, Some(body)).await).await
    };
    for nothing in ["", " ", "\"\"", "\u{feff}", "a\nb", "caf\u{e9}"] {
        assert_eq!(import("acme", nothing).await, (400, "bad_request".into()), "{nothing:?}");
    }
    assert_eq!(sandbox.counters().token_posts, 1, "nothing of that was sent");
    assert_eq!(import("acme", "nobody-issued-this").await, (502, "login_failed".into()));
    assert!(!place.record("acme").exists() && proxy.account("acme").await.is_null());
    // In doubt it may be spent and it may be good: it is kept, and tried again.
    let fault = TokenFault { kind: TokenFaultKind::Html, count: Some(1), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    assert_eq!(
        import("acme", &format!("\u{feff}\"{token}\"\r\n")).await,
        (502, "login_failed".into())
    );
    proxy.until("acme", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    // Where there was a tombstone there is one afterwards.
    assert!(
        proxy.admin(Method::POST, "/api/accounts/acme/logout", None).await.status().is_success()
    );
    assert_eq!(import("acme", "nobody-issued-this").await, (502, "login_failed".into()));
    assert!(place.record("acme").exists());
    assert_eq!(proxy.account("acme").await["state"], "login_required");
}

async fn problem_or_ok(answer: reqwest::Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_the_command_listens_itself() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let waiting = Waiting::start(&place, &["login", "acme", "--no-browser"]);
    let back = consent(&waiting.url).await;
    assert_eq!(
        visit(back.join("/").unwrap()).await.0,
        404,
        "it serves the callback and nothing else"
    );
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        assert_eq!(client().request(method, back.clone()).send().await.unwrap().status(), 405);
    }
    let prefetch =
        client().get(back.clone()).header("sec-purpose", "prefetch").send().await.unwrap();
    assert!(prefetch.status().is_client_error());
    let image = client()
        .get(back.clone())
        .header("sec-fetch-dest", "image")
        .header("sec-fetch-site", "cross-site");
    assert!(image.send().await.unwrap().status().is_client_error());
    let rebound = client().get(back.clone()).header("host", "rebind.test").send().await.unwrap();
    assert!(rebound.status().is_client_error());
    assert_eq!(sandbox.counters().token_posts, 0);
    let (status, page) = visit(back).await;
    assert_eq!(status, 200, "{page}");
    let (code, said) = waiting.end();
    assert_eq!(code, 0, "{said}");
    assert!(record(&place, "acme")["record"]["grant"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_fails_is_not_told_as_done_because_an_older_one_stands() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let first = Waiting::start(&place, &["login", "--no-browser"]);
    assert_eq!(visit(consent(&first.url).await).await.0, 200);
    assert_eq!(first.end().0, 0);
    let before = record(&place, "default");

    let refused =
        TokenFault { error: Some("invalid_client".into()), ..token_fault(TokenFaultKind::Error) };
    let faults =
        Faults { token_answer: Some(refused), token_latency_before_ms: 1000, ..Faults::default() };
    sandbox.set_faults(faults);
    let second = Waiting::start(&place, &["login", "--no-browser"]);
    assert_eq!(visit(consent(&second.url).await).await.0, 400);
    let (code, said) = second.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("invalid_client"), "{said}");
    assert_eq!(record(&place, "default"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_ends_the_command() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let waiting = Waiting::start(&place, &["login", "--no-browser"]);
    let back = format!("{}?error=access_denied&state=", parameter(&waiting.url, "redirect_uri"));
    assert_eq!(visit(format!("{back}wrong")).await.0, 400, "ignored");
    assert_eq!(visit(format!("{back}{}", parameter(&waiting.url, "state"))).await.0, 400);
    let (code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("access_denied"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_proxy_does_the_commands_login() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    for round in ["new", "again"] {
        let waiting = Waiting::start(&place, &["login", "acme", "--no-browser"]);
        assert_eq!(parameter(&waiting.url, "redirect_uri"), format!("{}/callback", proxy.admin));
        assert_eq!(visit(consent(&waiting.url).await).await.0, 200);
        let (code, said) = waiting.end();
        assert_eq!(code, 0, "{round}: {said}");
    }
    let waiting = Waiting::start(&place, &["login", "acme", "--no-browser"]);
    let state = parameter(&waiting.url, "state");
    visit(callback(&proxy, &format!("error=access_denied&state={state}"))).await;
    let (code, said) = waiting.end();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("access_denied"), "{said}");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_localhost_is_listened_for_in_both_families() {
    let sandbox = sandbox().await;
    let uri = format!("http://localhost:{}/back", free_port());
    let place = Place::new(&with_client(
        &config_toward(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    for host in ["127.0.0.1", "[::1]"] {
        let waiting = Waiting::start(&place, &["login", "--no-browser"]);
        let back = consent(&waiting.url).await;
        assert!(back.as_str().starts_with(&uri), "{back}");
        assert_eq!(visit(back.as_str().replace("localhost", host)).await.0, 200, "{host}");
        assert_eq!(waiting.end().0, 0, "{host}");
    }
    // The running proxy does the same, also for logins in quick succession.
    let proxy = place.serve();
    for (account, host) in [("a", "127.0.0.1"), ("b", "[::1]"), ("c", "127.0.0.1")] {
        let back = consent(&begin(&proxy, account).await).await;
        let (status, page) = visit(back.as_str().replace("localhost", host)).await;
        assert_eq!(status, 200, "{account}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_port_that_somebody_else_has_is_named_and_the_login_not_begun() {
    let sandbox = sandbox().await;
    for squatted in ["127.0.0.1", "::1"] {
        let port = free_port();
        let squatter = TcpListener::bind((squatted, port)).unwrap();
        let config = config_toward(&sandbox, "");
        let place = Place::new(&with_client(
            &config,
            &format!("redirect_uri = \"http://localhost:{port}/callback\""),
        ));
        let done = place.run(&["login", "--no-browser"]);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(&squatter.local_addr().unwrap().to_string()), "{said}");
        assert!(!said.contains("/oauth/authorize"), "{said}");

        let proxy = place.serve();
        let answer = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
        assert_eq!(answer.status(), 409);
        assert!(answer.text().await.unwrap().contains(&port.to_string()));
        let through = place.run(&["login", "--no-browser"]);
        assert_eq!(through.status.code(), Some(1));
    }
    assert_eq!(sandbox.counters().authorizations, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_machine_is_pasted() {
    let uri = "https://connector.example/pleo/back";
    let sandbox =
        sandbox_with(Options { redirect_uris: vec![uri.into()], ..Options::default() }).await;
    let place = Place::new(&with_client(
        &config_toward(&sandbox, ""),
        &format!("redirect_uri = \"{uri}\""),
    ));
    let done = place.run(&["login", "--no-browser"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("--paste"), "{said}");
    let (code, said) = paste(&place, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
    let _proxy = place.serve();
    let (code, said) = paste(&place, "default", |back| format!("{back}\n")).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_start_programs_are_refused() {
    let sandbox = sandbox().await;
    let honest = format!("authorize = \"{}\"", sandbox.authorize_url());
    for hostile in
        ["file:///etc/passwd", "calc:", "smb://host/share", "http://evil.test/oauth/authorize"]
    {
        let config =
            config_toward(&sandbox, "").replace(&honest, &format!("authorize = \"{hostile}\""));
        let place = Place::new(&config);
        for arguments in [&["login"][..], &["serve"], &["config", "check"]] {
            let done = place.run(arguments);
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(2), "{hostile} {arguments:?}: {said}");
            assert!(
                said.contains("endpoints.authorize") || said.contains("authorize ="),
                "{hostile}: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_used_only_where_it_was_issued() {
    let (sandbox, other) = (sandbox().await, sandbox_with(Options::default()).await);
    let place = Place::toward(&sandbox, "");
    let first = place.serve();
    first.login("default").await;
    first.terminate();
    let before = record(&place, "default");
    let here = config_toward(&sandbox, "");
    for config in [
        here.replace(
            &format!("token = \"{}\"", sandbox.token_url()),
            &format!("token = \"{}\"", other.token_url()),
        ),
        here.replace("id = \"sandbox-client\"", "id = \"another-client\""),
        here.replace(
            &format!("api = \"{}\"", sandbox.api_origin()),
            &format!("api = \"{}\"", other.api_origin()),
        ),
    ] {
        assert_ne!(config, here);
        place.configure(&config);
        let (posts, requests) = (sandbox.counters().token_posts, sandbox.counters().api_requests);
        let proxy = place.serve();
        let (status, code) = support::problem(proxy.get("/v1/companies").await).await;
        assert_eq!((status, code.as_str()), (503, "login_required"));
        let forced =
            proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
        assert_eq!(forced.status(), 503);
        assert_eq!(
            (sandbox.counters().token_posts, sandbox.counters().api_requests),
            (posts, requests)
        );
        assert_eq!((other.counters().token_posts, other.counters().api_requests), (0, 0));
        assert_eq!(record(&place, "default"), before);
        proxy.terminate();
    }
    place.configure(&here);
    assert_eq!(place.serve().get("/v1/companies").await.status(), 200);
}

/// Logins on a clock that the test moves.
async fn logins(
    sandbox: &Sandbox,
    folder: &std::path::Path,
    clock: &Clock,
) -> std::sync::Arc<Logins> {
    let settings = oauth::Settings {
        client_id: Some("sandbox-client".into()),
        client_secret: SecretSource::Value(ClientSecret::new("sandbox-secret")),
        auth: ClientAuth::Basic,
        scopes: vec!["companies:read".into()],
        authorize: oauth::endpoint::Endpoint::parse(&sandbox.authorize_url()).unwrap(),
        token: oauth::endpoint::Endpoint::parse(&sandbox.token_url()).unwrap(),
        introspect: None,
        api: oauth::endpoint::Origin::parse(&sandbox.api_origin()).unwrap(),
    };
    let outbound =
        Outbound::new(&outbound::Settings { plain_only: true, ..outbound::Settings::default() })
            .unwrap();
    let account_settings = accounts::Settings {
        drain: Duration::from_secs(2),
        hold: Duration::from_secs(15),
        keep_warm: Duration::from_secs(600),
        idle_refresh: Duration::from_secs(604_800),
        default_account: None,
    };
    let store = Store::open(&folder.join("records")).unwrap();
    let client = oauth::Client::new(settings, &outbound).unwrap();
    Logins::new(
        Accounts::open(store, client, account_settings, clock.clone(), Background::Disabled)
            .await
            .unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_lasts_ten_minutes() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let start = Now { wall: 1_800_000_000_000, boot: 1_000_000 };
    let clock = Clock::manual(start);
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let (name, uri) = (AccountName::fallback(), "http://127.0.0.1:9/callback");
    let mut begun = Vec::new();
    for _ in 0..2 {
        begun.push(logins.begin(&name, uri, false).await.unwrap().url);
    }
    let after =
        |ms: u64| Now { wall: start.wall.saturating_add_unsigned(ms), boot: start.boot + ms };

    clock.set(after(599_999));
    let back = consent(&begun[0]).await;
    logins.finish(Callback::from_address(back.as_str()).unwrap()).await.unwrap();
    clock.set(after(600_000));
    let late = consent(&begun[1]).await;
    let refused = logins.finish(Callback::from_address(late.as_str()).unwrap()).await;
    assert!(matches!(refused, Err(LoginError::UnknownState)), "{refused:?}");
    assert_eq!(sandbox.counters().token_posts, 1);
    logins.begin(&name, uri, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sixth_login_of_an_account_ends_the_oldest_and_touches_no_other_account() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 });
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let (name, uri) = (AccountName::fallback(), "http://127.0.0.1:9/callback");
    let other = logins.begin(&"acme".parse().unwrap(), uri, false).await.unwrap();
    let mut begun = Vec::new();
    for _ in 0..6 {
        begun.push(logins.begin(&name, uri, false).await.unwrap());
    }

    assert_eq!(logins.outcome(&begun[0].id), None, "the oldest is gone");
    for login in begun[1..].iter().chain([&other]) {
        assert_eq!(logins.outcome(&login.id), Some(None), "it is pending still");
    }
    let back = consent(&begun[0].url).await;
    let refused = logins.finish(Callback::from_address(back.as_str()).unwrap()).await;
    assert!(matches!(refused, Err(LoginError::UnknownState)), "{refused:?}");

    assert!(logins.abandon(&begun[5].id) && !logins.abandon(&begun[5].id), "given back once");
    logins.begin(&name, uri, false).await.unwrap();
    assert_eq!(logins.outcome(&begun[1].id), Some(None), "a login that was given back makes room");
    let back = consent(&begun[1].url).await;
    logins.finish(Callback::from_address(back.as_str()).unwrap()).await.unwrap();
    assert_eq!(logins.outcome(&begun[1].id), Some(Some(Ok(()))));
    assert!(!logins.abandon(&begun[1].id), "what has ended is not given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_ever_new_names_do_not_add_up() {
    let sandbox = sandbox().await;
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(Now { wall: 1_800_000_000_000, boot: 1_000_000 });
    let logins = logins(&sandbox, folder.path(), &clock).await;
    let mut begun = Vec::new();
    for number in 0..150 {
        let name = format!("a{number}").parse().unwrap();
        begun.push(logins.begin(&name, "http://127.0.0.1:9/callback", false).await.unwrap().id);
    }
    let pending = begun.iter().filter(|id| logins.outcome(id) == Some(None)).count();
    assert_eq!((pending, logins.outcome(&begun[149])), (100, Some(None)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_visited_again_tells_how_the_login_ended() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    sandbox.set_faults(Faults { token_latency_before_ms: 400, ..Faults::default() });
    let back = consent(&begin(&proxy, "default").await).await;
    let (first, second) = tokio::join!(visit(back.clone()), visit(back.clone()));
    let third = visit(back).await;
    for (status, page) in [first, second, third] {
        assert_eq!(status, 200, "{page}");
        assert!(page.contains("is connected"), "{page}");
    }
    assert_eq!(sandbox.counters().token_posts, 1, "the code was exchanged once");

    let state = parameter(&begin(&proxy, "default").await, "state");
    let denied = callback(&proxy, &format!("error=access_denied&state={state}"));
    for _ in 0..2 {
        let (status, page) = visit(&denied).await;
        assert!(status == 400 && page.contains("access_denied"), "{status} {page}");
    }
    // A code that comes with the state of a login that was denied is not exchanged.
    let (status, _) = visit(callback(&proxy, &format!("code=x&state={state}"))).await;
    assert_eq!((status, sandbox.counters().token_posts), (400, 1));
}
