//! Builds the parts from the configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::exit::Failure;
use super::state::State;
use crate::accounts::{Accounts, Background};
use crate::clock::Clock;
use crate::config::Config;
use crate::exchange::recorder::Recorders;
use crate::hooks::{Hooks, Surroundings};
use crate::log::RequestLog;
use crate::oauth;
use crate::outbound::{self, Outbound};
use crate::redaction::Redactor;
use crate::store::Store;
use crate::supervise::supervise;
use crate::usage;

/// The outbound connections of this configuration.
pub(super) fn outbound(config: &Config) -> Result<Outbound, Failure> {
    Outbound::new(&config.outbound()).map_err(Failure::usage)
}

/// Outbound connections to loopback only: no outbound proxy, no trust roots.
pub(super) fn loopback_only() -> Result<Outbound, Failure> {
    Ok(Outbound::new(&outbound::Settings { plain_only: true, ..outbound::Settings::default() })?)
}

/// All accounts of this process's store.
pub(super) async fn accounts(
    config: &Config,
    state: &State,
    outbound: &Outbound,
    background: Background,
) -> Result<Arc<Accounts>, Failure> {
    let store = Store::open(&state.records).map_err(Failure::usage)?;
    accounts_in(store, config, outbound, background).await
}

/// The request log, whose tasks run from here on. `label` stands in every entry.
pub(super) fn request_log(
    config: &Config,
    state: &State,
    accounts: &Arc<Accounts>,
    label: Option<String>,
) -> Result<Arc<RequestLog>, Failure> {
    let mut run = [0; 4];
    getrandom::fill(&mut run).context("the system gives no random numbers")?;
    let settings = &config.inspect;
    let metrics = accounts.metrics().clone();
    let redactor = Redactor::new(accounts.known_secrets().clone());
    let recorders = Recorders::new(u32::from_ne_bytes(run), settings.headers, metrics, redactor);
    let file = state.records.join(usage::FILE_NAME);
    let usage = Arc::new(usage::Keeper::open(file, &Clock::system()));
    let environment = config.environment().as_str().to_owned();
    let log = RequestLog::new(settings, recorders, accounts.clone(), usage, environment, label);
    let log = log.map_err(|error| Failure::usage(format!("log.requests: {error}")))?;
    let log = Arc::new(log);
    // They run until the process ends: requests go on while it drains.
    let (supervisor, ending) = (accounts.supervisor().clone(), CancellationToken::new());
    tokio::spawn({
        let log = log.clone();
        async move {
            let collect = supervise("request_log", &supervisor, &ending, || log.collect());
            let write = supervise("request_file", &supervisor, &ending, || log.write_file());
            let identify = supervise("programs", &supervisor, &ending, || log.identify_programs());
            let keep = supervise("usage", &supervisor, &ending, || log.usage().clone().keep());
            tokio::join!(collect, write, identify, keep);
        }
    });
    Ok(log)
}

/// The hooks, which run from here on; none if none is set.
pub(super) fn hooks(config: &Config, accounts: &Arc<Accounts>, program: &str) -> Option<Hooks> {
    let file = config.file.as_ref().and_then(|file| file.canonicalize().ok());
    let surroundings = Surroundings {
        folder: file.as_ref().and_then(|file| file.parent()).map(Path::to_owned),
        config: file,
        environment: config.environment().as_str(),
        program: program.to_owned(),
    };
    Hooks::start(&config.hooks, accounts, surroundings)
}

/// All accounts of a store.
pub(super) async fn accounts_in(
    store: Store,
    config: &Config,
    outbound: &Outbound,
    background: Background,
) -> Result<Arc<Accounts>, Failure> {
    let client = oauth::Client::new(config.oauth.clone(), outbound)
        .context("the HTTP client cannot be set up")?;
    let accounts =
        Accounts::open(store, client, config.accounts(), Clock::system(), background).await;
    Ok(accounts.context("the store cannot be listed")?)
}
