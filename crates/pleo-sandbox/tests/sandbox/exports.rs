//! The export flow from the first job to the last.

use super::test_client::*;
use pleo_sandbox::{COMPANY_ID, Faults, SECOND_COMPANY_ID};
use serde_json::{Value, json};

const JOBS: &str = "/v3/export-jobs";
const EVENTS: &str = "/v3/export-job-events";

/// A client that may export, and entries of the first company.
struct Integration {
    client: TestClient,
    token: String,
    entries: Vec<String>,
}

impl Integration {
    async fn new() -> Self {
        let client = TestClient::new().await;
        let token = client.login().await.access;
        let page = client.search(&token, &format!("company_id={COMPANY_ID}&limit=100")).await;
        let rows = page["data"].as_array().unwrap();
        let entries = rows.iter().map(|row| text(&row["id"]).to_owned()).collect();
        Self { client, token, entries }
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.client.send(&self.token, method, path, body).await
    }

    async fn get(&self, path: &str) -> Value {
        self.client.json(&self.token, path).await
    }

    async fn event(&self, job: &str, event: &str) -> u16 {
        self.send("POST", EVENTS, json!({ "jobId": job, "event": event })).await.0
    }

    async fn create(&self, entries: &[String]) -> (u16, Value) {
        let body = json!({ "companyId": COMPANY_ID, "accountingEntryIds": entries });
        self.send("POST", JOBS, body).await
    }

    /// The job that waits when the sandbox starts.
    async fn waiting(&self) -> String {
        let jobs = self.get(&format!("{JOBS}?statuses=pending&statuses=in_progress")).await;
        text(&jobs["data"][0]["id"]).to_owned()
    }

    async fn export_status(&self, entry: &str) -> Value {
        let entry = self.get(&format!("/v1/accounting-entries/{entry}")).await;
        entry["data"]["exportStatus"].clone()
    }

    /// A job of two entries, after the one that waited was failed.
    async fn job(&self) -> String {
        assert_eq!(self.event(&self.waiting().await, "failed").await, 202);
        let (status, job) = self.create(&self.entries[..2]).await;
        assert_eq!(status, 201, "{job}");
        text(&job["data"]["id"]).to_owned()
    }
}

#[tokio::test]
async fn a_job_is_taken_worked_off_and_finished() {
    let integration = Integration::new().await;
    let job = integration.job().await;
    let entries = &integration.entries;
    assert_eq!(integration.export_status(&entries[0]).await, "QUEUED");
    assert_eq!(integration.event(&job, "started").await, 202);
    assert_eq!(integration.export_status(&entries[0]).await, "EXPORTING");
    let running = integration.get(&format!("{JOBS}/{job}")).await;
    assert_eq!(running["data"]["status"], "in_progress");
    assert!(running["data"]["startedAt"].is_string());

    let items = integration.get(&format!("/v3/export-items?job_id={job}")).await;
    assert_eq!(items["pagination"]["total"], 2);
    let line = &items["data"][0]["accountingEntryLines"][0];
    let gross = line["lineAmount"]["inSupplierCurrency"]["value"].as_f64().unwrap();
    let net = line["netAmount"]["inSupplierCurrency"]["value"].as_f64().unwrap();
    assert!((net * 1.25 - gross).abs() < 0.02, "{net} and {gross}");

    let changes = json!([
        { "accountingEntryId": entries[0], "status": "successful", "externalId": "B-1" },
        { "accountingEntryId": entries[1], "status": "failed", "failureReason": "no such account",
          "failureReasonType": "account_unknown" },
        { "accountingEntryId": entries[2], "status": "successful" },
    ]);
    let path = format!("{JOBS}/{job}/items");
    let (status, updated) = integration.send("PUT", &path, changes).await;
    assert_eq!((status, updated["data"].as_array().unwrap().len()), (200, 2));
    assert_eq!(updated["data"][0]["externalId"], "B-1");
    assert_eq!(updated["errors"][0]["type"], "ACCOUNTING_ENTRY_DOES_NOT_EXIST");
    assert_eq!(updated["errors"][0]["accountingEntryId"], json!(entries[2]));
    assert_eq!(integration.export_status(&entries[0]).await, "EXPORTED");
    assert_eq!(integration.export_status(&entries[1]).await, "NOT_EXPORTED");
    let failed = integration.get(&format!("{path}?status=failed")).await;
    assert_eq!(failed["data"][0]["failureReasonType"], "account_unknown");

    assert_eq!(integration.event(&job, "completed_with_errors").await, 202);
    let finished = integration.get(&format!("{JOBS}/{job}")).await;
    assert_eq!(finished["data"]["status"], "completed_with_errors");
    assert!(finished["data"]["completedAt"].is_string());
    let (status, refused) = integration.send("PUT", &path, json!([])).await;
    assert_eq!((status, &refused["type"]), (422, &json!("EXPORT_JOB_STATUS_UNPROCESSABLE")));
    let items = format!("/v3/export-items?job_id={job}");
    let (status, refused) = integration.send("GET", &items, Value::Null).await;
    assert_eq!((status, &refused["type"]), (422, &json!("EXPORT_JOB_STATUS_UNPROCESSABLE")));
    assert_eq!(integration.create(&integration.entries[2..3]).await.0, 201);
}

#[tokio::test]
async fn a_company_exports_one_job_at_a_time() {
    let integration = Integration::new().await;
    let (status, refused) = integration.create(&integration.entries[1..2]).await;
    assert_eq!((status, &refused["type"]), (409, &json!("EXPORT_ALREADY_IN_PROGRESS")));
    let waiting = integration.waiting().await;
    integration.event(&waiting, "started").await;
    assert_eq!(integration.create(&integration.entries[1..2]).await.0, 409);
    integration.event(&waiting, "completed").await;
    assert_eq!(integration.create(&integration.entries[1..2]).await.0, 201);
    let jobs = integration.get(JOBS).await;
    assert_eq!(jobs["data"][0]["id"], json!(waiting), "the oldest job comes first");
}

#[tokio::test]
async fn a_status_changes_in_its_order_only() {
    let integration = Integration::new().await;
    let job = integration.waiting().await;
    for event in ["completed", "completed_with_errors"] {
        assert_eq!(integration.event(&job, event).await, 422, "{event} of a pending job");
    }
    assert_eq!(integration.event(&job, "started").await, 202);
    assert_eq!(integration.event(&job, "started").await, 422);
    assert_eq!(integration.event(&job, "completed").await, 202);
    for event in ["started", "failed", "completed"] {
        let body = json!({ "jobId": job, "event": event });
        let (status, refused) = integration.send("POST", EVENTS, body).await;
        assert_eq!(
            (status, &refused["type"]),
            (422, &json!("INVALID_EXPORT_JOB_STATUS_CHANGE")),
            "{event} of a completed job"
        );
    }
    let items = integration.get(&format!("{JOBS}/{job}/items")).await;
    assert_eq!(items["data"][0]["status"], "abandoned", "what is left over is abandoned");
    assert_eq!(integration.event("00000000-0000-4000-8000-000000000000", "started").await, 404);
}

#[tokio::test]
async fn a_failed_job_says_why() {
    let integration = Integration::new().await;
    let job = integration.waiting().await;
    let event = json!({ "jobId": job, "event": "failed", "failureReason": "no key",
        "failureReasonType": "accounting_system_authentication_failure" });
    assert_eq!(integration.send("POST", EVENTS, event).await.0, 202);
    let failed = integration.get(&format!("{JOBS}/{job}")).await["data"].clone();
    assert_eq!((&failed["status"], &failed["failureReason"]), (&json!("failed"), &json!("no key")));
    assert!(failed["completedAt"].is_null());
}

#[tokio::test]
async fn a_batch_holds_a_hundred_items() {
    let integration = Integration::new().await;
    let path = format!("{JOBS}/{}/items", integration.waiting().await);
    let batch = |count: usize| {
        let item = json!({ "accountingEntryId": integration.entries[5], "status": "successful" });
        json!(vec![item; count])
    };
    let (status, updated) = integration.send("PUT", &path, batch(100)).await;
    assert_eq!((status, updated["errors"].as_array().unwrap().len()), (200, 100));
    let (status, refused) = integration.send("PUT", &path, batch(101)).await;
    assert_eq!((status, &refused["type"]), (413, &json!("EXPORT_JOB_ITEMS_UPDATE_LIMIT")));
    for odd in [json!({}), json!([1]), json!([{ "status": "odd" }])] {
        assert_eq!(integration.send("PUT", &path, odd.clone()).await.0, 400, "{odd}");
    }
}

#[tokio::test]
async fn an_exported_entry_stays_exported() {
    let integration = Integration::new().await;
    let job = integration.job().await;
    let path = format!("{JOBS}/{job}/items");
    let entry = &integration.entries[0];
    let change = |status: &str| json!([{ "accountingEntryId": entry, "status": status }]);
    let (_, updated) = integration.send("PUT", &path, change("successful")).await;
    assert!(updated["data"][0]["exportedAt"].is_string());
    let (status, refused) = integration.send("PUT", &path, change("failed")).await;
    assert_eq!(status, 200);
    assert_eq!(refused["errors"][0]["type"], "EXPORT_ENTRY_STATUS_UPDATE_FAILED");
    assert_eq!(integration.export_status(entry).await, "EXPORTED");
}

#[tokio::test]
async fn a_job_that_nobody_updates_expires() {
    let integration = Integration::new().await;
    let job = integration.waiting().await;
    let faults = Faults { export_job_life_s: Some(0), ..Faults::default() };
    integration.client.sandbox.set_faults(faults);
    let expired = integration.get(&format!("{JOBS}/{job}")).await["data"].clone();
    assert_eq!(
        (&expired["status"], &expired["failureReasonType"]),
        (&json!("failed"), &json!("job_expired"))
    );
    assert_eq!(integration.event(&job, "started").await, 422);
    integration.client.sandbox.set_faults(Faults::default());
    assert_eq!(integration.create(&integration.entries[..1]).await.0, 201);
}

#[tokio::test]
async fn contra_accounts_and_currencies_stop_an_export_by_version() {
    let integration = Integration::new().await;
    let job = integration.waiting().await;
    let kind = async |path: &str| {
        let (status, answer) = integration.send("GET", path, Value::Null).await;
        (status, answer["type"].clone())
    };
    let items = |version: u32| format!("/v{version}/export-items?job_id={job}");
    let faults = Faults { missing_contra_accounts: true, ..Faults::default() };
    integration.client.sandbox.set_faults(faults);
    assert_eq!(kind(&items(3)).await, (400, json!("MISSING_CONTRA_ACCOUNTS")));
    assert_eq!(integration.create(&integration.entries[..1]).await.0, 400);
    assert_eq!(kind(&items(2)).await.0, 200);
    let faults = Faults { multi_currency: true, ..Faults::default() };
    integration.client.sandbox.set_faults(faults);
    assert_eq!(kind(&items(2)).await, (400, json!("UNSUPPORTED_API_VERSION")));
    assert_eq!(kind(&items(3)).await.0, 200);
}

#[tokio::test]
async fn a_job_takes_entries_of_its_own_company_only() {
    let integration = Integration::new().await;
    integration.event(&integration.waiting().await, "failed").await;
    let unknown = "00000000-0000-4000-8000-000000000000".to_owned();
    let (status, refused) = integration.create(&[unknown]).await;
    assert_eq!((status, &refused["type"]), (404, &json!("EXPORT_ENTRY_NOT_FOUND")));
    assert_eq!(integration.create(&[]).await.0, 400);
    let other = json!({ "companyId": SECOND_COMPANY_ID, "accountingEntryIds": [] });
    assert_eq!(integration.send("POST", JOBS, other).await.0, 403);
}

#[tokio::test]
async fn older_versions_answer_in_their_own_form() {
    let integration = Integration::new().await;
    let job = integration.waiting().await;
    for version in 0..3 {
        let jobs = format!("/v{version}/export-jobs?status=pending");
        assert_eq!(integration.get(&jobs).await["data"][0]["id"], json!(job));
        let items = integration.get(&format!("/v{version}/export-items?job_id={job}")).await;
        let item = &items["data"][0];
        assert!(item.get("contraAccount").is_none(), "v{version}");
        assert_eq!(item.get("metadata").is_some(), version == 0, "v{version}");
        assert_eq!(item["user"].get("id").is_some(), version > 0, "v{version}");
    }
    // In version 3 the parameter is gone.
    integration.event(&job, "failed").await;
    let (status, jobs) =
        integration.send("GET", "/v3/export-jobs?status=pending", Value::Null).await;
    assert_eq!((status, &jobs["pagination"]["total"]), (200, &json!(1)));
}
