//! Logs and metrics. Logs go to stderr, one line per event, escaped by the subscriber; no secret is
//! ever passed to either. A process that serves writes them on a thread of its own and never waits
//! for their reader.

mod lines;
mod repeats;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Arguments;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing::level_filters::LevelFilter;
use tracing::{Level, error};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use lines::Lines;
pub use repeats::Repeats;

/// Libraries that would log headers or bodies at their finer levels; capped at every log level.
const CAPPED: [&str; 6] = ["hyper", "hyper_util", "reqwest", "rustls", "h2", "tower"];

/// What the names of all metrics begin with.
pub const PREFIX: &str = "pleo_proxy";

/// How long the process waits at its end until its last lines are read.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Upper bounds of the durations of a refresh, in seconds; its parts may take 10, 5 and 30 s.
const REFRESH_BOUNDS: [f64; 9] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 45.0];

/// The queue of log lines of a process that serves.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging for the process; a second call changes nothing. With `queued` nothing that logs
/// ever waits for the reader of stderr, and panics are log lines too.
pub fn init(level: Level, queued: bool) {
    if queued {
        // If there is no thread, each line is written where it is logged.
        let _ = Lines::start().map(|lines| LINES.set(lines));
        std::panic::set_hook(Box::new(log_panic));
    }
    let cap = LevelFilter::from_level(level).min(LevelFilter::INFO);
    let targets = CAPPED.iter().fold(Targets::new().with_default(level), |targets, library| {
        targets.with_target(*library, cap)
    });
    let color =
        stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let writer = match LINES.get() {
        Some(lines) => BoxMakeWriter::new(|| lines.clone()),
        None => BoxMakeWriter::new(stderr),
    };
    let lines =
        tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color).with_target(false);
    // A test process may have a subscriber already.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let payload = panic.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or(payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("?");
    let trace = Backtrace::capture();
    match trace.status() {
        BacktraceStatus::Captured => error!(thread, "panicked at {place}: {message}\n{trace}"),
        _ => error!(thread, "panicked at {place}: {message}"),
    }
}

/// Writes a message to stderr, after the log lines before it. A missing reader is not an error.
pub fn say(line: Arguments<'_>) {
    match LINES.get() {
        Some(lines) => lines.put(format!("{line}\n").as_bytes()),
        None => drop(writeln!(stderr(), "{line}")),
    }
}

/// Waits until all lines are written, half a second at most: the last thing that a process does.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// Labels of an attempt to refresh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    reason: &'static str,
    outcome: &'static str,
}

/// Label of a response that the proxy made itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    code: &'static str,
}

/// Label of the state of accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// Label of a kind of background task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Background {
    task: &'static str,
}

/// The counters behind `/metrics`. No label holds an account's name: there may be thousands.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    refreshes: Family<Attempt, Counter>,
    refresh_times: Histogram,
    /// Connections to the API that are open.
    pub upstream_connections: Gauge,
    refusals: Family<Refusal, Counter>,
    accounts: Family<State, Gauge>,
    restarts: Family<Background, Counter>,
    held: Counter,
    resent: Counter,
    token_resends: Counter,
    held_up: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            refreshes: Family::default(),
            refresh_times: Histogram::new(REFRESH_BOUNDS),
            upstream_connections: Gauge::default(),
            refusals: Family::default(),
            accounts: Family::default(),
            restarts: Family::default(),
            held: Counter::default(),
            resent: Counter::default(),
            token_resends: Counter::default(),
            held_up: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "refreshes",
            "Attempts to refresh, by reason and outcome",
            self.refreshes.clone(),
        );
        registry.register_with_unit(
            "refresh_duration",
            "Attempts to refresh, waiting for locks included",
            Unit::Seconds,
            self.refresh_times.clone(),
        );
        registry.register(
            "upstream_connections",
            "Connections to the API that are open",
            self.upstream_connections.clone(),
        );
        registry.register(
            "refused_requests",
            "Answers of the proxy itself, by code",
            self.refusals.clone(),
        );
        registry.register("accounts", "Accounts, by state", self.accounts.clone());
        registry.register("held_requests", "Requests that waited for a token", self.held.clone());
        registry.register(
            "resent_requests",
            "Requests sent once more after a 401",
            self.resent.clone(),
        );
        let help = "Refresh tokens of unknown fate that were sent again";
        registry.register("token_resends", help, self.token_resends.clone());
        let help =
            "Refreshes that stood still for more than 5 s after their intent and sent nothing";
        registry.register("held_up_refreshes", help, self.held_up.clone());
        let help = "Background tasks that had stopped and were started again";
        registry.register("task_restarts", help, self.restarts.clone());
        let dropped = LINES.get().map(Lines::dropped).unwrap_or_default();
        registry.register("dropped_log_lines", "Log lines that nobody read in time", dropped);
    }

    /// An attempt to refresh has ended.
    pub fn refreshed(&self, reason: &'static str, outcome: &'static str, took: Duration) {
        self.refreshes.get_or_create(&Attempt { reason, outcome }).inc();
        self.refresh_times.observe(took.as_secs_f64());
    }

    /// The proxy responded to a request itself.
    pub fn refused(&self, code: &'static str) {
        self.refusals.get_or_create(&Refusal { code }).inc();
    }

    /// A request waits for a token.
    pub fn held(&self) {
        self.held.inc();
    }

    /// A request is sent again after a 401.
    pub fn resent(&self) {
        self.resent.inc();
    }

    /// A refresh token is sent again because the outcome of its refresh is not known.
    pub fn token_resent(&self) {
        self.token_resends.inc();
    }

    /// A refresh stood still for so long that it does not send its token any more.
    pub fn held_up(&self) {
        self.held_up.inc();
    }

    /// Adds all of them to a text, with the current state of each account and the restarts of each
    /// background task.
    ///
    /// # Errors
    /// Never in practice: the sink is a string.
    pub fn write(
        &self,
        text: &mut String,
        states: impl Iterator<Item = &'static str>,
        restarts: impl Iterator<Item = (&'static str, u64)>,
    ) -> std::fmt::Result {
        self.accounts.clear();
        for state in states {
            self.accounts.get_or_create(&State { state }).inc();
        }
        for (task, restarts) in restarts {
            self.restarts
                .get_or_create(&Background { task })
                .inner()
                .store(restarts, Ordering::Relaxed);
        }
        prometheus_client::encoding::text::encode_registry(text, &self.registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_labels() {
        let metrics = Metrics::default();
        metrics.refreshed("margin", "fresh", Duration::from_millis(20));
        metrics.refreshed("margin", "fresh", Duration::from_millis(20));
        metrics.held();
        let mut text = String::new();
        metrics
            .write(
                &mut text,
                ["connected", "connected", "unsaved"].into_iter(),
                [("scheduler", 3)].into_iter(),
            )
            .unwrap();
        assert!(
            text.contains("pleo_proxy_refreshes_total{reason=\"margin\",outcome=\"fresh\"} 2"),
            "{text}"
        );
        assert!(text.contains("pleo_proxy_accounts{state=\"connected\"} 2"), "{text}");
        assert!(text.contains("pleo_proxy_held_requests_total 1"), "{text}");
        assert!(text.contains("pleo_proxy_task_restarts_total{task=\"scheduler\"} 3"), "{text}");
        assert!(text.contains("pleo_proxy_dropped_log_lines_total 0"), "{text}");
        let mut text = String::new();
        metrics
            .write(&mut text, ["connected"].into_iter(), [("scheduler", 3)].into_iter())
            .unwrap();
        assert!(!text.contains("unsaved"), "{text}");
    }
}
