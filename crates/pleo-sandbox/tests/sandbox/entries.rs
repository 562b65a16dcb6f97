//! What a search of accounting entries and receipts can filter by.

use super::test_client::*;
use pleo_sandbox::COMPANY_ID;
use serde_json::{Value, json};

/// The rows that a search finds with these filters.
async fn found(client: &TestClient, token: &str, filters: Value) -> (u16, Vec<Value>) {
    let mut body = json!({ "includeDeleted": false });
    for (name, value) in filters.as_object().unwrap() {
        body[name] = value.clone();
    }
    let path = format!("/v1/accounting-entries:search?company_id={COMPANY_ID}&limit=100");
    let (status, answer) = client.send(token, "POST", &path, body).await;
    (status, answer["data"].as_array().cloned().unwrap_or_default())
}

#[tokio::test]
async fn entries_are_filtered_by_lists_ranges_and_what_is_set() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let (_, all) = found(&client, &token, json!({})).await;
    let first = &all[0];
    for (filters, fits) in [
        (json!({ "families": ["MILEAGE"] }), ("family", "MILEAGE")),
        (json!({ "exportStatus": ["QUEUED"] }), ("exportStatus", "QUEUED")),
        (
            json!({ "employeeIds": [first["employeeId"]] }),
            ("employeeId", text(&first["employeeId"])),
        ),
        (json!({ "accountIds": [first["accountId"]] }), ("accountId", text(&first["accountId"]))),
    ] {
        let (status, rows) = found(&client, &token, filters.clone()).await;
        assert!(status == 200 && !rows.is_empty() && rows.len() < all.len(), "{filters}");
        assert!(rows.iter().all(|row| row[fits.0] == fits.1), "{filters}");
    }
    let start = "2026-05-10T00:00:00Z";
    let later = json!({ "performedAtStart": start, "performedAtEnd": "2026-05-14T02:00:00+02:00" });
    let (_, rows) = found(&client, &token, later).await;
    assert!(!rows.is_empty() && rows.len() < all.len());
    let in_range =
        |row: &Value| (start.."2026-05-14T00:00:00Z").contains(&text(&row["performedAt"]));
    assert!(rows.iter().all(in_range), "{rows:?}");
    for (filters, total) in [
        (json!({ "hasNote": false }), 0),
        (json!({ "settled": true }), all.len()),
        (json!({ "transactionValueCurrencies": ["DKK"] }), 0),
        (json!({ "tagRowIds": [first["id"]] }), 0),
    ] {
        assert_eq!(found(&client, &token, filters.clone()).await.1.len(), total, "{filters}");
    }
}

#[tokio::test]
async fn odd_filters_are_refused() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let uuid = "00000000-0000-4000-8000-000000000000";
    for filters in [
        json!({ "performedAtStart": "2026-05-10T00:00:00Z", "settledAtEnd": "2026-05-11T00:00:00Z" }),
        json!({ "performedAtStart": "May" }),
        json!({ "accountIds": vec![uuid; 101] }),
        json!({ "accountIds": ["17"] }),
        json!({ "hasNote": "yes" }),
        json!({ "includeDeleted": null }),
    ] {
        assert_eq!(found(&client, &token, filters.clone()).await.0, 400, "{filters}");
    }
}

#[tokio::test]
async fn receipts_are_searched_by_entry_and_person() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let (_, rows) = found(&client, &token, json!({})).await;
    let entry = rows.iter().find(|row| row["receiptIds"][1].is_string()).unwrap();
    let path = format!("/v1/accounting-entries/receipts:search?company_id={COMPANY_ID}");
    for (filters, total) in [
        (json!({ "accountingEntryIds": [entry["id"]] }), json!(2)),
        (json!({ "accountingEntryIds": [entry["id"]], "mimeType": ["image/png"] }), json!(0)),
        (json!({ "employeeIds": ["00000000-0000-4000-8000-000000000000"] }), json!(0)),
    ] {
        let mut body = filters.clone();
        body["includeDeleted"] = json!(false);
        let (status, page) = client.send(&token, "POST", &path, body).await;
        assert_eq!((status, &page["pagination"]["total"]), (200, &total), "{filters}");
    }
}

#[tokio::test]
async fn head_is_answered_without_a_body() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let request = client.http.head(client.api("/v1/companies")).bearer_auth(&token);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.unwrap(), "");
}
