//! `status`, `open` and `stop`: the running proxy of this store, or what the store says when none runs.

use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::account::accounts;
use super::assemble::State;
use super::instance::{self, Running};
use super::{Context, Exit, Failure};
use crate::config::SECRET_VARIABLE;

/// Longest wait for a proxy to end: its drain, and its last token request.
const ENDING: Duration = Duration::from_secs(50);
const LOOK: Duration = Duration::from_millis(50);
/// A launcher of browsers that has not failed by then is at work.
const LAUNCH: Duration = Duration::from_millis(250);

/// `pleo-proxy status`.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let state = State::of(&context.config)?;
    let status = match Running::find(&state.folder, state.wanted()).await? {
        Some(running) => match running.get("/api/status").await? {
            answer if answer.ok => answer.json,
            refused => return Err(anyhow!("the running proxy tells nothing: {}", refused.detail()).into()),
        },
        None => stored(context, &state).await?,
    };
    match context.json {
        true => tell!("{status}"),
        false => print(&status),
    }
    Ok(exit(&status))
}

async fn stored(context: &Context, state: &State) -> Result<Value, Failure> {
    let accounts = accounts(&context.config, state).await?;
    let accounts: Vec<_> = accounts.all().iter().map(|account| account.status()).collect();
    let environment = context.config.environment.as_str();
    let store = state.records.display().to_string();
    Ok(json!({"version": 1, "running": false, "environment": environment, "store": store, "accounts": accounts}))
}

fn exit(status: &Value) -> Exit {
    let states: Vec<_> =
        status["accounts"].as_array().into_iter().flatten().filter_map(|account| account["state"].as_str()).collect();
    match status["running"].as_bool() {
        Some(true) if states.is_empty() || states.contains(&"login_required") => Exit::LoginRequired,
        Some(true) if states.iter().any(|state| *state != "connected") => Exit::Degraded,
        Some(true) => Exit::Fine,
        _ => Exit::NotRunning,
    }
}

fn print(status: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    match status["running"].as_bool() {
        Some(true) => tell!(
            "running ({}, process {}): tools {}, admin {}, Pleo {}",
            text(&status["environment"]),
            status["pid"],
            text(&status["api"]),
            text(&status["admin"]),
            text(&status["upstream"])
        ),
        _ => tell!("not running ({}, store {})", text(&status["environment"]), text(&status["store"])),
    }
    for note in status["notes"].as_array().into_iter().flatten() {
        tell!("note: {}", text(note));
    }
    let accounts = status["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if accounts.is_empty() {
        tell!("no account; run: pleo-proxy login");
    }
    for account in accounts {
        print_account(account);
    }
}

fn print_account(account: &Value) {
    let text = |key: &str| account[key].as_str().unwrap_or("-").to_owned();
    tell!("\n{}: {}", text("account"), text("state"));
    if let Some(why) = account["why"].as_str() {
        tell!("  {why}");
    }
    if account["refreshed_at"].is_null() {
        return;
    }
    tell!("  company     {}", text("subject"));
    let scope: Vec<_> = account["scope"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tell!("  scopes      {}", scope.join(" "));
    tell!("  token       until {} (generation {})", text("access_expires_at"), account["generation"]);
    tell!("  refreshed   {}", text("refreshed_at"));
    tell!("  logged in   {}", text("logged_in_at"));
    if let Some(next) = account["next_try"].as_str() {
        tell!("  next try    {next}");
    }
    if account["resends"].as_u64().unwrap_or(0) > 0 {
        tell!("  re-sends    {}", account["resends"]);
    }
}

/// `pleo-proxy open`.
pub(super) async fn open(context: &Context) -> Result<Exit, Failure> {
    let running = running(context).await?;
    let answer = running.post("/api/session", None).await?;
    let url = answer.json["url"].as_str().ok_or_else(|| anyhow!("the proxy gave no link: {}", answer.detail()))?;
    match context.json {
        true => tell!("{}", answer.json),
        false => tell!("{url}"),
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
    let running = running(context).await?;
    let answer = running.post("/api/shutdown", None).await?;
    if !answer.ok {
        return Err(anyhow!("it does not end: {}", answer.detail()).into());
    }
    let (state, pid) = (State::of(&context.config)?, running.instance.pid);
    let deadline = Instant::now() + ENDING;
    while instance::all(&state.folder).iter().any(|instance| instance.pid == pid) {
        if Instant::now() >= deadline {
            return Err(anyhow!("process {pid} was told to end and has not yet").into());
        }
        sleep(LOOK).await;
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "stopped", "pid": pid})),
        false => say!("Process {pid} has ended."),
    }
    Ok(Exit::Fine)
}

async fn running(context: &Context) -> Result<Running, Failure> {
    let state = State::of(&context.config)?;
    let none = || Failure::new(Exit::NotRunning, "no pleo-proxy is running for this store; start it with `pleo-proxy`");
    Running::find(&state.folder, state.wanted()).await?.ok_or_else(none)
}
