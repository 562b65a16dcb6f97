//! `api`: one call of Pleo's API through the running proxy, or all pages of a list. Below an `exec`
//! it goes through its listener.

mod answer;
mod compact;
mod page;
mod pages;
mod request;
mod target;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::data_client::DataClient;
use crate::cli::exit::{Exit, Failure};
use crate::cli::locate;
use crate::cli::outer_exec::OuterExec;
use crate::cli::state::State;
use pages::Pages;
use request::{CallArguments, Command};
use target::Target;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Api {
    /// Path and query, such as '/v2/employees?limit=5'
    path: String,
    /// The path, if the method comes first as in: api GET /v1/companies
    #[arg(hide = true)]
    path_behind_method: Option<String>,
    /// Follow the pages of a list, and print each item as a line of JSON
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    call: CallArguments,
}

const EXAMPLES: &str = "Examples:
  pleo-proxy api /v1/companies
  pleo-proxy api '/v2/employees?email=ada@harbour.example' --account acme
  pleo-proxy api '/v1/accounting-entries:search?company_id=ID' -d '{\"includeDeleted\":false}' --all";

impl Api {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let outer = OuterExec::find()?;
        let Self { mut path, path_behind_method, all, mut call } = self;
        if let Some(behind) = path_behind_method {
            call.set_method(std::mem::replace(&mut path, behind))?;
        }
        let target = Target::read(&path)?;
        let request = call.request(&target)?;
        if all {
            pages::ensure_read(&request)?;
        }
        let client = match outer {
            Some(outer) => DataClient::new(outer.origin, outer.key),
            None => running(context).await?,
        };
        if all {
            let command = Command::new(&context.program, &call, context.json);
            return Pages::new(client, request, target, command, context.json).print().await;
        }
        let response = client.send(&request).await?;
        if context.json { answer::wrap(response).await } else { answer::stream(response).await }
    }
}

/// A client of the proxy that runs for this store.
async fn running(context: &Context) -> Result<DataClient, Failure> {
    let config = context.config()?;
    let guard = config.guard();
    let guard = guard.map_err(|error| Failure::usage(format!("guard.local_key_file: {error}")))?;
    let state = State::locate(&config)?;
    let proxy = locate::serving(&state, &context.program).await?;
    Ok(DataClient::new(proxy.api, guard.local_key))
}
