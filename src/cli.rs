//! The command line: data on stdout, messages on stderr, named exit codes.

#[macro_use]
mod output;

mod account_argument;
mod admin_client;
mod browser;
mod commands;
mod context;
mod data_client;
mod data_listener;
mod embedded_sandbox;
mod exit;
mod locate;
mod loosened;
mod open_store;
mod probe;
mod run_file;
mod shell;
mod signals;
mod state;
mod wiring;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;

use crate::{hardening, telemetry};
use commands::Command;
use context::{Context, Global};
use exit::{EXIT_CODES, Failure};

pub use exit::Exit;

/// Tools send plain requests to 127.0.0.1; this adds a fresh Pleo credential and forwards them.
#[derive(Debug, Parser)]
#[command(name = "pleo-proxy", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Runs the program and returns how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(commands::in_order(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(print(&error) as u8),
    };
    let command = arguments.command.unwrap_or_default();
    let json = arguments.global.json && !command.prints_ready_line();
    let exit = match dispatch(command, arguments.global) {
        Ok(exit) => exit,
        Err(failure) => {
            status!("pleo-proxy: {:#}", failure.error);
            if json {
                let (exit, why) = (failure.exit as u8, format!("{:#}", failure.error));
                // If stdout cannot be written, the exit code still reports the failure.
                let _ = output::json(
                    &json!({"version": 1, "outcome": "failed", "exit": exit, "why": why}),
                );
            }
            failure.exit
        }
    };
    telemetry::flush();
    ExitCode::from(exit as u8)
}

/// Prints clap's message: an error in the arguments, or the output of --help and --version.
fn print(message: &clap::Error) -> Exit {
    let printed = message.print().and_then(|()| io::stdout().flush());
    match printed {
        _ if message.use_stderr() => Exit::Usage,
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Fine,
    }
}

fn dispatch(command: Command, global: Global) -> Result<Exit, Failure> {
    hardening::apply();
    telemetry::init(global.log, matches!(command, Command::Serve));
    // Libraries that use the process's default provider get the same one as everything else. It
    // fails only if it was called before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let context = Context::new(global);
    on_control_runtime(command.run(&context))
}

/// Runs a command on the control runtime: one thread for refresh, login and the admin listener,
/// apart from the data workers.
fn on_control_runtime(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    // The runtime would panic if it got no thread; this returns an error instead.
    let spare = std::thread::Builder::new()
        .spawn(|| ())
        .context("the system refuses to start a thread; see ulimit -u")?;
    let _ = spare.join();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).thread_name("control").enable_all().build()?;
    let exit = runtime.block_on(work);
    // The command has waited for everything that must finish. A thread that hangs (a name server,
    // a disk) does not keep the process alive.
    runtime.shutdown_background();
    exit
}
