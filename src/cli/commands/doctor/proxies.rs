//! Checks of the proxies that run: the one of this store, and others.

use std::path::Path;

use tokio::time::timeout;

use super::bounded::PROXY;
use super::finding::{Check, Finding};
use crate::admin::protocol::{About, Status};
use crate::cli::admin_client::AdminClient;
use crate::cli::locate::{self, Found, kill_advice};
use crate::cli::reread;
use crate::cli::run_file::{self, Instance};
use crate::cli::state::State;
use crate::config::Config;
use crate::diagnostic::{Code, Diagnostic};
use crate::platform::is_on_network;

/// The proxy of this store.
pub(super) enum Running {
    /// It responds.
    Responding(Box<AdminClient>, Box<Status>),
    /// It runs and was not asked.
    NotAsked(Instance),
    /// It does not respond as it should, and why.
    Unresponsive(Instance, String),
    /// It does not run here.
    Absent,
    /// It could not be looked for, and why.
    Unknown(String),
}

impl Running {
    /// Looks for it. The admin key goes only to a listener that has proved to know it.
    pub(super) async fn find(state: &State) -> Self {
        match timeout(PROXY, locate::find(state)).await {
            Ok(Ok(Found::Running(client))) => Self::ask(client).await,
            Ok(Ok(Found::AdminOff(instance))) => Self::NotAsked(instance),
            Ok(Ok(Found::Unresponsive(instance, why))) => {
                Self::Unresponsive(instance, format!("{why:#}"))
            }
            Ok(Ok(Found::Nothing)) => Self::Absent,
            Ok(Err(error)) => Self::Unknown(format!("{error:#}")),
            Err(_) => Self::Unknown("the search for it did not end in time".to_owned()),
        }
    }

    async fn ask(client: AdminClient) -> Self {
        match timeout(PROXY, client.get::<Status>("/api/status")).await {
            Ok(Ok(status)) => Self::Responding(Box::new(client), Box::new(status)),
            Ok(Err(error)) => {
                let why = crate::cli::exit::Failure::from(error).error;
                Self::Unresponsive(client.instance, format!("{why:#}"))
            }
            Err(_) => {
                Self::Unresponsive(client.instance, "its status did not come in time".to_owned())
            }
        }
    }

    /// The client, its status, if it responds.
    pub(super) fn responding(&self) -> Option<(&AdminClient, &Status)> {
        match self {
            Self::Responding(client, status) => Some((client, status)),
            _ => None,
        }
    }

    /// Its run file, if it runs.
    pub(super) fn instance(&self) -> Option<&Instance> {
        match self {
            Self::Responding(client, _) => Some(&client.instance),
            Self::NotAsked(instance) | Self::Unresponsive(instance, _) => Some(instance),
            Self::Absent | Self::Unknown(_) => None,
        }
    }

    /// What it is like.
    pub(super) fn check(&self, config: &Config, program: &str) -> Finding {
        let check = Check::Proxy;
        match self {
            Self::Responding(_, status) => responding(status, config, program),
            Self::NotAsked(instance) => check.skip(format!(
                "process {} runs with listen.admin off, so it was not asked",
                instance.process.pid
            )),
            Self::Unresponsive(instance, why) => {
                let pid = instance.process.pid;
                let title = format!("process {pid} runs and does not respond: {why}");
                check.problem(Diagnostic::error(Code::Unresponsive, title, kill_advice(pid)))
            }
            Self::Absent => check.skip("none runs for this store"),
            Self::Unknown(why) => check
                .problem(Diagnostic::of(Code::Unresponsive, format!("it cannot be asked: {why}"))),
        }
    }
}

fn responding(status: &Status, config: &Config, program: &str) -> Finding {
    let check = Check::Proxy;
    let About { pid, api, admin, upstream, .. } = &status.about;
    let configured = config.oauth.api.to_string();
    if !status.stopped_tasks.is_empty() {
        let tasks = status.stopped_tasks.join(", ");
        let title = format!("background tasks of process {pid} have stopped: {tasks}");
        let fix = "stop the proxy and start it again, and report this with `pleo-proxy doctor --bundle FILE`";
        return check.problem(Diagnostic::warning(Code::StoppedTask, title, fix));
    }
    // The sandbox in the process may have other ports than usual.
    if *upstream != configured && !config.embedded_sandbox {
        let title = format!(
            "process {pid} sends requests to {upstream}, and the configuration says {configured}"
        );
        let fix = "stop the proxy and start it again, so that it reads this configuration";
        return check.problem(Diagnostic::warning(Code::Oddity, title, fix));
    }
    let changed = reread::changed_since_start(config, &status.about);
    if !changed.is_empty() {
        let title = format!(
            "process {pid} was started with other values than the file has now: {}",
            changed.join(", ")
        );
        let fix = reread::restart(program);
        return check.problem(Diagnostic::warning(Code::Outdated, title, fix));
    }
    let admin = admin.as_deref().unwrap_or("-");
    check.pass(format!("process {pid} responds: tools {api}, admin {admin}"))
}

/// All proxies of this user, whatever their environment, without the one with this id. Reads files.
pub(super) fn others(config: &Config, own: Option<u32>) -> Vec<Instance> {
    let folders = run_file::folders(config);
    let all = folders.iter().flat_map(|folder| run_file::alive(folder));
    all.filter(|instance| Some(instance.process.pid) != own).collect()
}

/// Other proxies: those of this user, and those that may run elsewhere on the same folder.
pub(super) fn check_others(folder: &Path, others: &[Instance]) -> Finding {
    let check = Check::OtherProxies;
    let elsewhere = run_file::elsewhere(folder);
    let named: Vec<_> = elsewhere
        .iter()
        .map(|other| format!("process {} of {}", other.process.pid, other.process.host))
        .collect();
    if !named.is_empty() && is_on_network(folder) {
        let named = named.join(", ");
        let title = format!(
            "{named} may use this store too, and {} is on a network file system",
            folder.display()
        );
        let fix = "use the store from one machine only: two that refresh one login at the same time lose it";
        return check.problem(Diagnostic::warning(Code::SecondOwner, title, fix));
    }
    let here = others.iter().map(|other| {
        format!("process {} ({}, tools {})", other.process.pid, other.environment, other.api)
    });
    let all: Vec<_> = here.chain(named.into_iter().map(|it| format!("{it}, perhaps"))).collect();
    if all.is_empty() { check.pass("none is known") } else { check.pass(all.join("; ")) }
}
