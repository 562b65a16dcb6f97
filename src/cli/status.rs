//! `status`, `open` and `stop`: the running proxy of this store, or what the store says when none runs.

use std::fmt::Display;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::account::accounts_to_look_at;
use super::assemble::State;
use super::instance::{self, Instance, Standing};
use super::running::{self, Found, Running};
use super::{Context, Exit, Failure, with_flags};
use crate::config::{Config, Environment, SECRET_VARIABLE};

/// Longest wait for a proxy to end: its drain, and its last token request.
const ENDING: Duration = Duration::from_secs(50);
const LOOK: Duration = Duration::from_millis(50);
/// A launcher of browsers that has not failed by then is at work.
const LAUNCH: Duration = Duration::from_millis(250);

/// `pleo-proxy status`.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let state = State::look(&context.config)?;
    let mut status = match running::find(&state.folder, state.wanted()).await? {
        Found::Running(running) => match running.get("/api/status").await? {
            answer if answer.ok => answer.json,
            refused => return Err(anyhow!("the running proxy tells nothing: {}", refused.detail()).into()),
        },
        Found::Deaf(instance) => seen(stored(context, &state).await?, &instance),
        Found::Silent(instance, why) => {
            let mut status = seen(stored(context, &state).await?, &instance);
            (status["answers"], status["why"]) = (false.into(), format!("{why:#}").into());
            status
        }
        Found::Nothing => {
            let mut status = stored(context, &state).await?;
            status["note"] = running::somebody_at(context.config.listen.admin).await.into();
            status
        }
    };
    status["others"] = json!(others(&context.config, &state, &status["pid"]));
    status["elsewhere"] = json!(instance::elsewhere(&state.folder));
    match context.json {
        true => tell!("{status}")?,
        false => print(context, &status)?,
    }
    Ok(exit(&status))
}

/// What the store says; nothing is made or changed.
async fn stored(context: &Context, state: &State) -> Result<Value, Failure> {
    let accounts = match state.is_temporary || !state.records.exists() {
        true => Vec::new(),
        false => {
            let accounts = accounts_to_look_at(&context.config, state).await?;
            accounts.all().iter().map(|account| account.status()).collect()
        }
    };
    let environment = context.config.environment().as_str();
    let store = (!state.is_temporary).then(|| state.records.display().to_string());
    Ok(json!({"version": 1, "running": false, "environment": environment, "store": store, "accounts": accounts}))
}

/// The same while a process runs that cannot be asked.
fn seen(mut stored: Value, instance: &Instance) -> Value {
    stored["running"] = true.into();
    (stored["pid"], stored["api"]) = (instance.process.pid.into(), instance.api.as_str().into());
    (stored["admin"], stored["store"]) = (json!(instance.admin), json!(instance.store));
    stored
}

/// Proxies of this user that run for other environments or other stores.
fn others(config: &Config, state: &State, shown: &Value) -> Vec<Instance> {
    let siblings = Environment::ALL.into_iter().filter_map(|environment| config.state_folder_of(environment));
    let folders = siblings.filter(|folder| *folder != state.folder).chain([state.folder.clone()]);
    let all = folders.flat_map(|folder| instance::alive(&folder));
    all.filter(|instance| *shown != instance.process.pid).collect()
}

fn exit(status: &Value) -> Exit {
    let states: Vec<_> =
        status["accounts"].as_array().into_iter().flatten().filter_map(|account| account["state"].as_str()).collect();
    match status["running"].as_bool() {
        Some(true) if status["answers"] == false => Exit::Failed,
        Some(true) if states.is_empty() || states.contains(&"login_required") => Exit::LoginRequired,
        Some(true) if states.iter().any(|state| *state != "connected") => Exit::Degraded,
        Some(true) => Exit::Fine,
        _ => Exit::NotRunning,
    }
}

fn print(context: &Context, status: &Value) -> Result<(), Failure> {
    let accounts = status["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    print_process(context, status)?;
    for note in status["notes"].as_array().into_iter().flatten() {
        tell!("note: {}", text(note))?;
    }
    let is_running = status["running"] == true;
    if accounts.is_empty() && (is_running || !context.config.embedded_sandbox) {
        tell!("no account; run: {} login", context.program)?;
    }
    for account in accounts {
        print_account(account, &context.program)?;
    }
    for other in status["others"].as_array().into_iter().flatten() {
        let (environment, pid, api) = (text(&other["environment"]), &other["pid"], text(&other["api"]));
        tell!("\nalso running ({environment}, process {pid}): tools {api}, store {}", text(&other["store"]))?;
    }
    Ok(())
}

fn print_process(context: &Context, status: &Value) -> Result<(), Failure> {
    let (environment, pid, api) = (text(&status["environment"]), &status["pid"], text(&status["api"]));
    if status["running"] != true {
        let store = status["store"].as_str().map(|store| format!(", store {store}")).unwrap_or_default();
        let elsewhere = status["elsewhere"].as_array().into_iter().flatten();
        let here = if elsewhere.clone().next().is_some() { " here" } else { "" };
        tell!("not running{here} ({environment}{store})")?;
        for other in elsewhere {
            tell!("note: process {} of {} may be: ask there", other["pid"], text(&other["host"]))?;
        }
        if let Some(note) = status["note"].as_str() {
            tell!("note: {note}")?;
        }
        if context.config.embedded_sandbox {
            tell!("start it with: {}", context.program)?;
        }
        return Ok(());
    }
    if status["answers"] == false {
        tell!("not answering ({environment}, process {pid}): tools {api}, admin {}", text(&status["admin"]))?;
        return tell!("{}; {}", text(&status["why"]), way_out(pid));
    }
    match status["admin"].as_str() {
        Some(admin) => {
            tell!(
                "running ({environment}, process {pid}): tools {api}, admin {admin}, Pleo {}",
                text(&status["upstream"])
            )
        }
        None => {
            tell!("running ({environment}, process {pid}): tools {api}, admin off; so this is what the store says")
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn way_out(pid: impl Display) -> String {
    format!("if it hangs, end it with: kill {pid}")
}

fn print_account(account: &Value, program: &str) -> Result<(), Failure> {
    let text = |key: &str| text(&account[key]);
    tell!("\n{}: {}", text("account"), text("state"))?;
    if let Some(why) = account["why"].as_str() {
        tell!("  {}", with_flags(why, program))?;
    }
    if account["refreshed_at"].is_null() {
        return Ok(());
    }
    tell!("  company     {}", text("subject"))?;
    let scope: Vec<_> = account["scope"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tell!("  scopes      {}", scope.join(" "))?;
    tell!("  token       until {} (generation {})", text("access_expires_at"), account["generation"])?;
    tell!("  refreshed   {}", text("refreshed_at"))?;
    tell!("  logged in   {}", text("logged_in_at"))?;
    if let Some(next) = account["next_try"].as_str() {
        tell!("  next try    {next}")?;
    }
    if account["resends"].as_u64().unwrap_or(0) > 0 {
        tell!("  re-sends    {}", account["resends"])?;
    }
    Ok(())
}

/// `pleo-proxy open`.
pub(super) async fn open(context: &Context) -> Result<Exit, Failure> {
    let start = format!("no pleo-proxy is running for this store; start it with: {}", context.program);
    let running = the_running(context, &start).await?;
    let answer = running.post("/api/session", None).await?;
    let url = answer.json["url"].as_str().ok_or_else(|| anyhow!("the proxy gave no link: {}", answer.detail()))?;
    match context.json {
        true => tell!("{}", answer.json)?,
        false => tell!("{url}")?,
    }
    if !open_in_browser(url) {
        say!("No browser could be opened; copy the address into one. It works once.");
    }
    Ok(Exit::Fine)
}

/// Opens an address in the person's browser, which lives on and inherits no secret; false if there is none.
pub(super) fn open_in_browser(url: &str) -> bool {
    open::commands(url).iter_mut().any(|launcher| {
        launcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(mut child) = launcher.env_remove(SECRET_VARIABLE).process_group(0).spawn() else { return false };
        let deadline = Instant::now() + LAUNCH;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    })
}

/// `pleo-proxy stop`.
pub(super) async fn stop(context: &Context) -> Result<Exit, Failure> {
    let running = the_running(context, "no pleo-proxy is running for this store").await?;
    let answer = running.post("/api/shutdown", None).await?;
    if !answer.ok {
        return Err(anyhow!("it does not end: {}", answer.detail()).into());
    }
    let process = &running.instance.process;
    let pid = process.pid;
    let deadline = Instant::now() + ENDING;
    while process.standing() == Standing::Alive {
        if Instant::now() >= deadline {
            return Err(anyhow!("process {pid} was told to end and has not yet").into());
        }
        sleep(LOOK).await;
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "stopped", "pid": pid}))?,
        false => say!("Process {pid} has ended."),
    }
    Ok(Exit::Fine)
}

/// The proxy that runs for this store, or why there is none to talk to.
async fn the_running(context: &Context, none: &str) -> Result<Running, Failure> {
    let state = State::look(&context.config)?;
    let pid = match running::find(&state.folder, state.wanted()).await? {
        Found::Running(running) => return Ok(running),
        Found::Silent(instance, why) => return Err(silent(&instance, &why)),
        Found::Deaf(instance) => instance.process.pid,
        Found::Nothing => {
            let elsewhere = instance::elsewhere(&state.folder).into_iter().next();
            let note =
                elsewhere.map(|other| format!(" here; process {} of {} may be", other.process.pid, other.process.host));
            return Err(Failure::new(Exit::NotRunning, format!("{none}{}", note.unwrap_or_default())));
        }
    };
    Err(anyhow!(
        "the admin listener of process {pid} is off (listen.admin), so it cannot be asked; end it with: kill {pid}"
    )
    .into())
}

/// A proxy that runs and does not let itself be talked to.
pub(super) fn silent(instance: &Instance, why: &anyhow::Error) -> Failure {
    let pid = instance.process.pid;
    anyhow!("pleo-proxy (process {pid}) runs and cannot be asked: {why:#}; {}", way_out(pid)).into()
}
