//! `stop`: stops the running proxy and waits until it has ended.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::json;
use tokio::time::sleep;

use crate::admin::protocol::Done;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::run_file::Liveness;
use crate::cli::state::State;
use crate::cli::{locate, output};

/// Longest wait for a proxy to end: its drain and its last token request.
const STOP_TIMEOUT: Duration = Duration::from_secs(50);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy stop
  pleo-proxy stop --environment staging  # the one of another environment";

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let state = State::locate(&context.config()?)?;
    let proxy = locate::required(&state, "no pleo-proxy is running for this store").await?;
    let stopping = proxy.post::<Done>("/api/shutdown").await;
    stopping.map_err(|error| Failure::from(error).context("the shutdown request failed"))?;
    let process = &proxy.instance.process;
    let pid = process.pid;
    let deadline = Instant::now() + STOP_TIMEOUT;
    while process.liveness() == Liveness::Alive {
        if Instant::now() >= deadline {
            return Err(anyhow!(
                "process {pid} is still ending; check again with: pleo-proxy status"
            )
            .into());
        }
        sleep(POLL_INTERVAL).await;
    }
    if context.json {
        output::json(&json!({"version": 1, "outcome": "stopped", "pid": pid}))?;
    } else {
        status!("Process {pid} has ended.");
    }
    Ok(Exit::Fine)
}
