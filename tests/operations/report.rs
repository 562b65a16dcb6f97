//! `report` and `/api/report`: which scopes and operations the accounts use.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use support::command::{SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Workspace, sandbox};

/// The report about one account, without its times.
fn of(report: &Value, name: &str) -> Value {
    let accounts = report["accounts"].as_array().unwrap();
    let mut account = accounts.iter().find(|account| account["account"] == name).unwrap().clone();
    account.as_object_mut().unwrap().remove("refresh_token_age_s");
    for operation in account["operations"].as_array_mut().unwrap() {
        assert!(operation["last_at"].as_i64().unwrap() > 1_600_000_000_000, "{operation}");
        operation.as_object_mut().unwrap().remove("last_at");
    }
    account
}

fn expected() -> Value {
    json!({
        "account": "acme",
        "label": "Harbour Coffee ApS",
        "asked": ["companies:read"],
        "granted": ["companies:read"],
        "used": ["companies:read"],
        "smallest_scopes": ["companies:read", "export-jobs:read"],
        "unknown_scope_operations": [],
        "deprecated": [{
            "operation": "GET /v1/export-jobs",
            "requests": 1,
            "successor": "GET /v3/export-jobs",
        }],
        "read_only_would_do": true,
        "operations": [
            {"operation": "GET /v1/export-jobs", "requests": 1, "errors": 1},
            {"operation": "GET /v1/companies", "requests": 2, "errors": 0},
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_what_was_used_also_after_the_proxy_has_ended() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("acme").await;
    for path in ["/@acme/v1/companies", "/v1/companies?limit=1", "/v1/export-jobs"] {
        proxy.get(path).await.bytes().await.unwrap();
    }
    proxy.get("/@nobody/v1/companies").await.bytes().await.unwrap();
    let running = json_output(&workspace.run(&["report", "--json"]));
    assert_eq!(of(&running, "acme"), expected());
    assert_eq!(running["accounts"].as_array().unwrap().len(), 1, "{running}");
    let unknown = workspace.run(&["report", "nobody"]);
    assert_eq!(code(&unknown), USAGE);
    assert!(stderr(&unknown).contains("no account nobody"), "{}", stderr(&unknown));
    let invalid = proxy.admin(Method::GET, "/api/report?account=UPPER", None).await;
    assert_eq!(invalid.status(), 404);

    let (ended, log) = proxy.terminate();
    assert!(ended.success(), "{log}");
    let stored = json_output(&workspace.run(&["report", "acme", "--json"]));
    assert_eq!(of(&stored, "acme"), expected());
    assert_eq!(stored["since"], running["since"]);
    let text = workspace.run(&["report"]);
    assert_eq!(code(&text), SUCCESS, "{}", stderr(&text));
    for line in [
        "\nacme (Harbour Coffee ApS):\n",
        "  enough      companies:read export-jobs:read\n",
        "  deprecated  GET /v1/export-jobs (requests: 1); use GET /v3/export-jobs\n",
        "  read only   guard.read_only = true would have refused nothing\n",
    ] {
        assert!(stdout(&text).contains(line), "{line} is not in:\n{}", stdout(&text));
    }
    let file = workspace.state().join("operation_usage.json");
    let kept = fs::read_to_string(file).unwrap();
    assert!(!kept.contains("limit") && kept.contains("GET /v1/companies"), "{kept}");
    let status = json_output(&workspace.run(&["status", "--json"]));
    assert_eq!(status["accounts"].as_array().unwrap().len(), 1, "the counters are no account");
}
