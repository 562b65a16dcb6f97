//! The data listener of a process, with all that stands behind it: opened before the first request,
//! served, and ended in order.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use strum::VariantArray as _;

use super::embedded_sandbox::Addresses;
use super::exit::{Exit, Failure};
use super::run_file::{self, Instance, Process};
use super::state::State;
use super::{embedded_sandbox, holder, wiring};
use crate::accounts::{Accounts, Background};
use crate::clock::Clock;
use crate::config::{Config, Environment};
use crate::log::RequestLog;
use crate::operate::Operator;
use crate::outbound::Outbound;
use crate::proxy::Forwarder;
use crate::proxy::guard::{self, Guard};
use crate::proxy::peer::Peers;
use crate::proxy::replay::ReplayBudget;
use crate::proxy::upstream::Connector;
use crate::sandbox::Sandbox;
use crate::server::{self, Address, Bound, Passed};
use crate::store::AccountName;

/// Everything that is opened before the first request.
pub(super) struct DataListener {
    pub(super) config: Config,
    pub(super) state: State,
    /// Where tools connect.
    pub(super) api: Address,
    /// Where logins and commands connect, if the process has such a listener.
    pub(super) admin: Option<SocketAddr>,
    pub(super) guard: guard::Settings,
    pub(super) peers: Peers,
    pub(super) operator: Operator,
    pub(super) log: Arc<RequestLog>,
    /// The fake Pleo, if this process has started it.
    pub(super) sandbox: Option<Sandbox>,
    /// The program of `exec`, whose requests these are.
    label: Option<String>,
    outbound: Outbound,
    /// Taken when serving begins.
    bound: Option<Bound>,
}

impl DataListener {
    /// Opens everything in these folders. Each step that can fail for a foreseeable reason is here.
    /// `passed` are the sockets of a service manager; `label` names whose requests these are, if
    /// they are one program's.
    pub(super) async fn open(
        mut config: Config,
        state: State,
        program: &str,
        passed: Passed,
        label: Option<String>,
    ) -> Result<Self, Failure> {
        let named = |error| Failure::usage(format!("guard.local_key_file: {error}"));
        let guard = config.guard().map_err(named)?;
        // The ports first: a second process with the same configuration fails here.
        let settings = config.server();
        let bound = server::bind(&settings, passed)
            .map_err(|error| bind_failure(&error, &config, program))?;
        let peers = settings.peers;
        if let Some(listener) = bound.admin.or(bound.api.tcp()) {
            peers.probe(listener);
        }
        let sandbox = if config.embedded_sandbox {
            Some(embedded_sandbox::embed(&mut config).await?)
        } else {
            None
        };
        let outbound = wiring::outbound(&config)?;
        let background = if label.is_none() { Background::Enabled } else { Background::Quiet };
        let accounts = wiring::accounts(&config, &state, &outbound, background).await?;
        guard.local_key.iter().for_each(|key| accounts.known_secrets().learn_lasting(key));
        let log = wiring::request_log(&config, &state, &accounts, label.clone())?;
        let operator = Operator::new(accounts);
        let (api, admin, bound) = (bound.api.clone(), bound.admin, Some(bound));
        Ok(Self {
            config,
            state,
            api,
            admin,
            guard,
            peers,
            operator,
            log,
            sandbox,
            label,
            outbound,
            bound,
        })
    }

    /// Answers requests from here on; those to the admin listener go to `admin`.
    pub(super) fn serve(&mut self, admin: Option<Router>) -> Result<server::Running, Failure> {
        let settings = &self.config.upstream;
        let origin = self.config.oauth.api.clone();
        let guard = Arc::new(Guard::data(&self.guard, self.api.named(), &origin));
        let accounts = self.accounts().clone();
        let connector = Connector::new(origin, &self.outbound, settings, Clock::system())
            .map_err(Failure::usage)?
            .counting(&accounts.metrics().upstream_connections);
        let budget = Arc::new(ReplayBudget::default());
        let program: Arc<str> = self.config.program.as_str().into();
        let forwarder = || {
            Forwarder::new(
                accounts.clone(),
                guard.clone(),
                settings.clone(),
                budget.clone(),
                connector.clone(),
                program.clone(),
            )
        };
        let bound = self.bound.take().context("the listeners are in use already")?;
        let recorders = self.log.recorders();
        let serving = bound.serve(forwarder, admin, recorders, accounts.supervisor());
        Ok(serving.context(
            "no data worker can be started (threads: ulimit -u, TasksMax; files: ulimit -n)",
        )?)
    }

    /// Ends in order: current requests, token requests, the log. Returns the accounts whose newest
    /// tokens could not be saved.
    pub(super) async fn end(&self, mut running: server::Running) -> Vec<AccountName> {
        running.drain().await;
        let unsaved = self.accounts().close().await;
        self.log.close().await;
        running.end().await;
        self.log.usage().save().await;
        unsaved
    }

    /// The accounts.
    pub(super) fn accounts(&self) -> &Arc<Accounts> {
        self.operator.accounts()
    }

    /// What the run file says.
    pub(super) fn instance(&self) -> Instance {
        Instance {
            process: Process::own(),
            environment: self.config.environment().as_str().into(),
            api: self.api.origin(),
            admin: self.admin_origin(),
            store: self.state.records.clone(),
            store_keys: self.accounts().store().keys_held(),
            exec: self.label.clone(),
            account: self.guard.account.as_ref().map(ToString::to_string),
            sandbox: self.sandbox.as_ref().map(Addresses::of),
        }
    }

    /// The address of the admin listener.
    pub(super) fn admin_origin(&self) -> Option<String> {
        self.admin.map(|address| format!("http://{address}"))
    }

    /// The configured default account, else `default`.
    pub(super) fn default_account(&self) -> AccountName {
        self.accounts().settings().default_account.clone().unwrap_or_else(AccountName::fallback)
    }

    /// Connects an account to the sandbox that this process has started, if it has.
    pub(super) async fn connect_sandbox(&self, account: &AccountName) -> Result<(), Failure> {
        if self.sandbox.is_none() {
            return Ok(());
        }
        let logins = self.operator.logins();
        embedded_sandbox::connect(logins, account, &self.redirect_uri()).await
    }

    /// The redirect URI of the embedded sandbox's login. It accepts any loopback address, even if
    /// nothing listens there.
    fn redirect_uri(&self) -> String {
        match &self.config.login.redirect_uri {
            Some(configured) => configured.to_string(),
            None => format!(
                "{}/callback",
                self.admin_origin().unwrap_or_else(|| "http://127.0.0.1".into())
            ),
        }
    }
}

/// Says whose newest tokens are lost with this process.
pub(super) fn report_unsaved(unsaved: &[AccountName]) {
    for account in unsaved {
        status!(
            "pleo-proxy: the newest tokens of account {account} could not be saved; run: pleo-proxy login {account}"
        );
    }
}

/// The failure to listen at an address, naming the proxy that holds it if there is one.
fn bind_failure(error: &server::BindError, config: &Config, program: &str) -> Failure {
    let end = match &error.address {
        Address::Tcp(address) => format!(":{}", address.port()),
        Address::Unix(_) => error.address.origin(),
    };
    let is_there = |origin: &String| origin.ends_with(&end);
    let is_at = |instance: &Instance| {
        is_there(&instance.api) || instance.admin.as_ref().is_some_and(is_there)
    };
    let folders = Environment::VARIANTS
        .iter()
        .copied()
        .filter_map(|environment| config.state_folder_of(environment));
    let holder = folders.flat_map(|folder| run_file::alive(&folder)).find(is_at);
    let is_taken = error.source.kind() == std::io::ErrorKind::AddrInUse;
    let advice = match holder {
        Some(holder)
            if is_taken
                && holder.is_proxy()
                && holder.environment == config.environment().as_str() =>
        {
            format!(
                "pleo-proxy (process {}) is running there; stop it with `{program} stop`",
                holder.process.pid
            )
        }
        Some(holder) if is_taken => {
            let (pid, environment) = (holder.process.pid, holder.environment);
            format!(
                "pleo-proxy (process {pid}, {environment}) is running there; stop it with `kill {pid}`"
            )
        }
        None if is_taken => match error.address.tcp().and_then(holder::login_at) {
            Some(pid) => holder::waiting_login(pid),
            None => "stop the program that listens there".to_owned(),
        },
        _ => {
            return Failure::new(
                Exit::Failed,
                format!("{error}; or choose another address for {}", error.setting),
            );
        }
    };
    Failure::new(
        Exit::Failed,
        format!("{error}; {advice}, or choose another address for {}", error.setting),
    )
}
