//! No secret is in the environment or the arguments of a program below `exec`, or of what it starts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use serde_json::Value;
use support::command::{SUCCESS, code, stderr, stdout};
use support::{connected_store, sandbox, write_private};

const LASTING_KEY: &str = "a-local-key-that-lasts-for-years";

#[tokio::test(flavor = "multi_thread")]
async fn program_and_grandchild_hold_no_secret() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    write_private(&workspace.path().join("local-key"), LASTING_KEY);
    let record = workspace.stored_json("default")["record"].clone();
    let mut tokens = Vec::new();
    texts(&record["grant"], &mut tokens);
    tokens.retain(|token| token.starts_with("sbx-"));
    assert!(tokens.len() >= 2, "{record}");
    let set = ["--set", "guard.local_key_file=local-key"];
    // A program, what it starts, and the arguments of the process that started it, whose environment
    // nobody but root can read.
    let look = "cat /proc/$$/environ /proc/$$/cmdline; env; sh -c 'env; cat /proc/$$/environ; cat /proc/$PPID/cmdline'; cat /proc/$PPID/cmdline; curl -sS -o /dev/null -w ' %{http_code}' -H \"Pleo-Proxy-Key: $PLEO_PROXY_KEY\" $PLEO_BASE_URL/v1/companies; curl -sS -o /dev/null -w ' %{http_code}' $PLEO_BASE_URL/v1/companies";
    let mut command = workspace.exec(&set, &["sh", "-c", look]);
    command.env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
    command.env("CREDENTIALS_DIRECTORY", "/run/credentials");
    command.env("PLEO_PROXY_UPSTREAM_PROXY", "http://user:outbound-password@proxy.test:3128");
    let ran = command.output().unwrap();
    let seen = stdout(&ran);
    assert_eq!(code(&ran), SUCCESS, "{}", stderr(&ran));
    assert!(seen.contains("PLEO_BASE_URL=http://127.0.0.1:"), "{seen}");
    assert!(seen.ends_with(" 200 403"), "its key opens its listener: {seen}");
    for secret in ["sandbox-secret", "outbound-password", "CREDENTIALS_DIRECTORY", LASTING_KEY] {
        assert!(!seen.contains(secret), "{secret}");
    }
    for token in tokens {
        assert!(!seen.contains(&token), "{token}");
    }
    // Without a key on the listener there is none for the program.
    let ran = workspace.exec_script(&[], "env; curl -sS $PLEO_BASE_URL/v1/companies");
    assert!(!stdout(&ran).contains("PLEO_PROXY_KEY"), "{}", stdout(&ran));
    assert!(stdout(&ran).contains("Harbour Coffee"));
}

/// All texts in a value.
fn texts(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::String(text) => into.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, into)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, into)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbound_proxy_of_the_environment_is_not_asked_for_the_listener() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "[upstream]\nproxy = \"off\"\n").await;
    let script =
        "curl -sS -o /dev/null -w '%{http_code}' $PLEO_BASE_URL/v1/companies; echo \" $NO_PROXY\"";
    let mut command = workspace.exec(&[], &["sh", "-c", script]);
    command.env("http_proxy", "http://127.0.0.1:1").env("NO_PROXY", "internal.test");
    let ran = command.output().unwrap();
    assert_eq!(stdout(&ran), "200 internal.test,127.0.0.1\n", "{}", stderr(&ran));
}
