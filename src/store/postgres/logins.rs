//! The rows of logins that were begun. Each is finished once, by the replica that its callback
//! comes to.

use std::io;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;
use zeroize::Zeroizing;

use super::connection::Link;
use super::trouble::Trouble;
use crate::secret::CodeVerifier;
use crate::store::login::{LoginId, MAX_PENDING, MAX_PENDING_IN_ALL, StoredLogin, TakenLogin};
use crate::store::name::AccountName;
use crate::store::seal::Sealing;

/// Adds a login, forgets those whose end nobody asks for any more, and ends the oldest pending ones
/// over the limits: `$5` of an account, `$6` in all.
const PUT: &str = "\
WITH old AS (DELETE FROM pleo_proxy.login WHERE expires_at < clock_timestamp() - interval '1 hour'),
pending AS (SELECT id, account,
row_number() OVER (PARTITION BY account ORDER BY expires_at DESC, id) AS of_account,
row_number() OVER (ORDER BY expires_at DESC, id) AS of_all
FROM pleo_proxy.login WHERE environment = $1 AND id <> $2 AND taken_by IS NULL
AND expires_at > clock_timestamp()),
excess AS (DELETE FROM pleo_proxy.login it USING pending WHERE it.environment = $1
AND it.id = pending.id AND it.taken_by IS NULL
AND (pending.of_all >= $6 OR pending.account = $3 AND pending.of_account >= $5))
INSERT INTO pleo_proxy.login (environment, id, account, content, expires_at)
VALUES ($1, $2, $3, $4, clock_timestamp() + interval '10 minutes') ON CONFLICT DO NOTHING";

/// The same taker may take it twice: the answer alone may have been lost.
const TAKE: &str = "\
UPDATE pleo_proxy.login SET taken_by = $3
WHERE environment = $1 AND id = $2 AND (taken_by IS NULL OR taken_by = $3) AND ended IS NULL
AND expires_at > clock_timestamp() RETURNING account, content";

const GIVE_BACK: &str = "\
UPDATE pleo_proxy.login SET taken_by = NULL
WHERE environment = $1 AND id = $2 AND taken_by = $3 AND ended IS NULL";

const FIND: &str = "\
SELECT account, ended FROM pleo_proxy.login
WHERE environment = $1 AND id = $2 AND taken_by IS NOT NULL";

const END: &str = "\
UPDATE pleo_proxy.login SET ended = $3, content = '' WHERE environment = $1 AND id = $2";

const FORGET: &str =
    "DELETE FROM pleo_proxy.login WHERE environment = $1 AND id = $2 AND taken_by IS NULL";

const FORGET_ALL: &str =
    "DELETE FROM pleo_proxy.login WHERE environment = $1 AND account = $2 AND taken_by IS NULL";

/// The rows of one environment.
pub(crate) struct LoginRows<'a> {
    pub(super) link: &'a Link,
    pub(super) environment: &'a str,
    pub(super) sealing: &'a Sealing,
    /// Names this process.
    pub(super) taker: &'a str,
}

/// What is sealed of a login.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    verifier: Zeroizing<String>,
    redirect_uri: String,
    replaces: bool,
}

impl LoginRows<'_> {
    pub(crate) async fn put(&self, id: &LoginId, login: &StoredLogin) -> io::Result<()> {
        let content = Content {
            verifier: Zeroizing::new(login.verifier.expose().to_owned()),
            redirect_uri: login.redirect_uri.clone(),
            replaces: login.replaces,
        };
        let content = serde_json::to_vec(&content).expect("strings always have a JSON form");
        let sealed = self.sealing.seal_login(&login.account, id, &Zeroizing::new(content))?;
        let (id, name) = (id.as_slice(), login.account.as_str());
        let parameters = [
            (&self.environment as _, Type::TEXT),
            (&id as _, Type::BYTEA),
            (&name as _, Type::TEXT),
            (&sealed as _, Type::BYTEA),
            (&MAX_PENDING as _, Type::INT8),
            (&MAX_PENDING_IN_ALL as _, Type::INT8),
        ];
        self.link.query(PUT, &parameters).await?;
        Ok(())
    }

    /// Takes a login to finish it, unless it cannot be opened here.
    pub(crate) async fn take(&self, id: &LoginId) -> io::Result<TakenLogin> {
        let key = id.as_slice();
        let parameters = [
            (&self.environment as _, Type::TEXT),
            (&key as _, Type::BYTEA),
            (&self.taker as _, Type::TEXT),
        ];
        if let Some(row) = self.link.query(TAKE, &parameters).await?.first() {
            let login = self.read(
                id,
                row.try_get(0).map_err(Trouble::from)?,
                row.try_get(1).map_err(Trouble::from)?,
            );
            let Some(login) = login else {
                self.link.query(GIVE_BACK, &parameters).await?;
                let sealed = "it is sealed with a store key that this replica does not have";
                return Err(io::Error::new(io::ErrorKind::InvalidData, sealed));
            };
            return Ok(TakenLogin::First(login));
        }
        let found = self.link.query(FIND, &parameters[..2]).await?;
        let account = found.first().and_then(|row| row.try_get::<_, &str>(0).ok()?.parse().ok());
        Ok(account.map_or(TakenLogin::Unknown, TakenLogin::Elsewhere))
    }

    fn read(&self, id: &LoginId, account: &str, sealed: &[u8]) -> Option<StoredLogin> {
        let account: AccountName = account.parse().ok()?;
        let content = self.sealing.open_login(&account, id, sealed)?;
        let content: Content = serde_json::from_slice(&content).ok()?;
        let verifier = CodeVerifier::new(content.verifier.as_str());
        let Content { redirect_uri, replaces, .. } = content;
        Some(StoredLogin { account, verifier, redirect_uri, replaces })
    }

    /// Records how it ended; the verifier is not needed any more.
    pub(crate) async fn end(&self, id: &LoginId, why: &str) -> io::Result<()> {
        let id = id.as_slice();
        let parameters = [
            (&self.environment as _, Type::TEXT),
            (&id as _, Type::BYTEA),
            (&why as _, Type::TEXT),
        ];
        self.link.query(END, &parameters).await?;
        Ok(())
    }

    /// How it ended, if it did: why not, or nothing.
    pub(crate) async fn ended(&self, id: &LoginId) -> io::Result<Option<String>> {
        let id = id.as_slice();
        let parameters = [(&self.environment as _, Type::TEXT), (&id as _, Type::BYTEA)];
        let rows = self.link.query(FIND, &parameters).await?;
        Ok(rows.first().and_then(|row| row.try_get(1).ok()?))
    }

    pub(crate) async fn forget(&self, id: &LoginId) -> io::Result<()> {
        let id = id.as_slice();
        let parameters = [(&self.environment as _, Type::TEXT), (&id as _, Type::BYTEA)];
        self.link.query(FORGET, &parameters).await?;
        Ok(())
    }

    pub(crate) async fn forget_all(&self, account: &AccountName) -> io::Result<()> {
        let name = account.as_str();
        let parameters = [(&self.environment as _, Type::TEXT), (&name as _, Type::TEXT)];
        self.link.query(FORGET_ALL, &parameters).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::DatabaseSecret;
    use crate::store::postgres_server::Database;
    use crate::store::{Database as Settings, PostgresStore, Sealing, UrlSource};

    #[tokio::test]
    async fn the_oldest_pending_logins_over_the_limits_end() {
        let Some(database) = Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Settings { url, allow_plain: true, ..Settings::default() };
        let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await.unwrap();
        let login = |account: &str| StoredLogin {
            account: account.parse().unwrap(),
            verifier: CodeVerifier::new("verifier"),
            redirect_uri: String::new(),
            replaces: false,
        };
        let id = |number: u8| [number; 32];
        for number in 0..7 {
            store.logins().put(&id(number), &login("default")).await.unwrap();
        }
        let ended = store.logins().take(&id(1)).await.unwrap();
        assert!(matches!(ended, TakenLogin::Unknown), "{ended:?}");
        let oldest = store.logins().take(&id(2)).await.unwrap();
        assert!(matches!(oldest, TakenLogin::First(_)), "{oldest:?}");
        for number in 0..120 {
            store.logins().put(&id(100 + number), &login(&format!("a{number}"))).await.unwrap();
        }
        let count = |which: &str| {
            let count = format!("SELECT count(*) FROM pleo_proxy.login WHERE taken_by IS {which}");
            database.run(&count).trim().to_owned()
        };
        assert_eq!((count("NULL").as_str(), count("NOT NULL").as_str()), ("100", "1"));
        let newest = store.logins().take(&id(219)).await.unwrap();
        assert!(matches!(newest, TakenLogin::First(_)), "{newest:?}");
    }
}
