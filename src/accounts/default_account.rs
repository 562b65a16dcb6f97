//! The account of requests that name none.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::account::Account;
use super::registry::Registry;
use crate::store::AccountName;

/// The account of requests that name none.
#[derive(Clone, Debug)]
pub enum DefaultAccount {
    /// This one.
    One(Arc<Account>),
    /// Several are connected, none is the default.
    Ambiguous(Vec<AccountName>),
    /// None is connected.
    None,
}

impl DefaultAccount {
    /// The configured one, else the only one with a grant, else `default` if it has a record.
    fn of(registry: &Registry, configured: Option<&AccountName>) -> Self {
        if let Some(name) = configured {
            return registry.get(name).map_or(Self::None, Self::One);
        }
        let mut connected = registry.sorted();
        connected.retain(|account| account.has_credential());
        if connected.len() == 1 {
            return connected.pop().map_or(Self::None, Self::One);
        }
        let fallback = registry.get(&AccountName::fallback());
        match fallback.filter(|account| account.has_record()) {
            Some(account) => Self::One(account),
            None if connected.is_empty() => Self::None,
            None => Self::Ambiguous(connected.iter().map(|account| account.name.clone()).collect()),
        }
    }
}

/// The default account, computed again only after a change that matters to it.
#[derive(Debug)]
pub(super) struct CachedDefault {
    current: ArcSwap<Versioned>,
    computing: Mutex<()>,
}

/// With the version of the accounts that it was computed from.
#[derive(Debug)]
struct Versioned {
    version: u64,
    account: Arc<DefaultAccount>,
}

impl Default for CachedDefault {
    fn default() -> Self {
        let account = Arc::new(DefaultAccount::None);
        let current = ArcSwap::from_pointee(Versioned { version: 0, account });
        Self { current, computing: Mutex::default() }
    }
}

impl CachedDefault {
    pub(super) fn get(
        &self,
        registry: &Registry,
        configured: Option<&AccountName>,
    ) -> Arc<DefaultAccount> {
        let current = self.current.load();
        if current.version == registry.default_version() {
            return current.account.clone();
        }
        // One at a time, and whoever comes meanwhile waits: an older answer is neither given nor
        // stored last.
        let _computing = self.computing.lock();
        // Read before the accounts are: after a change in between it is computed again.
        let version = registry.default_version();
        let account = Arc::new(DefaultAccount::of(registry, configured));
        self.current.store(Arc::new(Versioned { version, account: account.clone() }));
        account
    }
}
