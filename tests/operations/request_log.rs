//! What is kept of exchanges: bounds, pages, filters, the file of `log.requests`, captured bodies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use pleo_proxy::sandbox::Sandbox;
use reqwest::Method;
use serde_json::{Value, json};
use strace::Faulty;
use support::command::{SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{
    After, Proxy, Setup, Upstream, Workspace, sandbox, setup, wait_until, write_private,
};

async fn connected(more: &str) -> (Sandbox, Workspace, Proxy) {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, more);
    let proxy = workspace.serve();
    proxy.login("default").await;
    (sandbox, workspace, proxy)
}

fn seqs(page: &Value) -> Vec<u64> {
    let entries = page["entries"].as_array().unwrap().iter();
    entries.map(|entry| entry["seq"].as_u64().unwrap()).collect()
}

async fn last_minute(proxy: &Proxy) -> Value {
    proxy.admin_json("/api/rate").await["accounts"][0]["last_minute"].clone()
}

async fn metrics(proxy: &Proxy) -> String {
    proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap()
}

// --- Bounds

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_requests_are_kept_and_the_older_ones_go() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 10\n").await;
    setup.proxy.send_numbered(25);
    setup.proxy.wait_for_seq(25).await;
    let page = setup.proxy.admin_json("/api/requests").await;
    assert_eq!(seqs(&page), (16..=25).rev().collect::<Vec<_>>());
    assert_eq!(page["dropped"], 0);
    let run = page["run"].as_str().unwrap();
    let gone = setup.proxy.admin(Method::GET, &format!("/api/requests/{run}-1"), None).await;
    assert_eq!(gone.status(), 404);
    assert!(gone.text().await.unwrap().contains("inspect.requests"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_requests_kept_ids_metrics_and_rate_go_on() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "[inspect]\nrequests = 0\n").await;
    let mut caller = setup.caller();
    for _ in 0..5 {
        assert!(caller.get("/v1/x").header("pleo-proxy-request").is_some());
    }
    setup.proxy.wait_for_seq(5).await;
    assert_eq!(setup.proxy.admin_json("/api/requests").await["entries"], json!([]));
    assert_eq!(last_minute(&setup.proxy).await, 5);
    let counted =
        "pleo_proxy_requests_total{method=\"GET\",operation=\"other\",class=\"2xx\",code=\"\"} 5";
    assert!(metrics(&setup.proxy).await.contains(counted));
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_bodies_count_against_the_memory_of_the_log() {
    let body = "x".repeat(60_000);
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 60000\r\n\r\n{body}"
    );
    let upstream = Upstream::responding_with(response, After::Keep);
    let setup = setup(&upstream, "[inspect]\nmemory = \"1MiB\"\n").await;
    setup.proxy.send_numbered(20);
    setup.proxy.wait_for_seq(20).await;
    assert_eq!(seqs(&setup.proxy.admin_json("/api/requests").await).len(), 20);
    setup.proxy.capture(600, None).await;
    setup.proxy.send_numbered(100);
    setup.proxy.wait_for_seq(120).await;
    let kept = seqs(&setup.proxy.admin_json("/api/requests").await);
    assert_eq!(kept[0], 120);
    assert!((8..=17).contains(&kept.len()), "{} of 60 KB each", kept.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_goes_on_after_its_answer_leaves_the_bounds_as_they_are() {
    // Answered at once; what is read of the body afterwards still belongs to a captured exchange.
    let upstream = Upstream::start(|incoming| {
        incoming
            .respond("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = incoming.wait_until_closed();
        After::Close
    });
    let setup = setup(&upstream, "[inspect]\nrequests = 4\n").await;
    setup.proxy.capture(600, None).await;
    for _ in 0..12 {
        let mut caller = setup.caller();
        caller.send_head("POST", "/v1/x", &["Content-Length: 60000"]);
        caller.send([b'x'; 20_000]);
        assert_eq!(caller.read_head().status, 413);
        let _ = caller.try_send([b'x'; 40_000]);
    }
    setup.proxy.wait_for_seq(12).await;
    assert_eq!(seqs(&setup.proxy.admin_json("/api/requests").await), [12, 11, 10, 9]);
    assert!(!setup.proxy.log().contains("panicked"), "{}", setup.proxy.log());
}

// --- Pages and filters

#[tokio::test(flavor = "multi_thread")]
async fn pages_before_and_after_have_each_exchange_once() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, "").await;
    setup.proxy.send_numbered(60);
    setup.proxy.wait_for_seq(60).await;
    let mut found = Vec::new();
    while found.len() < 30 {
        let before = found.last().map(|seq| format!("&before={seq}")).unwrap_or_default();
        // Others go on meanwhile.
        setup.proxy.send_numbered(3);
        let page = setup.proxy.admin_json(&format!("/api/requests?limit=7{before}")).await;
        assert_eq!(page["seq"].as_u64(), seqs(&page).last().copied());
        found.extend(seqs(&page));
    }
    let newest = found[0];
    assert_eq!(found, (newest + 1 - found.len() as u64..=newest).rev().collect::<Vec<_>>());
    let (mut found, mut seq) = (Vec::new(), 0);
    while found.len() < 60 {
        let page = setup.proxy.admin_json(&format!("/api/requests?limit=7&after={seq}")).await;
        found.extend(seqs(&page));
        seq = page["seq"].as_u64().unwrap();
    }
    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
    // With a filter that chooses few, `seq` goes on all the same.
    let page = setup.proxy.admin_json("/api/requests?limit=50&after=0&filter=status:500").await;
    assert_eq!((&page["entries"], &page["seq"]), (&json!([]), &json!(50)));
    for odd in [u64::MAX, u64::MAX - 1, 1 << 53] {
        let page = setup.proxy.admin_json(&format!("/api/requests?after={odd}")).await;
        assert_eq!(page["entries"], json!([]), "{odd}");
        assert_eq!(
            seqs(&setup.proxy.admin_json(&format!("/api/requests?before={odd}")).await)[0],
            setup.proxy.last_seq().await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_not_understood_is_refused_by_name() {
    let (_sandbox, workspace, proxy) = connected("").await;
    proxy.get("/v1/companies").await;
    for route in ["/api/requests", "/api/events", "/api/har"] {
        let refused =
            proxy.admin(Method::GET, &format!("{route}?filter=vendors+colour:red"), None).await;
        assert_eq!(refused.status(), 400, "{route}");
        let body: Value = refused.json().await.unwrap();
        assert!(body.to_string().contains("`colour:red`"), "{route}: {body}");
    }
    let logs = workspace.run(&["logs", "colour:red"]);
    assert_ne!(code(&logs), SUCCESS);
    assert!(stderr(&logs).contains("`colour:red`"), "{}", stderr(&logs));
    let logs = workspace.run(&["--json", "logs", "--status", ">=200", "path:/v1/comp"]);
    assert_eq!(code(&logs), SUCCESS, "{}", stderr(&logs));
    let entry: Value = serde_json::from_str(stdout(&logs).trim()).unwrap();
    assert_eq!((&entry["path"], &entry["status"]), (&json!("/v1/companies"), &json!(200)));
}

// --- Captured headers and bodies

/// An upstream that sends the body of the request back, with its type.
fn echo() -> Upstream {
    Upstream::start(|incoming| {
        let body = incoming.body().unwrap();
        let head = incoming.head.to_lowercase();
        let of = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.map(|value| format!("{name}: {value}\r\n")).unwrap_or_default()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\n{}{}Content-Length: {}\r\n\r\n",
            of("content-type"),
            of("content-encoding"),
            body.len()
        );
        incoming.respond(head);
        incoming.respond(body);
        After::Keep
    })
}

async fn posted(setup: &Setup, target: &str, lines: &[&str], body: &[u8]) -> Value {
    let response = setup.caller().request("POST", target, lines, body);
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.body, body);
    setup.proxy.exchange_detail(response.header("pleo-proxy-request").unwrap()).await
}

const JSON: &str = "Content-Type: application/json";

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_captured_to_the_byte_and_without_secrets() {
    let upstream = echo();
    let setup = setup(&upstream, "").await;
    setup.proxy.capture(600, None).await;
    let text = "{\"name\":\"K\u{f8}benhavn\", \"n\" :\t[1,2.50,\"\\u00e9\"],\r\n\"last\":true}\n";
    let detail = posted(&setup, "/v1/x", &[JSON], text.as_bytes()).await;
    assert_eq!(detail["entry"]["captured"], true);
    for part in ["request", "response"] {
        assert_eq!(detail["capture"][part]["body"], text, "{part}: {detail}");
    }
    // Just below the limit whole, above it left out with its length.
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(64 * 1024 - 8));
    assert_eq!(long.len(), 64 * 1024);
    let detail = posted(&setup, "/v1/x", &[JSON], long.as_bytes()).await;
    assert_eq!(detail["capture"]["request"]["body"], long.as_str());
    assert_eq!(detail["capture"]["response"]["body"], long.as_str());
    let detail = posted(&setup, "/v1/x", &[JSON], format!("{long} ").as_bytes()).await;
    for part in ["request", "response"] {
        assert_eq!(detail["capture"][part]["body"], Value::Null);
        assert_eq!(detail["capture"][part]["body_note"], "left out: longer than 64 KiB");
    }
    let packed = posted(&setup, "/v1/x", &[JSON, "Content-Encoding: gzip"], b"\x1f\x8b\x08").await;
    assert_eq!(packed["capture"]["response"]["body_note"], "left out: 3 bytes, gzip");
    let stored = setup.workspace.stored_json("default");
    let live = find_token(&stored).to_owned();
    let secret =
        format!("{{\"access_token\":\"{live}\",\"password\":\"hunter2hunter2\",\"a\":\"keep\"}}");
    let lines = [JSON, "Authorization: Bearer my-own-secret-token", "Cookie: sid=cookie-secret"];
    let detail = posted(&setup, "/v1/x", &lines, secret.as_bytes()).await;
    let shown = detail.to_string();
    for hidden in [live.as_str(), "hunter2hunter2", "my-own-secret-token", "cookie-secret"] {
        assert!(!shown.contains(hidden), "{hidden}: {shown}");
    }
    assert!(shown.contains("keep"), "{shown}");
    let names = detail["capture"]["request"]["headers"].to_string();
    assert!(names.contains("authorization") && names.contains("cookie"), "{names}");
}

/// Some token of a record.
fn find_token(record: &Value) -> &str {
    let fields = record.as_object().unwrap();
    let own = fields.iter().find(|(name, value)| name.contains("access") && value.is_string());
    own.map(|(_, value)| value.as_str().unwrap())
        .or_else(|| fields.values().filter(|value| value.is_object()).map(find_token).next())
        .unwrap_or_else(|| panic!("no token in {fields:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_captured_outside_the_window_or_of_another_account() {
    let upstream = echo();
    let setup = setup(&upstream, "").await;
    setup.proxy.login("acme").await;
    let is_captured = async |target: &str| {
        posted(&setup, target, &[JSON], b"{}").await["entry"]["captured"] == true
    };
    assert!(!is_captured("/@default/v1/x").await, "nobody asked for it");
    setup.proxy.capture(600, Some("acme")).await;
    assert!(is_captured("/@acme/v1/x").await);
    assert!(!is_captured("/@default/v1/x").await);
    // Refused before an account was known: it is not of that account.
    let refused = setup.caller().request("POST", "/@nobody/v1/x", &[JSON], b"{}");
    let refused = setup.proxy.exchange(refused.header("pleo-proxy-request").unwrap()).await;
    assert_eq!((&refused["status"], &refused["captured"]), (&json!(404), &json!(false)));
    setup.proxy.capture(1, None).await;
    assert!(is_captured("/@default/v1/x").await);
    wait_until("the window is over", || {
        let shown = setup.workspace.run(&["--json", "capture", "--show"]);
        json_output(&shown)["active"] == false
    });
    assert!(!is_captured("/@default/v1/x").await);
    let capture = setup.workspace.run(&["--json", "capture", "--for", "10m"]);
    assert_eq!((code(&capture), &json_output(&capture)["active"]), (SUCCESS, &json!(true)));
    assert!(is_captured("/@default/v1/x").await);
    let stopped = setup.workspace.run(&["--json", "capture", "--stop"]);
    assert_eq!((code(&stopped), &json_output(&stopped)["active"]), (SUCCESS, &json!(false)));
    assert_eq!(json_output(&stopped)["bodies"], 2);
    assert!(!is_captured("/@default/v1/x").await);
}

// --- The file

const TO_FILE: &str = "[log]\nrequests = \"requests.jsonl\"\n";

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    // What stands behind the last line break is being written, or taken back.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect()
}

/// Numbers of the exchanges in a file whose first line says that it is sanitised.
fn written(path: &Path) -> Vec<u64> {
    let lines = lines(path);
    if let Some(first) = lines.first() {
        assert_eq!(first["sanitised"], true, "{first}");
    }
    lines.iter().skip(1).map(|entry| entry["seq"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_exchange_is_a_line_of_a_private_file_that_can_be_moved_away() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, TO_FILE).await;
    let (path, moved) =
        (setup.workspace.path().join("requests.jsonl"), setup.workspace.path().join("old.jsonl"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    setup.proxy.send_numbered(5);
    wait_until("five are written", || written(&path) == [1, 2, 3, 4, 5]);
    fs::rename(&path, &moved).unwrap();
    setup.proxy.signal("HUP");
    wait_until("a new file is there", || {
        setup.proxy.send_numbered(1);
        path.exists()
    });
    setup.proxy.send_numbered(2);
    let last = setup.proxy.last_seq().await;
    let (ended, _) = setup.proxy.terminate();
    assert!(ended.success());
    // Also those that had just ended.
    let all = [written(&moved), written(&path)].concat();
    assert!(all.len() as u64 >= last && written(&path).len() >= 3, "{all:?} of {last}");
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    let line = &lines(&path)[1];
    assert_eq!((&line["method"], &line["status"]), (&json!("GET"), &json!(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_the_file_has_a_secret() {
    let upstream = Upstream::ok();
    let setup = setup(&upstream, TO_FILE).await;
    let path = setup.workspace.path().join("requests.jsonl");
    let live = find_token(&setup.workspace.stored_json("default")).to_owned();
    let lines = [&*format!("User-Agent: {live}"), &format!("Traceparent: {live}")];
    let target = format!("/v1/{live}?{live}=1&b={live}");
    assert_eq!(setup.caller().request("GET", &target, &lines, b"").status, 200);
    wait_until("it is written", || written(&path) == [1]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&live), "{text}");
    let listed = setup.proxy.admin_json("/api/requests").await.to_string();
    assert!(!listed.contains(&live), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_stops_the_start_and_names_the_setting() {
    let sandbox = sandbox().await;
    for (file, prepare) in
        [("missing/requests.jsonl", None), ("lax.jsonl", Some(0o644)), ("state", None)]
    {
        let more = format!("[log]\nrequests = \"{file}\"\n");
        let workspace = Workspace::for_sandbox(&sandbox, &more);
        let path = workspace.path().join(file);
        match prepare {
            Some(mode) => {
                write_private(&path, "");
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            None if file == "state" => {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            }
            None => {}
        }
        let output = workspace.run(&[]);
        assert_eq!(code(&output), USAGE, "{file}: {}", stderr(&output));
        assert!(stderr(&output).contains("log.requests"), "{file}: {}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_or_is_full_stops_no_request_and_no_reader() {
    if !strace::may_trace("a_disk_that_hangs_or_is_full_stops_no_request_and_no_reader") {
        return;
    }
    let upstream = Upstream::ok();
    let setup = setup(&upstream, TO_FILE).await;
    let path = setup.workspace.path().join("requests.jsonl");
    let attach = |fault: &str| {
        let log = setup.workspace.path().join("strace.log");
        let pid = setup.proxy.child.id();
        Faulty::attach_to(pid, &log, Some(&path), &["trace=write", fault])
    };
    setup.proxy.send_numbered(3);
    wait_until("three are written", || written(&path).len() == 3);
    let Some(hangs) = attach("inject=write:delay_enter=4000000") else { return };
    setup.proxy.send_numbered(3);
    setup.proxy.wait_for_seq(6).await;
    // Longer than a batch: the write is under way, and does not come back.
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.proxy.send_numbered(200);
    setup.proxy.wait_for_seq(206).await;
    let counted = metrics(&setup.proxy).await;
    let counted = counted.lines().find_map(|line| {
        line.strip_prefix("pleo_proxy_rate_last_minute{account=\"default\"} ")?.parse::<u32>().ok()
    });
    assert_eq!(counted, Some(206));
    assert_eq!(setup.proxy.exchanges("path:/v1/n/199", 1).await.len(), 1);
    assert_eq!(written(&path).len(), 3, "the disk still hangs");
    drop(hangs);
    wait_until("all are written after all", || written(&path).len() == 206);
    let Some(full) = attach("inject=write:error=ENOSPC") else { return };
    setup.proxy.send_numbered(4);
    setup.proxy.wait_for_seq(210).await;
    setup.proxy.wait_for_log("log.requests");
    drop(full);
    wait_until("later ones are written", || {
        setup.proxy.send_numbered(1);
        written(&path).iter().any(|seq| *seq > 210)
    });
    assert!(written(&path).is_sorted());
}
