//! The account argument of a command.

use clap::Args;

use super::exit::Failure;
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
