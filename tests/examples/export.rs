//! The export of `examples/export.py`: taken, stopped, resumed, finished, with its receipts.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use pleo_proxy::sandbox::COMPANY_ID;
use serde_json::Value;

use crate::support::documents::{TwoAccounts, example, is_there, shown, skipped};

struct Export {
    setup: TwoAccounts,
    folder: PathBuf,
}

impl Export {
    /// Nothing, if there is no Python.
    async fn new() -> Option<Self> {
        if !is_there("python3") {
            skipped("examples/export.py", "install python3 to check it");
            return None;
        }
        let setup = TwoAccounts::new().await;
        Some(Self { folder: setup.workspace.path().join("export"), setup })
    }

    fn command(&self) -> Command {
        let (script, folder) = (example("export.py"), self.folder.to_str().unwrap());
        let mut command = self.setup.command("python3", &[script.to_str().unwrap(), folder]);
        command.args([COMPANY_ID]).env_remove("NO_PROXY").env_remove("no_proxy");
        command
    }

    /// Runs it to its end and returns what it says.
    fn run(&self) -> String {
        let output = self.command().output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        shown(&output)
    }

    async fn get(&self, path: &str) -> Value {
        // The default account is that of the first company.
        let response = self.setup.proxy.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        response.json().await.unwrap()
    }

    /// Jobs from the oldest on: status and number of items.
    async fn jobs(&self) -> Vec<(String, u64)> {
        let jobs = self.get(&format!("/v3/export-jobs?company_id={COMPANY_ID}")).await;
        let jobs = jobs["data"].as_array().unwrap().iter();
        let job = |job: &Value| {
            (job["status"].as_str().unwrap().to_owned(), job["numberOfItems"].as_u64().unwrap())
        };
        jobs.map(job).collect()
    }

    /// Names and times of the files with an ending.
    fn files(&self, ending: &str) -> Vec<(PathBuf, SystemTime)> {
        let files = fs::read_dir(&self.folder).unwrap().map(|file| file.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|it| it == ending));
        let mut files: Vec<_> = files
            .map(|path| (path.clone(), fs::metadata(&path).unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    }
}

fn number(path: &Path) -> &str {
    path.to_str().unwrap().trim_end_matches(".json").rsplit('-').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_stopped_goes_on_and_makes_nothing_twice() {
    let Some(export) = Export::new().await else { return };
    // The job that waits in the sandbox.
    let said = export.run();
    assert!(said.contains("1 booked, 0 before, 0 failed: completed"), "{said}");

    // All other entries. In the second page something is in the way of a file.
    let obstacle = export.folder.join("e4721e50-0000-4000-8000-00000000001e.json.part");
    fs::create_dir(&obstacle).unwrap();
    let stopped = export.command().output().unwrap();
    assert!(!stopped.status.success(), "{}", shown(&stopped));
    assert_eq!(export.jobs().await.last().unwrap().0, "in_progress");
    let before = (export.files("json"), export.files("pdf"));
    assert!(before.0.len() > 20, "{before:?}");

    fs::remove_dir(&obstacle).unwrap();
    let said = export.run();
    assert!(said.contains("24 booked, 20 before, 0 failed: completed"), "{said}");
    assert_eq!(export.jobs().await, [("completed".into(), 1), ("completed".into(), 44)]);
    let after = (export.files("json"), export.files("pdf"));
    assert!(before.0.iter().all(|file| after.0.contains(file)), "an item was booked twice");
    assert!(before.1.iter().all(|file| after.1.contains(file)), "a receipt was fetched twice");
    let numbers: Vec<_> = after.0.iter().map(|(path, _)| number(path).to_owned()).collect();
    let all: Vec<_> = (1..=45).map(|number| format!("{number:012x}")).collect();
    assert_eq!(numbers, all);

    // Receipts came from their own host, each once, and without a token.
    let counters = export.setup.sandbox.counters();
    assert_eq!(counters.files_served, u64::try_from(after.1.len()).unwrap());
    assert_eq!(counters.files_with_authorization, 0);
    let receipt = fs::read(&after.1[0].0).unwrap();
    assert!(receipt.starts_with(b"%PDF"));
    assert!(export.run().contains("nothing to export"));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_that_cannot_be_fetched_are_reported_to_pleo() {
    let Some(export) = Export::new().await else { return };
    // Receipts go through this proxy, which is not there; requests to pleo-proxy do not.
    let output = export.command().env("http_proxy", "http://127.0.0.1:1").output().unwrap();
    let said = shown(&output);
    assert!(said.contains("0 booked, 0 before, 1 failed: completed_with_errors"), "{said}");
    assert_eq!(export.jobs().await, [("completed_with_errors".into(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_waits_when_it_is_asked_to() {
    let Some(export) = Export::new().await else { return };
    let fault = serde_json::json!({
        "api_answer": {"kind": "status", "status": 429, "retry_after": 0, "count": 2}
    });
    export.setup.sandbox.set_faults(serde_json::from_value(fault).unwrap());
    assert!(export.run().contains("1 booked, 0 before, 0 failed: completed"));
}
