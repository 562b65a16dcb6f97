//! Under which name a company is connected: one only, as each login would end the other's tokens.

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Mutex, MutexGuard};

use super::error::ChangeError;
use crate::accounts::registry::Registry;
use crate::accounts::services::Services;
use crate::accounts::settings::LOCK_PATIENCE;
use crate::store::{AccountName, Locked, Record};

/// Records that are read at once.
const READS: usize = 32;

/// Held from the check that no other account has a login's company until the login is saved: in this
/// process, and in all that share the store.
pub(super) struct Turn<'a> {
    _here: MutexGuard<'a, ()>,
    _everywhere: Option<Locked>,
}

impl<'a> Turn<'a> {
    /// Waits for the logins before.
    pub(super) async fn take(
        installing: &'a Mutex<()>,
        services: &Services,
    ) -> Result<Self, ChangeError> {
        let here = installing.lock().await;
        let everywhere = if services.store.is_shared() {
            Some(services.store.lock(&AccountName::of_any_login(), LOCK_PATIENCE).await?)
        } else {
            None
        };
        Ok(Self { _here: here, _everywhere: everywhere })
    }
}

/// The other account that holds a login's company, if the login replaces it. Asked with the turn.
pub(super) async fn held_elsewhere(
    services: &Services,
    registry: &Registry,
    account: &AccountName,
    subject: Option<&str>,
    replaces: bool,
) -> Result<Option<AccountName>, ChangeError> {
    let Some(subject) = subject else { return Ok(None) };
    let known = registry.other_holder(account, subject, &services.issued());
    let other = match known {
        None if services.store.is_shared() => stored_holder(services, account, subject).await,
        known => known,
    };
    match other {
        Some(other) if !replaces => {
            let (account, subject) = (account.clone(), subject.to_owned());
            Err(ChangeError::ConnectedElsewhere { account, subject, other })
        }
        other => Ok(other),
    }
}

/// The same by what other processes may have saved a moment ago. What cannot be read holds nothing.
async fn stored_holder(
    services: &Services,
    account: &AccountName,
    subject: &str,
) -> Option<AccountName> {
    let issued = services.issued();
    let holds = |record: &Record| {
        record.subject.as_deref() == Some(subject)
            && record.grant.as_ref().is_some_and(|grant| grant.issued == issued)
    };
    let others = services.store.list().await.ok()?.into_iter().filter(|it| it != account);
    let load = async |name: AccountName| {
        let (record, _) = services.store.load(&name).await.ok()??;
        holds(&record).then_some(name)
    };
    let mut found = stream::iter(others).map(load).buffer_unordered(READS);
    while let Some(holder) = found.next().await {
        if holder.is_some() {
            return holder;
        }
    }
    None
}

#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::accounts::change::{ChangeError, Changes, Login};
    use crate::accounts::refresher::Refresher;
    use crate::accounts::registry::Registry;
    use crate::accounts::testing;
    use crate::oauth::Tokens;
    use crate::secret::{AccessToken, DatabaseSecret, RefreshToken};
    use crate::store::{Database, PostgresStore, Sealing, Store, UrlSource, postgres_server};

    #[tokio::test]
    async fn of_two_replicas_that_connect_a_company_at_once_one_is_told_of_the_other() {
        let Some(database) = postgres_server::Database::create() else { return };
        let url = UrlSource::Value(DatabaseSecret::new(database.url.as_str()));
        let settings = Database { url, allow_plain: true, ..Database::default() };
        let replica = async || {
            let store = PostgresStore::open(&settings, "sandbox", Sealing::none()).await;
            let store = Store::Postgres(Arc::new(store.unwrap()));
            let (services, commands) = testing::services_on(store, "http://127.0.0.1:9");
            let registry = Arc::new(Registry::new(services.context.clone()));
            let refresher = Arc::new(Refresher::new(services.clone(), registry.clone()));
            (Changes::new(services.clone(), registry, refresher), services, commands)
        };
        let replicas = [replica().await, replica().await];
        let install = async |replica: usize, name: &str, replaces| {
            let (changes, services, _) = &replicas[replica];
            let tokens = Tokens {
                access: Some(AccessToken::new("access")),
                refresh: Some(RefreshToken::new(name)),
                refresh_unreadable: false,
                lifetime: Duration::from_secs(600),
                scope: None,
                oddities: Vec::new(),
            };
            let login = Login {
                tokens,
                sent: services.now(),
                subject: Ok("company".into()),
                company: None,
                introspection_trusted: false,
                replaces,
            };
            changes.install(changes.begin(&name.parse().unwrap()), login).await
        };
        let (one, two) = tokio::join!(install(0, "one", false), install(1, "two", false));
        let refused: Vec<_> = [&one, &two].into_iter().filter_map(|it| it.as_ref().err()).collect();
        assert!(
            matches!(refused[..], [ChangeError::ConnectedElsewhere { .. }]),
            "{one:?} and {two:?}"
        );
        // Whoever replaces it logs it out, though this process has never seen it.
        install(0, "three", true).await.unwrap();
        let store = &replicas[1].1.store;
        let mut connected = Vec::new();
        for name in store.list().await.unwrap() {
            let (record, _) = store.load(&name).await.unwrap().unwrap();
            connected.extend(record.grant.map(|_| name.to_string()));
        }
        assert_eq!(connected, ["three"]);
    }
}
