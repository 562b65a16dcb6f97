//! `logout`: through the running proxy of this store, or on the store under the same locks.

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde::Serialize;

use crate::accounts::ChangeError;
use crate::admin::protocol::{
    AccountStatus, Done, Outcome, State as AccountState, Status, Versioned,
};
use crate::cli::account_argument::AccountArgument;
use crate::cli::admin_client::AdminClient;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};
use crate::config::Config;
use crate::operate::Operator;
use crate::store::AccountName;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy logout acme
  pleo-proxy logout --all";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Logout {
    #[command(flatten)]
    account: AccountArgument,
    /// Every account of this store
    #[arg(long, conflicts_with = "account")]
    all: bool,
    /// Do not ask
    #[arg(long, requires = "all")]
    yes: bool,
}

/// Where accounts are logged out.
enum Place {
    Proxy(AdminClient),
    Store(Operator),
}

/// The output of `--all`.
#[derive(Serialize)]
struct All {
    outcome: Outcome,
    accounts: Vec<String>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    account: String,
    why: String,
}

impl Logout {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let state = State::locate(&config)?;
        if self.all {
            return self.run_all(&config, &state, context.json).await;
        }
        let name = self.account.name(&config)?;
        Place::find(&config, &state).await?.log_out(&name).await?;
        if context.json {
            let done = Done { outcome: Outcome::LoggedOut, account: Some(name.to_string()) };
            output::json(&Versioned::from(done))?;
        } else {
            status!("The account {name} is logged out.");
        }
        Ok(Exit::Fine)
    }

    async fn run_all(&self, config: &Config, state: &State, json: bool) -> Result<Exit, Failure> {
        let place = Place::find(config, state).await?;
        let names = place.connected().await?;
        if !names.is_empty() && !self.yes && !is_agreed(&names)? {
            return Err(Failure::new(Exit::Failed, "nothing was logged out"));
        }
        let mut all = All { outcome: Outcome::LoggedOut, accounts: Vec::new(), failed: Vec::new() };
        for name in names {
            match place.log_out(&name).await {
                Ok(()) => {
                    status!("The account {name} is logged out.");
                    all.accounts.push(name.to_string());
                }
                // The others are logged out all the same.
                Err(Failure { error, .. }) => {
                    status!("pleo-proxy: account {name} is not logged out: {error:#}");
                    let (account, why) = (name.to_string(), format!("{error:#}"));
                    all.failed.push(Failed { account, why });
                }
            }
        }
        let exit = if all.failed.is_empty() { Exit::Fine } else { Exit::Failed };
        if all.accounts.is_empty() && all.failed.is_empty() {
            status!("No account is connected.");
        }
        if json {
            output::json(&Versioned::from(all))?;
        }
        Ok(exit)
    }
}

impl Place {
    async fn find(config: &Config, state: &State) -> Result<Self, Failure> {
        Ok(match locate::running(state).await? {
            Some(proxy) => Self::Proxy(proxy),
            None => Self::Store(open_store::writable(config, state).await?),
        })
    }

    /// The accounts that have, or may have, something to delete.
    async fn connected(&self) -> Result<Vec<AccountName>, Failure> {
        let accounts: Vec<AccountStatus> = match self {
            Self::Proxy(proxy) => proxy.get::<Status>("/api/status").await?.accounts,
            Self::Store(operator) => operator.status().into_iter().map(Into::into).collect(),
        };
        let connected = accounts.iter().filter(|account| {
            account.refreshed_at.is_some() || account.state != AccountState::LoginRequired
        });
        Ok(connected.filter_map(|account| account.account.parse().ok()).collect())
    }

    async fn log_out(&self, name: &AccountName) -> Result<(), Failure> {
        match self {
            Self::Proxy(proxy) => {
                drop(proxy.post::<Done>(&format!("/api/accounts/{name}/logout")).await?);
            }
            Self::Store(operator) => match operator.logout(name).await {
                Err(unknown @ ChangeError::Unknown(_)) => return Err(Failure::usage(unknown)),
                done => done?,
            },
        }
        Ok(())
    }
}

/// Asks on the terminal.
fn is_agreed(names: &[AccountName]) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked here; add --yes to log all accounts out"));
    }
    let listed: Vec<_> = names.iter().map(AccountName::as_str).collect();
    status!("Log out {}? Each needs a new login afterwards. [y/N]", listed.join(", "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
