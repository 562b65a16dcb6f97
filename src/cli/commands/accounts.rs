//! `accounts`: their names. Through the running proxy of this store, or on the store under the same
//! locks.

use clap::Subcommand;
use serde::Serialize;

use crate::accounts::ChangeError;
use crate::admin::protocol::{
    AccountStatus, Done, Outcome, RenameBody, State as AccountState, Status, Versioned,
};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::run_file;
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::AccountName;
use crate::usage::{self, Usage};

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy accounts list
  pleo-proxy accounts rename acme harbour";

const LIST_EXAMPLES: &str = "\
Examples:
  pleo-proxy accounts list
  pleo-proxy accounts list --json";

const RENAME_EXAMPLES: &str = "\
Examples:
  pleo-proxy accounts rename acme harbour
  pleo-proxy accounts rename acme harbour --force  # while an exec runs for it";

const REMOVE_EXAMPLES: &str = "\
Examples:
  pleo-proxy accounts remove acme  # after: pleo-proxy logout acme";

#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// List the accounts: name, state, and what they are called
    #[command(after_help = LIST_EXAMPLES)]
    List,
    /// Give an account another name; it keeps its tokens and its company
    #[command(after_help = RENAME_EXAMPLES)]
    Rename {
        /// The account
        old: AccountName,
        /// Its new name, which no account has
        new: AccountName,
        /// Also while an exec runs for the account, whose requests then fail
        #[arg(long)]
        force: bool,
    },
    /// Remove an account that is logged out
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// The account
        name: AccountName,
    },
}

/// The output of `list`.
#[derive(Serialize)]
struct List {
    running: bool,
    accounts: Vec<Line>,
}

/// One account of it.
#[derive(Serialize)]
struct Line {
    account: String,
    state: AccountState,
    label: Option<String>,
    company: Option<String>,
    subject: Option<String>,
}

impl AccountsCommand {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let state = State::locate(&config)?;
        match self {
            Self::List => list(&config, &state, context).await,
            Self::Rename { old, new, force } => {
                rename(&config, &state, (&old, &new), force, context.json).await
            }
            Self::Remove { name } => remove(&config, &state, &name, context.json).await,
        }
    }
}

async fn list(config: &Config, state: &State, context: &Context) -> Result<Exit, Failure> {
    let proxy = locate::running(state).await?;
    let accounts = match &proxy {
        Some(proxy) => proxy.get::<Status>("/api/status").await?.accounts,
        None => open_store::stored(config, state).await?,
    };
    if context.json {
        let accounts = accounts.into_iter().map(Line::from).collect();
        output::json(&Versioned::from(List { running: proxy.is_some(), accounts }))?;
        return Ok(Exit::Fine);
    }
    if accounts.is_empty() {
        status!("No account yet; run: {} login", context.program);
    }
    let width = accounts.iter().map(|account| account.account.len()).max().unwrap_or_default();
    for account in &accounts {
        let (name, state) = (&account.account, account.state.to_string());
        let line = format!("{name:width$}  {state:14}  {}", account.shown_as().unwrap_or_default());
        out!("{}", line.trim_end())?;
    }
    Ok(Exit::Fine)
}

impl From<AccountStatus> for Line {
    fn from(status: AccountStatus) -> Self {
        let AccountStatus { account, state, label, company, subject, .. } = status;
        Self { account, state, label, company, subject }
    }
}

async fn rename(
    config: &Config,
    state: &State,
    (old, new): (&AccountName, &AccountName),
    force: bool,
    json: bool,
) -> Result<Exit, Failure> {
    match locate::running(state).await? {
        Some(proxy) => {
            let target = format!("/api/accounts/{old}/rename");
            proxy.post_body::<Done>(&target, &RenameBody { to: new.to_string(), force }).await?;
        }
        None => {
            let operator = open_store::writable(config, state).await?;
            let users = (!force).then(|| run_file::users(&state.folder, &state.records));
            operator.rename(old, new, users.as_ref()).await.map_err(refused)?;
            move_counters(state, old, Some(new));
        }
    }
    if config.tokens.default_account.as_ref() == Some(old) {
        status!("The settings still name {old} as default_account; write {new} there.");
    }
    if config.accounts.contains_key(old) {
        status!("The settings still have [accounts.{old}]; write [accounts.{new}] there.");
    }
    done(Outcome::Renamed, new, &format!("The account {old} is called {new} now."), json)
}

async fn remove(
    config: &Config,
    state: &State,
    name: &AccountName,
    json: bool,
) -> Result<Exit, Failure> {
    match locate::running(state).await? {
        Some(proxy) => drop(proxy.delete::<Done>(&format!("/api/accounts/{name}")).await?),
        None => {
            let operator = open_store::writable(config, state).await?;
            operator.remove(name).await.map_err(refused)?;
            move_counters(state, name, None);
        }
    }
    done(Outcome::Removed, name, &format!("The account {name} is removed."), json)
}

/// A name that no account has is a mistake in the arguments.
fn refused(error: ChangeError) -> Failure {
    match error {
        unknown @ ChangeError::Unknown(_) => Failure::usage(unknown),
        error => error.into(),
    }
}

/// The counters of operations follow the account. They are statistics: where the disk refuses, the
/// account has its new name all the same.
fn move_counters(state: &State, from: &AccountName, to: Option<&AccountName>) {
    let path = state.records.join(usage::FILE_NAME);
    let moved = Usage::load(&path, Clock::system().now().wall).and_then(|mut usage| {
        usage.move_account(&path, from.as_str(), to.map(AccountName::as_str))
    });
    if let Err(error) = moved {
        status!("The counters of its requests keep its old name: {error}");
    }
}

fn done(outcome: Outcome, name: &AccountName, said: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        output::json(&Versioned::from(Done { outcome, account: Some(name.to_string()) }))?;
    } else {
        status!("{said}");
    }
    Ok(Exit::Fine)
}
