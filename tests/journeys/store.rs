//! The store's contract: whoever has the lock writes, what is written is whole, and what cannot be
//! trusted is left alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pleo_proxy::private_file::PrivateFileError;
use pleo_proxy::private_file::folder::FolderError;
use pleo_proxy::secret::{AccessToken, RefreshToken};
use pleo_proxy::store::{
    AccountName, Change, DecodeError, EndReason, Grant, Intent, Issued, LockError, Locked,
    OpenError, Record, RecordError, Sealing, Store, Watched,
};

/// Enough for a lock that nobody holds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Tells a child process what to do; see `child`.
const PART: &str = "STORE_TEST_PART";
const FOLDER: &str = "STORE_TEST_FOLDER";

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn record(generation: u64) -> Record {
    Record {
        generation,
        grant: Some(Grant {
            access: Some(AccessToken::new(format!("access-{generation}"))),
            refresh: RefreshToken::new(format!("refresh-{generation}-{}", "x".repeat(2000))),
            expires_at: 1_800_000_000_000,
            lifetime: 600_000,
            scope: vec!["companies:read".into()],
            issued: Issued {
                token_endpoint: "t".into(),
                client_id: "c".into(),
                api_origin: "a".into(),
            },
            logged_in_at: 1,
            refreshed_at: 2,
            introspection_trusted: true,
        }),
        api_key: None,
        subject: Some("urn:pleo:company:1".into()),
        company: None,
        subject_unconfirmed: false,
        intent: None,
        ended: None,
    }
}

struct Workspace {
    _folder: tempfile::TempDir,
    records: PathBuf,
    store: Store,
}

fn workspace() -> Workspace {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("state/sandbox");
    let store = Store::open(&records, Sealing::none()).unwrap();
    Workspace { _folder: folder, records, store }
}

async fn lock(store: &Store, account: &str) -> Locked {
    store.lock(&name(account), TIMEOUT).await.unwrap()
}

async fn save(store: &Store, account: &str, record: Record) {
    lock(store, account).await.save(&record).await.unwrap();
}

/// All file names of a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn what_is_saved_is_loaded_listed_and_private() {
    let Workspace { store, records, .. } = &workspace();
    assert!(store.load(&name("acme")).await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty());
    save(store, "acme", record(1)).await;
    save(store, "beta", record(7)).await;
    save(store, "acme", Record { intent: None, ..record(2) }).await;
    let (loaded, _) = store.load(&name("acme")).await.unwrap().unwrap();
    assert_eq!(loaded.encode(), record(2).encode());
    assert_eq!(store.list().await.unwrap(), [name("acme"), name("beta")]);
    assert_eq!(names(records), ["acme.json", "acme.lock", "beta.json", "beta.lock"]);
    for file in names(records) {
        assert_eq!(mode(&records.join(&file)), 0o600, "{file}");
    }
    assert_eq!(mode(records), 0o700);
    assert_eq!(mode(records.parent().unwrap()), 0o700, "folders above are made as private");
    // Another handle, as after a restart.
    let again = Store::open(records, Sealing::none()).unwrap();
    assert_eq!(again.load(&name("beta")).await.unwrap().unwrap().0.generation, 7);
}

#[tokio::test]
async fn a_tombstone_holds_no_token_and_says_why() {
    let Workspace { store, records, .. } = &workspace();
    save(store, "acme", record(1)).await;
    save(store, "acme", Record::tombstone(2, 1_800_000_000_000, EndReason::LoggedOut)).await;
    let (loaded, _) = store.load(&name("acme")).await.unwrap().unwrap();
    assert_eq!(loaded.generation, 2);
    assert!(loaded.grant.is_none());
    assert_eq!(loaded.ended.unwrap().reason, EndReason::LoggedOut);
    let bytes = fs::read_to_string(records.join("acme.json")).unwrap();
    assert!(!bytes.contains("access-1") && !bytes.contains("refresh-1"), "{bytes}");
    assert_eq!(store.list().await.unwrap(), [name("acme")], "a logged out account is known");
}

#[tokio::test]
async fn a_record_whose_mode_was_changed_is_reported_to_its_watcher() {
    let Workspace { store, records, .. } = &workspace();
    save(store, "acme", record(1)).await;
    let (_, version) = store.load(&name("acme")).await.unwrap().unwrap();
    let mut changes = store.changes();
    changes.poll(Vec::new()).await;
    let watched = || vec![Watched { account: name("acme"), version: Some(version) }];
    assert_eq!(changes.poll(watched()).await, []);
    fs::set_permissions(records.join("acme.json"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(changes.poll(watched()).await, [Change::Changed(name("acme"))]);
}

#[tokio::test]
async fn inspecting_makes_no_folder_and_removes_no_leftovers() {
    let Workspace { store, records, .. } = &workspace();
    let missing = records.join("missing");
    let inspected = Store::inspect(&missing, Sealing::none()).unwrap();
    assert!(inspected.list().await.unwrap().is_empty());
    assert!(inspected.load(&name("acme")).await.unwrap().is_none());
    assert_eq!(inspected.changes().poll(Vec::new()).await, []);
    assert!(inspected.lock(&name("acme"), Duration::ZERO).await.is_err());
    assert!(!missing.exists());

    save(store, "acme", record(1)).await;
    fs::remove_file(records.join("acme.lock")).unwrap();
    fs::write(records.join(".acme.abc123.tmp"), "half a record").unwrap();
    let before = listing(records);
    let inspected = Store::inspect(records, Sealing::none()).unwrap();
    assert_eq!(inspected.list().await.unwrap(), [name("acme")]);
    assert!(inspected.lock(&name("acme"), Duration::ZERO).await.is_err());
    assert_eq!(listing(records), before);

    fs::set_permissions(records, fs::Permissions::from_mode(0o750)).unwrap();
    let refused = Store::inspect(records, Sealing::none()).unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[tokio::test]
async fn the_lock_excludes_other_handles_and_names_the_holder() {
    let Workspace { store, records, .. } = &workspace();
    let other = Store::open(records, Sealing::none()).unwrap();
    let held = lock(store, "acme").await;
    for handle in [store, &other] {
        match handle.lock(&name("acme"), Duration::ZERO).await {
            Err(LockError::Busy(Some(holder))) => {
                assert_eq!(holder, format!("process {}", std::process::id()))
            }
            taken => panic!("{taken:?}"),
        }
    }
    drop(other.lock(&name("beta"), Duration::ZERO).await.unwrap());
    assert!(other.load(&name("acme")).await.unwrap().is_none(), "reading needs no lock");

    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.lock(&name("acme"), TIMEOUT).await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop(held);
    waiting.await.unwrap().unwrap();
    assert!(records.join("acme.lock").exists(), "the file stays");
}

#[tokio::test]
async fn the_lock_excludes_other_processes_and_dies_with_them() {
    let Workspace { store, records, .. } = &workspace();
    let mut holder = part("hold", records);
    let pid = holder.id();
    wait_for("locked", &mut holder);
    let busy = store.lock(&name("acme"), Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(&busy, LockError::Busy(Some(named)) if *named == format!("process {pid}")),
        "{busy}"
    );
    assert!(busy.to_string().contains(&pid.to_string()), "{busy}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    drop(lock(store, "acme").await);
}

#[tokio::test]
async fn records_that_cannot_be_trusted_are_refused_each_in_its_words_and_left_alone() {
    let Workspace { store, records, .. } = &workspace();
    save(store, "good", record(1)).await;
    let good = fs::read(records.join("good.json")).unwrap();
    let write = |account: &str, bytes: &[u8], mode: u32| {
        let path = records.join(format!("{account}.json"));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let text = String::from_utf8(good.clone()).unwrap();
    write("cut", &good[..good.len() / 2], 0o600);
    write("empty", b"", 0o600);
    write("binary", b"\xff\xfe\0\0", 0o600);
    write("flipped", text.replace("access-1", "access-2").as_bytes(), 0o600);
    write("newer", text.replacen("\"version\":2", "\"version\":4", 1).as_bytes(), 0o600);
    write("large", &vec![b' '; 300 * 1024], 0o600);
    write("lax", &good, 0o644);
    write("group", &good, 0o620);
    write("linked", &good, 0o600);
    fs::hard_link(records.join("linked.json"), records.join("second-name")).unwrap();
    symlink(records.join("good.json"), records.join("symlink.json")).unwrap();
    symlink("/nonexistent", records.join("dangling.json")).unwrap();
    fs::create_dir(records.join("folder.json")).unwrap();
    let fifo = records.join("fifo.json");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&fifo).status().unwrap().success());

    let before = listing(records);
    let mut messages = HashMap::new();
    for account in [
        "cut", "empty", "binary", "flipped", "newer", "large", "lax", "group", "linked", "symlink",
        "dangling", "folder", "fifo",
    ] {
        let account_name = name(account);
        let load = store.load(&account_name);
        let refused =
            tokio::time::timeout(TIMEOUT, load).await.expect("never waits on a FIFO").unwrap_err();
        let as_expected = matches!(
            (account, &refused),
            (
                "cut" | "empty" | "binary" | "flipped",
                RecordError::Undecodable(_, DecodeError::Corrupt(_))
            ) | ("newer", RecordError::Undecodable(_, DecodeError::Version(4)))
                | ("large", RecordError::Refused(PrivateFileError::TooLarge(..)))
                | ("lax", RecordError::Refused(PrivateFileError::TooPermissive(_, 0o644)))
                | ("group", RecordError::Refused(PrivateFileError::TooPermissive(..)))
                | ("linked", RecordError::Refused(PrivateFileError::Linked(_, 2)))
                | (
                    "symlink" | "dangling" | "folder" | "fifo",
                    RecordError::Refused(PrivateFileError::NotRegular(_))
                )
        );
        assert!(as_expected, "{account}: {refused:?}");
        let message = refused.to_string();
        assert!(message.contains(&format!("{account}.json")), "{message}");
        assert!(!message.contains("access-") && !message.contains("refresh-"), "{message}");
        messages.insert(account, message.replace(account, "NAME"));
    }
    assert_eq!(listing(records), before, "nothing is moved, mended or made");
    let kinds = ["cut", "newer", "large", "lax", "linked", "symlink"];
    let distinct: HashSet<_> = kinds.iter().map(|account| &messages[account]).collect();
    assert_eq!(distinct.len(), kinds.len(), "{messages:#?}");
    assert!(messages["lax"].contains("chmod 600"), "{}", messages["lax"]);
    assert_eq!(
        store.load(&name("good")).await.unwrap().unwrap().0.generation,
        1,
        "the others are fine"
    );
}

/// Name, mode, size and inode of all that is in a folder.
fn listing(folder: &Path) -> Vec<(String, u32, u64, u64)> {
    let of = |file: String| {
        let metadata = fs::symlink_metadata(folder.join(&file)).unwrap();
        (file, metadata.mode(), metadata.size(), metadata.ino())
    };
    names(folder).into_iter().map(of).collect()
}

#[tokio::test]
async fn only_a_call_for_it_puts_a_record_aside() {
    let Workspace { store, records, .. } = &workspace();
    fs::write(records.join("acme.json"), "{").unwrap();
    fs::set_permissions(records.join("acme.json"), fs::Permissions::from_mode(0o600)).unwrap();
    let locked = lock(store, "acme").await;
    let aside = locked.set_aside(1_800_000_000).await.unwrap();
    assert_eq!(aside, records.join("acme.json.corrupt-1800000000"));
    assert_eq!(fs::read_to_string(&aside).unwrap(), "{");
    assert!(store.load(&name("acme")).await.unwrap().is_none());
    assert!(store.list().await.unwrap().is_empty(), "what was put aside is no account");
}

#[tokio::test]
async fn leftovers_of_the_dead_are_removed_under_the_lock_of_their_account_only() {
    let Workspace { records, .. } = &workspace();
    for file in
        [".acme.abc123.tmp", ".acme-2.abc123.tmp", ".beta.abc123.tmp", "notes.tmp", ".other"]
    {
        fs::write(records.join(file), "half a record").unwrap();
    }
    let store = Store::open(records, Sealing::none()).unwrap();
    store.load(&name("acme")).await.unwrap();
    store.list().await.unwrap();
    assert!(records.join(".acme.abc123.tmp").exists(), "reading removes nothing");
    let held = lock(&store, "acme").await;
    let other = Store::open(records, Sealing::none()).unwrap();
    assert!(other.lock(&name("acme"), Duration::ZERO).await.is_err());
    assert_eq!(
        names(records),
        [".acme-2.abc123.tmp", ".beta.abc123.tmp", ".other", "acme.lock", "notes.tmp"]
    );

    // The file under way of whoever has the lock is no leftover, not even for one who looks
    // meanwhile.
    held.prepare().await.unwrap();
    let looking = Store::open(records, Sealing::none()).unwrap();
    assert!(looking.lock(&name("acme"), Duration::ZERO).await.is_err());
    held.save(&record(1)).await.unwrap();
    drop(held);
    drop(lock(&looking, "acme").await);
    assert_eq!(looking.load(&name("acme")).await.unwrap().unwrap().0.generation, 1);
}

#[tokio::test]
async fn a_prepared_file_becomes_the_record() {
    let Workspace { store, records, .. } = &workspace();
    save(store, "acme", record(1)).await;
    let locked = lock(store, "acme").await;
    locked.prepare().await.unwrap();
    let temp = names(records).into_iter().find(|file| file.ends_with(".tmp")).unwrap();
    let inode = fs::metadata(records.join(&temp)).unwrap().ino();
    assert_eq!(mode(&records.join(&temp)), 0o600);
    assert!(fs::metadata(records.join(&temp)).unwrap().blocks() > 0, "its space is taken");

    // A note in between leaves it alone.
    let intent =
        Intent { generation: 1, token: "abc".into(), sent_at: 1, first_sent_at: 1, resends: 0 };
    let noted = Record { intent: Some(intent.clone()), ..record(1) };
    locked.note(&noted).await.unwrap();
    assert_eq!(store.load(&name("acme")).await.unwrap().unwrap().0.open_intent(), Some(&intent));
    assert!(records.join(&temp).exists());

    locked.save(&record(2)).await.unwrap();
    assert_eq!(fs::metadata(records.join("acme.json")).unwrap().ino(), inode);
    assert_eq!(store.load(&name("acme")).await.unwrap().unwrap().0.encode(), record(2).encode());
    locked.prepare().await.unwrap();
    drop(locked);
    assert_eq!(
        names(records),
        ["acme.json", "acme.lock"],
        "what was prepared and not used is gone with the lock"
    );
}

#[tokio::test]
async fn a_save_that_fails_leaves_the_old_record_whole() {
    let Workspace { store, records, .. } = &workspace();
    save(store, "acme", record(1)).await;
    let locked = lock(store, "acme").await;
    // A folder that is gone cannot be written to, not even by root.
    let elsewhere = records.with_file_name("moved");
    fs::rename(records, &elsewhere).unwrap();
    let unsaved = locked.save(&record(2)).await.unwrap_err();
    assert!(unsaved.to_string().contains("acme.json"));
    locked.prepare().await.unwrap_err();
    drop(locked);
    fs::rename(&elsewhere, records).unwrap();
    assert_eq!(store.load(&name("acme")).await.unwrap().unwrap().0.generation, 1);
    assert_eq!(names(records), ["acme.json", "acme.lock"]);
}

#[test]
fn a_folder_that_others_may_enter_or_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    Store::open(&path, Sealing::none()).unwrap();
    for lax in [0o755, 0o770, 0o701] {
        fs::set_permissions(&path, fs::Permissions::from_mode(lax)).unwrap();
        let refused = Store::open(&path, Sealing::none()).unwrap_err();
        assert!(
            matches!(refused, OpenError::Folder(FolderError::TooPermissive(_, found)) if found == lax),
            "{refused:?}"
        );
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
        assert_eq!(mode(&path), lax, "it is not mended behind one's back");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        Store::open(&link, Sealing::none()),
        Err(OpenError::Folder(FolderError::NotFolder(_)))
    ));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(Store::open(&file, Sealing::none()).is_err());
    assert!(matches!(
        Store::open(&file.join("below"), Sealing::none()),
        Err(OpenError::Folder(FolderError::Uncreatable(..)))
    ));
}

#[tokio::test]
async fn a_lock_that_is_a_symlink_is_not_followed() {
    let Workspace { store, records, .. } = &workspace();
    let target = records.with_file_name("target");
    symlink(&target, records.join("acme.lock")).unwrap();
    assert!(matches!(store.lock(&name("acme"), Duration::ZERO).await, Err(LockError::Io(_))));
    assert!(!target.exists());
}

#[tokio::test]
async fn killed_between_any_two_saves_it_leaves_a_record_that_loads() {
    let Workspace { store, records, .. } = &workspace();
    let mut last = 0;
    for round in 0..8 {
        let mut writer = part("write", records);
        wait_for("writing", &mut writer);
        // The kill lands wherever it lands; the more rounds, the more places.
        std::thread::sleep(Duration::from_millis(7 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let (loaded, _) =
            store.load(&name("acme")).await.unwrap().expect("the first save was reported");
        assert_eq!(loaded.encode(), record(loaded.generation).encode());
        assert!(
            loaded.generation > last,
            "what was saved stays: {} after {last}",
            loaded.generation
        );
        last = loaded.generation;
    }
    let fresh = Store::open(records, Sealing::none()).unwrap();
    drop(lock(&fresh, "acme").await);
    assert_eq!(names(records), ["acme.json", "acme.lock"], "and nothing else");
}

/// This test binary again, with one part to play.
fn part(part: &str, records: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "store::child", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .env(FOLDER, records);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(word: &str, child: &mut Child) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(word)), "the child never said {word}");
}

/// What the child processes of the tests above do; nothing when run as a test itself.
#[tokio::test]
async fn child() {
    let (Ok(part), Some(records)) = (std::env::var(PART), std::env::var_os(FOLDER)) else { return };
    let store = Store::open(Path::new(&records), Sealing::none()).unwrap();
    let locked = lock(&store, "acme").await;
    match part.as_str() {
        "hold" => {
            eprintln!("locked");
            // Ends when it is killed, or when its parent is gone.
            let _ = std::io::stdin().lines().next();
        }
        _ => {
            let first = store
                .load(&name("acme"))
                .await
                .unwrap()
                .map_or(1, |(record, _)| record.generation + 1);
            // Bounded, should nobody kill it.
            for generation in first..first + 20_000 {
                locked.prepare().await.unwrap();
                locked.save(&record(generation)).await.unwrap();
                if generation == first {
                    eprintln!("writing");
                }
            }
        }
    }
}
