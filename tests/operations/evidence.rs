//! What leaves as evidence: archives, curl commands, and recordings that are replayed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use pleo_proxy::sandbox::COMPANY_ID;
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr};
use support::{Proxy, Workspace, client, sandbox, text, write_private};
use tokio::time::sleep;

use super::sandbox_command::alone;

/// The id of the exchange that a response belongs to.
fn id(response: &reqwest::Response) -> String {
    response.headers()["pleo-proxy-request"].to_str().unwrap().to_owned()
}

/// What the admin listener says of an exchange, once the log has it.
async fn ended(proxy: &Proxy, target: &str, id: &str) -> String {
    for _ in 0..200 {
        let detail = proxy.admin(Method::GET, &format!("/api/requests/{id}"), None).await;
        let detail: Value = detail.json().await.unwrap();
        if detail["entry"]["running"] == false {
            return proxy.admin(Method::GET, target, None).await.text().await.unwrap();
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("the log has no exchange {id}");
}

/// Runs a command line of curl in a shell; returns the status of the response and its body.
fn run_in_shell(line: &str, key: &str) -> (String, String) {
    let script = format!("{} -sS -w '\\n%{{http_code}}'", line.trim_end());
    let output = Command::new("sh").args(["-c", &script]).env("PLEO_PROXY_KEY", key).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (body, status) = printed.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curl_command_runs_in_a_shell_and_holds_no_secret() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "[guard]\nlocal_key_file = \"local-key\"\n");
    let key = "local-key-of-32-characters-or-more";
    write_private(&workspace.path().join("local-key"), key);
    let proxy = workspace.serve();
    for account in ["default", "acme"] {
        proxy.login(account).await;
    }
    let capture = proxy.admin(Method::POST, "/api/capture", Some(json!({"for_s": 600}))).await;
    assert_eq!(capture.status(), 200);
    let url = |path: &str| format!("{}{path}", proxy.api);
    let read = client().get(url("/@acme/v1/companies")).header("pleo-proxy-key", key);
    let read = read.header("x-note", "it's $HOME").send().await.unwrap();
    assert_eq!(read.status(), 200);
    let (read, first) = (id(&read), read.text().await.unwrap());
    let search = format!("/v1/accounting-entries:search?company_id={COMPANY_ID}");
    let body = json!({"includeDeleted": false, "note": "it's `id` $(id)"}).to_string();
    let search = client().post(url(&search)).header("pleo-proxy-key", key);
    let search = search.header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!(search.status(), 200);
    let search = id(&search);

    let line = ended(&proxy, &format!("/api/curl/{read}"), &read).await;
    assert!(!line.contains(key) && !line.contains("Bearer"), "{line}");
    assert_eq!(run_in_shell(&line, key), ("200".into(), first), "{line}");
    assert_eq!(run_in_shell(&line, "wrong").0, "403");

    let line = ended(&proxy, &format!("/api/curl/{search}"), &search).await;
    assert_eq!(run_in_shell(&line, key).0, "200", "{line}");

    let unknown = proxy.admin(Method::GET, "/api/curl/000000-1", None).await;
    assert_eq!(unknown.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_private_and_sanitised_and_can_be_replayed() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let file = workspace.path().join("evidence.har");
    let har =
        |more: &[&str]| workspace.run(&[&["har", "-o", file.to_str().unwrap()][..], more].concat());
    assert_eq!(code(&har(&[])), NOT_RUNNING);
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.admin(Method::POST, "/api/capture", Some(json!({"for_s": 600}))).await;
    let record = workspace.stored_json("default");
    let old = text(&record["record"]["grant"]["access_token"]);
    proxy.force_refresh("default").await;
    // A caller that sends what it should not have, in a form that nothing but its value gives away.
    let hidden: String = old.bytes().map(|byte| format!("&#{byte};")).collect();
    let note = client().get(format!("{}/v1/companies", proxy.api)).header("x-note", &hidden);
    let recorded = note.header("accept", "application/json").send().await.unwrap();
    let (last, recorded) = (id(&recorded), recorded.text().await.unwrap());
    proxy.get("/v1/no-such-path?secret=abc").await;
    ended(&proxy, "/api/status", &last).await;

    let written = har(&["--filter", "path:/v1/companies", "--json"]);
    assert_eq!(code(&written), SUCCESS, "{}", stderr(&written));
    assert_eq!(json_output(&written)["entries"], 1);
    assert!(stderr(&written).contains("were taken out"), "{}", stderr(&written));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let archive = std::fs::read_to_string(&file).unwrap();
    assert!(archive.contains("Sanitised") && archive.contains("[redacted]"), "{archive}");
    let grant = &workspace.stored_json("default")["record"]["grant"];
    let secrets = [old, hidden, text(&grant["access_token"]), text(&grant["refresh_token"])];
    for secret in secrets.iter().chain([&proxy.key]) {
        assert!(!archive.contains(secret.as_str()), "{secret}");
    }
    let again = har(&[]);
    assert_eq!(code(&again), USAGE);
    assert!(stderr(&again).contains("exists"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), archive);
    assert_eq!(code(&har(&["--filter", "colour:red", "--force"])), USAGE);
    assert_eq!(code(&har(&["--filter", "path:/v1/companies", "--force", "--pseudonyms"])), SUCCESS);

    let (_sandbox, ready) = alone(&workspace, &["--replay", file.to_str().unwrap()]);
    let replayed =
        client().get(format!("{}/v1/companies", text(&ready["api"]))).send().await.unwrap();
    assert_eq!(replayed.status(), 200);
    let (replayed, recorded): (Value, Value) =
        (replayed.json().await.unwrap(), serde_json::from_str(&recorded).unwrap());
    assert_eq!(replayed["data"][0]["id"], recorded["data"][0]["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_sent_again_with_its_query_and_body_and_a_write_only_on_request() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let again = |id: String, body: Option<Value>| {
        let proxy = &proxy;
        async move {
            ended(proxy, "/api/status", &id).await;
            let target = format!("/api/requests/{id}/replay");
            let answer = proxy.admin(Method::POST, &target, body).await;
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    let read = id(&proxy.get("/v1/companies?limit=1").await);
    let (status, replayed) = again(read, None).await;
    assert_eq!((status, &replayed["status"]), (200, &json!(200)), "{replayed}");
    let detail =
        ended(&proxy, &format!("/api/requests/{}", text(&replayed["id"])), &text(&replayed["id"]))
            .await;
    let detail: Value = serde_json::from_str(&detail).unwrap();
    assert_eq!(detail["entry"]["query"], json!(["limit"]));

    let search = || {
        client()
            .post(format!("{}/v1/accounting-entries:search?company_id={COMPANY_ID}", proxy.api))
            .json(&json!({"includeDeleted": false}))
    };
    let unkept = id(&search().send().await.unwrap());
    assert_eq!(again(unkept, None).await.1["code"], "body_not_kept");
    proxy.admin(Method::POST, "/api/capture", Some(json!({"for_s": 600}))).await;
    let kept = search().send().await.unwrap();
    let first = kept.status().as_u16();
    let (status, replayed) = again(id(&kept), None).await;
    assert_eq!((status, &replayed["status"]), (200, &json!(first)), "{replayed}");

    let write = client().post(format!("{}/v1/vendors", proxy.api)).json(&json!({"name": "x"}));
    let write = id(&write.send().await.unwrap());
    assert_eq!(again(write.clone(), None).await.1["code"], "confirm_required");
    assert_eq!(again(write.clone(), Some(json!({"confirm": true}))).await.0, 200);
    assert_eq!(again(write, Some(json!({"sure": true}))).await.0, 400);
    let unknown = proxy.admin(Method::POST, "/api/requests/000000-9/replay", None).await;
    assert_eq!(unknown.status(), 404);
}
