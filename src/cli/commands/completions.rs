//! `completions`: a script that completes commands, flags and their fixed values in a shell.

use anyhow::Context as _;
use clap::Args;
use clap_complete::{Shell, generate};
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy completions bash > ~/.local/share/bash-completion/completions/pleo-proxy
  pleo-proxy completions zsh > ~/.zfunc/_pleo-proxy  # a folder of $fpath
  pleo-proxy completions fish > ~/.config/fish/completions/pleo-proxy.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        generate(self.shell, &mut (context.arguments)(), "pleo-proxy", &mut script);
        let script = String::from_utf8(script).context("the script is no text")?;
        // clap_complete 4.6 takes the hyphen of our name for the beginning of a command in one half
        // of the script for bash, so that no command's flags would be found.
        let script = script.replace("pleo__subcmd__proxy", "pleo__proxy");
        if context.json {
            let shell = self.shell.to_string();
            output::json(&json!({"version": 1, "shell": shell, "script": script}))?;
        } else {
            out!("{}", script.trim_end())?;
        }
        Ok(Exit::Fine)
    }
}
