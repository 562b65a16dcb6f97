//! The disk fails: read-only, gone, full, with errors, and with records that somebody has touched.
//! No token is spent that could not be noted, no new pair is lost, and everything heals by itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support::{self, strace};

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pleo_proxy::sandbox::{Counters, Faults, Sandbox};
use pleo_proxy::store::Record;
use reqwest::Method;
use serde_json::Value;
use strace::{Faulty, may_trace, wrapped};
use support::{PATIENCE, Place, Proxy, problem, sandbox, text};
use tokio::task::JoinHandle;

/// Nothing is refreshed ahead of need, so that a test decides when a refresh begins.
const COLD: &str = "[tokens]\nkeep_warm = \"1ms\"\nhold = \"1s\"\ndrain = \"100ms\"\n";
/// The token endpoint takes its time between its work and its answer: the disk fails meanwhile.
fn slow_answer() -> Faults {
    Faults { token_latency_after_ms: 1500, ..Faults::default() }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Starts the proxy without root's right to write where the mode says no. None if that right cannot
/// be dropped.
fn serve_bound_by_modes(place: &Place) -> Option<Proxy> {
    const DROP: [&str; 2] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    if !rustix::process::geteuid().is_root() {
        return Some(place.serve());
    }
    if !Command::new(DROP[0]).args([DROP[1], "true"]).status().is_ok_and(|status| status.success())
    {
        eprintln!(
            "SKIPPED: modes do not bind root, and setpriv cannot change that here; run as another user"
        );
        return None;
    }
    Some(Proxy::launch(
        wrapped(&place.command(&["--json", "--log", "debug"]), &DROP),
        &place.state(),
    ))
}

/// A file system of its own for the store, gone with this value.
struct Small(PathBuf);

impl Small {
    /// None where this user may not mount.
    fn mount(place: &Place) -> Option<Self> {
        let at = place.path().join("state");
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k,mode=0700", "pleo-proxy-test"]).arg(&at);
        if !mount.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: no file system can be mounted here; run as root");
            return None;
        }
        Some(Self(at))
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let full = (0..64).find_map(|_| file.write_all(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn posts(sandbox: &Sandbox, before: &Counters) -> u64 {
    sandbox.counters().token_posts - before.token_posts
}

async fn force(proxy: &Proxy) -> Value {
    proxy
        .admin(Method::POST, "/api/accounts/default/refresh?force=true", None)
        .await
        .json()
        .await
        .unwrap()
}

/// The same in the background.
fn forced(proxy: &Proxy) -> JoinHandle<()> {
    let request =
        proxy.http.post(format!("{}/api/accounts/default/refresh?force=true", proxy.admin));
    let request = request.bearer_auth(&proxy.key);
    tokio::spawn(async move { drop(request.send().await) })
}

async fn until(what: &str, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ready(proxy: &Proxy) -> (u16, String) {
    let answer = proxy.http.get(format!("{}/ready", proxy.admin)).send().await.unwrap();
    (answer.status().as_u16(), text(&answer.json::<Value>().await.unwrap()["status"]))
}

fn record(place: &Place) -> Record {
    Record::decode(&fs::read(place.record("default")).unwrap()).unwrap()
}

/// The disk breaks before a refresh: the old token serves while it lives, then requests are told
/// why not; no token request is sent. Mended, everything goes on by itself.
async fn breaks_before_a_refresh(
    sandbox: &Sandbox,
    proxy: &Proxy,
    broken: impl FnOnce(),
    mended: impl FnOnce(),
) {
    let long = Duration::from_millis(4000);
    sandbox.set_faults(Faults { access_life_ms: Some(4000), ..Faults::default() });
    proxy.login("default").await;
    let (before, issued) = (sandbox.counters(), Instant::now());
    broken();
    assert_eq!(force(proxy).await["account"]["state"], "store_unwritable", "{}", proxy.log());
    // Longer than the records are looked at: what is seen there takes no token out of use.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        proxy.get("/v1/companies").await.status(),
        200,
        "the old token lives\n{}",
        proxy.log()
    );
    assert_eq!(ready(proxy).await, (200, "degraded".into()));
    tokio::time::sleep(long.saturating_sub(issued.elapsed())).await;
    let refused = proxy.get("/v1/companies").await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await, (503, "store_unwritable".into()), "{}", proxy.log());
    assert_eq!(ready(proxy).await, (503, "unavailable".into()));
    assert_eq!(posts(sandbox, &before), 0, "what cannot be noted is not sent");
    sandbox.set_faults(Faults::default());
    mended();
    proxy
        .until("default", |account| account["state"] == "connected" && account["generation"] == 2)
        .await;
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!((posts(sandbox, &before), sandbox.counters().refresh_replays), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_spent_while_the_folder_is_read_only() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(proxy) = serve_bound_by_modes(&place) else { return };
    let state = place.state();
    breaks_before_a_refresh(&sandbox, &proxy, || mode(&state, 0o500), || mode(&state, 0o700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_spent_and_nobody_is_logged_out_while_the_folder_is_gone() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let proxy = place.serve();
    let (here, away) = (place.state(), place.path().join("away"));
    let (gone, back) = (|| fs::rename(&here, &away).unwrap(), || fs::rename(&away, &here).unwrap());
    breaks_before_a_refresh(&sandbox, &proxy, gone, back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_spent_while_the_disk_is_full() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(small) = Small::mount(&place) else { return };
    let proxy = place.serve();
    breaks_before_a_refresh(&sandbox, &proxy, || small.fill(), || small.free()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_after_the_note_has_room_for_the_new_pair() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(small) = Small::mount(&place) else { return };
    let proxy = place.serve();
    proxy.login("default").await;
    let before = sandbox.counters();
    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || posts(&sandbox, &before) == 1).await;
    small.fill();
    asking.await.unwrap();
    assert_eq!(proxy.account("default").await["state"], "connected", "{}", proxy.log());
    assert_eq!(record(&place).generation, 2);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

/// A proxy whose refresh was answered while its folder was read-only.
async fn unsaved(sandbox: &Sandbox, place: &Place) -> Option<Proxy> {
    let proxy = serve_bound_by_modes(place)?;
    proxy.login("default").await;
    let before = sandbox.counters();
    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || posts(sandbox, &before) == 1).await;
    mode(&place.state(), 0o500);
    asking.await.unwrap();
    proxy.until("default", |account| account["state"] == "unsaved").await;
    sandbox.set_faults(Faults::default());
    Some(proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_cannot_be_saved_is_served_and_shown_and_locked_until_it_is() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let sibling = place.serve();
    let Some(proxy) = unsaved(&sandbox, &place).await else { return };
    let before = sandbox.counters();
    assert_eq!(
        proxy.get("/v1/companies").await.status(),
        200,
        "the old token is dead, so this is the new one"
    );
    assert_eq!(proxy.account("default").await["generation"], 2);
    assert_eq!(ready(&proxy).await, (200, "degraded".into()));
    let metrics = proxy.admin(Method::GET, "/metrics", None).await.text().await.unwrap();
    assert!(metrics.contains("pleo_proxy_accounts{state=\"unsaved\"} 1"), "{metrics}");
    assert_eq!(record(&place).generation, 1);

    // Who reads the record now would send a spent token, so nobody gets the lock.
    assert_eq!(force(&sibling).await["outcome"], "failed");
    let why = text(&sibling.account("default").await["why"]);
    assert!(why.contains(&format!("process {} holds the lock", proxy.child.id())), "{why}");
    let log = proxy.log();
    assert!(
        log.contains("the new pair is in memory only") && log.contains("still unsaved"),
        "{log}"
    );

    mode(&place.state(), 0o700);
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(record(&place).generation, 2);
    sibling
        .until("default", |account| account["state"] == "connected" && account["generation"] == 2)
        .await;
    assert_eq!(sibling.get("/v1/companies").await.status(), 200);
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_unsaved_is_said_and_the_next_start_is_honest() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(proxy) = unsaved(&sandbox, &place).await else { return };
    let (status, log) = proxy.terminate();
    assert_eq!(status.code(), Some(5), "{log}");
    assert!(log.contains("the newest tokens of account default could not be saved"), "{log}");
    mode(&place.state(), 0o700);
    let again = place.serve();
    let account = again.until("default", |account| account["state"] == "login_required").await;
    assert!(text(&account["why"]).contains("was interrupted"), "{account}");
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_finds_the_disk_mended_saves_at_the_last_moment() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(proxy) = unsaved(&sandbox, &place).await else { return };
    // By now the next try is seconds away.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    mode(&place.state(), 0o700);
    let (status, log) = proxy.terminate();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(record(&place).generation, 2);
    assert_eq!(place.serve().get("/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_cannot_be_saved_says_so_and_the_old_grant_survives() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(proxy) = serve_bound_by_modes(&place) else { return };
    proxy.login("default").await;
    let bytes = fs::read(place.record("default")).unwrap();
    mode(&place.state(), 0o500);
    for name in ["default", "another"] {
        let begun = proxy.admin(Method::POST, &format!("/api/accounts/{name}/login"), None).await;
        let begun: Value = begun.json().await.unwrap();
        let answer = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
        let page =
            proxy.http.get(answer.headers()["location"].to_str().unwrap()).send().await.unwrap();
        let (status, page) = (page.status(), page.text().await.unwrap());
        assert_eq!(status, 400, "{page}");
        assert!(page.contains("The login failed") && page.contains("Permission denied"), "{page}");
    }
    mode(&place.state(), 0o700);
    assert_eq!(fs::read(place.record("default")).unwrap(), bytes);
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
    assert_eq!(force(&proxy).await["outcome"], "refreshed");
    assert!(!place.record("another").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_on_a_full_disk_says_so_and_the_old_grant_survives() {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let Some(small) = Small::mount(&place) else { return };
    let proxy = place.serve();
    proxy.login("default").await;
    small.fill();
    let begun = proxy.admin(Method::POST, "/api/accounts/default/login", None).await;
    let begun: Value = begun.json().await.unwrap();
    let answer = proxy.http.get(text(&begun["authorize_url"])).send().await.unwrap();
    let page = proxy.http.get(answer.headers()["location"].to_str().unwrap()).send().await.unwrap();
    let (status, page) = (page.status(), page.text().await.unwrap());
    assert_eq!(status, 400, "{page}");
    assert!(page.contains("The login failed") && page.contains("No space left"), "{page}");
    small.free();
    proxy.kill();
    let again = place.serve();
    assert_eq!(again.account("default").await["generation"], 1);
    assert_eq!(force(&again).await["outcome"], "refreshed");
    assert_eq!(again.get("/v1/companies").await.status(), 200);
}

/// System calls that say no while a refresh is noted: nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_disk_before_the_note_sends_nothing() {
    if !may_trace("errors before the note") {
        return;
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let proxy = place.serve();
    proxy.login("default").await;
    let before = sandbox.counters();
    for (number, inject) in
        ["openat:error=EMFILE", "flock:error=ENOLCK", "fsync:error=EIO", "/^rename:error=EROFS"]
            .into_iter()
            .enumerate()
    {
        let inject = format!("inject={inject}");
        let log = place.path().join(format!("before-{number}"));
        let Some(faulty) = Faulty::attach(proxy.child.id(), &log, &[TRACED, &inject]) else {
            return;
        };
        let answer = force(&proxy).await;
        // Want of files says nothing about the disk.
        let state = if inject.contains("EMFILE") { "retrying" } else { "store_unwritable" };
        assert_eq!(answer["account"]["state"], state, "{inject}: {answer}");
        let seen = faulty.end();
        assert!(seen.contains("(INJECTED)"), "{inject}: {seen}");
        no_file_is_tried_twice(&seen);
        assert_eq!(posts(&sandbox, &before), 0, "{inject}");
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{inject}");
        let left = fs::read_dir(place.state()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(
            left.filter(|name| name.to_str().unwrap().ends_with(".tmp")).count(),
            0,
            "{inject}"
        );
    }
    let well = proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!((&well["generation"], posts(&sandbox, &before)), (&2.into(), 1));
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

/// The same while the new pair is saved: it is served from memory, and saved to another file in the
/// end.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_disk_at_the_save_loses_nothing() {
    if !may_trace("errors at the save") {
        return;
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let proxy = place.serve();
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
        until("no token request", || posts(&sandbox, &before) == number as u64 + 1).await;
        let log = place.path().join(format!("save-{number}"));
        let Some(faulty) = Faulty::attach(proxy.child.id(), &log, &[TRACED, &inject]) else {
            return;
        };
        asking.await.unwrap();
        sandbox.set_faults(Faults::default());
        proxy.until("default", |account| account["state"] == "unsaved").await;
        assert_eq!(proxy.get("/v1/companies").await.status(), 200, "{inject}");
        // At least one further try fails too.
        until("no further try", || proxy.log().matches("still unsaved").count() > number).await;
        no_file_is_tried_twice(&faulty.end());
        let well = proxy.until("default", |account| account["state"] == "connected").await;
        assert_eq!(well["generation"], number as u64 + 2);
        assert_eq!(record(&place).generation, number as u64 + 2, "{inject}");
    }
    proxy.kill();
    assert_eq!(place.serve().get("/v1/companies").await.status(), 200);
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (4, 0));
}

/// Some network file systems cannot make a folder durable: a warning, once, and everything works.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_has_no_fsync_is_told_once_and_serves() {
    if !may_trace("folders without fsync") {
        return;
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let proxy = place.serve();
    proxy.login("default").await;
    for (number, errno) in ["EINVAL", "ENOTSUP"].into_iter().enumerate() {
        let inject = format!("inject=fsync:error={errno}");
        let log = place.path().join(format!("folder-{number}"));
        let expressions = ["trace=fsync", &inject];
        let pid = proxy.child.id();
        let Some(faulty) = Faulty::attach_to(pid, &log, Some(&place.state()), &expressions) else {
            return;
        };
        let answer = force(&proxy).await;
        assert_eq!(
            (&answer["outcome"], &answer["account"]["state"]),
            (&"refreshed".into(), &"connected".into())
        );
        assert!(faulty.end().contains("(INJECTED)"));
        assert_eq!(record(&place).generation, number as u64 + 2, "{errno}");
    }
    assert_eq!(proxy.log().matches("cannot make a folder durable").count(), 1, "{}", proxy.log());
    assert_eq!(proxy.get("/v1/companies").await.status(), 200);
}

/// The record is in its place by then, though nobody knows for how long: neither note nor pair
/// counts as saved, and neither leads to a spent token being sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_durable_after_the_rename_replays_nothing() {
    if !may_trace("a folder's fsync that fails") {
        return;
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let (proxy, sibling) = (place.serve(), place.serve());
    proxy.login("default").await;
    let before = sandbox.counters();
    let attach = |log: &str| {
        let expressions = ["trace=fsync", "inject=fsync:error=EIO"];
        Faulty::attach_to(
            proxy.child.id(),
            &place.path().join(log),
            Some(&place.state()),
            &expressions,
        )
    };
    let Some(faulty) = attach("note") else { return };
    assert_eq!(force(&proxy).await["account"]["state"], "store_unwritable");
    assert!(record(&place).open_intent().is_some() && posts(&sandbox, &before) == 0);
    drop(faulty);
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!((record(&place).generation, posts(&sandbox, &before)), (2, 1));

    sandbox.set_faults(slow_answer());
    let asking = forced(&proxy);
    until("no token request", || posts(&sandbox, &before) == 2).await;
    let Some(faulty) = attach("save") else { return };
    asking.await.unwrap();
    sandbox.set_faults(Faults::default());
    proxy.until("default", |account| account["state"] == "unsaved").await;
    sibling.until("default", |account| account["generation"] == 3).await;
    assert_eq!(
        (proxy.get("/v1/companies").await.status(), sibling.get("/v1/companies").await.status()),
        OK
    );
    drop(faulty);
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(record(&place).generation, 3);
    assert_eq!((posts(&sandbox, &before), sandbox.counters().refresh_replays), (2, 0));
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
async fn note_and_pair_are_durable_before_the_wire_sees_them() {
    if !may_trace("the order of fsync, rename and use") {
        return;
    }
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, COLD);
    let log = place.path().join("order");
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
    let command = place.command(&["--json", "--log", "debug"]);
    let proxy = Proxy::launch(wrapped(&command, &tracer), &place.state());
    proxy.login("default").await;
    assert_eq!(force(&proxy).await["outcome"], "refreshed");
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
    let token = record(&place).grant.unwrap().access.unwrap();
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

async fn two_accounts() -> (Sandbox, Place, Proxy) {
    let sandbox = sandbox().await;
    let place = Place::toward(&sandbox, "");
    let proxy = place.serve();
    proxy.login("default").await;
    proxy.login("other").await;
    (sandbox, place, proxy)
}

async fn other(proxy: &Proxy) -> (u16, String) {
    problem(proxy.get("/@other/v1/companies").await).await
}

/// A record that was touched stops its account, with the words that mend it, and no other one.
async fn stops_only_its_account(proxy: &Proxy, fix: &str) {
    let account = proxy.until("other", |account| account["state"] == "store_error").await;
    assert!(text(&account["why"]).contains(fix), "{account}");
    assert_eq!(other(proxy).await, (503, "store_error".into()));
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
}

async fn heals(proxy: &Proxy) {
    proxy.until("other", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@other/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_others_may_read_stops_its_account_until_it_is_private() {
    let (_sandbox, place, proxy) = two_accounts().await;
    let path = place.record("other");
    mode(&path, 0o644);
    stops_only_its_account(&proxy, &format!("chmod 600 {}", path.display())).await;
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o644,
        "nothing is repaired on the sly"
    );
    mode(&path, 0o600);
    heals(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_a_symlink_or_corrupt_is_left_alone_and_heals_when_it_is_back() {
    let (sandbox, place, proxy) = two_accounts().await;
    let (path, away) = (place.record("other"), place.path().join("victim"));
    fs::rename(&path, &away).unwrap();
    symlink(&away, &path).unwrap();
    stops_only_its_account(&proxy, "not a regular file").await;
    assert!(path.symlink_metadata().unwrap().is_symlink() && record_at(&away).grant.is_some());
    fs::rename(&away, &path).unwrap();
    heals(&proxy).await;

    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    stops_only_its_account(&proxy, "corrupt").await;
    assert_eq!(fs::read(&path).unwrap(), &good[..good.len() / 2], "nothing is overwritten");
    fs::write(&path, &good).unwrap();
    heals(&proxy).await;
    assert_eq!(sandbox.counters().refreshes, 0);
}

fn record_at(path: &Path) -> Record {
    Record::decode(&fs::read(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_put_in_the_place_of_a_corrupt_record_does_not_replay_its_token() {
    let (sandbox, place, proxy) = two_accounts().await;
    let path = place.record("default");
    let backup = fs::read(&path).unwrap();
    assert_eq!(force(&proxy).await["outcome"], "refreshed");
    fs::write(&path, "{").unwrap();
    proxy.until("default", |account| account["state"] == "store_error").await;
    fs::write(&path, backup).unwrap();
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
    assert_eq!(force(&proxy).await["outcome"], "refreshed", "{}", proxy.log());
    assert_eq!(proxy.account("default").await["generation"], 3);
    assert_eq!((sandbox.counters().refresh_replays, sandbox.counters().families_revoked), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_was_lax_for_a_moment_heals() {
    let (_sandbox, place, proxy) = two_accounts().await;
    let path = place.record("default");
    // For a moment between two looks at the records: the next one sees nothing that changed.
    mode(&path, 0o644);
    let answer = force(&proxy).await;
    mode(&path, 0o600);
    assert_eq!(answer["account"]["state"], "store_error", "{answer}");
    proxy.until("default", |account| account["state"] == "connected").await;
    assert_eq!(proxy.get("/@default/v1/companies").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_gone_logs_out_and_its_return_heals() {
    let (_sandbox, place, proxy) = two_accounts().await;
    let (path, away) = (place.record("other"), place.path().join("away"));
    fs::rename(&path, &away).unwrap();
    proxy.until("other", |account| account["state"] == "login_required").await;
    assert_eq!(other(&proxy).await, (503, "login_required".into()));
    fs::rename(&away, &path).unwrap();
    heals(&proxy).await;
}

#[test]
fn a_folder_that_is_open_to_others_or_not_a_folder_stops_the_start() {
    let place = Place::new("environment = \"sandbox\"\n[store]\npath = \"state\"\n");
    let state = place.state();
    let refused = |fix: &str| {
        for arguments in [&["serve"] as &[&str], &["status"], &["refresh"]] {
            let output = place.run(arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
            assert!(said.contains(fix), "{arguments:?}: {said}");
        }
    };
    fs::create_dir_all(&state).unwrap();
    mode(&state, 0o777);
    refused(&format!("chmod 700 {}", state.display()));
    assert_eq!(
        fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o777,
        "nothing is repaired on the sly"
    );
    let real = place.path().join("real");
    fs::rename(&state, &real).unwrap();
    mode(&real, 0o700);
    symlink(&real, &state).unwrap();
    refused("symlink");
    fs::remove_file(&state).unwrap();
    fs::write(&state, "").unwrap();
    refused("state folder");
}
