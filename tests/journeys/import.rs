//! Refresh tokens that are imported instead of a login.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use pleo_proxy::sandbox::{Faults, TokenFault, TokenFaultKind};
use reqwest::Method;
use serde_json::{Value, json};
use support::{Workspace, sandbox, text};

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_refresh_token_is_saved_refreshed_and_described() {
    let sandbox = sandbox().await;
    let source = Workspace::for_sandbox(&sandbox, "");
    let target = Workspace::for_sandbox(&sandbox, "");
    for with_proxy in [false, true] {
        let account = format!("imported-{with_proxy}");
        let first = source.serve();
        first.login(&account).await;
        first.kill();
        let token = text(&source.stored_json(&account)["record"]["grant"]["refresh_token"]);
        let proxy = with_proxy.then(|| target.serve());
        let arguments = ["login", account.as_str(), "--import-refresh-token"];
        let done = target.run_with(&arguments, &format!("{token}\n"));
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let saved = target.stored_json(&account);
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
        assert_eq!(target.stored_json(&account), saved);

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
    let (source, workspace) =
        (Workspace::for_sandbox(&sandbox, ""), Workspace::for_sandbox(&sandbox, ""));
    let first = source.serve();
    first.login("default").await;
    first.kill();
    let token = text(&source.stored_json("default")["record"]["grant"]["refresh_token"]);
    let proxy = workspace.serve();
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
    assert!(!workspace.record("acme").exists() && proxy.account("acme").await.is_null());
    // In doubt it may be spent and it may be good: it is kept, and tried again.
    let fault = TokenFault { kind: TokenFaultKind::Html, count: Some(1), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(fault), ..Faults::default() });
    assert_eq!(
        import("acme", &format!("\u{feff}\"{token}\"\r\n")).await,
        (502, "login_failed".into())
    );
    proxy.wait_for_account("acme", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    // Where there was a tombstone there is one afterwards.
    assert!(
        proxy.admin(Method::POST, "/api/accounts/acme/logout", None).await.status().is_success()
    );
    assert_eq!(import("acme", "nobody-issued-this").await, (502, "login_failed".into()));
    assert!(workspace.record("acme").exists());
    assert_eq!(proxy.account("acme").await["state"], "login_required");
}

async fn problem_or_ok(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}
