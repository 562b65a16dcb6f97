//! The commands, one file each. A new command is a file, and here a `mod`, a variant with its help
//! text and a line that runs it.

mod accounts;
mod api;
mod capture;
mod completions;
mod config;
mod doctor;
mod exec;
mod har;
mod health;
mod init;
mod launch;
mod login;
mod logout;
mod logs;
mod man;
mod open;
mod refresh;
mod report;
mod revive;
mod sandbox;
mod serve;
mod service;
mod status;
mod stop;
mod store;
mod wait;
mod why;

use std::ffi::OsString;

use clap::Subcommand;

use super::context::Context;
use super::exit::{Exit, Failure};

const SERVE_EXAMPLES: &str = "\
Examples:
  pleo-proxy serve  # the same as: pleo-proxy
  pleo-proxy serve --environment staging --set listen.api=127.0.0.1:9000
  pleo-proxy --config acme.toml --log debug";

#[derive(Debug, Default, Subcommand)]
pub(super) enum Command {
    /// Run the proxy (the default)
    #[default]
    #[command(after_help = SERVE_EXAMPLES)]
    Serve,
    /// Run a program that finds the proxy in $PLEO_BASE_URL, with a listener of its own
    Exec(exec::Exec),
    /// Become the program of an exec
    #[command(hide = true)]
    Launch(launch::Launch),
    /// Wake an exec that was stopped with its program
    #[command(hide = true)]
    Revive(revive::Revive),
    /// Connect an account to Pleo
    Login(login::Login),
    /// Forget an account's tokens
    Logout(logout::Logout),
    /// Show all accounts
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// List accounts, give one another name, or remove one
    #[command(subcommand, after_help = accounts::EXAMPLES)]
    Accounts(accounts::AccountsCommand),
    /// Call Pleo's API through the running proxy
    Api(api::Api),
    /// Refresh an account's token if it is due
    Refresh(refresh::Refresh),
    /// Say whether Pleo would refuse a request, why, and what to do
    Why(why::Why),
    /// Show which scopes and operations the accounts use, and what follows
    Report(report::Report),
    /// Show the latest requests and how they went
    Logs(logs::Logs),
    /// Keep headers and bodies of requests for a while
    Capture(capture::Capture),
    /// Write the latest requests into a file (HAR), without secrets
    Har(har::Har),
    /// Open the page of the running proxy, with a fresh one-time link
    #[command(after_help = open::EXAMPLES)]
    Open,
    /// End the running proxy
    #[command(after_help = stop::EXAMPLES)]
    Stop,
    /// Wait until the proxy runs and can serve an account
    Wait(wait::Wait),
    /// Ask the proxy once whether it is up, for containers
    Health(health::HealthProbe),
    /// Run the fake Pleo alone
    Sandbox(sandbox::SandboxCommand),
    /// Seal the records of the store, and look after the keys
    #[command(subcommand, after_help = store::EXAMPLES)]
    Store(store::StoreCommand),
    /// Run the proxy as a service of systemd
    #[command(subcommand, after_help = service::EXAMPLES)]
    Service(service::ServiceCommand),
    /// Check everything that a request needs, and say what to do
    Doctor(doctor::Doctor),
    /// Check or show the configuration
    #[command(subcommand, after_help = config::EXAMPLES)]
    Config(config::ConfigCommand),
    /// Write a configuration: asks, or takes flags
    Init(init::Init),
    /// Print a script that completes commands and flags in a shell
    Completions(completions::Completions),
    /// Print the manual page, or write one for each command
    Man(man::ManPages),
}

/// The program's arguments in an order that clap reads as the user means them.
pub(super) fn in_order(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    logs::Logs::terms_last(arguments.into_iter().collect())
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Serve => serve::run(context).await,
            Self::Exec(exec) => exec.run(context).await,
            Self::Launch(launch) => Ok(launch.run()),
            Self::Revive(revive) => Ok(revive.run()),
            Self::Login(login) => login.run(context).await,
            Self::Logout(logout) => logout.run(context).await,
            Self::Status => status::run(context).await,
            Self::Accounts(accounts) => accounts.run(context).await,
            Self::Api(api) => api.run(context).await,
            Self::Refresh(refresh) => refresh.run(context).await,
            Self::Why(why) => why.run(context).await,
            Self::Report(report) => report.run(context).await,
            Self::Logs(logs) => logs.run(context).await,
            Self::Capture(capture) => capture.run(context).await,
            Self::Har(har) => har.run(context).await,
            Self::Open => open::run(context).await,
            Self::Stop => stop::run(context).await,
            Self::Wait(wait) => wait.run(context).await,
            Self::Health(health) => health.run(context).await,
            Self::Sandbox(sandbox) => sandbox.run(context).await,
            Self::Store(store) => store.run(context).await,
            Self::Service(service) => service.run(context),
            Self::Doctor(doctor) => doctor.run(context).await,
            Self::Config(config) => config.run(context),
            Self::Init(init) => init.run(context).await,
            Self::Completions(completions) => completions.run(context),
            Self::Man(man) => man.run(context),
        }
    }

    /// True for a command whose only output is one line when it is ready. If it fails before,
    /// it prints nothing: its reader takes the end of stdout as the failure.
    pub(super) fn prints_ready_line(&self) -> bool {
        matches!(self, Self::Serve | Self::Sandbox(_))
    }

    /// True for a command that forwards requests.
    pub(super) fn forwards(&self) -> bool {
        matches!(self, Self::Serve | Self::Exec(_))
    }

    /// True for a command that runs a program of the user's, to which stdout belongs.
    pub(super) fn runs_program(&self) -> bool {
        matches!(self, Self::Exec(_))
    }
}
