//! The file of `--record`: everything that the program asked and got, as an HTTP archive.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::data_listener::DataListener;
use crate::cli::exit::{Exit, Failure};
use crate::config::Config;
use crate::exchange::capture::Bodies;
use crate::log::filter::Filter;
use crate::log::har::HarWriter;
use crate::log::{Detail, MAX_MEMORY};
use crate::private_file;
use crate::redaction::Redactor;

/// Longer than any program runs.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A file that is to be written.
pub(super) struct Recording(PathBuf);

impl Recording {
    /// Makes sure that the file can be written later.
    pub(super) fn begin(file: &Path) -> Result<Self, Failure> {
        if file.symlink_metadata().is_ok() {
            let why = format!("{} exists; choose another name for --record", file.display());
            return Err(Failure::usage(why));
        }
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map_err(|error| {
            Failure::usage(format!("--record {} cannot be written: {error}", file.display()))
        })?;
        Ok(Self(file.to_owned()))
    }

    /// Room for everything.
    pub(super) fn make_room(config: &mut Config) {
        (config.inspect.requests, config.inspect.memory) = (usize::MAX, MAX_MEMORY);
    }

    /// Captures all requests from here on.
    pub(super) fn start(data: &DataListener) {
        data.log.start_capture(FOREVER, None, Bodies::REPLAYABLE);
    }

    /// Writes the file, whole or not at all.
    pub(super) fn write(&self, data: &DataListener) -> Result<(), Failure> {
        let file = self.0.display();
        if data.log.is_incomplete() {
            let why = format!("{file} was not written: there were more requests than can be kept");
            return Err(Failure::new(Exit::Failed, why));
        }
        let exchanges = data.log.exchanges(&Filter::default(), usize::MAX);
        report_missing(&exchanges);
        let redactor = Redactor::new(data.accounts().known_secrets().clone());
        let api = data.accounts().oauth().settings.api.to_string();
        let writer = HarWriter { api: &api, redactor: &redactor };
        let exchanges = exchanges.into_iter().map(|it| (it.entry, it.capture));
        let archive = writer.archive(exchanges).to_string();
        private_file::create(&self.0, archive.as_bytes()).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    format!("{file} was not written: it was made by something else meanwhile")
                }
                _ => format!("{file} cannot be written: {error}"),
            };
            Failure::new(Exit::Failed, why)
        })
    }
}

/// Says how many bodies the recording does not hold: they cannot be replayed.
fn report_missing(exchanges: &[Detail]) {
    let is_missing = |it: &&Detail| {
        it.capture.as_ref().is_none_or(|capture| {
            capture.request.body_note.is_some() || capture.response.body_note.is_some()
        })
    };
    let missing = exchanges.iter().filter(is_missing).count();
    if missing > 0 {
        status!(
            "pleo-proxy: {missing} of the recorded requests have no body in the file (not text, or longer than 2 MiB); a replay answers them with 501"
        );
    }
}
