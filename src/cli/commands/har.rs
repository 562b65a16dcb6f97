//! `har`: writes the latest requests of the running proxy into a file, as an HTTP archive.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::admin::protocol::HarQuery;
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Failure};
use crate::cli::state::State;
use crate::cli::{file_advice, locate, output};
use crate::private_file;

const EXAMPLES: &str = "\
Examples:
  pleo-proxy har -o requests.har             # all that are kept
  pleo-proxy har -o failed.har --filter 'status:4xx account:acme'
  pleo-proxy har -o shared.har --pseudonyms  # no names of people either";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Har {
    /// The file; it must not exist yet
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only requests that this filter chooses, such as "status:4xx account:acme"
    #[arg(long, value_name = "FILTER", default_value = "")]
    filter: String,
    /// Replace names, e-mail addresses, phone numbers and IBANs by placeholders
    #[arg(long)]
    pseudonyms: bool,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// What is counted of an archive.
#[derive(Deserialize)]
struct Archive {
    log: Log,
}

#[derive(Deserialize)]
struct Log {
    entries: Vec<IgnoredAny>,
}

impl Har {
    pub(super) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let state = State::locate(&context.config()?)?;
        let proxy = locate::required(&state, locate::NO_LOG).await?;
        let Self { output, filter, pseudonyms, force } = self;
        let archive = proxy.document(&HarQuery { filter, pseudonyms }.target()).await?;
        let Archive { log } =
            serde_json::from_slice(&archive).context("the proxy's archive cannot be read")?;
        write(&output, &archive, force)?;
        let (entries, file) = (log.entries.len(), output.display());
        if context.json {
            let file = file.to_string();
            output::json(
                &json!({"version": 1, "outcome": "written", "file": file, "entries": entries}),
            )?;
        }
        let requests = if entries == 1 { "request was" } else { "requests were" };
        status!("{entries} {requests} written to {file}, which only you can read.");
        let personal = if pseudonyms {
            ""
        } else {
            " It may hold personal data, which --pseudonyms replaces."
        };
        status!(
            "Tokens, keys and other secrets were taken out.{personal} Look at it before you pass it on."
        );
        Ok(Exit::Fine)
    }
}

fn write(file: &Path, archive: &[u8], force: bool) -> Result<(), Failure> {
    let written = if force {
        private_file::replace(file, archive)
    } else {
        private_file::create(file, archive)
    };
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::usage(format!("{} exists; choose another name, or --force", file.display()))
        }
        _ => Failure::new(Exit::Failed, file_advice::unwritable(file, &error)),
    })
}
