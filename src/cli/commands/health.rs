//! `health`: asks the proxy once whether it is up. Needs no key, and of the state folder no more
//! than the run file: it is meant for containers, which have no curl.

use std::time::Duration;

use clap::Args;
use http::{HeaderMap, Method};
use serde_json::json;
use tokio::time::timeout;

use crate::cli::context::Context;
use crate::cli::data_client::{DataClient, ERROR, ToolRequest};
use crate::cli::exit::{Exit, Failure};
use crate::cli::outer_exec::OuterExec;
use crate::cli::run_file::{self, Instance};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{holder, locate, output, probe};
use crate::config::Config;

/// Longest wait for the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  pleo-proxy health
  pleo-proxy health --ready  # whether an account can serve";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct HealthProbe {
    /// Ask whether an account can serve requests, not only whether the proxy is up
    #[arg(long)]
    ready: bool,
}

/// Where to ask.
enum Listener {
    /// The admin listener, such as `127.0.0.1:8089`.
    Admin(String),
    /// The data listener of a proxy without one, as its run file names it, or of an `exec`.
    Data(String),
}

impl HealthProbe {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let outer = OuterExec::find()?;
        let config = context.config()?;
        let listener = match outer {
            Some(outer) => Listener::Data(outer.origin),
            None => listener(&config, &context.program)?,
        };
        let (exit, status, fix) = match &listener {
            Listener::Admin(address) => self.ask_admin(address, &config, &context.program).await?,
            Listener::Data(_) if self.ready => {
                let why = "there is no admin listener (listen.admin is off, or this runs below exec), and only it knows whether an account can serve; leave out --ready";
                return Err(Failure::usage(why));
            }
            Listener::Data(origin) => (Exit::Fine, is_up(origin).await?, None),
        };
        if let Some(fix) = fix {
            status!("{}", with_flags(&fix, &context.program));
        }
        if context.json {
            output::json(&json!({"version": 1, "status": status}))?;
        } else {
            out!("{status}")?;
        }
        Ok(exit)
    }

    async fn ask_admin(
        &self,
        address: &str,
        config: &Config,
        program: &str,
    ) -> Result<(Exit, String, Option<String>), Failure> {
        let path = if self.ready { "/ready" } else { "/health" };
        let is_known = running(config).is_some();
        let probe::Answer { status, health, .. } =
            probe::health(address, path, TIMEOUT).await.map_err(|error| {
                if is_known {
                    // A process that has a run file runs, whatever is wrong with it.
                    return Failure::new(Exit::Failed, format!("{error:#}"));
                }
                let Failure { exit, error: none } = not_running(config, program);
                let login = address.parse().ok().and_then(holder::login_at);
                let holder = login.map(|pid| format!("; {}", holder::waiting_login(pid)));
                let holder = holder.unwrap_or_default();
                Failure::new(exit, format!("{error:#}{holder}; {none}"))
            })?;
        let exit = match health.status.as_str() {
            _ if status.is_success() => Exit::Fine,
            "ending" => Exit::Degraded,
            "unavailable" => Exit::LoginRequired,
            _ => Exit::Failed,
        };
        Ok((exit, health.status, health.fix))
    }
}

/// The running proxy of this environment, as its run file says.
fn running(config: &Config) -> Option<Instance> {
    let folder = config.state_folder()?;
    let wanted = config.store.path.is_some().then(|| folder.canonicalize().ok()).flatten();
    let mut proxies = run_file::proxies(&folder).into_iter();
    proxies.find(|instance| wanted.as_ref().is_none_or(|store| *store == instance.store))
}

/// The listener of the running proxy; of one without a run file that can be read, the configured
/// one.
fn listener(config: &Config, program: &str) -> Result<Listener, Failure> {
    if let Some(instance) = running(config) {
        return Ok(match instance.admin {
            Some(origin) => Listener::Admin(origin.trim_start_matches("http://").to_owned()),
            None => Listener::Data(instance.api),
        });
    }
    match config.listen.admin.filter(|address| address.port() != 0) {
        Some(address) => Ok(Listener::Admin(address.to_string())),
        None => Err(not_running(config, program)),
    }
}

/// The failure that nothing answers, with what to do.
fn not_running(config: &Config, program: &str) -> Failure {
    let none = format!("no pleo-proxy is running for this store; start it with: {program} serve");
    match State::locate(config) {
        Ok(state) => locate::not_running(&state, &none),
        Err(_) => Failure::new(Exit::NotRunning, none),
    }
}

/// Asks the data listener for something that it refuses itself, so that nothing reaches Pleo.
pub(super) async fn is_up(origin: &str) -> Result<String, Failure> {
    let request = ToolRequest {
        method: Method::TRACE,
        target: "/".parse()?,
        headers: HeaderMap::new(),
        body: None,
    };
    let client = DataClient::new(origin.to_owned(), None);
    let asked = timeout(TIMEOUT, client.send(&request)).await;
    let response = asked.map_err(|_| {
        Failure::new(Exit::Failed, format!("the proxy at {origin} did not answer in time"))
    })??;
    if response.headers().contains_key(ERROR) {
        return Ok("ok".to_owned());
    }
    Err(Failure::new(Exit::Failed, format!("the program at {origin} is no pleo-proxy")))
}
