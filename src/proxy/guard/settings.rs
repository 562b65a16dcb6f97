//! The settings of a guard, and the marks that the server puts on requests for it.

use crate::secret::LocalKey;
use crate::store::AccountName;

/// Settings of the guard.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts besides the loopback names and the bound address, exact `host:port`.
    pub allow_hosts: Vec<String>,
    /// Origins whose pages and apps may call the data listener.
    pub allow_origins: Vec<String>,
    /// What callers must send, if set.
    pub local_key: Option<LocalKey>,
    /// Forward reads only.
    pub read_only: bool,
    /// Forward `DELETE /v1/installations/me`.
    pub allow_disconnect: bool,
    /// Serve this account only; none = all.
    pub account: Option<AccountName>,
    /// The company of that account; none = whichever is known first.
    pub subject: Option<String>,
}

/// The server adds this to a request's extensions if the request line held a `#`.
#[derive(Clone, Copy, Debug)]
pub struct Fragment;

/// The server adds this to a request's extensions if it came through a tunnel that the guard
/// admitted.
#[derive(Clone, Copy, Debug)]
pub struct Tunnelled;
