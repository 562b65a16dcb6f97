//! Logs: to stderr, one line an event, escaped by the subscriber, no secret ever passed to it.

use std::io::{IsTerminal as _, stderr};

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Libraries that would write headers or bodies at their finer levels, capped whatever the user asks for.
const CAPPED: [&str; 6] = ["hyper", "hyper_util", "reqwest", "rustls", "h2", "tower"];

/// Starts logging for the process; a second call changes nothing.
pub fn init(level: Level) {
    let cap = LevelFilter::from_level(level).min(LevelFilter::INFO);
    let targets =
        CAPPED.iter().fold(Targets::new().with_default(level), |targets, library| targets.with_target(*library, cap));
    let color = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(color).with_target(false);
    // A test process may have one already.
    let _ = tracing_subscriber::registry().with(lines).with(targets).try_init();
}
