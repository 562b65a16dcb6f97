//! What every kind of store promises. Each test runs over each kind; a new kind is one more row of
//! [`kinds`].

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
#[cfg(feature = "postgres")]
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, ready};
use tokio::time::sleep;

use super::memory::MAX_UNREAD;
#[cfg(feature = "postgres")]
use super::postgres_server::Database as Server;
use super::{
    AccountName, Change, Changes, DecodeError, EndReason, Grant, Issued, KeySource, LockError,
    MemoryStore, Record, RecordError, Sealing, Store, Version, Watched,
};
#[cfg(feature = "postgres")]
use super::{Database, PostgresStore, UrlSource};
#[cfg(feature = "postgres")]
use crate::secret::DatabaseSecret;
use crate::secret::{AccessToken, RefreshToken, StoreKey};

/// Puts bytes into a record's place that a fault may leave there.
type Damage = Box<dyn Fn(&AccountName, &[u8])>;

struct Kind {
    store: Store,
    damage: Damage,
    /// The same store, opened to read from it.
    inspect: Box<dyn Fn() -> LocalBoxFuture<'static, Store>>,
    /// All that a reader could find different, its files and locks included.
    fingerprint: Box<dyn Fn() -> String>,
    /// Takes the store out of sight, as a disk or connection that is lost.
    lose: Box<dyn Fn()>,
    /// Brings it back.
    restore: Box<dyn Fn()>,
}

async fn kinds() -> Vec<Kind> {
    let kinds = vec![file(Sealing::none), file(sealed), memory()];
    #[cfg(feature = "postgres")]
    let kinds = kinds.into_iter().chain(postgres().await).collect();
    kinds
}

/// Always with the same key.
fn sealed() -> Sealing {
    let key = StoreKey::new("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    Sealing::new("sandbox", KeySource::Value(key)).unwrap()
}

fn file(sealing: fn() -> Sealing) -> Kind {
    let folder = tempfile::tempdir().unwrap();
    let (records, lost) = (folder.path().join("records"), folder.path().join("lost"));
    let store = Store::open(&records, sealing()).unwrap();
    let in_place = {
        let records = records.clone();
        move |file: String| records.join(file)
    };
    Kind {
        store,
        inspect: Box::new({
            let records = records.clone();
            move || ready(Store::inspect(&records, sealing()).unwrap()).boxed_local()
        }),
        fingerprint: Box::new({
            let records = records.clone();
            move || all_files(&records)
        }),
        lose: Box::new({
            let (records, lost) = (records.clone(), lost.clone());
            move || std::fs::rename(&records, &lost).unwrap()
        }),
        restore: Box::new(move || std::fs::rename(&lost, &records).unwrap()),
        damage: Box::new(move |account, bytes| {
            let _kept = &folder;
            std::fs::write(in_place(format!("{account}.json")), bytes).unwrap();
        }),
    }
}

/// Everything about a folder and its files that can change.
fn all_files(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.chain([folder.to_owned()]).collect();
    all.sort();
    let of = |path: &PathBuf| {
        let it = path.symlink_metadata().unwrap();
        format!("{path:?} {} {} {}.{}", it.ino(), it.mode(), it.ctime(), it.ctime_nsec())
    };
    all.iter().map(of).collect::<Vec<_>>().join("\n")
}

fn memory() -> Kind {
    let memory = MemoryStore::default();
    let (damaged, inspected, lagging) = (memory.clone(), memory.clone(), memory.clone());
    Kind {
        store: Store::Memory(memory.clone()),
        damage: Box::new(move |account, bytes| {
            damaged.put(account, bytes.to_vec().into());
        }),
        inspect: Box::new(move || ready(Store::Memory(inspected.inspect())).boxed_local()),
        fingerprint: Box::new(move || memory.fingerprint()),
        lose: Box::new(move || {
            for _ in 0..=MAX_UNREAD {
                lagging.save(&name("busy"), &record(1));
            }
        }),
        restore: Box::new(|| {}),
    }
}

/// Sealed, in a database of its own; none without a server.
#[cfg(feature = "postgres")]
async fn postgres() -> Option<Kind> {
    let place = Server::create()?;
    let url = UrlSource::Value(DatabaseSecret::new(&place.url));
    let database = Database { url, ..Database::default() };
    let store = PostgresStore::open(&database, "sandbox", sealed()).await.unwrap();
    let store = Store::Postgres(Arc::new(store));
    let [damaged, shown, lost, restored] = [(); 4].map(|()| place.clone());
    Some(Kind {
        store,
        damage: Box::new(move |account, bytes| {
            let bytes = data_encoding::HEXLOWER.encode(bytes);
            damaged.run(&format!(
                "UPDATE pleo_proxy.account SET record = '\\x{bytes}', \
                 version = nextval('pleo_proxy.version') WHERE account = '{account}'"
            ));
        }),
        inspect: Box::new(move || {
            let database = database.clone();
            async move {
                let store = PostgresStore::inspect(&database, "sandbox", sealed()).await;
                Store::Postgres(Arc::new(store.unwrap()))
            }
            .boxed_local()
        }),
        fingerprint: Box::new(move || {
            let tables = ["account", "set_aside", "login", "migration", "version"];
            tables.map(|table| shown.run(&format!("SELECT * FROM pleo_proxy.{table}"))).join("\n")
        }),
        lose: Box::new(move || lost.lose()),
        restore: Box::new(move || restored.restore()),
    })
}

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn record(generation: u64) -> Record {
    let grant = Grant {
        access: Some(AccessToken::new(format!("access-{generation}"))),
        refresh: RefreshToken::new(format!("refresh-{generation}")),
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
    };
    Record { grant: Some(grant), ..Record::tombstone(generation, 0, EndReason::LoggedOut) }
}

async fn save(store: &Store, account: &AccountName, record: &Record) -> Version {
    let locked = store.lock(account, Duration::from_secs(5)).await.unwrap();
    locked.save(record).await.unwrap()
}

async fn load(store: &Store, account: &AccountName) -> Option<Record> {
    store.load(account).await.unwrap().map(|(record, _)| record)
}

async fn version(store: &Store, account: &AccountName) -> Version {
    store.load(account).await.unwrap().map(|(_, version)| version).unwrap_or_default()
}

async fn generation(store: &Store, account: &AccountName) -> Option<u64> {
    load(store, account).await.map(|record| record.generation)
}

fn changed(account: &AccountName) -> Change {
    Change::Changed(account.clone())
}

/// Polls with one watched account.
async fn poll(
    changes: &mut Changes,
    account: &AccountName,
    version: Option<Version>,
) -> Vec<Change> {
    changes.poll(vec![Watched { account: account.clone(), version }]).await
}

#[tokio::test]
async fn a_saved_record_is_loaded_and_listed_and_there_is_no_other() {
    for Kind { store, .. } in kinds().await {
        let (acme, beta) = (name("acme"), name("beta"));
        assert!(load(&store, &acme).await.is_none() && store.list().await.unwrap().is_empty());
        assert!(version(&store, &acme).await.is_absent());
        save(&store, &beta, &record(7)).await;
        save(&store, &acme, &record(1)).await;
        save(&store, &acme, &record(2)).await;
        let loaded = load(&store, &acme).await.unwrap();
        assert_eq!(loaded.encode(), record(2).encode());
        assert_eq!(store.list().await.unwrap(), [acme, beta]);
    }
}

#[tokio::test]
async fn each_save_has_its_own_version_and_returns_it() {
    for Kind { store, .. } in kinds().await {
        let acme = name("acme");
        let first = save(&store, &acme, &record(1)).await;
        assert_eq!(first, version(&store, &acme).await);
        assert_eq!(first, version(&store, &acme).await, "reading changes nothing");
        let second = save(&store, &acme, &record(1)).await;
        assert_ne!(first, second, "even if the content is the same");
        assert_eq!(second, version(&store, &acme).await);
    }
}

#[tokio::test]
async fn a_lock_excludes_others_until_its_last_copy_is_dropped_and_reading_needs_none() {
    for Kind { store, .. } in kinds().await {
        let acme = name("acme");
        save(&store, &acme, &record(1)).await;
        let locked = store.lock(&acme, Duration::ZERO).await.unwrap();
        let copy = locked.clone();
        drop(locked);
        let busy = store.clone().lock(&acme, Duration::from_millis(60)).await.unwrap_err();
        assert!(
            matches!(busy, LockError::Busy(_)) && busy.to_string().contains("holds the lock"),
            "{busy}"
        );
        assert_eq!(generation(&store, &acme).await, Some(1));
        drop(store.lock(&name("beta"), Duration::ZERO).await.unwrap());
        drop(copy);
        drop(store.lock(&acme, Duration::from_secs(5)).await.unwrap());
    }
}

#[tokio::test]
async fn a_pause_of_locking_waits_for_the_lock_that_is_held_and_keeps_others_from_one() {
    for Kind { store, .. } in kinds().await {
        let (acme, beta) = (name("acme"), name("beta"));
        let locked = store.lock(&acme, Duration::ZERO).await.unwrap();
        let mut pausing = pin!(store.pause_locking());
        assert!(pausing.as_mut().now_or_never().is_none(), "a lock is held");
        drop(locked);
        let paused = pausing.await;
        let mut locking = pin!(store.lock(&beta, Duration::ZERO));
        for _ in 0..3 {
            assert!(locking.as_mut().now_or_never().is_none(), "no lock is taken");
            sleep(Duration::from_millis(1)).await;
        }
        drop(paused);
        drop(locking.await.unwrap());
        // Who wants no pause any more leaves others alone.
        let locked = store.lock(&acme, Duration::ZERO).await.unwrap();
        {
            let mut abandoned = pin!(store.pause_locking());
            assert!(abandoned.as_mut().now_or_never().is_none());
        }
        drop((store.lock(&beta, Duration::ZERO).await.unwrap(), locked));
    }
}

#[tokio::test]
async fn a_note_leaves_the_prepared_space_to_the_next_save() {
    for Kind { store, .. } in kinds().await {
        let acme = name("acme");
        let locked = store.lock(&acme, Duration::ZERO).await.unwrap();
        locked.prepare().await.unwrap();
        locked.prepare().await.unwrap();
        let noted = locked.note(&record(1)).await.unwrap();
        assert_eq!(
            (generation(&store, &acme).await, version(&store, &acme).await),
            (Some(1), noted)
        );
        let saved = locked.save(&record(2)).await.unwrap();
        assert_eq!(
            (generation(&store, &acme).await, version(&store, &acme).await),
            (Some(2), saved)
        );
        drop(locked);
        assert_eq!(store.list().await.unwrap(), [acme], "nothing is left behind");
    }
}

#[tokio::test]
async fn a_damaged_record_is_refused_and_left_alone_until_it_is_put_aside() {
    for Kind { store, damage, .. } in kinds().await {
        let acme = name("acme");
        save(&store, &acme, &record(1)).await;
        damage(&acme, b"{damaged");
        for _ in 0..2 {
            let refused = store.load(&acme).await.unwrap_err();
            assert!(
                matches!(refused, RecordError::Undecodable(_, DecodeError::Corrupt(_))),
                "{refused}"
            );
            assert!(!refused.is_passing());
        }
        let locked = store.lock(&acme, Duration::from_secs(5)).await.unwrap();
        let first = locked.set_aside(1_800_000_000).await.unwrap();
        assert!(first.contains("acme"));
        damage(&acme, b"{damaged again");
        let second = locked.set_aside(1_800_000_000).await.unwrap();
        assert_ne!(first, second, "within one second, and both are kept");
        assert!(load(&store, &acme).await.is_none() && store.list().await.unwrap().is_empty());
        locked.save(&record(3)).await.unwrap();
        assert_eq!(generation(&store, &acme).await, Some(3));
    }
}

#[tokio::test]
async fn a_removed_record_is_gone_and_can_be_removed_again() {
    for Kind { store, .. } in kinds().await {
        let acme = name("acme");
        save(&store, &acme, &record(1)).await;
        let locked = store.lock(&acme, Duration::from_secs(5)).await.unwrap();
        for _ in 0..2 {
            locked.remove().await.unwrap();
            assert!(
                load(&store, &acme).await.is_none() && version(&store, &acme).await.is_absent()
            );
        }
    }
}

#[tokio::test]
async fn a_renamed_record_is_there_once_and_whole_and_replaces_no_other() {
    for Kind { store, .. } in kinds().await {
        let (acme, beta, gamma) = (name("acme"), name("beta"), name("gamma"));
        let first = save(&store, &acme, &record(3)).await;
        save(&store, &gamma, &record(1)).await;
        let mut changes = store.changes();
        changes.poll(Vec::new()).await;
        let (old, new) = (
            store.lock(&acme, Duration::from_secs(5)).await.unwrap(),
            store.lock(&beta, Duration::from_secs(5)).await.unwrap(),
        );
        let moved = old.rename(&new).await.unwrap();
        assert_eq!(store.list().await.unwrap(), [beta.clone(), gamma.clone()]);
        assert_eq!(load(&store, &beta).await.unwrap().encode(), record(3).encode());
        assert_eq!(version(&store, &beta).await, moved);
        assert!(load(&store, &acme).await.is_none());
        let reported = poll(&mut changes, &acme, Some(first)).await;
        assert!(reported.contains(&changed(&acme)) && reported.contains(&changed(&beta)));

        assert!(old.rename(&new).await.is_err(), "there is nothing to move");
        let taken = store.lock(&gamma, Duration::from_secs(5)).await.unwrap();
        let refused = new.rename(&taken).await.unwrap_err();
        assert!(refused.to_string().contains("gamma"), "{refused}");
        assert_eq!(generation(&store, &beta).await, Some(3));
        assert_eq!(generation(&store, &gamma).await, Some(1));
    }
}

#[tokio::test]
async fn other_file_work_is_done() {
    for Kind { store, .. } in kinds().await {
        assert_eq!(store.aside(|| 7).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn all_records_are_reported_first_and_new_ones_later() {
    for Kind { store, .. } in kinds().await {
        let (acme, beta) = (name("acme"), name("beta"));
        save(&store, &acme, &record(1)).await;
        let mut changes = store.changes();
        assert_eq!(changes.poll(Vec::new()).await, [changed(&acme)]);
        assert_eq!(changes.poll(Vec::new()).await, []);
        save(&store, &beta, &record(1)).await;
        assert_eq!(changes.poll(Vec::new()).await, [changed(&beta)]);
        assert_eq!(changes.poll(Vec::new()).await, []);
        let mut second = store.changes();
        assert_eq!(second.poll(Vec::new()).await, [changed(&acme), changed(&beta)]);
    }
}

#[tokio::test]
async fn a_watched_record_is_reported_until_its_reader_has_its_version() {
    for Kind { store, damage, .. } in kinds().await {
        let acme = name("acme");
        let first = save(&store, &acme, &record(1)).await;
        let mut changes = store.changes();
        changes.poll(Vec::new()).await;
        assert_eq!(poll(&mut changes, &acme, Some(first)).await, []);
        let second = save(&store, &acme, &record(2)).await;
        for _ in 0..2 {
            assert_eq!(poll(&mut changes, &acme, Some(first)).await, [changed(&acme)]);
        }
        assert_eq!(poll(&mut changes, &acme, Some(second)).await, []);
        assert_eq!(poll(&mut changes, &acme, None).await, [changed(&acme)], "it was not readable");
        damage(&acme, b"{damaged");
        assert_eq!(poll(&mut changes, &acme, Some(second)).await, [changed(&acme)]);
        let locked = store.lock(&acme, Duration::from_secs(5)).await.unwrap();
        locked.remove().await.unwrap();
        assert_eq!(poll(&mut changes, &acme, Some(second)).await, [changed(&acme)]);
        assert_eq!(poll(&mut changes, &acme, Some(Version::default())).await, []);
    }
}

#[tokio::test]
async fn a_store_that_comes_back_is_resynced_and_its_records_never_count_as_removed() {
    for Kind { store, lose, restore, .. } in kinds().await {
        let acme = name("acme");
        let version = save(&store, &acme, &record(1)).await;
        let mut changes = store.changes();
        changes.poll(Vec::new()).await;
        lose();
        match store.load(&acme).await {
            Ok(found) => assert!(found.is_some()),
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
        let mut reported = poll(&mut changes, &acme, Some(version)).await;
        assert!(!reported.contains(&changed(&acme)), "{reported:?}");
        restore();
        reported.extend(poll(&mut changes, &acme, Some(version)).await);
        assert!(reported.contains(&Change::Resync), "{reported:?}");
        assert_eq!(generation(&store, &acme).await, Some(1));
        assert!(!poll(&mut changes, &acme, Some(version)).await.contains(&Change::Resync));
    }
}

#[tokio::test]
async fn inspecting_reads_everything_and_changes_nothing() {
    for Kind { store, damage, inspect, fingerprint, .. } in kinds().await {
        let (acme, beta) = (name("acme"), name("beta"));
        save(&store, &acme, &record(1)).await;
        save(&store, &beta, &record(7)).await;
        damage(&beta, b"{damaged");
        store.finish_releases().await;
        let before = fingerprint();
        let inspected = inspect().await;
        assert_eq!(generation(&inspected, &acme).await, Some(1));
        assert!(inspected.load(&beta).await.is_err());
        assert_eq!(inspected.list().await.unwrap(), [acme.clone(), beta.clone()]);
        assert_eq!(inspected.changes().poll(Vec::new()).await, [changed(&acme), changed(&beta)]);
        let refused = inspected.lock(&acme, Duration::ZERO).await.unwrap_err();
        assert!(matches!(refused, LockError::Io(_)) && !refused.is_passing(), "{refused}");
        assert_eq!(inspected.describe(), store.describe());
        assert_eq!(fingerprint(), before);
        drop(store.lock(&acme, Duration::ZERO).await.unwrap());
    }
}
