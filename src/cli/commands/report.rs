//! `report`: which scopes and operations the accounts use, and what follows. Asks the running proxy
//! of this store, else reads its counters.

use clap::Args;

use crate::accounts::UnknownAccount;
use crate::admin::protocol::{AccountReport, Report as Body, ReportQuery, Versioned};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::operate;
use crate::store::AccountName;
use crate::usage::{self, Usage};

/// Seconds of a day.
const DAY: u64 = 86_400;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy report
  pleo-proxy report acme --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Report {
    /// Account [default: all]
    account: Option<String>,
}

impl Report {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let state = State::locate(&config)?;
        let named = self
            .account
            .as_deref()
            .map(|name| name.parse().map_err(|error| Failure::usage(format!("{name:?}: {error}"))));
        let name: Option<AccountName> = named.transpose()?;
        let proxy = locate::running(&state).await?;
        let report = match &proxy {
            Some(proxy) => {
                proxy.get::<Body>(&ReportQuery { account: self.account }.target()).await?
            }
            None => on_store(&config, &state, name.as_ref()).await?,
        };
        if let Some(name) = name.filter(|_| report.accounts.is_empty()) {
            let all = match &proxy {
                Some(proxy) => proxy.get::<Body>(&ReportQuery::default().target()).await?,
                None => on_store(&config, &state, None).await?,
            };
            let known = all.accounts.iter().map(|report| report.account.as_str());
            return Err(Failure::usage(UnknownAccount::beside(name.as_str(), known)));
        }
        if context.json {
            output::json(&Versioned::from(report))?;
        } else {
            print(&report, &context.program)?;
        }
        Ok(Exit::Fine)
    }
}

async fn on_store(
    config: &Config,
    state: &State,
    only: Option<&AccountName>,
) -> Result<Body, Failure> {
    let operator = open_store::inspect(config, state).await?;
    let usage = Usage::load(&state.records.join(usage::FILE_NAME), Clock::system().now().wall)?;
    let accounts = operate::reports(operator.accounts(), &usage, only);
    Ok(Body { since: usage.since(), accounts })
}

fn print(report: &Body, program: &str) -> Result<(), Failure> {
    out!("counted since {}", rfc3339(report.since))?;
    if report.accounts.is_empty() {
        out!("no account; connect one with: {program} login")?;
    }
    report.accounts.iter().try_for_each(print_account)
}

fn print_account(account: &AccountReport) -> Result<(), Failure> {
    let words = |scopes: &[String]| match scopes {
        [] => "-".to_owned(),
        scopes => scopes.join(" "),
    };
    let label = account.label.as_ref().map(|label| format!(" ({label})")).unwrap_or_default();
    out!("\n{}{label}:", account.account)?;
    out!("  asked       {}", words(&account.asked))?;
    out!("  granted     {}", words(&account.granted))?;
    out!("  used        {}", words(&account.used))?;
    if account.operations.is_empty() {
        return out!("  no operation of Pleo's API was used");
    }
    out!("  enough      {}", words(&account.smallest_scopes))?;
    for operation in &account.unknown_scope_operations {
        out!("  unknown     Pleo publishes no scope for {operation}")?;
    }
    if account.read_only_would_do {
        out!("  read only   guard.read_only = true would have refused nothing")?;
    }
    for used in &account.deprecated {
        let successor = used.successor.as_ref().map(|it| format!("; use {it}"));
        let successor = successor.unwrap_or_default();
        out!("  deprecated  {} (requests: {}){successor}", used.operation, used.requests)?;
    }
    if let Some(age) = account.refresh_token_age_s {
        out!("  refreshed   {} days ago; refresh tokens are valid for 60", age / DAY)?;
    }
    for used in &account.operations {
        let (requests, errors, at) = (used.requests, used.errors, rfc3339(used.last_at));
        out!("  {requests:>9}  {}, {errors} errors, last {at}", used.operation)?;
    }
    Ok(())
}
