//! What the request log says of each request: its id, who sent it, how it went.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, Faults};
use serde_json::{Value, json};
use support::command::{SUCCESS, code, stdout};
use support::{
    After, Caller, Proxy, RawResponse, UNAUTHORIZED_RESPONSE, Upstream, Workspace, as_nobody,
    sandbox, setup, setup_without_account, slow_token_response, wait_until,
};

/// Number of the request in the id of a response, whose form is checked.
fn number(id: &str, run: &str) -> u64 {
    let (of, number) = id.split_once('-').unwrap();
    assert_eq!(of, run, "{id}");
    number.parse().unwrap()
}

fn id(response: &RawResponse) -> String {
    let ids = response.all("pleo-proxy-request");
    assert_eq!(ids.len(), 1, "{}", response.head);
    ids[0].to_owned()
}

/// An entry once the caller's program is known; the caller has to be there until then.
async fn identified(proxy: &Proxy, id: &str) -> Value {
    for _ in 0..500 {
        let entry = proxy.exchange(id).await;
        if !entry["pid"].is_null() {
            return entry;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the caller of {id} is not known: {}", proxy.exchange(id).await);
}

/// The fields of an entry with these names.
fn fields(entry: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| entry[*name].clone()).collect()
}

fn assert_times_in_order(entry: &Value) {
    let times = ["token_ms", "connected_ms", "head_ms", "total_ms"];
    let times: Vec<f64> = times.iter().filter_map(|name| entry[*name].as_f64()).collect();
    assert!(times.is_sorted(), "{entry}");
    assert!(entry["total_ms"].is_number(), "{entry}");
}

// --- Ids

/// One answer of each kind; says what it is.
fn every_kind_of_answer(proxy: &Proxy, api: &str) -> Vec<(&'static str, u16, RawResponse)> {
    let own = proxy.address();
    let sent = |head: String| {
        let mut caller = Caller::of(proxy);
        caller.send(head);
        caller.read_response()
    };
    let tunnel = |target: &str| {
        let mut caller = Caller::of(proxy);
        caller.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let granted = caller.read_head();
        caller.send(format!("GET /v1/inside HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        (granted, caller.read_response())
    };
    let (granted, inside) = tunnel(api);
    vec![
        ("Pleo's", 200, Caller::of(proxy).get("/v1/x")),
        ("HEAD", 200, Caller::of(proxy).request("HEAD", "/v1/x", &[], b"")),
        ("guard", 403, sent("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".into())),
        ("malformed", 400, sent(format!("GET / HTTP/1.1\r\nHost: {own}\r\nX A: b\r\n\r\n"))),
        ("no HTTP", 400, sent("\u{16}\u{3}\u{1}hello there\r\n\r\n".into())),
        ("long head", 431, sent(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)))),
        ("no account", 404, Caller::of(proxy).get("/@nobody/v1/x")),
        ("tunnel", 200, granted),
        ("in a tunnel", 200, inside),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_request_and_the_log_has_it_by_that_name() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let proxy = &setup.proxy;
    let run = proxy.admin_json("/api/requests").await["run"].as_str().unwrap().to_owned();
    assert!(run.len() == 6 && run.bytes().all(|digit| digit.is_ascii_hexdigit()), "{run}");
    let answers = every_kind_of_answer(proxy, &upstream.address.to_string());
    let mut numbers = Vec::new();
    for (kind, status, response) in &answers {
        assert_eq!(response.status, *status, "{kind}: {}", response.head);
        let id = id(response);
        numbers.push(number(&id, &run));
        let entry = proxy.exchange(&id).await;
        assert_eq!((&entry["id"], &entry["status"]), (&json!(id), &json!(status)), "{kind}");
        assert_times_in_order(&entry);
    }
    let distinct: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(distinct.len(), answers.len(), "{numbers:?}");
    let (first, second) = (proxy.get("/v1/x").await, proxy.get("/v1/x").await);
    let of = |response: &reqwest::Response| {
        number(response.headers()["pleo-proxy-request"].to_str().unwrap(), &run)
    };
    assert!(of(&first) > *numbers.iter().max().unwrap() && of(&second) > of(&first));
    let logs = stdout(&setup.workspace.run(&["logs", "-n", "100"]));
    for (kind, _, response) in &answers {
        assert!(logs.contains(&format!(" {} ", id(response))), "{kind}: {logs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_an_account_and_one_to_another_user_name_their_requests_too() {
    let upstream = Upstream::ok();
    let setup = setup_without_account(&upstream, "").await;
    let response = setup.caller().get("/v1/x");
    assert_eq!(response.problem(), (503, "login_required".into()));
    let entry = setup.proxy.exchange(&id(&response)).await;
    let told = fields(&entry, &["status", "by", "code", "complete", "account", "token_ms"]);
    assert_eq!(told, json!([503, "proxy", "login_required", true, null, null]));
    let url = format!("{}/v1/x", setup.proxy.api);
    let Some(mut other) = as_nobody("curl", &["-s", "-i", "--noproxy", "*", &url]) else { return };
    let refused = String::from_utf8(other.output().unwrap().stdout).unwrap();
    let line = refused.lines().find_map(|line| line.strip_prefix("pleo-proxy-request: "));
    let entry = setup.proxy.exchange(line.unwrap_or_else(|| panic!("{refused}")).trim()).await;
    assert_eq!(fields(&entry, &["status", "code"]), json!([403, "forbidden_peer"]), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_nothing_if_that_is_turned_off_and_are_logged_all_the_same() {
    let forged = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\
                  Pleo-Proxy-Request: 000000-1\r\nPleo-Proxy-Hint: forged\r\n\r\n";
    let upstream = Upstream::responding_with(forged, After::Keep);
    let setup = setup(&upstream, "[inspect]\nheaders = false\n").await;
    for (kind, _, response) in every_kind_of_answer(&setup.proxy, &upstream.address.to_string()) {
        assert!(!response.head.to_lowercase().contains("pleo-proxy-request"), "{kind}");
        assert!(!response.head.to_lowercase().contains("pleo-proxy-hint"), "{kind}");
    }
    assert_eq!(setup.proxy.exchanges("", 9).await.len(), 9);
}

// --- Who sent it, and how it went

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_has_the_facts_of_its_exchange() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.login("acme").await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = br#"{"includeDeleted":false}"#;
    let lines = [
        "Content-Type: application/json",
        "User-Agent: ledger/1.0",
        &format!("Traceparent: {trace}"),
    ];
    let target = "/@acme/v1/accounting-entries:search?company_id=1";
    let mut caller = Caller::of(&proxy);
    let response = caller.request("POST", target, &lines, body);
    let entry = identified(&proxy, &id(&response)).await;
    let names = ["account", "pid", "method", "path", "query", "operation", "kind", "by", "code"];
    let pid = std::process::id();
    let operation = "POST /v1/accounting-entries:search";
    let expected = json!([
        "acme",
        pid,
        "POST",
        "/v1/accounting-entries:search",
        ["company_id"],
        operation,
        "read",
        "pleo",
        null
    ]);
    assert_eq!(fields(&entry, &names), expected, "{entry}");
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(entry["program"], name.trim_end(), "{entry}");
    let names = ["bytes_in", "bytes_out", "status", "complete", "held", "sent_again"];
    let expected = json!([body.len(), response.body.len(), response.status, true, false, false]);
    assert_eq!(fields(&entry, &names), expected, "{entry}");
    assert_eq!(fields(&entry, &["user_agent", "traceparent"]), json!(["ledger/1.0", trace]));
    assert_eq!(entry["generation"], proxy.account("acme").await["generation"]);
    assert_times_in_order(&entry);
    for time in ["token_ms", "connected_ms", "head_ms"] {
        assert!(entry[time].is_number(), "{time}: {entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_the_unix_socket_is_named() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve_with(&["--set", "listen.api=\"unix:door/api.sock\""]);
    proxy.login("default").await;
    let mut stream = UnixStream::connect(workspace.path().join("door/api.sock")).unwrap();
    let head = "GET /v1/companies HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let id = proxy.exchanges("/v1/companies", 1).await[0]["id"].as_str().unwrap().to_owned();
    let entry = identified(&proxy, &id).await;
    assert_eq!(fields(&entry, &["pid", "status"]), json!([std::process::id(), 200]), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_a_refresh_is_held() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    setup.sandbox.set_faults(slow_token_response(300));
    let before = setup.proxy.account("default").await["generation"].as_u64().unwrap();
    let refresh = setup.proxy.force_refresh("default");
    let request = async {
        // Not by `wait_until`, which would keep the other half from being sent.
        while setup.sandbox.counters().refreshes == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        setup.proxy.get("/v1/held").await
    };
    let (_, response) = tokio::join!(refresh, request);
    let id = response.headers()["pleo-proxy-request"].to_str().unwrap().to_owned();
    let entry = setup.proxy.exchange(&id).await;
    let expected = json!([true, false, before + 1, 200]);
    assert_eq!(fields(&entry, &["held", "sent_again", "generation", "status"]), expected);
    assert!(entry["token_ms"].as_f64().unwrap() > 5.0, "{entry}");
    assert_times_in_order(&entry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_after_a_401_says_so_with_its_second_generation() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = proxy.account("default").await["generation"].as_u64().unwrap();
    sandbox.set_faults(Faults { api_401: 1, ..Faults::default() });
    let response = Caller::of(&proxy).get("/v1/companies");
    let entry = proxy.exchange(&id(&response)).await;
    let names = ["sent_again", "generation", "status", "by", "error_type"];
    assert_eq!(fields(&entry, &names), json!([true, before + 1, 200, "pleo", null]), "{entry}");
    assert_times_in_order(&entry);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_times_are_those_of_the_attempt_that_counted() {
    // The first attempt is refused, the second one breaks off before a head.
    let upstream = Upstream::start(|incoming| {
        if incoming.number == 0 {
            incoming.respond(UNAUTHORIZED_RESPONSE);
            return After::Keep;
        }
        After::Close
    });
    let setup = setup(&upstream, "").await;
    let response = setup.caller().request("POST", "/v1/x", &[], b"body");
    let entry = setup.proxy.exchange(&id(&response)).await;
    let names = ["status", "by", "sent_again", "head_ms"];
    assert_eq!(fields(&entry, &names), json!([502, "proxy", true, null]), "{entry}");
    assert_times_in_order(&entry);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_pleos_has_its_type_and_its_reason() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let response = Caller::of(&proxy).request("POST", "/v1/vendors:search", &[], b"{}");
    assert_eq!(response.status, 403);
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    let entry = proxy.exchange(&id(&response)).await;
    assert_eq!(entry["error_type"], body["type"], "{entry} {body}");
    assert_eq!(entry["hint"].as_str(), response.header("pleo-proxy-hint"), "{entry}");
    assert!(entry["hint"].as_str().unwrap().contains("vendors:read"), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_upstream_cuts_is_incomplete() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    let cut = ApiFault { kind: ApiFaultKind::ResetMidBody, ..ApiFault::default() };
    sandbox.set_faults(Faults { api_answer: Some(cut), ..Faults::default() });
    let response = Caller::of(&proxy).get("/v1/companies");
    assert!(!response.complete);
    let entry = proxy.exchange(&id(&response)).await;
    assert_eq!(fields(&entry, &["status", "complete", "by"]), json!([200, false, "pleo"]));
    let found = proxy.exchanges("is:error", 1).await;
    assert_eq!(found[0]["id"], entry["id"]);
}

/// An upstream that answers once it is told to.
fn patient_upstream() -> (Upstream, mpsc::Sender<()>) {
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let upstream = Upstream::start(move |incoming| {
        let _ = wait.lock().unwrap().recv_timeout(support::TIMEOUT);
        incoming.respond_ok()
    });
    (upstream, go)
}

async fn running(proxy: &Proxy) -> Vec<Value> {
    let listed = proxy.admin_json("/api/requests").await;
    listed["running"].as_array().unwrap().clone()
}

async fn wait_for_running(proxy: &Proxy, count: usize) -> Vec<Value> {
    for _ in 0..500 {
        let now = running(proxy).await;
        if now.len() == count {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {count} running: {:?}", running(proxy).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_requests_are_listed_until_they_have_ended() {
    let (upstream, go) = patient_upstream();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/v1/slow?a=1", &[]);
    // It is listed from its arrival on, and has its account a moment later.
    wait_until("the upstream has it", || !upstream.requests().is_empty());
    let listed = wait_for_running(&setup.proxy, 1).await.remove(0);
    let names = ["running", "seq", "status", "total_ms", "path", "account"];
    let expected = json!([true, null, null, null, "/v1/slow", "default"]);
    assert_eq!(fields(&listed, &names), expected, "{listed}");
    let found = setup.proxy.admin_json("/api/requests?filter=-is:running").await;
    assert_eq!(found["running"], json!([]));
    let logs = setup.workspace.run(&["logs"]);
    let line = stdout(&logs);
    assert_eq!(code(&logs), SUCCESS);
    assert!(line.contains(" ... GET ") && line.contains("/v1/slow?a=*"), "{line}");
    go.send(()).unwrap();
    let response = caller.read_response();
    assert_eq!(id(&response), listed["id"]);
    let entry = setup.proxy.exchange(&id(&response)).await;
    assert_eq!(fields(&entry, &["running", "seq", "status"]), json!([false, 1, 200]));
    assert!(running(&setup.proxy).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_early_has_an_entry_without_a_status() {
    let (upstream, _go) = patient_upstream();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send_head("GET", "/v1/slow", &[]);
    wait_until("the upstream has it", || !upstream.requests().is_empty());
    caller.disconnect();
    let entry = setup.proxy.exchanges("", 1).await.remove(0);
    let names = ["status", "complete", "by", "head_ms", "bytes_out"];
    assert_eq!(fields(&entry, &names), json!([null, false, "proxy", null, 0]), "{entry}");
    assert!(running(&setup.proxy).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_has_an_entry_without_a_method() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    let mut caller = setup.caller();
    caller.send("G@T /v1/x y HTTP/1.1\r\n\r\n");
    let response = caller.read_response();
    let entry = identified(&setup.proxy, &id(&response)).await;
    let names = ["method", "path", "operation", "status", "by", "code", "pid"];
    let expected = json!([null, "", null, 400, "proxy", "bad_request", std::process::id()]);
    assert_eq!(fields(&entry, &names), expected, "{entry}");
}
