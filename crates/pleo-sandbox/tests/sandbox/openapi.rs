//! The answer of every operation fits Pleo's OpenAPI files.

use std::collections::BTreeSet;

use super::schema::Models;
use super::test_client::*;
use pleo_sandbox::COMPANY_ID;
use serde_json::{Value, json};

const ANSWERS: &str = include_str!("../openapi/answers.txt");
const NOWHERE: &str = "00000000-0000-4000-8000-000000000000";

/// Calls operations and checks what they answer.
struct Walk {
    client: TestClient,
    token: String,
    models: Models,
    seen: BTreeSet<String>,
}

impl Walk {
    async fn new() -> Self {
        let client = TestClient::new().await;
        let token = client.login().await.access;
        Self { client, token, models: Models::read(), seen: BTreeSet::new() }
    }

    /// Calls an operation with ids in place of its placeholders; returns its answer, which fits.
    async fn call(&mut self, operation: &str, ids: &[&str], query: &str, body: Value) -> Value {
        let (method, template) = operation.split_once(' ').unwrap();
        let (expected, envelope) = answer_of(operation);
        let path = format!("{}?{query}", filled(template, ids));
        let (status, answer) = self.client.send(&self.token, method, &path, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let faults = self.models.faults(envelope, &answer);
        assert!(faults.is_empty(), "{method} {path}: {faults:#?} in {answer:#}");
        self.seen.insert(operation.to_owned());
        answer
    }

    /// The same for an operation that answers with one object: its id.
    async fn made(&mut self, operation: &str, ids: &[&str], query: &str, body: Value) -> String {
        text(&self.call(operation, ids, query, body).await["data"]["id"]).to_owned()
    }

    /// The same for an operation without ids, query and body.
    async fn get(&mut self, operation: &str, ids: &[&str]) -> Value {
        self.call(operation, ids, "", Value::Null).await
    }

    /// Calls an operation that fails; its error fits too.
    async fn refused(&self, operation: &str, ids: &[&str], body: Value, expected: u16) {
        let (method, template) = operation.split_once(' ').unwrap();
        let path = filled(template, ids);
        let (status, answer) = self.client.send(&self.token, method, &path, body).await;
        let faults = self.models.faults("Bare ExceptionInfo", &answer);
        assert!(faults.is_empty() && status == expected, "{operation}: {status} {answer}");
    }
}

/// Status and envelope of the operation's answer.
fn answer_of(operation: &str) -> (u16, &'static str) {
    let line = lines().find(|(known, _)| *known == operation);
    let (_, answer) = line.unwrap_or_else(|| panic!("{operation} is not in answers.txt"));
    let (status, envelope) = answer.split_once(' ').unwrap();
    (status.parse().unwrap(), envelope)
}

fn lines() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = ANSWERS.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let end = line.match_indices(' ').nth(1).unwrap().0;
        (&line[..end], &line[end + 1..])
    })
}

fn filled(template: &str, ids: &[&str]) -> String {
    let mut ids = ids.iter();
    let part = |part: &str| match part.split_once('}') {
        Some((_, action)) => format!("{}{action}", ids.next().unwrap()),
        None => part.to_owned(),
    };
    template.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn of_company() -> String {
    format!("company_id={COMPANY_ID}")
}

#[tokio::test]
async fn the_answer_of_every_operation_fits_its_model() {
    let mut walk = Walk::new().await;
    people(&mut walk).await;
    entries(&mut walk).await;
    vendors(&mut walk).await;
    for accounts in ["/v1/chart-of-accounts", "/v1-beta/accounts"] {
        chart_of_accounts(&mut walk, accounts).await;
    }
    tax_codes(&mut walk).await;
    tag_groups(&mut walk).await;
    tags(&mut walk).await;
    tag_values(&mut walk).await;
    for version in 0..=3 {
        exports(&mut walk, version).await;
    }
    subscriptions(&mut walk).await;
    installations(&mut walk).await;
    let all: BTreeSet<String> = lines().map(|(operation, _)| operation.to_owned()).collect();
    assert_eq!(all.difference(&walk.seen).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(all.len(), 104);
}

async fn people(walk: &mut Walk) {
    walk.get("GET /v1/introspect", &[]).await;
    walk.get("GET /v1/companies", &[]).await;
    walk.get("GET /v1/companies/{companyId}", &[COMPANY_ID]).await;
    let people = walk.call("GET /v2/employees", &[], "limit=1&offset=1", Value::Null).await;
    walk.get("GET /v2/employees/{employeeId}", &[text(&people["data"][0]["id"])]).await;
    // A page without rows.
    walk.call("GET /v2/employees", &[], "code=nobody&offset=9", Value::Null).await;
    walk.refused("GET /v2/employees/{employeeId}", &[NOWHERE], Value::Null, 404).await;
}

async fn entries(walk: &mut Walk) {
    let all = json!({ "includeDeleted": true });
    let query = format!("{}&limit=100&sorting_keys=performedAt&sorting_order=DESC", of_company());
    let search = "POST /v1/accounting-entries:search";
    let page = walk.call(search, &[], &query, all.clone()).await;
    walk.call("POST /v1/accounting-entries/core:search", &[], &query, all.clone()).await;
    let rows = page["data"].as_array().unwrap();
    let row = rows.iter().find(|row| row["receiptIds"][0].is_string()).unwrap();
    let (entry, receipt) = (text(&row["id"]), text(&row["receiptIds"][0]));
    for one in ["", "/core"] {
        let one = format!("GET /v1/accounting-entries/{{accountingEntryId}}{one}");
        walk.call(&one, &[entry], "include_deleted=true", Value::Null).await;
    }
    walk.get("GET /v1/accounting-entries/{accountingEntryId}/receipts", &[entry]).await;
    let one = "GET /v1/accounting-entries/{accountingEntryId}/receipts/{receiptId}";
    walk.get(one, &[entry, receipt]).await;
    walk.call("POST /v1/accounting-entries/receipts:search", &[], &of_company(), all).await;
    walk.refused(search, &[], json!({}), 400).await;
}

async fn vendors(walk: &mut Walk) {
    let mut vendor = json!({ "companyId": COMPANY_ID, "name": "Mill", "defaultCurrency": "DKK",
        "country": "DK", "code": "70001", "registrationNumber": "1" });
    let id = walk.made("POST /v1/vendors", &[], "", vendor.clone()).await;
    walk.get("GET /v1/vendors/{id}", &[&id]).await;
    let known = json!({ "externalId": "E-1" });
    walk.call("POST /v1/vendors/{id}:activate", &[&id], "", known).await;
    walk.get("POST /v1/vendors/{id}:archive", &[&id]).await;
    walk.refused("POST /v1/vendors", &[], vendor.clone(), 409).await;
    vendor["externalId"] = json!("E-1");
    vendor["state"] = json!("ACTIVE");
    walk.call("PUT /v1/vendors/{id}", &[&id], "", vendor).await;
    walk.call("POST /v1/vendors:search", &[], &of_company(), json!({})).await;
}

async fn chart_of_accounts(walk: &mut Walk, base: &str) {
    let account = |external: &str| {
        json!({ "companyId": COMPANY_ID, "name": "Bank", "externalId": external, "code": "2001",
            "archived": false })
    };
    let create = format!("POST {base}");
    let id = walk.made(&create, &[], "", account(base)).await;
    let one = |method: &str| format!("{method} {base}/{{accountId}}");
    walk.get(&one("GET"), &[&id]).await;
    let change = json!({ "name": "Bank charges", "archived": true });
    walk.call(&one("PUT"), &[&id], "", change).await;
    walk.refused(&create, &[], account(base), 409).await;
    let filter = json!({ "companyId": COMPANY_ID, "excludeIfAssignedToCategory": false,
        "excludeIfAssignedToContraAccount": false });
    let found = walk.call(&format!("POST {base}:search"), &[], "", filter).await;
    walk.get(&one("DELETE"), &[&id]).await;
    let used = found["data"].as_array().unwrap().iter().find(|row| row["code"] == "6800").unwrap();
    walk.refused(&one("DELETE"), &[text(&used["id"])], Value::Null, 409).await;
    if base == "/v1/chart-of-accounts" {
        let items = json!([
            { "name": "Fees", "externalId": "batch", "archived": false },
            { "name": "", "externalId": "batch", "archived": false, "code": "1" },
        ]);
        let batch = json!({ "companyId": COMPANY_ID, "items": items });
        let made = walk.call("POST /v1/chart-of-accounts/batch", &[], "", batch).await;
        let reasons = json!(["NAME_EMPTY", "EXTERNAL_ID_ALREADY_EXISTS"]);
        assert_eq!(made["data"]["failed"][0]["reasons"], reasons);
    }
}

async fn tax_codes(walk: &mut Walk) {
    let code = json!({ "companyId": COMPANY_ID, "name": "Reduced", "rate": 0.12, "type": "inclusive",
        "archived": false, "code": "R12" });
    let id = walk.made("POST /v0/tax-codes", &[], "", code.clone()).await;
    walk.get("GET /v0/tax-codes/{taxCodeId}", &[&id]).await;
    walk.call("PUT /v0/tax-codes/{taxCodeId}", &[&id], "", code).await;
    let filter = json!({ "code": "R12", "archived": false });
    walk.call("POST /v0/tax-codes:search", &[], &of_company(), filter).await;
    let amount = json!({ "id": "a", "amount": { "currency": "DKK", "minors": 11_200 } });
    let request = json!({ "amountsByTaxCodeId": { &id: [amount] } });
    let parts = walk.call("POST /v0/tax-codes:calculate-tax-amounts", &[], "", request).await;
    assert_eq!(parts["data"]["taxes"][&id][0]["amountTaxBreakdown"]["net"]["minors"], 10_000);
    walk.get("DELETE /v0/tax-codes/{taxCodeId}", &[&id]).await;
    walk.refused("DELETE /v0/tax-codes/{taxCodeId}", &[&id], Value::Null, 404).await;
}

async fn tag_groups(walk: &mut Walk) {
    let group = json!({ "name": "Team", "code": "TEAM", "archived": false, "metadata": {} });
    let id = walk.made("POST /v0/tag-groups", &[], &of_company(), group.clone()).await;
    let counted = format!("{}&include_tags_count=true", of_company());
    walk.call("GET /v0/tag-groups", &[], &counted, Value::Null).await;
    walk.get("GET /v0/tag-groups/{groupId}", &[&id]).await;
    walk.call("PUT /v0/tag-groups/{groupId}", &[&id], "", group).await;
    walk.get("GET /v0/tag-groups/{groupId}/usage", &[&id]).await;
    walk.call("GET /v0/aggregations/tag-groups", &[], &of_company(), Value::Null).await;
    let one =
        |method: &str| format!("{method} /v0/tag-groups/{{groupId}}/dimensions/{{dimensionId}}");
    let mut dimension = json!({ "name": "Owner", "code": "O", "visible": true });
    let dimensions = "/v0/tag-groups/{groupId}/dimensions";
    let made = walk.made(&format!("POST {dimensions}"), &[&id], "", dimension.clone()).await;
    walk.get(&format!("GET {dimensions}"), &[&id]).await;
    walk.get(&one("GET"), &[&id, &made]).await;
    dimension["displayOrder"] = json!(2);
    walk.call(&one("PUT"), &[&id, &made], "", dimension).await;
    walk.get(&one("DELETE"), &[&id, &made]).await;
    walk.get("DELETE /v0/tag-groups/{groupId}", &[&id]).await;
    walk.refused("GET /v0/tag-groups/{groupId}", &[&id], Value::Null, 404).await;
}

/// The group that is there at the start.
async fn first_group(walk: &mut Walk) -> String {
    let groups = walk.call("GET /v0/tag-groups", &[], &of_company(), Value::Null).await;
    text(&groups["data"][0]["id"]).to_owned()
}

async fn tags(walk: &mut Walk) {
    let group = first_group(walk).await;
    let tag = |code: &str| json!({ "name": "Fair", "code": code, "archived": false, "otherDimensionValues": ["Ada"] });
    let create = "POST /v0/tag-groups/{groupId}/tags";
    let id = walk.made(create, &[&group], "", tag("F-1")).await;
    let other = walk.made(create, &[&group], "", tag("F-2")).await;
    walk.refused(create, &[&group], tag("F-1"), 409).await;
    walk.get("GET /v0/tag-groups/{groupId}/tags", &[&group]).await;
    walk.call("GET /v0/tags", &[], "text_search=fair", Value::Null).await;
    walk.get("GET /v0/tags/{tagId}", &[&id]).await;
    walk.call("PUT /v0/tags/{tagId}", &[&id], "", tag("F-3")).await;
    let found = json!({ "textSearch": "fair" });
    let found = walk.call("POST /v0/aggregations/tags", &[], &of_company(), found).await;
    assert_eq!(found["data"][0]["dimensions"][0]["value"], "Ada");
    let mut many = json!({ "companyId": COMPANY_ID, "tagIds": [id], "archived": true });
    walk.call("POST /v0/tags/archive", &[], "", many.clone()).await;
    walk.get("DELETE /v0/tags/{tagId}", &[&other]).await;
    many["tagIds"] = json!([id]);
    walk.call("DELETE /v0/tags", &[], "", many.clone()).await;
    walk.refused("DELETE /v0/tags", &[], many, 404).await;
}

async fn tag_values(walk: &mut Walk) {
    let group = first_group(walk).await;
    let dimensions = walk.get("GET /v0/tag-groups/{groupId}/dimensions", &[&group]).await;
    let tags = walk.get("GET /v0/tag-groups/{groupId}/tags", &[&group]).await;
    let dimension = text(&dimensions["data"][0]["id"]);
    let one = |method: &str| format!("{method} /v0/tags/{{tagId}}/dimensions/{{dimensionId}}");
    // The last tag of the start has no value.
    let tag = text(&tags["data"][2]["id"]);
    walk.refused(&one("GET"), &[tag, dimension], Value::Null, 404).await;
    let value = json!({ "value": "Grace" });
    walk.call(&one("POST"), &[tag, dimension], "", value.clone()).await;
    walk.refused(&one("POST"), &[tag, dimension], value.clone(), 409).await;
    walk.get(&one("GET"), &[tag, dimension]).await;
    walk.get("GET /v0/tags/{tagId}/dimensions", &[tag]).await;
    walk.call(&one("PUT"), &[tag, dimension], "", value).await;
    walk.get(&one("DELETE"), &[tag, dimension]).await;
}

/// Ends the unfinished job and works off one with vendors.
async fn exports(walk: &mut Walk, version: u32) {
    let operation = |method: &str, rest: &str| format!("{method} /v{version}/export-job{rest}");
    let pending = walk.call(&operation("GET", "s"), &[], "statuses=pending", Value::Null).await;
    let events = operation("POST", "-events");
    if let Some(job) = pending["data"][0]["id"].as_str() {
        let failed = json!({ "jobId": job, "event": "failed", "failureReason": "no ledger",
            "failureReasonType": "invalid_configuration" });
        walk.call(&events, &[], "", failed).await;
        walk.get(&operation("GET", "s/{jobId}"), &[job]).await;
    }
    let search = json!({ "includeDeleted": false });
    let entries = walk.call("POST /v1/accounting-entries:search", &[], &of_company(), search).await;
    let entry = |n: usize| entries["data"][n]["id"].clone();
    let request = json!({ "companyId": COMPANY_ID, "options": { "vendorBasedBookkeeping": true },
        "accountingEntryIds": [entry(0), entry(1), entry(2), entry(3)] });
    let job = walk.made(&operation("POST", "s"), &[], "", request.clone()).await;
    walk.refused(&operation("POST", "s"), &[], request, 409).await;
    walk.call(&events, &[], "", json!({ "jobId": job, "event": "started" })).await;
    let items = format!("GET /v{version}/export-items");
    let shown = walk.call(&items, &[], &format!("job_id={job}"), Value::Null).await;
    assert_eq!(shown["data"][0].get("vendor").is_some(), version >= 2);
    let changes = json!([
        { "accountingEntryId": entry(0), "status": "successful", "externalUrl": "https://x.example" },
        { "accountingEntryId": entry(1), "status": "failed", "failureReasonType": "validation_failure" },
        { "accountingEntryId": NOWHERE, "status": "failed" },
    ]);
    walk.call(&operation("PUT", "s/{jobId}/items"), &[&job], "", changes).await;
    walk.get(&operation("GET", "s/{jobId}/items"), &[&job]).await;
    if version == 3 {
        let query = format!("accounting_entry_id={}", text(&entry(0)));
        walk.call("GET /v3/export-job-items", &[], &query, Value::Null).await;
        let search = json!({ "accountingEntryIds": [entry(0)] });
        walk.call("POST /v3/export-job-items:search", &[], "", search).await;
    }
    let done = json!({ "jobId": job, "event": "completed_with_errors" });
    walk.call(&events, &[], "", done.clone()).await;
    walk.refused(&events, &[], done, 422).await;
    walk.get(&operation("GET", "s/{jobId}"), &[&job]).await;
}

async fn subscriptions(walk: &mut Walk) {
    let mut request = json!({ "endpointUrl": "https://example.com/hook",
        "eventTypes": ["v1.export-job.created"], "customHeaders": { "x-key": "1" },
        "endpointAuth": { "type": "BASIC", "credentials": { "username": "u", "password": "p" } } });
    let id = walk.made("POST /v1/subscriptions", &[], "", request.clone()).await;
    walk.call("GET /v1/subscriptions", &[], "status=ACTIVE", Value::Null).await;
    walk.get("GET /v1/subscriptions/{id}", &[&id]).await;
    request["status"] = json!("INACTIVE");
    walk.call("PUT /v1/subscriptions/{id}", &[&id], "", request).await;
    walk.get("GET /v1/subscriptions/{id}/activities", &[&id]).await;
    let secret = walk.get("GET /v1/subscriptions/{id}/secret", &[&id]).await;
    assert!(text(&secret["data"]["secretKey"]).starts_with("whsec_"));
    walk.get("DELETE /v1/subscriptions/{id}", &[&id]).await;
    walk.refused("GET /v1/subscriptions/{id}/secret", &[&id], Value::Null, 404).await;
}

/// Comes last: deleting the installation ends the login.
async fn installations(walk: &mut Walk) {
    walk.get("GET /v1/installations/me", &[]).await;
    let request = json!({ "status": "PENDING_INTEGRATION", "metadata": { "a": {} } });
    walk.call("POST /v1/installations/me", &[], "", request).await;
    walk.get("PUT /v1/installations/completions", &[]).await;
    walk.get("POST /v1/installations/me:activate", &[]).await;
    let failed = json!({ "status": "ERROR", "errorCode": "AUTH_ERROR" });
    walk.call("PUT /v1/installations/me", &[], "", failed).await;
    walk.refused("PUT /v1/installations/me", &[], json!({ "status": "ODD" }), 400).await;
    walk.get("DELETE /v1/installations/me", &[]).await;
    walk.refused("GET /v1/installations/me", &[], Value::Null, 401).await;
}
