//! `refresh`: through the running proxy of this store, or on the store under the same locks.

use clap::Args;

use crate::accounts::Health;
use crate::admin::protocol::{
    RefreshOutcome, RefreshQuery, Refreshed, State as AccountState, Versioned,
};
use crate::cli::account_argument::AccountArgument;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};
use crate::config::Config;
use crate::store::AccountName;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy refresh acme     # if it is due
  pleo-proxy refresh --force  # in any case";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Refresh {
    #[command(flatten)]
    account: AccountArgument,
    /// Also if it is not due
    #[arg(long)]
    force: bool,
}

impl Refresh {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let name = self.account.name(&config)?;
        let state = State::locate(&config)?;
        let refreshed = match locate::running(&state).await? {
            Some(proxy) => proxy.post(&RefreshQuery { force: self.force }.target(&name)).await?,
            None => on_store(&config, &state, &name, self.force).await?,
        };
        let exit = exit(&refreshed);
        match (exit, &refreshed.account.why) {
            (Exit::Fine, _) => status!("The account {name}: {}.", told(&refreshed)),
            (_, why) => status!(
                "pleo-proxy: {}",
                with_flags(why.as_deref().unwrap_or("the refresh failed"), &context.program)
            ),
        }
        if context.json {
            output::json(&Versioned::from(refreshed))?;
        }
        Ok(exit)
    }
}

fn told(refreshed: &Refreshed) -> String {
    match (&refreshed.outcome, &refreshed.account.access_expires_at) {
        (RefreshOutcome::Fresh, Some(until)) => format!(
            "its token is not due for a refresh (valid until {until}); --force refreshes anyway"
        ),
        (outcome, _) => outcome.to_string(),
    }
}

fn exit(refreshed: &Refreshed) -> Exit {
    match (&refreshed.outcome, &refreshed.account.state) {
        (RefreshOutcome::Failed, AccountState::LoginRequired) => Exit::LoginRequired,
        (RefreshOutcome::Failed, _) => Exit::Failed,
        _ => Exit::Fine,
    }
}

async fn on_store(
    config: &Config,
    state: &State,
    name: &AccountName,
    force: bool,
) -> Result<Refreshed, Failure> {
    let operator = open_store::writable(config, state).await?;
    let refreshed = operator.refresh(name, force).await.map_err(Failure::usage)?;
    open_store::close(&operator, name).await?;
    let is_unsaved = |health: &Health| matches!(health, Health::Unsaved(_));
    if operator.accounts().get(name).is_some_and(|account| is_unsaved(&account.snapshot().health)) {
        return Err(open_store::unsaved(name));
    }
    Ok(refreshed.into())
}
