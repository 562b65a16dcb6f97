//! `logout` and `refresh`, as `login` too: through the running proxy of this store, or on the store under the same locks.

use std::sync::Arc;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::assemble::{self, State};
use super::running::{self, Answer, Found, Running};
use super::status::silent;
use super::{Context, Exit, Failure};
use crate::config::Config;
use crate::store::{AccountName, EndReason};
use crate::tokens::{Accounts, Care, ChangeError, Health, Reason, Report};

/// `pleo-proxy logout`.
pub(super) async fn logout(context: &Context, account_name: Option<String>) -> Result<Exit, Failure> {
    let name = account(&context.config, account_name)?;
    let state = State::look(&context.config)?;
    match reach(&state).await? {
        Some(running) => fine(&running.post(&format!("/api/accounts/{name}/logout"), None).await?)?,
        None => {
            let accounts = lasting_accounts(&context.config, &state).await?;
            match accounts.logout(&name, EndReason::LoggedOut).await {
                Err(unknown @ ChangeError::Unknown(_)) => return Err(Failure::usage(unknown)),
                done => done?,
            }
        }
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "logged_out", "account": name.as_str()}))?,
        false => say!("The account {name} is logged out."),
    }
    Ok(Exit::Fine)
}

/// `pleo-proxy refresh`.
pub(super) async fn refresh(context: &Context, account_name: Option<String>, force: bool) -> Result<Exit, Failure> {
    let name = account(&context.config, account_name)?;
    let state = State::look(&context.config)?;
    let answer = match reach(&state).await? {
        Some(running) => {
            let answer = running.post(&format!("/api/accounts/{name}/refresh?force={force}"), None).await?;
            if answer.code() == "account_unknown" {
                return Err(Failure::usage(answer.detail()));
            }
            answer.json
        }
        None => refresh_here(&context.config, &state, &name, force).await?,
    };
    let outcome = answer["outcome"].as_str().unwrap_or("failed");
    let why = answer["account"]["why"].as_str().unwrap_or("the refresh failed");
    let exit = match (outcome, answer["account"]["state"].as_str()) {
        ("failed", Some("login_required")) => Exit::LoginRequired,
        ("failed", _) => Exit::Failed,
        _ => Exit::Fine,
    };
    match exit {
        Exit::Fine => say!("The account {name}: {outcome}."),
        _ => say!("pleo-proxy: {why}"),
    }
    if context.json {
        tell!("{answer}")?;
    }
    Ok(exit)
}

async fn refresh_here(config: &Config, state: &State, name: &AccountName, force: bool) -> Result<Value, Failure> {
    let accounts = lasting_accounts(config, state).await?;
    let account = accounts.find(name).await.ok_or_else(|| Failure::usage(ChangeError::Unknown(name.clone())))?;
    let outcome = match account.is_well() && !account.is_due() && !force {
        true => "fresh",
        false => match accounts.refresh(&account, Reason::Asked, account.snapshot().generation).await {
            Report::Refreshed => "refreshed",
            Report::Adopted => "adopted",
            Report::Limited | Report::Failed => "failed",
        },
    };
    let unsaved = accounts.close().await;
    let status = account.status();
    match unsaved.is_empty() && !matches!(account.snapshot().health, Health::Unsaved(_)) {
        true => Ok(json!({"version": 1, "outcome": outcome, "account": status})),
        false => Err(Failure::new(Exit::Degraded, format!("the newest tokens of account {name} could not be saved"))),
    }
}

/// The proxy that runs for this store; none if none runs, or if its admin listener is off: then the command works on the
/// store, under the same locks.
pub(super) async fn reach(state: &State) -> Result<Option<Running>, Failure> {
    match running::find(&state.folder, state.wanted()).await? {
        Found::Running(running) => Ok(Some(running)),
        Found::Deaf(_) | Found::Nothing => Ok(None),
        Found::Silent(instance, why) => Err(silent(&instance, &why)),
    }
}

/// The accounts of this store, to be looked at only: no server is talked to.
pub(super) async fn accounts_to_look_at(config: &Config, state: &State) -> Result<Arc<Accounts>, Failure> {
    assemble::accounts(config, state, &assemble::nowhere()?, Care::OnDemand).await
}

/// The accounts of this store, to change them: those of the embedded sandbox end with the process that serves them.
pub(super) async fn lasting_accounts(config: &Config, state: &State) -> Result<Arc<Accounts>, Failure> {
    if config.embedded_sandbox {
        let hint = "the embedded sandbox lives in the running proxy; start `pleo-proxy` first";
        return Err(Failure::new(Exit::NotRunning, hint));
    }
    assemble::accounts(config, state, &assemble::outbound(config)?, Care::OnDemand).await
}

/// The account that is named, or configured, or `default`.
pub(super) fn account(config: &Config, named: Option<String>) -> Result<AccountName, Failure> {
    match named {
        Some(name) => name.parse().map_err(|error| Failure::usage(format!("{name:?}: {error}"))),
        None => Ok(config.tokens.default_account.clone().unwrap_or_else(AccountName::fallback)),
    }
}

/// Whatever the proxy refused, with the exit code that fits.
pub(super) fn fine(answer: &Answer) -> Result<(), Failure> {
    match (answer.ok, answer.code()) {
        (true, _) => Ok(()),
        (false, "misconfigured" | "account_unknown") => Err(Failure::usage(answer.detail())),
        (false, _) => Err(anyhow!("{}", answer.detail()).into()),
    }
}
