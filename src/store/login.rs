//! Logins that were begun, where the store is shared: one that begins on one replica ends on
//! another. Without a shared store each process keeps its own, and nothing here does anything.

use std::io;
#[cfg(feature = "postgres")]
use std::sync::Arc;

use super::name::AccountName;
#[cfg(feature = "postgres")]
use super::postgres::PostgresStore;
use crate::secret::CodeVerifier;

/// Logins of one account that may be pending; one more ends the oldest.
pub const MAX_PENDING: i64 = 5;
/// Pending logins of all accounts together: `/connect` needs no key, and takes any name.
pub const MAX_PENDING_IN_ALL: i64 = 100;

/// SHA-256 of a login's state.
pub type LoginId = [u8; 32];

/// What is needed to finish a login.
#[derive(Clone, Debug)]
pub struct StoredLogin {
    /// The account.
    pub account: AccountName,
    /// PKCE's verifier.
    pub verifier: CodeVerifier,
    /// Where the authorization server sends the browser back to.
    pub redirect_uri: String,
    /// Another account that holds the company is logged out once this login is saved.
    pub replaces: bool,
}

/// What an attempt to take a login found.
#[derive(Debug)]
pub enum TakenLogin {
    /// This one: whoever took it must finish and end it.
    First(StoredLogin),
    /// Another replica finishes it, or has.
    Elsewhere(AccountName),
    /// None, or one that has expired.
    Unknown,
}

/// The logins of a store.
#[derive(Clone, Debug, Default)]
pub struct SharedLogins {
    #[cfg(feature = "postgres")]
    store: Option<Arc<PostgresStore>>,
}

impl SharedLogins {
    #[cfg(feature = "postgres")]
    pub(super) fn of(store: Arc<PostgresStore>) -> Self {
        Self { store: Some(store) }
    }

    /// Lets other replicas finish a login. False if there are none.
    ///
    /// # Errors
    /// It can be finished in this process only.
    pub async fn put(&self, id: &LoginId, login: &StoredLogin) -> io::Result<bool> {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            return store.logins().put(id, login).await.map(|()| true);
        }
        let _ = (id, login);
        Ok(false)
    }

    /// Takes a login to finish it. A process may take one again: the answer alone may have been lost,
    /// so it is up to the caller that it is not taken twice at once.
    ///
    /// # Errors
    /// The store does not answer, or this process has not the key that the login is sealed with.
    pub async fn take(&self, id: &LoginId) -> io::Result<TakenLogin> {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            return store.logins().take(id).await;
        }
        let _ = id;
        Ok(TakenLogin::Unknown)
    }

    /// Tells the other replicas how it ended, as far as they can be told.
    pub async fn end(&self, id: &LoginId, end: Result<(), &str>) {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            let _ = store.logins().end(id, end.err().unwrap_or_default()).await;
        }
        let _ = (id, end);
    }

    /// How a login ended that another replica took, as far as that is known.
    pub async fn ended(&self, id: &LoginId) -> Option<Result<(), String>> {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            let why = store.logins().ended(id).await.ok()??;
            return Some(if why.is_empty() { Ok(()) } else { Err(why) });
        }
        let _ = id;
        None
    }

    /// Forgets a login that is pending.
    pub async fn forget(&self, id: &LoginId) {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            let _ = store.logins().forget(id).await;
        }
        let _ = id;
    }

    /// Forgets the pending logins of an account.
    pub async fn forget_all(&self, account: &AccountName) {
        #[cfg(feature = "postgres")]
        if let Some(store) = &self.store {
            let _ = store.logins().forget_all(account).await;
        }
        let _ = account;
    }
}
