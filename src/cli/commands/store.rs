//! `store`: how records are kept. It works on the store itself, under the accounts' locks, whether a
//! proxy runs or not.

mod migrate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use anyhow::Context as _;
use clap::Subcommand;

use crate::admin::protocol::Versioned;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{output, run_file, wiring};
use crate::clock::Clock;
use crate::config::Config;
use crate::private_file::folder;
#[cfg(feature = "postgres")]
use crate::store::PostgresStore;
use crate::store::{AccountName, Kind, Protection, Store, fresh_key};
use migrate::{Destination, Moved};

pub(super) const EXAMPLES: &str = "\
Examples:
  (umask 077; set -C; pleo-proxy store key > store-key)  # then set store.key_file = \"store-key\"
  pleo-proxy store seal
  pleo-proxy store check";

const KEY_EXAMPLES: &str = "\
Examples:
  (umask 077; set -C; pleo-proxy store key > store-key)
  pleo-proxy store key --json";

const SEAL_EXAMPLES: &str = "\
Examples:
  pleo-proxy store seal";

const REKEY_EXAMPLES: &str = "\
Examples:
  pleo-proxy store rekey  # with a new first line in the file of keys
  pleo-proxy store check  # remove the old lines only when this shows the new key alone";

#[cfg(feature = "postgres")]
const SQL_EXAMPLES: &str = "\
Examples:
  pleo-proxy store sql | psql \"postgresql:///pleo?host=/run/postgresql&user=postgres\"";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  pleo-proxy store migrate --to postgres  # then set store.kind = \"postgres\"
  pleo-proxy store migrate --to file:/var/lib/pleo-proxy";

const CHECK_EXAMPLES: &str = "\
Examples:
  pleo-proxy store check
  pleo-proxy store check --json";

/// Longest wait for the lock of an account: a refresh holds it for as long.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Print a fresh key
    #[command(after_help = KEY_EXAMPLES)]
    Key,
    /// Seal the records that are not sealed yet
    #[command(after_help = SEAL_EXAMPLES)]
    Seal,
    /// Seal all records anew with the first key
    #[command(after_help = REKEY_EXAMPLES)]
    Rekey,
    /// Print the SQL that makes the tables in PostgreSQL and a role with few rights
    #[cfg(feature = "postgres")]
    #[command(after_help = SQL_EXAMPLES)]
    Sql,
    /// Move all records to another store, for good; can be run again after a crash
    #[command(after_help = MIGRATE_EXAMPLES)]
    Migrate {
        /// `file:FOLDER`, a `store.path`; or `postgres`, the database of the settings
        #[arg(long, value_name = "STORE")]
        to: Destination,
    },
    /// Open every record, and say how it is kept; changes nothing
    #[command(after_help = CHECK_EXAMPLES)]
    Check,
}

/// A fresh key.
#[derive(Serialize)]
struct Key<'a> {
    key: &'a str,
    id: &'a str,
}

/// The output of the commands that go through all records.
#[derive(Serialize)]
struct Report {
    /// Name of the key that seals.
    key: Option<String>,
    accounts: Vec<Line>,
}

/// One record.
#[derive(Serialize)]
struct Line {
    account: String,
    #[serde(flatten)]
    state: LineState,
}

/// How a record is kept now.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum LineState {
    Plain,
    Sealed { key: String, changed: bool },
    Moved { changed: bool },
    Failed { why: String },
}

/// Which records are to be sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Plain,
    All,
}

impl StoreCommand {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if matches!(self, Self::Key) {
            return key(context.json);
        }
        #[cfg(feature = "postgres")]
        if matches!(self, Self::Sql) {
            out!("{}", PostgresStore::script())?;
            return Ok(Exit::Fine);
        }
        let config = context.config()?;
        let state = State::locate(&config)?;
        if state.is_temporary {
            let why = "the accounts of the embedded sandbox are deleted with its process, so there is no store; name \
                       a configuration: --config FILE, or set store.path";
            return Err(Failure::usage(why));
        }
        let report = match self {
            Self::Seal => seal(&config, &state, Which::Plain).await?,
            Self::Rekey => seal(&config, &state, Which::All).await?,
            Self::Migrate { to } => migrate(&config, &state, &to).await?,
            _ => check(&config, &state).await?,
        };
        report.print(context)
    }
}

/// The key goes to stdout, where a file takes it.
fn key(json: bool) -> Result<Exit, Failure> {
    let (key, id) = fresh_key()?;
    if json {
        output::json(&Versioned::from(Key { key: key.expose(), id: id.as_str() }))?;
    } else {
        out!("{}", key.expose())?;
        status!(
            "This is key {id}. Whoever has it can open the store: keep it on another disk, mode 600."
        );
    }
    Ok(Exit::Fine)
}

async fn check(config: &Config, state: &State) -> Result<Report, Failure> {
    let store = wiring::store_to_inspect(config, &state.records).await?;
    let mut accounts = Vec::new();
    for account in store.list().await.context("the store cannot be listed")? {
        let state = match kept(&store, &account).await {
            Ok(Some(protection)) => LineState::of(protection, false),
            Ok(None) => continue,
            Err(error) => LineState::Failed { why: format!("{error:#}") },
        };
        accounts.push(Line { account: account.to_string(), state });
    }
    Ok(Report { key: store.key().map(|key| key.to_string()), accounts })
}

/// How a record is kept that can be opened; none if it has gone.
async fn kept(store: &Store, account: &AccountName) -> anyhow::Result<Option<Protection>> {
    store.load(account).await?;
    Ok(store.protection(account).await?)
}

async fn seal(config: &Config, state: &State, which: Which) -> Result<Report, Failure> {
    let store = wiring::store(config, &state.records).await?;
    let Some(key) = store.key() else {
        let why = "there is no key to seal with; make one: (umask 077; set -C; pleo-proxy store key > store-key), and write, \
                   below [store]: key_file = \"store-key\"";
        return Err(Failure::usage(why));
    };
    wiring::refuse_if_not_held(&store, state)?;
    let mut done = BTreeMap::new();
    // An account that is added or renamed meanwhile may be sealed with an older key.
    loop {
        let mut listed = store.list().await.context("the store cannot be listed")?;
        listed.retain(|account| !done.contains_key(account));
        if listed.is_empty() {
            break;
        }
        for account in listed {
            let state = reseal(&store, &account, which).await;
            let failed = |error| Some(LineState::Failed { why: format!("{error:#}") });
            done.insert(account, state.unwrap_or_else(failed));
        }
    }
    store.finish_releases().await;
    let line = |(account, state): (AccountName, Option<LineState>)| {
        Some(Line { account: account.to_string(), state: state? })
    };
    Ok(Report { key: Some(key.to_string()), accounts: done.into_iter().filter_map(line).collect() })
}

/// Moves all records. A proxy that runs on this store would go on with what it has in memory.
async fn migrate(config: &Config, state: &State, to: &Destination) -> Result<Report, Failure> {
    let mut running = run_file::alive(&state.folder).into_iter();
    if let Some(instance) = running.find(|instance| instance.store == state.records) {
        let why = format!("{} runs on this store; stop it, then run this again", instance.named());
        return Err(Failure::usage(why));
    }
    let source = wiring::store(config, &state.records).await?;
    let target =
        wiring::store(&config_of(config, to), &records_of(config, &state.records, to)?).await?;
    if source.describe() == target.describe() {
        return Err(Failure::usage(format!("the records are in {} already", source.describe())));
    }
    let mut accounts = Vec::new();
    for account in source.list().await.context("the store cannot be listed")? {
        let now = Clock::system().now();
        let state = match migrate::move_record(&source, &target, &account, now).await {
            Ok(Moved::Nothing) => continue,
            Ok(moved) => LineState::Moved { changed: moved == Moved::Now },
            Err(error) => LineState::Failed { why: error.to_string() },
        };
        accounts.push(Line { account: account.to_string(), state });
    }
    source.finish_releases().await;
    target.finish_releases().await;
    Ok(Report { key: None, accounts })
}

/// The settings with which the other store is opened.
fn config_of(config: &Config, to: &Destination) -> Config {
    let mut config = config.clone();
    config.store.kind = match to {
        Destination::File(_) => Kind::File,
        #[cfg(feature = "postgres")]
        Destination::Postgres => Kind::Postgres,
    };
    config
}

/// The folder of its records, which is made.
#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "a database has none"))]
fn records_of(config: &Config, of_source: &Path, to: &Destination) -> Result<PathBuf, Failure> {
    match to {
        Destination::File(root) => {
            let folder = root.join(config.environment().as_str());
            folder::make_or_check(&folder).context("the other store")?;
            Ok(folder.canonicalize().context("the other store")?)
        }
        #[cfg(feature = "postgres")]
        Destination::Postgres => Ok(of_source.to_owned()),
    }
}

/// Seals one record under its lock; `None` if it has gone.
async fn reseal(
    store: &Store,
    account: &AccountName,
    which: Which,
) -> anyhow::Result<Option<LineState>> {
    let locked = store.lock(account, LOCK_PATIENCE).await?;
    let Some((record, _)) = store.load(account).await? else { return Ok(None) };
    let kept = store.protection(account).await?;
    if let (Some(kept @ Protection::Sealed(_)), Which::Plain) = (kept, which) {
        return Ok(Some(LineState::of(kept, false)));
    }
    locked.save(&record).await?;
    Ok(store.protection(account).await?.map(|kept| LineState::of(kept, true)))
}

impl LineState {
    fn of(protection: Protection, changed: bool) -> Self {
        match protection {
            Protection::Plain => Self::Plain,
            Protection::Sealed(key) => Self::Sealed { key: key.to_string(), changed },
        }
    }
}

impl Report {
    fn print(self, context: &Context) -> Result<Exit, Failure> {
        let has_failed = |line: &Line| matches!(line.state, LineState::Failed { .. });
        let exit = if self.accounts.iter().any(has_failed) { Exit::Failed } else { Exit::Fine };
        if context.json {
            output::json(&Versioned::from(self))?;
            return Ok(exit);
        }
        if self.accounts.is_empty() {
            status!("There is no record in this store.");
        }
        let width = self.accounts.iter().map(|line| line.account.len()).max().unwrap_or_default();
        for Line { account, state } in &self.accounts {
            let how = match state {
                LineState::Plain => "plain: whoever reads it has its tokens".to_owned(),
                LineState::Sealed { key, changed: true } => format!("sealed now with key {key}"),
                LineState::Sealed { key, changed: false } => format!("sealed with key {key}"),
                LineState::Moved { changed: true } => "moved".to_owned(),
                LineState::Moved { changed: false } => "was moved before".to_owned(),
                LineState::Failed { why } => format!("failed: {why}"),
            };
            out!("{account:width$}  {how}")?;
        }
        if self.key.is_some() && self.accounts.iter().any(|it| matches!(it.state, LineState::Plain))
        {
            status!("Seal what is plain: {} store seal", context.program);
        }
        Ok(exit)
    }
}
