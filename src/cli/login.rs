//! `login`: in the browser, by hand, or with a refresh token that was issued elsewhere.

use std::io::{BufRead as _, IsTerminal as _, Read as _, stdin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::sleep;
use url::Url;
use zeroize::Zeroizing;

use super::account::{account, fine, lasting_accounts, reach};
use super::assemble::State;
use super::instance::Standing;
use super::running::Running;
use super::status::open_in_browser;
use super::{Context, Exit, Failure, Signals};
use crate::config::Config;
use crate::login::{CallbackListener, ListenerError, Logins, PATIENCE};
use crate::oauth::authorize::Callback;
use crate::oauth::endpoint::Endpoint;
use crate::private_file::text;
use crate::secret::RefreshToken;
use crate::server;
use crate::store::AccountName;
use crate::tokens::Accounts;

/// How often a login that happens in the browser is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Longest wait for a login: a person's patience, and the exchange of a code that comes in its last moment.
const LONGEST_WAIT: Duration = PATIENCE.saturating_add(Duration::from_secs(60));
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
    /// Move the company here if another account holds it: that one is logged out
    #[arg(long, conflicts_with = "import_refresh_token")]
    replace: bool,
    /// Read a refresh token of this client from stdin
    #[arg(long, conflicts_with_all = ["paste", "no_browser"])]
    import_refresh_token: bool,
}

/// `pleo-proxy login`.
pub(super) async fn run(context: &Context, login: Login) -> Result<Exit, Failure> {
    let name = account(&context.config, login.account.clone())?;
    let state = State::look(&context.config)?;
    match reach(&state).await? {
        Some(running) => through(&running, &name, &login).await?,
        None => here(&context.config, &state, &name, &login).await?,
    }
    match context.json {
        true => tell!("{}", json!({"version": 1, "outcome": "connected", "account": name.as_str()}))?,
        false => say!("The account {name} is connected."),
    }
    Ok(Exit::Fine)
}

/// Through the running proxy. A login that is broken off here is given back there.
async fn through(running: &Running, name: &AccountName, login: &Login) -> Result<(), Failure> {
    let path = format!("/api/accounts/{name}/login");
    if login.import_refresh_token {
        let token = read_token()?;
        return fine(&running.post(&path, Some(&json!({"refresh_token": token.trim()}))).await?);
    }
    let mut signals = Signals::new()?;
    let begun = running.post(&format!("{path}?paste={}&replace={}", login.paste, login.replace), None).await?;
    fine(&begun)?;
    let answer = |key: &str| begun.json[key].as_str().ok_or_else(|| anyhow!("the proxy named no {key}"));
    let (id, url, redirect_uri) = (answer("id")?, answer("authorize_url")?, answer("redirect_uri")?);
    let waiting = async {
        present(&Url::parse(url)?, login)?;
        if login.paste {
            let address = read_address(redirect_uri).await?;
            return fine(&running.post(&path, Some(&json!({"redirected_url": address.trim()}))).await?);
        }
        say!("Waiting for the login to come back to {redirect_uri} ...");
        until_ended(running, id).await
    };
    let ended = tokio::select! {
        ended = waiting => ended,
        () = signals.next() => Err(anyhow!("the login was broken off").into()),
    };
    if ended.is_err() {
        // Whether or not it is still there to be forgotten.
        let _ = running.delete(&format!("/api/logins/{id}")).await;
    }
    ended
}

/// Asks the running proxy for the end of a login until it is there.
async fn until_ended(running: &Running, id: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + LONGEST_WAIT;
    while Instant::now() < deadline {
        sleep(LOOK).await;
        let answer = match running.get(&format!("/api/logins/{id}")).await {
            Ok(answer) => answer,
            // Busy, or stopped for a moment: the person in the browser need not begin again for that.
            Err(_) if running.instance.process.standing() == Standing::Alive => continue,
            Err(error) => return Err(error.into()),
        };
        match answer.json["state"].as_str() {
            Some("pending") => {}
            Some("connected") => return Ok(()),
            _ => return Err(anyhow!("{}", answer.json["why"].as_str().unwrap_or(answer.detail())).into()),
        }
    }
    Err(anyhow!("nobody logged in within ten minutes; begin again").into())
}

/// In this process, on the store, while no proxy runs.
async fn here(config: &Config, state: &State, name: &AccountName, login: &Login) -> Result<(), Failure> {
    let accounts = lasting_accounts(config, state).await?;
    accounts.oauth().credentials().map_err(Failure::usage)?;
    let done = log_in(config, &accounts, name, login).await;
    // What was begun is ended, and what arrived is saved, before the process goes.
    match accounts.close().await.is_empty() {
        true => done,
        false => Err(Failure::new(Exit::Degraded, format!("the newest tokens of account {name} could not be saved"))),
    }
}

async fn log_in(config: &Config, accounts: &Arc<Accounts>, name: &AccountName, login: &Login) -> Result<(), Failure> {
    let logins = Logins::new(accounts.clone());
    if login.import_refresh_token {
        let token = read_token()?;
        return Ok(logins.import(name, RefreshToken::new(token.trim())).await?);
    }
    let wanted = redirect_uri(config)?;
    let serve = server::beside(&config.server(), &config.guard().map_err(Failure::usage)?);
    let (listener, redirect_uri) = match login.paste {
        true => (None, wanted),
        false => match CallbackListener::open(&wanted, logins.clone(), &serve).await {
            Ok((listener, uri)) => (Some(listener), uri),
            Err(error @ ListenerError::Elsewhere(_)) => return Err(Failure::usage(error)),
            Err(error) => return Err(error.into()),
        },
    };
    let begun = logins.begin(name, redirect_uri.as_str(), login.replace).await?;
    present(&begun.url, login)?;
    if login.paste {
        let address = read_address(redirect_uri.as_str()).await?;
        logins.finish(Callback::from_address(address.trim())?).await?;
        return Ok(());
    }
    say!("Waiting for the login to come back to {redirect_uri} ...");
    let done = until_back(&logins, &begun.id).await;
    if let Some(listener) = listener {
        listener.close().await;
    }
    done
}

/// Waits for the browser to come back to the temporary listener.
async fn until_back(logins: &Logins, id: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + LONGEST_WAIT;
    while Instant::now() < deadline {
        sleep(LOOK).await;
        match logins.outcome(id) {
            Some(None) => {}
            Some(Some(end)) => return end.map_err(|error| anyhow!("{error}").into()),
            None => break,
        }
    }
    Err(anyhow!("nobody logged in within ten minutes; begin again").into())
}

/// The configured redirect URI, or the one that the admin listener would have.
fn redirect_uri(config: &Config) -> Result<Url, Failure> {
    if let Some(configured) = &config.login.redirect_uri {
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

async fn read_address(redirect_uri: &str) -> anyhow::Result<Zeroizing<String>> {
    say!("Then paste the address that the browser was sent to ({redirect_uri}?code=...):");
    let (sender, line) = oneshot::channel();
    // A thread of its own, so that one which waits for a person does not keep the process from ending.
    std::thread::Builder::new().name("paste".into()).spawn(move || {
        let mut line = Zeroizing::new(Vec::new());
        let read = stdin().lock().take(LONGEST_INPUT).read_until(b'\n', &mut line);
        // Nobody waits any more if the command was broken off.
        let _ = sender.send(read.map(|_| line));
    })?;
    let line = line.await.context("stdin")?.context("stdin")?;
    input(&line, "address")
}

fn read_token() -> anyhow::Result<Zeroizing<String>> {
    if stdin().is_terminal() {
        say!("Paste the refresh token, then press Ctrl-D:");
    }
    let mut text = Zeroizing::new(Vec::new());
    stdin().take(LONGEST_INPUT).read_to_end(&mut text).context("the refresh token on stdin")?;
    input(&text, "refresh token")
}

/// What was pasted or piped in, as text.
fn input(bytes: &[u8], what: &str) -> anyhow::Result<Zeroizing<String>> {
    let text = text::decode(bytes).map_err(|error| anyhow!("the {what} on stdin {error}"))?;
    match text.trim() {
        "" => bail!("there is no {what} on stdin; begin again"),
        text => Ok(Zeroizing::new(text.to_owned())),
    }
}
