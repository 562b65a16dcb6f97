//! Records that somebody else has touched: their account stops, the others go on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::disk_faults::mode;
use pleo_proxy::sandbox::Sandbox;
use pleo_proxy::store::Record;
use support::{Proxy, Workspace, problem, sandbox, text};

async fn two_accounts() -> (Sandbox, Workspace, Proxy) {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.login("other").await;
    (sandbox, workspace, proxy)
}

async fn other(proxy: &Proxy) -> (u16, String) {
    problem(proxy.get("/@other/v1/companies").await).await
}

/// A record that was touched stops its account, with the words that mend it, and no other one.
async fn stops_only_its_account(proxy: &Proxy, fix: &str) {
    let account =
        proxy.wait_for_account("other", |account| account["state"] == "store_error").await;
    assert!(text(&account["why"]).contains(fix), "{account}");
    assert_eq!(other(proxy).await, (503, "store_error".into()));
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
}

async fn heals(proxy: &Proxy) {
    proxy.wait_for_account("other", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@other/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_others_may_read_stops_its_account_until_it_is_private() {
    let (_sandbox, workspace, proxy) = two_accounts().await;
    let path = workspace.record("other");
    mode(&path, 0o644);
    stops_only_its_account(&proxy, &format!("chmod 600 {}", path.display())).await;
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644,
        "nothing is repaired on the sly"
    );
    mode(&path, 0o600);
    heals(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_a_symlink_or_corrupt_is_left_alone_and_heals_when_it_is_back() {
    let (sandbox, workspace, proxy) = two_accounts().await;
    let (path, away) = (workspace.record("other"), workspace.path().join("victim"));
    fs::rename(&path, &away).unwrap();
    symlink(&away, &path).unwrap();
    stops_only_its_account(&proxy, "not a regular file").await;
    assert!(path.symlink_metadata().unwrap().is_symlink() && record_at(&away).grant.is_some());
    fs::rename(&away, &path).unwrap();
    heals(&proxy).await;

    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    stops_only_its_account(&proxy, "corrupt").await;
    assert_eq!(fs::read(&path).unwrap(), &good[..good.len() / 2], "nothing is overwritten");
    fs::write(&path, &good).unwrap();
    heals(&proxy).await;
    assert_eq!(sandbox.counters().refreshes, 0);
}

fn record_at(path: &Path) -> Record {
    Record::decode(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_put_in_the_place_of_a_corrupt_record_does_not_replay_its_token() {
    let (sandbox, workspace, proxy) = two_accounts().await;
    let path = workspace.record("default");
    let backup = fs::read(&path).unwrap();
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    fs::write(&path, "{").unwrap();
    proxy.wait_for_account("default", |account| account["state"] == "store_error").await;
    fs::write(&path, backup).unwrap();
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed", "{}", proxy.log());
    assert_eq!(proxy.account("default").await["generation"], 3);
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_too_permissive_for_a_moment_recovers() {
    let (_sandbox, workspace, proxy) = two_accounts().await;
    let path = workspace.record("default");
    // For a moment between two looks at the records: the next one sees nothing that changed.
    mode(&path, 0o644);
    let response = proxy.force_refresh("default").await;
    mode(&path, 0o600);
    assert_eq!(response["account"]["state"], "store_error", "{response}");
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_record_logs_out_and_recovers_when_it_returns() {
    let (_sandbox, workspace, proxy) = two_accounts().await;
    let (path, away) = (workspace.record("other"), workspace.path().join("away"));
    fs::rename(&path, &away).unwrap();
    proxy.wait_for_account("other", |account| account["state"] == "login_required").await;
    assert_eq!(other(&proxy).await, (503, "login_required".into()));
    fs::rename(&away, &path).unwrap();
    heals(&proxy).await;
}

#[test]
fn a_folder_that_is_open_to_others_or_not_a_folder_stops_the_start() {
    let workspace = Workspace::new("environment = \"sandbox\"\n[store]\npath = \"state\"\n");
    let state = workspace.state();
    let refused = |fix: &str| {
        for arguments in [&["serve"] as &[&str], &["status"], &["refresh"]] {
            let output = workspace.run(arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains(fix), "{arguments:?}: {said}");
        }
    };
    fs::create_dir_all(&state).unwrap();
    mode(&state, 0o777);
    refused(&format!("chmod 700 {}", state.display()));
    assert_eq!(
        fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o777,
        "nothing is repaired on the sly"
    );
    let real = workspace.path().join("real");
    fs::rename(&state, &real).unwrap();
    mode(&real, 0o700);
    symlink(&real, &state).unwrap();
    refused("symlink");
    fs::remove_file(&state).unwrap();
    fs::write(&state, "").unwrap();
    refused("state folder");
}
