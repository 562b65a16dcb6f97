//! What every kind of store promises. Each test runs over each kind; a new kind is one more row of
//! [`kinds`].

use std::time::Duration;

use super::{
    AccountName, DecodeError, EndReason, Grant, Issued, LockError, MemoryStore, Record,
    RecordError, Store, Version,
};
use crate::secret::{AccessToken, RefreshToken};

/// Leaves bytes in a record's place that a fault may have left there.
type Damage = Box<dyn Fn(&AccountName, &[u8])>;

struct Kind {
    store: Store,
    damage: Damage,
}

fn kinds() -> [Kind; 2] {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records");
    let file = Kind {
        store: Store::open(&records).unwrap(),
        damage: Box::new(move |account, bytes| {
            let _kept = &folder;
            std::fs::write(records.join(format!("{account}.json")), bytes).unwrap();
        }),
    };
    let memory = MemoryStore::default();
    let store = Store::Memory(memory.clone());
    let damage = move |account: &AccountName, bytes: &[u8]| {
        memory.put(account, bytes.to_vec().into());
    };
    [file, Kind { store, damage: Box::new(damage) }]
}

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

fn record(generation: u64) -> Record {
    let grant = Grant {
        access: Some(AccessToken::new(format!("access-{generation}"))),
        refresh: RefreshToken::new(format!("refresh-{generation}")),
        expires_at: 1_800_000_000_000,
        life: 600_000,
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
    store.save(&locked, record).await.unwrap()
}

async fn version(store: &Store, account: &AccountName) -> Version {
    store.versions(vec![account.clone()]).await.1[0]
}

async fn generation(store: &Store, account: &AccountName) -> Option<u64> {
    store.load(account).await.unwrap().map(|record| record.generation)
}

#[tokio::test]
async fn what_is_saved_is_loaded_and_listed_and_nothing_else_is_there() {
    for Kind { store, .. } in kinds() {
        let (acme, beta) = (name("acme"), name("beta"));
        assert!(
            store.load(&acme).await.unwrap().is_none() && store.list().await.unwrap().is_empty()
        );
        assert!(version(&store, &acme).await.is_absent());
        save(&store, &beta, &record(7)).await;
        save(&store, &acme, &record(1)).await;
        save(&store, &acme, &record(2)).await;
        let loaded = store.load(&acme).await.unwrap().unwrap();
        assert_eq!(loaded.encode(), record(2).encode());
        assert_eq!(store.list().await.unwrap(), [acme, beta]);
    }
}

#[tokio::test]
async fn each_save_has_a_version_of_its_own_and_says_which() {
    for Kind { store, .. } in kinds() {
        let acme = name("acme");
        let empty = store.versions(Vec::new()).await.0;
        let first = save(&store, &acme, &record(1)).await;
        assert_eq!(first, version(&store, &acme).await);
        assert_eq!(first, version(&store, &acme).await, "looking changes nothing");
        assert_ne!(empty, store.versions(Vec::new()).await.0, "a record came");
        let second = save(&store, &acme, &record(1)).await;
        assert_ne!(first, second, "even if the content is the same");
        assert_eq!(second, version(&store, &acme).await);
    }
}

#[tokio::test]
async fn a_lock_keeps_others_out_until_its_last_copy_is_gone_and_reading_needs_none() {
    for Kind { store, .. } in kinds() {
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
async fn notes_and_what_was_prepared_do_not_get_in_each_others_way() {
    for Kind { store, .. } in kinds() {
        let acme = name("acme");
        let locked = store.lock(&acme, Duration::ZERO).await.unwrap();
        store.prepare(&locked).await.unwrap();
        store.prepare(&locked).await.unwrap();
        let noted = store.note(&locked, &record(1)).await.unwrap();
        assert_eq!(
            (generation(&store, &acme).await, version(&store, &acme).await),
            (Some(1), noted)
        );
        let saved = store.save(&locked, &record(2)).await.unwrap();
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
    for Kind { store, damage } in kinds() {
        let acme = name("acme");
        save(&store, &acme, &record(1)).await;
        damage(&acme, b"{damaged");
        for _ in 0..2 {
            let refused = store.load(&acme).await.unwrap_err();
            assert!(
                matches!(refused, RecordError::Undecodable(_, DecodeError::Corrupt(_))),
                "{refused}"
            );
            assert!(!refused.is_passing() && !version(&store, &acme).await.is_absent());
        }
        let locked = store.lock(&acme, Duration::from_secs(5)).await.unwrap();
        assert!(store.set_aside(&locked, 1_800_000_000).await.unwrap().contains("acme"));
        assert!(
            store.load(&acme).await.unwrap().is_none() && store.list().await.unwrap().is_empty()
        );
        store.save(&locked, &record(3)).await.unwrap();
        assert_eq!(generation(&store, &acme).await, Some(3));
    }
}

#[tokio::test]
async fn what_is_removed_is_gone_once_and_for_all() {
    for Kind { store, .. } in kinds() {
        let acme = name("acme");
        save(&store, &acme, &record(1)).await;
        let locked = store.lock(&acme, Duration::from_secs(5)).await.unwrap();
        for _ in 0..2 {
            store.remove(&locked).await.unwrap();
            assert!(
                store.load(&acme).await.unwrap().is_none()
                    && version(&store, &acme).await.is_absent()
            );
        }
    }
}

#[tokio::test]
async fn work_beside_the_records_is_done() {
    for Kind { store, .. } in kinds() {
        assert_eq!(store.aside(|| 7).await.unwrap(), 7);
    }
}
