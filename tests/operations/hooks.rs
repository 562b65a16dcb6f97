//! Hooks: what is told of an account, when, and what a command gets to know.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;

use pleo_proxy::sandbox::{Faults, GrantType, Sandbox, TokenFault, TokenFaultKind};
use pleo_proxy::store::Record;
use support::{Proxy, Upstream, Workspace, sandbox, wait_until, write_private};

/// Notes what it is told, and what it finds in its environment.
const NOTE: &str = r#"
[hooks]
on_login_required = "sh note.sh"
on_recovered = "sh note.sh"
on_grant_age = "sh note.sh"
"#;
const SCRIPT: &str = r#"cat >&2
env | sort > "environment.$PLEO_PROXY_EVENT"
echo "noted $PLEO_PROXY_EVENT"
echo "$PLEO_PROXY_EVENT|$PLEO_PROXY_ACCOUNT|$PLEO_PROXY_FIX|$PLEO_PROXY_REASON" >> events
"#;

fn workspace(sandbox: &Sandbox, hooks: &str) -> Workspace {
    let workspace = Workspace::for_sandbox(sandbox, hooks);
    fs::write(workspace.path().join("note.sh"), SCRIPT).unwrap();
    workspace
}

fn events(workspace: &Workspace) -> Vec<String> {
    let events = fs::read_to_string(workspace.path().join("events")).unwrap_or_default();
    events.lines().map(str::to_owned).collect()
}

fn wait_for(workspace: &Workspace, count: usize) -> Vec<String> {
    wait_until("the hook has noted it", || events(workspace).len() >= count);
    events(workspace)
}

/// The authorization server refuses the account's refresh token for good.
async fn fall(proxy: &Proxy, sandbox: &Sandbox, account: &str) {
    let denied = TokenFault {
        kind: TokenFaultKind::Error,
        error: Some("invalid_grant".into()),
        only_grant: Some(GrantType::RefreshToken),
        ..TokenFault::default()
    };
    sandbox.set_faults(Faults { token_answer: Some(denied), ..Faults::default() });
    let refreshed = proxy.force_refresh(account).await;
    assert_eq!(refreshed["account"]["state"], "login_required", "{refreshed}");
    sandbox.set_faults(Faults::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_needs_a_login_is_told_of_once_and_so_is_its_recovery() {
    let sandbox = sandbox().await;
    let workspace = workspace(&sandbox, NOTE);
    let proxy = workspace.serve();
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    let first = wait_for(&workspace, 1);
    assert!(
        first[0].starts_with(&format!("login_required|acme|{} login acme|", workspace.program()))
            && first[0].contains("invalid_grant"),
        "{first:?}"
    );
    for _ in 0..3 {
        assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 503);
        proxy.force_refresh("acme").await;
    }
    proxy.login("acme").await;
    let both = wait_for(&workspace, 2);
    assert_eq!(both[1], "recovered|acme||it is connected again");
    // What happened while nothing new was to be told would stand between these.
    fall(&proxy, &sandbox, "acme").await;
    let third = wait_for(&workspace, 3);
    assert!(third.len() == 3 && third[2].starts_with("login_required|acme|"), "{third:?}");
    proxy.wait_for_log("hook: noted recovered");
    proxy.wait_for_log("the hook has run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_tells_of_an_old_state_once_and_a_logout_is_no_alarm() {
    let sandbox = sandbox().await;
    let workspace = workspace(&sandbox, NOTE);
    let proxy = workspace.serve();
    proxy.login("left").await;
    assert!(workspace.run(&["logout", "left"]).status.success());
    proxy.login("left").await;
    assert!(workspace.run(&["logout", "left"]).status.success());
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    assert_eq!(wait_for(&workspace, 1).len(), 1);
    proxy.terminate();

    let proxy = workspace.serve();
    let again = wait_for(&workspace, 2);
    assert!(again[1].starts_with("login_required|acme|"), "{again:?}");
    proxy.login("acme").await;
    let all = wait_for(&workspace, 3);
    assert_eq!((all.len(), all[2].as_str()), (3, "recovered|acme||it is connected again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_gets_no_secret_and_no_input_and_may_run_this_program() {
    let sandbox = sandbox().await;
    let hooks = NOTE.replace(
        "on_login_required = \"sh note.sh\"",
        "on_login_required = \"sh note.sh; cat secret.txt; pleo-proxy config show > shown\"",
    );
    let workspace = workspace(&sandbox, &hooks);
    fs::write(workspace.path().join("secret.txt"), "a sandbox-secret, shown by the hook\n")
        .unwrap();
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_pleo-proxy")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = workspace.command(&["--json"]);
    command.env("PATH", format!("{}:{path}", binary.display()));
    command.env("WEBHOOK_TOKEN", "hush-hush").env("LC_MESSAGES", "C");
    let proxy = Proxy::launch(command, &workspace.state());
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    proxy.wait_for_log("the hook has run");
    proxy.wait_for_log("shown by the hook");
    assert!(!proxy.log().contains("sandbox-secret"), "{}", proxy.log());
    let seen = fs::read_to_string(workspace.path().join("environment.login_required")).unwrap();
    for name in ["PATH=", "HOME=", "LC_MESSAGES=C", "PLEO_PROXY_ENVIRONMENT=sandbox"] {
        assert!(seen.contains(name), "{name}: {seen}");
    }
    for secret in ["SECRET", "hush-hush", "sbx-", "TOKEN="] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
    let shown = fs::read_to_string(workspace.path().join("shown")).unwrap();
    assert!(shown.contains("id = \"sandbox-client\""), "{shown}\n{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_that_fails_has_said_is_as_loud_as_its_failure() {
    let sandbox = sandbox().await;
    let hooks = "[hooks]\non_login_required = \"echo the cause; exit 3\"\n";
    let workspace = workspace(&sandbox, hooks);
    let proxy = workspace.serve_with(&["--log", "warn"]);
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    proxy.wait_for_log("the hook failed");
    proxy.wait_for_log("hook: the cause");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_delays_nothing_and_ends_with_the_proxy() {
    let sandbox = sandbox().await;
    let hooks = "[hooks]\non_login_required = \"echo $$ > pid; sleep 1000\"\non_recovered = \"sh note.sh\"\n";
    let workspace = workspace(&sandbox, hooks);
    let proxy = workspace.serve();
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    let pid = workspace.path().join("pid");
    wait_until("the hook runs", || fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')));
    proxy.login("acme").await;
    assert_eq!(proxy.force_refresh("acme").await["outcome"], "refreshed");
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    assert_eq!(events(&workspace), [""; 0], "one at a time for an account");
    proxy.terminate();
    let pid = fs::read_to_string(&pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    wait_until("the hook has ended", || {
        fs::read_to_string(&stat).is_err() || fs::read_to_string(&stat).unwrap().contains(") Z ")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_gets_old_is_told_of() {
    let sandbox = sandbox().await;
    let workspace = workspace(&sandbox, NOTE);
    let proxy = workspace.serve();
    proxy.login("acme").await;
    proxy.terminate();
    let mut record = Record::decode(&fs::read(workspace.record("acme")).unwrap()).unwrap();
    record.grant.as_mut().unwrap().refreshed_at -= 51 * 86_400_000;
    fs::write(workspace.record("acme"), record.encode()).unwrap();
    let down =
        TokenFault { kind: TokenFaultKind::Status, status: Some(503), ..TokenFault::default() };
    sandbox.set_faults(Faults { token_answer: Some(down), ..Faults::default() });
    let _proxy = workspace.serve();
    let told = wait_for(&workspace, 1);
    assert!(
        told[0]
            .starts_with(&format!("grant_age|acme|{} refresh acme --force|", workspace.program()))
            && told[0].contains("for 51 days"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_posts_what_happened() {
    let sandbox = sandbox().await;
    let webhook = Upstream::ok();
    let hooks = "[hooks]\non_login_required = \"./tell-somebody.sh\"\n";
    let workspace = workspace(&sandbox, hooks);
    let example =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tell-somebody.sh");
    fs::copy(example, workspace.path().join("tell-somebody.sh")).unwrap();
    write_private(&workspace.path().join("webhook"), &format!("{}/hush\n", webhook.origin));
    let proxy = workspace.serve();
    proxy.login("acme").await;
    fall(&proxy, &sandbox, "acme").await;
    proxy.wait_for_log("the hook has run");
    let posted = webhook.last();
    let text = String::from_utf8(posted.body.clone()).unwrap();
    assert_eq!(posted.line(), "POST /hush HTTP/1.1");
    assert!(
        text.starts_with("Pleo account acme (sandbox): login_required, ")
            && text.ends_with(&format!("Run: {} login acme", workspace.program())),
        "{text}"
    );
}

#[test]
fn a_secret_in_a_hook_is_not_shown() {
    let workspace = Workspace::new(
        "[hooks]\non_recovered = \"curl -H 'Authorization: Bearer hush-hush-hush-1234' http://x\"\n",
    );
    for arguments in [&["config", "show"][..], &["config", "show", "--json"]] {
        let shown = String::from_utf8(workspace.run(arguments).stdout).unwrap();
        assert!(shown.contains("on_recovered") && shown.contains("curl"), "{shown}");
        assert!(!shown.contains("hush"), "{shown}");
    }
}
