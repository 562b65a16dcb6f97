//! Builds the parts from the configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::run_file::{self, Instance};
use super::state::State;
use crate::accounts::{Accounts, Background};
use crate::clock::Clock;
use crate::config::{Config, store_key_origin};
use crate::exchange::recorder::Recorders;
use crate::hooks::{Hooks, Surroundings};
use crate::log::RequestLog;
use crate::oauth;
use crate::outbound::{self, Outbound};
use crate::redaction::Redactor;
#[cfg(feature = "postgres")]
use crate::store::PostgresStore;
use crate::store::{Kind, OpenError, Sealing, Store};
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

/// How this store keeps its records.
pub(super) fn sealing(config: &Config) -> Result<Sealing, Failure> {
    config
        .sealing()
        .map_err(|error| Failure::usage(format!("{}: {error}", store_key_origin(config))))
}

/// The store that the settings name; one of files has its records in this folder.
pub(super) async fn store(config: &Config, records: &Path) -> Result<Store, Failure> {
    let sealing = sealing(config)?;
    let opened = match config.store.kind {
        Kind::File => Store::open(records, sealing),
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let environment = config.environment().as_str();
            let opened = PostgresStore::open(&config.database, environment, sealing).await;
            opened.map(|store| Store::Postgres(Arc::new(store)))
        }
    };
    opened.map_err(not_opened)
}

/// A database that is away may be there at the next start: that is no wrong configuration.
fn not_opened(error: OpenError) -> Failure {
    match error {
        OpenError::Away(..) => Failure::new(Exit::Failed, error),
        _ => Failure::usage(error),
    }
}

/// The same, to read from it: nothing is created or changed.
pub(super) async fn store_to_inspect(config: &Config, records: &Path) -> Result<Store, Failure> {
    let sealing = sealing(config)?;
    let opened = match config.store.kind {
        Kind::File => Store::inspect(records, sealing),
        #[cfg(feature = "postgres")]
        Kind::Postgres => {
            let environment = config.environment().as_str();
            let opened = PostgresStore::inspect(&config.database, environment, sealing).await;
            opened.map(|store| Store::Postgres(Arc::new(store)))
        }
    };
    opened.map_err(not_opened)
}

/// Where the records are, for people, if that is not a folder: nobody is asked.
pub(super) fn database(config: &Config) -> Option<Result<String, Failure>> {
    match config.store.kind {
        Kind::File => None,
        #[cfg(feature = "postgres")]
        Kind::Postgres => Some(PostgresStore::place_of(&config.database).map_err(Failure::usage)),
    }
}

/// Refuses to seal beside a process that could not open what is sealed, which would stop serving,
/// and to save as it is what others of the store seal.
pub(super) fn refuse_if_not_held(store: &Store, state: &State) -> Result<(), Failure> {
    let (key, own) = (store.key(), store.keys_held());
    let running = run_file::alive(&state.folder).into_iter();
    let mut beside = running.filter(|it| it.store == state.records);
    let pid = |it: Instance| it.process.pid;
    let why = match &key {
        Some(key) => beside.find(|it| !it.store_keys.open(key, &own)).map(|it| format!(
            "process {} runs on this store and was started without key {key}; restart it with that key, then run this again",
            pid(it)
        )),
        None => beside.find(|it| !it.store_keys.keys.is_empty()).map(|it| format!(
            "process {} seals this store, and there is no key here; name its file of keys in store.key_file, or give the keys as the variable PLEO_PROXY_STORE_KEY or the credential store-key",
            pid(it)
        )),
    };
    why.map_or(Ok(()), |why| Err(Failure::usage(why)))
}

/// All accounts of this process's store.
pub(super) async fn accounts(
    config: &Config,
    state: &State,
    outbound: &Outbound,
    background: Background,
) -> Result<Arc<Accounts>, Failure> {
    let store = store(config, &state.records).await?;
    refuse_if_not_held(&store, state)?;
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
    let program = config.program.clone();
    let log =
        RequestLog::new(settings, recorders, accounts.clone(), usage, environment, label, program);
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
pub(super) fn hooks(config: &Config, accounts: &Arc<Accounts>) -> Option<Hooks> {
    let file = config.file.as_ref().and_then(|file| file.canonicalize().ok());
    let surroundings = Surroundings {
        folder: file.as_ref().and_then(|file| file.parent()).map(Path::to_owned),
        config: file,
        environment: config.environment().as_str(),
        program: config.program.clone(),
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
