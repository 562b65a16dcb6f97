//! Finds the proxy that runs for this store.

use std::fmt::Display;
use std::net::SocketAddr;

use anyhow::anyhow;

use super::admin_client::{AdminClient, PROOF_TIMEOUT};
use super::exit::{Exit, Failure};
use super::neighbours::{self, Neighbour};
use super::probe;
use super::run_file::{self, Instance, Liveness};
use super::state::State;
use crate::admin::key;
use crate::admin::protocol::Health;
use crate::proxy::peer::Peer;

/// The result of looking for a store's proxy.
pub(super) enum Found {
    /// It runs and responds.
    Running(AdminClient),
    /// It runs with its admin listener off.
    AdminOff(Instance),
    /// Its process runs but does not respond, or does not prove that it knows the key.
    Unresponsive(Instance, anyhow::Error),
    /// It does not run here.
    Nothing,
}

/// Looks for the proxy that serves these records; if they are temporary, for any proxy of the state
/// folder.
pub(super) async fn find(state: &State) -> anyhow::Result<Found> {
    let mut found = Found::Nothing;
    for instance in run_file::proxies(&state.folder) {
        if state.wanted().is_some_and(|records| records != instance.store) {
            continue;
        }
        let Some(origin) = instance.admin.clone() else {
            found = Found::AdminOff(instance);
            continue;
        };
        let client =
            AdminClient::new(instance, origin, key::read(&state.folder.join("admin.key"))?);
        match client.connect().await {
            Ok(_) => return Ok(Found::Running(client)),
            // It has just ended.
            Err(_) if client.instance.process.liveness() == Liveness::Dead => {}
            Err(why) => found = Found::Unresponsive(client.instance, why),
        }
    }
    Ok(found)
}

/// The proxy that runs for this store. `None` if there is none or its admin listener is off: the
/// command then works on the store, under the same locks.
pub(super) async fn running(state: &State) -> Result<Option<AdminClient>, Failure> {
    match find(state).await? {
        Found::Running(client) => Ok(Some(client)),
        Found::AdminOff(_) | Found::Nothing => Ok(None),
        Found::Unresponsive(instance, why) => Err(unresponsive(&instance, &why)),
    }
}

/// Most other processes that a failure names.
const MAX_NAMED: usize = 50;

/// The message of commands about requests if no proxy runs.
pub(super) const NO_LOG: &str = "no pleo-proxy is running for this store, and only a running one knows its requests; start it with: pleo-proxy serve";

/// The proxy that runs for this store, for a command that needs one. `none` is the message if there
/// is none.
pub(super) async fn required(state: &State, none: &str) -> Result<AdminClient, Failure> {
    match find(state).await? {
        Found::Running(client) => Ok(client),
        Found::Unresponsive(instance, why) => Err(unresponsive(&instance, &why)),
        Found::AdminOff(Instance { process, .. }) => {
            let pid = process.pid;
            let off = format!("the admin listener of process {pid} is off (listen.admin)");
            Err(anyhow!("{off}; stop the process with: kill {pid}").into())
        }
        Found::Nothing => Err(not_running(state, none)),
    }
}

/// The process that serves tools for this store. `program` is the command that starts one.
pub(super) async fn serving(state: &State, program: &str) -> Result<Instance, Failure> {
    match find(state).await? {
        Found::Running(client) => Ok(client.instance),
        Found::AdminOff(instance) => Ok(instance),
        Found::Unresponsive(instance, why) => Err(unresponsive(&instance, &why)),
        Found::Nothing => Err(not_running(
            state,
            &format!("no pleo-proxy is running for this store; start it with: {program} serve"),
        )),
    }
}

/// The failure that no proxy runs for this store, with those that a user may have meant: others of
/// this user, or one of another machine.
pub(super) fn not_running(state: &State, none: &str) -> Failure {
    let elsewhere = run_file::elsewhere(&state.folder)
        .into_iter()
        .map(|other| format!("process {} of {} may be one", other.process.pid, other.process.host));
    let here: Vec<_> =
        state.all_folders.iter().flat_map(|folder| run_file::proxies(folder)).collect();
    let is_known = |pid: u32| here.iter().any(|other| other.process.pid == pid);
    let mut neighbours = neighbours::all();
    neighbours.retain(|other| !is_known(other.pid));
    let here = here.iter().map(Instance::named);
    let here = here.chain(neighbours.iter().map(Neighbour::named));
    let here = here.map(|named| format!("{named} runs with other settings"));
    let notes: Vec<_> = elsewhere.chain(here).take(MAX_NAMED).collect();
    let notes = if notes.is_empty() { String::new() } else { format!("; {}", notes.join(", ")) };
    Failure::new(Exit::NotRunning, format!("{none}{notes}"))
}

/// The error for a proxy that runs but cannot be used.
fn unresponsive(instance: &Instance, why: &anyhow::Error) -> Failure {
    let pid = instance.process.pid;
    anyhow!(
        "pleo-proxy (process {pid}) runs but does not respond as it should: {why:#}; {}",
        kill_advice(pid)
    )
    .into()
}

/// What to do about a process that does not respond.
pub(super) fn kill_advice(pid: impl Display) -> String {
    format!("if it hangs, stop it with: kill {pid}")
}

/// Names a pleo-proxy that responds at the configured address but has no run file here: one of
/// another store or another user. No secret is sent to it.
pub(super) async fn other_proxy_at(address: Option<SocketAddr>) -> Option<String> {
    let address = address.filter(|address| address.port() != 0)?;
    let asked = probe::health(&address.to_string(), "/health", PROOF_TIMEOUT).await.ok()?;
    if asked.health != Health::of("ok") {
        return None;
    }
    let whose = match asked.peer {
        Some(Peer::OtherUser(user)) => format!(" of user {user}"),
        _ => String::new(),
    };
    Some(format!("a pleo-proxy{whose} with another store runs at http://{address}"))
}
