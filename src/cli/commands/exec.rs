//! `exec`: runs a program with a data listener of its own, on the same store and under the same
//! locks as any proxy.

mod child;
mod environment;
mod preparing;
mod recording;
mod signals;
mod stop;

use std::ffi::OsString;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::Level;

use super::launch::Launch;
use crate::accounts::{Account, DefaultAccount, Lease, PastRefresh, Refusal};
use crate::admin::protocol::account_problem;
use crate::cli::context::Context;
use crate::cli::data_listener::{DataListener, report_unsaved};
use crate::cli::embedded_sandbox::point_at;
use crate::cli::exit::{Exit, Failure};
use crate::cli::run_file::{self, Instance, RunFile};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::config::Config;
use crate::log::filter::Filter;
use crate::secret::{self, LocalKey};
use crate::server::{Address, Passed};
use crate::store::AccountName;
use child::Child;
use preparing::Preparing;
use recording::Recording;
use signals::Signals;

/// Longest wait for the lock of an account that may be renamed at this moment.
const RENAME_PATIENCE: Duration = Duration::from_secs(10);
/// Outcome of a refresh that brought new tokens.
const REFRESHED: &str = "fresh";
/// A wait of this length at the end is worth a line.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// Examples of `--help`.
const EXAMPLES: &str = "Examples:
  pleo-proxy exec -- python3 month-end.py
  pleo-proxy exec --account acme --read-only -- my-coding-agent
  pleo-proxy exec --record run.har -- ./test.sh";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Exec {
    /// Account of all its requests [default: the account of requests that name none]
    #[arg(long, value_name = "NAME")]
    account: Option<AccountName>,
    /// Forward only operations that change nothing
    #[arg(long)]
    read_only: bool,
    /// Write its requests and their responses into a file (HAR), without secrets
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Program and its arguments; it finds the proxy in $PLEO_BASE_URL
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        environment::refuse_nesting()?;
        let recording = self.record.as_deref().map(Recording::begin).transpose()?;
        let mut signals = Signals::new().context("signals cannot be received")?;
        let mut preparing = Preparing::new(&mut signals);
        let mut data = preparing.unless_ended(self.open(context), None).await?;
        let store = data.accounts().store().clone();
        let prepared = preparing.unless_ended(self.prepare(&mut data, context), Some(&store)).await;
        let ended = match prepared {
            Ok(prepared) => self.run_program(&mut data, prepared, context, &mut signals).await,
            Err(failure) => Err(failure),
        };
        let Ended { exit, unsaved } = match ended {
            Ok(ended) => ended,
            Err(failure) => {
                // A token request that was sent ends with its save.
                data.accounts().close().await;
                return Err(failure);
            }
        };
        let recorded = recording.map_or(Ok(()), |recording| recording.write(&data));
        report_unsaved(&unsaved);
        match recorded {
            Err(failure) if exit.code() == 0 => return Err(failure),
            Err(failure) => status!("pleo-proxy: {:#}", failure.error),
            Ok(()) => {}
        }
        Ok(if exit.code() == 0 && !unsaved.is_empty() { Exit::Degraded } else { exit })
    }

    /// Opens a data listener on a free port, beside any proxy that runs.
    async fn open(&self, context: &Context) -> Result<DataListener, Failure> {
        let mut config = context.config()?;
        config.listen.api = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.listen.admin = None;
        if self.record.is_some() {
            Recording::make_room(&mut config);
        }
        let state = folders(&mut config)?;
        let mut data = DataListener::open(
            config,
            state,
            &context.program,
            Passed::default(),
            Some(self.label()),
        )
        .await?;
        data.guard.read_only |= self.read_only;
        if data.guard.local_key.is_some() {
            // The lasting key would be in the environment of all that the program starts.
            let key = secret::random().context("the system gives no random numbers")?;
            let key = LocalKey::new(key.as_str());
            data.accounts().known_secrets().learn_lasting(&key);
            data.guard.local_key = Some(key);
        }
        if let Ok(credentials) = data.accounts().oauth().credentials() {
            data.accounts().known_secrets().learn_lasting(credentials.secret());
        }
        if self.record.is_some() {
            Recording::start(&data);
        }
        Ok(data)
    }

    /// The name of the program, without its folder and its arguments.
    fn label(&self) -> String {
        let program = self.command.first().map(Path::new).and_then(Path::file_name);
        program.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Finds the account, makes sure that it has a token, and binds the listener to it, so that
    /// nobody renames it from here on.
    async fn prepare(
        &self,
        data: &mut DataListener,
        context: &Context,
    ) -> Result<Prepared, Failure> {
        let to_connect = self.account.clone().unwrap_or_else(|| data.default_account());
        data.connect_sandbox(&to_connect).await?;
        let account = self.account(data, &context.program).await?;
        ensure_token(&account, data, &context.program).await?;
        data.guard.account = Some(account.name.clone());
        data.guard.subject = data.accounts().bound_subject(&account.name);
        let run_file = RunFile::write(&data.state.folder, &data.instance())
            .context("the run file cannot be written")?;
        ensure_not_renamed(data, &account.name, &context.program).await?;
        Ok(Prepared { account: account.name.clone(), run_file })
    }

    async fn account(&self, data: &DataListener, program: &str) -> Result<Arc<Account>, Failure> {
        let accounts = data.accounts();
        let login = |name: &AccountName| {
            let why = format!("account {name} is not connected; run: {program} login {name}");
            Failure::new(Exit::LoginRequired, why)
        };
        if let Some(name) = &self.account {
            return accounts.find(name).await.ok_or_else(|| login(name));
        }
        match &*accounts.default_account() {
            DefaultAccount::One(account) => Ok(account.clone()),
            DefaultAccount::None => Err(login(&data.default_account())),
            DefaultAccount::Ambiguous(names) => {
                let names: Vec<_> = names.iter().map(AccountName::as_str).collect();
                let why = format!(
                    "several accounts are connected ({}); choose one with --account",
                    names.join(", ")
                );
                Err(Failure::usage(why))
            }
        }
    }

    /// Serves while the program runs.
    async fn run_program(
        &self,
        data: &mut DataListener,
        Prepared { account, run_file }: Prepared,
        context: &Context,
        signals: &mut Signals,
    ) -> Result<Ended, Failure> {
        let (account, running) = (&account, data.serve(None)?);
        let mut command = Launch::command(&self.command, context.inherited)?;
        let key = data.guard.local_key.as_ref();
        environment::prepare(&mut command, &data.api.origin(), account, key);
        let child = Child::start(&mut command).context("the program cannot be started");
        let exit = match child {
            Ok(child) => Ok(child.wait(signals, data.accounts().store()).await),
            Err(error) => Err(error),
        };
        let unsaved = tokio::select! {
            unsaved = data.end(running) => unsaved,
            () = tell_of_wait(data) => Vec::new(),
            () = signals.another() => {
                status!("pleo-proxy: ended at once; if a refresh was in progress, account {account} may need a login");
                Vec::new()
            }
        };
        drop(run_file);
        let exit = exit?;
        report(data, account, exit.code(), context.json);
        Ok(Ended { exit, unsaved })
    }
}

/// How the program ended, and whose newest tokens are not on disk.
struct Ended {
    exit: Exit,
    unsaved: Vec<AccountName>,
}

/// What is ready for the program.
struct Prepared {
    account: AccountName,
    run_file: RunFile,
}

/// A rename looks for users of the account under its lock. One that had looked before the run file
/// was there is over once the lock is free.
async fn ensure_not_renamed(
    data: &DataListener,
    name: &AccountName,
    program: &str,
) -> Result<(), Failure> {
    let store = data.accounts().store();
    // A key in a file has no record, and no command changes it.
    let has_record = data.accounts().settings().key_file(name).is_none();
    let locked = store.lock(name, RENAME_PATIENCE).await;
    if locked.is_ok() && has_record && matches!(store.load(name).await, Ok(None)) {
        let why = format!(
            "account {name} was renamed or removed meanwhile; see: {program} accounts list"
        );
        return Err(Failure::new(Exit::LoginRequired, why));
    }
    Ok(())
}

/// Says what the end waits for, if it waits for long; never ends.
async fn tell_of_wait(data: &DataListener) {
    sleep(TOLD_AFTER).await;
    let left = data.log.running(&Filter::default()).len();
    if tracing::enabled!(Level::WARN) {
        let what = match left {
            0 => "a token request, or a file that another process has locked".to_owned(),
            1 => "a request that it left behind".to_owned(),
            left => format!("{left} requests that it left behind"),
        };
        status!("pleo-proxy: the program has ended; waiting for {what} (Ctrl-C ends it at once)");
    }
    pending().await
}

/// The folders of the state. The embedded sandbox of a proxy that runs is used, with its accounts;
/// if none runs, this process has one of its own.
fn folders(config: &mut Config) -> Result<State, Failure> {
    let located = if config.embedded_sandbox { State::locate(config).ok() } else { None };
    let Some(located) = located else { return State::create(config) };
    let is_served = |it: &Instance| located.wanted().is_none_or(|records| records == it.store);
    let mut proxies = run_file::proxies(&located.folder).into_iter().filter(is_served);
    let Some((sandbox, store)) = proxies.find_map(|it| Some((it.sandbox?, it.store))) else {
        return State::create(config);
    };
    point_at(config, &sandbox)?;
    config.embedded_sandbox = false;
    Ok(located.with_records(store))
}

/// Makes sure that the program's first request will have a token, or says why not.
async fn ensure_token(
    account: &Arc<Account>,
    data: &DataListener,
    program: &str,
) -> Result<(), Failure> {
    let hold = data.accounts().settings().hold;
    let Err(refusal) = Lease::acquire(account, Instant::now() + hold).await else { return Ok(()) };
    let exit = match refusal {
        Refusal::LoginRequired(_) => Exit::LoginRequired,
        _ => Exit::Degraded,
    };
    let why = account_problem(&account.snapshot().health, &account.name);
    let why = why.unwrap_or_else(|| format!("there was no token within {hold:?}"));
    let (name, why) = (&account.name, with_flags(&why, program));
    Err(Failure::new(exit, format!("account {name} has no token: {why}")))
}

/// The one line at the end. With `--json` on stderr too: stdout is the program's.
fn report(data: &DataListener, account: &AccountName, code: u8, json: bool) {
    let (requests, failed) = data.log.totals();
    let all = data.accounts().refreshes_since(i64::MIN);
    let is_counted = |it: &&PastRefresh| it.account == *account && it.outcome == REFRESHED;
    let refreshes = all.iter().filter(is_counted).count();
    if json {
        let line = json!({
            "version": 1, "outcome": "ended", "exit": code, "account": account.as_str(),
            "requests": requests, "failed": failed, "refreshes": refreshes,
        });
        status!("{line}");
    } else if tracing::enabled!(Level::WARN) {
        let environment = data.config.environment().as_str();
        status!(
            "pleo-proxy: {requests} {} as {account} ({environment}), {failed} failed, {refreshes} {}",
            if requests == 1 { "request" } else { "requests" },
            if refreshes == 1 { "refresh" } else { "refreshes" },
        );
    }
}
