//! Accounts with a static API key of Pleo's in place of a login.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;

use jiff::ToSpan as _;
use pleo_proxy::sandbox::{
    ApiFault, ApiFaultKind, COMPANY_ID, Faults, SECOND_COMPANY_ID, Sandbox, StaticKey,
};
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{FAILED, LOGIN_REQUIRED, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Proxy, Workspace, problem, sandbox};

const KEY: &str = "plp-key/of+acme=0123456789";

/// The same key with other scopes or another company.
fn key(subject: &str, scope: &str) -> StaticKey {
    StaticKey {
        key: KEY.into(),
        subject: format!("urn:pleo:company:{subject}"),
        scope: scope.into(),
    }
}

async fn sandbox_with_key() -> Sandbox {
    let sandbox = sandbox().await;
    sandbox.set_api_keys(vec![key(COMPANY_ID, "companies:read accounts:read accounts:write")]);
    sandbox
}

fn log_in(workspace: &Workspace, name: &str, more: &[&str], text: &str) -> std::process::Output {
    let arguments = [&["login", name, "--api-key"], more].concat();
    workspace.run_with(&arguments, text)
}

async fn connected(sandbox: &Sandbox, more: &str) -> (Workspace, Proxy) {
    let workspace = Workspace::for_sandbox(sandbox, more);
    let proxy = workspace.serve();
    let login = log_in(&workspace, "acme", &[], KEY);
    assert_eq!(code(&login), SUCCESS, "{}", stderr(&login));
    (workspace, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_checked_bound_to_its_company_and_serves_without_a_client() {
    let sandbox = sandbox_with_key().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&config.replace("id = \"sandbox-client\"\n", ""));
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| workspace.serve());
        let name = if with_proxy { "with" } else { "without" };
        let refused = log_in(&workspace, name, &[], "another-key-0123456789");
        assert_eq!(code(&refused), FAILED);
        assert!(stderr(&refused).contains("Pleo refuses this API key"), "{}", stderr(&refused));
        assert!(!workspace.record(name).exists());
        let nonsense = log_in(&workspace, name, &[], "Basic cGxw Og==");
        assert_eq!(code(&nonsense), USAGE);
        let login = log_in(&workspace, name, &[], &format!("{KEY}\r\n"));
        assert_eq!(code(&login), SUCCESS, "{}", stderr(&login));
        let proxy = proxy.unwrap_or_else(|| workspace.serve());
        assert_eq!(proxy.get(&format!("/@{name}/v1/companies")).await.status(), 200);
        let account = proxy.account(name).await;
        assert_eq!(account["state"], "connected");
        assert_eq!(account["subject"], format!("urn:pleo:company:{COMPANY_ID}"));
        assert_eq!(account["company"], "Harbour Coffee ApS");
        assert_eq!(account["scope"], json!(["companies:read", "accounts:read", "accounts:write"]));
        assert_eq!(account["api_key"]["masked"], "****6789");
        sandbox.set_api_keys(vec![key(SECOND_COMPANY_ID, "companies:read")]);
        let other = log_in(&workspace, name, &[], KEY);
        assert_eq!(code(&other), FAILED, "{}", stderr(&other));
        assert!(stderr(&other).contains("belongs to"), "{}", stderr(&other));
        sandbox.set_api_keys(vec![key(COMPANY_ID, "companies:read accounts:read accounts:write")]);
        proxy.terminate();
    }
    assert_eq!(sandbox.counters().token_posts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_through_why_guard_log_and_limits_like_a_token() {
    let sandbox = sandbox_with_key().await;
    let (workspace, proxy) = connected(&sandbox, "[guard]\nread_only = true\n").await;
    let why = |method: &str, path: &str| stdout(&workspace.run(&["why", method, path]));
    let bearer_only = why("POST", "/v1-beta/accounts:search");
    assert!(bearer_only.contains("bearer tokens only"), "{bearer_only}");
    let scope = why("GET", "/v2/employees");
    assert!(scope.contains("users:read") && scope.contains("make a key with"), "{scope}");
    let write = proxy.http.post(format!("{}/@acme/v1/vendors", proxy.api)).body("{}");
    assert_eq!(problem(write.send().await.unwrap()).await, (403, "read_only".into()));
    let own = proxy.http.get(format!("{}/@acme/v1/companies", proxy.api));
    let own = own.header("authorization", "Bearer of-the-caller").send().await.unwrap();
    assert_eq!(own.status(), 200, "the caller's own is replaced");
    let lacking = proxy.get("/@acme/v2/employees").await;
    assert_eq!(lacking.status(), 403);
    let hint = lacking.headers()["pleo-proxy-hint"].to_str().unwrap().to_owned();
    assert!(hint.contains("this API key has"), "{hint}");
    let beta = proxy.http.post(format!("{}/@acme/v1-beta/accounts:search", proxy.api));
    let beta = beta.header("content-type", "application/json").body("{}").send().await.unwrap();
    assert_eq!(beta.status(), 401, "Pleo's own answer");
    let hint = beta.headers()["pleo-proxy-hint"].to_str().unwrap().to_owned();
    assert!(hint.contains("bearer tokens only"), "{hint}");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200, "one operation, not the key");
    assert_eq!(proxy.account("acme").await["state"], "connected");
    let log = stdout(&workspace.run(&["logs"]));
    assert!(log.contains("/v1/companies") && log.contains("acme"), "{log}");
    assert_eq!(sandbox.counters().token_posts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_to_be_replaced_and_nothing_is_refreshed() {
    let sandbox = sandbox_with_key().await;
    let hook = "[hooks]\non_login_required = \"echo $PLEO_PROXY_FIX $PLEO_PROXY_REASON > told\"\n";
    let (workspace, proxy) = connected(&sandbox, hook).await;
    assert_eq!(code(&workspace.run(&["refresh", "acme", "--force"])), SUCCESS);
    sandbox.set_api_keys(Vec::new());
    let answer = proxy.get("/@acme/v1/companies").await;
    assert_eq!(answer.status(), 401);
    let hint = answer.headers()["pleo-proxy-hint"].to_str().unwrap().to_owned();
    assert!(hint.contains("replace the key"), "{hint}");
    let account = proxy.wait_for_account("acme", |it| it["state"] == "login_required").await;
    let said = account["why"].as_str().unwrap();
    assert!(said.contains("replace the key") && said.contains("login acme --api-key"), "{said}");
    let refused: Value = proxy.get("/@acme/v1/companies").await.json().await.unwrap();
    assert_eq!(refused["code"], "login_required");
    assert!(refused["fix"].as_str().unwrap().contains("login acme --api-key"), "{refused}");
    let told = workspace.path().join("told");
    support::wait_until("the hook was run", || {
        fs::read_to_string(&told).is_ok_and(|fix| fix.contains("login acme --api-key"))
    });
    let told = fs::read_to_string(&told).unwrap();
    let doctor = stdout(&workspace.run(&["doctor", "--account", "acme"]));
    for (place, text) in [("status", said), ("hook", &*told), ("doctor", &*doctor)] {
        assert!(text.contains("pleo-proxy refresh acme"), "{place}: {text}");
    }
    assert!(stdout(&workspace.run(&["status"])).contains("next try"));
    let checked = workspace.run(&["refresh", "acme"]);
    assert_eq!(code(&checked), LOGIN_REQUIRED, "{}", stderr(&checked));
    sandbox.set_api_keys(vec![key(COMPANY_ID, "companies:read")]);
    assert_eq!(code(&workspace.run(&["refresh", "acme"])), SUCCESS);
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200, "the same key is taken again");
    sandbox.set_api_keys(vec![StaticKey {
        key: "the-next-key-0123456789".into(),
        ..key(COMPANY_ID, "companies:read")
    }]);
    let next = log_in(&workspace, "acme", &[], "the-next-key-0123456789");
    assert_eq!(code(&next), SUCCESS, "{}", stderr(&next));
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    assert_eq!(code(&workspace.run(&["logout", "acme"])), SUCCESS);
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 503);
    assert_eq!(sandbox.counters().token_posts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sent_to_the_api_that_it_is_for_alone() {
    let (sandbox, elsewhere) = (sandbox_with_key().await, sandbox_with_key().await);
    let (workspace, proxy) = connected(&sandbox, "").await;
    proxy.terminate();
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&config.replace(&sandbox.api_origin(), &elsewhere.api_origin()));
    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| workspace.serve());
        for arguments in [&["refresh", "acme"][..], &["refresh", "acme", "--force"]] {
            let refused = workspace.run(arguments);
            assert_eq!(code(&refused), LOGIN_REQUIRED, "{}", stderr(&refused));
            let said = stderr(&refused);
            assert!(said.contains(&sandbox.api_origin()), "{said}");
        }
        drop(proxy);
    }
    assert_eq!(elsewhere.counters().api_requests, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_takes_the_place_of_a_login_only_if_that_is_said() {
    for with_proxy in [false, true] {
        let sandbox = sandbox_with_key().await;
        let (workspace, name) = (Workspace::for_sandbox(&sandbox, ""), "acme");
        let proxy = workspace.serve();
        proxy.login(name).await;
        let proxy = with_proxy.then_some(proxy);
        let before = fs::read(workspace.record(name)).unwrap();
        let refused = log_in(&workspace, name, &[], KEY);
        assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
        assert!(stderr(&refused).contains("--api-key --replace"), "{}", stderr(&refused));
        assert_eq!(fs::read(workspace.record(name)).unwrap(), before);
        let replaced = log_in(&workspace, name, &["--replace"], KEY);
        assert_eq!(code(&replaced), SUCCESS, "{}", stderr(&replaced));
        assert_eq!(code(&log_in(&workspace, name, &[], KEY)), SUCCESS, "a key for a key");
        drop(proxy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_file_is_gone_is_not_sent() {
    let sandbox = sandbox_with_key().await;
    let workspace =
        Workspace::for_sandbox(&sandbox, "[accounts.acme]\napi_key_file = \"acme-key\"\n");
    let file = workspace.path().join("acme-key");
    support::write_private(&file, KEY);
    let proxy = workspace.serve();
    proxy.wait_for_account("acme", |it| it["subject"].is_string()).await;
    let asked = sandbox.counters().api_requests;
    fs::remove_file(&file).unwrap();
    for _ in 0..2 {
        let refreshed = proxy.force_refresh("acme").await;
        assert_eq!(refreshed["outcome"], "failed", "{refreshed}");
        assert_eq!(refreshed["account"]["state"], "store_error", "{refreshed}");
    }
    assert_eq!(sandbox.counters().api_requests, asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_and_a_check_that_is_not_answered_say_nothing_about_the_key() {
    let sandbox = sandbox_with_key().await;
    let (workspace, proxy) = connected(&sandbox, "").await;
    let broken = ApiFault { kind: ApiFaultKind::Drop, count: Some(1), ..ApiFault::default() };
    sandbox.set_faults(Faults { api_401: 1, api_answer: Some(broken), ..Faults::default() });
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 401);
    proxy.wait_for_log("checked after a 401");
    assert_eq!(proxy.account("acme").await["state"], "connected");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    let broken = ApiFault { kind: ApiFaultKind::Drop, ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(broken), ..Faults::default() });
    let unchecked = workspace.run(&["refresh", "acme"]);
    assert_eq!(code(&unchecked), FAILED);
    assert!(stderr(&unchecked).contains("cannot be checked"), "{}", stderr(&unchecked));
    let login = log_in(&workspace, "acme", &[], KEY);
    assert_eq!(code(&login), FAILED);
    assert!(stderr(&login).contains("nothing was saved"), "{}", stderr(&login));
    sandbox.set_faults(Faults::default());
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_key_is_shown_and_warned_of_14_days_ahead() {
    let sandbox = sandbox_with_key().await;
    let hook = "[hooks]\non_grant_age = \"echo $PLEO_PROXY_REASON $PLEO_PROXY_FIX > told\"\n";
    let (workspace, proxy) = connected(&sandbox, hook).await;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let in_days = |days: i64| today.checked_add(days.days()).unwrap().to_string();
    let doctor = |check: &str| {
        let report = json_output(&workspace.run(&["doctor", "--account", "acme", "--json"]));
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|it| it["check"] == check).unwrap()
    };
    for (days, warns) in [(60, false), (10, true), (-3, true)] {
        let login = log_in(&workspace, "acme", &["--expires", &in_days(days)], KEY);
        assert_eq!(code(&login), SUCCESS, "{}", stderr(&login));
        let account = proxy.account("acme").await;
        assert_eq!(account["api_key"]["expires_on"], in_days(days));
        assert_eq!(account["warning"].is_string(), warns, "{account}");
        let status = stdout(&workspace.run(&["status"]));
        assert!(status.contains("****6789") && status.contains(&in_days(days)), "{status}");
        assert_eq!(status.contains("--api-key"), warns, "{status}");
        let found = doctor("api_key");
        assert_eq!(found["outcome"], if warns { "warn" } else { "pass" }, "{found}");
    }
    let plain = doctor("sealing");
    assert_eq!(plain["outcome"], "warn", "{plain}");
    proxy.wait_for_log("expires in 10 days");
    let told = workspace.path().join("told");
    support::wait_until("the hook was run", || {
        let told = fs::read_to_string(&told).unwrap_or_default();
        told.contains("expired on") && told.trim_end().ends_with("login acme --api-key")
    });
    assert_eq!(code(&log_in(&workspace, "acme", &["--expires", "soon"], KEY)), USAGE);
    assert_eq!(code(&workspace.run(&["login", "acme", "--expires", "2027-01-31"])), USAGE);
    let path = "/api/accounts/acme/login";
    for body in [
        json!({"api_key": KEY, "expires_on": "soon"}),
        json!({"api_key": KEY, "refresh_token": "x"}),
    ] {
        assert_eq!(proxy.admin(Method::POST, path, Some(body)).await.status(), 400);
    }
    proxy.terminate();
    // A command about something else is silent about it.
    for arguments in [&["accounts", "list"][..], &["exec", "--account", "acme", "--", "true"]] {
        let output = workspace.run(arguments);
        assert!(!stderr(&output).contains("expired on"), "{arguments:?} {}", stderr(&output));
    }
    assert_eq!(stderr(&workspace.run(&["status"])).matches("expired on").count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sealed_with_the_store_renamed_with_its_account_and_shown_nowhere() {
    let sandbox = sandbox_with_key().await;
    let workspace = Workspace::for_sandbox(&sandbox, "key_file = \"store-key\"\n");
    let made = workspace.run(&["store", "key"]);
    support::write_private(&workspace.path().join("store-key"), &stdout(&made));
    let proxy = workspace.serve();
    assert_eq!(code(&log_in(&workspace, "acme", &[], KEY)), SUCCESS);
    let stored = fs::read_to_string(workspace.record("acme")).unwrap();
    assert!(!stored.contains(KEY) && stored.contains("\"sealed\""), "{stored}");
    assert_eq!(code(&workspace.run(&["accounts", "rename", "acme", "beta"])), SUCCESS);
    assert_eq!(proxy.get("/@beta/v1/companies").await.status(), 200);
    let refused = workspace.run(&["accounts", "remove", "beta"]);
    assert_eq!(code(&refused), FAILED, "it is connected");
    let doctor = stdout(&workspace.run(&["doctor", "--account", "beta"]));
    assert!(doctor.contains("pass  sealing beta: sealed with key"), "{doctor}");
    let shown = [
        &["status"][..],
        &["status", "--json"],
        &["logs", "--json"],
        &["doctor"],
        &["store", "check"],
    ];
    for arguments in shown {
        let output = workspace.run(arguments);
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(!text.contains(KEY), "{arguments:?}");
    }
    assert!(!proxy.log().contains(KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_file_serves_is_followed_and_changed_by_nobody_else() {
    let sandbox = sandbox_with_key().await;
    let workspace =
        Workspace::for_sandbox(&sandbox, "[accounts.acme]\napi_key_file = \"acme-key\"\n");
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&config.replace("id = \"sandbox-client\"\n", ""));
    let file = workspace.path().join("acme-key");
    let missing = workspace.run(&["config", "check"]);
    assert_eq!(code(&missing), USAGE);
    assert!(stderr(&missing).contains("accounts.acme.api_key_file"), "{}", stderr(&missing));
    support::write_private(&file, &format!("{KEY}\n"));
    let checked = workspace.run(&["config", "check"]);
    assert_eq!(code(&checked), SUCCESS, "{}", stderr(&checked));
    let proxy = workspace.serve();
    assert_eq!(proxy.get("/v1/companies").await.status(), 200, "it is the only account");
    let account = proxy.wait_for_account("acme", |it| it["subject"].is_string()).await;
    assert_eq!(account["company"], "Harbour Coffee ApS");
    assert_eq!(account["scope"][0], "companies:read");
    assert!(!workspace.record("acme").exists(), "the key is in no store");

    sandbox.set_api_keys(Vec::new());
    assert_eq!(proxy.get("/v1/companies").await.status(), 401);
    let account = proxy.wait_for_account("acme", |it| it["state"] == "login_required").await;
    let said = account["why"].as_str().unwrap();
    assert!(!said.contains("login acme"), "{said}");
    assert!(said.contains("acme-key") && said.contains("pleo-proxy refresh acme"), "{said}");
    let next =
        StaticKey { key: "the-next-key-0123456789".into(), ..key(COMPANY_ID, "companies:read") };
    sandbox.set_api_keys(vec![next]);
    support::write_private(&file, "the-next-key-0123456789");
    proxy.wait_for_account("acme", |it| it["state"] == "connected").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);

    use std::os::unix::fs::PermissionsExt as _;
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let account = proxy.wait_for_account("acme", |it| it["state"] == "store_error").await;
    assert!(account["why"].as_str().unwrap().contains("chmod 600"), "{account}");
    let doctor = stdout(&workspace.run(&["doctor", "--account", "acme"]));
    assert!(doctor.contains("chmod 600"), "{doctor}");
    mode(0o600);
    proxy.wait_for_account("acme", |it| it["state"] == "connected").await;

    for arguments in [
        &["logout", "acme"][..],
        &["login", "acme", "--no-browser"],
        &["accounts", "rename", "acme", "beta"],
        &["accounts", "remove", "acme"],
    ] {
        let refused = workspace.run(arguments);
        assert_ne!(code(&refused), SUCCESS, "{arguments:?}");
        let said = stderr(&refused);
        assert!(said.contains("api_key_file"), "{arguments:?} {said}");
    }
    assert_eq!(code(&log_in(&workspace, "acme", &[], "the-next-key-0123456789")), FAILED);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert!(!proxy.log().contains("the-next-key") && !proxy.log().contains(KEY));
    assert_eq!(sandbox.counters().token_posts, 0);
}
