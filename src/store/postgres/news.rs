//! News of what other replicas saved, by `LISTEN` and `NOTIFY`: a reason to poll at once instead of
//! at the next second. Nothing relies on it: poolers of transactions and standbys do not pass it on.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_postgres::Notification;

pub(super) const LISTEN: &str = "LISTEN pleo_proxy";
/// A statement of its own: a save must not fail because the queue of notifications is full. Nor must
/// what follows wait: in a whole server one transaction at a time may notify, until it has ended.
pub(super) const TELL: &str =
    "SELECT pg_notify('pleo_proxy', $1) FROM set_config('lock_timeout', '100', true)";

/// What this process has heard.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Names this process in the news that it tells.
    pub(super) own: String,
    arrived: Notify,
    /// Somebody in this process wants to hear them.
    is_wanted: AtomicBool,
    /// What other processes have told of.
    heard: Counter,
}

impl News {
    pub(super) fn new(own: String) -> Self {
        Self { own, ..Self::default() }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::SeqCst)
    }

    /// They are wanted from here on. Returns whether they were before.
    pub(super) fn want(&self) -> bool {
        self.is_wanted.swap(true, Ordering::SeqCst)
    }

    /// Ends when another process has told of a change since the last call.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Adds what was heard to a registry of stores.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("news", "Changes that other replicas told of", self.heard.clone());
    }

    pub(super) fn hear(&self, told: &Notification) {
        if told.payload() != self.own {
            self.heard.inc();
            self.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::claim::Held;
    use crate::secret::DatabaseSecret;
    use crate::store::lock::Try;
    use crate::store::name::AccountName;
    use crate::store::postgres_server::Database;
    use crate::store::{
        Database as Settings, EndReason, PostgresStore, Record, Sealing, UrlSource,
    };
    use std::sync::Arc;

    async fn hold(store: &PostgresStore) -> Arc<Held> {
        match store.try_lock(&AccountName::fallback()).await.unwrap() {
            Try::Locked(held) => Arc::new(held),
            Try::Busy(_) => panic!("busy"),
        }
    }

    #[tokio::test]
    async fn a_change_is_told_to_the_others_and_not_to_oneself() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let open = async || {
            Arc::new(PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap())
        };
        let (own, other) = (open().await, open().await);
        let hears = async |store: &PostgresStore, limit| {
            tokio::time::timeout(limit, store.claims.link.news()).await
        };
        // Each listens from the first time on that it wants to hear.
        for store in [&own, &other] {
            assert!(hears(store, Duration::from_millis(50)).await.is_err());
            store.list().await.unwrap();
        }
        let heard_by = |store: &PostgresStore| store.claims.link.news.heard.get();
        let held = hold(&own).await;
        for change in 0..3 {
            match change {
                0 => drop(
                    own.save(&held, &Record::tombstone(1, 0, EndReason::LoggedOut)).await.unwrap(),
                ),
                1 => own.remove(&held).await.unwrap(),
                _ => drop(
                    own.save(&held, &Record::tombstone(1, 0, EndReason::LoggedOut)).await.unwrap(),
                ),
            }
            hears(&other, Duration::from_secs(20)).await.expect("the other one hears of it");
        }
        own.finish_releases().await;
        own.list().await.unwrap();
        let heard = hears(&own, Duration::from_millis(50)).await;
        assert!(heard.is_err(), "nobody else has changed anything");
        assert_eq!((heard_by(&own), heard_by(&other)), (0, 3));
    }
}
