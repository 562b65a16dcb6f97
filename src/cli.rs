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
mod file_advice;
mod holder;
mod input;
mod locate;
mod loosened;
mod neighbours;
mod open_store;
mod outer_exec;
mod probe;
mod progress;
mod reread;
mod run_file;
mod service_manager;
mod shell;
mod signals;
mod state;
mod version;
mod wiring;

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind as Mistake;
use clap::{CommandFactory as _, Parser};
use serde_json::json;
use tracing::Level;

use crate::server::Passed;
use crate::{hardening, telemetry};
use commands::Command;
use context::{Context, Global};
use exit::Failure;
use shell::with_flags;

pub use exit::Exit;

const AFTER_HELP: &str = "\
Examples:
  pleo-proxy                               # with the sandbox, without any configuration
  pleo-proxy init                          # for Pleo itself: asks, and writes proxy.toml
  pleo-proxy login                         # connects an account
  curl http://127.0.0.1:8088/v1/companies  # what your tools do from then on

Exit codes: 0 fine, 1 failed, 2 usage or configuration, 3 login required, 4 not running, 5 degraded.";

/// Tools send plain requests to 127.0.0.1; this adds a fresh Pleo credential and forwards them.
#[derive(Debug, Parser)]
#[command(name = "pleo-proxy", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Runs the program and returns how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = commands::in_order(arguments);
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) if error.kind() == Mistake::DisplayVersion => {
            let json = words.iter().any(|word| word == "--json");
            return ended(version::print(json), FailureJson::Nowhere, "pleo-proxy").end();
        }
        Err(error) => return ExitCode::from(print(&error).code()),
    };
    let command = arguments.command.unwrap_or_default();
    match command {
        // Nothing that the program would inherit is changed.
        Command::Launch(launch) => return launch.run().end(),
        Command::Revive(revive) => return revive.run().end(),
        _ => {}
    }
    let json = if !arguments.global.json || command.prints_ready_line() {
        FailureJson::Nowhere
    } else if command.runs_program() {
        FailureJson::Stderr
    } else {
        FailureJson::Stdout
    };
    let program = arguments.global.program();
    let exit = ended(dispatch(command, arguments.global), json, &program);
    telemetry::flush();
    exit.end()
}

/// Where the JSON of a failure goes.
enum FailureJson {
    Nowhere,
    Stdout,
    /// Stdout belongs to a program of the user's.
    Stderr,
}

/// Reports a failure, as JSON too if that is wanted. The commands that it names read the same
/// configuration as `program`.
fn ended(done: Result<Exit, Failure>, json: FailureJson, program: &str) -> Exit {
    let failure = match done {
        Ok(exit) => return exit,
        Err(failure) => failure,
    };
    let why = with_flags(&format!("{:#}", failure.error), program);
    let exit = failure.exit;
    status!("pleo-proxy: {why}");
    let line = json!({"version": 1, "outcome": "failed", "exit": exit.code(), "why": why});
    match json {
        FailureJson::Nowhere => {}
        // If stdout cannot be written, the exit code still reports the failure.
        FailureJson::Stdout => drop(output::json(&line)),
        FailureJson::Stderr => status!("{line}"),
    }
    exit
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
    let inherited = hardening::apply(command.runs_program());
    // Before there are threads: it changes variables.
    let passed = match command {
        Command::Serve => service_manager::sockets().map_err(Failure::usage)?,
        _ => Passed::default(),
    };
    // Beside what a command or a program of the user's prints, only trouble is worth a line.
    let usual = if command.prints_ready_line() { Level::INFO } else { Level::WARN };
    telemetry::init(global.log.unwrap_or(usual), command.forwards());
    // Libraries that use the process's default provider get the same one as everything else. It
    // fails only if it was called before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let context = Context::new(global, Arguments::command, inherited).with_sockets(passed);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its name, subcommands included.
    fn commands(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
        found.push((name.to_owned(), command.clone()));
        for below in command.get_subcommands() {
            commands(below, &format!("{name} {}", below.get_name()), found);
        }
    }

    /// The words of a shell line up to a comment, a pipe or a redirection.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for character in line.chars() {
            match (character, quote) {
                (quoted, Some(open)) if quoted == open => quote = None,
                (_, Some(_)) => word.push(character),
                ('\'' | '"', None) => quote = Some(character),
                (' ', None) => words.push(std::mem::take(&mut word)),
                ('#' | '|' | '<' | '>' | '&' | '\\', None) if word.is_empty() => break,
                _ => word.push(character),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn texts_name_every_command_with_its_flags() {
        let command = Arguments::command();
        let all: Vec<_> = command.get_subcommands().filter(|it| !it.is_hide_set()).collect();
        let names: Vec<_> = all.into_iter().map(|it| it.get_name().to_owned()).collect();
        assert_eq!(names, crate::problem::COMMANDS);
    }

    #[test]
    fn every_command_has_examples_and_every_example_is_one_of_it() {
        let mut all = Vec::new();
        commands(&Arguments::command(), "pleo-proxy", &mut all);
        assert!(all.len() > 15);
        for (name, command) in all {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help
                .split_once("Examples:\n")
                .unwrap_or_else(|| panic!("the help of {name:?} has no \"Examples:\""));
            let examples = examples.split("\n\n").next().unwrap_or_default();
            let mut own = 0;
            for line in examples.lines() {
                assert!(line.starts_with("  ") && line.len() <= 100, "{name}: {line:?}");
                let Some(at) = line.find("pleo-proxy") else {
                    continue;
                };
                let words = words(&line[at..]);
                if words.first().is_none_or(|word| word != "pleo-proxy") {
                    continue;
                }
                let parsed =
                    Arguments::try_parse_from(commands::in_order(words.iter().map(OsString::from)));
                assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
                own += usize::from(name.split(' ').all(|part| words.iter().any(|it| it == part)));
            }
            assert!(own > 0, "{name} has no example of itself");
        }
    }

    #[test]
    fn the_words_of_an_example_end_at_its_comment() {
        let line = "pleo-proxy why 'GET /v1' --x=\"a b\"  # says > why";
        assert_eq!(words(line), ["pleo-proxy", "why", "GET /v1", "--x=a b"]);
        assert_eq!(words("pleo-proxy man | man -l -"), ["pleo-proxy", "man"]);
    }
}
