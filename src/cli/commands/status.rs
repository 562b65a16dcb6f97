//! `status`: the running proxy of this store, or what the store says when none can be asked.

use std::path::PathBuf;

use serde::Serialize;
use strum::VariantArray as _;

use crate::admin::protocol::{About, AccountStatus, State as AccountState, Status, Versioned};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::locate::{self, Found, way_out};
use crate::cli::run_file::{self, Instance};
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{open_store, output};
use crate::config::{Config, Environment};

/// What the command tells.
#[derive(Serialize)]
struct Report {
    running: bool,
    #[serde(flatten)]
    process: Process,
    accounts: Vec<AccountStatus>,
    /// Proxies of this user that run for other environments or other stores.
    others: Vec<Instance>,
    /// Run files of another machine or container.
    elsewhere: Vec<Instance>,
}

/// The proxy of this store.
#[derive(Serialize)]
#[serde(untagged)]
enum Process {
    /// It was asked.
    Answering {
        ending: bool,
        stopped_tasks: Vec<String>,
        #[serde(flatten)]
        about: About,
    },
    /// It runs and was not asked; so the accounts are those of the store.
    Unasked {
        environment: &'static str,
        pid: u32,
        api: String,
        /// None: it is off.
        admin: Option<String>,
        store: PathBuf,
        #[serde(flatten)]
        silence: Option<Silence>,
    },
    /// It does not run here.
    Absent {
        environment: &'static str,
        /// None where the accounts end with the process.
        store: Option<String>,
        /// Who answers at its address.
        note: Option<String>,
    },
}

/// A process that should answer and does not.
#[derive(Serialize)]
struct Silence {
    /// False.
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
            (Process::Answering { ending, stopped_tasks, about }, accounts)
        }
        Found::AdminOff(instance) => {
            (unasked(&config, instance, None), stored(&config, &state).await?)
        }
        Found::Silent(instance, why) => {
            let silence = Silence { answers: false, why: format!("{why:#}") };
            (unasked(&config, instance, Some(silence)), stored(&config, &state).await?)
        }
        Found::Nothing => {
            let accounts = stored(&config, &state).await?;
            (absent(&config, &state).await, accounts)
        }
    };
    let others = others(&config, &state, process.pid());
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

/// What the store says; nothing is made or changed.
async fn stored(config: &Config, state: &State) -> Result<Vec<AccountStatus>, Failure> {
    if state.is_temporary {
        return Ok(Vec::new());
    }
    let operator = open_store::inspect(config, state).await?;
    Ok(operator.status().into_iter().map(Into::into).collect())
}

fn unasked(config: &Config, instance: Instance, silence: Option<Silence>) -> Process {
    let Instance { process, api, admin, store, .. } = instance;
    Process::Unasked {
        environment: config.environment().as_str(),
        pid: process.pid,
        api,
        admin,
        store,
        silence,
    }
}

async fn absent(config: &Config, state: &State) -> Process {
    let store = (!state.is_temporary).then(|| state.records.display().to_string());
    let note = locate::somebody_at(config.listen.admin).await;
    Process::Absent { environment: config.environment().as_str(), store, note }
}

fn others(config: &Config, state: &State, shown: Option<u32>) -> Vec<Instance> {
    let siblings = Environment::VARIANTS
        .iter()
        .copied()
        .filter_map(|environment| config.state_folder_of(environment));
    let folders = siblings.filter(|folder| *folder != state.folder).chain([state.folder.clone()]);
    let all = folders.flat_map(|folder| run_file::alive(&folder));
    all.filter(|instance| shown != Some(instance.process.pid)).collect()
}

impl Process {
    /// None: it does not run.
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Answering { about, .. } => Some(about.pid),
            Self::Unasked { pid, .. } => Some(*pid),
            Self::Absent { .. } => None,
        }
    }
}

impl Report {
    fn exit(&self) -> Exit {
        let states = || self.accounts.iter().map(|account| &account.state);
        match &self.process {
            Process::Absent { .. } => Exit::NotRunning,
            Process::Unasked { silence: Some(_), .. } => Exit::Failed,
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
        for Instance { process, environment, api, store, .. } in &self.others {
            let (pid, store) = (process.pid, store.display());
            out!("\nalso running ({environment}, process {pid}): tools {api}, store {store}")?;
        }
        Ok(())
    }

    fn print_process(&self) -> Result<(), Failure> {
        match &self.process {
            Process::Answering { about, .. } => print_answering(about),
            Process::Unasked { environment, pid, api, admin, silence, .. } => {
                let running = format!("({environment}, process {pid}): tools {api}, admin");
                let Some(silence) = silence else {
                    return out!("running {running} off; so this is what the store says");
                };
                out!("not answering {running} {}", admin.as_deref().unwrap_or("-"))?;
                out!("{}; {}", silence.why, way_out(pid))
            }
            Process::Absent { environment, store, note } => {
                let store =
                    store.as_ref().map(|store| format!(", store {store}")).unwrap_or_default();
                let here = if self.elsewhere.is_empty() { "" } else { " here" };
                out!("not running{here} ({environment}{store})")?;
                for Instance { process, .. } in &self.elsewhere {
                    out!("note: process {} of {} may be: ask there", process.pid, process.host)?;
                }
                note.iter().try_for_each(|note| out!("note: {note}"))
            }
        }
    }
}

fn print_answering(about: &About) -> Result<(), Failure> {
    let About { pid, environment, api, admin, upstream, notes, .. } = about;
    let admin = admin.as_deref().unwrap_or("-");
    out!("running ({environment}, process {pid}): tools {api}, admin {admin}, Pleo {upstream}")?;
    notes.iter().try_for_each(|note| out!("note: {note}"))
}

fn print_account(account: &AccountStatus, program: &str) -> Result<(), Failure> {
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    out!("\n{}: {}", account.account, account.state)?;
    if let Some(why) = &account.why {
        out!("  {}", with_flags(why, program))?;
    }
    let Some(refreshed_at) = &account.refreshed_at else { return Ok(()) };
    out!("  company     {}", text(&account.subject))?;
    out!("  scopes      {}", account.scope.join(" "))?;
    out!(
        "  token       until {} (generation {})",
        text(&account.access_expires_at),
        account.generation
    )?;
    out!("  refreshed   {refreshed_at}")?;
    out!("  logged in   {}", text(&account.logged_in_at))?;
    if let Some(next) = &account.next_try {
        out!("  next try    {next}")?;
    }
    if account.resends > 0 {
        out!("  re-sends    {}", account.resends)?;
    }
    Ok(())
}
