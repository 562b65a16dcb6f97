//! `status`: the accounts as the running proxy of this store reports them, else as stored.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::admin::protocol::{
    About, AccountStatus, ApiKeyStatus, State as AccountState, Status, Versioned, beside_name,
};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::locate::{self, Found, kill_advice};
use crate::cli::run_file::{self, Instance};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{open_store, output, probe, wiring};
use crate::config::Config;

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy status
  pleo-proxy status --json
  pleo-proxy status --environment production  # if several are set up";

/// Longest wait for another process to say whether it can serve.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// The output of the command.
#[derive(Serialize)]
struct Report {
    running: bool,
    #[serde(flatten)]
    process: Process,
    accounts: Vec<AccountStatus>,
    /// Proxies of this user that run for other environments or other stores, and each `exec`.
    others: Vec<Other>,
    /// Proxies that may run on another machine or in another container.
    elsewhere: Vec<Instance>,
}

/// The proxy of this store.
#[derive(Serialize)]
#[serde(untagged)]
enum Process {
    /// It responded.
    Responding {
        ending: bool,
        stopped_tasks: Vec<String>,
        #[serde(flatten)]
        about: About,
    },
    /// It runs but was not asked, so the accounts are read from the store.
    NotAsked {
        environment: &'static str,
        pid: u32,
        api: String,
        /// `None` if it is off.
        admin: Option<String>,
        store: PathBuf,
        #[serde(flatten)]
        unresponsive: Option<Unresponsive>,
    },
    /// It does not run here.
    Absent {
        environment: &'static str,
        /// `None` if the accounts exist only in the process.
        store: Option<String>,
        /// Another proxy at its address.
        note: Option<String>,
    },
}

/// Another process of this user.
#[derive(Serialize)]
struct Other {
    #[serde(flatten)]
    instance: Instance,
    /// What it says of its accounts: `ok`, `degraded`, `unavailable` or `ending`; none if it does
    /// not say.
    ready: Option<String>,
}

/// Why a running process was not asked.
#[derive(Serialize)]
struct Unresponsive {
    /// Always false.
    answers: bool,
    why: String,
}

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    let state = State::locate(&config)?;
    let (process, accounts) = match locate::find(&state).await? {
        Found::Running(proxy) => {
            let asked = proxy.get::<Status>("/api/status").await;
            let status =
                asked.map_err(|error| Failure::from(error).context("the status request failed"))?;
            let Status { ending, stopped_tasks, accounts, about, .. } = status;
            (Process::Responding { ending, stopped_tasks, about }, accounts)
        }
        Found::AdminOff(instance) => {
            (not_asked(&config, instance, None), open_store::stored(&config, &state).await?)
        }
        Found::Unresponsive(instance, why) => {
            let why = Unresponsive { answers: false, why: format!("{why:#}") };
            (not_asked(&config, instance, Some(why)), open_store::stored(&config, &state).await?)
        }
        Found::Nothing => {
            let accounts = open_store::stored(&config, &state).await?;
            (absent(&config, &state).await, accounts)
        }
    };
    let others = others(&config, &state, process.pid()).await;
    let elsewhere = run_file::elsewhere(&state.folder);
    let report = Report { running: process.pid().is_some(), process, accounts, others, elsewhere };
    let exit = report.exit();
    if context.json {
        output::json(&Versioned::from(report))?;
    } else {
        report.print(&config, &context.program)?;
    }
    Ok(exit)
}

fn not_asked(config: &Config, instance: Instance, unresponsive: Option<Unresponsive>) -> Process {
    let Instance { process, api, admin, store, .. } = instance;
    Process::NotAsked {
        environment: config.environment().as_str(),
        pid: process.pid,
        api,
        admin,
        store,
        unresponsive,
    }
}

async fn absent(config: &Config, state: &State) -> Process {
    let folder = || (!state.is_temporary).then(|| state.records.display().to_string());
    let store = wiring::database(config).map_or_else(folder, Result::ok);
    let note = locate::other_proxy_at(config.listen.admin).await;
    Process::Absent { environment: config.environment().as_str(), store, note }
}

/// The processes of all environments, also of the stores that no `store.path` names.
async fn others(config: &Config, state: &State, shown: Option<u32>) -> Vec<Other> {
    let folders = run_file::folders(config).into_iter();
    // Proxies before programs with a listener of their own, and those of this store's folder last.
    let (own, mut folders): (Vec<_>, Vec<_>) = folders.partition(|folder| *folder == state.folder);
    folders.extend(own);
    let mut others = Vec::new();
    for instance in folders.iter().flat_map(|folder| run_file::alive(folder)) {
        if shown != Some(instance.process.pid) {
            let ready = ready(&instance).await;
            others.push(Other { instance, ready });
        }
    }
    others.sort_by_key(|other| !other.instance.is_proxy());
    others
}

/// Whether a process can serve requests, as it says itself: it is asked without a key.
async fn ready(instance: &Instance) -> Option<String> {
    let address = instance.admin.as_ref()?.trim_start_matches("http://");
    let asked = probe::health(address, "/ready", READY_TIMEOUT).await;
    asked.ok().map(|answer| answer.health.status)
}

impl Process {
    /// `None` if it does not run.
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Responding { about, .. } => Some(about.pid),
            Self::NotAsked { pid, .. } => Some(*pid),
            Self::Absent { .. } => None,
        }
    }
}

impl Report {
    fn exit(&self) -> Exit {
        let states = || self.accounts.iter().map(|account| &account.state);
        match &self.process {
            Process::Absent { .. } => Exit::NotRunning,
            Process::NotAsked { unresponsive: Some(_), .. } => Exit::Failed,
            _ if states().all(|state| *state != AccountState::LoginRequired)
                && !self.accounts.is_empty() =>
            {
                let is_well = states().all(|state| *state == AccountState::Connected);
                if is_well { Exit::Fine } else { Exit::Degraded }
            }
            _ => Exit::LoginRequired,
        }
    }

    fn print(&self, config: &Config, program: &str) -> Result<(), Failure> {
        self.print_process()?;
        let is_embedded = config.embedded_sandbox;
        if !self.running && is_embedded {
            out!("start it with: {program}")?;
        }
        if self.accounts.is_empty() && (self.running || !is_embedded) {
            out!("no account; run: {program} login")?;
        }
        for account in &self.accounts {
            print_account(account, program)?;
        }
        for Other { instance, ready } in &self.others {
            let Instance { process, environment, api, store, exec, .. } = instance;
            let (pid, store) = (process.pid, store.display());
            let ready = ready.as_ref().map(|ready| format!(" ({ready})")).unwrap_or_default();
            let whose = match exec {
                Some(program) => format!("exec of {program}"),
                None => "tools".to_owned(),
            };
            out!(
                "\nalso running ({environment}, process {pid}): {whose} {api}{ready}, store {store}"
            )?;
        }
        Ok(())
    }

    fn print_process(&self) -> Result<(), Failure> {
        match &self.process {
            Process::Responding { about, .. } => print_answering(about),
            Process::NotAsked { environment, pid, api, admin, unresponsive, .. } => {
                let running = format!("({environment}, process {pid}): tools {api}, admin");
                let Some(unresponsive) = unresponsive else {
                    return out!("running {running} off; the accounts are read from the store");
                };
                out!("not responding {running} {}", admin.as_deref().unwrap_or("-"))?;
                out!("{}; {}", unresponsive.why, kill_advice(pid))
            }
            Process::Absent { environment, store, note } => {
                let store =
                    store.as_ref().map(|store| format!(", store {store}")).unwrap_or_default();
                let here = if self.elsewhere.is_empty() { "" } else { " here" };
                out!("not running{here} ({environment}{store})")?;
                for Instance { process, .. } in &self.elsewhere {
                    out!(
                        "note: process {} of {} may be running: run `pleo-proxy status` there",
                        process.pid,
                        process.host
                    )?;
                }
                note.iter().try_for_each(|note| out!("note: {note}"))
            }
        }
    }
}

fn print_answering(about: &About) -> Result<(), Failure> {
    let About { pid, environment, api, admin, upstream, notes, release, .. } = about;
    let admin = admin.as_deref().unwrap_or("-");
    let release = if release.is_empty() { "" } else { &format!(", version {release}") };
    out!(
        "running ({environment}, process {pid}{release}): tools {api}, admin {admin}, Pleo {upstream}"
    )?;
    if let Some(replica) = &about.replica {
        let store = &about.store;
        out!(
            "accounts in {store}, which replicas share; this one is {replica}, and logs its own requests only"
        )?;
    }
    notes.iter().try_for_each(|note| out!("note: {note}"))
}

fn print_account(account: &AccountStatus, program: &str) -> Result<(), Failure> {
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    let label = account.label.as_ref().map(|label| format!(" ({label})")).unwrap_or_default();
    out!("\n{}{label}: {}", account.account, account.state)?;
    if let Some(why) = &account.why {
        out!("  {}", with_flags(beside_name(why, &account.account), program))?;
    }
    if let Some(warning) = &account.warning {
        out!("  {}", with_flags(warning, program))?;
    }
    if account.refreshed_at.is_none() && account.api_key.is_none() {
        return Ok(());
    }
    match &account.company {
        Some(name) => out!("  company     {name} ({})", text(&account.subject))?,
        None => out!("  company     {}", text(&account.subject))?,
    }
    out!("  scopes      {}", account.scope.join(" "))?;
    if let Some(key) = &account.api_key {
        return print_api_key(account, key);
    }
    let past = if account.access_expires_in == Some(0) { ", expired" } else { "" };
    out!(
        "  token       until {}{past} (generation {})",
        text(&account.access_expires_at),
        account.generation
    )?;
    out!("  refreshed   {}", text(&account.refreshed_at))?;
    out!("  logged in   {}", text(&account.logged_in_at))?;
    print_next_try(account)?;
    if account.resends > 0 {
        out!("  re-sends    {}", account.resends)?;
    }
    Ok(())
}

fn print_api_key(account: &AccountStatus, key: &ApiKeyStatus) -> Result<(), Failure> {
    out!("  API key     {}, added {}", key.masked, key.added_at)?;
    let expires = key.expires_on.as_deref();
    out!(
        "  expires     {}",
        expires.unwrap_or("not known; say so with --expires at the next one")
    )?;
    print_next_try(account)
}

fn print_next_try(account: &AccountStatus) -> Result<(), Failure> {
    account.next_try.iter().try_for_each(|next| out!("  next try    {next}"))
}
