//! `login`: in the browser, by pasting the callback address, or by importing a refresh token.

use std::io::{self, IsTerminal as _, stdin};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use jiff::civil::Date;
use tokio::time::sleep;
use url::Url;
use zeroize::Zeroizing;

use crate::admin::protocol::{
    Done, LoginBegun, LoginBody, LoginQuery, LoginState, Outcome, Status, Versioned,
};
use crate::cli::account_argument::AccountArgument;
use crate::cli::admin_client::{AdminClient, CallError};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::while_waiting;
use crate::cli::reread;
use crate::cli::run_file::Liveness;
use crate::cli::signals::Signals;
use crate::cli::state::State;
use crate::cli::{browser, holder, input, locate, open_store, output};
use crate::config::Config;
use crate::login::{ListenerError, LoginError, Logins, PATIENCE};
use crate::nearest::nearest;
use crate::oauth;
use crate::oauth::endpoint::Endpoint;
use crate::operate::{LoginRequest, Operator, Redirect, ReturnsBy};
use crate::secret::RefreshToken;
use crate::server;
use crate::store::AccountName;

/// How often the state of a pending login is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Longest wait for a login: its lifetime, and the exchange of a code that comes at its end.
const MAX_WAIT: Duration = PATIENCE.saturating_add(Duration::from_secs(60));
/// Said while a login waits.
const CANCEL: &str = "Ctrl-C cancels the login";

const EXAMPLES: &str = "\
Examples:
  pleo-proxy login          # the default account, in the browser
  pleo-proxy login acme     # one more company, under this name
  pleo-proxy login --paste  # if the browser is on another machine
  pleo-proxy login --import-refresh-token < refresh-token
  pleo-proxy login --api-key --expires 2027-01-31 < api-key  # a key in place of a login";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Login {
    #[command(flatten)]
    account: AccountArgument,
    /// Print the address instead of opening a browser
    #[arg(long)]
    no_browser: bool,
    /// Read the address that the browser was sent back to from stdin
    #[arg(long)]
    paste: bool,
    /// Move the company here if another account holds it: that one is logged out. With --api-key:
    /// the key takes the place of the account's login
    #[arg(long, conflicts_with = "import_refresh_token")]
    replace: bool,
    /// Read a refresh token of this client from stdin
    #[arg(long, conflicts_with_all = ["paste", "no_browser"])]
    import_refresh_token: bool,
    /// Read an API key of Pleo's from stdin and use it in place of a login
    #[arg(long, conflicts_with_all = ["paste", "no_browser", "import_refresh_token"])]
    api_key: bool,
    /// The last day of the API key, as Pleo shows it; you are warned 14 days ahead
    #[arg(long, value_name = "DATE", requires = "api_key")]
    expires: Option<Date>,
}

impl Login {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let config = context.config()?;
        let name = self.account.name(&config)?;
        let state = State::locate(&config)?;
        match locate::running(&state).await? {
            Some(proxy) => self.through_proxy(&proxy, &name, &config, &context.program).await?,
            None => self.on_store(&config, &state, &name).await?,
        }
        if context.json {
            let done = Done { outcome: Outcome::Connected, account: Some(name.to_string()) };
            output::json(&Versioned::from(done))?;
        } else {
            status!("The account {name} is connected.");
        }
        Ok(Exit::Fine)
    }

    /// Through the running proxy. A login that is cancelled here is cancelled there too.
    async fn through_proxy(
        &self,
        proxy: &AdminClient,
        name: &AccountName,
        config: &Config,
        program: &str,
    ) -> Result<(), Failure> {
        if self.import_refresh_token {
            let refresh_token = Some(read_token()?.trim().to_owned());
            return finish(proxy, name, LoginBody { refresh_token, ..LoginBody::default() }).await;
        }
        if self.api_key {
            let api_key = Some(read_key().await?.to_string());
            let expires_on = self.expires.map(|date| date.to_string());
            let body = LoginBody { api_key, expires_on, ..LoginBody::default() };
            let query = LoginQuery { paste: false, replace: self.replace };
            proxy.post_body::<Done>(&query.target(name), &body).await?;
            return Ok(());
        }
        let mut signals = Signals::new()?;
        let status: Status = proxy.get("/api/status").await?;
        say_if_mistyped(name, status.accounts.iter().map(|account| account.account.as_str()));
        if reread::changed_since_start(config, &status.about).iter().any(|it| it == "client.scopes")
        {
            let restart = reread::restart(program);
            status!(
                "note: the running proxy asks for other client.scopes than the file has now; {restart}"
            );
        }
        let query = LoginQuery { paste: self.paste, replace: self.replace };
        let begun: LoginBegun = proxy.post(&query.target(name)).await?;
        let waiting = async {
            self.present(&Url::parse(&begun.authorize_url)?)?;
            if self.paste {
                let redirected_url =
                    Some(read_address(&begun.redirect_uri).await?.trim().to_owned());
                return finish(proxy, name, LoginBody { redirected_url, ..LoginBody::default() })
                    .await;
            }
            status!(
                "Waiting for the browser at {}, for ten minutes; Ctrl-C ends it ...",
                begun.redirect_uri
            );
            while_waiting(PATIENCE, CANCEL, poll_proxy(proxy, &begun.id)).await
        };
        let ended = tokio::select! {
            ended = waiting => ended,
            () = signals.next() => Err(cancelled()),
        };
        if ended.is_err() {
            // It may have ended already.
            let _ = proxy.delete::<Done>(&format!("/api/logins/{}", begun.id)).await;
        }
        ended
    }

    /// In this process, on the store, while no proxy runs.
    async fn on_store(
        &self,
        config: &Config,
        state: &State,
        name: &AccountName,
    ) -> Result<(), Failure> {
        let operator = open_store::writable(config, state).await?;
        if !self.api_key {
            operator.accounts().oauth().credentials().map_err(Failure::usage)?;
        }
        let done = if self.api_key {
            add_key(&operator, name, &read_key().await?, self.expires, self.replace).await
        } else if self.import_refresh_token {
            import(&operator, name).await
        } else {
            let mut signals = Signals::new()?;
            tokio::select! {
                done = self.log_in(config, &operator, name) => done,
                () = signals.next() => Err(cancelled()),
            }
        };
        // Work in progress is finished and saved before the process ends.
        open_store::close(&operator, name).await?;
        done
    }

    async fn log_in(
        &self,
        config: &Config,
        operator: &Operator,
        account: &AccountName,
    ) -> Result<(), Failure> {
        let known = operator.accounts().all();
        say_if_mistyped(account, known.iter().map(|account| account.name.as_str()));
        let serve = server::callback(&config.server(), &config.guard().map_err(Failure::usage)?);
        let redirect = Redirect::standalone(redirect_uri(config)?, serve);
        let returns_by = if self.paste { ReturnsBy::Paste } else { ReturnsBy::Browser };
        let request = LoginRequest { account, returns_by, replaces: self.replace };
        let begun = match operator.begin_login(request, &redirect).await {
            Err(LoginError::Listener(elsewhere @ ListenerError::Elsewhere(_))) => {
                return Err(Failure::usage(elsewhere));
            }
            Err(LoginError::Listener(ListenerError::Taken(address, error))) => {
                return Err(taken(address, error));
            }
            begun => begun?,
        };
        self.present(&begun.url)?;
        if self.paste {
            let address = read_address(&begun.redirect_uri).await?;
            return Ok(operator.finish_login(account, address.trim()).await?);
        }
        status!(
            "Waiting for the browser at {}, for ten minutes; Ctrl-C ends it ...",
            begun.redirect_uri
        );
        let callback = wait_for_callback(operator.logins(), &begun.id);
        let done = while_waiting(PATIENCE, CANCEL, callback).await;
        redirect.close().await;
        done
    }

    /// Prints the address of the login, and opens a browser unless that is not wanted.
    fn present(&self, url: &Url) -> Result<(), Failure> {
        // Only URLs of a safe scheme are opened: never a file or another program's scheme.
        Endpoint::new(url.clone())
            .map_err(|error| Failure::usage(format!("endpoints.authorize {error}")))?;
        status!("Open this address to log in:\n\n  {url}\n");
        if !self.no_browser && !self.paste && !browser::open(url.as_str()) {
            status!("No browser could be opened; open the address yourself.");
        }
        Ok(())
    }
}

/// The failure to listen where the login comes back to.
fn taken(address: SocketAddr, error: io::Error) -> Failure {
    let Some(pid) = holder::login_at(address) else {
        return ListenerError::Taken(address, error).into();
    };
    let waiting = holder::waiting_login(pid);
    anyhow!("{address}, where the login comes back to, cannot be listened on: {error}; {waiting}, or use --paste")
        .into()
}

fn cancelled() -> Failure {
    anyhow!("the login was cancelled").into()
}

async fn import(operator: &Operator, account: &AccountName) -> Result<(), Failure> {
    Ok(operator.import(account, RefreshToken::new(read_token()?.trim())).await?)
}

async fn add_key(
    operator: &Operator,
    account: &AccountName,
    key: &str,
    expires_on: Option<Date>,
    replaces: bool,
) -> Result<(), Failure> {
    let key = oauth::api_key(key).map_err(Failure::usage)?;
    Ok(operator.add_key(account, key, expires_on, replaces).await?)
}

/// Asks back if the name is new and looks like a mistyped one. The login goes on: it may be meant.
fn say_if_mistyped<'a>(name: &AccountName, known: impl Iterator<Item = &'a str> + Clone) {
    if known.clone().any(|known| known == name.as_str()) {
        return;
    }
    if let Some(meant) = nearest(name.as_str(), known) {
        status!("There is no account {name} yet, so this login adds it. Did you mean {meant}?");
    }
}

/// Finishes a login through the running proxy.
async fn finish(proxy: &AdminClient, name: &AccountName, body: LoginBody) -> Result<(), Failure> {
    proxy.post_body::<Done>(&LoginBody::target(name), &body).await?;
    Ok(())
}

/// Polls the running proxy until a login has ended.
async fn poll_proxy(proxy: &AdminClient, id: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + MAX_WAIT;
    while Instant::now() < deadline {
        sleep(POLL_INTERVAL).await;
        match proxy.get::<LoginState>(&format!("/api/logins/{id}")).await {
            Ok(LoginState::Pending) => {}
            Ok(LoginState::Connected) => return Ok(()),
            Ok(LoginState::Failed { why }) => return Err(anyhow!(why).into()),
            // Busy or paused for a moment: no reason for the user to start the login again.
            Err(CallError::NoResponse(_))
                if proxy.instance.process.liveness() == Liveness::Alive => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(anyhow!("nobody logged in within ten minutes; run the command again").into())
}

/// Waits until the browser has called the temporary listener.
async fn wait_for_callback(logins: &Logins, id: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + MAX_WAIT;
    while Instant::now() < deadline {
        sleep(POLL_INTERVAL).await;
        match logins.outcome(id).await {
            Some(None) => {}
            Some(Some(end)) => return end.map_err(|error| anyhow!("{error}").into()),
            None => break,
        }
    }
    Err(anyhow!("nobody logged in within ten minutes; run the command again").into())
}

/// The configured redirect URI, or the one that the admin listener would have.
pub(super) fn redirect_uri(config: &Config) -> Result<Url, Failure> {
    if let Some(configured) = &config.login.redirect_uri {
        return Ok(configured.clone());
    }
    let admin =
        config.listen.admin.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
    Ok(Url::parse(&format!("http://{admin}/callback"))?)
}

async fn read_address(redirect_uri: &str) -> anyhow::Result<Zeroizing<String>> {
    status!(
        "Log in, then paste the address that the browser was sent to ({redirect_uri}?code=...):"
    );
    input::as_text(&input::line().await?, "address")
}

/// Reads an API key: from a person who sees what is asked for, else from a pipe.
async fn read_key() -> Result<Zeroizing<String>, Failure> {
    let text = if stdin().is_terminal() {
        let person = input::Person::present()?;
        let mut person =
            person.ok_or_else(|| anyhow!("stderr is no terminal; hand in the key on stdin"))?;
        person.hidden("API key, from Pleo (not shown)? ").await?
    } else {
        input::as_text(&input::all("the API key")?, "API key")?
    };
    match oauth::api_key(&text) {
        Ok(_) => Ok(text),
        Err(why) => Err(Failure::usage(format!("the API key {why}"))),
    }
}

fn read_token() -> anyhow::Result<Zeroizing<String>> {
    if stdin().is_terminal() {
        status!("Paste the refresh token, then press Ctrl-D:");
    }
    input::as_text(&input::all("the refresh token")?, "refresh token")
}
