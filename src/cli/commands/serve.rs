//! `serve`: opens everything, serves, then drains.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::protocol::{About, account_problem};
use crate::admin::{self, Admin, key};
use crate::cli::context::Context;
use crate::cli::data_listener::{DataListener, report_unsaved};
use crate::cli::exit::{Exit, Failure};
use crate::cli::run_file::{self, Instance, RunFile};
use crate::cli::service_manager::ServiceManager;
use crate::cli::shell::{quoted, with_flags};
use crate::cli::signals::Signals;
use crate::cli::state::State;
use crate::cli::{embedded_sandbox, loosened, output, wiring};
use crate::clock::Clock;
use crate::config::{self, Config, Diagnostic};
use crate::log::RequestLog;
use crate::log::curl::Target;
use crate::operate::Redirect;
use crate::proxy::guard::Guard;
use crate::sandbox::COMPANY_ID;
use crate::server::{self, Address, Passed};

/// The data listener, and what the admin listener needs besides.
struct Opened {
    data: DataListener,
    keys: Arc<key::Keys>,
    shutdown: CancellationToken,
    /// The settings before those of an embedded sandbox come in.
    settings: BTreeMap<String, String>,
}

/// Runs until a signal or a shutdown request. Every step that can fail for a foreseeable reason
/// comes before the first request.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut signals = Signals::new()?;
    let manager = Arc::new(ServiceManager::find());
    let (config, program) = (context.config()?, &context.program);
    // Before anything is served, a signal may end the process at any point.
    let mut opened = tokio::select! {
        opened = open(config, program, context.take_sockets()) => opened?,
        () = signals.next() => return Ok(Exit::Fine),
    };
    reopen_on_hangup(opened.data.log.clone())?;
    let router = opened.data.admin.map(|_| admin::router(Arc::new(opened.admin())));
    let running = opened.data.serve(router)?;
    let instance = opened.data.instance();
    let run_file = RunFile::write(&opened.data.state.folder, &instance)
        .context("the run file cannot be written")?;
    opened.data.connect_sandbox(&opened.data.default_account()).await?;
    let hooks = wiring::hooks(&opened.data.config, opened.data.accounts());
    // If the ready line cannot be written, the proxy ends: nobody would know that it runs.
    let announced = opened.announce(&instance, context.json, program);
    if announced.is_ok() {
        manager.serves(opened.data.accounts());
    }
    tokio::select! {
        () = std::future::ready(()), if announced.is_err() => {}
        () = signals.next() => {}
        () = opened.shutdown.cancelled() => {}
    }
    // `/ready` and `status` report it from here on.
    opened.shutdown.cancel();
    manager.stopping();
    info!("ending: requests in progress get {:?}; a second signal ends at once", server::DRAIN);
    let ending = async {
        let unsaved = opened.data.end(running).await;
        if let Some(hooks) = hooks {
            hooks.close().await;
        }
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
    report_unsaved(&unsaved);
    announced.map(|()| if unsaved.is_empty() { Exit::Fine } else { Exit::Degraded })
}

async fn open(config: Config, program: &str, passed: Passed) -> Result<Opened, Failure> {
    let settings = config::of_file(&config);
    let state = State::create(&config)?;
    let data = DataListener::open(config, state, program, passed, None).await?;
    let key = key::load_or_create(&data.state.folder.join("admin.key"))?;
    let known = data.accounts().known_secrets().clone();
    let keys = Arc::new(key::Keys::new(key, Clock::system(), known));
    Ok(Opened { data, keys, shutdown: CancellationToken::new(), settings })
}

/// Opens the file of `log.requests` again after each SIGHUP: it may have been moved away.
fn reopen_on_hangup(log: Arc<RequestLog>) -> Result<(), Failure> {
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP cannot be received")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            log.reopen_file();
        }
    });
    Ok(())
}

impl Opened {
    fn admin(&self) -> Admin {
        let data = &self.data;
        let own = data.admin.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let (guard, origin) =
            (Guard::admin(&data.guard, own), data.admin_origin().unwrap_or_default());
        let beside = server::Settings { peers: data.peers.clone(), ..data.config.server() };
        let redirect = Redirect::with_admin(
            data.config.login.redirect_uri.clone(),
            &origin,
            guard.own_origins(),
            server::callback(&beside, &data.guard),
            self.shutdown.clone(),
        );
        Admin {
            operator: data.operator.clone(),
            users: run_file::users(&data.state.folder, &data.state.records),
            log: data.log.clone(),
            redirect,
            guard,
            keys: self.keys.clone(),
            shutdown: self.shutdown.clone(),
            origin,
            about: self.about(),
            local_key: data.guard.local_key.clone(),
            tools: Target { origin: data.api.origin(), needs_key: data.guard.local_key.is_some() },
            peers: data.peers.clone(),
            pace: data.config.upstream.pace.map(|pace| pace.0),
        }
    }

    fn about(&self) -> About {
        let instance = self.data.instance();
        About {
            pid: instance.process.pid,
            environment: instance.environment,
            api: instance.api,
            admin: instance.admin,
            store: wiring::database(&self.data.config)
                .and_then(Result::ok)
                .unwrap_or_else(|| instance.store.display().to_string()),
            replica: self.data.accounts().store().is_shared().then(|| instance.process.replica()),
            upstream: self.data.accounts().oauth().settings.api.to_string(),
            notes: loosened::notes(&self.data.config, &self.data.guard),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            settings: self.settings.clone(),
        }
    }

    /// Prints the ready line, the notes about loosened protection, and the next command.
    fn announce(&self, instance: &Instance, json: bool, program: &str) -> Result<(), Failure> {
        let oddities = config::oddities(&self.data.config);
        for note in loosened::notes(&self.data.config, &self.data.guard)
            .into_iter()
            .chain(oddities.iter().map(Diagnostic::sentence))
        {
            warn!("{note}");
        }
        let credentials = self.data.accounts().oauth().credentials();
        match &credentials {
            Ok(credentials) => {
                self.data.accounts().known_secrets().learn_lasting(credentials.secret())
            }
            Err(error) => warn!("no login and no refresh is possible yet: {error}"),
        }
        let admin = instance.admin.as_deref().unwrap_or("off");
        let link = match (std::io::stderr().is_terminal(), self.keys.issue_link()) {
            (true, Ok(key)) if instance.admin.is_some() => format!("{admin}/#key={}", key.expose()),
            _ => admin.to_owned(),
        };
        let environment = self.data.config.environment().as_str();
        status!("pleo-proxy is ready ({environment}): tools {}, admin {link}", instance.api);
        if instance.admin.is_some() {
            status!("See its requests in a browser: {program} open");
        }
        if credentials.is_ok() {
            self.report_missing_login(program);
        }
        if let Some(sandbox) = &self.data.sandbox {
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
        let accounts = self.data.accounts().all();
        if accounts.iter().any(|account| account.can_serve()) {
            return;
        }
        let name = self.data.default_account();
        match accounts
            .iter()
            .find_map(|account| account_problem(&account.snapshot().health, &account.name))
        {
            Some(why) => status!("No account can serve requests: {}", with_flags(&why, program)),
            None => status!("No account is connected yet; run: {program} login {name}"),
        }
    }

    fn suggest(&self) {
        let upstream = &self.data.accounts().oauth().settings.api;
        let (curl, api) = match &self.data.api {
            Address::Tcp(address) if address.ip().is_unspecified() => {
                ("curl".to_owned(), format!("http://localhost:{}", address.port()))
            }
            Address::Tcp(_) => ("curl".to_owned(), self.data.api.origin()),
            Address::Unix(path) => {
                let path = quoted(&path.display().to_string());
                (format!("curl --unix-socket {path}"), "http://localhost".to_owned())
            }
        };
        // The file and not the key: the line ends up in logs and in the shell's history.
        let key = self.data.config.callers.local_key_file.as_ref();
        let key = key.map(|file| {
            format!(" -H \"Pleo-Proxy-Key: $(cat {})\"", quoted(&file.display().to_string()))
        });
        let key = key.unwrap_or_default();
        let name = self.data.default_account();
        status!(
            "\nThis is a fake Pleo with made-up data, and the account \"{name}\" is connected to it. Try:\n"
        );
        status!("  {curl} {api}/v1/companies{key}");
        status!(
            "  {curl} -X POST '{api}/v1/accounting-entries:search?company_id={COMPANY_ID}' \
             -H 'content-type: application/json' -d '{{\"includeDeleted\":false}}'{key}"
        );
        if self.data.api.tcp().is_some() {
            status!("  curl -x {api} {upstream}/v1/introspect{key}");
        }
        status!("");
    }
}
