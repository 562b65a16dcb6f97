//! `capture`: keeps headers and bodies of the exchanges to come, for a while.

use clap::Args;

use crate::admin::protocol::{CaptureBody, CaptureState, Versioned};
use crate::cli::account_argument::say_if_unknown;
use crate::cli::admin_client::CallError;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{locate, output};
use crate::clock;
use crate::config;
use crate::store::AccountName;

const TARGET: &str = "/api/capture";

const EXAMPLES: &str = "\
Examples:
  pleo-proxy capture --for 10m       # every account, for ten minutes
  pleo-proxy capture --account acme  # one account
  pleo-proxy capture --stop          # end it now";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Capture {
    /// How long, at most 1h
    #[arg(long = "for", value_name = "TIME", default_value = "15m")]
    length: String,
    /// Only requests of this account
    #[arg(long, value_name = "NAME")]
    account: Option<AccountName>,
    /// Stop now
    #[arg(long, conflicts_with_all = ["length", "account", "show"])]
    stop: bool,
    /// Only say whether requests are captured
    #[arg(long, conflicts_with_all = ["length", "account"])]
    show: bool,
}

impl Capture {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let state = State::locate(&context.config()?)?;
        let proxy = locate::required(&state, locate::NO_LOG).await?;
        let captured: CaptureState = if self.show {
            proxy.get(TARGET).await?
        } else if self.stop {
            proxy.delete(TARGET).await?
        } else {
            if let Some(name) = &self.account {
                say_if_unknown(&proxy, name.as_str()).await?;
            }
            proxy.post_body(TARGET, &self.body()?).await.map_err(CallError::of_arguments)?
        };
        say(&captured);
        if context.json {
            output::json(&Versioned::from(captured))?;
        }
        Ok(Exit::Fine)
    }

    fn body(&self) -> Result<CaptureBody, Failure> {
        let length = config::duration(&self.length).ok_or_else(|| {
            Failure::usage(format!("--for {} is no duration; write one such as 15m", self.length))
        })?;
        let account = self.account.as_ref().map(ToString::to_string);
        Ok(CaptureBody { for_s: length.as_secs(), account })
    }
}

fn say(captured: &CaptureState) {
    let CaptureState { until, account, bodies, bytes, .. } = captured;
    let whose = account.as_ref().map(|account| format!(" of account {account}"));
    let whose = whose.unwrap_or_default();
    match until.filter(|_| captured.active) {
        Some(until) => {
            let until = clock::rfc3339(until);
            status!(
                "Headers and bodies of all requests{whose} are kept in memory until {until}; {bodies} bodies so far."
            );
            status!(
                "See them on the page (pleo-proxy open); end it with: pleo-proxy capture --stop"
            );
        }
        None => status!(
            "Nothing is captured now; {bodies} bodies ({bytes} bytes) were, and are kept as long as their requests."
        ),
    }
}
