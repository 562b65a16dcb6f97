//! The `exec` that a command runs below: its listener serves one account, and perhaps reads only. A
//! command that went by it to the proxy of the store would pass by both.

use std::env::{VarError, var};
use std::net::SocketAddr;

use super::exit::Failure;
use crate::config::{ACCOUNT_VARIABLE, BASE_URL_VARIABLE, EXEC_VARIABLE, KEY_VARIABLE};
use crate::secret::LocalKey;

/// What the environment says of it.
pub(super) struct OuterExec {
    /// Its listener, such as `http://127.0.0.1:4711`.
    pub(super) origin: String,
    /// The key of its listener, if it asks for one.
    pub(super) key: Option<LocalKey>,
    /// The account that it serves.
    pub(super) account: Option<String>,
}

impl OuterExec {
    /// The `exec` that this process runs below, if it does.
    ///
    /// # Errors
    /// It does, and the environment does not say where its listener is.
    pub(super) fn find() -> Result<Option<Self>, Failure> {
        let process = match var(EXEC_VARIABLE) {
            Err(VarError::NotPresent) => return Ok(None),
            process => process.unwrap_or_default(),
        };
        let origin = var(BASE_URL_VARIABLE).unwrap_or_default();
        // A key is sent there.
        let address = origin.strip_prefix("http://").and_then(|it| it.parse::<SocketAddr>().ok());
        if !address.is_some_and(|address| address.ip().is_loopback()) {
            return Err(Failure::usage(format!(
                "this runs below pleo-proxy exec (process {process}), and {BASE_URL_VARIABLE} does not name its listener; leave \
                 {BASE_URL_VARIABLE} as it was, or unset {EXEC_VARIABLE} to use the running proxy"
            )));
        }
        let key = var(KEY_VARIABLE).ok().map(LocalKey::new);
        Ok(Some(Self { origin, key, account: var(ACCOUNT_VARIABLE).ok() }))
    }
}
