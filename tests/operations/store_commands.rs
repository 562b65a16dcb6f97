//! Sealed records: `store key|seal|rekey|check`, and what a proxy does with them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use crate::support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::cli::connect;
use pleo_proxy::secret::StoreKey;
use pleo_proxy::store::{AccountName, EndReason, KeySource, Protection, Record, Sealing, Store};
use reqwest::Method;
use serde_json::{Value, json};
use support::command::{FAILED, SUCCESS, USAGE, code, json_output, stderr, stdout};
use support::{Workspace, problem, sandbox, strace, write_private};

/// Continues the section [store] of the sandbox's configuration.
const SEALING: &str = "key_file = \"store-key\"\n";

/// A fresh key and its name.
fn key(workspace: &Workspace) -> (String, String) {
    let printed = json_output(&workspace.run(&["store", "key", "--json"]));
    (support::text(&printed["key"]), support::text(&printed["id"]))
}

fn write_keys(workspace: &Workspace, keys: &[&str]) {
    write_private(&workspace.path().join("store-key"), &keys.join("\n"));
}

/// The accounts of a report by name.
fn accounts(report: &Value) -> Vec<(String, String)> {
    let lines = report["accounts"].as_array().unwrap().iter();
    let how = |line: &Value| match line["key"].as_str() {
        Some(key) => key.to_owned(),
        None => support::text(&line["state"]),
    };
    lines.map(|line| (support::text(&line["account"]), how(line))).collect()
}

fn checked(workspace: &Workspace) -> Vec<(String, String)> {
    accounts(&json_output(&workspace.run(&["store", "check", "--json"])))
}

fn pair(account: &str, how: &str) -> (String, String) {
    (account.to_owned(), how.to_owned())
}

fn tokens_in(path: &Path) -> bool {
    fs::read_to_string(path).unwrap().contains("refresh_token")
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_sealed_opened_and_sealed_anew_and_serve_all_the_while() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    assert_eq!(checked(&workspace), [pair("acme", "plain")]);
    let refused = workspace.run(&["store", "seal"]);
    assert_eq!(code(&refused), USAGE);
    assert!(stderr(&refused).contains("pleo-proxy store key"), "{}", stderr(&refused));

    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&format!("{config}{SEALING}"));
    let (old, old_id) = key(&workspace);
    write_keys(&workspace, &[&old]);
    let unsealed = workspace.run(&["store", "check"]);
    assert_eq!(code(&unsealed), SUCCESS);
    assert!(stderr(&unsealed).contains("store seal"), "{}", stderr(&unsealed));
    let before = fs::read(workspace.record("acme")).unwrap();
    assert_eq!(
        accounts(&json_output(&workspace.run(&["store", "seal", "--json"]))),
        [pair("acme", &old_id)]
    );
    assert!(!tokens_in(&workspace.record("acme")) && tokens_of(&before));
    let again = json_output(&workspace.run(&["store", "seal", "--json"]));
    assert_eq!(again["accounts"][0]["changed"], false);
    assert_eq!(checked(&workspace), [pair("acme", &old_id)]);

    let proxy = workspace.serve();
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200, "{}", proxy.log());
    assert_eq!(proxy.force_refresh("acme").await["outcome"], "refreshed");
    proxy.login("beta").await;
    assert_eq!(checked(&workspace), [pair("acme", &old_id), pair("beta", &old_id)]);

    let (new, new_id) = key(&workspace);
    write_keys(&workspace, &[&new, &old]);
    assert_eq!(code(&workspace.run(&["store", "rekey"])), SUCCESS);
    assert_eq!(checked(&workspace), [pair("acme", &new_id), pair("beta", &new_id)]);
    write_keys(&workspace, &[&new]);
    for account in ["acme", "beta"] {
        let path = format!("/@{account}/v1/companies");
        assert_eq!(proxy.get(&path).await.status(), 200, "{}", proxy.log());
        assert_eq!(proxy.force_refresh(account).await["outcome"], "refreshed", "{}", proxy.log());
    }
    assert_eq!(checked(&workspace), [pair("acme", &new_id), pair("beta", &new_id)]);
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_taken_out_of_its_file_seals_nothing_more() {
    let sandbox = sandbox().await;
    for both_at_first in [true, false] {
        let workspace = Workspace::for_sandbox(&sandbox, SEALING);
        let ((old, old_id), (new, new_id)) = (key(&workspace), key(&workspace));
        let at_first = if both_at_first { vec![&*old, &new] } else { vec![&*old] };
        write_keys(&workspace, &at_first);
        let proxy = workspace.serve();
        proxy.login("acme").await;
        assert_eq!(checked(&workspace), [pair("acme", &old_id)]);
        write_keys(&workspace, &[&new, &old]);
        assert_eq!(code(&workspace.run(&["store", "rekey"])), SUCCESS);
        write_keys(&workspace, &[&new]);
        proxy.login("beta").await;
        assert_eq!(proxy.force_refresh("acme").await["outcome"], "refreshed", "{}", proxy.log());
        assert_eq!(checked(&workspace), [pair("acme", &new_id), pair("beta", &new_id)]);
        proxy.terminate();
        let proxy = workspace.serve();
        for account in ["acme", "beta"] {
            let path = format!("/@{account}/v1/companies");
            assert_eq!(proxy.get(&path).await.status(), 200, "{}", proxy.log());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_could_not_be_saved_is_refused_before_anybody_consents() {
    let sandbox = sandbox().await;
    let (workspace, _, id) = sealed_store(&sandbox, &["acme"]).await;
    let whole = fs::read_to_string(workspace.record("acme")).unwrap();
    let (other, _) = key(&workspace);
    write_keys(&workspace, &[&other]);
    let proxy = workspace.serve();
    let newer = whole.replace("{\"version\":3", "{\"version\":99");
    assert_ne!(newer, whole);
    for (record, said, login_helps) in
        [(&*whole, &*id, false), (&newer, "version 99", false), ("{", "corrupt", true)]
    {
        write_private(&workspace.record("acme"), record);
        let is_noticed = |it: &Value| support::text(&it["why"]).contains(said);
        proxy.wait_for_account("acme", is_noticed).await;
        let refused: Value = proxy.get("/@acme/v1/companies").await.json().await.unwrap();
        assert_eq!(refused["code"], "store_error");
        let fix = support::text(&refused["fix"]);
        assert_eq!(fix.contains(" login acme"), login_helps, "{refused}");
        let begun = proxy.admin(Method::POST, "/api/accounts/acme/login", None).await;
        let (is_begun, answer) = (begun.status().is_success(), begun.text().await.unwrap());
        assert_eq!(is_begun, login_helps, "{said}: {answer}");
        assert_eq!(fs::read_to_string(workspace.record("acme")).unwrap(), record);
    }
}

fn tokens_of(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("refresh_token")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_running_proxy_does_not_have_seals_nothing() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    let proxy = workspace.serve();
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&format!("{config}{SEALING}"));
    write_keys(&workspace, &[&key(&workspace).0]);
    for command in ["seal", "rekey"] {
        let refused = workspace.run(&["store", command]);
        assert_eq!(code(&refused), USAGE, "{}", stdout(&refused));
        let pid = proxy.child.id().to_string();
        assert!(stderr(&refused).contains(&pid), "{}", stderr(&refused));
    }
    let sealing = [&["exec", "--", "true"][..], &["serve"]];
    for arguments in sealing {
        let refused = workspace.run(arguments);
        assert_eq!(code(&refused), USAGE, "{arguments:?} {}", stderr(&refused));
        assert!(stderr(&refused).contains("without key"), "{arguments:?} {}", stderr(&refused));
    }
    assert!(tokens_in(&workspace.record("acme")));
    proxy.terminate();
    assert_eq!(code(&workspace.run(&["store", "seal"])), SUCCESS);
    assert!(!tokens_in(&workspace.record("acme")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_the_key_saves_no_login_beside_sealed_records() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "plain").await;
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&format!("{config}{SEALING}"));
    write_keys(&workspace, &[&key(&workspace).0]);
    connect(&workspace, "acme").await;
    let proxy = workspace.serve();
    workspace.configure(&config);
    for arguments in [&["exec", "--account", "plain", "--", "true"][..], &["serve"]] {
        let refused = workspace.run(arguments);
        assert_eq!(code(&refused), USAGE, "{arguments:?} {}", stderr(&refused));
        let said = stderr(&refused);
        assert!(said.contains("seals this store") && said.contains("store.key_file"), "{said}");
    }
    proxy.terminate();

    for with_proxy in [false, true] {
        let proxy = with_proxy.then(|| workspace.serve());
        let arguments = ["login", "new", "--paste"];
        let refused = workspace.run(&arguments);
        assert_eq!(code(&refused), FAILED, "{}", stderr(&refused));
        let said = stderr(&refused);
        assert!(
            said.contains("account acme is sealed") && said.contains("store.key_file"),
            "{said}"
        );
        assert!(!workspace.record("new").exists());
        let Some(proxy) = proxy else { continue };
        assert_eq!(proxy.force_refresh("plain").await["outcome"], "refreshed", "{}", proxy.log());
        assert_eq!(code(&workspace.run(&["logout", "plain"])), SUCCESS);
        let begun = proxy.admin(Method::POST, "/api/accounts/plain/login", None).await;
        assert_eq!(begun.status(), 503);
        let refused: Value = begun.json().await.unwrap();
        assert_eq!(refused["code"], "store_unwritable", "{refused}");
    }
    let token =
        workspace.run_with(&["login", "new", "--import-refresh-token"], "some-refresh-token");
    assert!(stderr(&token).contains("account acme is sealed"), "{}", stderr(&token));
    assert!(!workspace.record("new").exists());
    fs::remove_file(workspace.record("acme")).unwrap();
    connect(&workspace, "new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_record_is_named_where_there_is_a_key_and_a_copy_aside_stays_as_it_is() {
    let sandbox = sandbox().await;
    let workspace = Workspace::for_sandbox(&sandbox, "");
    connect(&workspace, "acme").await;
    let plain = fs::read_to_string(workspace.record("acme")).unwrap();
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&format!("{config}{SEALING}"));
    write_keys(&workspace, &[&key(&workspace).0]);
    let warning = "its record is not sealed, though there is a key";
    let proxy = workspace.serve();
    proxy.wait_for_log(warning);
    assert!(proxy.log().contains("acme"), "{}", proxy.log());
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200, "it is used");
    let doctor = stdout(&workspace.run(&["doctor", "--account", "acme"]));
    assert!(doctor.contains("warn  sealing acme"), "{doctor}");
    assert_eq!(checked(&workspace), [pair("acme", "plain")]);
    let quiet = workspace.run(&["exec", "--account", "acme", "--", "true"]);
    assert!(!stderr(&quiet).contains(warning), "{}", stderr(&quiet));
    assert_eq!(code(&workspace.run(&["store", "seal"])), SUCCESS);
    proxy.terminate();

    let proxy = workspace.serve();
    assert_eq!(proxy.get("/@acme/v1/companies").await.status(), 200);
    write_private(&workspace.record("beta"), &plain);
    proxy.wait_for_log(warning);
    assert!(proxy.log().lines().all(|line| !line.contains(warning) || line.contains("beta")));
    proxy.terminate();

    // What cannot be opened is put aside as it is.
    let sealed = fs::read_to_string(workspace.record("acme")).unwrap();
    let damaged = sealed.replace("\"nonce\":\"", "\"nonce\":\"AAAA");
    write_private(&workspace.record("acme"), &damaged);
    connect(&workspace, "acme").await;
    let aside = fs::read_dir(workspace.state()).unwrap().flatten().map(|entry| entry.path());
    let aside = aside.filter(|path| path.to_string_lossy().contains("acme.json.corrupt-"));
    let aside: Vec<_> = aside.map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(aside, [damaged]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_keys_that_cannot_be_read_is_told_from_a_key_that_is_not_in_it() {
    let sandbox = sandbox().await;
    let (workspace, ours, id) = sealed_store(&sandbox, &["acme"]).await;
    let (other, _) = key(&workspace);
    write_keys(&workspace, &[&other]);
    let proxy = workspace.serve();
    let says =
        |text: &'static str| move |account: &Value| support::text(&account["why"]).contains(text);
    let account = proxy.wait_for_account("acme", says("is not there")).await;
    assert!(support::text(&account["why"]).contains(&id));
    let path = workspace.path().join("store-key");
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let account = proxy.wait_for_account("acme", says("chmod 600")).await;
    let why = support::text(&account["why"]);
    assert!(
        why.contains(&id) && why.contains("store-key") && why.contains("store.key_file"),
        "{why}"
    );
    assert!(!why.contains("is not there"), "{why}");
    fs::remove_file(&path).unwrap();
    proxy.wait_for_account("acme", says("does not exist")).await;
    write_keys(&workspace, &[&other, &ours]);
    proxy.wait_for_account("acme", |account| account["state"] == "connected").await;
}

/// A store of sealed accounts, and the name of their key.
async fn sealed_store(
    sandbox: &pleo_proxy::sandbox::Sandbox,
    names: &[&str],
) -> (Workspace, String, String) {
    let workspace = Workspace::for_sandbox(sandbox, SEALING);
    let (key, id) = key(&workspace);
    write_keys(&workspace, &[&key]);
    for name in names {
        connect(&workspace, name).await;
    }
    (workspace, key, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_does_not_open_is_refused_and_kept() {
    let sandbox = sandbox().await;
    let (workspace, _, id) = sealed_store(&sandbox, &["acme", "beta"]).await;
    let (acme, beta) = (workspace.record("acme"), workspace.record("beta"));
    let (ours, theirs) = (fs::read(&acme).unwrap(), fs::read(&beta).unwrap());
    write_private(&acme, std::str::from_utf8(&theirs).unwrap());
    write_private(&beta, std::str::from_utf8(&ours).unwrap());
    let check = workspace.run(&["store", "check"]);
    assert_eq!(code(&check), FAILED);
    assert_eq!(stdout(&check).matches("seal does not open").count(), 2, "{}", stdout(&check));
    assert_eq!(code(&workspace.run(&["store", "rekey"])), FAILED);
    let proxy = workspace.serve();
    let posts = sandbox.counters().token_posts;
    for account in ["acme", "beta"] {
        let refused = proxy.get(&format!("/@{account}/v1/companies")).await;
        assert_eq!(problem(refused).await, (503, "store_error".into()));
        proxy.force_refresh(account).await;
    }
    assert_eq!(sandbox.counters().token_posts, posts);
    assert_eq!(
        (fs::read(&acme).unwrap(), fs::read(&beta).unwrap()),
        (theirs.clone(), ours.clone())
    );

    proxy.terminate();
    let (other, _) = key(&workspace);
    write_keys(&workspace, &[&other]);
    write_private(&acme, std::str::from_utf8(&ours).unwrap());
    let check = workspace.run(&["store", "check"]);
    assert!(stdout(&check).contains(&format!("store key {id}")), "{}", stdout(&check));
    assert_eq!(code(&workspace.run(&["store", "seal"])), FAILED);
    let logout = workspace.run(&["logout", "acme"]);
    assert_eq!(code(&logout), FAILED, "{}", stderr(&logout));
    assert_eq!(fs::read(&acme).unwrap(), ours, "a wrong key overwrites nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_generation_and_another_environments_record_are_not_used() {
    let sandbox = sandbox().await;
    let (workspace, _, _) = sealed_store(&sandbox, &["acme"]).await;
    let acme = workspace.record("acme");
    let older = fs::read_to_string(&acme).unwrap();
    let generation =
        |text: &str| serde_json::from_str::<Value>(text).unwrap()["generation"].as_u64().unwrap();
    let proxy = workspace.serve();
    assert_eq!(proxy.force_refresh("acme").await["outcome"], "refreshed");
    let newer = fs::read_to_string(&acme).unwrap();
    assert!(generation(&older) < generation(&newer));
    write_private(&acme, &older);
    assert_eq!(proxy.force_refresh("acme").await["outcome"], "refreshed", "{}", proxy.log());
    assert_eq!(sandbox.counters().refresh_replays, 0, "the newer token was sent");
    proxy.terminate();
    let renumbered = |text: &str| {
        text.replace(&format!("\"generation\":{}", generation(text)), "\"generation\":99")
    };
    write_private(&acme, &renumbered(&older));
    let check = workspace.run(&["store", "check"]);
    assert!(stdout(&check).contains("seal does not open"), "{}", stdout(&check));

    write_private(&acme, &newer);
    let staging = workspace.state().parent().unwrap().join("staging");
    fs::create_dir(&staging).unwrap();
    fs::set_permissions(&staging, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    write_private(&staging.join("acme.json"), &newer);
    let elsewhere = workspace.run(&["--environment", "staging", "store", "check"]);
    assert!(stdout(&elsewhere).contains("seal does not open"), "{}", stdout(&elsewhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_key_is_in_no_output_and_bad_keys_stop_the_start() {
    let sandbox = sandbox().await;
    let (workspace, key, _) = sealed_store(&sandbox, &["acme"]).await;
    let shown = workspace.run(&["config", "show"]);
    assert!(stdout(&shown).contains("key_file") && !stdout(&shown).contains(&key));
    for (text, mode, hint) in [
        (key.as_str(), 0o644, "chmod 600"),
        ("no-key-at-all", 0o600, "key number 1"),
        ("# nothing\n", 0o600, "no key"),
    ] {
        let path = workspace.path().join("store-key");
        write_private(&path, text);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        for arguments in [&["serve"][..], &["store", "check"], &["status"], &["config", "check"]] {
            let refused = workspace.run(arguments);
            assert_eq!(code(&refused), USAGE, "{arguments:?} {}", stderr(&refused));
            let said = stderr(&refused);
            assert!(said.contains("store.key_file") && said.contains(hint), "{said}");
            assert!(!said.contains(text), "{said}");
        }
    }
    fs::remove_file(workspace.path().join("store-key")).unwrap();
    let config = fs::read_to_string(workspace.path().join("proxy.toml")).unwrap();
    workspace.configure(&config.replace(SEALING, ""));
    let with_variable = |arguments: &[&str]| {
        workspace.command(arguments).env("PLEO_PROXY_STORE_KEY", &key).output().unwrap()
    };
    assert_eq!(code(&with_variable(&["store", "check"])), SUCCESS);
    let shown = with_variable(&["config", "show"]);
    assert!(
        stdout(&shown).contains("variable PLEO_PROXY_STORE_KEY") && !stdout(&shown).contains(&key)
    );
    let without = workspace.run(&["store", "check"]);
    assert_eq!(code(&without), FAILED);
    let said = stdout(&without);
    assert!(said.contains("PLEO_PROXY_STORE_KEY") && said.contains("store.key_file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_rename_killed_at_any_moment_leaves_the_tokens_under_one_name() {
    if !strace::may_trace("kills during a sealed rename") {
        return;
    }
    let sandbox = sandbox().await;
    let (workspace, _, id) = sealed_store(&sandbox, &["acme"]).await;
    let moments = [
        "/^rename:when=1",
        "/^rename:when=2",
        "/^rename:when=3",
        "fsync:when=1",
        "fsync:when=2",
        "fsync:when=3",
        "fsync:when=4",
        "fsync:when=5",
        "exit_group:when=1",
    ];
    let here = strace::kill_renames(&workspace, &moments, |here, moment| {
        assert_eq!(checked(&workspace), [pair(here, &id)], "{moment}");
    });
    let renamed = workspace.run(&["accounts", "rename", here, "gamma"]);
    assert_eq!(code(&renamed), SUCCESS, "{}", stderr(&renamed));
    let moved = workspace.stored_json("gamma");
    assert_eq!(moved["names"], json!(null), "it opens under its new name alone: {moved}");
    let proxy = workspace.serve();
    assert_eq!(proxy.force_refresh("gamma").await["outcome"], "refreshed");
    assert_eq!(sandbox.counters().refresh_replays, 0);
}

/// How many accounts are sealed anew.
const MANY: u64 = 50;

fn open_with(workspace: &Workspace, keys: &str) -> Store {
    let sealing = Sealing::new("sandbox", KeySource::Value(StoreKey::new(keys))).unwrap();
    Store::open(&workspace.state(), sealing).unwrap()
}

/// A record whose generation tells whose it is.
fn record(number: u64) -> Record {
    Record::tombstone(number, 0, EndReason::LoggedOut)
}

fn account(number: u64) -> AccountName {
    format!("account-{number}").parse().unwrap()
}

/// The system calls of a command that nobody kills.
fn calls(workspace: &Workspace, kill_at: &str) -> usize {
    let report = workspace.path().join("calls");
    let command = workspace.command(&["store", "rekey"]);
    let mut counted = strace::wrapped(&command, &["python3", kill_at, "0"]);
    let output = counted.env("KILL_AT_REPORT", &report).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    fs::read_to_string(report).unwrap().parse().unwrap()
}

/// All records load, and each is its own; how many are sealed with each key.
async fn all_load(store: &Store, ids: [&str; 2], moment: usize) -> [u64; 2] {
    let mut counts = [0; 2];
    for number in 1..=MANY {
        let name = account(number);
        let loaded = store.load(&name).await.unwrap().unwrap().0;
        assert_eq!(loaded.encode(), record(number).encode(), "{name}, killed at {moment}");
        let Some(Protection::Sealed(key)) = store.protection(&name).await.unwrap() else {
            panic!("{name} is plain, killed at {moment}");
        };
        counts[ids.iter().position(|id| *id == key.as_str()).unwrap()] += 1;
    }
    assert_eq!(store.list().await.unwrap().len() as u64, MANY, "killed at {moment}");
    counts
}

/// Some moments, with `PLEO_PROXY_HEAVY` more; with `PLEO_PROXY_HEAVY=every` every system call,
/// which takes an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_rekey_killed_at_any_system_call_leaves_every_record_with_one_of_the_keys() {
    if !strace::may_trace("kills during a rekey") {
        return;
    }
    let workspace = Workspace::new(&format!("[store]\npath = \"state\"\n{SEALING}"));
    let (first, second) = (key(&workspace), key(&workspace));
    let ids = [first.1.as_str(), second.1.as_str()];
    let both = format!("{}\n{}", first.0, second.0);
    let store = open_with(&workspace, &both);
    for number in 1..=MANY {
        let locked = store.lock(&account(number), Duration::from_secs(5)).await.unwrap();
        locked.save(&record(number)).await.unwrap();
    }
    write_keys(&workspace, &[&second.0, &first.0]);
    let kill_at = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/heavy/kill_at.py");
    let all = calls(&workspace, kill_at);
    assert_eq!(all_load(&store, ids, 0).await, [0, MANY]);
    let step = match std::env::var("PLEO_PROXY_HEAVY").as_deref() {
        Ok("every") => 1,
        Ok(_) => (all / 60).max(1),
        Err(_) => (all / 24).max(1),
    };
    // Both keys take turns, so that there is always something to do.
    let (mut fates, mut turn) = ([0_u32; 3], 0);
    for moment in (1..all).step_by(step) {
        let keys = [&first.0, &second.0];
        write_keys(&workspace, &[keys[turn], keys[1 - turn]]);
        let command = workspace.command(&["store", "rekey"]);
        let killed = strace::wrapped(&command, &["python3", kill_at, &moment.to_string()]);
        let mut killed = killed;
        killed.output().unwrap();
        let with_new = all_load(&store, ids, moment).await[turn];
        fates[match with_new {
            0 => 0,
            MANY => 2,
            _ => 1,
        }] += 1;
        if with_new > 0 {
            assert_eq!(code(&workspace.run(&["store", "rekey"])), SUCCESS);
            assert_eq!(all_load(&store, ids, moment).await[turn], MANY);
            turn = 1 - turn;
        }
    }
    let kills: u32 = fates.iter().sum();
    println!(
        "| rekey of {MANY} accounts | {kills} kills | none, some, all with the new key: {fates:?} |"
    );
    assert!(fates[0] > 0 && fates[1] > 0, "before, in between, after: {fates:?}");
    let left: Vec<_> =
        fs::read_dir(workspace.state()).unwrap().map(|it| it.unwrap().file_name()).collect();
    let temporary = left.iter().filter(|name| name.to_str().unwrap().ends_with(".tmp"));
    assert_eq!(temporary.count(), 0, "{left:?}");
}
