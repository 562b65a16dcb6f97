//! `GET /metrics`: what is counted, and what can be said of this moment.

use std::fmt;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::refusal::refusal;
use super::state::{Admin, Shared};
use crate::accounts::rate;
use crate::platform;
use crate::telemetry;

/// The form of the text (OpenMetrics 1.0).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Accounts that are told apart.
const MAX_ACCOUNTS: usize = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAccount {
    account: String,
}

/// `GET /metrics`.
pub(super) async fn metrics(State(admin): Shared) -> Response {
    admin.log.absorb();
    match text(&admin) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(fmt::Error) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The metrics cannot be written.")
        }
    }
}

fn text(admin: &Admin) -> Result<String, fmt::Error> {
    let accounts = admin.operator.accounts();
    let all = accounts.all();
    let states = all.iter().map(|account| account.snapshot().health.as_str());
    let tasks = accounts.supervisor().tasks();
    let restarts = tasks.iter().map(|task| (task.name, task.restarts));
    let mut text = String::new();
    accounts.metrics().write(&mut text, states, restarts)?;
    encode_registry(&mut text, admin.log.registry())?;
    encode_registry(&mut text, &of_this_moment(admin))?;
    encode_registry(&mut text, &of_the_store(admin))?;
    encode_registry(&mut text, &of_the_process())?;
    encode_eof(&mut text)?;
    Ok(text)
}

/// Of the first accounts by name: how long the tokens live, and how near the rate limit they are.
fn of_this_moment(admin: &Admin) -> Registry {
    let mut registry = Registry::with_prefix(telemetry::PREFIX);
    let (left, age, sent) = (
        Family::<OfAccount, Gauge>::default(),
        Family::<OfAccount, Gauge>::default(),
        Family::<OfAccount, Gauge>::default(),
    );
    let gauge = |seconds: Option<u64>| seconds.and_then(|seconds| i64::try_from(seconds).ok());
    for account in admin.operator.accounts().all().iter().take(MAX_ACCOUNTS) {
        let status = crate::accounts::Status::of(account);
        let label = OfAccount { account: account.name.to_string() };
        for (family, value) in [
            (&left, gauge(status.access_expires_in)),
            (&age, gauge(status.refresh_token_age)),
            (&sent, Some(i64::from(account.rate.last_minute(account.now().boot)))),
        ] {
            if let Some(value) = value {
                family.get_or_create(&label).set(value);
            }
        }
    }
    let seconds = Unit::Seconds;
    let help = "Life that the access token has left, of the first 100 accounts";
    registry.register_with_unit("token_expires_in", help, seconds.clone(), left);
    let help = "Age of the refresh token, which Pleo keeps for 60 days; of the first 100 accounts";
    registry.register_with_unit("refresh_token_age", help, seconds, age);
    let help = "Requests that went to Pleo within the last minute, of the first 100 accounts";
    registry.register("rate_last_minute", help, sent);
    let help = "Requests a minute that Pleo allows";
    registry.register("rate_limit", help, ConstGauge::new(i64::from(rate::LIMIT)));
    let help = "Exchanges that the request log could not take in time";
    registry.register("dropped_exchanges", help, ConstCounter::new(admin.log.dropped()));
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "The release that runs", version);
    registry
}

fn of_the_store(admin: &Admin) -> Registry {
    let mut registry = Registry::with_prefix(format!("{}_store", telemetry::PREFIX));
    admin.operator.accounts().store().register(&mut registry);
    registry
}

fn of_the_process() -> Registry {
    let mut registry = Registry::with_prefix("process");
    let Some(figures) = platform::figures() else { return registry };
    let help = "Processor time that was used";
    let cpu = ConstCounter::new(figures.cpu_seconds);
    registry.register_with_unit("cpu", help, Unit::Seconds, cpu);
    let memory = ConstGauge::new(figures.resident_bytes);
    registry.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, memory);
    let start = ConstGauge::new(figures.start_seconds);
    registry.register_with_unit("start_time", "Start, in UNIX time", Unit::Seconds, start);
    registry.register("open_fds", "Open files and sockets", ConstGauge::new(figures.open_files));
    registry.register("max_fds", "Most of them", ConstGauge::new(figures.max_files));
    registry
}
