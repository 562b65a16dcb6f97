//! Opening the store for a command while no proxy runs.

use std::path::Path;

use super::exit::{Exit, Failure};
use super::state::State;
use super::wiring;
use crate::accounts::Background;
use crate::admin::protocol::AccountStatus;
use crate::config::Config;
use crate::operate::Operator;
use crate::store::AccountName;

/// The accounts of this store, to show them: nothing on disk is created or changed, and no server
/// is contacted.
pub(super) async fn inspect(config: &Config, state: &State) -> Result<Operator, Failure> {
    inspect_at(config, &state.records).await
}

/// The same with the records of a folder.
pub(super) async fn inspect_at(config: &Config, records: &Path) -> Result<Operator, Failure> {
    let store = wiring::store_to_inspect(config, records).await?;
    let accounts =
        wiring::accounts_in(store, config, &wiring::loopback_only()?, Background::Disabled).await?;
    Ok(Operator::new(accounts))
}

/// The accounts as stored. Nothing is created or changed.
pub(super) async fn stored(config: &Config, state: &State) -> Result<Vec<AccountStatus>, Failure> {
    if state.is_temporary {
        return Ok(Vec::new());
    }
    let operator = inspect(config, state).await?;
    Ok(operator.status().into_iter().map(Into::into).collect())
}

/// The accounts of this store, to be changed. The accounts of the embedded sandbox exist only in
/// the process that serves them.
pub(super) async fn writable(config: &Config, state: &State) -> Result<Operator, Failure> {
    if config.embedded_sandbox {
        let hint =
            "the embedded sandbox exists only while the proxy runs; start `pleo-proxy serve` first";
        return Err(Failure::new(Exit::NotRunning, hint));
    }
    let accounts =
        wiring::accounts(config, state, &wiring::outbound(config)?, Background::Disabled).await?;
    Ok(Operator::new(accounts))
}

/// Finishes work in progress. Fails if the newest tokens are not on disk.
pub(super) async fn close(operator: &Operator, name: &AccountName) -> Result<(), Failure> {
    if operator.accounts().close().await.is_empty() { Ok(()) } else { Err(unsaved(name)) }
}

/// The failure that the newest tokens are not on disk.
pub(super) fn unsaved(name: &AccountName) -> Failure {
    Failure::new(Exit::Degraded, format!("the newest tokens of account {name} could not be saved"))
}
