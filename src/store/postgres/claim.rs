//! The claim on an account: the right to refresh or change it, for a while by the clock of the
//! database. No lock and no transaction of the database is held meanwhile, so that a holder which is
//! cut off, stopped or killed loses it by itself.
//!
//! A claim alone protects nothing. Each write compares: the row must be as this holder has read it,
//! or as it has written it itself since.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::OwnedRwLockReadGuard;
use tokio_postgres::types::Type;
use tokio_util::task::TaskTracker;

use super::connection::Link;
use super::intent::OpenIntent;
use super::trouble::Trouble;
use crate::clock::{Clock, TimeLimit, millis};
use crate::store::lock::Try;
use crate::store::name::AccountName;
use crate::store::record::Record;

/// Takes a claim that nobody has, or whose time is over. The same claim may be taken twice. A row that
/// another session has locked, such as a person's open transaction, is not waited for: statements on
/// other accounts wait behind this one.
const TAKE: &str = "\
INSERT INTO pleo_proxy.account AS it (environment, account, claim_id, claim_by, claim_until)
SELECT $1, $2, $3, $4, clock_timestamp() + interval '20 seconds'
FROM set_config('lock_timeout', '500', true) WHERE true
ON CONFLICT (environment, account) DO UPDATE
SET claim_id = excluded.claim_id, claim_by = excluded.claim_by, claim_until = excluded.claim_until
WHERE it.claim_until IS NULL OR it.claim_until <= clock_timestamp() OR it.claim_id = excluded.claim_id
RETURNING version, intent_id,
    (extract(epoch FROM clock_timestamp() - intent_at) * 1000)::bigint,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

const HOLDER: &str = "\
SELECT CASE WHEN claim_until > clock_timestamp()
    THEN claim_by || ' (whose claim ends in '
        || ceil(extract(epoch FROM claim_until - clock_timestamp()))::int || ' s if it has died)'
    ELSE claim_by END
FROM pleo_proxy.account WHERE environment = $1 AND account = $2";

const RELEASE: &str = "\
UPDATE pleo_proxy.account SET claim_id = NULL, claim_by = NULL, claim_until = NULL
WHERE environment = $1 AND account = $2 AND claim_id = $3";

/// Who has an account whose row is locked.
const ROW_LOCKED: &str = "an open transaction of another session of the database";

/// How long after it asked for an intent a holder may send its token. The claim is stretched from
/// the moment at which the database sets the intent, so this is on the safe side of it.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// Whose claims these are, and how they are given back.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    pub(super) link: Arc<Link>,
    pub(super) environment: String,
    /// Host and process, for people.
    pub(super) holder: String,
    pub(super) clock: Clock,
    pub(super) runtime: Handle,
    pub(super) releases: TaskTracker,
}

/// A claim, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) account: AccountName,
    /// Names this claim, in the row too.
    pub(super) id: String,
    seen: AtomicI64,
    /// The database's clock minus this machine's boot clock, in milliseconds: its time now, without
    /// asking.
    ahead_of_boot: AtomicI64,
    claims: Claims,
    /// The intent that was open when it was claimed.
    open: Mutex<Option<OpenIntent>>,
    /// When this holder asked for its intent, by its boot clock in milliseconds; zero: it did not.
    intent_asked: AtomicU64,
    /// None once it is given back, or if it was never taken.
    allowed: Option<OwnedRwLockReadGuard<()>>,
}

impl Claims {
    pub(super) async fn take(
        &self,
        account: &AccountName,
        allowed: OwnedRwLockReadGuard<()>,
    ) -> io::Result<Try<Held>> {
        // From here on it is given back whatever happens: the answer alone may be lost.
        let mut held = Held {
            account: account.clone(),
            id: fresh_id()?,
            seen: AtomicI64::new(0),
            ahead_of_boot: AtomicI64::new(0),
            open: Mutex::default(),
            claims: self.clone(),
            intent_asked: AtomicU64::new(0),
            allowed: Some(allowed),
        };
        let Some(holder) = self.retake(&held).await? else { return Ok(Try::Locked(held)) };
        held.allowed = None;
        Ok(Try::Busy(holder))
    }

    /// Takes a claim, also if it is taken already, and looks at the row as it is now; else names
    /// who has it.
    async fn retake(&self, held: &Held) -> io::Result<Option<Option<String>>> {
        let (environment, name) = (&self.environment, held.account.as_str());
        let parameters = [
            (environment as _, Type::TEXT),
            (&name as _, Type::TEXT),
            (&held.id as _, Type::TEXT),
            (&self.holder as _, Type::TEXT),
        ];
        let taken = match self.link.query(TAKE, &parameters).await {
            Err(trouble) if trouble.is_locked_out() => return Ok(Some(Some(ROW_LOCKED.into()))),
            taken => taken?,
        };
        if let Some(row) = taken.first() {
            // After the answer: rather too young than too old.
            let boot = self.clock.boot();
            *held.open.lock() = OpenIntent::of(row, boot)?;
            held.seen.store(row.try_get(0).map_err(Trouble::from)?, Ordering::Relaxed);
            let now: i64 = row.try_get(3).map_err(Trouble::from)?;
            held.ahead_of_boot.store(now.saturating_sub_unsigned(boot), Ordering::Relaxed);
            return Ok(None);
        }
        let rows = self.link.query(HOLDER, &parameters[..2]).await?;
        Ok(Some(rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok()?)))
    }

    /// Waits until the claims that were dropped are given back.
    pub(super) async fn finish_releases(&self) {
        self.releases.close();
        self.releases.wait().await;
    }
}

impl Held {
    /// The version of the row when it was claimed.
    pub(super) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Takes it once more and looks at the row as it is now; else names who has it.
    pub(crate) async fn retake(&self) -> io::Result<Option<Option<String>>> {
        self.claims.retake(self).await
    }

    /// How long ago this record's open intent was written, by the clock of the database; none if
    /// the row had another one, or none, when it was claimed.
    pub(crate) fn intent_age(&self, record: &Record) -> Option<Duration> {
        self.open.lock().as_ref()?.age(record, self.claims.clock.boot())
    }

    /// What the clock of the database showed at a reading of this machine's boot clock, in
    /// milliseconds since 1970.
    pub(crate) fn time_at(&self, boot: u64) -> i64 {
        self.ahead_of_boot.load(Ordering::Relaxed).saturating_add_unsigned(boot)
    }

    /// This holder asks for its intent now.
    pub(super) fn asks_for_intent(&self) {
        self.intent_asked.store(self.claims.clock.boot().max(1), Ordering::Relaxed);
    }

    /// Until when it may send its token.
    pub(crate) fn sending_limit(&self) -> TimeLimit {
        let asked = self.intent_asked.load(Ordering::Relaxed);
        TimeLimit::at(self.claims.clock.clone(), asked.saturating_add(millis(SEND_WITHIN)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(allowed) = self.allowed.take() else { return };
        let (claims, account, id) =
            (self.claims.clone(), self.account.clone(), std::mem::take(&mut self.id));
        let mut release = Box::pin(async move {
            let name = account.as_str();
            let parameters = [
                (&claims.environment as _, Type::TEXT),
                (&name as _, Type::TEXT),
                (&id as _, Type::TEXT),
            ];
            // One that cannot be given back runs out by itself.
            drop(claims.link.query(RELEASE, &parameters).await);
            drop(allowed);
        });
        let _runtime = self.claims.runtime.enter();
        // It is on its way before anything that this thread asks for next.
        if release.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.claims.runtime.spawn(self.claims.releases.track_future(release));
        }
    }
}

/// This process, for whoever waits for its claim.
pub(super) fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("process {} on {host}", std::process::id())
}

/// Told apart from all others, everywhere.
pub(super) fn fresh_id() -> io::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(HEXLOWER.encode(&random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::DatabaseSecret;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, PostgresStore, Sealing, UrlSource};

    #[tokio::test]
    async fn a_row_that_another_session_has_locked_keeps_one_account_waiting_and_no_other() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap();
        let (locked, free) = ("locked".parse().unwrap(), "free".parse().unwrap());
        for account in [&locked, &free] {
            assert!(matches!(store.try_lock(account).await.unwrap(), Try::Locked(_)));
        }
        let session = store.claims.link.connect().await.unwrap();
        let lock =
            "BEGIN; UPDATE pleo_proxy.account SET version = version WHERE account = 'locked'";
        session.client.batch_execute(lock).await.unwrap();
        let (first, second) = tokio::join!(store.try_lock(&locked), store.try_lock(&free));
        assert!(matches!(second.unwrap(), Try::Locked(_)));
        let Try::Busy(Some(holder)) = first.unwrap() else { panic!("the row is locked") };
        assert!(holder.contains("open transaction"), "{holder}");
        session.client.batch_execute("ROLLBACK").await.unwrap();
        assert!(matches!(store.try_lock(&locked).await.unwrap(), Try::Locked(_)));
    }
}
