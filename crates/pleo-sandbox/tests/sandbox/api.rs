//! The API: tokens, pages, entries, receipts, vendors, and the test routes.

use super::test_client::*;
use pleo_sandbox::{COMPANY_ID, ORGANISATION_ID, SECOND_COMPANY_ID};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[tokio::test]
async fn bearer_is_required_and_only_one() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let url = client.api("/v1/introspect");
    assert_eq!(client.http.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let twice = client
        .http
        .get(&url)
        .bearer_auth(&token)
        .header("authorization", "Bearer x")
        .send()
        .await
        .unwrap();
    assert_eq!(twice.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(client.get("guess", "/v1/introspect").await.status(), StatusCode::UNAUTHORIZED);
    let counters = client.sandbox.counters();
    assert_eq!(
        (counters.api_requests, counters.api_unauthorized, counters.api_double_authorization),
        (3, 3, 1)
    );
    assert_eq!(counters.last_authorization_header_ok, Some(false));
    let unknown = client.get(&token, "/v1/expenses").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(unknown.json::<Value>().await.unwrap()["type"], "NOT_FOUND");
    let method =
        client.http.delete(client.api("/v1/companies")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(method.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn entries_page_to_the_end_and_back() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let base =
        format!("company_id={COMPANY_ID}&limit=10&sorting_keys=performedAt&sorting_order=DESC");
    let (mut seen, mut query) = (Vec::new(), base.clone());
    let last = loop {
        let page = client.search(&token, &query).await;
        let rows = page["data"].as_array().unwrap();
        seen.extend(rows.iter().map(|row| row["performedAt"].as_str().unwrap().to_owned()));
        let info = page["pagination"].clone();
        assert_eq!(info["total"], 45);
        let cursor = info["endCursor"].as_str().unwrap();
        assert!(
            cursor.ends_with('=')
                && cursor.bytes().all(|b| b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567=".contains(&b))
        );
        if info["hasNextPage"] == false {
            break info;
        }
        query = format!("{base}&after={cursor}");
    };
    assert_eq!(seen.len(), 45);
    assert!(seen.is_sorted_by(|a, b| a > b));
    let before = last["startCursor"].as_str().unwrap().replace('=', "%3D");
    let back = client.search(&token, &format!("{base}&before={before}")).await;
    assert_eq!(back["data"][0]["performedAt"], seen[30]);
    assert_eq!(
        back["pagination"]["currentRequestPagination"]["parameters"]["company_id"][0],
        COMPANY_ID
    );
    for bad in
        ["limit=0", "limit=101", "after=AAAA====", "sorting_keys=nonsense", "after=A&before=B"]
    {
        let response = client.search(&token, &format!("company_id={COMPANY_ID}&{bad}")).await;
        assert_eq!(response["type"], "PARAMETER_VALIDATION_FAILED", "{bad}");
    }
}

#[tokio::test]
async fn search_needs_company_and_include_deleted() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    assert_eq!(client.search(&token, "").await["type"], "VALIDATION_FAILED");
    assert_eq!(
        client.search(&token, &format!("company_id={SECOND_COMPANY_ID}")).await["type"],
        "ACCESS_DENIED"
    );
    let url = client.api(&format!("/v1/accounting-entries:search?company_id={COMPANY_ID}"));
    let post = |body: Value| client.http.post(&url).bearer_auth(&token).json(&body).send();
    assert_eq!(post(json!({})).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let all: Value = post(json!({ "includeDeleted": true })).await.unwrap().json().await.unwrap();
    assert_eq!(all["pagination"]["total"], 47);
    assert_eq!(all["data"].as_array().unwrap().len(), 20);
}

#[tokio::test]
async fn another_subject_sees_other_data() {
    let client = TestClient::new().await;
    let urn = format!("urn:pleo:company:{SECOND_COMPANY_ID}");
    let code = redirect_parameter(&client.authorize(&[("subject", &urn)]).await, "code").unwrap();
    let second = tokens_of(client.exchange(&code).await.unwrap()).await.access;
    assert_eq!(client.json(&second, "/v1/companies").await["data"][0]["id"], SECOND_COMPANY_ID);
    assert_eq!(
        client.get(&second, &format!("/v1/companies/{COMPANY_ID}")).await.status(),
        StatusCode::NOT_FOUND
    );
    client.sandbox.set_next_subject(Some(format!("urn:pleo:organisation:{ORGANISATION_ID}")));
    let both = client.login().await.access;
    assert_eq!(
        client.search(&both, &format!("organization_id={ORGANISATION_ID}")).await["pagination"]["total"],
        57
    );
    assert_eq!(client.json(&both, "/v2/employees").await["pagination"]["total"], 5);
    let mine =
        client.json(&both, &format!("/v2/employees?companyId={SECOND_COMPANY_ID}&limit=1")).await;
    assert_eq!(
        (&mine["pagination"]["total"], &mine["pagination"]["hasNextPage"]),
        (&json!(2), &json!(true))
    );
}

#[tokio::test]
async fn receipts_are_presigned_files_elsewhere() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let page = client.search(&token, &format!("company_id={COMPANY_ID}&limit=100")).await;
    let with_receipt = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["receiptIds"][1].is_string())
        .unwrap();
    let entry = with_receipt["id"].as_str().unwrap();
    assert_eq!(
        client.json(&token, &format!("/v1/accounting-entries/{entry}")).await["data"],
        *with_receipt
    );
    let receipts = client.json(&token, &format!("/v1/accounting-entries/{entry}/receipts")).await;
    let receipt = &receipts["data"][0];
    let url = receipt["url"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("http://{}/", client.sandbox.files))
            && url.contains("X-Signature=")
    );
    let file = client.http.get(url).send().await.unwrap();
    assert_eq!(file.status(), StatusCode::OK);
    assert_eq!(file.bytes().await.unwrap().len() as u64, receipt["sizeInBytes"].as_u64().unwrap());
    let with_token = client.http.get(url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(with_token.status(), StatusCode::BAD_REQUEST);
    let forged = url.replace("X-Expires=", "X-Expires=1");
    assert_eq!(client.http.get(forged).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(client.sandbox.counters().files_with_authorization, 1);
}

#[tokio::test]
async fn vendors_are_created_found_archived_and_activated() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let mill = json!({ "companyId": COMPANY_ID, "name": "Mill", "defaultCurrency": "DKK" });
    let (status, made) = client.send(&token, "POST", "/v1/vendors", mill.clone()).await;
    assert_eq!((status, &made["data"]["state"]), (201, &json!("DRAFT")));
    let (status, again) = client.send(&token, "POST", "/v1/vendors", mill).await;
    assert_eq!((status, &again["type"]), (409, &json!("VENDOR_ALREADY_EXISTS")));
    let path = format!("/v1/vendors/{}", text(&made["data"]["id"]));
    let known = json!({ "externalId": "E-1" });
    for (action, body, state) in
        [("activate", known, "ACTIVE"), ("archive", Value::Null, "ARCHIVED")]
    {
        let (status, _) = client.send(&token, "POST", &format!("{path}:{action}"), body).await;
        assert_eq!(status, 204, "{action}");
        assert_eq!(client.json(&token, &path).await["data"]["state"], state);
    }
    let (status, _) = client.send(&token, "POST", &format!("{path}:explode"), json!({})).await;
    assert_eq!(status, 404);
    let search = format!("/v1/vendors:search?company_id={COMPANY_ID}");
    for (filter, total) in [
        (json!({ "name": "Mill" }), 1),
        (json!({ "states": ["ARCHIVED"] }), 1),
        (json!({ "externalIds": ["E-1", "V-001"] }), 2),
        (Value::Null, 4),
    ] {
        let (_, found) = client.send(&token, "POST", &search, filter.clone()).await;
        assert_eq!(found["pagination"]["total"], total, "{filter}");
    }
    for missing in ["companyId", "name", "defaultCurrency"] {
        let mut vendor =
            json!({ "companyId": COMPANY_ID, "name": "Mill 2", "defaultCurrency": "DKK" });
        vendor.as_object_mut().unwrap().remove(missing);
        let (status, refused) = client.send(&token, "POST", "/v1/vendors", vendor).await;
        assert_eq!((status, &refused["type"]), (400, &json!("VALIDATION_FAILED")), "{missing}");
    }
}

#[tokio::test]
async fn echo_and_sink_report_what_arrived() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    let url = client.api("/v1/echo/a%2Fb/c:search?x=1&x=2&cursor=AB%3D%3D");
    let echo = client
        .http
        .patch(url)
        .bearer_auth(&token)
        .header("x-one", "1")
        .body("hello")
        .send()
        .await
        .unwrap();
    let echo = echo.text().await.unwrap();
    assert!(!echo.contains(&token));
    let echo: Value = serde_json::from_str(&echo).unwrap();
    assert_eq!(
        (&echo["method"], &echo["path"]),
        (&json!("PATCH"), &json!("/v1/echo/a%2Fb/c:search"))
    );
    assert_eq!(echo["query"], "x=1&x=2&cursor=AB%3D%3D");
    assert_eq!(echo["body"]["length"], 5);
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["authorization", "ok"])));
    assert!(echo["headers"].as_array().unwrap().contains(&json!(["x-one", "1"])));
    let body = vec![7; 5 << 20];
    let wanted: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let sunk = client
        .http
        .put(client.api("/v1/sink"))
        .bearer_auth(&token)
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(sunk.json::<Value>().await.unwrap(), json!({ "length": 5 << 20, "sha256": wanted }));
}

#[tokio::test]
async fn stream_and_bytes_send_what_is_asked_for() {
    let client = TestClient::new().await;
    let token = client.login().await.access;
    // The gap is long, so that a slow reader does not find two events at once.
    let mut stream = client.get(&token, "/v1/stream?events=2&gap_ms=1500").await;
    let first = stream.chunk().await.unwrap().unwrap();
    assert_eq!(first, "id: 0\nevent: tick\ndata: {\"n\":0}\n\n");
    let mut rest = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    assert_eq!(rest, b"id: 1\nevent: tick\ndata: {\"n\":1}\n\n");
    let bytes = client.get(&token, "/v1/bytes?n=200000").await;
    assert_eq!(bytes.content_length(), Some(200_000));
    assert_eq!(bytes.bytes().await.unwrap()[65_536 + 252], 1);
    assert_eq!(client.get(&token, "/v1/bytes?n=0").await.content_length(), Some(0));
    assert_eq!(
        client.get(&token, "/v1/bytes?n=2147483649").await.status(),
        StatusCode::BAD_REQUEST
    );
}
