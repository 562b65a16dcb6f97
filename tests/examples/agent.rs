//! `examples/agent`: what an agent is told is true, and it can change nothing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::process::Output;

use crate::support::documents::{TwoAccounts, example, shown};

/// The commands in the instructions.
fn commands() -> Vec<String> {
    let instructions = fs::read_to_string(example("agent/INSTRUCTIONS.md")).unwrap();
    let blocks = instructions.split("```sh\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What an agent that runs a command gets.
fn run_as_agent(setup: &TwoAccounts, account: &str, command: &str) -> Output {
    let script = example("agent/run.sh");
    let script = format!("{} --account {account} -- sh -euc \"$AGENT\"", script.display());
    setup.command("sh", &["-c", &script]).env("AGENT", command).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reads_by_its_instructions_and_changes_nothing() {
    let setup = TwoAccounts::new().await;
    let commands = commands();
    let expected = ["subjectURN", "\"performedAt\"", "\"data\""];
    assert_eq!(commands.len(), expected.len());
    for (command, expected) in commands.iter().zip(expected) {
        for account in ["default", "acme"] {
            let output = run_as_agent(&setup, account, command);
            let said = shown(&output);
            assert!(output.status.success() && said.contains(expected), "{command}{said}");
            assert!(!said.contains("\"type\":\""), "an error of Pleo's: {command}{said}");
        }
    }

    let write =
        "curl -sS \"$PLEO_BASE_URL/v1/vendors\" -H 'content-type: application/json' -d '{}'";
    let said = shown(&run_as_agent(&setup, "default", write));
    assert!(said.contains("\"code\":\"read_only\""), "{said}");

    let environment = shown(&run_as_agent(&setup, "default", "env"));
    assert!(environment.contains("PLEO_BASE_URL=http://127.0.0.1:"), "{environment}");
    assert!(!environment.contains("sandbox-secret"), "{environment}");
}
