//! `serve`: opens everything, serves, then drains.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use strum::VariantArray as _;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::accounts::{Accounts, Background};
use crate::admin::protocol::{About, account_problem};
use crate::admin::{self, Admin, key};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::run_file::{self, Instance, Process, RunFile};
use crate::cli::shell::{quoted, with_flags};
use crate::cli::signals::Signals;
use crate::cli::state::State;
use crate::cli::{embedded_sandbox, loosened, output, wiring};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic, Environment};
use crate::log::RequestLog;
use crate::log::curl::Target;
use crate::operate::{Operator, Redirect};
use crate::outbound::Outbound;
use crate::proxy::Forwarder;
use crate::proxy::guard::{self, Guard};
use crate::proxy::peer::Peers;
use crate::proxy::replay::ReplayBudget;
use crate::proxy::upstream::Connector;
use crate::sandbox::{COMPANY_ID, Sandbox};
use crate::server::{self, Address, Bound};
use crate::store::AccountName;

/// Everything that is opened before the first request.
struct Opened {
    config: Config,
    state: State,
    outbound: Outbound,
    /// Where tools connect.
    api: Address,
    /// Where logins and commands connect.
    admin: Option<SocketAddr>,
    /// Taken when serving begins.
    listeners: Option<Bound>,
    guard: guard::Settings,
    peers: Peers,
    accounts: Arc<Accounts>,
    operator: Operator,
    log: Arc<RequestLog>,
    keys: Arc<key::Keys>,
    shutdown: CancellationToken,
    sandbox: Option<Sandbox>,
}

/// Runs until a signal or a shutdown request. Every step that can fail for a foreseeable reason
/// comes before the first request.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let (config, program) = (context.config()?, &context.program);
    // Before anything is served, a signal may end the process at any point.
    let mut opened = tokio::select! {
        opened = open(config, program) => opened?,
        () = signals.next() => return Ok(Exit::Fine),
    };
    let mut running = serve(&mut opened)?;
    let instance = opened.instance();
    let run_file = RunFile::write(&opened.state.folder, &instance)
        .context("the run file cannot be written")?;
    if opened.sandbox.is_some() {
        embedded_sandbox::connect(
            opened.operator.logins(),
            &opened.default_account(),
            &opened.redirect_uri(),
        )
        .await?;
    }
    // If the ready line cannot be written, the proxy ends: nobody would know that it runs.
    let announced = opened.announce(&instance, context.json, program);
    tokio::select! {
        () = std::future::ready(()), if announced.is_err() => {}
        () = signals.next() => {}
        () = opened.shutdown.cancelled() => {}
    }
    // `/ready` and `status` report it from here on.
    opened.shutdown.cancel();
    info!("ending: requests in progress get {:?}; a second signal ends at once", server::DRAIN);
    let ending = async {
        running.drain().await;
        let unsaved = opened.accounts.close().await;
        opened.log.close().await;
        running.end().await;
        opened.log.usage().save().await;
        unsaved
    };
    let unsaved = tokio::select! {
        unsaved = ending => unsaved,
        () = signals.another() => {
            status!("pleo-proxy: ended at once; if a refresh was in progress, its account may need a login");
            return Ok(Exit::Failed);
        }
    };
    drop(run_file);
    for account in &unsaved {
        status!(
            "pleo-proxy: the newest tokens of account {account} could not be saved; run: pleo-proxy login {account}"
        );
    }
    announced.map(|()| if unsaved.is_empty() { Exit::Fine } else { Exit::Degraded })
}

async fn open(mut config: Config, program: &str) -> Result<Opened, Failure> {
    let named = |error| Failure::usage(format!("guard.local_key_file: {error}"));
    let guard = config.guard().map_err(named)?;
    let state = State::create(&config)?;
    // The ports first: a second process with the same configuration fails here.
    let settings = config.server();
    let bound = server::bind(&settings).map_err(|error| bind_failure(&error, &config, program))?;
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
    let accounts = wiring::accounts(&config, &state, &outbound, Background::Enabled).await?;
    guard.local_key.iter().for_each(|key| accounts.known_secrets().learn_lasting(key));
    let key = key::load_or_create(&state.folder.join("admin.key"))?;
    let keys = Arc::new(key::Keys::new(key, Clock::system(), accounts.known_secrets().clone()));
    let operator = Operator::new(accounts.clone());
    let shutdown = CancellationToken::new();
    let log = wiring::request_log(&config, &state, &accounts)?;
    let (api, admin) = (bound.api.clone(), bound.admin);
    let listeners = Some(bound);
    Ok(Opened {
        config,
        state,
        outbound,
        api,
        admin,
        listeners,
        guard,
        peers,
        accounts,
        operator,
        log,
        keys,
        shutdown,
        sandbox,
    })
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
        Some(holder) if is_taken && holder.environment == config.environment().as_str() => {
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
        None if is_taken => "stop the program that listens there".to_owned(),
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

fn serve(opened: &mut Opened) -> Result<server::Running, Failure> {
    let settings = &opened.config.upstream;
    let origin = opened.config.oauth.api.clone();
    let data_guard = Arc::new(Guard::data(&opened.guard, opened.api.named(), &origin));
    let connector = Connector::new(origin, &opened.outbound, settings, Clock::system())
        .map_err(Failure::usage)?
        .counting(&opened.accounts.metrics().upstream_connections);
    let budget = Arc::new(ReplayBudget::default());
    let accounts = opened.accounts.clone();
    let forwarder = || {
        let accounts = accounts.clone();
        Forwarder::new(
            accounts,
            data_guard.clone(),
            settings.clone(),
            budget.clone(),
            connector.clone(),
        )
    };
    let admin = opened.admin.map(|_| admin::router(Arc::new(opened.admin())));
    let bound = opened.listeners.take().context("the listeners are in use already")?;
    let recorders = opened.log.recorders();
    let serving = bound.serve(forwarder, admin, recorders, opened.accounts.supervisor());
    Ok(serving.context(
        "no data worker can be started (threads: ulimit -u, TasksMax; files: ulimit -n)",
    )?)
}

impl Opened {
    fn admin(&self) -> Admin {
        let own = self.admin.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let (guard, origin) =
            (Guard::admin(&self.guard, own), self.admin_origin().unwrap_or_default());
        let beside = server::Settings { peers: self.peers.clone(), ..self.config.server() };
        let redirect = Redirect::with_admin(
            self.config.login.redirect_uri.clone(),
            &origin,
            guard.own_origins(),
            server::callback(&beside, &self.guard),
            self.shutdown.clone(),
        );
        Admin {
            operator: self.operator.clone(),
            log: self.log.clone(),
            redirect,
            guard,
            keys: self.keys.clone(),
            shutdown: self.shutdown.clone(),
            origin,
            about: self.about(),
            local_key: self.guard.local_key.clone(),
            tools: Target { origin: self.api.origin(), needs_key: self.guard.local_key.is_some() },
            peers: self.peers.clone(),
            pace: self.config.upstream.pace.map(|pace| pace.0),
        }
    }

    fn about(&self) -> About {
        let instance = self.instance();
        About {
            pid: instance.process.pid,
            environment: self.config.environment().as_str().into(),
            api: instance.api,
            admin: instance.admin,
            store: instance.store.display().to_string(),
            upstream: self.accounts.oauth().settings.api.to_string(),
            notes: loosened::notes(&self.config, &self.guard),
        }
    }

    fn instance(&self) -> Instance {
        Instance {
            process: Process::own(),
            environment: self.config.environment().as_str().into(),
            api: self.api.origin(),
            admin: self.admin_origin(),
            store: self.state.records.clone(),
        }
    }

    fn admin_origin(&self) -> Option<String> {
        self.admin.map(|address| format!("http://{address}"))
    }

    fn default_account(&self) -> AccountName {
        self.accounts.settings().default_account.clone().unwrap_or_else(AccountName::fallback)
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

    /// Prints the ready line, the notes about loosened protection, and the next command.
    fn announce(&self, instance: &Instance, json: bool, program: &str) -> Result<(), Failure> {
        let oddities = config::oddities(&self.config);
        for note in loosened::notes(&self.config, &self.guard)
            .into_iter()
            .chain(oddities.iter().map(Diagnostic::sentence))
        {
            warn!("{note}");
        }
        let credentials = self.accounts.oauth().credentials();
        match &credentials {
            Ok(credentials) => self.accounts.known_secrets().learn_lasting(credentials.secret()),
            Err(error) => warn!("no login and no refresh is possible yet: {error}"),
        }
        let admin = instance.admin.as_deref().unwrap_or("off");
        let link = match (std::io::stderr().is_terminal(), self.keys.issue_link()) {
            (true, Ok(key)) if instance.admin.is_some() => format!("{admin}/#key={}", key.expose()),
            _ => admin.to_owned(),
        };
        let environment = self.config.environment().as_str();
        status!("pleo-proxy is ready ({environment}): tools {}, admin {link}", instance.api);
        if instance.admin.is_some() {
            status!("See its requests in a browser: {program} open");
        }
        if credentials.is_ok() {
            self.report_missing_login(program);
        }
        if let Some(sandbox) = &self.sandbox {
            embedded_sandbox::report_moved_ports(sandbox);
            self.suggest();
        }
        if !json {
            return Ok(());
        }
        let (api, admin) = (&instance.api, &instance.admin);
        output::json(&json!({"version": 1, "event": "ready", "api": api, "admin": admin}))
    }

    /// Says what to do if no account can serve requests.
    fn report_missing_login(&self, program: &str) {
        let accounts = self.accounts.all();
        if accounts.iter().any(|account| account.can_serve()) {
            return;
        }
        let name = self.default_account();
        match accounts
            .iter()
            .find_map(|account| account_problem(&account.snapshot().health, &account.name))
        {
            Some(why) => status!("No account can serve requests: {}", with_flags(&why, program)),
            None => status!("No account is connected yet; run: {program} login {name}"),
        }
    }

    fn suggest(&self) {
        let upstream = &self.accounts.oauth().settings.api;
        let (curl, api) = match &self.api {
            Address::Tcp(address) if address.ip().is_unspecified() => {
                ("curl".to_owned(), format!("http://localhost:{}", address.port()))
            }
            Address::Tcp(_) => ("curl".to_owned(), self.api.origin()),
            Address::Unix(path) => {
                let path = quoted(&path.display().to_string());
                (format!("curl --unix-socket {path}"), "http://localhost".to_owned())
            }
        };
        // The file and not the key: the line ends up in logs and in the shell's history.
        let key = self.config.callers.local_key_file.as_ref();
        let key = key.map(|file| {
            format!(" -H \"Pleo-Proxy-Key: $(cat {})\"", quoted(&file.display().to_string()))
        });
        let key = key.unwrap_or_default();
        let name = self.default_account();
        status!(
            "\nThis is a fake Pleo with made-up data, and the account \"{name}\" is connected to it. Try:\n"
        );
        status!("  {curl} {api}/v1/companies{key}");
        status!(
            "  {curl} -X POST '{api}/v1/accounting-entries:search?company_id={COMPANY_ID}' \
             -H 'content-type: application/json' -d '{{\"includeDeleted\":false}}'{key}"
        );
        if self.api.tcp().is_some() {
            status!("  curl -x {api} {upstream}/v1/introspect{key}");
        }
        status!("");
    }
}
