//! System calls of the store that fail, and the order in which records become durable.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fs;

use super::disk_faults::{SHORT_WAITS, forced, record, slow_answer, until};
use pleo_proxy::sandbox::Faults;
use strace::{Faulty, may_trace, wrapped};
use support::{Proxy, Workspace, sandbox, token_posts};

/// System calls that say no while a refresh is noted: nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_error_before_the_intent_sends_no_token_request() {
    if !may_trace("errors before the note") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = sandbox.counters();
    for (number, inject) in
        ["openat:error=EMFILE", "flock:error=ENOLCK", "fsync:error=EIO", "/^rename:error=EROFS"]
            .into_iter()
            .enumerate()
    {
        let inject = format!("inject={inject}");
        let log = workspace.path().join(format!("before-{number}"));
        let Some(faulty) = Faulty::attach(proxy.child.id(), &log, &[TRACED, &inject]) else {
            return;
        };
        let response = proxy.force_refresh("default").await;
        // Want of files says nothing about the disk.
        let state = if inject.contains("EMFILE") { "retrying" } else { "store_unwritable" };
        assert_eq!(response["account"]["state"], state, "{inject}: {response}");
        let seen = faulty.end();
        assert!(seen.contains("(INJECTED)"), "{inject}: {seen}");
        no_file_is_tried_twice(&seen);
        assert_eq!(token_posts(&sandbox, &before), 0, "{inject}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{inject}");
        let left = fs::read_dir(workspace.state()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(
            left.filter(|name| name.to_str().unwrap().ends_with(".tmp")).count(),
            0,
            "{inject}"
        );
    }
    let well = proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!((&well["generation"], token_posts(&sandbox, &before)), (&2.into(), 1));
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

/// The same while the new pair is saved: it is served from memory, and saved to another file in the
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_error_while_saving_loses_no_token() {
    if !may_trace("errors at the save") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let proxy = workspace.serve();
    proxy.login("default").await;
    let before = sandbox.counters();
    for (number, inject) in
        ["fsync:error=EIO", "/^rename:error=EROFS", "openat:error=EMFILE", "ftruncate:error=EIO"]
            .into_iter()
            .enumerate()
    {
        let inject = format!("inject={inject}");
        sandbox.set_faults(slow_answer());
        let asking = forced(&proxy);
        until("no token request", || token_posts(&sandbox, &before) == number as u64 + 1).await;
        let log = workspace.path().join(format!("save-{number}"));
        let Some(faulty) = Faulty::attach(proxy.child.id(), &log, &[TRACED, &inject]) else {
            return;
        };
        asking.await.unwrap();
        sandbox.set_faults(Faults::default());
        proxy.wait_for_account("default", |account| account["state"] == "unsaved").await;
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{inject}");
        // At least one further try fails too.
        until("no further try", || proxy.log().matches("still unsaved").count() > number).await;
        no_file_is_tried_twice(&faulty.end());
        let well =
            proxy.wait_for_account("default", |account| account["state"] == "connected").await;
        assert_eq!(well["generation"], number as u64 + 2);
        assert_eq!(record(&workspace).generation, number as u64 + 2, "{inject}");
    }
    proxy.kill();
    assert_eq!(workspace.serve().get("/v1/companies").await.status(), 200);
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (4, 0));
}

/// Some network file systems cannot make a folder durable: a warning, once, and everything works.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_fsync_is_reported_once_and_works() {
    if !may_trace("folders without fsync") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let proxy = workspace.serve();
    proxy.login("default").await;
    for (number, errno) in ["EINVAL", "ENOTSUP"].into_iter().enumerate() {
        let inject = format!("inject=fsync:error={errno}");
        let log = workspace.path().join(format!("folder-{number}"));
        let expressions = ["trace=fsync", &inject];
        let pid = proxy.child.id();
        let Some(faulty) = Faulty::attach_to(pid, &log, Some(&workspace.state()), &expressions)
        else {
            return;
        };
        let response = proxy.force_refresh("default").await;
        assert_eq!(
            (&response["outcome"], &response["account"]["state"]),
            (&"refreshed".into(), &"connected".into())
        );
        assert!(faulty.end().contains("(INJECTED)"));
        assert_eq!(record(&workspace).generation, number as u64 + 2, "{errno}");
    }
    proxy.wait_for_log("cannot make a folder durable");
    assert_eq!(proxy.log().matches("cannot make a folder durable").count(), 1, "{}", proxy.log());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

/// The record is in its place by then, though nobody knows for how long: neither note nor pair
/// counts as saved, and neither leads to a spent token being sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_folder_sync_after_the_rename_causes_no_replay() {
    if !may_trace("a folder's fsync that fails") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let (proxy, sibling) = (workspace.serve(), workspace.serve());
    proxy.login("default").await;
    let before = sandbox.counters();
    let attach = |log: &str| {
        let expressions = ["trace=fsync", "inject=fsync:error=EIO"];
        Faulty::attach_to(
            proxy.child.id(),
            &workspace.path().join(log),
            Some(&workspace.state()),
            &expressions,
        )
    };
    let Some(faulty) = attach("note") else { return };
    assert_eq!(proxy.force_refresh("default").await["account"]["state"], "store_unwritable");
    assert!(record(&workspace).open_intent().is_some() && token_posts(&sandbox, &before) == 0);
    drop(faulty);
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!((record(&workspace).generation, token_posts(&sandbox, &before)), (2, 1));

    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || token_posts(&sandbox, &before) == 2).await;
    let Some(faulty) = attach("save") else { return };
    asking.await.unwrap();
    sandbox.set_faults(Faults::default());
    proxy.wait_for_account("default", |account| account["state"] == "unsaved").await;
    sibling.wait_for_account("default", |account| account["generation"] == 3).await;
    assert_eq!(
        (proxy.get("/v1/companies").await.status(), sibling.get("/v1/companies").await.status()),
        OK
    );
    drop(faulty);
    proxy.wait_for_account("default", |account| account["state"] == "connected").await;
    assert_eq!(record(&workspace).generation, 3);
    assert_eq!((token_posts(&sandbox, &before), sandbox.counters().refresh_replays), (2, 0));
}

const OK: (reqwest::StatusCode, reqwest::StatusCode) =
    (reqwest::StatusCode::OK, reqwest::StatusCode::OK);

const TRACED: &str = "trace=openat,flock,fsync,fdatasync,ftruncate,/^rename,write,writev,sendto";

/// After a failed fsync the kernel may call the lost pages clean: a second fsync would lie, and so
/// would a rename.
fn no_file_is_tried_twice(log: &str) {
    let syncs = |line: &&str| line.contains("fsync(") && line.contains(".tmp>");
    let failed: Vec<_> = log
        .lines()
        .filter(syncs)
        .filter(|line| line.contains("INJECTED"))
        .filter_map(path)
        .collect();
    for file in failed {
        let uses = |line: &&str| {
            line.contains(file) && (line.contains("fsync(") || line.contains("rename"))
        };
        assert_eq!(log.lines().filter(uses).count(), 1, "{file}:\n{log}");
    }
}

/// What `-y` names between angle brackets.
fn path(line: &str) -> Option<&str> {
    line.split_once('<')?.1.split_once('>').map(|(path, _)| path)
}

#[tokio::test(flavor = "multi_thread")]
async fn intent_and_tokens_are_durable_before_they_are_sent() {
    if !may_trace("the order of fsync, rename and use") {
        return;
    }
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, SHORT_WAITS);
    let log = workspace.path().join("order");
    let tracer = [
        "strace",
        "-D",
        "-f",
        "-y",
        "-qq",
        "-s",
        "4096",
        "-e",
        TRACED,
        "-o",
        log.to_str().unwrap(),
    ];
    let command = workspace.command(&["--json", "--log", "debug"]);
    let proxy = Proxy::launch(wrapped(&command, &tracer), &workspace.state());
    proxy.login("default").await;
    assert_eq!(proxy.force_refresh("default").await["outcome"], "refreshed");
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    proxy.kill();
    until("strace does not end", || fs::read_to_string(&log).unwrap().contains("+++ killed by"))
        .await;
    let log = fs::read_to_string(&log).unwrap();
    if !rustix::process::geteuid().is_root() && !log.contains("HTTP/1.1") {
        eprintln!(
            "SKIPPED: only root may read what a process writes that lets nobody read its memory"
        );
        return;
    }
    let token = record(&workspace).grant.unwrap().access.unwrap();
    durable_before(&log, "sent_at", "grant_type=refresh_token");
    durable_before(&log, token.expose(), &format!("Bearer {}", token.expose()));
}

/// A file with `content` is written, synced, renamed, and its folder synced, before `used` is on a
/// socket.
fn durable_before(log: &str, content: &str, used: &str) {
    let lines: Vec<_> = log.lines().collect();
    let after = |start: usize, what: &str, wanted: &dyn Fn(&str) -> bool| {
        let found = lines[start..].iter().position(|line| wanted(line));
        start + found.unwrap_or_else(|| panic!("no {what} after line {start}:\n{log}"))
    };
    let written = after(0, "write", &|line| {
        line.contains("write(") && line.contains(".tmp>") && line.contains(content)
    });
    let file = path(lines[written]).unwrap();
    let synced = after(written, "fsync", &|line| line.contains("fsync(") && line.contains(file));
    let renamed = after(ended(&lines, synced), "rename", &|line| {
        line.contains("rename") && line.contains(file)
    });
    let folder = after(ended(&lines, renamed), "fsync of the folder", &|line| {
        line.contains("fsync(") && line.contains("/sandbox>")
    });
    let on_socket = |line: &str| line.contains("<socket:") && line.contains(used);
    let sent = after(0, "use", &on_socket);
    assert!(
        ended(&lines, folder) < sent,
        "{used} in line {sent}, the folder was synced in line {folder}:\n{log}"
    );
}

/// The line where a call ends that may be in two pieces.
fn ended(lines: &[&str], begun: usize) -> usize {
    if !lines[begun].ends_with("<unfinished ...>") {
        return begun;
    }
    let thread = lines[begun].split(' ').next().unwrap();
    let resumed = |line: &&str| line.starts_with(thread) && line.contains("resumed>");
    begun + lines[begun..].iter().position(resumed).unwrap()
}
