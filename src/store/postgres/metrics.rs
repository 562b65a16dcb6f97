//! What is counted of the way to the database. The labels are outcomes, and no account is named.

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::trouble::Trouble;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Done {
    outcome: &'static str,
}

/// Counts by outcome, which are there from the start: a rate needs the zero before the first one.
#[derive(Clone, Debug)]
struct Outcomes(Family<Done, Counter>);

impl Outcomes {
    fn of(outcomes: &[&'static str]) -> Self {
        let family = Family::default();
        for outcome in outcomes {
            drop(family.get_or_create(&Done { outcome }));
        }
        Self(family)
    }

    fn count(&self, outcome: &'static str) {
        self.0.get_or_create(&Done { outcome }).inc();
    }
}

/// What is counted of a database.
#[derive(Debug)]
pub(super) struct Metrics {
    connects: Outcomes,
    statements: Outcomes,
    polls: Outcomes,
    lost_writes: Counter,
    /// When changes were read last.
    polled: Mutex<Option<Instant>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connects: Outcomes::of(&["done", "failed"]),
            statements: Outcomes::of(&["done", "unreachable", "refused"]),
            polls: Outcomes::of(&["done", "failed"]),
            lost_writes: Counter::default(),
            polled: Mutex::default(),
        }
    }
}

impl Metrics {
    /// An attempt to connect has ended.
    pub(super) fn connected<T>(&self, attempt: &Result<T, Trouble>) {
        self.connects.count(if attempt.is_ok() { "done" } else { "failed" });
    }

    /// A statement has ended, sent again or not.
    pub(super) fn statement<T>(&self, done: &Result<T, Trouble>) {
        self.statements.count(match done {
            Ok(_) => "done",
            Err(Trouble::Unreachable(_) | Trouble::Distrusted(_)) => "unreachable",
            Err(Trouble::Refused { .. }) => "refused",
        });
    }

    /// The changes of other replicas were read, or could not be.
    pub(super) fn polled(&self, is_done: bool) {
        self.polls.count(if is_done { "done" } else { "failed" });
        if is_done {
            *self.polled.lock() = Some(Instant::now());
        }
    }

    /// A write found that another replica had written before it.
    pub(super) fn lost_write(&self) {
        self.lost_writes.inc();
    }

    /// Adds them to a registry of stores.
    pub(super) fn register(&self, registry: &mut Registry, is_connected: bool) {
        let help = "Whether the connection to the database is open";
        registry.register("connected", help, ConstGauge::new(i64::from(is_connected)));
        let help = "Attempts to connect to the database";
        registry.register("connects", help, self.connects.0.clone());
        let help = "Statements to the database";
        registry.register("statements", help, self.statements.0.clone());
        let help = "Polls for what other replicas have changed";
        registry.register("polls", help, self.polls.0.clone());
        let age = self.polled.lock().map(|at| at.elapsed().as_secs_f64());
        if let Some(age) = age {
            let help = "Time since the last poll that was done; up to 30 s while nothing is in use";
            registry.register_with_unit("poll_age", help, Unit::Seconds, ConstGauge::new(age));
        }
        let help = "Writes that were not done because another replica had written the account since it was read";
        registry.register("lost_writes", help, self.lost_writes.clone());
    }
}
