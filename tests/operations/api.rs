//! `api`: one call through the running proxy, and lists to their end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command};

use super::start_and_stop::set_mode;
use pleo_proxy::sandbox::{ApiFault, ApiFaultKind, COMPANY_ID, Faults, Options, Sandbox};
use serde_json::{Value, json};
use support::command::{
    FAILED, LOGIN_REQUIRED, NOT_RUNNING, SUCCESS, USAGE, code, json_output, stderr, stdout,
};
use support::{Proxy, Upstream, Workspace, sandbox, sandbox_with, setup, write_private};

/// Entries that are not deleted, beside those that the test adds.
const ENTRIES: usize = 45;
/// Difference of memory that a list of 10,000 items may make, in KiB. All of them take 7 MiB.
const MAX_GROWTH: u64 = 4 * 1024;

fn entries() -> String {
    format!("/v1/accounting-entries:search?company_id={COMPANY_ID}")
}

const ALL_ENTRIES: &str = "{\"includeDeleted\":false}";

/// A proxy with one connected account before a sandbox with a long list.
async fn long_list(more_entries: usize) -> (Sandbox, Workspace, Proxy) {
    let more_entries = more_entries as u64;
    let sandbox = sandbox_with(Options { more_entries, ..Options::default() }).await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    (sandbox, workspace, proxy)
}

fn ids(lines: &str) -> Vec<String> {
    let id = |line: &str| {
        let item: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}"));
        item["id"].as_str().unwrap().to_owned()
    };
    lines.lines().map(id).collect()
}

/// The command that goes on, as it was printed, in this folder.
fn go_on(workspace: &Workspace, said: &str) -> Command {
    let line = said.lines().last().unwrap();
    let arguments = line.strip_prefix("pleo-proxy ").unwrap_or_else(|| panic!("{said}"));
    let program = env!("CARGO_BIN_EXE_pleo-proxy");
    let mut command = workspace.command(&[]);
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = Command::new("sh");
    command.current_dir(workspace.path()).env_clear().envs(environment);
    command.args(["-c", &format!("'{program}' {arguments}")]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_prints_the_body_as_it_is_and_ends_by_the_status() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let none = workspace.run(&["api", "/v1/companies"]);
    assert_eq!(code(&none), NOT_RUNNING);
    assert!(stderr(&none).contains("start it with: pleo-proxy"), "{}", stderr(&none));
    assert_eq!(stdout(&none), "");

    let proxy = workspace.serve();
    let unconnected = workspace.run(&["api", "/v1/companies"]);
    assert_eq!(code(&unconnected), LOGIN_REQUIRED, "{}", stderr(&unconnected));
    assert!(stdout(&unconnected).contains("login_required"), "{}", stdout(&unconnected));
    proxy.login("default").await;

    let direct = proxy.get("/v1/companies?limit=1").await.text().await.unwrap();
    for path in ["/v1/companies?limit=1", "v1/companies?limit=1"] {
        let called = workspace.run(&["api", path]);
        assert_eq!((code(&called), stdout(&called)), (SUCCESS, direct.clone()), "{path}");
        assert_eq!(stderr(&called), "");
    }
    let missing = workspace.run(&["api", "/v1/companies/00000000-0000-4000-8000-000000000000"]);
    assert_eq!(code(&missing), FAILED);
    assert!(stderr(&missing).contains("HTTP 404 Not Found"), "{}", stderr(&missing));
    assert!(stdout(&missing).starts_with('{'), "{}", stdout(&missing));

    let searched = workspace.run(&["api", &entries(), "-d", ALL_ENTRIES]);
    assert_eq!(code(&searched), SUCCESS, "{}", stderr(&searched));
    fs::write(workspace.path().join("body.json"), ALL_ENTRIES).unwrap();
    let from_file = workspace.run(&["api", &entries(), "-d", "@body.json", "-X", "post"]);
    assert_eq!(stdout(&from_file), stdout(&searched));
    let from_stdin = workspace.run_with(&["api", &entries(), "-d", "@-"], ALL_ENTRIES);
    assert_eq!(stdout(&from_stdin), stdout(&searched));
    let entry = proxy.admin_json("/api/requests?limit=1").await["entries"][0].clone();
    assert!(support::text(&entry["user_agent"]).starts_with("pleo-proxy/"), "{entry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_known_in_the_log_by_the_program() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let proxy = workspace.serve();
    proxy.login("default").await;
    // A caller is looked up when it connects: this one stays until that is done.
    sandbox.set_faults(Faults { latency_ms: 300_000, ..Faults::default() });
    let mut called = workspace.command(&["api", "/v1/companies"]).spawn().unwrap();
    let start = std::time::Instant::now();
    loop {
        let running = proxy.admin_json("/api/requests?limit=1").await["running"].clone();
        if running[0]["program"] == "pleo-proxy" {
            break;
        }
        assert!(start.elapsed() < support::TIMEOUT, "never named: {running}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    called.kill().unwrap();
    called.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_a_call_is_one_line_with_status_headers_and_body() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let none = workspace.run(&["api", "/v1/companies", "--json"]);
    assert_eq!((code(&none), &json_output(&none)["exit"]), (NOT_RUNNING, &json!(NOT_RUNNING)));
    let proxy = workspace.serve();
    proxy.login("default").await;
    proxy.login("other").await;
    let called = json_output(&workspace.run(&["api", "/v1/companies", "--json"]));
    assert_eq!(
        (&called["status"], &called["headers"]["x-content-type-options"]),
        (&json!(200), &json!("nosniff"))
    );
    assert_eq!(called["body"]["data"][0]["name"], "Harbour Coffee ApS", "{called}");
    let other = ["api", "/v1/introspect", "--json", "--account", "other"];
    let subject = &json_output(&workspace.run(&other))["body"]["data"]["subjectURN"];
    assert!(subject.as_str().is_some_and(|urn| !urn.contains(COMPANY_ID)), "{subject}");
    let unknown = workspace.run(&["api", "/v1/companies", "--json", "--account", "nobody"]);
    assert_eq!(code(&unknown), FAILED);
    let unknown = json_output(&unknown);
    assert_eq!(
        (&unknown["status"], &unknown["body"]["code"]),
        (&json!(404), &json!("account_unknown"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_applies_and_the_local_key_comes_from_its_file() {
    let sandbox = sandbox().await;
    let guard = "[guard]\nlocal_key_file = \"local-key\"\nread_only = true\n";
    let workspace = Workspace::for_sandbox(&sandbox, guard);
    let key = workspace.path().join("local-key");
    write_private(&key, "a-long-random-text-that-nobody-guesses\n");
    let proxy = workspace.serve();
    proxy.login("default").await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 403);
    let called = workspace.run(&["api", "/v1/companies"]);
    assert_eq!(code(&called), SUCCESS, "{}", stderr(&called));
    let refused = workspace.run(&["api", "/v1/vendors", "-d", "{}"]);
    assert_eq!(code(&refused), FAILED);
    assert!(stdout(&refused).contains("read_only"), "{}", stdout(&refused));
    set_mode(&key, 0o644);
    let lax = workspace.run(&["api", "/v1/companies"]);
    assert_eq!(code(&lax), USAGE);
    assert!(stderr(&lax).contains("guard.local_key_file"), "{}", stderr(&lax));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_and_an_admin_listener_that_is_off_work_too() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    let connected = workspace.serve();
    connected.login("default").await;
    connected.terminate();
    for set in ["listen.api=unix:run/api.sock", "listen.admin=off"] {
        let proxy = workspace.serve_with(&["--set", set]);
        let called = workspace.run(&["api", "/v1/companies"]);
        assert_eq!(code(&called), SUCCESS, "{set}: {}", stderr(&called));
        assert!(stdout(&called).contains("Harbour Coffee"));
        proxy.terminate();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_that_make_no_sense_are_refused_before_anything_is_sent() {
    let workspace = Workspace::new("environment = \"sandbox\"\n");
    for (arguments, hint) in [
        (&["https://external.pleo.io/v1/companies"][..], "without scheme and host"),
        (&["/v1/a b"], "%20"),
        (&["/v1/companies", "-H", "nothing"], "NAME: VALUE"),
        (&["/v1/companies", "-H", "host: x"], "set by this command"),
        (&["/v1/companies", "-X", "no method"], "PUT"),
        (&["/v1/companies", "-d", "@missing.json"], "missing.json"),
        (&["/v1/companies", "--account", "UPPER"], "account's name"),
        (&["/v1/vendors", "--all", "-d", "{}"], "leave out --all"),
        (&["/v1/vendors/1", "--all", "-X", "DELETE"], "leave out --all"),
    ] {
        let refused = workspace.run(&[&["api"], arguments].concat());
        assert_eq!(code(&refused), USAGE, "{arguments:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(hint), "{arguments:?}: {}", stderr(&refused));
    }
}

/// The peak of a process's memory until now, in KiB.
fn peak(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_ten_thousand_items_are_all_printed_once_in_constant_memory() {
    let (_sandbox, workspace, _proxy) = long_list(10_000).await;
    let mut child =
        workspace.command(&["api", &entries(), "--all", "-d", ALL_ENTRIES]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut seen, mut count, mut first_peak, mut last_peak) = (BTreeSet::new(), 0, 0, 0);
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        count += 1;
        seen.extend(ids(&line));
        // While the pipe is full, the process is not much further than what was read.
        match count {
            200 => first_peak = peak(&child),
            9_500 => last_peak = peak(&child),
            _ => {}
        }
        line.clear();
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    assert_eq!((count, seen.len()), (ENTRIES + 10_000, ENTRIES + 10_000));
    assert!(said.contains("10045 items"), "{said}");
    assert!(last_peak < first_peak + MAX_GROWTH, "{first_peak} KiB, then {last_peak} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_in_the_middle_ends_the_list_with_the_command_that_goes_on() {
    let (sandbox, workspace, _proxy) = long_list(2_000).await;
    for json in [false, true] {
        let flags: &[&str] = if json { &["--json"] } else { &[] };
        let path = format!("{}&limit=50", entries());
        let arguments = [&["api", path.as_str(), "--all", "-d", ALL_ENTRIES], flags].concat();
        let mut child = workspace.command(&arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut printed = String::new();
        lines.read_line(&mut printed).unwrap();
        // The pipe holds a few pages, so there are more to ask for.
        let busy = ApiFault {
            kind: ApiFaultKind::Status,
            status: Some(429),
            retry_after: Some("120".into()),
            ..ApiFault::default()
        };
        sandbox.set_faults(Faults { api_answer: Some(busy), ..Faults::default() });
        lines.read_to_string(&mut printed).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(FAILED), "{said}");
        sandbox.set_faults(Faults::default());
        let summary = json.then(|| {
            let (items, summary) = printed.trim_end().rsplit_once('\n').unwrap();
            let summary: Value = serde_json::from_str(summary).unwrap();
            let items: Vec<_> = items
                .lines()
                .map(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    assert_eq!(line["version"], 1);
                    line["item"].to_string()
                })
                .collect();
            printed = items.join("\n");
            summary
        });
        let first = ids(&printed);
        assert!(first.len() < 2_000 && first.len().is_multiple_of(50), "{}", first.len());
        assert!(said.contains(&format!("stopped after {} items", first.len())), "{said}");
        assert!(said.contains("429"), "{said}");
        if let Some(summary) = summary {
            assert_eq!(
                (&summary["outcome"], &summary["items"], &summary["status"]),
                (&json!("stopped"), &json!(first.len()), &json!(429))
            );
            assert_eq!(summary["go_on"], said.lines().last().unwrap());
            continue;
        }
        let rest = go_on(&workspace, &said).output().unwrap();
        assert_eq!(code(&rest), SUCCESS, "{}", stderr(&rest));
        let all: BTreeSet<_> = first.iter().cloned().chain(ids(&stdout(&rest))).collect();
        assert_eq!(all.len(), ENTRIES + 2_000, "each is there");
        assert_eq!(first.len() + ids(&stdout(&rest)).len(), ENTRIES + 2_000, "and none twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_that_is_asked_for_is_made() {
    let (sandbox, workspace, _proxy) = long_list(0).await;
    let busy = ApiFault {
        kind: ApiFaultKind::Status,
        status: Some(429),
        retry_after: Some("1".into()),
        count: Some(1),
        ..ApiFault::default()
    };
    sandbox.set_faults(Faults { api_answer: Some(busy), ..Faults::default() });
    let listed = workspace.run(&["api", &entries(), "--all", "-d", ALL_ENTRIES]);
    assert_eq!(code(&listed), SUCCESS, "{}", stderr(&listed));
    assert_eq!(ids(&stdout(&listed)).len(), ENTRIES);
    assert!(stderr(&listed).contains("waiting"), "{}", stderr(&listed));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_followed_by_offset_and_backwards_and_what_is_no_list_is_refused() {
    let (_sandbox, workspace, _proxy) = long_list(0).await;
    let all = |query: &str| {
        let listed =
            workspace.run(&["api", &format!("{}{query}", entries()), "--all", "-d", ALL_ENTRIES]);
        assert_eq!(code(&listed), SUCCESS, "{query}: {}", stderr(&listed));
        ids(&stdout(&listed))
    };
    let forwards = all("");
    assert_eq!(forwards.len(), ENTRIES);
    assert_eq!(all("&limit=7"), forwards);
    assert_eq!(all("&limit=7&offset=3"), forwards[3..]);
    let page = workspace.run(&["api", &format!("{}&limit=20", entries()), "-d", ALL_ENTRIES]);
    let page: Value = serde_json::from_str(&stdout(&page)).unwrap();
    let end = page["pagination"]["endCursor"].as_str().unwrap();
    let before: BTreeSet<_> = all(&format!("&limit=7&before={end}")).into_iter().collect();
    assert_eq!(before, forwards[..19].iter().cloned().collect());
    assert_eq!(all(&format!("&after={end}")), forwards[20..]);

    for path in ["/v1/introspect", "/v1/installations/me"] {
        let refused = workspace.run(&["api", path, "--all"]);
        assert_eq!(code(&refused), USAGE, "{path}: {}", stderr(&refused));
        let said = stderr(&refused);
        assert!(said.contains(&format!("{path} is no list")) && said.contains("--all"), "{said}");
        assert_eq!(stdout(&refused), "");
    }
    let summary = workspace.run(&["api", "/v1/companies", "--all", "--json"]);
    let last: Value = serde_json::from_str(stdout(&summary).lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"version": 1, "outcome": "complete", "items": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_goes_round_or_names_no_cursor_ends_with_an_error() {
    let upstream = Upstream::start(|request| {
        let pagination = if request.target().starts_with("/round") {
            r#"{"hasNextPage":true,"endCursor":"AA=="}"#
        } else {
            r#"{"hasNextPage":true}"#
        };
        let body = format!(r#"{{"data":[{{"id":"1"}}],"pagination":{pagination}}}"#);
        request.respond(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        support::After::Keep
    });
    let setup = setup(&upstream, "").await;
    for (path, lines, hint) in [("/round", 2, "its own beginning"), ("/nowhere", 1, "not where")] {
        let ended = setup.workspace.run(&["api", path, "--all"]);
        assert_eq!(code(&ended), FAILED, "{}", stderr(&ended));
        assert!(stderr(&ended).contains(hint), "{}", stderr(&ended));
        assert_eq!(stdout(&ended).lines().count(), lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_the_list() {
    let (sandbox, workspace, _proxy) = long_list(2_000).await;
    let mut child = workspace
        .command(&["api", &format!("{}&limit=10", entries()), "--all", "-d", ALL_ENTRIES])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    drop(lines);
    assert!(child.wait().unwrap().success());
    assert!(sandbox.counters().api_requests < 200, "{:?}", sandbox.counters());
}
