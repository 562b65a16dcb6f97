//! `doctor`: checks of everything that a request needs, each with what to do about it. Changes
//! nothing, asks for no token, and waits for nothing longer than a few seconds.

mod account;
mod accounts;
mod bounded;
mod bundle;
mod clock;
#[cfg(feature = "postgres")]
mod database;
mod finding;
mod grants;
mod locks;
mod network;
mod ports;
mod proxies;
mod settings;
mod store;
mod system;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::accounts::UnknownAccount;
use crate::admin::key;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::cli::state::State;
use crate::cli::wiring;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::diagnostic::{Code, Diagnostic};
use crate::outbound::{Outbound, OutboundError};
use crate::redaction::Redactor;
use accounts::Known;
use bounded::on_thread;
use bundle::Bundle;
use finding::{Check, Counts, Finding, worst};
use network::Told;
use proxies::Running;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy doctor
  pleo-proxy doctor --account acme --json
  pleo-proxy doctor --bundle report.txt   # without secrets, to pass on";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    /// Check only this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Write everything into a file to pass on, without secrets; it must not exist yet
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Replace that file if it exists
    #[arg(long, requires = "bundle")]
    force: bool,
}

/// What was examined.
struct Examined {
    findings: Vec<Finding>,
    config: Option<Config>,
    running: Running,
    known: Known,
}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        if let Some(file) = self.bundle.as_ref().filter(|file| !self.force && file.exists()) {
            return Err(bundle::exists(file));
        }
        let examined = self.examine(context).await?;
        if let Some(file) = &self.bundle {
            examined.bundle().await.write(file, self.force, &examined.redactor())?;
        }
        let exit = worst(&examined.findings);
        if context.json {
            output::json(&examined.json(exit, self.bundle.as_deref()))?;
        } else {
            out!("{}", examined.text())?;
        }
        if let Some(file) = &self.bundle {
            let file = file.display();
            status!(
                "{file} was written, which only you can read. Look at it before you pass it on."
            );
        }
        Ok(exit)
    }

    async fn examine(&self, context: &Context) -> Result<Examined, Failure> {
        let config = match context.load() {
            Ok(config) => config,
            Err(error) => return Ok(Examined::without_config(settings::unusable(&error))),
        };
        let (trusted, outbound) = way_out(&config).await;
        // The servers have their time while files are read and the proxy is asked.
        let network = outbound.clone().map(|it| tokio::spawn(network::checks(config.clone(), it)));
        #[cfg(feature = "postgres")]
        let database = database::Asked::begin(&config, &context.program);
        let mut findings = files(&config).await;
        let (running, mut known) = locally(&config, &mut findings, &context.program).await;
        #[cfg(feature = "postgres")]
        if let Some(database) = database {
            let own = running.instance().map(|instance| instance.process.replica());
            findings.extend(database.findings(own.as_deref()).await);
        }
        findings.append(&mut known.findings);
        self.choose(&mut known)?;
        findings.extend(about_accounts(&config, &known, &context.program));
        let asked = async {
            let (Some(outbound), Some(store)) = (&outbound, &known.store) else {
                return Vec::new();
            };
            grants::checks(&config, outbound, store, &known.accounts, &context.program).await
        };
        findings.extend(asked.await);
        findings.push(trusted);
        if let Some(network) = network {
            match network.await {
                Ok(Told { findings: told, readings }) => {
                    findings.extend(told);
                    findings.push(clock::check(&readings));
                }
                Err(error) => findings.push(Check::Tcp.skip(format!("a bug: {error}"))),
            }
        }
        Ok(Examined { findings, config: Some(config), running, known })
    }

    /// Leaves the account that was asked for.
    fn choose(&self, known: &mut Known) -> Result<(), Failure> {
        let Some(name) = &self.account else { return Ok(()) };
        let names = known.accounts.iter().map(|account| account.name.as_str());
        let unknown = UnknownAccount::beside(name, names);
        known.accounts.retain(|account| account.name == *name);
        if known.accounts.is_empty() { Err(Failure::usage(unknown)) } else { Ok(()) }
    }
}

/// The checks of configuration and machine.
async fn files(config: &Config) -> Vec<Finding> {
    let shared = config.clone();
    let work = move || [settings::checks(&shared), system::checks(&shared)].concat();
    on_thread(work).await.unwrap_or_else(|| vec![hangs(Check::Configuration)])
}

/// A disk does not answer.
fn hangs(check: Check) -> Finding {
    let title = "files could not be read in time: the disk they are on does not answer";
    let fix = "move the configuration, the secret and the store to a local disk";
    check.problem(Diagnostic::error(Code::Hangs, title, fix))
}

/// The checks of the store, its proxy and the addresses; the proxy, and what is known of the
/// accounts.
async fn locally(config: &Config, findings: &mut Vec<Finding>, program: &str) -> (Running, Known) {
    let state = match State::locate(config) {
        Ok(state) => Arc::new(state),
        Err(failure) => {
            findings.push(store::unusable(&failure.error));
            return (Running::Absent, Known::nothing(None));
        }
    };
    let running = Running::find(&state).await;
    findings.push(running.check(config, program));
    findings.extend(on_store(config, &state, &running).await);
    let known = Known::gather(config, &state, &running).await;
    (running, known)
}

/// The checks of the store's folder, its locks, other proxies and the addresses.
async fn on_store(config: &Config, state: &Arc<State>, running: &Running) -> Vec<Finding> {
    let own = running.instance().cloned();
    let pid = own.as_ref().map(|instance| instance.process.pid);
    let (shared, state) = (config.clone(), state.clone());
    let looked = on_thread(move || {
        let others = proxies::others(&shared, pid);
        let records = own.as_ref().map_or(&state.records, |instance| &instance.store);
        let mut findings = store::checks(&shared, &state);
        // In a database they are claims, which it is asked about.
        if wiring::database(&shared).is_none() {
            findings.extend(locks::checks(records, pid));
        }
        findings.push(proxies::check_others(&state.folder, &others));
        let same_store = others.iter().filter(|other| other.store == *records).cloned();
        let own: Vec<_> = own.clone().into_iter().chain(same_store).collect();
        findings.extend(ports::checks(&shared, &own, &others));
        findings
    });
    looked.await.unwrap_or_else(|| vec![hangs(Check::Store)])
}

/// The checks of the accounts that ask no server.
fn about_accounts(config: &Config, known: &Known, program: &str) -> Vec<Finding> {
    let now = Clock::system().now().wall;
    let of_each = known.accounts.iter().flat_map(|account| account.checks(now, program));
    let mut findings: Vec<_> = of_each.collect();
    findings.extend(account::shared_companies(&known.accounts, program));
    if known.accounts.is_empty() && known.store.is_some() && !config.embedded_sandbox {
        let fix = format!("run: {program} login");
        let problem = Diagnostic::error(Code::LoginRequired, "no account is connected", fix);
        findings.push(Check::Account.problem(problem));
    }
    findings
}

/// What leads to the servers; none if nothing does, or nothing has to.
async fn way_out(config: &Config) -> (Finding, Option<Outbound>) {
    let settings = config.outbound();
    if config.embedded_sandbox {
        return (Check::TrustRoots.skip("the embedded sandbox needs no network"), None);
    }
    let trusted = if settings.plain_only {
        Check::TrustRoots.skip("no endpoint uses TLS")
    } else {
        let extra =
            settings.ca_file.as_ref().map(|file| format!(", and those of {}", file.display()));
        Check::TrustRoots.pass(format!("the system's{}", extra.unwrap_or_default()))
    };
    match on_thread(move || Outbound::new(&settings)).await {
        Some(Ok(outbound)) => (trusted, Some(outbound)),
        Some(Err(error)) => {
            let is_proxy = matches!(error, OutboundError::Proxy { .. });
            let check = if is_proxy { Check::OutboundProxy } else { Check::TrustRoots };
            (check.problem(Diagnostic::of(Code::Outbound, error)), None)
        }
        None => (hangs(Check::TrustRoots), None),
    }
}

impl Examined {
    fn without_config(findings: Vec<Finding>) -> Self {
        Self { findings, config: None, running: Running::Absent, known: Known::nothing(None) }
    }

    fn text(&self) -> String {
        let lines: Vec<_> = self.findings.iter().map(Finding::text).collect();
        format!("{}\n\n{}", lines.join("\n"), Counts::of(&self.findings).text())
    }

    fn json(&self, exit: Exit, bundle: Option<&Path>) -> Value {
        let outcome = match exit {
            Exit::Fine => "fine",
            Exit::Degraded => "degraded",
            _ => "failed",
        };
        let checks: Vec<_> = self.findings.iter().map(Finding::json).collect();
        let bundle = bundle.map(|file| file.display().to_string());
        json!({
            "version": 1, "outcome": outcome, "exit": exit.code(), "counts": Counts::of(&self.findings),
            "checks": checks, "bundle": bundle,
        })
    }

    async fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::new();
        bundle.section("checks", &self.text());
        if let Some(config) = &self.config {
            bundle.section("configuration", &config::show(config));
        }
        match self.running.responding() {
            Some((client, status)) => {
                bundle.json("status", status);
                bundle.ask(client).await;
            }
            None => {
                let accounts = &self.known.accounts;
                let status: Vec<_> = accounts.iter().filter_map(|it| it.status.as_ref()).collect();
                let report: Vec<_> = accounts.iter().filter_map(|it| it.report.as_ref()).collect();
                bundle.json("status (no proxy responds; as stored)", &status);
                bundle.json("report", &report);
            }
        }
        bundle
    }

    /// Knows the secrets of this configuration and its store.
    fn redactor(&self) -> Redactor {
        let secrets = &self.known.secrets;
        if let Some(config) = &self.config {
            if let Ok(secret) = config.oauth.client_secret.read() {
                secrets.learn_lasting(&secret);
            }
            if let Some(key) = config.guard().ok().and_then(|guard| guard.local_key) {
                secrets.learn_lasting(&key);
            }
            let folder = config.state_folder();
            if let Some(key) = folder.and_then(|it| key::read(&it.join("admin.key")).ok()) {
                secrets.learn_lasting(&key);
            }
        }
        Redactor::new(secrets.clone())
    }
}
