//! Export items: the entries of a job with everything that bookkeeping needs.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{current, ensure_contra_accounts, find_job, finished, is_running};
use crate::call::Call;
use crate::dataset::{Dataset, Row};
use crate::files::signed_url;
use crate::paging::page;
use crate::response::Problem;
use crate::state::SandboxState;

const TYPES: [(&str, &str); 4] = [
    ("CARD_PURCHASE", "card_purchase"),
    ("OUT_OF_POCKET", "out_of_pocket"),
    ("MILEAGE", "mileage"),
    ("BILL_INVOICE", "invoice"),
];

/// Only of jobs that are still to be worked off.
pub(crate) fn list(call: &Call<'_>) -> Result<Response, Problem> {
    let job = call.query.get("job_id").ok_or_else(|| Problem::invalid("job_id is required"))?;
    ensure_contra_accounts(call)?;
    ensure_one_currency(call)?;
    let dataset = current(call);
    let row = find_job(call, &dataset, job)?;
    if !is_running(row) {
        return Err(finished());
    }
    let with_vendors = row.body["vendorBasedBookkeeping"] == true;
    let items = dataset.items.0.iter().filter(|item| item.has("exportJobId", job));
    let entries = items.filter_map(|item| {
        dataset.entries.0.iter().find(|entry| item.has("accountingEntryId", &entry.id))
    });
    let items: Vec<Row> = entries
        .map(|entry| Row {
            id: entry.id.clone(),
            company: entry.company.clone(),
            body: item(call, &dataset, entry, with_vendors),
        })
        .collect();
    Ok(page(items.iter().collect(), &call.query, 20)?.response())
}

fn ensure_one_currency(call: &Call<'_>) -> Result<(), Problem> {
    if call.version() < 3 && call.sandbox.live().faults.multi_currency {
        let message = "companies with several currencies need version 3";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "UNSUPPORTED_API_VERSION", message));
    }
    Ok(())
}

/// An entry as the version of the request shows it.
fn item(call: &Call<'_>, dataset: &Dataset, entry: &Row, with_vendors: bool) -> Value {
    let version = call.version();
    let mut item = json!({
        "_links": { "web": { "exportItem": format!("{}/expenses/{}", call.sandbox.issuer, entry.id) } },
        "accountingEntryId": entry.id,
        "accountingEntryLines": [line(dataset, entry, version)],
        "amount": amount(entry, 1.0),
        "companyId": entry.company,
        "date": entry.body["bookkeepingDate"],
        "files": files(call.sandbox, dataset, entry),
        "note": entry.body["note"],
        "supplier": { "name": "Harbour Market", "country": "DK" },
        "type": TYPES.iter().find(|(family, _)| entry.has("family", family)).map(|(_, name)| name),
        "user": user(dataset, entry, version),
    });
    let about = json!({ "reconciliationId": &entry.id[24..], "attendees": [] });
    item[if version == 0 { "metadata" } else { "additionalInformation" }] = about;
    if version >= 3 {
        item["contraAccount"] = contra_account(dataset, entry);
    }
    if version >= 2 && with_vendors {
        item["bookkeeping"] = json!({ "method": "accounts_payable" });
        item["vendor"] = vendor(dataset, entry);
    }
    item
}

/// Entries are not split here, so that each has one line.
fn line(dataset: &Dataset, entry: &Row, version: u32) -> Value {
    let mut line = json!({
        "accountingEntryLineId": entry.id, "lineAmount": amount(entry, 1.0), "netAmount": amount(entry, 1.0), "tags": [],
    });
    let account = dataset.accounts.0.iter().find(|row| entry.has("accountId", &row.id));
    if let Some(account) = account {
        let (code, identifier) = (&account.body["code"], &account.body["externalId"]);
        line["account"] = json!({ "code": code, "identifier": identifier });
        if version > 0 {
            line["account"]["id"] = json!(account.id);
            line["account"]["name"] = account.body["name"].clone();
        }
    }
    let tax = dataset.tax_codes.0.iter().find(|row| entry.has("taxCodeId", &row.id));
    if let Some(tax) = tax {
        let rate = tax.body["rate"].as_f64().unwrap_or_default();
        let net = 1.0 / (1.0 + rate);
        line["netAmount"] = amount(entry, net);
        line["tax"] = json!({
            "code": tax.body["code"], "rate": rate, "type": tax.body["type"], "amount": amount(entry, 1.0 - net),
        });
        if version > 0 {
            line["tax"]["id"] = json!(tax.id);
        }
    }
    line
}

/// A share of the entry's value in both currencies, in their main units.
fn amount(entry: &Row, share: f64) -> Value {
    let money = |field: &str| {
        let money = &entry.body[field];
        let minors = money["minors"].as_f64().unwrap_or_default() * share;
        json!({ "currency": money["currency"], "value": minors.round() / 100.0 })
    };
    json!({ "inSupplierCurrency": money("transactionValue"), "inWalletCurrency": money("totalBillValue") })
}

fn files(sandbox: &SandboxState, dataset: &Dataset, entry: &Row) -> Vec<Value> {
    let receipts = dataset.receipts.0.iter().filter(|row| row.has("accountingEntryId", &entry.id));
    let file = |row: &Row| {
        json!({
            "size": row.body["sizeInBytes"], "type": row.body["mimeType"], "url": signed_url(sandbox, &row.id),
        })
    };
    receipts.map(file).collect()
}

fn user(dataset: &Dataset, entry: &Row, version: u32) -> Value {
    let employee = dataset.employees.0.iter().find(|row| entry.has("employeeId", &row.id));
    employee.map_or(Value::Null, |row| {
        let name = format!("{} {}", row.text("firstName"), row.text("lastName"));
        let mut user = json!({ "name": name, "code": row.body["code"] });
        if version > 0 {
            user["id"] = json!(row.id);
        }
        user
    })
}

/// The company's first account stands for its Pleo account in the accounting system.
fn contra_account(dataset: &Dataset, entry: &Row) -> Value {
    let account = dataset.accounts.0.iter().find(|row| row.company == entry.company);
    account.map_or(Value::Null, |row| {
        let (code, identifier) = (&row.body["code"], &row.body["externalId"]);
        json!({ "id": row.id, "name": row.body["name"], "code": code, "identifier": identifier })
    })
}

fn vendor(dataset: &Dataset, entry: &Row) -> Value {
    let vendor = dataset.vendors.0.iter().find(|row| row.company == entry.company);
    vendor.map_or(Value::Null, |row| {
        let mut shown = json!({ "id": row.id });
        for name in ["code", "country", "defaultCurrency", "externalId", "name"] {
            if let Some(value) = row.body.get(name) {
                shown[name] = value.clone();
            }
        }
        shown
    })
}
