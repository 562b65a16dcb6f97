//! From the configuration to the parts, in the order in which they need each other.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::Failure;
use crate::clock::Clock;
use crate::config::Config;
use crate::oauth;
use crate::outbound::Outbound;
use crate::store::{self, Store};
use crate::tokens::{Accounts, Care};

/// Where this environment's state is.
#[derive(Debug)]
pub(super) struct State {
    /// `admin.key` and `run/`.
    pub(super) folder: PathBuf,
    /// The records.
    pub(super) records: PathBuf,
    /// True if the records end with the process: the embedded sandbox without `store.path`.
    pub(super) is_temporary: bool,
    /// Removed with everything in it when dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl State {
    /// The folders of a process that serves. The embedded sandbox's accounts are gone with it.
    pub(super) fn of(config: &Config) -> Result<Self, Failure> {
        let is_temporary = config.endpoints.embedded_sandbox && config.store.path.is_none();
        let temporary = is_temporary.then(private_tempdir).transpose();
        let temporary = temporary.context("no temporary folder can be made")?;
        let own = temporary.as_ref().map(|folder| folder.path().to_owned());
        let folder = config.state_folder().or_else(|| own.clone()).context("no state folder is known")?;
        store::private_folder(&folder).map_err(Failure::usage)?;
        // The canonical path: two names of one folder are one store.
        let records = own.unwrap_or_else(|| folder.clone()).canonicalize().context("the state folder")?;
        Ok(Self { folder, records, is_temporary, _temporary: temporary })
    }

    /// The records to look for among running proxies; none = whatever the environment's state folder knows.
    pub(super) fn wanted(&self) -> Option<&Path> {
        (!self.is_temporary).then_some(self.records.as_path())
    }
}

fn private_tempdir() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("pleo-proxy-").permissions(Permissions::from_mode(0o700)).tempdir()
}

/// The outside, ready for use.
pub(super) fn outbound(config: &Config) -> Result<Outbound, Failure> {
    Outbound::new(&config.outbound()).map_err(Failure::usage)
}

/// All accounts of this store.
pub(super) async fn accounts(
    config: &Config,
    state: &State,
    outbound: &Outbound,
    care: Care,
) -> Result<Arc<Accounts>, Failure> {
    let settings = config.oauth().map_err(Failure::usage)?;
    let client = oauth::Client::new(settings, outbound).context("the HTTP client cannot be set up")?;
    let store = Store::open(&state.records).map_err(Failure::usage)?;
    let accounts = Accounts::open(store, client, config.tokens(), Clock::system(), care).await;
    Ok(accounts.context("the store cannot be listed")?)
}
