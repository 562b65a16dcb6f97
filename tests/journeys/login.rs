//! The login, played by a browser: through the running proxy, through the command line, and
//! everything that may come back instead of an honest code.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{
    ApiFault, Faults, GrantType, Options, SECOND_COMPANY_ID, TokenFault, TokenFaultKind,
};
use reqwest::Method;
use serde_json::Value;
use support::{
    TIMEOUT, Workspace, begin_login, consent, sandbox, sandbox_config, sandbox_with, text, visit,
    write_private,
};
use url::Url;

pub(super) fn parameter(url: &Url, name: &str) -> String {
    let mut values =
        url.query_pairs().filter(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let value = values.next().unwrap_or_else(|| panic!("{name} is not in {url}"));
    assert_eq!(values.next(), None, "{name} is in {url} twice");
    value
}

/// A configuration with one line more in `[client]`.
pub(super) fn with_client(config: &str, line: &str) -> String {
    config.replacen("[client]\n", &format!("[client]\n{line}\n"), 1)
}

pub(super) fn token_fault(kind: TokenFaultKind) -> TokenFault {
    TokenFault { kind, only_grant: Some(GrantType::AuthorizationCode), ..TokenFault::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorize_address_holds_every_parameter_and_no_secret() {
    let sandbox = sandbox().await;
    let config = sandbox_config(&sandbox, "")
        .replace("[\"companies:read\"]", "[\"companies:read\", \"users:read\"]");
    let workspace = Workspace::new(&config);
    let proxy = workspace.serve();
    let (one, two) = (begin_login(&proxy, "default").await, begin_login(&proxy, "default").await);

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
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
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
        let config = sandbox_config(&sandbox, "")
            .replace("id = \"sandbox-client\"", &format!("id = \"{id}\""));
        let workspace = Workspace::new(&with_client(&config, &format!("auth = \"{auth}\"")));
        write_private(&workspace.path().join("secret"), &format!("{secret}\n"));
        let proxy = workspace.serve_with(&["--set", "client.secret_file=secret"]);
        proxy.login("default").await;
        let refreshed =
            proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await;
        assert_eq!(refreshed.status(), 200, "{auth}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{auth}");
        assert_eq!(sandbox.counters().client_auth_failures, 0, "{auth}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_account_is_not_handed_to_another_company() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = workspace.stored_json("default");
    sandbox.set_next_subject(Some(format!("urn:pleo:company:{SECOND_COMPANY_ID}")));
    let (status, page) = visit(consent(&begin_login(&proxy, "default").await).await).await;
    assert_eq!(status, 400);
    assert!(
        page.contains("pleo-proxy login NEWNAME") && page.contains("nothing was saved"),
        "{page}"
    );
    assert_eq!(workspace.stored_json("default"), before);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);

    // The end of the grant does not unbind it either; a name of its own is fine.
    sandbox.revoke_all();
    assert_eq!(
        proxy.admin(Method::POST, "/api/accounts/default/refresh?force=true", None).await.status(),
        503
    );
    assert_eq!(proxy.account("default").await["state"], "login_required");
    assert_eq!(visit(consent(&begin_login(&proxy, "default").await).await).await.0, 400);
    assert_eq!(visit(consent(&begin_login(&proxy, "second").await).await).await.0, 200);
    assert_eq!(
        proxy.account("second").await["subject"],
        format!("urn:pleo:company:{SECOND_COMPANY_ID}")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_cannot_be_read_is_only_a_warning() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let broken = ApiFault { status: Some(500), ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(broken), ..Faults::default() });
    proxy.login("default").await;
    assert_eq!(proxy.account("default").await["subject"], Value::Null);
    proxy.wait_for_log("it is not known whose login this is");
    sandbox.set_faults(Faults::default());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    proxy.login("default").await;
    assert!(text(&proxy.account("default").await["subject"]).starts_with("urn:pleo:company:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_token_endpoint_changes_nothing_and_is_reported() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = workspace.stored_json("default");
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
        let (status, page) = visit(consent(&begin_login(&proxy, "default").await).await).await;
        assert_eq!(status, 400, "{kind:?}: {page}");
        assert!(page.contains(told), "{kind:?}: {page}");
        assert_eq!(sandbox.counters().token_posts, posts + 1, "{kind:?}: a code is sent once");
        assert_eq!(workspace.stored_json("default"), before, "{kind:?}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{kind:?}");
    }
    sandbox.set_faults(Faults { omit_refresh_token: true, ..Faults::default() });
    proxy.login("default").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_whose_access_token_cannot_be_used_is_kept_and_refreshed() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    sandbox.set_faults(Faults { token_type: Some("mac".into()), ..Faults::default() });
    let back = consent(&begin_login(&proxy, "default").await).await;
    let browser = tokio::spawn(visit(back));
    while sandbox.counters().token_posts < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.set_faults(Faults::default());
    assert_eq!(browser.await.unwrap().0, 200);
    let start = Instant::now();
    loop {
        let account = proxy.account("default").await;
        if account["state"] == "connected" && account["generation"] != 1 {
            break;
        }
        // On a busy machine its refresh met the fault, too: the second time it waits for longer.
        if account["state"] == "misconfigured" {
            proxy.force_refresh("default").await;
        }
        assert!(start.elapsed() < TIMEOUT, "still {account}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_used_only_where_it_was_issued() {
    let (sandbox, other) = (sandbox().await, sandbox_with(Options::default()).await);
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let first = workspace.serve();
    first.login("default").await;
    first.terminate();
    let before = workspace.stored_json("default");
    let here = sandbox_config(&sandbox, "");
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
        workspace.configure(&config);
        let (posts, requests) = (sandbox.counters().token_posts, sandbox.counters().api_requests);
        let proxy = workspace.serve();
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
        assert_eq!(workspace.stored_json("default"), before);
        proxy.terminate();
    }
    workspace.configure(&here);
    assert_eq!(workspace.serve().get("/v1/companies").await.status(), 200);
}
