//! `wait`: until the proxy of this store runs and can serve an account, for scripts that start both.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use super::health;
use crate::accounts::UnknownAccount;
use crate::admin::protocol::{AccountStatus, State as AccountState, Status, beside_name};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::locate::{self, Found};
use crate::cli::outer_exec::OuterExec;
use crate::cli::shell::with_flags;
use crate::cli::state::State;
use crate::cli::{open_store, output};
use crate::config::{self, Config};
use crate::store::AccountName;

/// Pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Examples:
  pleo-proxy wait && curl http://127.0.0.1:8088/v1/companies
  pleo-proxy wait --timeout 2m --account acme";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Wait {
    /// Longest wait, such as 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    timeout: Duration,
    /// Account [default: the one of requests that name none]
    #[arg(long, value_name = "NAME")]
    account: Option<AccountName>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    config::duration(text).ok_or_else(|| match is_number {
        true => format!("the unit is missing; write {text}s for seconds, or {text}m for minutes"),
        false => "write a duration such as 500ms, 30s or 2m".to_owned(),
    })
}

/// What the proxy says of its accounts.
struct Seen {
    api: String,
    default_account: Option<String>,
    accounts: Vec<AccountStatus>,
}

impl Wait {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if let Some(outer) = OuterExec::find()? {
            return self.below(outer, context.json).await;
        }
        let config = context.config()?;
        let began = Instant::now();
        loop {
            let missing = match self.look(&config, &context.program).await {
                Ok((api, account)) => return ready(&api, &account, context.json),
                Err(missing) => missing,
            };
            let left = self.timeout.saturating_sub(began.elapsed());
            if left.is_zero() || missing.exit == Exit::Usage {
                return Err(missing);
            }
            sleep(POLL_INTERVAL.min(left)).await;
        }
    }

    /// Below an `exec`, which has made sure that there is a token.
    async fn below(&self, outer: OuterExec, json: bool) -> Result<Exit, Failure> {
        let account = outer.account.unwrap_or_default();
        if let Some(other) = self.account.as_ref().filter(|other| other.as_str() != account) {
            let why = format!(
                "this runs below exec, whose listener serves account {account} only, not {other}"
            );
            return Err(Failure::usage(why));
        }
        health::is_up(&outer.origin).await?;
        ready(&outer.origin, &account, json)
    }

    /// The address for tools, and the account that can serve; or what is missing.
    async fn look(&self, config: &Config, program: &str) -> Result<(String, String), Failure> {
        let seen = seen(config, program).await?;
        let name = match (&self.account, &seen.default_account) {
            (Some(name), _) => name.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => return Err(no_default(&seen, program)),
        };
        match seen.accounts.iter().find(|account| account.account == name) {
            Some(account) if can_serve(account) => Ok((seen.api, name)),
            Some(account) => Err(unable(account, program)),
            None => Err(unknown(&name, &seen, program)),
        }
    }
}

/// The account may be connected while this waits, so it is no mistake of the arguments.
fn unknown(name: &str, seen: &Seen, program: &str) -> Failure {
    let known = seen.accounts.iter().map(|account| account.account.as_str());
    let unknown = UnknownAccount::beside(name, known);
    let fix = with_flags(&unknown.fix(), program);
    let why = format!("there is no account {name}. {fix}");
    Failure::new(Exit::LoginRequired, why)
}

async fn seen(config: &Config, program: &str) -> Result<Seen, Failure> {
    let state = State::locate(config)?;
    match locate::find(&state).await? {
        Found::Running(proxy) => {
            let Status { default_account, accounts, about, .. } = proxy.get("/api/status").await?;
            Ok(Seen { api: about.api, default_account, accounts })
        }
        Found::AdminOff(_) if state.is_temporary => Err(Failure::new(
            Exit::Degraded,
            "the admin listener is off (listen.admin), and only it knows the accounts of the embedded sandbox",
        )),
        // It cannot be asked, and works with what is stored.
        Found::AdminOff(instance) => {
            let operator = open_store::inspect(config, &state).await?;
            let default_account = operator.default_account().map(|name| name.to_string());
            let accounts = operator.status().into_iter().map(Into::into).collect();
            Ok(Seen { api: instance.api, default_account, accounts })
        }
        Found::Nothing | Found::Unresponsive(..) => {
            // Says what is wrong.
            locate::serving(&state, program).await?;
            Err(Failure::new(Exit::NotRunning, "the proxy is starting or ending"))
        }
    }
}

/// True if requests are served; a proxy of another release may not say so itself.
fn can_serve(account: &AccountStatus) -> bool {
    account.can_serve || account.state == AccountState::Connected
}

fn no_default(seen: &Seen, program: &str) -> Failure {
    let connected: Vec<_> = seen
        .accounts
        .iter()
        .filter(|account| can_serve(account))
        .map(|account| account.account.as_str())
        .collect();
    if connected.is_empty() {
        let why = format!("no account is connected; run: {program} login");
        return Failure::new(Exit::LoginRequired, why);
    }
    let names = connected.join(", ");
    let why = format!(
        "requests must name an account, because several are connected ({names}): wait for one with --account, or set default_account"
    );
    Failure::new(Exit::Degraded, why)
}

fn unable(account: &AccountStatus, program: &str) -> Failure {
    let is_login = account.state == AccountState::LoginRequired;
    let exit = if is_login { Exit::LoginRequired } else { Exit::Degraded };
    let why = account.why.as_deref().map(|why| with_flags(why, program));
    let why = why.unwrap_or_else(|| "no reason is known".to_owned());
    let why = beside_name(&why, &account.account);
    Failure::new(exit, format!("account {} is {}: {why}", account.account, account.state))
}

fn ready(api: &str, account: &str, json: bool) -> Result<Exit, Failure> {
    if json {
        output::json(&json!({"version": 1, "outcome": "ready", "api": api, "account": account}))?;
    } else {
        status!("pleo-proxy is ready: tools {api}, account {account}");
    }
    Ok(Exit::Fine)
}
