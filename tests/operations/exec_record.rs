//! `exec --record`: what a program did, to be answered again by `sandbox --replay`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use pleo_proxy::sandbox::COMPANY_ID;
use serde_json::Value;
use support::command::{FAILED, SUCCESS, USAGE, code, stderr, stdout};
use support::{connected_store, sandbox, text};

use super::sandbox_command::alone;

/// A client with reads, a search, pages, and a refusal.
const CLIENT: &str = "set -eu
get() { curl -sS \"$PLEO_BASE_URL$1\"; echo; }
get /v1/companies
get '/v2/employees?limit=2&company_id='$COMPANY
get /v1/companies/$COMPANY
curl -sS -X POST -H 'content-type: application/json' -d '{\"includeDeleted\":false}' \"$PLEO_BASE_URL/v1/accounting-entries:search?company_id=$COMPANY\"
curl -sS -o /dev/null -w '%{http_code}' $PLEO_BASE_URL/v1/nowhere";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_is_replayed_without_credential_and_network() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let file = workspace.path().join("run.har");
    let live = workspace
        .exec(&["--record", "run.har"], &["sh", "-c", CLIENT])
        .env("COMPANY", COMPANY_ID)
        .output()
        .unwrap();
    assert_eq!(code(&live), SUCCESS, "{}", stderr(&live));
    assert!(stdout(&live).contains("Harbour Coffee"), "{}", stdout(&live));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let har: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(har["log"]["version"], "1.2");
    assert_eq!(har["log"]["entries"].as_array().unwrap().len(), 5);
    let stored = workspace.stored_json("default")["record"]["grant"].to_string();
    for token in stored.split('"').filter(|token| token.starts_with("sbx-")) {
        assert!(!har.to_string().contains(token), "{token}");
    }

    let (_replaying, ready) = alone(&workspace, &["--replay", "run.har"]);
    let again = Command::new("sh")
        .args(["-c", CLIENT])
        .env("PLEO_BASE_URL", text(&ready["api"]))
        .env("COMPANY", COMPANY_ID)
        .output()
        .unwrap();
    assert_eq!((code(&again), stdout(&again)), (SUCCESS, stdout(&live)), "{}", stderr(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_can_be_read_whatever_the_program_accepts() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = "curl -sS -H 'Accept-Encoding: gzip, br' $PLEO_BASE_URL/v1/echo";
    for (flags, accepted) in [(&[][..], "gzip, br"), (&["--record", "run.har"][..], "identity")] {
        let ran = workspace.exec_script(flags, script);
        let received: Value = serde_json::from_str(&stdout(&ran)).unwrap();
        let told = received["headers"].to_string();
        assert!(told.contains(&format!("\"{accepted}\"")), "{told}");
    }
    let har = fs::read_to_string(workspace.path().join("run.har")).unwrap();
    assert!(har.contains("identity"), "the response is in it: {har}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_written_whole_also_if_the_program_fails_and_replaces_nothing() {
    let sandbox = sandbox().await;
    let workspace = connected_store(&sandbox, "").await;
    let script = "curl -sS -o /dev/null $PLEO_BASE_URL/v1/companies; test ! -e run.har && exit 7";
    let failed = workspace.exec_script(&["--record", "run.har"], script);
    assert_eq!(code(&failed), 7, "{}", stderr(&failed));
    let har: Value =
        serde_json::from_slice(&fs::read(workspace.path().join("run.har")).unwrap()).unwrap();
    assert_eq!(har["log"]["entries"].as_array().unwrap().len(), 1);

    let script = "touch started";
    for (file, why) in
        [("run.har", "exists; choose another name"), ("no/run.har", "cannot be written")]
    {
        let refused = workspace.exec_script(&["--record", file], script);
        assert_eq!(code(&refused), USAGE);
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
    assert!(!workspace.path().join("started").exists());

    // What appears meanwhile is not replaced, and that is a failure.
    let late = workspace.exec_script(&["--record", "late.har"], "echo mine > late.har");
    assert_eq!(code(&late), FAILED, "{}", stderr(&late));
    assert_eq!(fs::read_to_string(workspace.path().join("late.har")).unwrap(), "mine\n");
    let left: Vec<_> =
        fs::read_dir(workspace.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_str().unwrap().starts_with(".tmp")), "{left:?}");
}
