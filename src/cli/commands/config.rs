//! `config`: all mistakes in the configuration, or the values in effect and their origin.

use clap::Subcommand;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config::{self, Diagnostic};

pub(super) const EXAMPLES: &str = "\
Examples:
  pleo-proxy config check
  pleo-proxy config show";

const CHECK_EXAMPLES: &str = "\
Examples:
  pleo-proxy config check
  pleo-proxy config check --config staging.toml";

const SHOW_EXAMPLES: &str = "\
Examples:
  pleo-proxy config show
  pleo-proxy config show --json | jq .settings";

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report every mistake, with line and column
    #[command(after_help = CHECK_EXAMPLES)]
    Check,
    /// Show what is in effect and where each value came from
    #[command(after_help = SHOW_EXAMPLES)]
    Show,
}

impl ConfigCommand {
    pub(super) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Check => check(context),
            Self::Show => show(context),
        }
    }
}

fn check(context: &Context) -> Result<Exit, Failure> {
    match context.load().and_then(|config| Ok((config::check(&config)?, config))) {
        Ok((warnings, config)) => {
            let warnings: Vec<_> = warnings.iter().map(Diagnostic::sentence).collect();
            let file = config.file.as_ref().map(|file| file.display().to_string());
            warnings.iter().for_each(|warning| status!("warning: {warning}"));
            if context.json {
                output::json(
                    &json!({"version": 1, "outcome": "fine", "file": file, "warnings": warnings}),
                )?;
            } else {
                out!("{}: fine", file.as_deref().unwrap_or("the built-in defaults"))?;
            }
            Ok(Exit::Fine)
        }
        Err(error) => {
            let problems: Vec<_> = error.diagnostics().iter().map(ToString::to_string).collect();
            status!("{}", problems.join("\n\n"));
            if context.json {
                output::json(&json!({"version": 1, "outcome": "faulty", "problems": problems}))?;
            }
            Ok(Exit::Usage)
        }
    }
}

fn show(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    config.warnings.iter().for_each(|warning| status!("warning: {}", warning.sentence()));
    if context.json {
        output::json(&config::show_json(&config))?;
    } else {
        out!("{}", config::show(&config).trim_end())?;
    }
    Ok(Exit::Fine)
}
