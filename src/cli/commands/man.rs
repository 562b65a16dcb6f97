//! `man`: the manual page, or one for each command in a folder.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};
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
        let mut command = (context.arguments)();
        command.build();
        match &self.out {
            Some(folder) => written(&command, folder, context.json),
            None => printed(&command, context.json),
        }
    }
}

fn printed(command: &Command, json: bool) -> Result<Exit, Failure> {
    let page = page(&Man::new(command.clone()))?;
    if json {
        output::json(&json!({"version": 1, "page": page}))?;
    } else {
        out!("{}", page.trim_end())?;
    }
    Ok(Exit::Fine)
}

fn written(command: &Command, folder: &Path, json: bool) -> Result<Exit, Failure> {
    let mut files = Vec::new();
    let written =
        fs::create_dir_all(folder).and_then(|()| write_below(command, folder, &mut files));
    written.with_context(|| {
        format!(
            "the pages cannot be written to {}; choose a folder that you may write to",
            folder.display()
        )
    })?;
    if json {
        let folder = folder.display().to_string();
        output::json(
            &json!({"version": 1, "outcome": "written", "folder": folder, "files": files}),
        )?;
    } else {
        status!("{} pages are in {}.", files.len(), folder.display());
    }
    Ok(Exit::Fine)
}

/// Writes the pages of a command and of those below it.
fn write_below(command: &Command, folder: &Path, files: &mut Vec<String>) -> io::Result<()> {
    // What is hidden is for the program itself.
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        write_below(below, folder, files)?;
    }
    let man = Man::new(command.clone());
    let (name, text) = (man.get_filename(), page(&man)?);
    let path = folder.join(&name);
    fs::write(&path, text)?;
    // The program makes files for its user alone; manuals are for everybody.
    fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    files.push(name);
    Ok(())
}

/// A page, whose examples are lines and have a heading of their own.
fn page(man: &Man) -> io::Result<String> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    let page = page.replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n.nf\n");
    Ok(page.replace("\nExit codes: ", ".fi\n.SH \"EXIT STATUS\"\n") + "\n")
}
