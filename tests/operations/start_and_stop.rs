//! How the proxy starts and stops: ports, file modes, signals, and requests that are still running.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::sandbox_command::first_line;
use pleo_proxy::sandbox::{Faults, Sandbox};
use serde_json::Value;
use support::command::{FAILED, SUCCESS, code, stderr, stdout};
use support::{KilledOnDrop, Proxy, Workspace, client, sandbox, text, wait_until, write_private};

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below a folder with its mode, sockets and all.
pub(super) fn modes(folder: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), metadata.is_dir(), metadata.mode() & 0o7777));
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ready_line_names_both_addresses() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.wait_for_log("pleo-proxy is ready");
    let log = proxy.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("is ready")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&proxy.api) && lines[0].contains(&proxy.admin), "{lines:?}");
    assert!(!proxy.log().contains("#key="), "stderr is no terminal");
    wait_until("how to open the page", || {
        proxy.log().contains("pleo-proxy") && proxy.log().contains(" open\n")
    });
    assert!(!proxy.log().contains('\u{1b}'));
    let log = proxy.terminate();
    assert_eq!(log.0.code(), Some(SUCCESS));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_in_use_are_reported_with_the_program_that_has_them() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    let taken = |setting: &str, address: &str| {
        workspace.run(&["serve", "--set", &format!("{setting}={address}")])
    };
    for (setting, address) in
        [("listen.api", proxy.address()), ("listen.admin", proxy.admin_address())]
    {
        let refused = taken(setting, &address.to_string());
        let said = stderr(&refused);
        assert_eq!(code(&refused), FAILED, "{said}");
        assert!(
            said.contains(&proxy.child.id().to_string()) && said.contains("pleo-proxy stop"),
            "{said}"
        );
        assert!(said.contains(setting), "{said}");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = taken("listen.api", &other.local_addr().unwrap().to_string());
    assert_eq!(code(&refused), FAILED);
    let said = stderr(&refused);
    assert!(
        said.contains("stop the program")
            && said.contains("listen.api")
            && !said.contains("(process"),
        "{said}"
    );
    // The other family counts too: `localhost` must not lead to somebody else.
    let sixth = TcpListener::bind("[::1]:0").unwrap();
    let twin = format!("127.0.0.1:{}", sixth.local_addr().unwrap().port());
    assert_eq!(code(&taken("listen.api", &twin)), FAILED);
    assert_eq!(
        proxy.http.get(format!("{}/health", proxy.admin)).send().await.unwrap().status(),
        200
    );
}

/// A request that never ends, and the proxy that waits for it.
async fn busy(
    workspace: &Workspace,
    sandbox: &Sandbox,
) -> (Proxy, tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>) {
    let proxy = workspace.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { latency_ms: 60_000, ..Faults::default() });
    let requests = sandbox.counters().api_requests;
    let request = tokio::spawn(client().get(format!("{}/v1/companies", proxy.api)).send());
    wait_until("the request is under way", || sandbox.counters().api_requests > requests);
    (proxy, request)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_and_says_what_may_be_lost() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let (mut proxy, request) = busy(&workspace, &sandbox).await;
        sandbox.set_faults(Faults { latency_ms: 60_000, ..Faults::default() });
        proxy.signal(first);
        proxy.wait_for_log("ending");
        // Twice in the same moment is once.
        tokio::time::sleep(Duration::from_millis(150)).await;
        proxy.signal(second);
        assert_eq!(proxy.child.wait().unwrap().code(), Some(FAILED));
        proxy.wait_for_log("may need a login");
        assert!(modes(&workspace.state().join("run")).is_empty(), "the run file is gone");
        assert!(request.await.unwrap().is_err());
        sandbox.set_faults(Faults::default());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_request_that_was_sent_is_waited_for_and_saved() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let mut proxy = workspace.serve();
    proxy.login("default").await;
    sandbox.set_faults(Faults { token_latency_after_ms: 700, ..Faults::default() });
    let posts = sandbox.counters().token_posts;
    let url = format!("{}/api/accounts/default/refresh?force=true", proxy.admin);
    let asked = tokio::spawn(client().post(url).bearer_auth(&proxy.key).send());
    wait_until("the token request is sent", || sandbox.counters().token_posts > posts);
    proxy.signal("TERM");
    assert_eq!(proxy.child.wait().unwrap().code(), Some(SUCCESS), "{}", proxy.log());
    drop(asked);
    assert_eq!(workspace.stored_json("default")["record"]["generation"], 2);
    assert_eq!(workspace.stored_json("default")["record"]["intent"], Value::Null);
    sandbox.set_faults(Faults::default());
    assert_eq!(workspace.serve().get("/v1/companies").await.status(), 200);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_private_whatever_the_umask() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let open = |arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("umask 000; exec {} {arguments}", env!("CARGO_BIN_EXE_pleo-proxy"));
        command
            .args(["-c", &script])
            .current_dir(workspace.path())
            .env("PLEO_PROXY_CLIENT_SECRET", "sandbox-secret");
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::null());
        command
    };
    let mut child = KilledOnDrop(open("--json").spawn().unwrap());
    let ready = first_line(&mut child.0);
    let key = fs::read_to_string(workspace.state().join("admin.key")).unwrap();
    let admin = text(&ready["admin"]);
    let begin =
        client().post(format!("{admin}/api/accounts/default/login")).bearer_auth(key.trim());
    let begun: Value = begin.send().await.unwrap().json().await.unwrap();
    let consent = client().get(text(&begun["authorize_url"])).send().await.unwrap();
    let back = consent.headers()["location"].to_str().unwrap();
    assert_eq!(client().get(back).send().await.unwrap().status(), 200);
    assert_eq!(open("refresh --force").status().unwrap().code(), Some(SUCCESS));
    let found = modes(&workspace.path().join("state"));
    assert!(found.len() >= 6, "{found:?}");
    for (path, is_folder, mode) in found {
        assert_eq!(mode, if is_folder { 0o700 } else { 0o600 }, "{}", path.display());
    }
    assert_eq!(fs::metadata(workspace.path().join("state")).unwrap().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_what_is_missing_in_words_that_can_be_pasted() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    fs::rename(workspace.path().join("proxy.toml"), workspace.path().join("my own.toml")).unwrap();
    write_private(&workspace.path().join("proxy.toml"), "environment = \"sandbox\"\n");
    let mine = ["--config", "my own.toml", "--set", "default_account=acme"];
    let proxy = workspace.serve_with(&mine);
    let advice = "pleo-proxy --config 'my own.toml' --set default_account=acme login acme";
    proxy.wait_for_log(advice);
    assert!(!ready_fix(&proxy).await.is_null());
    let nobody = workspace.run(&[&["status"], &mine[..]].concat());
    assert!(stdout(&nobody).contains("pleo-proxy --config 'my own.toml'"), "{}", stdout(&nobody));
    proxy.login("acme").await;
    assert!(ready_fix(&proxy).await.is_null());
    assert_eq!(code(&workspace.run(&[&["logout", "acme"], &mine[..]].concat())), SUCCESS);
    drop(proxy);
    // What a login ended as is more than that one is missing.
    let again = workspace.serve_with(&mine);
    again.wait_for_log("No account can serve requests: account acme needs a login");
    again.wait_for_log(advice);
    drop(again);
    let served = workspace.serve_with(&[&mine[..], &["--set", "client.id="]].concat());
    served.wait_for_log("client.id is not set");
    assert!(
        !served.log().contains("is connected yet"),
        "a login is not the next step: {}",
        served.log()
    );
}

async fn ready_fix(proxy: &Proxy) -> Value {
    let ready: Value =
        client().get(format!("{}/ready", proxy.admin)).send().await.unwrap().json().await.unwrap();
    ready["fix"].clone()
}
