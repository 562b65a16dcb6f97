//! `logout`: through the running proxy of this store, or on the store under the same locks.

use clap::Args;

use crate::accounts::ChangeError;
use crate::admin::protocol::{Done, Outcome, Versioned};
use crate::cli::account_argument::AccountArgument;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};

#[derive(Debug, Args)]
pub(crate) struct Logout {
    #[command(flatten)]
    account: AccountArgument,
}

impl Logout {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let name = self.account.name(&config)?;
        let state = State::locate(&config)?;
        match locate::running(&state).await? {
            Some(proxy) => drop(proxy.post::<Done>(&format!("/api/accounts/{name}/logout")).await?),
            None => match open_store::writable(&config, &state).await?.logout(&name).await {
                Err(unknown @ ChangeError::Unknown(_)) => return Err(Failure::usage(unknown)),
                done => done?,
            },
        }
        if context.json {
            let done = Done { outcome: Outcome::LoggedOut, account: Some(name.to_string()) };
            output::json(&Versioned::from(done))?;
        } else {
            status!("The account {name} is logged out.");
        }
        Ok(Exit::Fine)
    }
}
