//! `man`: the manual page, or one for each command in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap_mangen::Man;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy man | man -l -
  pleo-proxy man --out ~/.local/share/man/man1  # then: man pleo-proxy-login";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManPages {
    /// Write a page for each command into this folder, which is created if it is missing
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl ManPages {
    pub(super) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match &self.out {
            Some(folder) => written(folder, context),
            None => printed(context),
        }
    }
}

fn printed(context: &Context) -> Result<Exit, Failure> {
    let mut page = Vec::new();
    Man::new((context.arguments)()).render(&mut page)?;
    let page = String::from_utf8(page).context("the page is no text")?;
    if context.json {
        output::json(&json!({"version": 1, "page": page}))?;
    } else {
        out!("{}", page.trim_end())?;
    }
    Ok(Exit::Fine)
}

fn written(folder: &Path, context: &Context) -> Result<Exit, Failure> {
    let failed = || format!("the pages cannot be written to {}", folder.display());
    fs::create_dir_all(folder).with_context(failed)?;
    clap_mangen::generate_to((context.arguments)(), folder).with_context(failed)?;
    if context.json {
        let folder = folder.display().to_string();
        output::json(&json!({"version": 1, "outcome": "written", "folder": folder}))?;
    } else {
        status!("The pages are in {}.", folder.display());
    }
    Ok(Exit::Fine)
}
