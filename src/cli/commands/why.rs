//! `why`: whether Pleo would refuse a request, why, and what to do. Asks the running proxy of this
//! store, else reads the store.

use clap::Args;

use crate::admin::protocol::{Versioned, Why as Reason, WhyQuery};
use crate::cli::admin_client::CallError;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{locate, open_store, output};
use crate::config::Config;
use crate::operate::{self, Question};

const EXAMPLES: &str = "\
Examples:
  pleo-proxy why POST /v1/vendors  # before it is sent
  pleo-proxy why 3fa9c1-17         # afterwards: Pleo-Proxy-Request of the answer
  pleo-proxy why GET /v1/companies --account acme";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Why {
    /// Method, such as POST; or the id of a request: Pleo-Proxy-Request of its response
    #[arg(value_name = "METHOD|ID")]
    what: String,
    /// Path and query, such as /v1/vendors
    path: Option<String>,
    /// Account [default: the one of requests that name none]
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
}

impl Why {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let state = State::locate(&config)?;
        let Self { what, path, account } = self;
        let why = match path {
            Some(path) => {
                let query = WhyQuery { method: what, path, account, id: None };
                match locate::running(&state).await? {
                    Some(proxy) => proxy
                        .get::<Reason>(&query.target())
                        .await
                        .map_err(CallError::of_arguments)?,
                    None => on_store(&config, &state, &query).await?,
                }
            }
            None => of_exchange(&state, what).await?,
        };
        if context.json {
            output::json(&Versioned::from(why))?;
        } else {
            print(&why, &context.program)?;
        }
        Ok(Exit::Fine)
    }
}

/// Only the process that answered a request knows it.
async fn of_exchange(state: &State, id: String) -> Result<Reason, Failure> {
    if !id.contains('-') {
        return Err(Failure::usage(
            "write METHOD PATH, such as GET /v1/companies, or the id of a request, such as 3fa9c1-17",
        ));
    }
    let proxy = locate::required(state, locate::NO_LOG).await?;
    let query = WhyQuery { id: Some(id), ..WhyQuery::default() };
    Ok(proxy.get::<Reason>(&query.target()).await?)
}

async fn on_store(config: &Config, state: &State, query: &WhyQuery) -> Result<Reason, Failure> {
    let operator = open_store::inspect(config, state).await?;
    let WhyQuery { method, path, account, .. } = query;
    let question = Question { method, target: path, account: account.as_deref() };
    let environment = config.environment().as_str();
    let explanation = operate::expectation(operator.accounts(), question, environment).await;
    Ok(explanation.map_err(Failure::usage)?.into())
}

fn print(why: &Reason, program: &str) -> Result<(), Failure> {
    let possibility = if why.certain { "" } else { " (a possibility, not a published fact)" };
    out!("{}: {}{possibility}", why.verdict, why.reason)?;
    if let Some(next) = &why.next {
        out!("next: {}", with_flags(next, program))?;
    }
    if let Some(operation) = &why.operation {
        out!("operation: {operation}")?;
    }
    why.source.iter().try_for_each(|source| out!("source: {source}"))
}
