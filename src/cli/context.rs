//! The flags that every command takes, and the configuration that they select.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use parking_lot::Mutex;
use strum::VariantArray as _;
use tracing::Level;

use super::exit::Failure;
use super::shell::quoted;
use crate::config::{self, Config, ConfigError, Environment, Flags};
use crate::hardening::Inherited;
use crate::server::Passed;

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Configuration file [default: ./proxy.toml, then ~/.config/pleo-proxy/proxy.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// sandbox, staging or production
    #[arg(long, global = true, value_name = "NAME", value_parser = environments(), hide_possible_values = true)]
    environment: Option<String>,
    /// Set one key, such as listen.api=127.0.0.1:0 (never a secret)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// error, warn, info, debug or trace [default: warn; of serve: info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = levels(), hide_possible_values = true)]
    pub(super) log: Option<Level>,
    /// Machine-readable output on stdout
    #[arg(long, global = true)]
    pub(super) json: bool,
}

fn environments() -> PossibleValuesParser {
    Environment::VARIANTS.iter().map(|environment| environment.as_str()).collect::<Vec<_>>().into()
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["error", "warn", "info", "debug", "trace"])
        .try_map(|level| level.parse::<Level>())
}

impl Global {
    /// The program with the flags that select this configuration, quoted for a shell.
    pub(super) fn program(&self) -> String {
        program(self.config.as_deref(), self.environment.as_deref(), &self.set)
    }
}

/// The program with flags that select a configuration, quoted for a shell.
fn program(config: Option<&Path>, environment: Option<&str>, set: &[String]) -> String {
    let mut words = vec!["pleo-proxy".to_owned()];
    if let Some(file) = config {
        words.extend(["--config".to_owned(), quoted(&file.display().to_string())]);
    }
    if let Some(environment) = environment {
        words.extend(["--environment".to_owned(), quoted(environment)]);
    }
    // The addresses of one process do not matter to the next command, and a proxy URL or a hook may
    // hold a secret: responses name this program, also to web pages that may call.
    let left_out = |set: &str| {
        ["listen.", "upstream.proxy", "hooks."]
            .iter()
            .any(|name| set.trim_start().starts_with(name))
    };
    let sets = set.iter().filter(|set| !left_out(set));
    words.extend(sets.flat_map(|set| ["--set".to_owned(), quoted(set)]));
    words.join(" ")
}

/// What every command needs to run.
pub(super) struct Context {
    flags: Flags,
    /// Print JSON.
    pub(super) json: bool,
    /// The command line that reads the same configuration, such as `pleo-proxy --config my.toml`.
    pub(super) program: String,
    /// Describes all commands and flags.
    pub(super) arguments: fn() -> clap::Command,
    /// What a program that the command starts gets back.
    pub(super) inherited: Inherited,
    passed: Mutex<Passed>,
}

impl Context {
    pub(super) fn new(
        global: Global,
        arguments: fn() -> clap::Command,
        inherited: Inherited,
    ) -> Self {
        let (program, json) = (global.program(), global.json);
        let Global { config, environment, set, .. } = global;
        let working_dir = std::env::current_dir().unwrap_or_default();
        let flags = Flags { config, environment, set, working_dir };
        Self { flags, json, program, arguments, inherited, passed: Mutex::default() }
    }

    /// The environment that the flags name.
    pub(super) fn environment(&self) -> Option<Environment> {
        let named = self.flags.environment.as_deref()?;
        Environment::VARIANTS.iter().find(|environment| environment.as_str() == named).copied()
    }

    /// True if a flag sets a key that begins like this.
    pub(super) fn sets(&self, key: &str) -> bool {
        self.flags.set.iter().any(|set| set.trim_start().starts_with(key))
    }

    /// The configuration file that the flags or a variable name, whether it exists or not; else the
    /// one in the current folder.
    pub(super) fn file_to_write(&self) -> PathBuf {
        let by_variable = || Some(PathBuf::from(variables().remove(config::FILE_VARIABLE)?));
        self.flags.config.clone().or_else(by_variable).unwrap_or_else(|| "proxy.toml".into())
    }

    /// The flags without a file, with another environment and more settings.
    pub(super) fn flags_for(&self, environment: Option<Environment>, more: Vec<String>) -> Flags {
        let environment = environment.map(|environment| environment.as_str().to_owned());
        let set = self.flags.set.iter().cloned().chain(more).collect();
        Flags { config: None, environment, set, working_dir: self.flags.working_dir.clone() }
    }

    /// The variables that say where files are by default, and nothing else.
    pub(super) fn homes() -> BTreeMap<String, String> {
        let is_home = |name: &String| name == "HOME" || name.starts_with("XDG_");
        variables().into_iter().filter(|(name, _)| is_home(name)).collect()
    }

    /// The same with sockets of a service manager. Their addresses go through the checks of any
    /// other, and override what is configured.
    pub(super) fn with_sockets(mut self, passed: Passed) -> Self {
        let api = passed.api().map(|address| format!("listen.api={address}"));
        let admin = passed.admin().map(|address| format!("listen.admin={address}"));
        self.flags.set.extend(api.into_iter().chain(admin));
        Self { passed: Mutex::new(passed), ..self }
    }

    /// The configuration that a service with these flags will read, which has none of this shell's
    /// variables but those that name folders; and its file, if there is one. `default` stands for
    /// the flag `--config` if that is not given.
    pub(super) fn service_config(
        &self,
        default: Option<&Path>,
    ) -> Result<(Option<PathBuf>, Config), Failure> {
        let named = default.filter(|file| self.flags.config.is_none() && file.exists());
        let config = self.flags.config.clone().or(named.map(Into::into));
        // Without its file a service of the machine starts from the defaults, not from a file here.
        let elsewhere = default.filter(|_| config.is_none()).map(|_| PathBuf::from("/nowhere"));
        let working_dir = elsewhere.clone().unwrap_or_else(|| self.flags.working_dir.clone());
        let mut variables = Self::homes();
        if let Some(nowhere) = elsewhere {
            variables.insert("XDG_CONFIG_HOME".to_owned(), nowhere.display().to_string());
        }
        let flags = Flags { config, working_dir, ..self.flags.clone() };
        let config = config::load(&flags, &variables).map_err(Failure::usage)?;
        Ok((config.file.clone(), config))
    }

    /// The flags of this command that a service takes over, besides the file.
    pub(super) fn service_flags(&self) -> Vec<String> {
        let environment = self.flags.environment.iter();
        let environment = environment.flat_map(|name| ["--environment".to_owned(), name.clone()]);
        let sets = self.flags.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
        environment.chain(sets).collect()
    }

    /// The sockets of a service manager, once.
    pub(super) fn take_sockets(&self) -> Passed {
        std::mem::take(&mut *self.passed.lock())
    }

    /// The configuration, or every mistake in it.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        let mut config = config::load(&self.flags, &variables())?;
        // Whoever reads a response or a hook's message may stand in another folder.
        let file = config.file.as_deref().filter(|_| !config.is_usual_file);
        config.program = program(file, self.flags.environment.as_deref(), &self.flags.set);
        Ok(config)
    }

    /// The configuration, or the failure that ends the command.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        self.load().map_err(Failure::usage)
    }
}

/// The environment variables that are valid UTF-8; no others can be ours.
pub(super) fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_a_secret_is_not_named_to_others() {
        let set = [
            "hooks.on_login_required=curl -H 'X-Api-Key: canary' https://hook.example",
            " upstream.proxy=http://u:canary@h",
            "listen.api=127.0.0.1:0",
            "client.id=a b",
        ]
        .map(str::to_owned);
        assert_eq!(
            program(Some(Path::new("/etc/my.toml")), None, &set),
            "pleo-proxy --config /etc/my.toml --set 'client.id=a b'"
        );
    }
}
