//! `open`: opens the page of the running proxy with a fresh link.

use crate::admin::protocol::{SessionLink, Versioned};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{browser, locate, output};

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy open
  pleo-proxy open --json  # the link, for another browser";

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let state = State::locate(&context.config()?)?;
    let none = format!(
        "no pleo-proxy is running for this store; start it with: {} serve",
        context.program
    );
    let proxy = locate::required(&state, &none).await?;
    let link = proxy.post::<SessionLink>("/api/session").await;
    let link = link.map_err(|error| Failure::from(error).context("the proxy created no link"))?;
    let link = Versioned::from(link);
    if context.json {
        output::json(&link)?;
    } else {
        out!("{}", link.body.url)?;
    }
    if !browser::open(&link.body.url) {
        status!("No browser could be opened; open the address yourself. It works once.");
    }
    Ok(Exit::Fine)
}
