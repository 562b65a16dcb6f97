//! The account argument of a command.

use clap::Args;

use super::admin_client::AdminClient;
use super::exit::Failure;
use crate::accounts::UnknownAccount;
use crate::admin::protocol::Status;
use crate::config::Config;
use crate::store::AccountName;

// No documentation comment: clap would use it as the help text of the command.
#[derive(Debug, Args)]
pub(super) struct AccountArgument {
    /// Account [default: the configured one, or "default"]
    account: Option<String>,
}

impl AccountArgument {
    /// The named account, else the configured default, else `default`.
    pub(super) fn name(&self, config: &Config) -> Result<AccountName, Failure> {
        match &self.account {
            Some(name) => {
                name.parse().map_err(|error| Failure::usage(format!("{name:?}: {error}")))
            }
            None => Ok(config.tokens.default_account.clone().unwrap_or_else(AccountName::fallback)),
        }
    }
}

/// Says so if the running proxy has no account of this name, for commands that only choose by it.
pub(super) async fn say_if_unknown(proxy: &AdminClient, name: &str) -> Result<(), Failure> {
    let status: Status = proxy.get("/api/status").await?;
    let mut known = status.accounts.iter().map(|account| account.account.as_str());
    if !known.clone().any(|known| known == name) {
        status!("note: {}", UnknownAccount::beside(name, &mut known));
    }
    Ok(())
}
