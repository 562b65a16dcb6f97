//! `examples/ci`: a program is tested against a recording, without network and credential.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::process::{Command, Stdio};

use crate::support::Workspace;
use crate::support::documents::{TwoAccounts, example, is_there, root, shown, skipped};

/// The commands of the workflow, without those that install.
fn steps() -> Vec<String> {
    let workflow = fs::read_to_string(example("ci/github-workflow.yml")).unwrap();
    let runs = workflow.lines().filter_map(|line| line.trim().strip_prefix("run: "));
    runs.filter(|step| !step.starts_with("cargo install")).map(str::to_owned).collect()
}

/// A shell that sees no network but its own loopback, if this machine allows it.
fn isolated() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net", "sh", "-c"]);
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up"]);
    if probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return unshare;
    }
    skipped(
        "the CI recipe without a network",
        "unshare and ip are needed, and the right to use them",
    );
    let mut shell = Command::new("sh");
    shell.arg("-c");
    shell
}

#[test]
fn the_workflow_runs_without_network_and_credential() {
    if !is_there("python3") {
        return skipped("examples/ci", "install python3 to check it");
    }
    let steps = steps();
    assert_eq!(steps.len(), 2, "{steps:?}");
    for step in steps {
        let workspace = Workspace::new("");
        let home = workspace.path().join("home");
        fs::create_dir(&home).unwrap();
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_pleo-proxy")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        // As GitHub runs it: each step by itself, a failure in a pipe is one.
        let script = format!("ip link set lo up 2>/dev/null; set -e; {step}");
        let mut command = isolated();
        command.arg(script).current_dir(root()).stdin(Stdio::null());
        command.env_clear().env("PATH", path).env("HOME", &home).env("TMPDIR", workspace.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{step}: {}", shown(&output));
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "{step} left something behind");
        let left: Vec<_> = fs::read_dir(workspace.path()).unwrap().collect();
        assert_eq!(left.len(), 2, "beside home and configuration: {left:?}");
    }
}

#[test]
fn the_recording_holds_no_secret() {
    let recording = fs::read_to_string(example("ci/recorded.har")).unwrap().to_lowercase();
    for word in ["\"authorization\"", "bearer", "sandbox-secret", "refresh_token"] {
        assert!(!recording.contains(word), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_can_be_made_of_a_program_and_replayed() {
    if !is_there("python3") {
        return skipped("examples/ci/record.sh", "install python3 to check it");
    }
    let setup = TwoAccounts::new().await;
    // A copy, because the recording is written beside the scripts.
    for file in ["record.sh", "test.sh"] {
        fs::copy(example("ci").join(file), setup.workspace.path().join(file)).unwrap();
    }
    let client = example("client.py");
    let mut said = Vec::new();
    for script in ["./record.sh", "./test.sh"] {
        let output =
            setup.command(script, &["python3", client.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{script}: {}", shown(&output));
        said.push(String::from_utf8(output.stdout).unwrap());
    }
    assert!(said[0].contains("45 entries"), "{}", said[0]);
    let own = |said: &str| -> Vec<String> {
        said.lines()
            .filter(|line| line.contains(" entries") || line.contains('Z'))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(own(&said[0]), own(&said[1]));
}
