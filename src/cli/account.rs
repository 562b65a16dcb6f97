//! `login`, `logout` and `refresh`: through the running proxy of this store, or on the store under the same locks.

use std::io::{IsTerminal as _, Read as _, stdin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;
use url::Url;

use super::assemble::{self, State};
use super::instance::{Answer, Running};
use super::status::open_in_browser;
use super::{Context, Exit, Failure};
use crate::config::Config;
use crate::login::{CallbackListener, ListenerError, Logins, PATIENCE};
use crate::oauth::authorize::Callback;
use crate::oauth::endpoint::Endpoint;
use crate::secret::RefreshToken;
use crate::store::AccountName;
use crate::tokens::{Accounts, Care, ChangeError, Health, Reason, Report};

/// How often a login that happens in the browser is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Longest input that is read from stdin, in bytes: a pasted address or a token.
const LONGEST_INPUT: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Login {
    /// Account [default: the configured one, or "default"]
    account: Option<String>,
    /// Print the address instead of opening a browser
    #[arg(long)]
    no_browser: bool,
    /// Read the address that the browser was sent back to from stdin
    #[arg(long)]
    paste: bool,
    /// Read a refresh token of this client from stdin
    #[arg(long, conflicts_with_all = ["paste", "no_browser"])]
    import_refresh_token: bool,
}

/// `pleo-proxy login`.
pub(super) async fn login(context: &Context, login: Login) -> Result<Exit, Failure> {
    let name = account(&context.config, login.account.clone())?;
    let state = State::of(&context.config)?;
    match Running::find(&state.folder, state.wanted()).await? {
        Some(running) => login_through(&running, &name, &login).await?,
        None => login_here(&context.config, &state, &name, &login).await?,
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "connected", "account": name.as_str()})),
        false => say!("The account {name} is connected."),
    }
    Ok(Exit::Fine)
}

async fn login_through(running: &Running, name: &AccountName, login: &Login) -> Result<(), Failure> {
    let path = format!("/api/accounts/{name}/login");
    if login.import_refresh_token {
        let token = read_stdin("refresh token")?;
        return fine(&running.post(&path, Some(&json!({"refresh_token": token.trim()}))).await?);
    }
    let begun = running.post(&format!("{path}?paste={}", login.paste), None).await?;
    fine(&begun)?;
    let url = begun.json["authorize_url"].as_str().ok_or_else(|| anyhow!("the proxy named no address"))?;
    let redirect_uri = begun.json["redirect_uri"].as_str().unwrap_or_default();
    present(&Url::parse(url)?, login)?;
    if login.paste {
        let address = read_address(redirect_uri)?;
        return fine(&running.post(&path, Some(&json!({"redirected_url": address}))).await?);
    }
    say!("Waiting for the login to come back to {redirect_uri} ...");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        sleep(LOOK).await;
        let now = account_in(&running.get("/api/status").await?.json, name);
        if let Some(error) = now["last_login_error"].as_str() {
            return Err(anyhow!("{error}").into());
        }
        if now["last_login"].is_string() {
            return Ok(());
        }
    }
    Err(timed_out())
}

async fn login_here(config: &Config, state: &State, name: &AccountName, login: &Login) -> Result<(), Failure> {
    let accounts = lasting_accounts(config, state).await?;
    accounts.oauth().credentials().map_err(Failure::usage)?;
    let logins = Logins::new(accounts.clone());
    if login.import_refresh_token {
        let token = read_stdin("refresh token")?;
        return Ok(logins.import(name, RefreshToken::new(token.trim())).await?);
    }
    let wanted = redirect_uri(config)?;
    let (listener, redirect_uri) = match login.paste {
        true => (None, wanted),
        false => match CallbackListener::open(&wanted, logins.clone()).await {
            Ok((listener, uri)) => (Some(listener), uri),
            Err(error @ ListenerError::Elsewhere(_)) => return Err(Failure::usage(error)),
            Err(error) => return Err(error.into()),
        },
    };
    let begun = logins.begin(name, redirect_uri.as_str())?;
    present(&begun.url, login)?;
    if login.paste {
        let address = read_address(redirect_uri.as_str())?;
        logins.finish(Callback::from_address(&address)?).await?;
        return Ok(());
    }
    say!("Waiting for the login to come back to {redirect_uri} ...");
    let done = wait(&logins, &begun.id).await;
    if let Some(listener) = listener {
        listener.close().await;
    }
    done
}

/// Waits for the browser to come back to the temporary listener.
async fn wait(logins: &Logins, login: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        sleep(LOOK).await;
        if let Some(Some(end)) = logins.outcome(login) {
            return end.map_err(|error| anyhow!("{error}").into());
        }
    }
    Err(timed_out())
}

/// `pleo-proxy logout`.
pub(super) async fn logout(context: &Context, account_name: Option<String>) -> Result<Exit, Failure> {
    let name = account(&context.config, account_name)?;
    let state = State::of(&context.config)?;
    match Running::find(&state.folder, state.wanted()).await? {
        Some(running) => fine(&running.post(&format!("/api/accounts/{name}/logout"), None).await?)?,
        None => {
            let accounts = lasting_accounts(&context.config, &state).await?;
            match accounts.logout(&name, "it was logged out").await {
                Err(unknown @ ChangeError::Unknown(_)) => return Err(Failure::usage(unknown)),
                done => done?,
            }
        }
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "logged_out", "account": name.as_str()})),
        false => say!("The account {name} is logged out."),
    }
    Ok(Exit::Fine)
}

/// `pleo-proxy refresh`.
pub(super) async fn refresh(context: &Context, account_name: Option<String>, force: bool) -> Result<Exit, Failure> {
    let name = account(&context.config, account_name)?;
    let state = State::of(&context.config)?;
    let answer = match Running::find(&state.folder, state.wanted()).await? {
        Some(running) => {
            let answer = running.post(&format!("/api/accounts/{name}/refresh?force={force}"), None).await?;
            if answer.code() == "account_unknown" {
                return Err(Failure::usage(answer.detail()));
            }
            answer.json
        }
        None => refresh_here(&context.config, &state, &name, force).await?,
    };
    if context.json {
        tell!("{answer}");
    }
    let outcome = answer["outcome"].as_str().unwrap_or("failed");
    let why = answer["account"]["why"].as_str().unwrap_or("it came to nothing");
    match (outcome, answer["account"]["state"].as_str()) {
        ("failed", Some("login_required")) => Err(Failure::new(Exit::LoginRequired, why)),
        ("failed", _) => Err(anyhow!("{why}").into()),
        (outcome, _) => {
            say!("The account {name}: {outcome}.");
            Ok(Exit::Fine)
        }
    }
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

/// The accounts of this store, for one command.
pub(super) async fn accounts(config: &Config, state: &State) -> Result<Arc<Accounts>, Failure> {
    let outbound = assemble::outbound(config)?;
    assemble::accounts(config, state, &outbound, Care::OnDemand).await
}

/// The same, to change them: those of the embedded sandbox end with the process that serves them.
async fn lasting_accounts(config: &Config, state: &State) -> Result<Arc<Accounts>, Failure> {
    if config.endpoints.embedded_sandbox {
        let hint = "the embedded sandbox lives in the running proxy; start `pleo-proxy` first";
        return Err(Failure::new(Exit::NotRunning, hint));
    }
    accounts(config, state).await
}

fn account(config: &Config, named: Option<String>) -> Result<AccountName, Failure> {
    match named.or_else(|| config.default_account.clone()) {
        Some(name) => name.parse().map_err(|error| Failure::usage(format!("{name:?}: {error}"))),
        None => Ok(AccountName::fallback()),
    }
}

/// The configured redirect URI, or the one that the admin listener would have.
fn redirect_uri(config: &Config) -> Result<Url, Failure> {
    if let Some(configured) = &config.client.redirect_uri {
        return Ok(configured.clone());
    }
    let admin = config.listen.admin.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
    Ok(Url::parse(&format!("http://{admin}/callback"))?)
}

/// Shows where to log in, and opens a browser there if that is safe and wanted.
fn present(url: &Url, login: &Login) -> Result<(), Failure> {
    // Only what is fit for secrets is opened: never a file, never another program's scheme.
    Endpoint::new(url.clone()).map_err(|error| Failure::usage(format!("endpoints.authorize {error}")))?;
    say!("Open this address to log in:\n\n  {url}\n");
    if !login.no_browser && !login.paste && !open_in_browser(url.as_str()) {
        say!("No browser could be opened; copy the address into one.");
    }
    Ok(())
}

fn read_address(redirect_uri: &str) -> anyhow::Result<String> {
    say!("Then paste the address that the browser was sent to ({redirect_uri}?code=...):");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("stdin")?;
    match line.trim().is_empty() {
        true => bail!("nothing was pasted; begin again"),
        false => Ok(line),
    }
}

fn read_stdin(what: &str) -> anyhow::Result<zeroize::Zeroizing<String>> {
    if stdin().is_terminal() {
        say!("Paste the {what}, then press Ctrl-D:");
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    stdin().take(LONGEST_INPUT).read_to_string(&mut text).with_context(|| format!("the {what} on stdin"))?;
    match text.trim().is_empty() {
        true => bail!("there is no {what} on stdin"),
        false => Ok(text),
    }
}

fn fine(answer: &Answer) -> Result<(), Failure> {
    match (answer.ok, answer.code()) {
        (true, _) => Ok(()),
        (false, "misconfigured" | "account_unknown") => Err(Failure::usage(answer.detail())),
        (false, _) => Err(anyhow!("{}", answer.detail()).into()),
    }
}

fn account_in(status: &Value, name: &AccountName) -> Value {
    let mut accounts = status["accounts"].as_array().into_iter().flatten();
    accounts.find(|account| account["account"] == name.as_str()).cloned().unwrap_or_default()
}

fn timed_out() -> Failure {
    anyhow!("nobody logged in within ten minutes; begin again").into()
}
