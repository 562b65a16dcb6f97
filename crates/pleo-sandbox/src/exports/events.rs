//! Events that an integration reports about a job.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use super::{current, end, find_job};
use crate::call::Call;
use crate::dataset::{Dataset, now};
use crate::fields::{Field, Kind, optional, required};
use crate::response::Problem;

/// Each event, the statuses in which it may come, the status that it leads to.
const EVENTS: [(&str, &[&str], &str); 4] = [
    ("started", &["pending"], "in_progress"),
    ("failed", &["pending", "in_progress"], "failed"),
    ("completed", &["in_progress"], "completed"),
    ("completed_with_errors", &["in_progress"], "completed_with_errors"),
];
const FAILURES: &[&str] = &[
    "invalid_configuration",
    "missing_configuration",
    "authentication_failure",
    "accounting_system_authentication_failure",
    "pleo_rate_limit",
    "accounting_system_rate_limit",
    "service_unreachable",
    "accounting_system_unreachable",
    "validation_failure",
    "authorization_failure",
    "integration_unusable",
    "job_expired",
    "service_timeout",
    "accounting_system_timeout",
    "canceled_by_user",
];
const SHAPE: [Field; 4] = [
    required("jobId", Kind::Id),
    required("event", Kind::Word(&["started", "failed", "completed", "completed_with_errors"])),
    optional("failureReason", Kind::Text),
    optional("failureReasonType", Kind::Word(FAILURES)),
];

pub(crate) fn create(call: &Call<'_>) -> Result<Response, Problem> {
    let event = call.read(&SHAPE)?;
    let id = event["jobId"].as_str().unwrap_or_default();
    let mut dataset = current(call);
    let status = find_job(call, &dataset, id)?.text("status").to_owned();
    let known = EVENTS
        .iter()
        .find(|(name, from, _)| event["event"] == *name && from.contains(&status.as_str()));
    let Some((_, _, status)) = known else {
        let kind = "INVALID_EXPORT_JOB_STATUS_CHANGE";
        let message = "the status of the export job does not allow this event";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, kind, message));
    };
    if *status == "in_progress" {
        start(&mut dataset, id)
    } else {
        finish(&mut dataset, id, status, &event)
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

fn start(dataset: &mut Dataset, id: &str) {
    let Dataset { jobs, items, entries, .. } = dataset;
    let mine = items.0.iter().filter(|item| item.has("exportJobId", id));
    for item in mine.filter(|item| item.has("status", "pending")) {
        let entry = entries.0.iter_mut().find(|entry| item.has("accountingEntryId", &entry.id));
        if let Some(entry) = entry {
            entry.body["exportStatus"] = json!("EXPORTING");
        }
    }
    if let Some(job) = jobs.0.iter_mut().find(|job| job.id == id) {
        job.body["status"] = json!("in_progress");
        job.body["startedAt"] = json!(now());
        job.body["lastUpdatedAt"] = json!(now());
    }
}

fn finish(dataset: &mut Dataset, id: &str, status: &str, event: &Map<String, Value>) {
    end(dataset, id, status);
    let Some(job) = dataset.jobs.0.iter_mut().find(|job| job.id == id) else { return };
    if status != "failed" {
        job.body["completedAt"] = json!(now());
    }
    for name in ["failureReason", "failureReasonType"] {
        if let Some(value) = event.get(name) {
            job.body[name] = value.clone();
        }
    }
}
