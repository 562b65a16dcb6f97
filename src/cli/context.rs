//! The flags that every command takes, and the configuration that they select.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tracing::Level;

use super::exit::Failure;
use super::shell::quoted;
use crate::config::{self, Config, ConfigError, Flags};

#[derive(Debug, Args)]
pub(super) struct Global {
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
    pub(super) log: Level,
    /// Machine-readable output on stdout
    #[arg(long, global = true)]
    pub(super) json: bool,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
        .try_map(|level| level.parse::<Level>())
}

impl Global {
    /// The program with the flags that select this configuration, quoted for a shell.
    fn program(&self) -> String {
        let mut words = vec!["pleo-proxy".to_owned()];
        if let Some(file) = &self.config {
            words.extend(["--config".to_owned(), quoted(&file.display().to_string())]);
        }
        if let Some(environment) = &self.environment {
            words.extend(["--environment".to_owned(), quoted(environment)]);
        }
        // The addresses of one process do not matter to the next command, and a proxy URL may hold
        // a password.
        let left_out = |set: &str| {
            ["listen.", "upstream.proxy"].iter().any(|name| set.trim_start().starts_with(name))
        };
        let sets = self.set.iter().filter(|set| !left_out(set));
        words.extend(sets.flat_map(|set| ["--set".to_owned(), quoted(set)]));
        words.join(" ")
    }
}

/// What every command needs to run.
pub(super) struct Context {
    flags: Flags,
    /// Print JSON.
    pub(super) json: bool,
    /// The command line that reads the same configuration, such as `pleo-proxy --config my.toml`.
    pub(super) program: String,
}

impl Context {
    pub(super) fn new(global: Global) -> Self {
        let (program, json) = (global.program(), global.json);
        let Global { config, environment, set, .. } = global;
        let working_dir = std::env::current_dir().unwrap_or_default();
        Self { flags: Flags { config, environment, set, working_dir }, json, program }
    }

    /// The configuration, or every mistake in it.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        config::load(&self.flags, &variables())
    }

    /// The configuration, or the failure that ends the command.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        self.load().map_err(Failure::usage)
    }
}

/// The environment variables that are valid UTF-8; no others can be ours.
fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}
