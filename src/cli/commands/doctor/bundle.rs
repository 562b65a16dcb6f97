//! The file that is passed on: what was found, and what it was found in, without secrets.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use serde::Serialize;
use tokio::time::timeout;

use super::bounded::PROXY;
use crate::admin::protocol::{Report, ReportQuery, Requests, RequestsQuery};
use crate::cli::admin_client::{AdminClient, CallError};
use crate::cli::exit::{Exit, Failure};
use crate::cli::file_advice;
use crate::clock::{Clock, rfc3339};
use crate::private_file;
use crate::redaction::Redactor;

/// Log entries in the file.
const ENTRIES: usize = 100;

/// A text of sections.
pub(super) struct Bundle(String);

impl Bundle {
    /// With the version and what is known of the system.
    pub(super) fn new() -> Self {
        let head = "Report of `pleo-proxy doctor --bundle`. Tokens, keys and other secrets were taken out. It names \
                    accounts, companies and programs: look at it before you pass it on.\n";
        let mut bundle = Self(head.to_owned());
        bundle.section("version", &version());
        bundle.section("system", &system());
        bundle
    }

    /// Adds a section.
    pub(super) fn section(&mut self, title: &str, text: &str) {
        // A `String` takes everything.
        let _ = write!(self.0, "\n== {title}\n{}\n", text.trim_end());
    }

    /// Adds a section of JSON.
    pub(super) fn json(&mut self, title: &str, value: &impl Serialize) {
        let text = serde_json::to_string_pretty(value);
        self.section(title, &text.unwrap_or_else(|error| error.to_string()));
    }

    /// Adds what only the running proxy knows; what does not come in time is left out and named.
    pub(super) async fn ask(&mut self, proxy: &AdminClient) {
        let query = RequestsQuery { limit: Some(ENTRIES), ..RequestsQuery::default() };
        let target = query.target("/api/requests");
        let requests = timeout(PROXY, proxy.get::<Requests>(&target)).await;
        self.answer("latest requests", requests.map(|it| it.and_then(|body| pretty(&body))));
        let target = ReportQuery::default().target();
        let report = timeout(PROXY, proxy.get::<Report>(&target)).await;
        self.answer("report", report.map(|it| it.and_then(|body| pretty(&body))));
        let metrics = timeout(PROXY, proxy.document("/metrics")).await;
        let metrics =
            metrics.map(|it| it.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        self.answer("metrics", metrics);
    }

    fn answer<E>(&mut self, title: &str, answer: Result<Result<String, CallError>, E>) {
        match answer {
            Ok(Ok(text)) => self.section(title, &text),
            Ok(Err(error)) => {
                let why = Failure::from(error).error;
                self.section(title, &format!("left out: {why:#}"));
            }
            Err(_) => self.section(title, "left out: the proxy did not answer in time"),
        }
    }

    /// Writes it without secrets, for its owner only: as a whole or not at all.
    pub(super) fn write(
        &self,
        file: &Path,
        force: bool,
        redactor: &Redactor,
    ) -> Result<(), Failure> {
        let text = redactor.text(&self.0);
        let written = if force {
            private_file::replace(file, text.as_bytes())
        } else {
            private_file::create(file, text.as_bytes())
        };
        written.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => exists(file),
            _ => Failure::new(Exit::Failed, file_advice::unwritable(file, &error)),
        })
    }
}

/// The failure that the file is there already.
pub(super) fn exists(file: &Path) -> Failure {
    Failure::usage(format!("{} exists; choose another name, or --force", file.display()))
}

fn pretty(value: &impl Serialize) -> Result<String, CallError> {
    serde_json::to_string_pretty(value).map_err(|error| CallError::NoResponse(error.into()))
}

fn version() -> String {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!(
        "pleo-proxy {} ({build}, {} {})\nwritten at {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        rfc3339(Clock::system().now().wall)
    )
}

fn system() -> String {
    let kernel = rustix::system::uname();
    let name = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = name.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    format!(
        "{} {} ({})\n{processors} processors, user {}",
        kernel.sysname().to_string_lossy(),
        kernel.release().to_string_lossy(),
        name.unwrap_or("unknown distribution").trim_matches('"'),
        private_file::access::current_user(),
    )
}
