//! `api`: one call of Pleo's API through the running proxy, or all pages of a list.

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
use crate::cli::state::State;
use pages::Pages;
use request::{CallArguments, Command};
use target::Target;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Api {
    /// Path and query, such as '/v2/employees?limit=5'
    path: String,
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
        let config = context.config()?;
        let target = Target::read(&self.path)?;
        let request = self.call.request(&target)?;
        if self.all {
            pages::ensure_read(&request)?;
        }
        let guard = config.guard();
        let guard =
            guard.map_err(|error| Failure::usage(format!("guard.local_key_file: {error}")))?;
        let state = State::locate(&config)?;
        let proxy = locate::serving(&state, &context.program).await?;
        let client = DataClient::new(proxy.api, guard.local_key);
        if self.all {
            let command = Command::new(&context.program, &self.call, context.json);
            return Pages::new(client, request, target, command, context.json).print().await;
        }
        let response = client.send(&request).await?;
        if context.json { answer::wrap(response).await } else { answer::stream(response).await }
    }
}
