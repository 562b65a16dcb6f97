//! The command line: data on stdout, talk on stderr, exit codes with names.

/// Writes a line of data to stdout, or ends the command: see [`write_line`].
macro_rules! tell {
    ($($line:tt)*) => {
        $crate::cli::write_line(format_args!($($line)*))
    };
}

/// Writes a line of talk to stderr, likewise.
macro_rules! say {
    ($($line:tt)+) => {
        $crate::telemetry::say(format_args!($($line)+))
    };
}

mod account;
mod assemble;
mod demo;
mod instance;
mod login;
mod running;
mod serve;
mod status;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::future::Future;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{Level, info};

use crate::config::{self, Config, ConfigError, Diagnostic, Flags};
use crate::{hardening, telemetry};

const EXIT_CODES: &str = "Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 login required, 4 not running, \
5 degraded.";

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Fine = 0,
    /// It did not work.
    Failed = 1,
    /// Wrong arguments or configuration.
    Usage = 2,
    /// An account needs a login.
    LoginRequired = 3,
    /// No proxy is running.
    NotRunning = 4,
    /// It works, and something needs attention.
    Degraded = 5,
}

/// An error and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{error}") }
    }

    pub(crate) fn usage(error: impl Display) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into() }
    }
}

/// Tools send plain requests to 127.0.0.1; this adds a fresh Pleo credential and forwards them.
#[derive(Debug, Parser)]
#[command(name = "pleo-proxy", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Global {
    /// Configuration file [default: ./proxy.toml, then ~/.config/pleo-proxy/proxy.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// sandbox, staging or production
    #[arg(long, global = true, value_name = "NAME")]
    environment: Option<String>,
    /// Set one key, such as listen.api=127.0.0.1:0 (never a secret)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", value_parser = levels(), hide_possible_values = true)]
    log: Level,
    /// Machine-readable output on stdout
    #[arg(long, global = true)]
    json: bool,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"]).try_map(|level| level.parse::<Level>())
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy (the default)
    Serve,
    /// Connect an account to Pleo
    Login(login::Login),
    /// Forget an account's tokens
    Logout {
        /// Account [default: the configured one, or "default"]
        account: Option<String>,
    },
    /// Show all accounts
    Status,
    /// Refresh an account's token if it is due
    Refresh {
        /// Account [default: the configured one, or "default"]
        account: Option<String>,
        /// Also if it is fresh
        #[arg(long)]
        force: bool,
    },
    /// Open the page of the running proxy, with a fresh one-time link
    Open,
    /// End the running proxy
    Stop,
    /// Run the fake Pleo alone
    Sandbox(demo::SandboxArguments),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every mistake, with line and column
    Check,
    /// Show what is in effect and where each value came from
    Show,
}

/// What every command gets.
pub(crate) struct Context {
    /// The configuration.
    pub(crate) config: Config,
    /// Answer in JSON.
    pub(crate) json: bool,
    /// How to call the program so that it reads the same configuration: `pleo-proxy --config my.toml`.
    pub(crate) program: String,
}

/// Runs the program and returns how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            return ExitCode::from(Exit::Usage as u8);
        }
        // --help and --version are data.
        Err(error) => {
            let printed = error.print().and_then(|()| io::stdout().flush());
            return match printed {
                Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::from(Exit::Failed as u8),
                _ => ExitCode::from(Exit::Fine as u8),
            };
        }
    };
    // What serves prints one line of data, when it is ready: who waits for it takes the end of stdout for a failure.
    let serves = matches!(arguments.command, None | Some(Command::Serve | Command::Sandbox(_)));
    let json = arguments.global.json && !serves;
    let exit = match dispatch(arguments) {
        Ok(exit) => exit,
        Err(failure) => {
            say!("pleo-proxy: {:#}", failure.error);
            if json {
                let (exit, why) = (failure.exit as u8, format!("{:#}", failure.error));
                // If nobody can be told, the exit code still tells.
                let _ = tell!("{}", json!({"version": 1, "outcome": "failed", "exit": exit, "why": why}));
            }
            failure.exit
        }
    };
    telemetry::flush();
    ExitCode::from(exit as u8)
}

/// Writes a line of data to stdout. A reader who has gone (`status | head`) is no failure; a full disk is.
pub(crate) fn write_line(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Failed, format!("stdout cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

fn dispatch(arguments: Arguments) -> Result<Exit, Failure> {
    hardening::apply();
    let command = arguments.command.unwrap_or(Command::Serve);
    telemetry::init(arguments.global.log, matches!(command, Command::Serve));
    // Libraries that ask for the process's provider find the one that everything else uses; a second call is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Command::Sandbox(options) = command {
        return on_control_runtime(demo::sandbox(options, arguments.global.json));
    }
    let loaded = load(&arguments.global);
    if let Command::Config(command) = command {
        return configuration(loaded, &command, arguments.global.json);
    }
    let program = arguments.global.program();
    let context = Context { config: loaded.map_err(Failure::usage)?, json: arguments.global.json, program };
    on_control_runtime(async {
        match command {
            Command::Serve | Command::Sandbox(_) | Command::Config(_) => serve::run(context).await,
            Command::Login(login) => login::run(&context, login).await,
            Command::Logout { account } => account::logout(&context, account).await,
            Command::Refresh { account, force } => account::refresh(&context, account, force).await,
            Command::Status => status::run(&context).await,
            Command::Open => status::open(&context).await,
            Command::Stop => status::stop(&context).await,
        }
    })
}

/// Runs a command. Refresh, login and admin listener have one thread of their own beside the data workers.
fn on_control_runtime(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    // The runtime panics where the system gives it no thread: asked for here, it is an error with its reason.
    let spare = std::thread::Builder::new().spawn(|| ()).context("the system gives no thread; see ulimit -u")?;
    let _ = spare.join();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).thread_name("control").enable_all().build()?;
    let exit = runtime.block_on(work);
    // What must end was waited for. What hangs (a name server, a worker, a disk) does not keep the process.
    runtime.shutdown_background();
    exit
}

impl Global {
    /// The program with the flags that say which configuration is meant, fit to be pasted into a shell.
    fn program(&self) -> String {
        let mut words = vec!["pleo-proxy".to_owned()];
        if let Some(file) = &self.config {
            words.extend(["--config".to_owned(), quoted(&file.display().to_string())]);
        }
        if let Some(environment) = &self.environment {
            words.extend(["--environment".to_owned(), quoted(environment)]);
        }
        // Where one process listens does not matter to the next command, and a proxy's URL may hold a password.
        let left_out = |set: &str| ["listen.", "upstream.proxy"].iter().any(|name| set.trim_start().starts_with(name));
        let sets = self.set.iter().filter(|set| !left_out(set));
        words.extend(sets.flat_map(|set| ["--set".to_owned(), quoted(set)]));
        words.join(" ")
    }
}

/// Commands that a text names, so that they read the configuration that this one reads.
pub(crate) fn with_flags(text: &str, program: &str) -> String {
    text.replace("pleo-proxy login", &format!("{program} login"))
}

/// A word of a shell's command line.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

fn load(global: &Global) -> Result<Config, ConfigError> {
    let flags = Flags {
        config: global.config.clone(),
        environment: global.environment.clone(),
        set: global.set.clone(),
        working_dir: std::env::current_dir().unwrap_or_default(),
    };
    config::load(&flags, &variables())
}

/// The environment as text; what is not text is no variable of ours.
fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// `config check` and `config show`.
fn configuration(loaded: Result<Config, ConfigError>, command: &ConfigCommand, json: bool) -> Result<Exit, Failure> {
    let checked = match command {
        ConfigCommand::Show => return show(&loaded.map_err(Failure::usage)?, json),
        ConfigCommand::Check => loaded.and_then(|config| Ok((config.check()?, config))),
    };
    match checked {
        Ok((warnings, config)) => {
            let file = config.file.as_ref().map(|file| file.display().to_string());
            let warnings: Vec<_> = warnings.iter().map(Diagnostic::sentence).collect();
            warnings.iter().for_each(|warning| say!("warning: {warning}"));
            let text = file.as_deref().unwrap_or("the built-in defaults");
            match json {
                true => tell!("{}", json!({"version": 1, "outcome": "fine", "file": file, "warnings": warnings}))?,
                false => tell!("{text}: fine")?,
            }
            Ok(Exit::Fine)
        }
        Err(error) if json => {
            let problems: Vec<_> = error.diagnostics().iter().map(ToString::to_string).collect();
            tell!("{}", json!({"version": 1, "outcome": "faulty", "problems": problems}))?;
            say!("pleo-proxy: {error}");
            Ok(Exit::Usage)
        }
        Err(error) => Err(Failure::usage(error)),
    }
}

fn show(config: &Config, json: bool) -> Result<Exit, Failure> {
    config.warnings.iter().for_each(|warning| say!("warning: {}", warning.sentence()));
    match json {
        true => tell!("{}", config.show_json())?,
        false => tell!("{}", config.show().trim_end())?,
    }
    Ok(Exit::Fine)
}

/// Signals that come within this time are one.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// SIGTERM and Ctrl-C, from the moment this is made. SIGHUP is one of them where a terminal was closed; a service that
/// gets one keeps running, and reads no settings anew.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }

    /// Waits for one more after the first. What comes in the same moment is that one still: `timeout` and shells tell
    /// both the process and its group.
    pub(crate) async fn another(&mut self) {
        let first = Instant::now();
        loop {
            self.next().await;
            if first.elapsed() >= SAME_SIGNAL {
                return;
            }
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        let has_terminal = std::io::stderr().is_terminal();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => match has_terminal {
                    true => return,
                    false => info!("SIGHUP changes nothing: settings are read at the start"),
                },
            }
        }
    }
}
